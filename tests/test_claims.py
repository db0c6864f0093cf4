"""The page of claims is whole, and its experiments ask for what `train.py` takes."""

import re
from pathlib import Path

import pytest

from claims import meaning, order, pronouns, uses
from claims.__main__ import CLAIMS
from claims.page import VERDICTS
from jattn.command.options import config_from_arguments
from jattn.command.sweeps import sweep_from_arguments
from jattn.report.outcomes import Spread

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


def same(number):
    return Spread(number, number, number)


def shares(**numbers):
    return {tuple(name.split("_")): same(number) for name, number in numbers.items()}


PROSE = {
    "order is lost": (
        lambda: order.tell(shares(reverse_none=0.2, reverse_sinusoidal=1, histogram_none=1, histogram_sinusoidal=1)),
        ("true", ["bag of digits", "Histogram loses nothing: 100.0 % without"]),
        ["not lost", "loses as well"],
    ),
    "order is lost by histogram too": (
        lambda: order.tell(shares(reverse_none=0.2, reverse_sinusoidal=1, histogram_none=0.7, histogram_sinusoidal=1)),
        ("partly true", ["bag of digits", "loses as well: 70.0 % without"]),
        ["loses nothing"],
    ),
    "order is not lost": (
        lambda: order.tell(shares(reverse_none=0.9, reverse_sinusoidal=1, histogram_none=0.7, histogram_sinusoidal=1)),
        ("false", ["order is not lost", "loses as well"]),
        ["bag of digits"],
    ),
    "alike": (
        lambda: order.tell_alike(
            shares(reverse_none=1e-6, reverse_sinusoidal=3), {"histogram": same(2.0), "reverse": same(1.0)}
        ),
        ("true", ["move along with the inputs, up to rounding; with them they do not", "by up to 2.0 (histogram)"]),
        ["And separate they are"],
    ),
    "not alike": (
        lambda: order.tell_alike(
            shares(reverse_none=1, reverse_sinusoidal=0), {"histogram": same(0.0), "reverse": same(0.0)}
        ),
        ("false", ["do not move along with the inputs; with them some do as well", "And separate they are"]),
        ["rounding"],
    ),
    "meaningful": (
        lambda: meaning.tell(16, [same(0.06), same(0.97)], same(1), same(13), same(1.2), judged(0.05, 1)),
        ("true", ["from 0.06 to 0.97", "close to *uniform*", "And the model needs what it found"]),
        ["does not stand or fall"],
    ),
    "meaningless": (
        lambda: meaning.tell(16, [same(0.06), same(0.3)], same(0.5), same(3), same(2), judged(0.4, 0.5)),
        ("false", ["as many keys as 3.0 equal ones", "does not stand or fall with that key"]),
        ["uniform*", "needs what it found"],
    ),
    "the noun is found but not looked at": (
        lambda: pronouns.tell((same(1), same(0.97)), (same(0.99), same(0.3))),
        ("partly true", ["; but the best of its heads", "is not what the model does"]),
        [],
    ),
    "the noun is found and looked at": (
        lambda: pronouns.tell((same(1), same(0.97)), (same(0.99), same(0.95))),
        ("true", [", and the best of its heads has 0.95"]),
        ["is not what the model does"],
    ),
    "the noun is not found": (
        lambda: pronouns.tell((same(0.5), same(0.4)), (same(0.5), same(0.2))),
        ("false", ["both of 50.0 % of the held-out pairs", ", and the best of its heads has 0.20"]),
        ["the answer is found"],
    ),
    "all uses": (
        lambda: uses.tell({"a": same(1), "b": same(1)}, {"a": same(0.9), "b": None}, 2, 2),
        ("true", ["2 of 2 (a, b)", "2 of 2 such properties", "can do it"]),
        ["A low score"],
    ),
    "some uses": (
        lambda: uses.tell({"a": same(1), "b": same(0.5)}, {"a": same(0.2), "b": same(0.9)}, 1, 2),
        ("partly true", ["1 of 2 (a)", "A low score of a task that is solved"]),
        [],
    ),
    "no use": (
        lambda: uses.tell({"a": same(0.4)}, {"a": same(0.2)}, 0, 2),
        ("false", ["0 of 1. The filter", "None of the toys is solved"]),
        ["can do it"],
    ),
}


def judged(oracle, another):
    return {"oracle": same(oracle), "another": same(another), "untouched": same(1)}


@pytest.mark.parametrize("name", PROSE)
def test_what_is_said_depends_on_the_numbers(name):
    told, (expected, words), absent = PROSE[name]
    verdict, answer = told()
    text = " ".join(answer)
    assert verdict == expected
    assert [word for word in words if word not in text] == []
    assert [word for word in absent if word in text] == []
