"""Sweeps: what `AttentionFilter` computes, block by block, and never a whole filter unless that is asked for."""

import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, Int

from jattn.engine.attention import attend_heads_first, choose_plan, prepare_sides
from jattn.engine.compiling import compiled
from jattn.engine.plans import WALKED_BLOCK_WEIGHTS, WHOLE_BLOCK_WEIGHTS, Plan, walks_heads
from jattn.engine.rows import RowProgram, finite, repeat_heads, taint
from jattn.engine.streams import cut_stream
from jattn.engine.walk import Prepare, Reduction, Side, fold_blocks
from jattn.filters.blocks import FilterBlock, Fold, HeadFold
from jattn.filters.virtual import VirtualMatrix
from jattn.rules.grids import Grid, Place, fixed_sizes
from jattn.rules.meshes import gathered


def sweep(filter: VirtualMatrix, folds: dict[str, Fold], streams: Int[Array, " M"] | None = None) -> dict[str, Any]:
    """Asks all folds of each block of a filter in turn.

    Args:
      filter: the filter.
      folds: fit to it, by name.
      streams: of which heads, each an index among all of ``batch x N``; results have one axis ``M`` for them. None for
        all, with the axes ``[*batch, N]``.
    """
    filter = filter if streams is None else gathered(filter)
    of_heads = {name: fold for name, fold in folds.items() if isinstance(fold, HeadFold)}
    whole_rows = any(fold.whole_rows for fold in folds.values())
    plan = choose_plan(filter.shape, filter.program, None, filter.block_size, whole_rows)

    plan = plan.once() if of_heads else plan
    sides = _sides(filter)
    rows, totals = ask_blocks(filter.program, folds, *sides, filter.shape, plan, streams)
    finished = {name: fold.finish(totals[name], filter.shape) for name, fold in of_heads.items()}
    return {name: (finished if name in finished else rows)[name] for name in folds}


def ask_blocks(
    row_program: RowProgram,
    folds: dict[str, Fold],
    query_side: Side,
    key_side: Side,
    shape: tuple[int, ...],
    plan: Plan,
    streams: Int[Array, " M"] | None = None,
    place: Place | None = None,
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Asks all folds of each block; returns what is found of rows, and of heads the totals, not yet finished.

    Args:
      row_program, folds: what makes the weights, and what is asked of them, by name.
      query_side, key_side, shape, plan, streams, place: as in `fold_blocks`.
    """
    of_heads = {name: fold for name, fold in folds.items() if isinstance(fold, HeadFold)}
    prepare = functools.partial(prepare_sides, walks_heads(), row_program.mask is not None, False)

    def ask(program: Any, grid: Grid, query_side: Any, key_side: Any) -> tuple[Any, Any]:
        of_rows, fitted = program
        block = FilterBlock(of_rows, grid, query_side, key_side)
        results = {name: fitted[name].evaluate(block) for name in folds}
        return {n: results[n] for n in folds if n not in of_heads}, {n: results[n] for n in of_heads}

    reduction = Reduction(
        lambda total, more: {name: fold.combine(total[name], more[name]) for name, fold in of_heads.items()},
        {name: fold.initial for name, fold in of_heads.items()},
    )
    program = row_program, folds
    return fold_blocks(ask, reduction, program, query_side, key_side, shape, plan, prepare, streams, place)


def multiply(filter: VirtualMatrix, x: Float[Array, "*batch S K V"]) -> Float[Array, "*batch T N V"]:
    """Multiplies a filter with values of each key head, of each query head or of all, as attention does."""
    query, key = (jnp.swapaxes(side, -3, -2) for side in (filter.query, filter.key))
    value = jnp.swapaxes(x, -3, -2)
    if value.shape[-3] == query.shape[-3]:
        key = repeat_heads(key, query, axis=-3)
    value = jnp.broadcast_to(value, (*key.shape[:-1], value.shape[-1]))
    plan = choose_plan(filter.shape, filter.program, None, filter.block_size, narrow=True)
    return jnp.swapaxes(attend_heads_first(query, key, value, filter.program, plan)[0], -3, -2)


def multiply_transposed(filter: VirtualMatrix, y: Float[Array, "*batch T N V"]) -> Float[Array, "*batch S N V"]:
    """Multiplies the transposed filter with something per query."""
    query_side, key_side = _sides(filter)
    of_rows = {"rows": jnp.broadcast_to(jnp.swapaxes(y, -3, -2), (*filter.shape[:-1], y.shape[-1]))}
    if filter.program.mask is not None:
        # A NaN reaches the keys that its query may attend to, and no others.
        of_rows = dict(zip(("rows", "broken_rows"), finite(of_rows["rows"]), strict=True))
    plan = choose_plan(filter.shape, filter.program, None, filter.block_size).once()

    def prepare(query_side: Any, key_side: Any) -> tuple[Any, Any]:
        prepared, key_side = _prepare(filter)({"query": query_side["query"]}, key_side)
        return query_side | prepared, key_side

    def part(program: Any, grid: Grid, query_side: Any, key_side: Any) -> tuple[tuple[()], Array]:
        block = FilterBlock(program, grid, query_side, key_side)
        weights = block.weights
        if block.allowed is not None:
            # A row of NaN is NaN for the keys that it may attend to; an edit may put weight on any key.
            weights = jnp.where(block.allowed | ~jnp.isnan(weights), weights, 0)
        # With the long axis last, which XLA on CPU computes several times faster.
        sums = jnp.einsum("...rv,...rw->...vw", query_side["rows"].astype(weights.dtype), weights)
        if block.allowed is not None:
            seen_by = jnp.swapaxes(jnp.broadcast_to(block.allowed, weights.shape), -1, -2)
            no_key = jnp.zeros(seen_by.shape[:-1], bool)
            sums = jnp.swapaxes(taint(jnp.swapaxes(sums, -1, -2), seen_by, no_key, query_side["broken_rows"]), -1, -2)
        return (), block.all_keys(sums)

    add = Reduction(jnp.add, 0)
    _, sums = fold_blocks(part, add, filter.program, query_side | of_rows, key_side, filter.shape, plan, prepare)
    return jnp.moveaxis(sums, -1, -3).astype(y.dtype)


def chosen_rows(
    filter: VirtualMatrix,
    streams: Any,
    rows: Any,
    pairs: bool = False,
    keys: Any = slice(None),
    scores: bool = False,
) -> Array:
    """Computes some rows of some heads with the program that was compiled for as many of them; see `some_rows`.

    Args:
      filter, streams, rows, pairs, scores: as in `some_rows`.
      keys: a slice of the keys, or one key for each pair of a head and a row.
    """
    if not isinstance(keys, slice):
        return compiled(some_cells)(filter, streams, rows, keys)
    kept = range(0) if keys == slice(None) else range(*keys.indices(filter.shape[-1]))
    if keys == slice(None) or (len(kept) == filter.shape[-1] and kept.step == 1):
        return compiled(some_rows, pairs=pairs, scores=scores)(filter, streams, rows, None)
    if kept.step == 1:
        # Where the keys begin is data, so that the next ones need no other program.
        first = np.int32(kept.start)
        return compiled(some_rows, pairs=pairs, scores=scores, width=len(kept))(filter, streams, rows, first)
    return compiled(some_rows, pairs=pairs, scores=scores)(filter, streams, rows, np.array(kept, np.int32))


def some_rows(
    filter: VirtualMatrix,
    streams: Int[Array, " M"] | None,
    rows: Int[Array, " R"],
    keys: Int[Array, " W"] | Int[Array, ""] | None = None,
    *,
    pairs: bool = False,
    scores: bool = False,
    width: int | None = None,
) -> Float[Array, "... R W"]:
    """Computes some rows of a filter, or of its scores.

    Args:
      filter: the filter.
      streams: of which heads, each an index among all of ``batch x N``; None for all.
      rows: query indices.
      keys: those that are kept; with `width`, the first of as many neighbours; None for all.
      pairs: whether each row is asked of the head beside it, not all of every head.
      scores: whether scores are asked for.
      width: see `keys`.

    Returns:
      ``[*batch, N, R, W]`` for all heads, ``[M, R, W]`` for some, ``[M, W]`` for pairs.
    """
    filter = filter if streams is None else gathered(filter)
    shape, sides = filter.shape, _sides(filter)
    # Scores hold their own NaN; weights must not hand one to keys that a row may not see.
    sides = sides if scores else _prepare(filter)(*sides)

    def one(stream: Array | None, rows: Int[Array, " R"]) -> Float[Array, "... R W"]:
        query_side, key_side = sides if stream is None else cut_stream(sides, shape[:-2], stream)
        axis = len(shape) - 2 if stream is None else 0
        query_side = jax.tree.map(lambda x: jnp.take(x, rows, axis=axis), query_side)
        block = FilterBlock(filter.program, Grid(rows, shape, adjacent=False, stream=stream), query_side, key_side)
        whole = block.raw_scores if scores else block.weights
        if keys is None:
            return whole
        return jnp.take(whole, keys, axis=-1) if width is None else lax.dynamic_slice_in_dim(whole, keys, width, -1)

    fixed = fixed_sizes(shape)
    heads, walked = math.prod(fixed[:-2]), walks_heads() and fixed == shape
    if streams is None and (not walked or heads * rows.shape[0] * fixed[-1] <= WALKED_BLOCK_WEIGHTS):
        return _by_rows(functools.partial(one, None), rows, heads * fixed[-1], len(shape) - 2, walked)
    if pairs:
        return lax.map(lambda pair: one(pair[0], pair[1][None])[0], (streams, rows))
    every = jnp.arange(heads, dtype=jnp.int32) if streams is None else streams
    out = lax.map(lambda stream: _by_rows(functools.partial(one, stream), rows, shape[-1], 0, walked), every)
    return out.reshape(*shape[:-2], *out.shape[1:]) if streams is None else out


def some_cells(
    filter: VirtualMatrix, streams: Int[Array, " M"], rows: Int[Array, " M"], keys: Int[Array, " M"]
) -> Float[Array, "M 1"]:
    """Computes one weight of each of some rows: of a head, a query and a key."""
    filter = gathered(filter)

    def one(cell: Any) -> Array:
        return some_rows(filter, cell[0][None], cell[1][None], cell[2], pairs=True, width=1)[0]

    return lax.map(one, (streams, rows, keys))


def one_block(filter: VirtualMatrix, grid: Grid) -> Float[Array, "... R S"]:
    """Computes the block of a filter that lies where a block of another one, of the same shape, lies."""
    query_side, key_side = _sides(filter)
    if grid.stream is not None:
        query_side, key_side = cut_stream((query_side, key_side), filter.shape[:-2], grid.stream)
    query_side = {"query": grid.take_rows(query_side["query"])}
    return FilterBlock(filter.program, grid, *_prepare(filter)(query_side, key_side)).weights


def _by_rows(
    function: Callable[[Array], Array], rows: Int[Array, " R"], weights_per_row: int, axis: int, walked: bool
) -> Array:
    """Calls a function of some rows with as many at a time as a block may hold; it returns them on the given axis."""
    budget = WALKED_BLOCK_WEIGHTS if walked else WHOLE_BLOCK_WEIGHTS
    count, size = rows.shape[0], max(1, budget // max(1, weights_per_row))
    if count <= size:
        return function(rows)
    chunks = -(-count // size)
    padded = jnp.pad(rows, (0, chunks * size - count), mode="edge").reshape(chunks, size)
    out = jnp.moveaxis(lax.map(function, padded), 0, axis)
    out = out.reshape(*out.shape[:axis], chunks * size, *out.shape[axis + 2 :])
    return lax.slice_in_dim(out, 0, count, axis=axis)


def _sides(filter: VirtualMatrix) -> tuple[dict[str, Array], dict[str, Array]]:
    query, key = (jnp.swapaxes(side, -3, -2) for side in (filter.query, filter.key))
    return {"query": query}, {"key": key}


def _prepare(filter: VirtualMatrix) -> Prepare:
    return functools.partial(prepare_sides, walks_heads(), filter.program.mask is not None, False)
