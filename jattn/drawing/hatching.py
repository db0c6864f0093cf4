"""Hatching: cells that may not be attended look different from small weights, in figures as in images of pixels."""

from typing import TYPE_CHECKING

import numpy as np

from jattn.drawing.look import HATCH, HATCH_PAPER

if TYPE_CHECKING:
    from matplotlib.axes import Axes

GAP = 6
"""From one line of the hatching to the next along a row, in pixels."""

HATCHED = "hatched: may not be attended"
"""What a picture with hatched cells says beside it."""


def hatch_cells(axes: "Axes", hidden: np.ndarray, extent: tuple[float, float, float, float] | None = None) -> None:
    """Hatches cells of some axes.

    Args:
      axes: Matplotlib axes.
      hidden: which cells may not be attended, bool ``[rows, columns]``.
      extent: the positions of the left, right, lower and upper edge; by default a cell is one position.
    """
    import matplotlib
    from matplotlib.collections import PolyCollection

    rows, columns = hidden.shape
    left, right, lower, upper = extent or (-0.5, columns - 0.5, rows - 0.5, -0.5)
    x, y = np.linspace(left, right, columns + 1), np.linspace(upper, lower, rows + 1)
    boxes = [
        [(x[first], y[row]), (x[stop], y[row]), (x[stop], y[row + 1]), (x[first], y[row + 1])]
        for row, cells in enumerate(hidden)
        for first, stop in _runs(cells)
    ]
    if not boxes:
        return
    look = {"facecolor": HATCH_PAPER, "edgecolor": HATCH, "linewidth": 0, "antialiased": False}
    with matplotlib.rc_context({"hatch.linewidth": 0.5}):
        axes.add_collection(PolyCollection(boxes, hatch="/" * 6, **look), autolim=False)


def hatch_pixels(hidden: np.ndarray, side: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns which pixels are paper and which are lines where cells have `side` pixels: bool ``[height, width]`` each.

    Example:
      >>> paper, lines = hatch_pixels(np.array([[False, True]]), 3)
      >>> lines.astype(int)
      array([[0, 0, 0, 0, 0, 1],
             [0, 0, 0, 0, 1, 0],
             [0, 0, 0, 1, 0, 0]])
      >>> int(paper.sum() + lines.sum())
      9
    """
    inside = hidden.repeat(side, axis=0).repeat(side, axis=1)
    on_line = np.add.outer(np.arange(inside.shape[0]), np.arange(inside.shape[1])) % GAP == GAP - 1
    return inside & ~on_line, inside & on_line


def _runs(cells: np.ndarray) -> np.ndarray:
    """Returns the first cell of each run of True and the one after its last: ``[runs, 2]``.

    Example:
      >>> _runs(np.array([True, True, False, True])).tolist()
      [[0, 2], [3, 4]]
    """
    return np.flatnonzero(np.diff(cells, prepend=False, append=False)).reshape(-1, 2)
