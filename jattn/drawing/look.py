"""One look for the figures, the animation and the page: ink for weights, one accent for the oracle.

The ramp runs in even steps of lightness and its hue stays blue, so that it reads the same in grey and to any eye;
the accent differs from it in hue and, where both meet, in form: the oracle is an outline.
"""

import functools
import warnings
from collections.abc import Callable
from typing import TYPE_CHECKING, BinaryIO, ParamSpec, TypeVar

import numpy as np

if TYPE_CHECKING:
    from matplotlib.figure import Figure

P = ParamSpec("P")
Result = TypeVar("Result")

RAMP = ("#ffffff", "#c9d8e7", "#94b1d0", "#628bb7", "#3a6698", "#1e4270", "#0d2240")
"""Colours of weight 0 to weight 1 on light paper."""

ACCENT = "#c2410c"
"""The oracle on light paper."""

INVALID = "#b9b2a6"
"""A weight that is not a number."""

HATCH, HATCH_PAPER = "#a9a294", "#f1efe9"
"""The lines and the paper of cells that may not be attended."""

INK, GREY, FAINT = RAMP[-1], "#6b6f76", "#c3cad3"
"""Colours of text, of what is said beside it, and of lines."""

DPI = 120
"""Dots per inch of a figure that is written."""

DARK_RAMP = ("#161a21", "#273a50", "#3c5c7e", "#5b81a7", "#86a7ca", "#b7cee5", "#eff5fc")
DARK_ACCENT = "#ff9350"
DARK_INVALID = "#5b574f"
DARK_HATCH, DARK_HATCH_PAPER = "#5b5f68", "#1c1f25"


def in_own_style(function: Callable[P, Result]) -> Callable[P, Result]:
    """Lets a function draw with Matplotlib's defaults, whatever style its caller, or a `matplotlibrc`, has chosen."""

    @functools.wraps(function)
    def drawn(*args: P.args, **kwargs: P.kwargs) -> Result:
        from matplotlib import style

        with style.context("default"):
            return function(*args, **kwargs)

    return drawn


def ramp_colours(count: int) -> np.ndarray:
    """Returns `count` colours from weight 0 to weight 1: uint8 ``[count, 3]``."""
    stops = np.array([[int(colour[i : i + 2], 16) for i in (1, 3, 5)] for colour in RAMP])
    at = np.linspace(0, len(RAMP) - 1, count)
    return np.stack([np.interp(at, range(len(RAMP)), channel) for channel in stops.T], axis=-1).round().astype(np.uint8)


def weight_levels(weights: np.ndarray, top: int) -> np.ndarray:
    """Rounds weights to whole levels: 0 to `top` for weight 0 to 1, `top + 1` for what is not a finite number.

    Args:
      weights: any shape; what lies outside 0 to 1 is drawn as the nearer end.
      top: the level of weight 1, at most 254.

    Returns:
      uint8, the shape of `weights`.
    """
    levels = np.rint(np.clip(np.nan_to_num(weights), 0, 1) * top)
    return np.where(np.isfinite(weights), levels, top + 1).astype(np.uint8)


def token_label(token: str, limit: int = 6) -> str:
    """Shortens a token to a printable label of at most `limit` characters.

    Example:
      >>> token_label("extraordinary"), token_label("a\\nb"), token_label(" ")
      ('extra…', 'a·b', '␣')
    """
    text = "".join(letter if letter.isprintable() else "·" for letter in token)
    if text.isspace():
        return "␣"
    return text if len(text) <= limit else text[: limit - 1] + "…"


def style_variables() -> str:
    """Returns the look as CSS variables, for light and for dark paper."""
    light = _variables(RAMP, ACCENT, INVALID, (HATCH, HATCH_PAPER))
    dark = _variables(DARK_RAMP, DARK_ACCENT, DARK_INVALID, (DARK_HATCH, DARK_HATCH_PAPER))
    return f":root {{ {light} }}\n@media (prefers-color-scheme: dark) {{ :root:not([data-printing]) {{ {dark} }} }}\n"


def _variables(ramp: tuple[str, ...], accent: str, invalid: str, hatch: tuple[str, str]) -> str:
    inks = f"--ramp: {' '.join(ramp)}; --none: {ramp[0]}; --ink: {ramp[-1]}; --oracle: {accent}; --invalid: {invalid};"
    return f"{inks} --hatch: {hatch[0]}; --hatch-paper: {hatch[1]};"


@in_own_style
def save_figure(figure: "Figure", file: BinaryIO) -> None:
    """Writes a figure as PNG. A token that the font cannot draw becomes a box, without a warning."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        figure.savefig(file, format="png", dpi=DPI)
