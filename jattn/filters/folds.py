"""Folds: what can be asked of a filter of any length, computed block by block in one sweep.

A fold looks at one block of rows at a time. What it returns is a number (or an array) per query, or is combined over
the blocks of a head: column sums, a pooled map, a histogram. Folds that are asked together share the sweep, and with it
scores and weights::

    filter.summarize("entropy", best=folds.top_k(8), map=folds.pool(256, 256))

A fold of your own is a function of a block of weights and its `Grid`, and, where it is not one result per query, a
function that combines two of its results; see `from_function`.

Every fold is differentiable where its formula is, so it may be part of a loss. NaN in a query, or in a key that a query
may attend to, makes that row of the filter NaN, and with it what depends on the row.

Glossary of shapes: ``T`` queries, ``S`` keys, ``N`` heads; ``R`` rows and ``W`` keys of one block.
"""

import numbers
from collections.abc import Callable
from typing import Any

import numpy as np
from jaxtyping import Array, Float

from jattn.filters.blocks import Fold
from jattn.filters.head_folds import Combined, Histogram, Pool, Received
from jattn.filters.row_folds import (
    ArgMax,
    EffectiveKeys,
    Entropy,
    ExpectedDistance,
    LogNormalizer,
    Mass,
    Max,
    MaxScore,
    PerRow,
    SinkMass,
    TopK,
    TopKOf,
)
from jattn.rules.grids import Grid
from jattn.rules.masks import MaskLike, as_mask

__all__ = [
    "FOLDS",
    "Fold",
    "TopK",
    "argmax",
    "as_fold",
    "effective_keys",
    "entropy",
    "expected_distance",
    "from_function",
    "histogram",
    "log_normalizer",
    "mass",
    "max",
    "max_score",
    "pool",
    "received",
    "sink_mass",
    "top_k",
]


def from_function(
    function: Callable[[Float[Array, "... R W"], Grid], Any],
    combine: Callable[[Any, Any], Any] | None = None,
    *,
    initial: Any = 0,
    whole_rows: bool = True,
) -> Fold:
    """Asks what a function of a block of weights returns.

    Args:
      function: takes a block of weights ``[..., R, W]`` and its `Grid`. Without `combine` it returns a pytree of arrays
        ``[..., R, *rest]``, a result per row; with it, of any arrays of one shape for all blocks, ``[..., *rest]``,
        where ``...`` are the axes before the rows: ``[*batch, N]``, or none where heads are computed one at a time.
      combine: takes two results and returns one, such as ``jnp.add`` or ``jnp.maximum``; the order in which blocks are
        combined must not matter.
      initial: the total before the first block, which combining must leave as it is: 0 for sums, ``-jnp.inf`` for
        maxima of floats; a number, or a pytree of numbers for a pytree of results.
      whole_rows: whether a block holds all keys. If the function reads key indices from ``grid.key`` and never counts
        columns, False saves the work for keys that the mask rules out, half of it for a causal mask.

    A function is compiled when it is first asked. Define it once, outside of loops: a new one is compiled anew.

    Example: how much weight each head puts on keys of each distance, in bands of 1, 2, 4, ... keys.
      >>> import jax.numpy as jnp, numpy as np
      >>> from jattn import attention_filter, folds, masks
      >>> def band_mass(weights, grid):
      ...     distance = jnp.clip(grid.query - grid.key, 1)
      ...     band = jnp.log2(distance).astype(int)
      ...     in_band = band[..., None] == jnp.arange(3)
      ...     return jnp.einsum("...rw,rwb->...b", weights, in_band)
      >>> zeros = jnp.zeros((8, 1, 4))
      >>> filter = attention_filter(zeros, zeros, mask=masks.causal(-1))
      >>> print(np.asarray(filter.fold(folds.from_function(band_mass, jnp.add, whole_rows=False))).round(2))
      [[2.59 2.69 1.72]]
    """
    if not callable(function):
        raise TypeError(f"fold: expected a function of (weights, grid), got {type(function).__name__}")
    if combine is None:
        return PerRow(function, whole_rows)
    if not callable(combine):
        raise TypeError(f"combine: expected a function of two results, got {type(combine).__name__}")
    return Combined(function, combine, whole_rows, initial)


def as_fold(fold: Any) -> Fold:
    """Returns a `Fold` for a fold, its name, or a function of (weights, grid); refuses anything else."""
    if isinstance(fold, Fold):
        return fold
    if isinstance(fold, str):
        if fold not in FOLDS:
            raise ValueError(f"fold: expected one of {', '.join(FOLDS)}, or a fold with its arguments, got {fold!r}")
        return FOLDS[fold]()
    if getattr(fold, "__module__", None) == __name__:
        raise TypeError(f"fold: expected a fold, got the function {fold.__name__}; call it: folds.{fold.__name__}(...)")
    return from_function(fold)


def log_normalizer() -> Fold:
    """Asks by what each row was divided: ``ln Σⱼ exp(sᵢⱼ)``, with the sink's score if there is one.

    A natural logarithm, float32 or wider; minus infinity for a row without keys. Only a softmax has it, and an edit or
    dropout, which come after it, do not change it.
    """
    return LogNormalizer()


def max_score() -> Fold:
    """Asks for each row's largest score, bias added; minus infinity for a row without keys.

    Where it grows without bound, training is about to fail; see Dehghani et al. 2023, "Scaling vision transformers to
    22 billion parameters", section 2.
    """
    return MaxScore()


def entropy() -> Fold:
    """Asks for each row's entropy, ``-Σⱼ wᵢⱼ ln wᵢⱼ``, in nats: 0 looks at one key, ``ln n`` at ``n`` keys alike.

    A row whose weights do not sum to one is divided by its sum first; a row that may attend to nothing gets 0.

    Source: for a softmax, ``H = ln Σⱼ exp(sᵢⱼ) - Σⱼ wᵢⱼ sᵢⱼ``, the scores taken from the largest one.
    """
    return Entropy()


def effective_keys() -> Fold:
    """Asks how many keys each query looks at, in effect: ``exp(entropy)``, and 0 where it may attend to nothing."""
    return EffectiveKeys()


def max() -> Fold:
    """Asks for each row's largest weight; 0 where a query may attend to nothing."""
    return Max()


def argmax() -> Fold:
    """Asks which key each query attends to most; the first of equals, 0 where it may attend to nothing."""
    return ArgMax()


def top_k(k: int) -> Fold:
    """Asks for the `k` largest weights of each row and their keys, a `TopK`; of equals the first.

    Where fewer keys have any weight, the rest of the row is weight 0 and key -1.
    """
    return TopKOf(_as_count("k", k))


def expected_distance(offset: int = 0) -> Fold:
    """Asks how far each query looks on average, ``Σⱼ wᵢⱼ |i + offset - j| / Σⱼ wᵢⱼ``, in positions.

    Args:
      offset: the position of the first query, where it is not that of the first key.
    """
    if not isinstance(offset, numbers.Integral) or isinstance(offset, bool):
        raise TypeError(f"offset: expected an int, got {offset!r}")
    return ExpectedDistance(int(offset))


def mass(keys: MaskLike) -> Fold:
    """Asks how much of each row's weight lies on a set of keys, ``Σⱼ wᵢⱼ [j in the set]``.

    Args:
      keys: True = in the set; a mask object, or an array that broadcasts to ``[*batch, N, T, S]`` (an oracle
        ``[*batch, T, S]`` needs an axis for heads: ``oracle[..., None, :, :]``).
    """
    try:
        return Mass(as_mask(keys))
    except TypeError:
        got = f"dtype {keys.dtype}" if hasattr(keys, "dtype") else type(keys).__name__
        raise TypeError(f"mass: keys: expected booleans (True = in the set) or a mask object, got {got}") from None


def sink_mass(num_keys: int = 1) -> Fold:
    """Asks how much of each row's weight lies on the first `num_keys` keys.

    What the sink of `normalizers.softmax_plus_one` takes is not in it: that is what a row lacks to one.

    Source: Xiao et al. 2023, "Efficient streaming language models with attention sinks", section 3.1.
    """
    return SinkMass(_as_count("num_keys", num_keys))


def received() -> Fold:
    """Asks how much weight each key gets from all queries, ``Σᵢ wᵢⱼ``: ``[*batch, N, S]``."""
    return Received()


def pool(q_bins: int, k_bins: int) -> Fold:
    """Asks for the filter at the size of a screen: a map ``[*batch, N, q_bins, k_bins]``.

    ::

        mapₐᵦ = mean over the queries i of bin a of  Σ over the keys j of bin b of  wᵢⱼ

    So a row of the map sums to what rows of the filter sum to, and with ``T`` and ``S`` bins it is the filter. Index
    ``i`` of ``n`` is in bin ``⌊i bins / n⌋``; bins differ in size by one at most.
    """
    return Pool(_as_count("q_bins", q_bins), _as_count("k_bins", k_bins))


def histogram(bins: int | Any = 10) -> Fold:
    """Asks how many weights lie in each of some ranges: float32 ``[*batch, N, bins]``.

    Keys that the mask forbids have no weight and are not counted. Counts beyond 2²⁴ are rounded.

    Args:
      bins: how many ranges of equal width between 0 and 1, or their edges, ascending: weights ``eₙ ≤ w < eₙ₊₁`` are
        counted, of the last range also ``w = eₙ₊₁``.
    """
    if isinstance(bins, numbers.Integral) and not isinstance(bins, bool):
        edges = np.linspace(0, 1, _as_count("bins", bins) + 1)
    else:
        try:
            edges = np.asarray(bins, np.float64)
        except (TypeError, ValueError):
            edges = np.zeros(0)
        if edges.ndim != 1 or len(edges) < 2 or not (np.diff(edges) > 0).all():
            raise ValueError(f"bins: expected a positive int or at least two ascending edges, got {bins!r}")
    return Histogram(tuple(edges.tolist()))


FOLDS: dict[str, Callable[[], Fold]] = {
    "log_normalizer": log_normalizer,
    "max_score": max_score,
    "entropy": entropy,
    "effective_keys": effective_keys,
    "max": max,
    "argmax": argmax,
    "expected_distance": expected_distance,
    "sink_mass": sink_mass,
    "received": received,
    "histogram": histogram,
}
"""The folds that may be asked for by name alone."""


def _as_count(name: str, value: Any) -> int:
    if not isinstance(value, numbers.Integral) or isinstance(value, bool) or value < 1:
        raise ValueError(f"{name}: expected a positive int, got {value!r}")
    return int(value)
