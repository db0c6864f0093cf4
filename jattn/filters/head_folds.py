"""Folds with a result for each head."""

import dataclasses
import itertools
import numbers
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jattn.filters.blocks import FilterBlock, HeadFold, bins_of, put
from jattn.rules.checks import check_integer
from jattn.rules.functions import place_of
from jattn.rules.grids import Grid, static
from jattn.rules.trees import as_pytree


@as_pytree
@dataclasses.dataclass(frozen=True, repr=False)
class Received(HeadFold[Float[Array, "*batch N S"]]):
    """Asks how much weight each key gets from all queries, ``Σᵢ wᵢⱼ``: ``[*batch, N, S]``."""

    def evaluate(self, block: FilterBlock) -> Array:
        return block.received


@as_pytree
@dataclasses.dataclass(frozen=True, repr=False)
class Pool(HeadFold[Float[Array, "*batch N q_bins k_bins"]]):
    """Asks for the filter at the size of a screen: a map ``[*batch, N, q_bins, k_bins]``.

    ::

        mapₐᵦ = mean over the queries i of bin a of  Σ over the keys j of bin b of  wᵢⱼ

    So a row of the map sums to what rows of the filter sum to, and with ``T`` and ``S`` bins it is the filter. Index
    ``i`` of ``n`` is in bin ``⌊i bins / n⌋``; bins differ in size by one at most.
    """

    q_bins: int = static()
    k_bins: int = static()

    def __post_init__(self) -> None:
        check_integer("q_bins", self.q_bins, 1)
        check_integer("k_bins", self.k_bins, 1)

    def fit(self, shape: tuple[int, ...]) -> HeadFold:
        for name, bins, most, what in (
            ("q_bins", self.q_bins, shape[-2], "queries"),
            ("k_bins", self.k_bins, shape[-1], "keys"),
        ):
            if not isinstance(most, int):
                raise TypeError(f"pool: expected a known number of {what}, got {most}")
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


@as_pytree
@dataclasses.dataclass(frozen=True, repr=False)
class Histogram(HeadFold[Float[Array, "*batch N bins"]]):
    """Asks how many weights lie in each of some ranges: float32 ``[*batch, N, bins]``.

    Keys that the mask forbids have no weight and are not counted. Counts beyond 2²⁴ are rounded.

    Args:
      bins: how many ranges of equal width between 0 and 1, or their edges, ascending: weights ``eₙ ≤ w < eₙ₊₁`` are
        counted, of the last range also ``w = eₙ₊₁``.
    """

    bins: Any = static(default=10)

    def __post_init__(self) -> None:
        object.__setattr__(self, "bins", _as_edges(self.bins))

    def evaluate(self, block: FilterBlock) -> Array:
        weights, allowed = block.weights, block.allowed
        counted = [weights >= edge for edge in self.bins[:-1]] + [weights > self.bins[-1]]
        allowed = True if allowed is None else allowed
        above = [jnp.sum(x & allowed, axis=(-2, -1), dtype=jnp.float32) for x in counted]
        return jnp.stack([low - high for low, high in itertools.pairwise(above)], axis=-1)


def _as_edges(bins: Any) -> tuple[float, ...]:
    if isinstance(bins, numbers.Integral) and not isinstance(bins, bool):
        return tuple(np.linspace(0, 1, check_integer("bins", bins, 1) + 1).tolist())
    try:
        edges = np.asarray(bins, np.float64)
    except (TypeError, ValueError):
        edges = np.zeros(0)
    if edges.ndim != 1 or len(edges) < 2 or not (np.diff(edges) > 0).all():
        raise ValueError(f"bins: expected a positive int or at least two ascending edges, got {bins!r}")
    return tuple(edges.tolist())


@as_pytree
@dataclasses.dataclass(frozen=True, repr=False)
class Combined(HeadFold[Any]):
    """Combines what a function of a block of weights returns; see `jattn.folds.from_function`."""

    function: Callable[[Array, Grid], Any] = static()
    combiner: Callable[[Any, Any], Any] = static()
    whole_rows: bool = static()
    initial: Any = 0

    def __repr__(self) -> str:
        options = f"initial={self.initial!r}, whole_rows={self.whole_rows!r}"
        return f"from_function({self.function!r}, {self.combiner!r}, {options})"

    def evaluate(self, block: FilterBlock) -> Any:
        result, leading = self.function(block.weights, block.grid), block.weights.shape[:-2]
        for array in jax.tree.leaves(result):
            if jnp.shape(array)[: len(leading)] != leading:
                raise ValueError(
                    f"fold: the function must return arrays that begin with the axes {leading} before the rows of the "
                    f"block of weights {block.weights.shape}, got {jnp.shape(array)}"
                    f"{place_of(self.function)}"
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
                f"got {found_structure} of {found}{place_of(self.combiner)}"
            )
        return combined
