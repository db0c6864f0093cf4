"""The figure of a comparison: accuracy and filter score over the first key, and by length."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from operator import itemgetter
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.transforms import ScaledTranslation

from jattn.drawing.lines import PALETTE, STYLES, style_panel
from jattn.drawing.look import GREY, in_own_style, ramp_colours
from jattn.report.outcomes import Outcome, Spread, value_text

TITLES = {"exact_accuracy": "exact accuracy", "filter_score": "filter score: mass on the oracle"}
ROWS_BY_LENGTH = 12
"""The most rows of panels by length."""
LETTERS = 60
"""How many letters fit below a panel."""


@dataclass(frozen=True)
class _Line:
    """One line of a panel.

    Args:
      name: in the legend.
      values: where its points stand.
      spreads: how high; None where nothing was measured.
    """

    name: str
    values: list[Any]
    spreads: list[Spread | None]


@dataclass(frozen=True)
class _Panel:
    """What one panel shows.

    Args:
      title: above it.
      label: of its horizontal axis.
      lines: what is drawn.
      ordered_by: a value for each line, or nothing where no value orders them.
    """

    title: str
    label: str
    lines: list[_Line]
    ordered_by: list[Any]

    @property
    def numeric(self) -> bool:
        """Whether its horizontal axis is one of numbers."""
        return _are_numbers(self.values)

    @property
    def values(self) -> list[Any]:
        """Where points stand, from left to right."""
        values = list(dict.fromkeys(value for line in self.lines for value in line.values))
        return sorted(values) if _are_numbers(values) else values

    @property
    def slanted(self) -> bool:
        """Whether its words would not fit side by side."""
        return not self.numeric and sum(len(value_text(value)) + 2 for value in self.values) > LETTERS


@in_own_style
def draw_comparison(outcomes: Sequence[Outcome]) -> Figure:
    """Draws accuracy and filter score over the first key, a line for each combination of the others.

    Points are means over seeds, bars reach from the lowest seed to the highest. Numbers stand on a numeric axis, other
    values evenly spaced and unconnected. Where lengths were tested, there is a row of panels by length for each
    combination of the other keys, a line for each value of the first.
    """
    measures = [name for name in TITLES if name == "exact_accuracy" or any(one.spread(name) for one in outcomes)]
    groups = _group(outcomes)
    rows = [[_over_first_key(groups, measure) for measure in measures]]
    if any(one.lengths for one in outcomes):
        shown = list(groups)[:ROWS_BY_LENGTH]
        rows += [[_by_length(name, groups[name], measure) for measure in measures] for name in shown]
    figure, grid = _make_sheet(rows)
    _write_heading(figure, outcomes, len(groups) if len(rows) > 1 else 0)
    for panels, places in zip(rows, grid, strict=True):
        for panel, axes in zip(panels, places, strict=True):
            _draw_panel(axes, panel)
        if _needs_legend(panels[0]):
            style = {"fontsize": 8, "labelcolor": GREY, "frameon": False, "borderaxespad": 0}
            legend = places[-1].legend(loc="upper left", bbox_to_anchor=(1.04, 1), **style)
            for text in legend.get_texts():
                text.set_parse_math(False)
    return figure


def _group(outcomes: Sequence[Outcome]) -> dict[str, list[Outcome]]:
    """Groups the runs by the values of all keys but the first."""
    groups: dict[str, list[Outcome]] = {}
    for one in outcomes:
        name = ", ".join(f"{key}={value_text(value)}" for key, value in list(one.values.items())[1:])
        groups.setdefault(name, []).append(one)
    return groups


def _over_first_key(groups: dict[str, list[Outcome]], measure: str) -> _Panel:
    lines, ordered_by = [], []
    for name, ones in groups.items():
        first, *others = ones[0].values
        lines.append(_Line(name, [one.values[first] for one in ones], [one.spread(measure) for one in ones]))
        ordered_by += [ones[0].values[others[0]]] if len(others) == 1 else []
    return _Panel(TITLES[measure], first, lines, ordered_by)


def _by_length(name: str, ones: list[Outcome], measure: str) -> _Panel:
    first, lines = next(iter(ones[0].values)), []
    for one in ones:
        lengths = sorted(one.lengths)
        spreads = [one.spread(measure, length) for length in lengths]
        lines.append(_Line(f"{first}={value_text(one.values[first])}", list(lengths), spreads))
    title = f"{TITLES[measure].split(':')[0]} by length" + (f", {name}" if name else "")
    return _Panel(title, "length", lines, [one.values[first] for one in ones])


def _needs_legend(panel: _Panel) -> bool:
    return any(line.name for line in panel.lines)


def _make_sheet(rows: list[list[_Panel]]) -> tuple[Figure, np.ndarray]:
    """Makes the figure and its axes, each of the same size whatever their number."""
    slanted = any(panels[0].slanted for panels in rows)
    width, height, across, down, left, top, bottom = 4.7, 2.5, 0.6, 0.85, 0.6, 0.75, 0.55
    if slanted:
        down, bottom = 1.3, 1.0
    longest = max(len(line.name) for panels in rows for line in panels[0].lines)
    right = 0.25 + (0.6 + 0.075 * longest if longest else 0.0)
    columns = len(rows[0])
    full = left + columns * width + (columns - 1) * across + right, top + len(rows) * (height + down) - down + bottom
    figure = Figure(full, facecolor="white")
    spaces = {"hspace": down / height, "wspace": across / width}
    grid = figure.subplots(len(rows), columns, squeeze=False, gridspec_kw=spaces)
    figure.subplots_adjust(left / full[0], bottom / full[1], 1 - right / full[0], 1 - top / full[1])
    return figure, grid


def _write_heading(figure: Figure, outcomes: Sequence[Outcome], groups: int) -> None:
    counts = sorted({len(one.seeds) for one in outcomes if one.seeds})
    several = f"mean over {' or '.join(map(str, counts))} seeds, bars from the lowest to the highest"
    failed = sum(one.test is None for one in outcomes)
    words = [
        several if counts[-1:] > [1] else "one seed each",
        f"{failed} of {len(outcomes)} runs failed" if failed else "",
        f"by length: {ROWS_BY_LENGTH} of {groups}" if groups > ROWS_BY_LENGTH else "",
    ]
    width, height = figure.get_size_inches()
    text = "; ".join(word for word in words if word)
    figure.text(0.6 / width, 1 - 0.3 / height, text, fontsize=8.5, color=GREY)


def _draw_panel(axes: Axes, panel: _Panel) -> None:
    style_panel(axes, panel.title, panel.label, min(10.5, 500 / len(panel.title)))
    axes.set_ylim(-0.02, 1.03)
    places = _draw_axis(axes, panel)
    count = len(panel.lines)
    # Points that would hide each other, as of runs that all reach 100 %, stand a little beside each other.
    apart = min(3.0, 12 / count) if panel.numeric else min(9.0, 200 / max(1, len(places)) / count)
    for i, (line, (colour, style)) in enumerate(zip(panel.lines, _looks(count, panel.ordered_by), strict=True)):
        points = [(places[value], found) for value, found in zip(line.values, line.spreads, strict=True)]
        look = {"color": colour, "linestyle": style if panel.numeric else ""}
        _draw_line(axes, line.name, sorted(points, key=itemgetter(0)), (i - (count - 1) / 2) * apart, look)


def _draw_line(
    axes: Axes, name: str, points: Sequence[tuple[float, Spread | None]], aside: float, look: dict[str, str]
) -> None:
    """Draws one line and its bars, `aside` points to the right of where it belongs."""
    means = [math.nan if found is None else found.mean for _, found in points]
    below = [0.0 if found is None or found.low is None else found.mean - found.low for _, found in points]
    above = [0.0 if found is None or found.high is None else found.high - found.mean for _, found in points]
    moved = axes.transData + ScaledTranslation(aside / 72, 0, axes.figure.dpi_scale_trans)
    bars = {"yerr": (below, above), "capsize": 2.5, "elinewidth": 1.1} if any(below) or any(above) else {}
    places = [place for place, _ in points]
    axes.errorbar(places, means, marker="o", linewidth=1.4, markersize=4, transform=moved, label=name, **look, **bars)


def _looks(count: int, ordered_by: Sequence[Any]) -> list[tuple[str, str]]:
    """Returns a colour and a style for each line: from light to dark where numbers order them."""
    if count == len(ordered_by) > 1 and _are_numbers(ordered_by):
        shades = ramp_colours(256)[[round(80 + 175 * rank / (count - 1)) for rank in range(count)]]
        ranks = [sorted(ordered_by).index(value) for value in ordered_by]
        return [("#{:02x}{:02x}{:02x}".format(*shades[rank]), "-") for rank in ranks]
    return [(PALETTE[i % len(PALETTE)], STYLES[i // len(PALETTE) % len(STYLES)]) for i in range(count)]


def _are_numbers(values: Sequence[Any]) -> bool:
    return all(isinstance(value, int | float) and not isinstance(value, bool) for value in values)


def _draw_axis(axes: Axes, panel: _Panel) -> dict[Any, float]:
    """Draws the horizontal axis of a panel; returns where each value stands on it."""
    values = panel.values
    if not values:
        axes.set_xticks([])
        return {}
    places = [float(value) if panel.numeric else float(i) for i, value in enumerate(values)]
    if panel.numeric and _is_log(places):
        axes.set_xscale("log")
        margin = (places[-1] / places[0]) ** 0.06
        axes.set_xlim(places[0] / margin, places[-1] * margin)
    else:
        margin = (0.06 * (places[-1] - places[0]) if panel.numeric else 0.0) or 0.5
        axes.set_xlim(places[0] - margin, places[-1] + margin)
    axes.minorticks_off()
    labels = [f"{value:.4g}" if panel.numeric else value_text(value) for value in values]
    every = math.ceil(sum(len(label) + 2 for label in labels) / LETTERS) if panel.numeric else 1
    slant = {"rotation": 30, "ha": "right", "rotation_mode": "anchor"} if panel.slanted else {}
    axes.set_xticks(places[::every], labels[::every], parse_math=False, **slant)
    return dict(zip(values, places, strict=True))


def _is_log(places: list[float]) -> bool:
    """Whether numbers are spaced more evenly on a log scale."""
    if len(places) < 3 or places[0] <= 0:
        return False
    gaps = [later - sooner for sooner, later in pairwise(places)]
    ratios = [math.log(later / sooner) for sooner, later in pairwise(places)]
    return min(ratios) / max(ratios) > min(gaps) / max(gaps)
