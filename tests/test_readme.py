"""The README's examples run, and its commands and tables say what is there."""

import doctest
import re
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text()


def test_the_examples_run():
    found = doctest.testfile(str(ROOT / "README.md"), module_relative=False, optionflags=doctest.ELLIPSIS)
    assert found.attempted > 10
    assert found.failed == 0


def test_the_two_commands_are_there_word_for_word():
    lines = README.splitlines()
    assert "pip install -e . && python train.py configs/reverse.toml" in lines
    assert "pip install -e '.[test]' && pytest" in lines


def test_every_config_is_in_the_table():
    named = set(re.findall(r"`(\w+\.toml)`", README))
    assert named == {path.name for path in (ROOT / "configs").glob("*.toml")}


def test_every_extra_named_exists():
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert set(re.findall(r"'?\.\[(\w+)\]", README)) <= set(extras)


def test_every_link_leads_somewhere():
    links = re.findall(r"\]\(([^)#]+)\)", README)
    assert [link for link in links if not (ROOT / link).exists()] == []
