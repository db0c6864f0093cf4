"""Products: the two matrix products of attention, accumulated in float32 or wider, and the axes that they want.

The gradients of keys and values sum over queries. XLA on CPU computes such a product four times faster with the long
axis last, ``[H, S]``, than as ``[S, H]``, and would fold a transposition of the small result into the slow product; the
barrier in the derivative keeps it from that. Small products go without: compiling such a gradient of two or three rows,
or keys, ends the process on jaxlib 0.10.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from jattn.rules.ranks import any_rank

SMALL = 48
"""Rows or keys, below which the order of a product's axes is left to XLA."""


@functools.partial(jax.custom_jvp, nondiff_argnums=(2,))
def dot(query: Float[Array, "... R H"], key: Float[Array, "... S H"], precision: Any = None) -> Float[Array, "... R S"]:
    """Multiplies each query with each key, ``q kᵀ``, accumulating in float32 or wider.

    Where there are fewer key heads than query heads, each serves as many neighbouring query heads, and is not copied.
    """
    accumulator = jnp.promote_types(jnp.result_type(query, key), jnp.float32)
    products = jnp.einsum(
        "...rh,...sh->...rs", _by_group(query, key), key, precision=precision, preferred_element_type=accumulator
    )
    return _by_head(products, query)


@dot.defjvp
@any_rank
def _dot_jvp(precision: Any, primals: Any, tangents: Any) -> tuple[Array, Array]:
    query, key = primals
    tangent = dot(tangents[0], key, precision) + dot(query, long_axis_last(tangents[1], query), precision)
    return dot(query, key, precision), tangent


@functools.partial(jax.custom_jvp, nondiff_argnums=(2,))
def average(
    weights: Float[Array, "... R S"], value: Float[Array, "... S V"], precision: Any = None
) -> Float[Array, "... R V"]:
    """Adds up values by their weights, ``w v``: multiplies in the dtype of the values, sums in that of the weights."""
    out = jnp.einsum(
        "...rs,...sv->...rv",
        _by_group(weights.astype(value.dtype), value),
        value,
        precision=precision,
        preferred_element_type=weights.dtype,
    )
    return _by_head(out, weights)


@average.defjvp
@any_rank
def _average_jvp(precision: Any, primals: Any, tangents: Any) -> tuple[Array, Array]:
    weights, value = primals
    tangent = average(tangents[0], value, precision) + average(weights, long_axis_last(tangents[1], weights), precision)
    return average(weights, value, precision), tangent


def _by_group(x: Float[Array, "... N R X"], of_keys: Float[Array, "... K S H"]) -> Float[Array, "... K GR X"]:
    """Puts the rows of all query heads that share a key head one after the other."""
    if x.ndim < 3 or x.shape[-3] == of_keys.shape[-3]:
        return x
    num_kv_heads, (num_heads, num_rows, size) = of_keys.shape[-3], x.shape[-3:]
    # In two steps, for a sharded axis of heads can be split, and the rest joined, but not both at once.
    x = x.reshape(*x.shape[:-3], num_kv_heads, num_heads // num_kv_heads, num_rows, size)
    return x.reshape(*x.shape[:-3], x.shape[-3] * num_rows, size)


def _by_head(x: Float[Array, "... K GR X"], of_queries: Float[Array, "... N R H"]) -> Float[Array, "... N R X"]:
    """Takes apart what `_by_group` put together."""
    if x.ndim < 3 or x.shape[-3] == of_queries.shape[-3]:
        return x
    num_kv_heads, (num_heads, num_rows), size = x.shape[-3], of_queries.shape[-3:-1], x.shape[-1]
    x = x.reshape(*x.shape[:-2], num_heads // num_kv_heads, num_rows, size)
    return x.reshape(*x.shape[:-4], num_heads, num_rows, size)


def long_axis_last(tangent: Float[Array, "... S H"], rows: Float[Array, "... R X"]) -> Float[Array, "... S H"]:
    """Returns the tangent; transposed, it makes a gradient that sums over rows be computed as ``[H, S]`` first."""
    if any(isinstance(size, int) and size < SMALL for size in (rows.shape[-2], tangent.shape[-2])):
        return tangent
    return jnp.swapaxes(lax.optimization_barrier(jnp.swapaxes(tangent, -1, -2)), -1, -2)


def swap_heads(x: Float[Array, "... T N H"]) -> Float[Array, "... N T H"]:
    """Exchanges the axes of tokens and heads, in either direction."""
    # With one more axis: without it, XLA of jax 0.12 on CPU copies each of several gradients twice.
    order = (*range(x.ndim - 2), x.ndim - 1, x.ndim - 2, x.ndim)
    return lax.squeeze(lax.transpose(lax.expand_dims(x, (0,)), order), (0,))
