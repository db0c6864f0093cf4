"""Numbers in text for a person."""

import pytest

from jattn.drawing.plain import in_width, percent


def test_every_hundredth_of_a_percent_is_written_as_it_is():
    assert [percent(part / 10_000) for part in range(10_001)] == [
        f"{part // 100}.{part % 100:02}" for part in range(10_001)
    ]


@pytest.mark.parametrize("part", [0.99995, 0.999951, 1 - 1e-9])
def test_all_of_it_is_written_only_where_nothing_is_missing(part):
    assert percent(part) == "99.99"


def test_what_does_not_fit_stands_below_its_column(monkeypatch):
    monkeypatch.setenv("COLUMNS", "24")
    lines = ["  copy     one two three four", "  --key a|b|c|d|e|f|g|h|i|j", "a sentence of some words"]
    assert list(in_width(lines)) == [
        "  copy     one two three",
        "           four",
        "  --key a|b|c|d|e|",
        "    f|g|h|i|j",
        "a sentence of some words",
    ]
