"""The figures of a run: its filters at a few steps, and its curves."""

import math
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure

from jattn.drawing.bins import bin_labels, bin_starts, tick_bins
from jattn.drawing.hatching import hatch_cells
from jattn.drawing.heat_maps import draw_ramp, paint_cells
from jattn.drawing.lines import style_panel
from jattn.drawing.look import ACCENT, DPI, FAINT, GREY, INK, RAMP, in_own_style, token_label
from jattn.report.curves import Curve, Panel, run_panels
from jattn.report.measures import measure, oracle_matrix
from jattn.report.pictures import Spots, choose_spots
from jattn.report.record import Layer, RunRecord
from jattn.report.selection import Head, choose_heads, choose_turn, omission

HEADS = 16
"""The most heads that the figure of filters shows."""

SPOT = (1.25, 1.42)
"""The room of a picture with the weights of one query over it, in inches."""

COLOURS = {"ink": INK, "blue": RAMP[3], "oracle": ACCENT, "faint": FAINT}


@dataclass(frozen=True)
class _Sheet:
    """Holds the figure of filters and its geometry in inches, from the upper left corner.

    Args:
      figure: the figure, of its final size.
      record: the run.
      cell: the side of a cell.
      stride: from one column of panels to the next.
      tops: the upper edge of the cells of each row of panels.
      bottom: where the panels end, and pictures begin if there are any.
    """

    figure: Figure
    record: RunRecord
    cell: float
    stride: float
    tops: list[float]
    bottom: float

    LEFT, RIGHT, TOP, GAP, CAPTION = 1.2, 0.75, 0.72, 0.22, 0.3

    def left(self, column: int) -> float:
        """Returns the left edge of a column of panels."""
        return self.LEFT + column * self.stride

    def place(self, x: float, y: float) -> tuple[float, float]:
        """Returns a point as parts of the figure, from its lower left corner, as Matplotlib counts."""
        width, height = self.figure.get_size_inches()
        return x / width, 1 - y / height

    def add_axes(self, x: float, y: float, width: float, height: float) -> Axes:
        """Adds axes whose upper left corner is at x, y."""
        (left, bottom), (right, top) = self.place(x, y + height), self.place(x + width, y)
        axes = self.figure.add_axes((left, bottom, right - left, top - bottom))
        axes.spines[:].set(color=FAINT, linewidth=0.6)
        axes.tick_params(length=0, pad=2.5)
        return axes


@in_own_style
def draw_filters(record: RunRecord) -> Figure:
    """Draws the filters of the first example: one row per head; first, halfway and last snapshot, and the oracle."""
    heads = choose_heads(record, HEADS)
    snapshots = choose_turn(record)
    sheet = _plan_sheet(record, heads, len(snapshots))
    _write_heading(sheet, heads, snapshots)
    for row, head in enumerate(heads):
        for column, snapshot in enumerate(snapshots):
            _draw_filter(_add_panel(sheet, head, row, column), record, head, snapshot)
        if head.layer.oracle:
            _draw_oracle(_add_panel(sheet, head, row, len(snapshots)), record, head)
    _draw_colour_bar(sheet)
    spots = choose_spots(record)
    if spots:
        for row, snapshot in enumerate(snapshots):
            _draw_spots(sheet, spots, row, snapshot)
    return sheet.figure


def _plan_sheet(record: RunRecord, heads: list[Head], snapshots: int) -> _Sheet:
    sizes = [record.bins(head.layer, 0) for head in heads]
    columns_of_cells = max(keys for _, keys in sizes)
    side = max(max(size) for size in sizes)
    cell = _cell_side(side, len(heads), record.has_maps)
    stride = max(columns_of_cells * cell, 1.1) + _Sheet.GAP
    whole = {layer for layer in (head.layer for head in heads) if not record.is_pooled(layer)}
    sequences = record.probes.examples[0].sequences
    longest = max((len(token_label(token)) for layer in whole for token in sequences[layer.keys]), default=0)
    tops, y = [], _Sheet.TOP
    for head, (count, _) in zip(heads, sizes, strict=True):
        tops.append(y + _Sheet.CAPTION)
        # Names stand upright beside their rows, of which few are less high than a name is long.
        height = max(count * cell, 0.1 + 0.066 * len(head.layer.name) - _Sheet.CAPTION)
        y = tops[-1] + height + (0 if not head.last else 0.42 if longest <= 2 else 0.72)
    columns = snapshots + any(head.layer.oracle for head in heads)
    width, bottom = _Sheet.LEFT + columns * stride + _Sheet.RIGHT, y + 0.12
    spots = choose_spots(record)
    if spots:
        width = max(width, _Sheet.LEFT + spots.count * SPOT[0] + 0.2)
        y += snapshots * SPOT[1] + 0.4
    return _Sheet(Figure((width, y + 0.12), facecolor="white"), record, cell, stride, tops, bottom)


def _cell_side(side: int, heads: int, pooled: bool) -> float:
    """Returns the side of a cell where a picture has `side` of them: of pooled ones a whole number of pixels."""
    room = 3.2 if heads <= 4 else 2.4
    if pooled:
        return max(1, round(room * DPI / side)) / DPI
    return max(min(0.15 * side, room), 1.5) / side


def _write_heading(sheet: _Sheet, heads: list[Head], snapshots: list[int]) -> None:
    words = [
        "attention filters of one example: a row per query, a column per key",
        sheet.record.pooling((head.layer for head in heads), 0),
        sheet.record.hatching((head.layer for head in heads), 0),
        omission(sheet.record, len(heads)),
    ]
    text = "; ".join(word for word in words if word)
    sheet.figure.text(*sheet.place(sheet.LEFT, 0.3), text, fontsize=8.5, color=GREY)
    for column, snapshot in enumerate(snapshots):
        title = f"step {sheet.record.steps[snapshot]:,}"
        sheet.figure.text(*sheet.place(sheet.left(column), 0.68), title, fontsize=11, weight="bold", color=INK)
    if any(head.layer.oracle for head in heads):
        place = sheet.place(sheet.left(len(snapshots)), 0.68)
        sheet.figure.text(*place, "oracle", fontsize=11, weight="bold", color=ACCENT)


def _add_panel(sheet: _Sheet, head: Head, row: int, column: int) -> Axes:
    """Adds the axes of one filter: with its queries in the first column, with its keys under the last of a layer."""
    record = sheet.record
    height, width = (count * sheet.cell for count in record.bins(head.layer, 0))
    axes = sheet.add_axes(sheet.left(column), sheet.tops[row], width, height)
    size = 6.5 if record.is_pooled(head.layer) else min(8.0, max(5.0, 0.8 * 72 * sheet.cell))
    style = {"fontsize": size, "color": GREY, "parse_math": False}
    axes.set(xticks=[], yticks=[])
    if head.last:
        places, labels = _ticks(sheet, head.layer, 1)
        letters = max(map(len, labels))
        # Two letters stand side by side where they leave a gap to the next column.
        crowded = letters > 2 or (letters == 2 and 1.2 * size + 2 > 72 * sheet.cell)
        upright = crowded and not record.is_pooled(head.layer)
        axes.set_xticks(places, labels, rotation=90 if upright else 0, **style)
        axes.set_xlabel("key", fontsize=8, color=GREY)
        if record.is_pooled(head.layer):
            for place, label in zip(places, axes.get_xticklabels(), strict=True):
                ends = {0: "left", record.bins(head.layer, 0)[1] - 1: "right"}
                label.set(horizontalalignment=ends.get(place, "center"))
    if column == 0:
        axes.set_yticks(*_ticks(sheet, head.layer, 0), **style)
        axes.set_ylabel("query", fontsize=8, color=GREY)
        words, place = f"{head.layer.name}\nhead {head.head}", sheet.place(0.12, sheet.tops[row] + height / 2)
        sheet.figure.text(*place, words, fontsize=8, color=INK, rotation=90, va="center", parse_math=False)
    return axes


def _ticks(sheet: _Sheet, layer: Layer, side: int) -> tuple[list[int], list[str]]:
    """Returns where labels stand along the queries (0) or keys (1) and what they say: tokens, or positions of bins."""
    record = sheet.record
    bins, count = record.bins(layer, 0)[side], record.counts(layer, 0)[side]
    if record.is_pooled(layer):
        places, labels = tick_bins(bins, int(bins * sheet.cell / (0.14, 0.7)[side])), bin_labels(bins, count)
        return places, [labels[place] for place in places]
    tokens = record.probes.examples[0].sequences[(layer.queries, layer.keys)[side]]
    every = math.ceil(5.5 / (72 * sheet.cell))
    return list(range(0, count, every)), [token_label(token) for token in tokens[::every]]


def _draw_filter(axes: Axes, record: RunRecord, head: Head, snapshot: int) -> None:
    cells = record.picture(snapshot, head.layer, 0)[head.head]
    way = "nearest" if record.is_pooled(head.layer) else None
    paint_cells(axes, cells, record.ink, interpolation=way)
    hidden = record.hidden(head.layer, 0)
    if hidden is not None:
        hatch_cells(axes, hidden)
    if head.layer.oracle:
        mass = measure(record, snapshot, head.layer, 0)["mass"][head.head]
        axes.set_title(f"mass on the oracle {mass:.2f}", fontsize=8, color=GREY, loc="left", pad=3)


def _draw_oracle(axes: Axes, record: RunRecord, head: Head) -> None:
    """Fills the cells of the oracle, and shades the queries that are not scored."""
    example, bins = record.probes.examples[0], record.bins(head.layer, 0)
    matrix = oracle_matrix(head.layer, example, bins)
    way = "nearest" if record.is_pooled(head.layer) else None
    axes.imshow(np.where(matrix, 1.0, np.nan), cmap=ListedColormap([ACCENT]), aspect="auto", interpolation=way)
    scored = np.logical_or.reduceat(example.scored, bin_starts(bins[0], len(example.scored)))
    for row in np.flatnonzero(~scored):
        axes.axhspan(row - 0.5, row + 0.5, color="#f1efea", linewidth=0)
    note = "" if all(example.scored) else "grey: not scored"
    axes.set_title(note, fontsize=8, color=GREY, loc="left", pad=3)


def _draw_spots(sheet: _Sheet, spots: Spots, row: int, snapshot: int) -> None:
    """Draws the picture once for each query, with what the query reads and what the model says there."""
    y = sheet.bottom + 0.4 + row * SPOT[1]
    if row == 0:
        words = f"{spots.layer.name}, head {spots.head}, over the picture: a patch is as clear as its weight"
        sheet.figure.text(*sheet.place(sheet.LEFT, y - 0.14), words, fontsize=8.5, color=GREY, parse_math=False)
    step = f"step {spots.record.steps[snapshot]:,}"
    sheet.figure.text(*sheet.place(0.12, y + 0.5), step, fontsize=9, weight="bold", color=INK)
    for column, (image, (reads, says, right)) in enumerate(
        zip(spots.images(snapshot, 144), spots.labels(snapshot), strict=True)
    ):
        x = sheet.LEFT + column * SPOT[0]
        axes = sheet.add_axes(x, y, SPOT[0] - 0.12, SPOT[0] - 0.12)
        axes.imshow(image, interpolation="nearest")
        axes.set(xticks=[], yticks=[])
        style = {"fontsize": 7.5, "color": INK if right else ACCENT, "parse_math": False}
        words = f"{token_label(reads, 8)} → {token_label(says, 9)}{'' if right else ' ✗'}"
        sheet.figure.text(*sheet.place(x, y + SPOT[0] + 0.04), words, **style)


def _draw_colour_bar(sheet: _Sheet) -> None:
    """Draws the ramp beside the first row of panels."""
    width, height = sheet.figure.get_size_inches()
    axes = sheet.add_axes(width - sheet.RIGHT + 0.12, sheet.tops[0], 0.11, min(1.4, height - sheet.tops[0] - 0.5))
    ticks = [0, 0.01, 0.1, 0.5, 1] if sheet.record.has_maps else [0, 0.5, 1]
    draw_ramp(axes, sheet.record.ink, ticks, [f"{tick:g}" for tick in ticks])


@in_own_style
def draw_curves(record: RunRecord) -> Figure:
    """Draws loss, accuracy and, where there are any, filter score and entropy over training steps, a panel each."""
    panels = run_panels(record)
    rows = math.ceil(len(panels) / 2)
    figure = Figure((10.5, height := 0.4 + 2.9 * rows), facecolor="white")
    grid = figure.subplots(rows, 2, squeeze=False, gridspec_kw={"hspace": 0.36, "wspace": 0.16})
    figure.subplots_adjust(left=0.06, right=0.985, top=1 - 0.43 / height, bottom=0.5 / height)
    for axes in grid.flat[len(panels) :]:
        axes.remove()
    for axes, panel in zip(grid.flat, panels, strict=False):
        _draw_panel(axes, panel)
    for axes in grid.flat[max(0, len(panels) - 2) : len(panels)]:
        axes.set_xlabel("training step", fontsize=8.5, color=GREY)
    return figure


def _draw_panel(axes: Axes, panel: Panel) -> None:
    style_panel(axes, panel.title)
    if not panel.curves:
        axes.text(0.5, 0.5, "nothing logged yet", transform=axes.transAxes, color=GREY, ha="center", fontsize=9)
        axes.set(xticks=[], yticks=[])
        return
    for curve in panel.curves:
        _draw_curve(axes, curve)
    axes.set_xlim(left=0)
    axes.set_yscale(panel.scale)
    if panel.scale == "linear":
        axes.set_ylim(0, panel.top and 1.03 * panel.top)
    entries = dict(zip(*reversed(axes.get_legend_handles_labels()), strict=True))
    axes.legend(entries.values(), entries.keys(), fontsize=8, labelcolor=GREY, frameon=False)


def _draw_curve(axes: Axes, curve: Curve) -> None:
    colour = COLOURS[curve.colour]
    if curve.dots or len(curve.steps) == 1:
        # A dot on an axis is drawn whole.
        axes.plot(curve.steps, curve.values, "o", markersize=3.5, color=colour, label=curve.label, clip_on=False)
    else:
        width = 0.8 if curve.colour == "faint" or curve.dashed else 1.6
        style = "--" if curve.dashed else "-"
        axes.plot(curve.steps, curve.values, style, linewidth=width, color=colour, label=curve.label)
