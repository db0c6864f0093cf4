"""The walk: maps and folds a function over the blocks of a filter, head by head and strip by strip.

What belongs to a head or to a block of rows is cut out before the loop over them, not looked up inside: so the backward
pass puts gradients together block by block, and never adds up whole arrays.
"""

import dataclasses
import math
from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

import chex
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, Int

from jattn.engine.narrowing import ByData, narrow
from jattn.engine.plans import Plan, Strip
from jattn.engine.streams import cut_stream, walk_heads
from jattn.rules.grids import Grid, Place, whole_grid
from jattn.rules.meshes import varying_axes
from jattn.rules.overlay import Overlay

Program = TypeVar("Program")
Rows = TypeVar("Rows")
"""A pytree of arrays with a row axis."""
Parts = TypeVar("Parts")
"""A pytree of what a block returns besides its rows."""

Side = dict[str, Array]
"""What belongs to the queries, arrays ``[*batch, N, T, ...]`` by name, or to the keys, ``[*batch, K, S, ...]``."""

Prepare = Callable[[Side, Side], tuple[Side, Side]]
"""Takes the queries of a strip and all keys; returns them changed."""


class Sides(NamedTuple):
    """All that is cut to a block: what belongs to the queries, to the keys, and the arrays laid over the filter.

    An array that is laid has the axes ``[*batch, N, T, S]``, each of full size, or of size 1 where it is the same all
    along (see `Overlay`).
    """

    query: Side
    key: Side
    laid: list[Array]


@dataclasses.dataclass(frozen=True)
class Reduction:
    """Says how what blocks return besides their rows becomes one total.

    Args:
      combine: takes the total so far and the parts of one block, returns the new total, of the same shapes.
      initial: the total before the first block: a pytree whose numbers stand for whole parts.
    """

    combine: Callable[[Any, Any], Any]
    initial: Any

    def start(self, parts: Any) -> Any:
        """Makes the total before the first block; `parts` are the shapes of what a block returns.

        Raises:
          ValueError: if `initial` does not fit the parts.
        """
        try:
            jax.tree.map(lambda number, shapes: None, self.initial, parts)
        except ValueError:
            expected, got = jax.tree.structure(parts), jax.tree.structure(self.initial)
            raise ValueError(f"initial: expected a number for each result, {expected}, got {got}") from None
        return jax.tree.map(
            lambda number, shapes: jax.tree.map(lambda x: _filled_like(x, number), shapes), self.initial, parts
        )


def _filled_like(x: Any, number: Any) -> Array:
    """Fills an array of the shape, dtype and sharding of `x`, which has no values yet."""
    filled = jnp.full(x.shape, number, x.dtype)
    mesh = None if x.sharding is None else x.sharding.mesh
    if mesh is not None and not mesh.empty and not mesh.are_all_axes_auto:
        filled = jax.sharding.reshard(filled, x.sharding)
    varying = tuple(sorted(varying_axes(x)))
    return lax.pcast(filled, varying, to="varying") if varying else filled


def map_blocks(
    block: Callable[[Program, Grid, Side, Side], Rows],
    program: Program,
    query_side: Side,
    key_side: Side,
    shape: tuple[int, ...],
    plan: Plan,
    prepare: Prepare = lambda *sides: sides,
    place: Place | None = None,
    by_data: ByData[Program] | None = None,
) -> Rows:
    """Maps a function over the blocks of a filter.

    Args:
      block: takes the program, the grid of a block and the parts of `query_side` and `key_side` that belong to it;
        returns a pytree of arrays whose axis after the heads is the row axis.
      program: a pytree; every `Overlay` array in it is cut to the block.
      query_side: arrays ``[*batch, N, T, ...]`` by name.
      key_side: arrays ``[*batch, K, S, ...]`` by name; ``N`` is a multiple of ``K``.
      shape: ``(*batch, N, T, S)``.
      plan: which blocks there are.
      prepare: is applied to both sides of a strip, all blocks together; the backward pass keeps no result of it.
      place: where `shape` is a part of a filter, the place of the part.
      by_data: where heads are walked, what it says is not needed is not computed.

    Returns:
      The pytree that `block` would return for all rows at once: arrays ``[*batch, N, T, ...]``.
    """

    def rows_alone(program: Program, grid: Grid, query_side: Side, key_side: Side) -> tuple[Rows, tuple[()]]:
        return block(program, grid, query_side, key_side), ()

    nothing = Reduction(lambda total, parts: total, ())
    rows, _ = fold_blocks(
        rows_alone, nothing, program, query_side, key_side, shape, plan, prepare, place=place, by_data=by_data
    )
    chex.assert_tree_shape_prefix(rows, shape[:-1])
    return rows


def fold_blocks(
    block: Callable[[Program, Grid, Side, Side], tuple[Rows, Parts]],
    reduction: Reduction,
    program: Program,
    query_side: Side,
    key_side: Side,
    shape: tuple[int, ...],
    plan: Plan,
    prepare: Prepare = lambda *sides: sides,
    streams: Int[Array, " M"] | None = None,
    place: Place | None = None,
    by_data: ByData[Program] | None = None,
) -> tuple[Rows, Parts]:
    """Maps a function over the blocks of a filter, and combines some of what it returns over the blocks of each head.

    Args:
      block: as in `map_blocks`, but returns two pytrees: arrays with a row axis, and parts, arrays
        ``[*batch, N, ...]``, or without the leading axes where heads are walked. Where `plan` counts rows twice, so do
        the parts.
      reduction: how parts become a total.
      program, query_side, key_side, shape, plan, prepare, place, by_data: as in `map_blocks`.
      streams: goes through these heads only, one at a time; each is an index among all of ``batch x N``.

    Returns:
      The rows of all blocks, and the totals ``[*batch, N, ...]``; of some heads, both with one axis ``M`` for them.
    """
    leading = shape[:-2]
    laid, program_of = take_apart(program)
    sides = Sides(query_side, key_side, laid)

    def run(grid: Grid, sides: Sides, free: bool = False) -> tuple[Rows, Parts]:
        here = program_of(sides.laid), sides.query, sides.key
        program, *parts = by_data.without_mask(*here) if by_data and free else here
        return block(program, grid, *parts)

    def narrowed(grid: Grid, sides: Sides) -> tuple[Rows, Parts]:
        if by_data is None or grid.stream is None:
            return run(grid, sides)
        free = by_data.free(program_of(sides.laid), grid, sides.query, sides.key)
        return narrow(run, _keep_keys, plan.widths, grid, sides, *by_data.span(program_of(sides.laid), grid), free)

    def one_stream(sides: Sides, stream: Int[Array, ""] | None) -> tuple[Rows, Parts]:
        return _map_strips(narrowed, reduction, prepare, sides, shape, plan, stream, place)

    if streams is not None:
        return lax.map(lambda stream: one_stream(cut_stream(sides, leading, stream), stream), streams)
    if plan.whole:
        grid = whole_grid(shape) if place is None else place.grid((0,), shape[-2], shape[-1])
        rows, parts = run(grid, Sides(*prepare(query_side, key_side), sides.laid))
        return rows, reduction.combine(reduction.start(jax.tree.map(jax.typeof, parts)), parts)
    if not plan.walk_heads or math.prod(leading) == 0:
        return one_stream(sides, None)
    num_heads, num_kv_heads = leading[-1], jax.tree.leaves(key_side)[0].shape[len(leading) - 1]
    groups, axis = (num_kv_heads, num_heads // num_kv_heads), len(leading) - 1

    def by_group(x: Array) -> Array:
        heads = (1, 1) if x.shape[axis] == 1 else groups
        return x.reshape(*x.shape[:axis], *heads, *x.shape[axis + 1 :])

    grouped = Sides(
        {name: by_group(x) for name, x in query_side.items()},
        {name: jnp.expand_dims(x, axis + 1) for name, x in key_side.items()},
        [by_group(x) for x in sides.laid],
    )
    sizes = (*leading[:-1], *groups)
    out = walk_heads(one_stream, grouped, sizes, jnp.int32(0))
    walked = sum(size > 1 for size in sizes)
    return jax.tree.map(lambda x: x.reshape((*leading, *x.shape[walked:])), out)


def take_apart(program: Program) -> tuple[list[Array], Callable[[list[Array]], Program]]:
    """Returns the arrays that a program lays over the filter, and what makes the program again of their parts."""
    leaves, structure = jax.tree.flatten(program, is_leaf=_is_overlay)

    def program_of(laid: list[Array]) -> Program:
        parts = iter(laid)
        cut = [Overlay(next(parts), cut=True) if _is_overlay(leaf) else leaf for leaf in leaves]
        return jax.tree.unflatten(structure, cut)

    return [leaf.array for leaf in leaves if _is_overlay(leaf)], program_of


def _is_overlay(leaf: Any) -> bool:
    return isinstance(leaf, Overlay)


def _map_strips(
    run: Callable[[Grid, Sides], tuple[Rows, Parts]],
    reduction: Reduction,
    prepare: Prepare,
    sides: Sides,
    shape: tuple[int, ...],
    plan: Plan,
    stream: Int[Array, ""] | None,
    place: Place | None,
) -> tuple[Rows, Parts]:
    """Goes through the strips, one after the other, of one head or of all."""
    row_axis = 0 if stream is not None else len(shape) - 2
    outs: list[Rows] = []
    total: Any = None  # before the first strip

    def one(sides: Sides, total: Parts | None, strip: Strip) -> tuple[Rows, Parts]:
        sides = _cut_rows(sides, strip, row_axis)
        sides = Sides(*prepare(sides.query, sides.key), sides.laid)
        return _map_rows(run, reduction, sides, total, shape, strip, stream, place)

    for strip in plan.strips:
        if outs:
            # Each strip waits for the one before: side by side they would compete for the cores' caches and for memory.
            outs[-1], total, query = lax.optimization_barrier((outs[-1], total, sides.query))
            sides = sides._replace(query=query)
        # Under checkpoint a strip keeps no rows and keys of its own for the backward pass.
        one_strip = jax.checkpoint(lambda sides, total, strip=strip: one(sides, total, strip), prevent_cse=False)
        rows, total = one_strip(sides, total)
        outs.append(rows)
    return (outs[0] if len(outs) == 1 else jax.tree.map(lambda *x: jnp.concatenate(x, row_axis), *outs)), total


def _cut_rows(sides: Sides, strip: Strip, row_axis: int) -> Sides:
    """Cuts the rows of a strip out of what belongs to the queries, and out of what is laid over the filter."""

    def cut(x: Array, axis: int) -> Array:
        return lax.slice_in_dim(x, *strip.rows, axis=axis)

    return Sides(
        {name: cut(x, row_axis) for name, x in sides.query.items()},
        sides.key,
        [cut(x, x.ndim - 2) if _has_rows(x) else x for x in sides.laid],
    )


def _keep_keys(sides: Sides, first: Int[Array, ""], width: int) -> Sides:
    """Keeps so many keys of a block of one head."""

    def cut(x: Array, axis: int) -> Array:
        return lax.dynamic_slice_in_dim(x, first, width, axis=axis)

    key = {name: cut(x, 0) for name, x in sides.key.items()}
    return Sides(sides.query, key, [cut(x, x.ndim - 1) if _has_keys(x) else x for x in sides.laid])


def _has_rows(laid: Array) -> bool:
    """Says whether an array laid over the filter differs from row to row."""
    return laid.shape[-2] != 1


def _has_keys(laid: Array) -> bool:
    """Says whether an array laid over the filter differs from key to key."""
    return laid.shape[-1] != 1


def _map_rows(
    run: Callable[[Grid, Sides], tuple[Rows, Parts]],
    reduction: Reduction,
    sides: Sides,
    total: Parts | None,
    shape: tuple[int, ...],
    strip: Strip,
    stream: Int[Array, ""] | None,
    place: Place | None,
) -> tuple[Rows, Parts]:
    """Goes through the blocks of one strip, of one head or of all."""
    row_axis = 0 if stream is not None else len(shape) - 2
    strip_rows, together = strip.rows[1] - strip.rows[0], strip.together
    first_rows, first_keys = (jnp.array(x, jnp.int32) for x in (strip.first_rows, strip.first_keys))
    if strip.by_device is not None and place is not None:
        first_keys = jnp.array(strip.by_device, jnp.int32)[place.device]

    def cut_keys(x: Array, first_key: Array, axis: int) -> Array:
        if strip.num_keys == shape[-1]:
            return x
        if together and strip.by_device is None:
            return lax.slice_in_dim(x, strip.first_keys[0], strip.first_keys[0] + strip.num_keys, axis=axis)
        return lax.dynamic_slice_in_dim(x, first_key, strip.num_keys, axis=axis)

    # What is cut out for each block before the loop over them, and what all of them have in common.
    mapped = Sides(
        {name: _blocks(x, strip, row_axis) for name, x in sides.query.items()},
        {} if together else {name: _windows(x, strip, first_keys, row_axis) for name, x in sides.key.items()},
        [_blocks(x, strip, x.ndim - 2) for x in sides.laid if _has_rows(x)],
    )
    common = {name: cut_keys(x, first_keys[0], row_axis) for name, x in sides.key.items()} if together else {}

    def one_block(first_row: Int[Array, ""], first_key: Int[Array, ""], here: Sides) -> tuple[Rows, Parts]:
        if place is None:
            rows = first_row + jnp.arange(strip.block_size, dtype=jnp.int32)
            grid = Grid(rows, shape, True, stream, first_key, strip.num_keys, math.gcd(*strip.first_rows))
        else:
            grid = place.grid(strip.first_rows, strip.block_size, strip.num_keys, first_row, first_key, stream)
        of_block = iter(here.laid)
        laid = [next(of_block) if _has_rows(x) else x for x in sides.laid]
        laid = [cut_keys(x, first_key, x.ndim - 1) if _has_keys(x) else x for x in laid]
        return run(grid, Sides(here.query, common or here.key, laid))

    # Under checkpoint the weights of a block are computed again in the backward pass instead of being kept.
    one_block = jax.checkpoint(one_block, prevent_cse=False)
    first = (first_rows[0], first_keys[0], jax.tree.map(lambda x: x[0], mapped))
    before: Any = reduction.start(jax.eval_shape(one_block, *first)[1]) if total is None else total
    if len(strip.first_keys) == 1:
        rows, parts = one_block(*first)
        return rows, reduction.combine(before, parts)

    def step(total: Parts, x: tuple[Array, Array, Sides]) -> tuple[Parts, Rows]:
        rows, parts = one_block(*x)
        return reduction.combine(total, parts), rows

    after, rows = lax.scan(step, before, (first_rows, first_keys, mapped))
    return jax.tree.map(lambda x: _join(x, strip_rows, row_axis), rows), after


def _blocks(x: Array, strip: Strip, axis: int) -> Float[Array, "blocks ..."]:
    """Stacks the rows of each block of a strip."""
    size, count = strip.block_size, len(strip.first_keys)
    if count * size == x.shape[axis]:
        return jnp.moveaxis(x.reshape(*x.shape[:axis], count, size, *x.shape[axis + 1 :]), axis, 0)
    head = lax.slice_in_dim(x, 0, (count - 1) * size, axis=axis)
    head = head.reshape(*x.shape[:axis], count - 1, size, *x.shape[axis + 1 :])
    last = jnp.expand_dims(lax.slice_in_dim(x, x.shape[axis] - size, None, axis=axis), axis)
    return jnp.moveaxis(jnp.concatenate([head, last], axis), axis, 0)


def _windows(
    x: Float[Array, "... S X"], strip: Strip, first_keys: Int[Array, " blocks"], axis: int
) -> Float[Array, "blocks ... W X"]:
    """Stacks the keys of each block of a strip."""
    # Numbers that are known when a program is compiled make better slices.
    starts = first_keys if strip.by_device is not None else np.array(strip.first_keys, np.int32)
    return jax.vmap(lambda first: lax.dynamic_slice_in_dim(x, first, strip.num_keys, axis=axis))(starts)


def _join(blocks: Float[Array, "blocks ..."], num_rows: int, row_axis: int) -> Array:
    """Puts blocks of rows one after the other, without what the last one shares with the one before it."""
    num_blocks, block_size = blocks.shape[0], blocks.shape[row_axis + 1]
    blocks = jnp.moveaxis(blocks, 0, row_axis)
    joined = blocks.reshape(*blocks.shape[:row_axis], num_blocks * block_size, *blocks.shape[row_axis + 2 :])
    overlap = num_blocks * block_size - num_rows
    if overlap == 0:
        return joined
    first = lax.slice_in_dim(joined, 0, (num_blocks - 1) * block_size, axis=row_axis)
    last = lax.slice_in_dim(joined, (num_blocks - 1) * block_size + overlap, None, axis=row_axis)
    return jnp.concatenate([first, last], axis=row_axis)
