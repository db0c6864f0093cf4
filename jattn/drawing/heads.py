"""Heads of a filter in a figure: their cells, what stands beside and below them, and what the inks mean."""

import dataclasses
import functools
import io
import math
from typing import TYPE_CHECKING, Any

import numpy as np

from jattn.drawing.bins import oracle_mass
from jattn.drawing.hatching import HATCHED, hatch_cells
from jattn.drawing.heat_maps import draw_ramp, outline_cells, paint_cells
from jattn.drawing.ink import Ink
from jattn.drawing.look import FAINT, GREY, INK, in_own_style, save_figure
from jattn.drawing.view import View, counted

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


@dataclasses.dataclass(frozen=True)
class HeadsPicture:
    """Holds what is drawn of a filter, and draws it. Sizes are in inches, from the upper left corner."""

    view: View
    cells: np.ndarray
    hidden: np.ndarray | None
    outlined: np.ndarray | None
    labels: tuple[list[str] | None, list[str] | None]
    ink: Ink
    title: str | None

    RIGHT, CAPTION, GAP = 0.95, 0.26, 0.2

    def draw_in(self, axes: "Axes") -> "Axes":
        """Draws the one head in the caller's axes."""
        sides = len(self.view.rows), len(self.view.columns)
        square = 1 / 4 <= sides[0] / sides[1] <= 4
        box = axes.get_window_extent()
        cell = np.divide((box.height, box.width), self.view.bins) / axes.figure.dpi
        self._draw_head(axes, 0, np.full(2, cell.min()) if square else cell, (True, True))
        axes.set_aspect("equal" if square else "auto")
        title = self._name(0) if self.title is None else self.title
        lines = [title, self.view.cell] if self.view.pooled else [title]
        axes.set_title("\n".join(lines), fontsize=9, loc="left", parse_math=False, wrap=True)
        return axes

    @in_own_style
    def draw_figure(self) -> "Figure":
        """Draws the heads in rows of up to four, and beside them what the inks mean."""
        count, (left, below) = len(self.view.heads), map(self._room_for_labels, (0, 1))
        down = math.ceil(count / 4)
        across, (height, width) = math.ceil(count / down), self._panel_size()
        stride = np.array([width + self.GAP, height + self.CAPTION])
        heading, note = self._heading()
        top = self.CAPTION + (0.62 if note else 0.4)
        whole = max(left + across * stride[0] + self.RIGHT, 4.8), top + down * stride[1] - self.CAPTION + below
        figure = _figure_class()(whole, facecolor="white")

        def add_axes(x: float, y: float, width: float, height: float) -> "Axes":
            return figure.add_axes((x / whole[0], 1 - (y + height) / whole[1], width / whole[0], height / whole[1]))

        for panel in range(count):
            row, column = divmod(panel, across)
            axes = add_axes(left + column * stride[0], top + row * stride[1], width, height)
            last_of_column = panel + across >= count
            self._draw_head(axes, panel, np.divide((height, width), self.view.bins), (column == 0, last_of_column))
            caption = self._name(panel) if count > 1 else self._mass(panel)
            axes.set_title(caption, fontsize=8, color=GREY, loc="left", pad=3)
        self._draw_bar(add_axes(left + across * stride[0], top, 0.11, min(1.5, height)))
        style = {"x": left / whole[0], "parse_math": False}
        figure.text(y=1 - 0.3 / whole[1], s=heading, fontsize=10, weight="bold", color=INK, **style)
        figure.text(y=1 - 0.54 / whole[1], s=note, fontsize=8.5, color=GREY, **style)
        return figure

    def _panel_size(self) -> tuple[float, float]:
        sides, one = np.array([len(self.view.rows), len(self.view.columns)]), len(self.view.heads) == 1
        longest = {1: 3.8, 2: 3.0}.get(len(self.view.heads), 2.3)
        if any(self.labels):
            longest = min(max(0.24 * sides.max(), 2.0), 6.5 if one else 3.4)
        height, width = np.maximum(longest * sides / sides.max(), min(longest, 1.0))
        return height, width

    def _room_for_labels(self, side: int) -> float:
        labels = self.labels[side]
        return 0.62 - 0.1 * side if labels is None else 0.42 + 0.075 * max(map(len, labels))

    def _name(self, panel: int) -> str:
        return "; ".join(filter(None, [f"head {self.view.heads[panel]}", self._mass(panel)]))

    def _mass(self, panel: int) -> str:
        """Says how much weight is on the oracle, where all of it is seen."""
        if self.outlined is None or self.view.pooled or len(self.view.columns) < self.view.shape[-1]:
            return ""
        mass = oracle_mass(self.cells[panel][None], self.outlined[panel])[0]
        return f"mass on the oracle {mass:.2f}"

    def _heading(self) -> tuple[str, str]:
        *batch, num_heads, num_queries, num_keys = self.view.shape
        shown, notes = self.view.heads, []
        if len(shown) < num_heads:
            notes.append(f"head {shown[0]} of {num_heads}" if len(shown) == 1 else f"{len(shown)} of {num_heads} heads")
        if math.prod(batch) > 1:
            entry, sizes = (x[0] if len(batch) == 1 else tuple(x) for x in (self.view.entry, batch))
            notes.append(f"entry {entry} of {sizes}")
        if self.view.pooled:
            notes.append(self.view.cell)
        if self.hidden is not None and self.hidden.any():
            notes.append(HATCHED)
        default = f"attention filter, {counted(num_queries, 'query')} x {counted(num_keys, 'key')}"
        return default if self.title is None else self.title, "; ".join(notes)

    def _draw_head(self, axes: "Axes", panel: int, cell: np.ndarray, labelled: tuple[bool, bool]) -> None:
        """Draws the cells of a head, and what stands beside and below them."""
        rows, columns = self.view.rows, self.view.columns
        extent = (columns.start - 0.5, columns.stop - 0.5, rows.stop - 0.5, rows.start - 0.5)
        paint_cells(axes, self.cells[panel], self.ink, extent)
        if self.hidden is not None:
            hatch_cells(axes, self.hidden[panel], extent)
        if self.outlined is not None:
            outline_cells(axes, self.outlined[panel], rows, columns, 72 * cell.min())
        axes.spines[:].set(color=FAINT, linewidth=0.6)
        axes.tick_params(labelleft=labelled[0], labelbottom=labelled[1], length=0, pad=2.5, labelsize=7.5)
        axes.tick_params(labelcolor=GREY)
        for side, axis, name in ((0, axes.yaxis, "query"), (1, axes.xaxis, "key")):
            self._name_positions(axis, side, 72 * cell[side])
            axis.set_label_text(name if labelled[side] else "", fontsize=8, color=GREY)

    def _name_positions(self, axis: Any, side: int, points: float) -> None:
        """Names as many cells as there is room for, or else positions."""
        from matplotlib.ticker import FuncFormatter, MaxNLocator

        labels, part = self.labels[side], (self.view.rows, self.view.columns)[side]
        if labels is None:
            room = points * self.view.bins[side] / (20 if side == 0 else 34)
            nbins = int(min(max(room, 1), 8))
            axis.set_major_locator(MaxNLocator(nbins, steps=[1, 2, 2.5, 5, 10], integer=True, min_n_ticks=1))
            axis.set_major_formatter(FuncFormatter(lambda position, _: f"{position:,.0f}"))
            return
        every = math.ceil(6 / points)
        upright = 90 if side == 1 and max(map(len, labels)) * 4.5 > every * points else 0
        style = {"fontsize": min(9.0, max(5.0, 0.75 * points)), "color": GREY, "rotation": upright}
        axis.set_ticks(part[::every], labels[::every], parse_math=False, **style)

    def _draw_bar(self, axes: "Axes") -> None:
        """Draws the ramp, and a few weights beside their inks."""
        weights: list[float] = []
        for weight in self.ink.top * np.array([0, 1, 0.5, 0.1, 0.01, 0.001]):
            if all(abs(self.ink(weight) - self.ink(other)) > 0.12 for other in weights):
                weights.append(weight)
        draw_ramp(axes, self.ink, weights, [f"{w:.2g}" for w in weights])


@functools.cache
def _figure_class() -> type["Figure"]:
    """Makes a figure that a notebook shows although pyplot does not know it."""
    from matplotlib.figure import Figure

    class FilterFigure(Figure):
        def _repr_png_(self) -> bytes:
            file = io.BytesIO()
            save_figure(self, file)
            return file.getvalue()

    return FilterFigure
