"""Two texts and their filters: which tokens stand for one another, and how much of each head's weight moves."""

import difflib
from collections.abc import Sequence

import numpy as np


def align(words: Sequence[str], others: Sequence[str]) -> list[tuple[int, int]]:
    """Pairs the places of two texts: of words that both have in the same order, and of as many words in their stead.

    Example:
      >>> from jattn.study.comparing import align
      >>> align("it was too tired".split(), "it was far too wide".split())
      [(0, 0), (1, 1), (2, 3), (3, 4)]
    """
    found: list[tuple[int, int]] = []
    matcher = difflib.SequenceMatcher(None, words, others, autojunk=False)
    for kind, first, last, other_first, other_last in matcher.get_opcodes():
        if kind == "equal" or (kind == "replace" and last - first == other_last - other_first):
            found += zip(range(first, last), range(other_first, other_last), strict=True)
    return found


def changes(weights: np.ndarray, others: np.ndarray, aligned: Sequence[tuple[int, int]]) -> list[float]:
    """Returns how much of each head's weight moves: ``½ Σ |second - first|`` over keys, the mean over queries.

    Args:
      weights: of the first text ``[heads, T, T]``.
      others: of the second.
      aligned: which places of the two stand for one another; others do not count.
    """
    if not aligned:
        return [0.0] * len(weights)
    first, second = np.array(aligned).T
    moved = np.abs(others[:, second[:, None], second] - weights[:, first[:, None], first])
    return [round(float(change), 4) for change in moved.sum(-1).mean(-1) / 2]
