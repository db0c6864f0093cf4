"""Drawing heads of a filter in Matplotlib axes, which is imported when something is drawn."""

import dataclasses
import functools
import io
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Bool, Float

from jattn.drawing.bins import oracle_mass
from jattn.drawing.look import ACCENT, INVALID, ramp_colours, token_label
from jattn.filters.cells import SCALES, Ink, View, check_scale, compute_cells, counted, make_view, oracle_filter
from jattn.rules.masks import MaskLike

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from jattn.filters.filter import AttentionFilter

SMALL_CELL = 3
"""The side of a cell, in points, below which it is too small for a line around it."""


def plot(
    filter: "AttentionFilter",
    axes: "Axes | None" = None,
    *,
    head: int | Sequence[int] | None = None,
    entry: int | tuple[int, ...] | None = None,
    rows: slice | None = None,
    columns: slice | None = None,
    queries: Sequence[Any] | None = None,
    keys: Sequence[Any] | None = None,
    oracle: MaskLike | None = None,
    scale: str = "chance",
    title: str | None = None,
) -> Any:
    """Draws heads of one batch entry of a filter: a row per query, a column per key, ink for weights.

    What has more than `CELLS` rows or columns is pooled into cells of the same size, but for a few, and the title says
    so. The axes count positions all the same. ``axes.images[0]`` holds the weights of the cells, its norm the scale.

    Args:
      filter: the filter; ``filter.plot(...)`` does the same.
      axes: Matplotlib axes to draw one head in. Without them a figure is made, which is none of `matplotlib.pyplot`'s
        and so need not be closed: a notebook shows it, and ``savefig`` writes it.
      head: one head, or several, for which a figure is made; by default all of them, but no more than `HEADS`.
      entry: which batch entry: an int, or an int for each batch axis; the first by default.
      rows, columns: the part to look at, as slices of the queries and of the keys. Only its rows are computed.
      queries: the token of each query of the whole filter.
      keys: the token of each key; by default `queries`, if there are as many keys.
      oracle: cells to outline: a mask, or an array that broadcasts to ``[*batch, N, T, S]`` and is not zero there. A
        cell of many weights is outlined if any of them is in the oracle; around small cells the line keeps a distance.
      scale: which weight is which ink, one of `SCALES`.
      title: what to write above.

    Returns:
      The axes; where none were given, the figure.

    Raises:
      ValueError: if an index is out of range, there are too few labels or too many, the filter holds no weights, or is
        being traced.
      TypeError: if an argument has the wrong type.

    Example:
      >>> import jax
      >>> from jattn import attention_filter, masks
      >>> from jattn.filters import plots as pictures
      >>> query, key = jax.random.normal(jax.random.key(0), (2, 600, 4, 16))
      >>> figure = pictures.plot(attention_filter(query, key, mask=masks.causal()), head=2)
      >>> figure.texts[1].get_text()
      'head 2 of 4; each cell 3 queries x 3 keys'
      >>> figure = pictures.plot(attention_filter(query, key), rows=slice(100, 110), columns=slice(50, 80))
      >>> len(figure.axes), figure.axes[0].images[0].get_array().shape
      (5, (10, 30))
    """
    if axes is not None and not hasattr(axes, "imshow"):
        raise TypeError(f"axes: expected Matplotlib axes, got {type(axes).__name__}")
    view = make_view(filter, head, entry, rows, columns)
    if axes is not None and len(view.heads) > 1:
        raise ValueError(f"head: expected one of the {filter.shape[-3]} heads where axes are given, got {head!r}")
    labels = _labels(view, queries, keys)
    check_scale(scale)
    outlined = None if oracle is None else compute_cells(oracle_filter(oracle, filter), view) > 0
    cells = compute_cells(filter, view)
    picture = _Picture(view, cells, outlined, labels, SCALES[scale](cells, view.chance), title)
    return picture.draw_figure() if axes is None else picture.draw_in(axes)


def _labels(view: View, queries: Any, keys: Any) -> tuple[list[str] | None, list[str] | None]:
    """Returns the labels of the rows and columns in view, or None, where there are no labels."""
    num_queries, num_keys = view.shape[-2:]
    if keys is None and num_queries == num_keys:
        keys = queries
    labels = []
    for name, tokens, part, size in (
        ("queries", queries, view.rows, num_queries),
        ("keys", keys, view.columns, num_keys),
    ):
        if tokens is None:
            labels.append(None)
            continue
        if not hasattr(tokens, "__len__") or len(tokens) != size:
            came = f"{len(tokens)} of them" if hasattr(tokens, "__len__") else type(tokens).__name__
            raise ValueError(f"{name}: expected a label for each of {size}, got {came}")
        # A cell of many tokens has no label: its place is named.
        labels.append(None if view.pooled else [token_label(str(tokens[index])) for index in part])
    return labels[0], labels[1]


@dataclasses.dataclass(frozen=True)
class _Picture:
    """Holds what is drawn of a filter, and draws it. Sizes are in inches, from the upper left corner."""

    view: View
    cells: Float[np.ndarray, "heads q_bins k_bins"]
    outlined: Bool[np.ndarray, "heads q_bins k_bins"] | None
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

    def draw_figure(self) -> "Figure":
        """Draws the heads in rows of up to four, and beside them what the inks mean."""
        from jattn.drawing.look import GREY, INK

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
        default = f"attention filter, {counted(num_queries, 'query')} x {counted(num_keys, 'key')}"
        return default if self.title is None else self.title, "; ".join(notes)

    def _draw_head(self, axes: "Axes", panel: int, cell: np.ndarray, labelled: tuple[bool, bool]) -> None:
        """Draws the cells of a head, and what stands beside and below them."""
        from matplotlib.colors import ListedColormap, PowerNorm

        from jattn.drawing.look import FAINT, GREY

        rows, columns = self.view.rows, self.view.columns
        extent = (columns.start - 0.5, columns.stop - 0.5, rows.stop - 0.5, rows.start - 0.5)
        axes.imshow(
            np.ma.masked_invalid(self.cells[panel]),
            cmap=ListedColormap(ramp_colours(256) / 255).with_extremes(bad=INVALID),
            norm=PowerNorm(self.ink.exponent, 0, self.ink.top, clip=True),
            aspect="auto",
            extent=extent,
        )
        if self.outlined is not None:
            self._draw_outline(axes, self.outlined[panel], 72 * cell.min())
        axes.spines[:].set(color=FAINT, linewidth=0.6)
        axes.tick_params(labelleft=labelled[0], labelbottom=labelled[1], length=0, pad=2.5, labelsize=7.5)
        axes.tick_params(labelcolor=GREY)
        for side, axis, name in ((0, axes.yaxis, "query"), (1, axes.xaxis, "key")):
            self._name_positions(axis, side, 72 * cell[side])
            axis.set_label_text(name if labelled[side] else "", fontsize=8, color=GREY)

    def _name_positions(self, axis: Any, side: int, points: float) -> None:
        """Names as many cells as there is room for, or else positions."""
        from matplotlib.ticker import FuncFormatter, MaxNLocator

        from jattn.drawing.look import GREY

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

    def _draw_outline(self, axes: "Axes", outlined: Bool[np.ndarray, "q_bins k_bins"], points: float) -> None:
        """Draws the border between the cells that are in the oracle and the others."""
        from matplotlib.collections import LineCollection
        from matplotlib.transforms import Bbox, TransformedBbox

        if points < SMALL_CELL:
            # Around cells that a line would hide it runs at a distance.
            away = round(2 / points)
            around = np.lib.stride_tricks.sliding_window_view(np.pad(outlined, away), (2 * away + 1, 2 * away + 1))
            outlined = np.asarray(around.any(axis=(-2, -1)))
        inside = np.pad(outlined, 1)
        y, x = (
            np.linspace(part.start, part.stop, bins + 1) - 0.5
            for part, bins in zip((self.view.rows, self.view.columns), self.view.bins, strict=True)
        )
        upright = [((x[j], y[i]), (x[j], y[i + 1])) for i, j in np.argwhere(inside[1:-1, 1:] != inside[1:-1, :-1])]
        level = [((x[j], y[i]), (x[j + 1], y[i])) for i, j in np.argwhere(inside[1:, 1:-1] != inside[:-1, 1:-1])]
        width = min(max(0.14 * points, 0.7), 1.8)
        lines = LineCollection(upright + level, colors=ACCENT, linewidths=width, capstyle="projecting")
        axes.add_collection(lines)
        lines.set_clip_box(TransformedBbox(Bbox([[-0.01, -0.01], [1.01, 1.01]]), axes.transAxes))

    def _draw_bar(self, axes: "Axes") -> None:
        """Draws the ramp, and a few weights beside their inks."""
        from jattn.drawing.look import FAINT, GREY

        axes.imshow(ramp_colours(256)[::-1, None], aspect="auto", extent=(0, 1, 0, 1))
        weights: list[float] = []
        for weight in self.ink.top * np.array([0, 1, 0.5, 0.1, 0.01, 0.001]):
            if all(abs(self.ink(weight) - self.ink(other)) > 0.12 for other in weights):
                weights.append(weight)
        axes.set_xticks([])
        axes.set_yticks(list(map(self.ink, weights)), [f"{w:.2g}" for w in weights], fontsize=7, color=GREY)
        axes.tick_params(labelright=True, labelleft=False, length=0, pad=2.5)
        axes.spines[:].set(color=FAINT, linewidth=0.6)
        axes.set_title("weight", fontsize=8, color=GREY, loc="left", pad=7)


@functools.cache
def _figure_class() -> type["Figure"]:
    """Makes a figure that a notebook shows although pyplot does not know it."""
    from matplotlib.figure import Figure

    from jattn.drawing.look import save_figure

    class FilterFigure(Figure):
        def _repr_png_(self) -> bytes:
            file = io.BytesIO()
            save_figure(self, file)
            return file.getvalue()

    return FilterFigure
