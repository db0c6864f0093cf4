"""Panels of lines: one look for their axes, in the report of a run, of a comparison and of the claims."""

from typing import TYPE_CHECKING

from jattn.drawing.look import FAINT, GREY, INK

if TYPE_CHECKING:
    from matplotlib.axes import Axes

PALETTE = (INK, "#c07c12", "#4f86bd", "#9c3d68", "#3f8a6a", "#8d8f94", "#7a5bb0", "#7b5a33")
"""Colours of lines that have no order; more lines take them again in the next of the styles."""

STYLES = ("-", "--", ":", "-.")


def style_panel(axes: "Axes", title: str, label: str | None = None, size: float = 10.5) -> None:
    """Gives axes the look of a panel of lines.

    Args:
      axes: Matplotlib axes.
      title: above them, as text, never as formulas.
      label: of the horizontal axis, or None.
      size: of the title.
    """
    axes.set_title(title, fontsize=size, weight="bold", color=INK, loc="left", parse_math=False)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(FAINT)
    axes.tick_params(colors=GREY, labelsize=8, length=3, which="both")
    axes.grid(axis="y", color="#eceef1", linewidth=0.8)
    if label is not None:
        axes.set_xlabel(label, fontsize=8.5, color=GREY, parse_math=False)
