import numpy as np
import pytest

from jattn.drawing.bins import oracle_mass
from jattn.drawing.look import (
    ACCENT,
    DARK_ACCENT,
    DARK_RAMP,
    RAMP,
    ramp_colours,
    style_variables,
    token_label,
    weight_levels,
)
from jattn.report.measures import entropy, hit_rate, oracle_matrix
from jattn.report.record import Example, Layer, read_record
from jattn.report.selection import choose_heads, choose_snapshots, choose_turn, omission

EXAMPLE = Example({"inputs": list("abc")}, ["c", "b", ""], [True, True, False], [[2], [0, 1], [0]])
FILTERS = np.array([[[0.1, 0.2, 0.7], [0.5, 0.25, 0.25], [1, 0, 0]]])


def test_the_oracle_is_silent_on_queries_that_are_not_scored():
    drawn = oracle_matrix(Layer("layer", 1, oracle=True), EXAMPLE)
    assert ["".join(".#"[cell] for cell in row) for row in drawn.astype(int)] == ["..#", "##.", "..."]
    assert not oracle_matrix(Layer("layer", 1), EXAMPLE).any()


def test_the_oracle_of_a_map_is_in_each_cell_that_holds_any_of_it():
    tokens = list("abcdefgh")
    oracle = [[7], [6], [5], [4], [3], [2], [1], []]
    example = Example({"inputs": tokens}, tokens, [True] * 6 + [False] * 2, oracle)
    drawn = oracle_matrix(Layer("layer", 1, oracle=True), example, (4, 3))
    assert ["".join(".#"[cell] for cell in row) for row in drawn.astype(int)] == ["..#", ".#.", "##.", "..."]


def test_measures_by_head():
    oracle = oracle_matrix(Layer("layer", 1, oracle=True), EXAMPLE)
    np.testing.assert_allclose(oracle_mass(FILTERS, oracle), [(0.7 + 0.75) / 2])
    np.testing.assert_allclose(hit_rate(FILTERS, oracle), [1.0])
    np.testing.assert_allclose(hit_rate(FILTERS[:, ::-1], oracle[[2, 1, 0]][::-1]), [0.5])
    np.testing.assert_allclose(entropy(np.full((2, 3, 4), 0.25)), np.log(4) * np.ones(2))
    np.testing.assert_allclose(entropy(np.eye(4)[None]), [0])


def test_without_an_oracle_mass_and_hit_rate_are_nan():
    nothing = np.zeros((3, 3), bool)
    assert np.isnan([oracle_mass(FILTERS, nothing), hit_rate(FILTERS, nothing)]).all()


@pytest.mark.parametrize("ramp", [RAMP, DARK_RAMP])
def test_a_ramp_runs_in_even_steps_of_lightness(ramp):
    steps = np.diff([lightness(colour) for colour in ramp])
    np.testing.assert_allclose(steps, steps.mean(), atol=0.6)


def lightness(colour):
    """Returns the CIE lightness L* of a colour."""
    parts = np.array([int(colour[at : at + 2], 16) for at in (1, 3, 5)]) / 255
    linear = np.where(parts <= 0.04045, parts / 12.92, ((parts + 0.055) / 1.055) ** 2.4)
    luminance = linear @ [0.2126, 0.7152, 0.0722]
    return 116 * np.cbrt(luminance) - 16


def test_ramp_colours_run_from_paper_to_ink():
    assert ramp_colours(3).tolist() == [[255, 255, 255], [98, 139, 183], [13, 34, 64]]


def test_weights_become_levels_and_what_is_no_number_stands_apart():
    weights = np.array([0, 1e-9, 0.5, 1, 1.5, -1, np.nan, np.inf])
    assert weight_levels(weights, 254).tolist() == [0, 0, 127, 254, 254, 0, 255, 255]


@pytest.mark.parametrize(
    ("token", "label"),
    [
        ("7", "7"),
        ("", ""),
        ("sixsix", "sixsix"),
        ("sevenup", "seven…"),
        ("a\u2028b", "a·b"),
        ("\u202e", "·"),
        ("\t", "·"),
    ],
)
def test_token_labels_are_short_and_printable(token, label):
    assert token_label(token) == label


def test_the_style_holds_both_looks():
    style = style_variables()
    assert all(colour in style for colour in (*RAMP, *DARK_RAMP, ACCENT, DARK_ACCENT))


@pytest.mark.parametrize("count", [1, 2, 3, 10, 100])
@pytest.mark.parametrize("limit", [2, 3, 80])
def test_chosen_snapshots_hold_the_first_and_the_last(count, limit):
    chosen = choose_snapshots(count, limit)
    assert len(chosen) == min(count, limit)
    assert (chosen[0], chosen[-1]) == (0, count - 1)


def test_the_turn_is_where_filters_are_halfway(make_run):
    assert choose_turn(read_record(make_run(steps=(0, 1, 2, 3, 4, 45, 100)))) == [0, 5, 6]
    assert choose_turn(read_record(make_run(steps=(0, 100)))) == [0, 1]
    assert choose_turn(read_record(make_run(steps=(0,)))) == [0]


def test_heads_with_an_oracle_are_kept_first_in_the_order_of_the_model(make_run):
    layers = (Layer("a", 3), Layer("b", 2, oracle=True))
    record = read_record(make_run(layers))
    assert [head.name for head in choose_heads(record, 3)] == ["a, head 0", "b, head 0", "b, head 1"]
    assert [head.last for head in choose_heads(record, 3)] == [True, False, True]
    assert (omission(record, 3), omission(record, 5)) == ("3 of 5 heads", "")
