"""Narrowing: when a block runs, only as many of its keys are computed as its mask needs.

Shapes are fixed when a call is compiled, so a few widths are compiled, and the block takes the least one that holds all
keys which some row of it may attend to. A block in which every row may attend to every key is computed without a mask.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, Protocol, TypeVar

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Int

from jattn.rules.grids import Grid

Arrays = TypeVar("Arrays")
Out = TypeVar("Out")
Program = TypeVar("Program")
Side = dict[str, Array]


class ByData(Protocol[Program]):
    """What a program says about a block of one head, when it runs."""

    def span(self, program: Program, grid: Grid) -> tuple[Int[Array, ""], Int[Array, ""]]:
        """Returns the first key that the rows of a block depend on, and the one after the last."""
        ...

    def free(self, program: Program, grid: Grid, query_side: Side, key_side: Side) -> Bool[Array, ""] | None:
        """Says whether `without_mask` gives the same rows, if that may be known."""
        ...

    def without_mask(self, program: Program, query_side: Side, key_side: Side) -> tuple[Program, Side, Side]:
        """Returns a program and parts that take less work."""
        ...


def narrow(
    run: Callable[[Grid, Arrays, bool], Out],
    cut: Callable[[Arrays, Int[Array, ""], int], Arrays],
    widths: tuple[int, ...],
    grid: Grid,
    arrays: Arrays,
    begin: Int[Array, ""],
    end: Int[Array, ""],
    free: Bool[Array, ""] | None,
) -> Out:
    """Runs a block of one head on the least width that holds the keys from `begin` to the one before `end`.

    Args:
      run: takes the grid of a block, its arrays, and whether the block is free; what it returns must not depend on keys
        outside of the range.
      cut: takes the arrays, the first key to keep, counted from that of the grid, and the number of keys to keep.
      widths: how many keys may be computed, in ascending order; one of them is enough for the range.
      grid: of the block with all its keys.
      arrays: of that block.
      begin, end: indices of keys of the whole filter.
      free: whether all rows may attend to all keys of the grid, where that may be known.
    """
    first, last = jnp.int32(grid.first_key), jnp.int32(grid.first_key + grid.width)
    begin, end, all_free = _of_all(
        jnp.clip(begin, first, last), jnp.clip(end, first, last), jnp.asarray(False if free is None else free)
    )

    def of_width(width: int) -> Callable[[Arrays], Out]:
        def branch(arrays: Arrays) -> Out:
            start = jnp.minimum(begin, last - width)
            here = dataclasses.replace(grid, first_key=start, num_keys=width)
            return run(here, cut(arrays, start - first, width), False)

        return branch

    index, branches = jnp.sum(jnp.array(widths[:-1], jnp.int32) < end - begin), [of_width(width) for width in widths]
    if free is not None:
        index = jnp.where(all_free, len(widths), index)
        branches.append(lambda arrays: run(grid, arrays, True))
    # Under checkpoint a branch keeps its inputs alone, which all of them share, for the backward pass.
    return lax.switch(index, [jax.checkpoint(branch, prevent_cse=False) for branch in branches], arrays)


@jax.custom_batching.custom_vmap
def _of_all(begin: Array, end: Array, free: Array) -> tuple[Array, Array, Array]:
    """Returns what a block needs; in a batch what all of its entries do, as a batch takes one branch only."""
    return begin, end, free


@_of_all.def_vmap
def _of_all_in_batch(size: int, batched: Any, begin: Array, end: Array, free: Array) -> Any:
    return _of_all(jnp.min(begin), jnp.max(end), jnp.all(free)), (False, False, False)
