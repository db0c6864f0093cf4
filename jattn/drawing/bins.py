"""Bins of a pooled filter: which positions a row or a column of its map stands for, and how that is said.

Position ``i`` of ``n`` is in bin ``⌊i b / n⌋`` of ``b``, so bins differ in size by one at most.
"""

import numpy as np


def bin_starts(bins: int, count: int) -> np.ndarray:
    """Returns the first of `count` positions that each of `bins` bins holds, ``⌈a n / b⌉``: int ``[bins]``.

    Example:
      >>> bin_starts(3, 8).tolist()
      [0, 3, 6]
    """
    return -(-np.arange(bins) * count // bins)


def bin_labels(bins: int, count: int) -> list[str]:
    """Writes which of `count` positions each bin holds.

    Example:
      >>> bin_labels(3, 8), bin_labels(2, 2)
      (['0–2', '3–5', '6–7'], ['0', '1'])
    """
    starts = bin_starts(bins, count)
    lasts = [*(starts[1:] - 1), count - 1]
    return [str(first) if first == last else f"{first}–{last}" for first, last in zip(starts, lasts, strict=True)]


def tick_bins(bins: int, room: int) -> list[int]:
    """Chooses whose positions are written beside the map: of `bins` at most five and at most `room`, but the first.

    Example:
      >>> tick_bins(256, 9), tick_bins(16, 2), tick_bins(16, 0)
      ([0, 64, 128, 191, 255], [0, 15], [0])
    """
    return np.unique(np.linspace(0, bins - 1, max(1, min(bins, room, 5))).round().astype(int)).tolist()


def cell_words(bins: tuple[int, int], counts: tuple[int, int]) -> str:
    """Says how many queries and keys a cell of the map stands for.

    Example:
      >>> cell_words((256, 256), (512, 600)), cell_words((20, 16), (20, 48))
      ('2 queries x 2 to 3 keys', '1 query x 3 keys')
    """
    words = [_size_words(*side) for side in zip(bins, counts, ("query", "key"), ("queries", "keys"), strict=True)]
    return " x ".join(words)


def _size_words(bins: int, count: int, one: str, many: str) -> str:
    sizes = np.diff([*bin_starts(bins, count), count])
    few, most = sizes.min(), sizes.max()
    return f"{few} to {most} {many}" if few < most else f"{most} {one if most == 1 else many}"


def pool_weights(weights: np.ndarray, bins: tuple[int, int]) -> np.ndarray:
    """Pools whole weights: the mean over the queries of a bin of the sum over the keys of a bin.

    Args:
      weights: ``[heads, queries, keys]``.
      bins: how many bins of queries and of keys there are.

    Returns:
      ``[heads, *bins]``.
    """
    q_starts, k_starts = (bin_starts(*side) for side in zip(bins, weights.shape[1:], strict=True))
    sums = np.add.reduceat(np.add.reduceat(weights, k_starts, axis=-1), q_starts, axis=-2)
    return sums / np.diff([*q_starts, weights.shape[1]])[:, None]


def oracle_mass(filters: np.ndarray, oracle: np.ndarray) -> np.ndarray:
    """Averages the weight on the oracle's keys, over the queries that have any: mean_q Σ_{k in oracle(q)} w[q, k].

    Args:
      filters: ``[heads, queries, keys]``.
      oracle: bool ``[queries, keys]``.

    Returns:
      ``[heads]``, nan where the oracle is empty.
    """
    return mean_over_queries(np.where(oracle, filters, 0).sum(-1), oracle)


def mean_over_queries(values: np.ndarray, oracle: np.ndarray) -> np.ndarray:
    """Averages values ``[heads, queries]`` over the queries that have an oracle: ``[heads]``, nan if none has."""
    known = oracle.any(-1)
    return values[:, known].mean(-1) if known.any() else np.full(len(values), np.nan)
