"""Reads the docstrings of jattn for the API reference: examples as code, formulas as blocks."""

import re
from typing import Any

import griffe


class Docstrings(griffe.Extension):
    """Rewrites what Markdown would take for something else, before a docstring is parsed."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        """Makes ``Example:`` the section of examples that the parser knows; leaves out ``::`` before formulas."""
        if obj.docstring is not None:
            text = re.sub(r"^( *)Example:", r"\1Examples:", obj.docstring.value, flags=re.MULTILINE)
            text = re.sub(r"^ *::$\n?", "", text, flags=re.MULTILINE)
            obj.docstring.value = re.sub(r"(?<=\w)::$", ":", text, flags=re.MULTILINE)
