"""Folds with a result for each head; what each asks is said where it is made, in `jattn.folds`."""

import dataclasses
import itertools
from collections.abc import Callable
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jattn.filters.blocks import FilterBlock, HeadFold, bins_of, put
from jattn.rules.grids import Grid, static


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Received(HeadFold):
    def evaluate(self, block: FilterBlock) -> Array:
        return block.received


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Pool(HeadFold):
    q_bins: int = static()
    k_bins: int = static()

    order: ClassVar[int] = 0

    def fit(self, shape: tuple[int, ...]) -> HeadFold:
        for name, bins, most, what in (
            ("q_bins", self.q_bins, shape[-2], "queries"),
            ("k_bins", self.k_bins, shape[-1], "keys"),
        ):
            if bins > most:
                raise ValueError(f"pool: expected {name} to be at most the {most} {what} of the filter, got {bins}")
        return self

    def evaluate(self, block: FilterBlock) -> Array:
        first, sums = block.bin_sums(self.q_bins)
        sums = sum_bins(block.all_keys(sums), self.k_bins)
        # Sums beyond the last bin are zero; with room for them, none of the others is moved.
        return put(sums, first, self.q_bins, axis=-2)[..., : self.q_bins, :]

    def finish(self, total: Array, shape: tuple[int, ...]) -> Array:
        sizes = np.bincount(bins_of(shape[-2], self.q_bins), minlength=self.q_bins)
        return total / jnp.asarray(sizes[:, None], total.dtype)


def sum_bins(x: Float[Array, "... S"], bins: int) -> Float[Array, "... bins"]:
    """Sums the last axis over each of some bins."""
    size = x.shape[-1]
    if size % bins == 0:
        return jnp.sum(x.reshape(*x.shape[:-1], bins, size // bins), axis=-1)
    starts = -(-np.arange(bins + 1, dtype=np.int64) * size // bins)
    index = starts[:-1, None] + np.arange(np.diff(starts).max())
    inside = index < starts[1:, None]
    return jnp.sum(jnp.where(inside, x[..., np.minimum(index, size - 1)], 0), axis=-1)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Histogram(HeadFold):
    edges: tuple[float, ...] = static()

    def evaluate(self, block: FilterBlock) -> Array:
        weights, allowed = block.weights, block.allowed
        counted = [weights >= edge for edge in self.edges[:-1]] + [weights > self.edges[-1]]
        allowed = True if allowed is None else allowed
        above = [jnp.sum(x & allowed, axis=(-2, -1), dtype=jnp.float32) for x in counted]
        return jnp.stack([low - high for low, high in itertools.pairwise(above)], axis=-1)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Combined(HeadFold):
    function: Callable[[Array, Grid], Any] = static()
    combiner: Callable[[Any, Any], Any] = static()
    whole_rows: bool = static()
    initial: Any = 0

    def evaluate(self, block: FilterBlock) -> Any:
        result, leading = self.function(block.weights, block.grid), block.weights.shape[:-2]
        for array in jax.tree.leaves(result):
            if jnp.shape(array)[: len(leading)] != leading:
                raise ValueError(
                    f"fold: the function must return arrays that begin with the axes {leading} before the rows of the "
                    f"block of weights {block.weights.shape}, got {jnp.shape(array)}"
                )
        return jax.tree.map(jnp.asarray, result)

    def combine(self, total: Any, more: Any) -> Any:
        combined = self.combiner(total, more)
        structure, found_structure = jax.tree.structure(more), jax.tree.structure(combined)
        expected = [(x.shape, str(x.dtype)) for x in jax.tree.leaves(more)]
        found = [(jnp.shape(x), str(jnp.result_type(x))) for x in jax.tree.leaves(combined)]
        if found_structure != structure or expected != found:
            raise ValueError(
                f"combine: the function must return what it takes, {structure} of arrays {expected}, "
                f"got {found_structure} of {found}"
            )
        return combined
