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


def test_the_examples_of_the_page_on_filters_run(optimized):
    """Sixty-five thousand tokens among them: this test takes longer than most."""
    options = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
    found = doctest.testfile(str(ROOT / "docs" / "filters.md"), module_relative=False, optionflags=options)
    assert found.attempted > 40
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
    for page in (ROOT / "README.md", *(ROOT / "docs").glob("*.md")):
        links = re.findall(r"\]\(([^)#]+)[^)]*\)", page.read_text())
        assert [link for link in links if not (page.parent / link).exists()] == []
