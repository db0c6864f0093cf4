"""Imports between the wings go one way, and CONTRIBUTING.md lists the wings in that order."""

import ast
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
WINGS = [
    "rules",
    "engine",
    "drawing",
    "filters",
    "decode",
    "linen",
    "tasks",
    "study",
    "report",
    "training",
    "command",
]


def imported_wings(path):
    """Lists every wing that a file imports from, at the top, inside functions and for typing."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom):
            names = [node.module] if node.module != "jattn" else [f"jattn.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        else:
            continue
        yield from (name.split(".")[1] for name in names if name and name.startswith("jattn."))


def test_no_wing_imports_upwards():
    upwards = [
        f"{path.relative_to(ROOT)} imports {other}"
        for rank, wing in enumerate(WINGS)
        for path in (ROOT / "jattn" / wing).rglob("*.py")
        for other in imported_wings(path)
        if other not in WINGS[: rank + 1]
    ]
    assert upwards == []


def test_every_wing_has_its_place_and_its_sentence():
    folders = {path.parent.name for path in (ROOT / "jattn").glob("*/__init__.py")}
    assert folders == set(WINGS)
    assert all(ast.get_docstring(ast.parse((ROOT / "jattn" / wing / "__init__.py").read_text())) for wing in WINGS)


def test_contributing_lists_the_wings_in_this_order():
    listed = re.findall(r"^\| `jattn/(\w+)/` \|", (ROOT / "CONTRIBUTING.md").read_text(), flags=re.MULTILINE)
    assert listed == WINGS
