"""Imports go one way, between the wings and inside them, as CONTRIBUTING.md lists them, and take no private names."""

import ast
import copy
import functools
import importlib
import pickle
import re
import subprocess
import sys
import typing
from pathlib import Path

import pytest

from jattn.tasks.late import Late

ROOT = Path(__file__).resolve().parents[1]
WINGS = [
    "rules",
    "engine",
    "drawing",
    "filters",
    "decode",
    "layers",
    "linen",
    "tasks",
    "study",
    "nnx",
    "pretrained",
    "report",
    "training",
    "command",
]


WITHOUT_JAX = ["drawing", "report"]


def name_of(path):
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {name_of(path): path for path in (ROOT / "jattn").rglob("*.py")}


def imports_of(path):
    """Lists the modules that a file imports, at the top, inside functions and for typing."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names = [f"{node.module}.{alias.name}" for alias in node.names]
            found |= {name if name in MODULES else node.module for name in names}
    return found


@functools.cache
def all_imports():
    return {name: imports_of(path) for name, path in MODULES.items()}


def reached_from(module):
    """Lists all modules of jattn that importing a module may lead to."""
    found, left = set(), [module]
    while left:
        new = all_imports()[left.pop()] & MODULES.keys() - found
        found |= new
        left += new
    return found


def rank(module):
    """Returns how high a module stands; what joins the wings stands above all."""
    return WINGS.index(module.split(".")[1]) if module.count(".") > 1 or module.split(".")[-1] in WINGS else len(WINGS)


def test_no_wing_imports_upwards():
    upwards = [
        f"{module} imports {other}"
        for module, others in all_imports().items()
        for other in others
        if other.split(".")[0] == "jattn" and rank(other) > rank(module)
    ]
    assert upwards == []


def test_no_modules_import_each_other_in_a_circle():
    assert [module for module in MODULES if module in reached_from(module)] == []


def test_what_draws_knows_no_jax_and_no_model():
    knowing = [
        f"{module} imports {other}"
        for module in MODULES
        if rank(module) in map(WINGS.index, WITHOUT_JAX)
        for other in all_imports()[module]
        if re.match(r"(jax|jaxlib|jaxtyping|flax|optax|chex)\b", other)
        or (other.split(".")[0] == "jattn" and rank(other) not in map(WINGS.index, WITHOUT_JAX))
    ]
    assert knowing == []


@pytest.mark.parametrize("package", ["jattn", "jattn.tasks"])
def test_what_is_imported_late_is_where_type_checkers_are_told(package):
    module = importlib.import_module(package)
    told = {
        alias.name: node.module
        for node in ast.walk(ast.parse(MODULES[package].read_text(encoding="utf-8")))
        if isinstance(node, ast.ImportFrom) and any(alias.asname == alias.name for alias in node.names)
        for alias in node.names
    }
    assert set(module.__all__) - {"TASKS", "FAMILIES"} == set(told)
    for name, place in told.items():
        late, there = getattr(module, name), importlib.import_module(place)
        assert late is getattr(there, name), name
    assert set(module.__all__) <= set(dir(module))
    with pytest.raises(AttributeError, match=f"module '{package}' has no attribute 'nothing'"):
        module.nothing  # noqa: B018


def test_wings_that_are_used_by_name_need_no_import_of_their_own():
    code = "import jattn; jattn.tasks.reverse(3); jattn.training.train; jattn.report.render; jattn.masks.causal()"
    # What trains, a module of flax alone among them, can be looked into.
    code += "; import flax.linen; from jattn.decode.protocol import as_inspectable; as_inspectable(flax.linen.Dense(1))"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


def test_every_wing_has_its_place_and_its_sentence():
    folders = {path.parent.name for path in (ROOT / "jattn").glob("*/__init__.py")}
    assert folders == set(WINGS)
    assert all(ast.get_docstring(ast.parse((ROOT / "jattn" / wing / "__init__.py").read_text())) for wing in WINGS)


def test_contributing_lists_the_wings_in_this_order():
    listed = re.findall(r"^\| `jattn/(\w+)/` \|", (ROOT / "CONTRIBUTING.md").read_text(), flags=re.MULTILINE)
    assert listed == WINGS


def private_names(path):
    """Lists the private names of another module of jattn that a file imports or looks up."""
    tree, modules = ast.parse(path.read_text(encoding="utf-8")), set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "jattn":
            modules |= {alias.asname or alias.name for alias in node.names}
            yield from (f"{node.module}.{alias.name}" for alias in node.names if alias.name.startswith("_"))
        elif isinstance(node, ast.Import):
            modules |= {alias.asname or alias.name for alias in node.names if alias.name.split(".")[0] == "jattn"}
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and re.match("_(?!_)", node.attr) and ast.unparse(node.value) in modules:
            yield ast.unparse(node)


def test_no_module_takes_private_names_of_another():
    taken = {str(path.relative_to(ROOT)): [*private_names(path)] for path in (ROOT / "jattn").rglob("*.py")}
    assert len(taken) > 50
    assert {path: names for path, names in taken.items() if names} == {}


def test_a_private_name_of_another_module_is_found(tmp_path):
    path = tmp_path / "module.py"
    path.write_text(
        "from jattn.rules import masks\nfrom jattn.rules.biases import _skew\nmasks._Window\nmasks.__name__\n"
    )
    assert list(private_names(path)) == ["jattn.rules.biases._skew", "masks._Window"]


@pytest.mark.parametrize("module", ["jattn", "jattn.tasks"])
def test_annotations_of_public_names_can_be_looked_up(module):
    names = importlib.import_module(module).__all__
    public = [value for name in names if callable(value := getattr(importlib.import_module(module), name))]
    assert len(public) > 5
    assert all(isinstance(typing.get_type_hints(value), dict) for value in public)


@pytest.mark.parametrize("again", [copy.copy, copy.deepcopy, lambda late: pickle.loads(pickle.dumps(late))])
def test_what_is_imported_late_can_be_copied(again):
    assert again(Late("math")).sqrt(9.0) == 3
    assert not hasattr(Late("math"), "__array__")
