"""The painter of heat maps: a cell of ink per weight, the ramp that says what ink means, the outline of the oracle."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from jattn.drawing.ink import Ink
from jattn.drawing.look import ACCENT, FAINT, GREY, INVALID, ramp_colours

if TYPE_CHECKING:
    from matplotlib.axes import Axes

SMALL_CELL = 3
"""The side of a cell, in points, below which it is too small for a line around it."""


def paint_cells(
    axes: "Axes",
    cells: np.ndarray,
    ink: Ink,
    extent: tuple[float, float, float, float] | None = None,
    interpolation: str | None = None,
) -> None:
    """Paints weights ``[rows, columns]`` over all of some axes; ``axes.images[-1]`` holds them, its norm the ink.

    Args:
      axes: Matplotlib axes.
      cells: weights; those that are no finite numbers have a colour apart.
      ink: which weight is which ink.
      extent: the positions of the left, right, lower and upper edge; by default a cell is one position.
      interpolation: as Matplotlib's ``imshow`` takes it.
    """
    from matplotlib.colors import ListedColormap, PowerNorm

    axes.imshow(
        np.ma.masked_invalid(cells),
        cmap=ListedColormap(ramp_colours(256) / 255).with_extremes(bad=INVALID),
        norm=PowerNorm(ink.exponent, 0, ink.top, clip=True),
        aspect="auto",
        extent=extent,
        interpolation=interpolation,
    )


def draw_ramp(axes: "Axes", ink: Ink, weights: Sequence[float], labels: Sequence[str]) -> None:
    """Draws the ramp from white to the darkest ink, and some weights beside their inks."""
    axes.imshow(ramp_colours(256)[::-1, None], aspect="auto", extent=(0, 1, 0, 1))
    axes.set_xticks([])
    axes.set_yticks(ink(np.array(weights)), labels, fontsize=7, color=GREY)
    axes.tick_params(labelright=True, labelleft=False, length=0, pad=2.5)
    axes.spines[:].set(color=FAINT, linewidth=0.6)
    axes.set_title("weight", fontsize=8, color=GREY, loc="left", pad=7)


def outline_cells(axes: "Axes", chosen: np.ndarray, rows: range, columns: range, points: float) -> None:
    """Draws the border between chosen cells and the others.

    Args:
      axes: Matplotlib axes whose positions are those of queries and keys.
      chosen: bool ``[q_bins, k_bins]``.
      rows, columns: the positions that all the cells stand for.
      points: the side of a cell, in points.
    """
    from matplotlib.collections import LineCollection
    from matplotlib.transforms import Bbox, TransformedBbox

    if points < SMALL_CELL:
        # Around cells that a line would hide it runs at a distance.
        away = round(2 / points)
        around = np.lib.stride_tricks.sliding_window_view(np.pad(chosen, away), (2 * away + 1, 2 * away + 1))
        chosen = np.asarray(around.any(axis=(-2, -1)))
    inside = np.pad(chosen, 1)
    y, x = (
        np.linspace(part.start, part.stop, bins + 1) - 0.5
        for part, bins in zip((rows, columns), chosen.shape, strict=True)
    )
    upright = [((x[j], y[i]), (x[j], y[i + 1])) for i, j in np.argwhere(inside[1:-1, 1:] != inside[1:-1, :-1])]
    level = [((x[j], y[i]), (x[j + 1], y[i])) for i, j in np.argwhere(inside[1:, 1:-1] != inside[:-1, 1:-1])]
    width = min(max(0.14 * points, 0.7), 1.8)
    lines = LineCollection(upright + level, colors=ACCENT, linewidths=width, capstyle="projecting")
    axes.add_collection(lines)
    lines.set_clip_box(TransformedBbox(Bbox([[-0.01, -0.01], [1.01, 1.01]]), axes.transAxes))
