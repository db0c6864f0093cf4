"""Heat maps as images of one palette: levels of ink along the ramp, then what is not a number, then other colours.

Nothing is quantised, and files stay small. Pillow is imported when something is drawn.
"""

import base64
import dataclasses
import io
import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from jattn.drawing.ink import Ink
from jattn.drawing.look import FAINT, INVALID, ramp_colours, weight_levels
from jattn.drawing.view import View

if TYPE_CHECKING:
    from PIL.Image import Image

TOP = 254
"""The level of full ink in an image of one heat map; the next one is not a number."""


def cell_pixels(cells: np.ndarray, ink: Ink, pixels: tuple[int, int] = (1, 1), top: int = TOP) -> np.ndarray:
    """Returns the levels of a heat map, each cell so many pixels high and wide: uint8 ``[rows, columns]``.

    Example:
      >>> cell_pixels(np.array([[0.25, np.nan]]), Ink(0.5), (1, 2), top=100).tolist()
      [[50, 50, 101, 101]]
    """
    return weight_levels(ink(cells), top).repeat(pixels[0], axis=0).repeat(pixels[1], axis=1)


def palette(top: int = TOP, *others: str) -> bytes:
    """Returns the colours of the levels 0 to `top`, of what is not a number, and other colours."""
    from PIL import ImageColor

    rest = np.array([ImageColor.getrgb(colour) for colour in (INVALID, *others)], np.uint8)
    return np.concatenate([ramp_colours(top + 1), rest]).tobytes()


def cell_image(cells: np.ndarray, ink: Ink, size: tuple[int, int]) -> "Image":
    """Makes an image of as many whole pixels per cell as fit into `size`, high and wide, at least one."""
    from PIL import Image

    high, wide = (max(1, most // count) for most, count in zip(size, cells.shape, strict=True))
    image = Image.fromarray(cell_pixels(cells, ink, (high, wide)))
    image.putpalette(palette())
    return image


def map_figure(name: str, cells: np.ndarray, ink: Ink, size: Sequence[int]) -> str:
    """Writes a heat map as HTML, with its name, so many pixels high and wide on the screen."""
    file = io.BytesIO()
    cell_image(cells, ink, (1, 1)).save(file, "PNG")
    source = f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"
    style = f"display: block; height: {size[0]}px; width: {size[1]}px; image-rendering: pixelated; border: 1px solid"
    return (
        f'<figure style="margin: 0"><figcaption style="font-size: 11px; opacity: 0.65">{name}</figcaption>'
        f'<img alt="{name}" src="{source}" style="{style} {FAINT}"></figure>'
    )


def image_notes(kind: str, view: View, scale: str, ink: Ink) -> dict[str, Any]:
    """Says in a file what it shows, as its format allows: what Pillow's ``save`` takes further."""
    from PIL import Image, PngImagePlugin

    where = f", entry {', '.join(map(str, view.entry))}" if view.entry else ""
    words = f"attention filter {view.shape}{where}, head {view.heads[0]}; {view.cell}; ink = {ink}"
    if kind != "PNG":
        exif = Image.Exif()
        exif[0x010E] = words
        return {"exif": exif} if kind in ("JPEG", "TIFF", "WEBP") else {"comment": words} if kind == "GIF" else {}
    numbers = {"shape": view.shape, "entry": view.entry, "head": view.heads[0], "cells": view.bins}
    notes = PngImagePlugin.PngInfo()
    notes.add_text("Description", words)
    notes.add_text("jattn", json.dumps({**numbers, "scale": scale, **dataclasses.asdict(ink)}))
    return {"pnginfo": notes}
