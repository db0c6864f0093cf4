"""Narrowing: when a block runs, only as many of its keys are computed as the data of its mask needs.

Shapes are fixed when a call is compiled, so a few widths are compiled, and the block takes the least one that holds all
keys which some row of it may attend to.
"""

import dataclasses
import math
from collections.abc import Callable
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Int

from jattn.engine.plans import EVEN_KEYS
from jattn.rules.grids import Grid

Arrays = TypeVar("Arrays")
Out = TypeVar("Out")

SHARES = tuple(eighths / 8 for eighths in range(1, 8))
"""The widths that are compiled, besides all keys, as parts of them."""
FEWEST_KEYS = 128
"""No width has fewer keys; products with fewer are slow."""


def narrow(
    run: Callable[[Grid, Arrays], Out],
    cut: Callable[[Arrays, Int[Array, ""], int], Arrays],
    grid: Grid,
    arrays: Arrays,
    begin: Int[Array, ""],
    end: Int[Array, ""],
) -> Out:
    """Runs a block of one head on the least width that holds the keys from `begin` to the one before `end`.

    Args:
      run: takes the grid of a block and its arrays; what it returns must not depend on keys outside of the range.
      cut: takes the arrays, the first key to keep, counted from that of the grid, and the number of keys to keep.
      grid: of the block with all its keys.
      arrays: of that block.
      begin, end: indices of keys of the whole filter.
    """
    widths = widths_of(grid.width)
    first, last = jnp.int32(grid.first_key), jnp.int32(grid.first_key + grid.width)
    begin, end = _of_all(jnp.clip(begin, first, last), jnp.clip(end, first, last))

    def of_width(width: int) -> Callable[[Arrays], Out]:
        def branch(arrays: Arrays) -> Out:
            start = jnp.minimum(begin, last - width)
            here = dataclasses.replace(grid, first_key=start, num_keys=width)
            return run(here, cut(arrays, start - first, width))

        # Under checkpoint a branch keeps its inputs alone, which all of them share, for the backward pass.
        return jax.checkpoint(branch, prevent_cse=False)

    index = jnp.sum(jnp.array(widths[:-1], jnp.int32) < end - begin)
    return lax.switch(index, [of_width(width) for width in widths], arrays)


def widths_of(num_keys: int) -> tuple[int, ...]:
    """Lists the widths that are compiled for a block of so many keys, in ascending order."""
    widths = {math.ceil(share * num_keys / EVEN_KEYS) * EVEN_KEYS for share in SHARES}
    return (*sorted(width for width in widths if FEWEST_KEYS <= width < num_keys), num_keys)


@jax.custom_batching.custom_vmap
def _of_all(begin: Int[Array, ""], end: Int[Array, ""]) -> tuple[Int[Array, ""], Int[Array, ""]]:
    """Returns a range of keys; in a batch one that holds those of all entries, as a batch takes one branch only."""
    return begin, end


@_of_all.def_vmap
def _of_all_in_batch(size: int, batched: Any, begin: Array, end: Array) -> Any:
    return _of_all(jnp.min(begin), jnp.max(end)), (False, False)
