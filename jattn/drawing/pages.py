"""HTML files that need no other: a template with a style, scripts and data, and a policy that allows just those.

The scripts write text as text only, and the policy forbids them to do otherwise, and any connection.
"""

import base64
import hashlib
import html
import json
import math
import re
from collections.abc import Iterable, Mapping
from importlib import resources
from typing import Any

from jattn.drawing.look import style_variables


def build_html(wing: str, template: str, style: str, scripts: Iterable[str], data: Any, **words: str) -> str:
    """Builds a file from a template.

    Args:
      wing: of jattn, in whose folder the files lie.
      template: its name; ``{{style}}``, ``{{script}}``, ``{{data}}``, ``{{policy}}`` and words have
        their places in it.
      style: the name of its style sheet, which follows jattn's colours and precedes ``every_page.css``.
      scripts: the names of its scripts, which run as one module in this order, with ``every_page.js``.
      data: what the scripts read, as plain lists, texts and numbers.
      **words: further words by their place.
    """
    files = resources.files(f"jattn.{wing}")

    def read(name: str) -> str:
        return files.joinpath(name).read_text(encoding="utf-8")

    shared = resources.files("jattn.drawing")
    style = style_variables() + read(style) + shared.joinpath("every_page.css").read_text(encoding="utf-8")
    script = "".join(map(read, scripts)) + shared.joinpath("every_page.js").read_text(encoding="utf-8")
    parts = {name: html.escape(text) for name, text in words.items()}
    parts |= {"policy": html.escape(_policy(style, script)), "style": style, "script": script, "data": _embed(data)}
    return re.sub(r"\{\{(\w+)\}\}", lambda slot: parts[slot[1]], read(template))


def _embed(data: Any) -> str:
    """Writes data as JSON that is safe inside a script element: plain ASCII without <, > and &; nan becomes null."""
    text = json.dumps(_without_nan(data), allow_nan=False, separators=(",", ":"))
    return text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")


def _without_nan(data: Any) -> Any:
    if isinstance(data, float):
        return data if math.isfinite(data) else None
    if isinstance(data, Mapping):
        return {name: _without_nan(value) for name, value in data.items()}
    return [_without_nan(value) for value in data] if isinstance(data, (list, tuple)) else data


def _policy(style: str, script: str) -> str:
    return (
        f"default-src 'none'; style-src {_hash(style)}; script-src {_hash(script)}; img-src data:; "
        "base-uri 'none'; form-action 'none'; require-trusted-types-for 'script'; trusted-types 'none'"
    )


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
