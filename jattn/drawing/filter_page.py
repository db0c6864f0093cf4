"""A page of every filter of a model on one text: one HTML file that needs no other and reaches for none.

The page is `filter_page.html` with the style and the scripts beside it written in, and the data as JSON; see
`jattn.drawing.pages`.

Weights travel as one byte each: level n of 0 to 254 stands for weight ``(n / 254)²``, and 255 for what is not a finite
number. Of a long text the page holds a pooled map of each head, and of the last queries their largest weights.
"""

import base64
import io
from typing import Any

import numpy as np

from jattn.drawing.ink import ROOTED
from jattn.drawing.look import weight_levels
from jattn.drawing.pages import build_html

TOP_LEVEL = 254

SCRIPTS = (
    "filter_page_data.js",
    "filter_page_pair.js",
    "filter_page_image.js",
    "filter_page_large.js",
    "filter_page.js",
)

MOST_PIXELS = 800
"""How many pixels of a picture a page has at most, each way."""


def build_filter_page(data: dict[str, Any]) -> str:
    """Builds the page from what `jattn.study.see` collects."""
    title = str(data["title"])
    return build_html("drawing", "filter_page.html", "filter_page.css", SCRIPTS, data, title=title)


def picture_source(picture: np.ndarray) -> str:
    """Writes a picture, uint8 ``[Y, X]`` or ``[Y, X, 3]``, as the address of a JPEG in the page itself."""
    from PIL import Image

    image, file = Image.fromarray(picture).convert("RGB"), io.BytesIO()
    image.thumbnail((MOST_PIXELS, MOST_PIXELS))
    image.save(file, "JPEG", quality=85)
    return f"data:image/jpeg;base64,{base64.b64encode(file.getvalue()).decode()}"


def pack_levels(weights: np.ndarray) -> str:
    """Packs weights, a byte each."""
    return pack_array(weight_levels(ROOTED(weights), TOP_LEVEL))


def pack_array(array: np.ndarray) -> str:
    """Packs the bytes of an array as text; the lowest byte of a number comes first."""
    return base64.b64encode(array.astype(array.dtype.newbyteorder("<")).tobytes()).decode()
