"""A page of every filter of a model on one text: one HTML file that needs no other and reaches for none.

The page is `filter_page.html` with the style and the script beside it written in, and the data as JSON. A content
policy allows exactly that style and that script, by their hashes, and no connection. The script writes text as text.

Weights travel as one byte each: level n of 0 to 254 stands for weight ``(n / 254)²``, and 255 for what is not a finite
number. Of a long text the page holds a pooled map of each head, and of the last queries their largest weights.
"""

import base64
import hashlib
import html
import json
import re
from importlib import resources
from typing import Any

import numpy as np

from jattn.drawing.ink import ROOTED
from jattn.drawing.look import style_variables, weight_levels

TOP_LEVEL = 254


def build_filter_page(data: dict[str, Any]) -> str:
    """Builds the page from what `jattn.study.see` collects."""
    style, script = style_variables() + _read("filter_page.css"), _read("filter_page.js")
    policy = (
        f"default-src 'none'; style-src {_hash(style)}; script-src {_hash(script)}; img-src data:; base-uri 'none'; "
        "form-action 'none'; require-trusted-types-for 'script'; trusted-types 'none'"
    )
    parts = {
        "policy": html.escape(policy),
        "title": html.escape(str(data["title"])),
        "style": style,
        "data": _embed(data),
        "script": script,
    }
    return re.sub(r"\{\{(\w+)\}\}", lambda slot: parts[slot[1]], _read("filter_page.html"))


def pack_levels(weights: np.ndarray) -> str:
    """Packs weights, a byte each."""
    return pack_array(weight_levels(ROOTED(weights), TOP_LEVEL))


def pack_array(array: np.ndarray) -> str:
    """Packs the bytes of an array as text; the lowest byte of a number comes first."""
    return base64.b64encode(array.astype(array.dtype.newbyteorder("<")).tobytes()).decode()


def _embed(data: Any) -> str:
    """Writes data as JSON that is safe inside a script element: plain ASCII without <, > and &."""
    text = json.dumps(data, allow_nan=False, separators=(",", ":"))
    return text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def _read(name: str) -> str:
    return resources.files("jattn.drawing").joinpath(name).read_text(encoding="utf-8")
