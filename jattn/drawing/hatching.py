"""Hatching: cells that may not be attended look different from small weights, in figures as in images of pixels."""

from typing import TYPE_CHECKING

import numpy as np

from jattn.drawing.look import HATCH, HATCH_PAPER

if TYPE_CHECKING:
    from matplotlib.axes import Axes

GAP = 6
"""From one line of the hatching to the next along a row, in pixels."""


def hatch_cells(axes: "Axes", hidden: np.ndarray) -> None:
    """Hatches cells of some axes on which a cell is one position.

    Args:
      axes: Matplotlib axes.
      hidden: which cells may not be attended, bool ``[rows, columns]``.
    """
    import matplotlib
    from matplotlib.collections import PolyCollection

    boxes = [
        [(start - 0.5, row + y) for start, y in ((first, -0.5), (stop, -0.5), (stop, 0.5), (first, 0.5))]
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
