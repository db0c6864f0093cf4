"""The row program: what attention does for one query, and how it is mapped over blocks of query rows.

    query row --score--> scores --bias, mask--> scores --normalizer--> weights --edit--> a row of the filter

`attend` multiplies the weights with the values; `AttentionFilter` stops before that. Both map this one program, so they
cannot disagree. Shapes inside: ``[*batch, N, rows, H]``, heads before rows.
"""

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Int

from jattn.biases import Bias, BiasLike, as_bias
from jattn.grids import Grid, whole_grid
from jattn.masks import Mask, MaskLike, as_mask, static
from jattn.normalizers import Normalizer, NormalizerLike, as_normalizer
from jattn.scores import Score, ScoreLike, as_score

Edit = Callable[[Float[Array, "... R S"], Grid], Float[Array, "... R S"]]
"""Takes a block of weights and its index grids, returns new weights."""


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class RowProgram:
    """Everything that decides a row of the filter, but for the query and the keys."""

    score: Score
    bias: Bias | None
    mask: Mask | None
    normalizer: Normalizer
    edit: Edit | None = static()
    precision: Any = static(default=None)

    def scores(
        self, query: Float[Array, "... R H"], key: Float[Array, "... S H"], grid: Grid
    ) -> tuple[Float[Array, "... R S"], Bool[Array, "..."] | None]:
        """Computes a block of scores with the bias added, and the mask of the block."""
        scores = self.score.evaluate(query, key, grid, self.precision)
        if self.bias is not None:
            scores = scores + self.bias.evaluate(grid).astype(scores.dtype)
        return scores, None if self.mask is None else self.mask.evaluate(grid)

    def weights(
        self, query: Float[Array, "... R H"], key: Float[Array, "... S H"], grid: Grid
    ) -> tuple[Float[Array, "... R S"], Bool[Array, "..."] | None]:
        """Computes a block of weights, and the mask of the block."""
        scores, allowed = self.scores(query, key, grid)
        weights = self.normalizer.evaluate(scores, allowed)
        if self.edit is not None:
            edited = jnp.asarray(self.edit(weights, grid))
            if edited.shape != weights.shape:
                raise ValueError(f"edit: the function must return weights of shape {weights.shape}, got {edited.shape}")
            weights = edited.astype(weights.dtype)
        return weights, allowed


def row_program(
    score: ScoreLike,
    bias: BiasLike | None,
    mask: MaskLike | None,
    normalizer: NormalizerLike,
    edit: Edit | None,
    precision: Any,
    shape: tuple[int, ...],
) -> RowProgram:
    """Makes the row program of a call whose filter has shape ``(*batch, N, T, S)``, or says which part does not fit."""
    if edit is not None and not callable(edit):
        raise TypeError(f"edit: expected a function of (weights, grid), got {type(edit).__name__}")
    return RowProgram(
        score=as_score(score).fit(shape),
        bias=None if bias is None else as_bias(bias).fit(shape),
        mask=None if mask is None else as_mask(mask).fit(shape),
        normalizer=as_normalizer(normalizer),
        edit=edit,
        precision=precision,
    )


def finite(x: Float[Array, "... L H"]) -> tuple[Float[Array, "... L H"], Bool[Array, "... L"]]:
    """Replaces NaN and inf by zero, and tells which vectors held any.

    Zero times NaN is NaN, so a weight of zero alone does not keep a forbidden value out of a matrix product.
    """
    fine = jnp.isfinite(x)
    return jnp.where(fine, x, 0), ~jnp.all(fine, axis=-1)


def taint(
    rows: Float[Array, "... R X"],
    allowed: Bool[Array, "..."],
    broken_query: Bool[Array, "... R"],
    broken_key: Bool[Array, "... S"],
) -> Float[Array, "... R X"]:
    """Sets to NaN the rows whose query is not finite, or that may attend to a key or value that is not.

    The rows were computed from inputs made `finite`: so what a query may see stays visible in its result, and what it
    may not see leaves no trace, forward or backward.
    """
    sees = allowed & (broken_query[..., :, None] | broken_key[..., None, :])
    return jnp.where(jnp.any(sees, axis=-1, keepdims=True), jnp.nan, rows)


def map_rows(
    block: Callable[[Grid, Any, Any], Any],
    query_side: Any,
    key_side: Any,
    shape: tuple[int, ...],
    block_size: int,
    walk_heads: bool,
) -> Any:
    """Maps a function over blocks of query rows.

    Args:
      block: takes the grid of a block, the part of `query_side` that belongs to it (rows cut out), and `key_side`
        (of one head where heads are walked); returns a pytree of arrays whose axis after the heads is the row axis.
      query_side: a pytree of arrays ``[*batch, N, T, ...]``.
      key_side: a pytree of arrays ``[*batch, K, S, ...]``; ``N`` is a multiple of ``K``.
      shape: ``(*batch, N, T, S)``.
      block_size: how many rows a block holds.
      walk_heads: whether blocks hold one head each (suits a CPU's caches) or all of them.

    Returns:
      The pytree that `block` would return for all rows at once: arrays ``[*batch, N, T, ...]``.
    """
    leading = shape[:-2]
    if walk_heads:
        streams = math.prod(leading)
        if streams == 0:
            return map_rows(block, query_side, key_side, shape, block_size, walk_heads=False)
        axes = len(leading)
        queries_by_stream, keys_by_stream = jax.tree.map(
            lambda x: x.reshape(math.prod(x.shape[:axes]), *x.shape[axes:]), (query_side, key_side)
        )
        group = leading[-1] // jax.tree.leaves(key_side)[0].shape[axes - 1]

        def one_stream(stream: Int[Array, ""]) -> Any:
            queries = jax.tree.map(lambda x: x[stream], queries_by_stream)
            keys = jax.tree.map(lambda x: x[stream // group], keys_by_stream)
            return _map_blocks(block, queries, keys, shape, block_size, stream)

        out = lax.map(one_stream, jnp.arange(streams, dtype=jnp.int32))
        return jax.tree.map(lambda x: x.reshape((*leading, *x.shape[1:])), out)
    axis = len(leading) - 1

    def repeat(x: Array) -> Array:
        return x if x.shape[axis] == leading[-1] else jnp.repeat(x, leading[-1] // x.shape[axis], axis)

    return _map_blocks(block, query_side, jax.tree.map(repeat, key_side), shape, block_size, None)


def _map_blocks(
    block: Callable[[Grid, Any, Any], Any],
    query_side: Any,
    key_side: Any,
    shape: tuple[int, ...],
    block_size: int,
    stream: Int[Array, ""] | None,
) -> Any:
    num_rows = shape[-2]
    row_axis = 0 if stream is not None else len(shape) - 2
    block_size = min(block_size, num_rows)
    if num_rows == block_size and stream is None:
        return block(whole_grid(shape), query_side, key_side)

    def one_block(start: Int[Array, ""]) -> Any:
        grid = Grid(start + jnp.arange(block_size, dtype=jnp.int32), shape, stream=stream)
        rows = jax.tree.map(lambda x: lax.dynamic_slice_in_dim(x, start, block_size, row_axis), query_side)
        return block(grid, rows, key_side)

    # Under checkpoint the weights of a block are computed again in the backward pass instead of being kept.
    one_block = jax.checkpoint(one_block, prevent_cse=False)
    if num_rows == block_size:
        return one_block(jnp.int32(0))
    num_blocks = -(-num_rows // block_size)
    # The last block starts early enough to be whole; what it computes again is dropped in _join.
    starts = jnp.minimum(jnp.arange(num_blocks, dtype=jnp.int32) * block_size, num_rows - block_size)
    blocks = lax.map(one_block, starts)
    return jax.tree.map(lambda x: _join(x, num_rows, row_axis), blocks)


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
