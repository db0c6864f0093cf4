"""The README's examples run, and its commands and tables say what is there."""

import doctest
import inspect
import re
import shlex
import tomllib
from pathlib import Path

import pytest

import jattn
from jattn.command.commands import COMMANDS
from jattn.command.options import config_from_arguments
from jattn.training.announcing import first_line

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text()


PAGES = {"scale": 11, "tasks": 2, "training": 2}
"""The pages of docs/ with examples that take no time to speak of, and how many there are at least."""

LONG_PAGES = {"attention": 10, "filters": 40, "nnx": 25, "extending": 25}
"""The same of pages whose examples take longer: sixty-five thousand tokens among them, and two training runs."""

OPTIONS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE


def run_examples(path):
    found = doctest.testfile(str(path), module_relative=False, optionflags=OPTIONS)
    assert found.failed == 0
    return found.attempted


def test_the_examples_run():
    assert run_examples(ROOT / "README.md") > 10


@pytest.mark.parametrize("name", PAGES)
def test_the_examples_of_a_page_run(name):
    assert run_examples(ROOT / "docs" / f"{name}.md") >= PAGES[name]


@pytest.mark.exhaustive
@pytest.mark.parametrize("name", LONG_PAGES)
def test_the_examples_of_a_long_page_run(name):
    assert run_examples(ROOT / "docs" / f"{name}.md") >= LONG_PAGES[name]


def test_no_page_with_examples_is_left_out():
    with_examples = {path.stem for path in (ROOT / "docs").glob("*.md") if ">>> " in path.read_text()}
    assert with_examples == {*PAGES, *LONG_PAGES}


def test_the_readme_is_short():
    assert len(README.splitlines()) <= 150


def test_the_two_commands_are_there_word_for_word():
    lines = README.splitlines()
    assert "pip install -e . && python train.py configs/reverse.toml" in lines
    assert "pip install -e '.[test]' && pytest" in lines


def test_every_config_is_in_the_table():
    named = set(re.findall(r"`(\w+\.toml)`", (ROOT / "docs" / "tasks.md").read_text()))
    assert named == {path.name for path in (ROOT / "configs").glob("*.toml")}


def test_every_extra_named_exists():
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert set(re.findall(r"'?\.\[(\w+)\]", README)) <= set(extras)


def test_every_link_leads_somewhere():
    for page in (ROOT / "README.md", *(ROOT / "docs").glob("*.md")):
        links = re.findall(r"\]\(([^)#]+)[^)]*\)", page.read_text())
        assert [link for link in links if not (page.parent / link).exists()] == []


def test_the_readme_shows_what_a_run_says_first():
    assert first_line(config_from_arguments([str(ROOT / "configs" / "reverse.toml")])) in README.splitlines()


@pytest.mark.parametrize("line", [line for line in README.splitlines() if line.startswith("jattn ")])
def test_every_command_in_the_readme_is_one(line):
    name, *arguments = shlex.split(line.removeprefix("jattn"))
    assert name in COMMANDS
    if name == "train" and "--help" not in arguments:
        assert config_from_arguments(arguments).run.folder


def test_every_name_in_the_table_for_pytorch_is_there():
    rows = README.partition("## Coming from PyTorch")[2].partition("## What runs where")[0]
    named = re.findall(r"\b(jattn|masks|scores)\.(\w+)", rows)
    assert len(named) >= 6
    for module, name in named:
        assert hasattr(jattn if module == "jattn" else getattr(jattn, module), name)
    keywords = set(
        re.findall(r"(\w+)=", " ".join(row.split("|")[2] for row in rows.splitlines() if row.startswith("|")))
    )
    assert keywords - {"scale", "deterministic"} <= set(inspect.signature(jattn.attend).parameters)
    assert "scale" in inspect.signature(jattn.scores.scaled_dot).parameters


def test_the_citation_names_this_version():
    assert f"\nversion: {jattn.__version__}\n" in (ROOT / "CITATION.cff").read_text()


def test_the_public_checks_are_those_of_the_script():
    assert "- run: .ci/run\n" in (ROOT / ".github" / "workflows" / "ci.yml").read_text()
    assert (ROOT / ".ci" / "run").stat().st_mode & 0o100
