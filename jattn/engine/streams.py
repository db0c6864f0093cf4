"""Streams: going through the heads of a filter one at a time, or through some of its batch entries at a time."""

import math
from collections.abc import Callable
from typing import TypeVar

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Int

Arrays = TypeVar("Arrays")
"""A pytree of arrays."""
Out = TypeVar("Out")
"""A pytree of arrays."""


def cut_stream(sides: Arrays, leading: tuple[int, ...], stream: Int[Array, ""]) -> Arrays:
    """Cuts one head of one batch entry out of arrays whose first axes are those of a filter, or 1, or key heads."""

    def cut(x: Array) -> Array:
        stride = math.prod(leading)
        for size in leading:
            stride //= size
            index = (stream // stride) % size // (size // x.shape[0])
            x = lax.dynamic_index_in_dim(x, index, axis=0, keepdims=False)
        return x

    return jax.tree.map(cut, sides)


def walk_heads(
    function: Callable[[Arrays, Int[Array, ""]], Out], sides: Arrays, sizes: tuple[int, ...], stream: Int[Array, ""]
) -> Out:
    """Goes through the first axis, of the given size or 1, of every array, and so on through the other axes."""
    if not sizes:
        return function(sides, stream)
    size, rest = sizes[0], sizes[1:]
    arrays, structure = jax.tree.flatten(sides)
    if size == 1:
        return walk_heads(function, jax.tree.unflatten(structure, [x[0] for x in arrays]), rest, stream)

    def one(index_and_arrays: tuple[Array, list[Array]]) -> Out:
        index, mapped = index_and_arrays[0], iter(index_and_arrays[1])
        here = [x[0] if x.shape[0] == 1 else next(mapped) for x in arrays]
        return walk_heads(function, jax.tree.unflatten(structure, here), rest, stream * size + index)

    return lax.map(one, (jnp.arange(size, dtype=jnp.int32), [x for x in arrays if x.shape[0] != 1]))


def walk_entries(
    function: Callable[[Arrays, Int[Array, ""]], Out], sides: Arrays, num_entries: int, at_once: int
) -> Out:
    """Goes through the batch entries, the first axis of every array, of full size or 1, so many of them at a time.

    The backward pass computes again what it needs of them.

    Args:
      function: takes the parts of some neighbouring entries and the index of the first; returns arrays with an axis of
        these entries.
      sides: the arrays.
      num_entries: how many entries there are, more than one.
      at_once: divides it.
    """
    arrays, structure = jax.tree.flatten(sides)
    parts = [x.reshape(num_entries // at_once, at_once, *x.shape[1:]) for x in arrays if x.shape[0] != 1]

    def some(first_and_parts: tuple[Array, list[Array]]) -> Out:
        mapped = iter(first_and_parts[1])
        here = [x if x.shape[0] == 1 else next(mapped) for x in arrays]
        return function(jax.tree.unflatten(structure, here), first_and_parts[0])

    firsts = jnp.arange(0, num_entries, at_once, dtype=jnp.int32)
    out = lax.map(jax.checkpoint(some, prevent_cse=False), (firsts, parts))
    return jax.tree.map(lambda x: x.reshape(num_entries, *x.shape[2:]), out)
