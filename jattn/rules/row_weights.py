"""What normalizers compute of a row: softmax, sparsemax and entmax with derivatives that keep nothing but the weights.

Forbidden keys have the score minus infinity, and get weight 0.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float

from jattn.rules.meshes import varying_as
from jattn.rules.ranks import any_rank


def _below_largest(scores: Float[Array, "... S"]) -> Float[Array, "... S"]:
    # Beginning with the smallest number, a row of minus infinity stays one without a pass that looks for it.
    return scores - jnp.max(scores, axis=-1, keepdims=True, initial=jnp.finfo(scores.dtype).min)


def _sum(row: Float[Array, "... S"], where: Bool[Array, "... S"] | None = None) -> Float[Array, "... 1"]:
    return jnp.sum(row if where is None else jnp.where(where, row, 0), axis=-1, keepdims=True)


def _nonzero(total: Float[Array, "... 1"]) -> Float[Array, "... 1"]:
    return jnp.where(total == 0, 1, total)


@jax.custom_jvp
def softmax(scores: Float[Array, "... S"]) -> Float[Array, "... S"]:
    exponentials = jnp.exp(_below_largest(scores))
    return exponentials / _nonzero(_sum(exponentials))


@softmax.defjvp
@any_rank
def _softmax_jvp(primals: tuple[Array], tangents: tuple[Array]) -> tuple[Array, Array]:
    weights = softmax(*primals)
    return weights, weights * (tangents[0] - _sum(weights * tangents[0]))


@jax.custom_jvp
def softmax_and_sink(
    scores: Float[Array, "... S"], sink: Float[Array, "... 1"]
) -> tuple[Float[Array, "... S"], Float[Array, "... 1"]]:
    """Computes the softmax of the scores and one more, without an array that holds both."""
    largest = jnp.maximum(jnp.max(scores, axis=-1, keepdims=True, initial=-jnp.inf), sink)
    largest = jnp.where(largest == -jnp.inf, 0, largest)
    exponentials, of_sink = jnp.exp(scores - largest), jnp.exp(sink - largest)
    total = _nonzero(_sum(exponentials) + of_sink)
    return exponentials / total, of_sink / total


@softmax_and_sink.defjvp
@any_rank
def _softmax_and_sink_jvp(primals: tuple[Array, Array], tangents: tuple[Array, Array]) -> tuple[Any, Any]:
    weights, of_sink = softmax_and_sink(*primals)
    mean_change = _sum(weights * tangents[0]) + of_sink * tangents[1]
    return (weights, of_sink), (weights * (tangents[0] - mean_change), of_sink * (tangents[1] - mean_change))


def _descend(step: Callable[[Array], Array], start: Float[Array, "... 1"]) -> Float[Array, "... 1"]:
    """Repeats Newton steps until none leads further down.

    The threshold of a row is the root of a convex function, so the steps come down to it from one side and never pass
    it. The product of the function and its slope falls to a quarter with each, or faster: some ten steps do, and
    no row is ever sorted.
    """

    def go(state: tuple[Array, Array]) -> tuple[Array, Array]:
        depth, _ = state
        deeper = jnp.minimum(depth, step(depth))
        return deeper, jnp.any(deeper < depth)

    return lax.while_loop(lambda state: state[1], go, (start, varying_as(jnp.bool_(True), start)))[0]


@jax.custom_jvp
def sparsemax(scores: Float[Array, "... S"]) -> Float[Array, "... S"]:
    # The threshold is -depth: in terms of its distance from the largest score nothing cancels.
    below = _below_largest(scores)

    def step(depth: Array) -> Array:
        support = below > -depth
        count = _sum(support.astype(below.dtype))
        return jnp.where(count == 0, depth, (1 - _sum(below, support)) / _nonzero(count))

    depth = _descend(step, jnp.ones_like(below, shape=(*below.shape[:-1], 1)))
    return jnp.maximum(below + depth, 0)


@sparsemax.defjvp
@any_rank
def _sparsemax_jvp(primals: tuple[Array], tangents: tuple[Array]) -> tuple[Array, Array]:
    weights = sparsemax(*primals)
    support = weights > 0
    mean_change = _sum(tangents[0], support) / _nonzero(_sum(support.astype(weights.dtype)))
    return weights, jnp.where(support, tangents[0] - mean_change, 0)


@jax.custom_jvp
def entmax15_root(scores: Float[Array, "... S"]) -> Float[Array, "... S"]:
    """Computes the square roots of the weights; unlike the weights they have a derivative that is linear in them."""
    below = _below_largest(scores) / 2

    def step(depth: Array) -> Array:
        support = below > -depth
        slope = 2 * _sum(below + depth, support)
        return jnp.where(slope == 0, depth, (1 + _sum((depth - below) * (depth + below), support)) / _nonzero(slope))

    depth = _descend(step, jnp.ones_like(below, shape=(*below.shape[:-1], 1)))
    return jnp.maximum(below + depth, 0)


@entmax15_root.defjvp
@any_rank
def _entmax15_root_jvp(primals: tuple[Array], tangents: tuple[Array]) -> tuple[Array, Array]:
    roots = entmax15_root(*primals)
    mean_change = _sum(roots * tangents[0]) / _nonzero(_sum(roots))
    return roots, jnp.where(roots > 0, tangents[0] - mean_change, 0) / 2


def among_largest(scores: Float[Array, "... S"], k: int) -> Bool[Array, "... S"]:
    """Says which scores are among the ``k`` largest; of equal ones the first are."""
    scores = lax.stop_gradient(jnp.where(scores == 0, 0, scores))  # for top_k, -0 is less than 0
    largest, indices = lax.top_k(scores, k)
    smallest = largest[..., -1:]
    last = jnp.max(jnp.where(largest == smallest, indices, -1), axis=-1, keepdims=True)
    left_out = (scores < smallest) | ((scores == smallest) & (jnp.arange(scores.shape[-1]) > last))
    return ~left_out  # what is NaN stays in, to be seen
