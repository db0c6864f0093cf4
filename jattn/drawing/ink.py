"""Which weight is which ink, from white paper to the darkest of the ramp."""

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import numpy as np


@dataclasses.dataclass(frozen=True)
class Ink:
    """Says which weight is which ink, from 0, white paper, to 1: ``(w / top)^exponent``; non-finite weights get NaN.

    Example:
      >>> float(Ink(0.5)(0.25)), str(Ink(0.5)), str(Ink(1.0, top=0.2))
      (0.5, 'weight^0.5', '(weight / 0.2)')
    """

    exponent: float
    top: float = 1.0

    def __call__(self, weights: Any) -> Any:
        ink = np.clip(np.divide(weights, self.top), 0, 1) ** self.exponent
        return np.where(np.isfinite(weights), ink, np.nan)

    def __str__(self) -> str:
        power = "" if self.exponent == 1 else f"^{self.exponent:.3g}"
        return f"weight{power}" if self.top == 1 else f"(weight / {self.top:.3g}){power}"


def _by_chance(cells: np.ndarray, chance: float) -> Ink:
    return Ink(min(max(math.log(0.25) / math.log(chance), 0.2), 1.0) if chance < 1 else 1.0)


def _by_largest(cells: np.ndarray, chance: float) -> Ink:
    largest = np.max(cells, initial=0, where=np.isfinite(cells))
    return Ink(1.0, float(largest) if largest > 0 else 1.0)


SCALES: dict[str, Callable[[np.ndarray, float], Ink]] = {
    "chance": _by_chance,
    "linear": lambda cells, chance: Ink(1.0),
    "sqrt": lambda cells, chance: Ink(0.5),
    "max": _by_largest,
}
"""Which weight is which ink. Weight 0 is white on every scale, weights beyond the darkest are as dark as that, and
those that are not numbers have a colour apart.

- ``"chance"``: ``ink = w^p``, the exponent such that chance, what a cell gets from a query that looks at all keys
  alike, has a quarter of the ink: ``p = ln 4 / ln n`` for ``n`` columns of cells in the whole filter, kept between 1
  (``n = 4``) and 1/5 (``n = 1024``). It depends on sizes alone, so pictures can be compared.
- ``"linear"``: ``ink = w``. A filter that looks at many keys is nearly white.
- ``"sqrt"``: ``ink = √w``, as in the maps of a run's report.
- ``"max"``: ``ink = w / largest``, of all weights in the picture. The first query of a causal filter has weight 1 on
  itself, so of the whole of one it is the same as ``"linear"``.
"""


def check_scale(scale: Any) -> None:
    if not isinstance(scale, str) or scale not in SCALES:
        raise ValueError(f"scale: expected one of {', '.join(SCALES)}, got {scale!r}")


LINEAR, ROOTED = Ink(1.0), Ink(0.5)
"""The inks of a run's report: in proportion to weight and, in pooled maps, to its root.

At length a filter spreads its weight over many cells; in proportion to weight they would be all but white.
"""
