"""Figures of the claims: lines over seeds, each with a band from the lowest seed to the highest."""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from jattn.drawing.lines import PALETTE, STYLES, style_panel
from jattn.drawing.look import GREY
from jattn.report.outcomes import Spread


@dataclasses.dataclass(frozen=True)
class Line:
    """One line: a name in the legend, where its points stand, and how high."""

    name: str
    places: Sequence[float]
    spreads: Sequence[Spread | None]


@dataclasses.dataclass(frozen=True)
class Panel:
    """One panel; `level` draws a dashed line across, with a name."""

    title: str
    label: str
    lines: Sequence[Line]
    top: float | None = 1.0
    level: tuple[str, float] | None = None
    ticks: Sequence[float] = ()


def draw_panels(panels: Sequence[Panel], columns: int = 2, note: str = "") -> Figure:
    """Draws panels side by side; lines of one name look alike in all of them, and one legend serves all."""
    columns = min(columns, len(panels))
    rows = math.ceil(len(panels) / columns)
    names = list(dict.fromkeys(line.name for panel in panels for line in panel.lines))
    right = 0.35 if len(names) == 1 else 0.75 + 0.085 * max(map(len, names))
    width, height = 0.6 + columns * 3.7 + right, 0.55 + rows * 2.9
    figure = Figure((width, height), facecolor="white")
    grid = figure.subplots(rows, columns, squeeze=False, gridspec_kw={"hspace": 0.55, "wspace": 0.22})
    figure.subplots_adjust(0.6 / width, 0.55 / height, 1 - right / width, 1 - 0.7 / height)
    note = note or "means over seeds; bands from the lowest to the highest"
    figure.text(0.6 / width, 1 - 0.25 / height, note, fontsize=8.5, color=GREY)
    looks = {name: (PALETTE[i % len(PALETTE)], STYLES[i % len(STYLES)]) for i, name in enumerate(names)}
    for axes in grid.flat[len(panels) :]:
        axes.remove()
    for axes, panel in zip(grid.flat, panels, strict=False):
        _draw(axes, panel, looks)
    if len(names) > 1:
        # Every name once, also of lines that only some panels have.
        handles: dict[str, Any] = {}
        for axes in grid.flat[: len(panels)]:
            handles |= dict(zip(*reversed(axes.get_legend_handles_labels()), strict=True))
        figure.legend(
            [handles[name] for name in names],
            names,
            loc="upper left",
            bbox_to_anchor=(1 - (right - 0.15) / width, 1 - 0.6 / height),
            fontsize=8,
            labelcolor=GREY,
            frameon=False,
        )
    return figure


def _draw(axes: Axes, panel: Panel, looks: dict[str, tuple[str, str]]) -> None:
    style_panel(axes, panel.title, panel.label)
    for line in panel.lines:
        points = [(x, found) for x, found in zip(line.places, line.spreads, strict=True) if found is not None]
        places, (colour, style) = [x for x, _ in points], looks[line.name]
        low = [found.mean if found.low is None else found.low for _, found in points]
        high = [found.mean if found.high is None else found.high for _, found in points]
        axes.fill_between(places, low, high, color=colour, alpha=0.15, linewidth=0)
        marker = "o" if len(places) <= 12 else ""
        means = [found.mean for _, found in points]
        axes.plot(places, means, style, color=colour, marker=marker, markersize=3.5, linewidth=1.5, label=line.name)
    if panel.level is not None:
        axes.axhline(panel.level[1], color=GREY, linewidth=0.9, linestyle=(0, (4, 3)))
        axes.annotate(
            panel.level[0],
            (1, panel.level[1]),
            xycoords=("axes fraction", "data"),
            xytext=(0, 3),
            textcoords="offset points",
            ha="right",
            fontsize=7.5,
            color=GREY,
        )
    if panel.top is not None:
        axes.set_ylim(-0.02 * panel.top, 1.03 * panel.top)
    if panel.ticks:
        axes.set_xticks(panel.ticks, [f"{tick:g}" for tick in panel.ticks])
