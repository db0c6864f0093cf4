"""Averages of values by the softmax of scores, divided after the product, with derivatives of their own."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from jattn.rules.products import average, long_axis_last
from jattn.rules.ranks import any_rank


@functools.partial(jax.custom_jvp, nondiff_argnums=(3, 4))
def average_by_softmax(
    scores: Float[Array, "... R W"],
    value: Float[Array, "... W V"],
    sink: Float[Array, "... R 1"] | None,
    precision: Any,
    marked: bool = False,
) -> tuple[Float[Array, "... R V"], Float[Array, "... R"]]:
    """Averages values by the softmax of the scores, dividing after the product; also returns the log-normalizer.

    Through a row with NaN among marked scores, whose output is NaN, no gradient flows.
    """
    return _average_by_exponentials(*exponentials_of(scores, sink), value, precision)


def exponentials_of(scores: Array, sink: Array | None) -> tuple[Array, Array, Array]:
    """Returns each row's largest score, ``exp(s - largest)``, and their sum, that of the sink among them."""
    # The smallest number in place of minus infinity, and no sink at all: passes over the block cost time.
    largest = jnp.max(scores, axis=-1, keepdims=True, initial=jnp.finfo(scores.dtype).min)
    largest = largest if sink is None else jnp.maximum(largest, sink)
    exponentials = jnp.exp(scores - largest)
    total = jnp.sum(exponentials, axis=-1, keepdims=True)
    return largest, exponentials, total if sink is None else total + jnp.exp(sink - largest)


def divisor_of(total: Array) -> Array:
    """Returns a sum of exponentials, the largest of which is 1, so that a row without keys is not divided by zero."""
    # Not a select: XLA on CPU makes one kernel of softmax and product, where nothing but arithmetic is between them.
    return jnp.maximum(total, jnp.finfo(total.dtype).tiny)


def _average_by_exponentials(
    largest: Array, exponentials: Array, total: Array, value: Array, precision: Any
) -> tuple[Array, Array]:
    out = average(exponentials, value, precision) / divisor_of(total)
    return out, (largest + jnp.log(total))[..., 0]


@average_by_softmax.defjvp
@any_rank
def _average_by_softmax_jvp(precision: Any, marked: bool, primals: Any, tangents: Any) -> Any:
    scores, value, sink = primals
    out, log_normalizer = average_by_softmax(scores, value, sink, precision, marked)
    weights, of_sink = _softmax_weights(scores, sink, marked)
    change = _change_of_log_normalizer(weights, of_sink, tangents[0], tangents[2])

    def fine(rows: Array) -> Array:
        return jnp.where(jnp.isnan(lax.stop_gradient(log_normalizer))[..., None], 0, rows) if marked else rows

    change = fine(change)
    tangent = average(weights * (tangents[0] - change), value, precision)
    tangent = tangent + average(weights, long_axis_last(tangents[1], weights), precision)
    return (out, log_normalizer), (fine(tangent), change[..., 0])


@functools.partial(jax.custom_jvp, nondiff_argnums=(2,))
def _softmax_weights(
    scores: Float[Array, "... R W"], sink: Float[Array, "... R 1"] | None, marked: bool
) -> tuple[Float[Array, "... R W"], Float[Array, "... R 1"] | None]:
    """Returns the weights of the keys and of the sink; of a row with NaN among marked scores, zeros.

    Its derivative is made of the weights, so that no derivative of any order meets the NaN.
    """
    largest, exponentials, total = exponentials_of(scores, sink)
    divisor = divisor_of(total)
    weights = exponentials / divisor
    of_sink = None if sink is None else jnp.exp(sink - largest) / divisor
    if marked:
        weights = jnp.where(jnp.isnan(total), 0, weights)
        of_sink = None if of_sink is None else jnp.where(jnp.isnan(total), 0, of_sink)
    return weights, of_sink


@_softmax_weights.defjvp
@any_rank
def _softmax_weights_jvp(marked: bool, primals: Any, tangents: Any) -> Any:
    weights, of_sink = _softmax_weights(*primals, marked)
    change = _change_of_log_normalizer(weights, of_sink, *tangents)
    tangent_of_sink = None if of_sink is None else of_sink * (tangents[1] - change)
    return (weights, of_sink), (weights * (tangents[0] - change), tangent_of_sink)


def _change_of_log_normalizer(weights: Array, of_sink: Array | None, of_scores: Array, sink: Array | None) -> Array:
    """Returns how much the log-normalizer of each row changes with changes of its scores and of its sink."""
    change = jnp.sum(weights * of_scores, axis=-1, keepdims=True)
    return change if of_sink is None or sink is None else change + of_sink * sink
