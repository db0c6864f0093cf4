"""What a snapshot keeps of filters longer than the screen: a pooled map, the largest weights, and exact measures.

All of it comes from one sweep over the filter, block by block; no array of size ``T x S`` is made.
"""

import dataclasses
from typing import Any

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Int

from jattn.filters.blocks import FilterBlock, Fold, HeadFold
from jattn.filters.filter import AttentionFilter, folds
from jattn.rules.grids import static
from jattn.rules.trees import as_pytree

LARGEST = 8
"""How many of each query's largest weights are kept."""


def pool_filters(
    filters: AttentionFilter,
    screen: int,
    counts: tuple[Int[Array, " B"], Int[Array, " B"]] | None,
    oracle: Bool[Array, "B T S"] | None,
) -> dict[str, Array]:
    """Computes what is kept of filters ``[B, N, T, S]``: the fields of `jattn.report.Pooled`.

    Args:
      filters: of one layer.
      screen: how many rows and columns a map has at most.
      counts: how many queries and keys of each example are real; None for all of them.
      oracle: the keys that hold the answer of each query that is scored; None where it does not speak of the layer.
    """
    *batch_and_heads, num_queries, num_keys = filters.shape
    every = jnp.full(batch_and_heads[0], num_queries, jnp.int32)
    asked: dict[str, Any] = {
        "map": map_fold(filters.shape, screen, counts),
        "best": folds.top_k(min(LARGEST, num_keys)),
        "entropy": folds.entropy(),
    }
    if oracle is not None:
        asked["mass"] = folds.mass(oracle[:, None])
    found = filters.summarize(**asked)
    real = jnp.arange(num_queries) < (every if counts is None else counts[0])[:, None]
    unknown = jnp.full(batch_and_heads, jnp.nan, jnp.float32)
    measures = {"entropy": _mean(found["entropy"], real), "mass": unknown, "hit_rate": unknown}
    if oracle is not None:
        known = jnp.any(oracle, axis=-1)
        hits = on_oracle(oracle, jnp.maximum(found["best"].keys[..., 0], 0))
        measures |= {"mass": _mean(found["mass"], known), "hit_rate": _mean(hits, known)}
    return {"map": found["map"], "top_weights": found["best"].weights, "top_keys": found["best"].keys, **measures}


def map_fold(
    shape: tuple[int, ...], screen: int, counts: tuple[Int[Array, " B"], Int[Array, " B"]] | None
) -> Fold | HeadFold:
    """Returns the fold that makes the maps of filters of a shape; see `pool_filters`."""
    bins = min(screen, shape[-2]), min(screen, shape[-1])
    return folds.pool(*bins) if counts is None else PoolReal(*counts, *bins)


def on_oracle(oracle: Bool[Array, "B T S"], keys: Int[Array, "B N T"]) -> Bool[Array, "B N T"]:
    """Says whether a key of each query holds its answer."""
    return jnp.take_along_axis(oracle[:, None], keys[..., None], axis=-1)[..., 0]


def _mean(per_query: Float[Array, "B N T"], queries: Bool[Array, "B T"]) -> Float[Array, "B N"]:
    total = jnp.sum(jnp.where(queries[:, None], per_query, 0), axis=-1)
    return (total / jnp.sum(queries, axis=-1)[:, None]).astype(jnp.float32)


@as_pytree
@dataclasses.dataclass(frozen=True)
class PoolReal(HeadFold):
    """Asks for a map of each filter over its own length, where filters of one batch have different ones.

    As `folds.pool`, but of ``n`` real queries or keys and ``b`` bins, index ``i`` is in bin ``⌊i min(b, n) / n⌋``; bins
    beyond, of which there are some where ``n < b``, are zero, and so is what is not real.
    """

    num_queries: Int[Array, " B"]
    num_keys: Int[Array, " B"]
    q_bins: int = static()
    k_bins: int = static()

    def evaluate(self, block: FilterBlock) -> Float[Array, "... q_bins k_bins"]:
        grid = block.grid
        rows = _bins(grid.query, self.q_bins, grid.per_batch(self.num_queries))
        columns = jnp.swapaxes(_bins(grid.key, self.k_bins, grid.per_batch(self.num_keys)), -1, -2)
        of_row, of_column = (
            (index == jnp.arange(bins)).astype(block.weights.dtype)
            for index, bins in ((rows, self.q_bins), (columns, self.k_bins))
        )
        sums = jnp.matmul(block.weights, of_column, precision=lax.Precision.HIGHEST)
        return jnp.matmul(jnp.swapaxes(of_row, -1, -2), sums, precision=lax.Precision.HIGHEST)

    def finish(self, total: Float[Array, "B N q_bins k_bins"], shape: tuple[int, ...]) -> Array:
        count, bins = self.num_queries[:, None], jnp.arange(self.q_bins + 1)
        used = jnp.minimum(self.q_bins, count)
        sizes = jnp.diff(-(-jnp.minimum(bins, used) * count // jnp.maximum(used, 1)), axis=-1)
        return total / jnp.maximum(sizes, 1)[:, None, :, None]


def _bins(index: Int[Array, "..."], bins: int, count: Int[Array, "..."]) -> Int[Array, "..."]:
    """Tells the bin of each index; `bins` for one that is not real."""
    return jnp.where(index < count, index * jnp.minimum(bins, count) // jnp.maximum(count, 1), bins)
