"""The page of claims is whole, and its experiments ask for what `train.py` takes."""

import re
from pathlib import Path

import pytest

from claims.__main__ import CLAIMS
from claims.page import VERDICTS
from jattn.command.options import config_from_arguments
from jattn.command.sweeps import sweep_from_arguments

PAGE = (Path(__file__).resolve().parents[1] / "docs" / "claims.md").read_text()
COMMANDS = re.findall(r"^python train\.py (.*)$", PAGE, re.MULTILINE)


def test_every_claim_is_on_the_page_with_a_verdict_and_a_command():
    sections = re.split(r"^## \d+\. ", PAGE, flags=re.MULTILINE)[1:]
    assert len(sections) == len(CLAIMS)
    for section in sections:
        verdict = re.search(r"\*\*(.*)\.\*\*", section)
        assert verdict
        assert verdict[1].lower() in VERDICTS
        assert "python train.py" in section


@pytest.mark.parametrize("command", sorted(set(COMMANDS)), ids=range(len(set(COMMANDS))))
def test_the_commands_on_the_page_are_right(command):
    arguments = command.split()
    sweep = sweep_from_arguments(arguments)
    configs = [one.config for one in sweep.combinations] if sweep else [config_from_arguments(arguments)]
    assert all(config.training.replicates == 5 for config in configs)
