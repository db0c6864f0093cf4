"""Numbers in text for a person."""

import pytest

from jattn.drawing.plain import percent


def test_every_hundredth_of_a_percent_is_written_as_it_is():
    assert [percent(part / 10_000) for part in range(10_001)] == [
        f"{part // 100}.{part % 100:02}" for part in range(10_001)
    ]


@pytest.mark.parametrize("part", [0.99995, 0.999951, 1 - 1e-9])
def test_all_of_it_is_written_only_where_nothing_is_missing(part):
    assert percent(part) == "99.99"
