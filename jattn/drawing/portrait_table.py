"""Head portraits as a table and as a picture."""

from typing import TYPE_CHECKING, Any

import numpy as np

from jattn.drawing.html_table import as_html
from jattn.drawing.look import ACCENT, GREY, INK, INVALID, in_own_style, ramp_colours

if TYPE_CHECKING:
    from matplotlib.axes import Axes

GAP = 0.35
"""What separates layers, and the evenness from the patterns, in cells."""

LEGEND = "weight on the keys of a pattern, and how many times chance; outlined: what gives a head its name"


def columns(portraits: Any) -> list[str]:
    """Lists the patterns by which any head is judged, in order."""
    judged = {name for of in portraits.queries.values() for name, queries in of.items() if np.any(queries)}
    return [name for name in portraits.patterns if name in judged]


def write_table(portraits: Any) -> str:
    """Writes a line per head: mass (lift) of each pattern, evenness, and the name."""
    heading, *heads = table_rows(portraits)
    words = [("", name) if " " not in name else name.split(" ", 1) for name in heading]
    rows = [[first for first, _ in words], [last for _, last in words], *heads]
    rows = rows if any(rows[0]) else rows[1:]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in rows)
    return "\n".join(line.rstrip() for line in lines)


def write_html(portraits: Any) -> str:
    """Writes the same table for a notebook, the name beside the head."""
    header, *rows = ([*cells[:2], cells[-1], *cells[2:-1]] for cells in table_rows(portraits))
    return as_html(header, rows, names=3)


def table_rows(portraits: Any) -> list[list[str]]:
    """Writes the cells of that table, the heading first."""
    shown = columns(portraits)
    rows = [["layer", "head", *shown, "evenness", "name"]]
    mass, lift = _as_numpy(portraits.mass), _as_numpy(portraits.lift)
    for layer, names in portraits.names().items():
        for head, name in enumerate(names):
            cells = [
                _number(mass[layer][pattern][head], lift[layer][pattern][head]) if pattern in mass[layer] else ""
                for pattern in shown
            ]
            evenness = _number(np.asarray(portraits.evenness[layer])[head])
            rows.append([layer if head == 0 else "", str(head), *cells, evenness, name])
    return rows


def _as_numpy(numbers: dict[str, dict[str, Any]]) -> dict[str, dict[str, np.ndarray]]:
    return {layer: {name: np.asarray(x) for name, x in of.items()} for layer, of in numbers.items()}


def _number(mass: float, lift: float | None = None) -> str:
    if np.isnan(mass):
        return "-"
    return f"{mass:.2f}" if lift is None else f"{mass:.2f} ({_times(lift)})"


def _times(lift: float) -> str:
    return f"{lift:.1f}x" if lift < 9.95 else f"{lift:.0f}x"


@in_own_style
def draw(portraits: Any, axes: "Axes | None") -> "Axes":
    """Draws a row per head and a column per pattern; see `HeadPortraits.plot`."""
    shown, names = columns(portraits), portraits.names()
    heads = [(layer, head) for layer in names for head in range(len(names[layer]))]
    x = np.append(np.arange(len(shown)), len(shown) + GAP)
    y = np.arange(len(heads)) + GAP * np.array([list(names).index(layer) for layer, _ in heads])
    if axes is None:
        axes = _new_axes(
            x[-1] + 1, y[-1] + 1, max(map(len, names)), max(len(name) for of in names.values() for name in of)
        )
    axes.set(xlim=(-0.5, x[-1] + 0.5), ylim=(y[-1] + 0.5, -0.5), facecolor="none")
    # In points: numbers take half the height of a cell and fit into its width, as far as they can be read.
    box, dpi = axes.get_window_extent(), axes.figure.dpi
    width, height = 72 * box.width / dpi / (x[-1] + 1), 72 * box.height / dpi / (y[-1] + 1)
    size = float(np.clip(min(0.45 * height, 0.135 * width), 2.0, 8.0))
    mass, lift = _as_numpy(portraits.mass), _as_numpy(portraits.lift)
    for (layer, head), row in zip(heads, y, strict=True):
        name = names[layer][head]
        for column, pattern in zip(x, shown, strict=False):
            if pattern in mass[layer]:
                words = mass[layer][pattern][head], _times(lift[layer][pattern][head])
                _draw_cell(axes, (column, row), *words, size, chosen=name == pattern)
        _draw_cell(axes, (x[-1], row), np.asarray(portraits.evenness[layer])[head], "", size, chosen=name == "uniform")
        colour = INK if name in (*shown, "uniform") else GREY
        axes.text(x[-1] + 0.62, row, name, color=colour, fontsize=size, va="center", parse_math=False)
    _label_axes(
        axes, x, [*shown, "evenness"], y, [f"{layer}   {head}" if head == 0 else head for layer, head in heads], size
    )
    return axes


def _new_axes(num_columns: float, num_rows: float, longest_layer: int, longest_name: int) -> "Axes":
    """Makes axes in which a cell has one size, in a figure with room for what stands around them."""
    from matplotlib import pyplot

    width, height = 0.82 * num_columns, 0.25 * num_rows
    left, right, top, bottom = 0.4 + 0.075 * longest_layer, 0.3 + 0.075 * longest_name, 0.45, 0.32
    right = max(right, 0.055 * len(LEGEND) - width)
    whole = (left + width + right, top + height + bottom)
    figure = pyplot.figure(figsize=whole, facecolor="white")
    return figure.add_axes((left / whole[0], bottom / whole[1], width / whole[0], height / whole[1]))


def _label_axes(axes: "Axes", x: Any, patterns: list[str], y: Any, heads: list[Any], size: float) -> None:
    axes.set_xticks(x, [name.replace(" ", "\n", 1) for name in patterns], fontsize=size, color=INK, parse_math=False)
    axes.set_yticks(y, heads, fontsize=size, color=GREY, parse_math=False)
    axes.tick_params(length=0, pad=4, labeltop=True, labelbottom=False)
    axes.set_xlabel(LEGEND, fontsize=0.85 * size, color=GREY, loc="left")
    axes.spines[:].set_visible(False)


def _draw_cell(axes: "Axes", place: tuple[float, float], mass: float, lift: str, size: float, chosen: bool) -> None:
    from matplotlib.patches import Rectangle

    x, y, side = *place, 0.94
    known = not np.isnan(mass)
    colour = ramp_colours(256)[round(255 * float(np.clip(mass, 0, 1)))] / 255 if known else INVALID
    cell = Rectangle((x - side / 2, y - side / 2), side, side, facecolor=colour, linewidth=0)
    if chosen:
        cell.set(edgecolor=ACCENT, linewidth=1.6, zorder=2)
    axes.add_patch(cell)
    if known:
        style = {"color": "white" if mass > 0.45 else INK, "va": "center", "zorder": 3}
        axes.text(x - 0.02 if lift else x, y, f"{mass:.2f}", fontsize=size, ha="right" if lift else "center", **style)
        axes.text(x + 0.07, y, lift, fontsize=0.75 * size, ha="left", **style)
