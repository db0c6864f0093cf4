"""Runs side by side: numbers that can be checked by head, in the table, the CSV and the figure."""

import csv
import io
import json
import warnings
from itertools import pairwise

import numpy as np
import pytest
from matplotlib.colors import to_hex
from PIL import Image

from jattn.drawing.lines import PALETTE
from jattn.drawing.look import ramp_colours, save_figure
from jattn.report.comparison import make_tables, to_csv, to_markdown, write_comparison
from jattn.report.comparison_figure import ROWS_BY_LENGTH, draw_comparison
from jattn.report.comparison_page import build_comparison, result_words
from jattn.report.outcomes import Outcome, Spread, value_text


def seed_row(accuracy, score, by_length=()):
    found = {"token_accuracy": accuracy, "exact_accuracy": accuracy, "filter_score": score}
    return found | {"by_length": {str(length): seed_row(*numbers) for length, numbers in dict(by_length).items()}}


def outcome(values, *seeds, steps=500):
    return Outcome(values, "folder", {"kind": "test", "step": steps, "replicates": list(seeds)})


def failed(values):
    return Outcome(values, "folder", None)


THREE_SEEDS = outcome({"num_heads": 2}, seed_row(0.5, 0.2), seed_row(1.0, 0.3), seed_row(0.75, 0.7))


def test_a_spread_is_the_mean_the_lowest_and_the_highest():
    assert THREE_SEEDS.spread("exact_accuracy") == Spread(0.75, 0.5, 1.0)
    found = THREE_SEEDS.spread("filter_score")
    assert (found.low, found.high) == (0.2, 0.7)
    assert found.mean == pytest.approx(0.4)


def test_one_seed_has_no_range_with_or_without_replicates():
    row = {"step": 500, **seed_row(0.5, 0.2)}
    assert Outcome({}, "", row).spread("exact_accuracy") == Spread(0.5, None, None)
    assert outcome({}, seed_row(0.5, 0.2)).spread("exact_accuracy") == Spread(0.5, None, None)


def test_a_mean_of_equal_numbers_lies_within_them():
    for number in np.random.default_rng(0).uniform(size=200):
        for seeds in (3, 5, 7):
            found = outcome({}, *[seed_row(number, None)] * seeds).spread("exact_accuracy")
            assert found.low == found.mean == found.high


def test_what_was_not_measured_has_no_spread():
    assert failed({}).spread("exact_accuracy") is None
    assert outcome({}, seed_row(1.0, None)).spread("filter_score") is None
    assert outcome({}, seed_row(1.0, 0.5, {8: (1.0, 0.5)})).spread("exact_accuracy", 16) is None


def test_the_table_tells_mean_and_range():
    (table,) = make_tables([THREE_SEEDS, failed({"num_heads": 4})])
    assert to_markdown([table]) == (
        "| num_heads | seeds | steps | exact accuracy, mean (lowest to highest) "
        "| token accuracy, mean (lowest to highest) | filter score, mean (lowest to highest) |\n"
        "| --- | --- | --- | --- | --- | --- |\n"
        "| 2 | 3 | 500 | 75.00 % (50.00 to 100.00) | 75.00 % (50.00 to 100.00) | 0.400 (0.200 to 0.700) |\n"
        "| 4 |  |  | failed | failed | failed |\n"
    )


def test_the_table_of_single_seeds_of_a_task_without_oracle_is_plain():
    (table,) = make_tables([outcome({"name": "a|b"}, seed_row(0.99875, None))])
    assert table.header == ["name", "seeds", "steps", "exact accuracy", "token accuracy"]
    assert table.rows == [["a|b", "1", "500", "99.88 %", "99.88 %"]]
    assert "| a\\|b |" in to_markdown([table])


def test_lengths_have_tables_of_their_own_with_a_column_each():
    runs = [
        outcome({"positions": "none"}, seed_row(1.0, 0.9, {16: (0.5, 0.8), 8: (1.0, 0.9)})),
        outcome({"positions": "rotary"}, seed_row(1.0, 0.9, {8: (0.25, 0.7)})),
    ]
    _, exact, _, score = make_tables(runs)
    assert exact.title == "exact accuracy by length"
    assert exact.header == ["positions", "8", "16"]
    assert exact.rows == [["none", "100.00 %", "50.00 %"], ["rotary", "25.00 %", ""]]
    assert score.rows == [["none", "0.900", "0.800"], ["rotary", "0.700", ""]]


def test_the_csv_holds_all_numbers_unrounded():
    third = 1 / 3
    runs = [
        outcome({"a": 1, "b": (16, 32)}, *(seed_row(x, None, {8: (x, third)}) for x in (third, 1.0))),
        failed({"a": 2, "b": ()}),
    ]
    done, broken = csv.DictReader(io.StringIO(to_csv(runs)))
    assert (done["a"], done["b"], done["status"], done["seeds"], done["steps"]) == ("1", "16+32", "done", "2", "500")
    assert float(done["exact_accuracy"]) == 2 / 3
    assert float(done["exact_accuracy_min"]) == float(done["filter_score_at_8_max"]) == third
    assert done["filter_score"] == done["filter_score_min"] == ""
    assert (broken["a"], broken["b"], broken["status"]) == ("2", "none", "failed")
    assert set(list(broken.values())[4:]) == {""}


def test_a_word_for_every_kind_of_value():
    assert [value_text(value) for value in (True, 1, 1.0, 1e-5, "é")] == ["true", "1", "1.0", "1e-05", "é"]


def grid(first, others=(None,), seeds=3, **by_length):
    """Runs over two keys, or over one; every further run is a little worse."""
    runs = [(x, other) for x in first for other in others]
    rows = [[seed_row(1 - n / 50 - s / 100, 0.5, **by_length) for s in range(seeds)] for n in range(len(runs))]
    values = [{"first": x} | ({} if other is None else {"other": other}) for x, other in runs]
    return [outcome(value, *row) for value, row in zip(values, rows, strict=True)]


def drawn(axes):
    """The lines of a panel: name, places, means, and the lower and upper ends of the bars."""
    found = {}
    for container in axes.containers:
        line, _, bars = container.lines
        segments = bars[0].get_segments() if bars else []
        ends = [segment[:, 1].tolist() for segment in segments if len(segment)]
        found[container.get_label()] = (line.get_xdata().tolist(), line.get_ydata().tolist(), ends)
    return found


def only_line(axes):
    (line,) = drawn(axes).values()
    return line


def texts(figure):
    return [text.get_text() for text in figure.texts] + [axes.get_title(loc="left") for axes in figure.axes]


def test_the_figure_draws_means_and_ranges():
    accuracy, score = draw_comparison([THREE_SEEDS]).axes
    assert only_line(accuracy) == ([2.0], [0.75], [[0.5, 1.0]])
    assert only_line(score)[2] == [pytest.approx([0.2, 0.7])]


def test_the_figure_says_what_the_bars_are():
    assert "mean over 3 seeds, bars from the lowest to the highest" in texts(draw_comparison(grid((1, 2))))
    assert "one seed each; 1 of 3 runs failed" in texts(draw_comparison([*grid((1, 2), seeds=1), failed({"first": 3})]))


@pytest.mark.parametrize(
    ("values", "scale", "ticks"),
    [
        ((4, 1, 2), "log", ["1", "2", "4"]),
        ((8, 16, 24, 32), "linear", ["8", "16", "24", "32"]),
        ((1e-4, 1e-3, 1e-2), "log", ["0.0001", "0.001", "0.01"]),
        ((0, 1, 10), "linear", ["0", "1", "10"]),
        ((-1, 1), "linear", ["-1", "1"]),
        ((3,), "linear", ["3"]),
    ],
)
def test_numbers_stand_on_a_numeric_axis(values, scale, ticks):
    axes = draw_comparison(grid(values)).axes[0]
    assert axes.get_xscale() == scale
    assert [label.get_text() for label in axes.get_xticklabels()] == ticks
    assert only_line(axes)[0] == sorted(values)
    assert axes.containers[0].lines[0].get_linestyle() == "-"
    low, high = axes.get_xlim()
    assert low < min(values) <= max(values) < high


@pytest.mark.parametrize("values", [("pre", "post"), (True, False), ((16, 32), ()), ("b", "a", "c")])
def test_other_values_stand_evenly_in_their_order_and_unconnected(values):
    axes = draw_comparison(grid(values)).axes[0]
    assert [label.get_text() for label in axes.get_xticklabels()] == [value_text(value) for value in values]
    assert only_line(axes)[0] == list(range(len(values)))
    assert axes.containers[0].lines[0].get_linestyle() == "None"


def test_other_keys_are_lines_in_colours_of_their_order_where_they_have_one():
    for others, colours in (
        (("pre", "post", "both"), PALETTE[:3]),
        ((4, 1, 2), [to_hex(ramp_colours(256)[shade] / 255) for shade in (255, 80, 168)]),
    ):
        axes = draw_comparison(grid((1, 2), others)).axes[0]
        assert list(drawn(axes)) == [f"other={other}" for other in others]
        assert [to_hex(container.lines[0].get_color()) for container in axes.containers] == list(colours)


def test_a_run_that_failed_is_a_gap():
    runs = grid((1, 2, 3))
    runs[1] = failed(runs[1].values)
    places, means, _ = only_line(draw_comparison(runs).axes[0])
    assert places == [1, 2, 3]
    np.testing.assert_array_equal(np.isnan(means), [False, True, False])


def test_lengths_have_a_row_of_panels_for_each_of_the_other_keys():
    figure = draw_comparison(grid((1, 2), ("pre", "post"), by_length={8: (1.0, 0.9), 16: (0.5, 0.4)}))
    assert len(figure.axes) == 6
    accuracy, score = figure.axes[4:]
    assert accuracy.get_title(loc="left") == "exact accuracy by length, other=post"
    assert {name: line[:2] for name, line in drawn(accuracy).items()} == {
        "first=1": ([8, 16], [1.0, 0.5]),
        "first=2": ([8, 16], [1.0, 0.5]),
    }
    assert drawn(score)["first=2"][1] == [0.9, 0.4]


def test_rows_by_length_beyond_the_most_are_left_out_and_counted():
    figure = draw_comparison(grid((1,), tuple(range(ROWS_BY_LENGTH + 3)), seeds=1, by_length={8: (1.0, 0.9)}))
    assert len(figure.axes) == 2 * (1 + ROWS_BY_LENGTH)
    assert f"one seed each; by length: {ROWS_BY_LENGTH} of {ROWS_BY_LENGTH + 3}" in texts(figure)


def test_a_task_without_oracle_has_one_panel():
    assert len(draw_comparison([outcome({"a": 1}, seed_row(1.0, None))]).axes) == 1


@pytest.mark.parametrize(
    "runs",
    [
        [failed({"a": 1}), failed({"a": 2})],
        grid(tuple(range(1, 40)), ("x",)),
        grid([f"a_long_name_{n}" for n in range(12)], tuple(range(30)), seeds=1),
        grid(["$x^{2$", "\\frac{", "日本"], ["$\\bad$"]),
    ],
    ids=["all failed", "many numbers", "many words", "hostile"],
)
def test_any_runs_can_be_drawn(tmp_path, runs):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        file = io.BytesIO()
        save_figure(draw_comparison(runs), file)
    assert Image.open(file).size[1] < 1000


def test_labels_of_many_values_do_not_overlap():
    for runs in (grid([f"a_long_name_{n}" for n in range(8)]), grid([n / 7 for n in range(1, 60)])):
        figure = draw_comparison(runs)
        save_figure(figure, io.BytesIO())
        boxes = [label.get_window_extent() for label in figure.axes[0].get_xticklabels()]
        upright = figure.axes[0].get_xticklabels()[0].get_rotation() == 0
        assert not upright or all(left.x1 < right.x0 for left, right in pairwise(boxes))
        assert min(box.y0 for box in boxes) > 0


def test_everything_is_written_whole(tmp_path):
    tables = write_comparison(tmp_path, [THREE_SEEDS])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["sweep.csv", "sweep.html", "sweep.md", "sweep.png"]
    assert (tmp_path / "sweep.md").read_text() == to_markdown(tables)
    assert (tmp_path / "sweep.csv").read_text() == to_csv([THREE_SEEDS])


def test_a_sentence_says_how_the_runs_do():
    def run(exact, score):
        return Outcome({"k": exact}, "k", {"step": 1, "exact_accuracy": exact, "filter_score": score})

    right, half, failed = run(1.0, 0.95), run(0.5, 0.8), Outcome({"k": 3}, "k", None)
    assert result_words([right, half, failed]) == (
        "3 runs, 1 of which failed: from 50.00 % to 100.00 % of the sequences of their tests are exactly right, "
        "and the filter score is from 0.800 to 0.950."
    )
    assert result_words([run(1.0, None)]) == "1 run: 100.00 % of the sequences of their tests are exactly right."
    assert result_words([failed]) == "1 run, 1 of which failed."
    assert result_words([run(None, 0.5)]) == "1 run: the filter score is 0.500."
    texts = [outcome({}, seed_row(0.0, None) | {"perplexity": 4.0, "bits_per_byte": bits}) for bits in (2.0, 1.5)]
    assert result_words(texts) == "2 runs: the loss of their tests is from 1.500 to 2.000 bits per byte."


def test_a_run_that_failed_leads_to_no_page_where_it_has_none(tmp_path):
    done = outcome({"num_heads": 1}, seed_row(1.0, 0.9))
    (tmp_path / done.folder).mkdir()
    (tmp_path / done.folder / "report.html").touch()
    page = build_comparison(tmp_path, [done, Outcome({"num_heads": 2}, "failed", None)], [])
    data = json.loads(page.partition('type="application/json">')[2].partition("</script>")[0])
    assert [link["address"] for link in data["links"]] == [f"{done.folder}/report.html", ""]
