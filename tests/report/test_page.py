import base64
import dataclasses
import hashlib
import html
import json
import re
import zlib
from importlib import resources

import numpy as np
import pytest

from jattn.report import page
from jattn.report.facts import record_lines, result_line
from jattn.report.page import build_page, page_data
from jattn.report.provenance import save_provenance
from jattn.report.record import Layer, read_record
from jattn.report.snapshots import save_snapshot

HOSTILE = [
    "</script><script>window.pwned = 1</script>",
    "<img src=x onerror=window.pwned=1>",
    "{{data}}",
    "a\u2028b",
    "&lt;",
]


def element(text, opening, name):
    return re.search(f"{opening}(.*?)</{name}>", text, re.DOTALL)[1]


def data_of(text):
    return json.loads(element(text, '<script id="data" type="application/json">', "script"))


def test_the_policy_allows_this_style_and_this_script_and_no_connection(make_run):
    text = build_page(read_record(make_run()))
    policy = html.unescape(re.search(r'Content-Security-Policy" content="(.*?)"', text)[1])
    style, script = element(text, "<style>", "style"), element(text, '<script type="module">', "script")
    for kind, body in (("style-src", style), ("script-src", script)):
        digest = base64.b64encode(hashlib.sha256(body.encode()).digest()).decode()
        assert f"{kind} 'sha256-{digest}'" in policy
    assert policy.startswith("default-src 'none';")
    assert "unsafe" not in policy


def test_the_page_names_no_other_place(make_run):
    text = build_page(read_record(make_run()))
    assert set(re.findall(r"https?://[^\"'\s]+", text)) == {"http://www.w3.org/2000/svg"}
    assert not re.search(r"@import|url\((?!#)|\bsrc=|innerHTML|\beval\b|document\.write", text)


def test_hostile_tokens_stay_data(make_run):
    text = build_page(read_record(make_run(tokens=HOSTILE)))
    assert data_of(text)["examples"][0]["sequences"]["inputs"] == HOSTILE
    assert "<img" not in text
    assert text.count("</script>") == 2
    assert "\u2028" not in text


def test_a_hostile_title_stays_text(make_run):
    run_dir = make_run()
    (run_dir / "config.toml").write_text('[task]\nname = "</title><img src=x>"\n')
    text = build_page(read_record(run_dir))
    assert "<img" not in text
    assert data_of(text)["title"] == "</title><img src=x>"


def unpacked(packed, name, dtype):
    return np.frombuffer(zlib.decompress(base64.b64decode(packed[name])), dtype).reshape(packed["shape"])


def levels_of(packed):
    """Adds up the differences that travel."""
    return np.cumsum(unpacked(packed, "packed", np.uint8), axis=0, dtype=np.uint8)


def test_weights_are_within_half_a_level(make_run):
    record = read_record(make_run())
    packed = page_data(record)["weights"][0]
    levels = levels_of(packed)
    assert packed["coarse"] == [False] * 3
    weights = np.stack([snapshot["block_0/attention"] for snapshot in record.snapshots])
    np.testing.assert_allclose(levels / 254, weights, atol=0.5 / 254 + 1e-7)


def test_where_there_are_many_weights_all_but_the_last_are_coarser(make_run, monkeypatch):
    monkeypatch.setattr("jattn.report.packing.FINE_CELLS", 149)
    record = read_record(make_run())
    packed = page_data(record)["weights"][0]
    assert packed["coarse"] == [True, True, False]
    weights = np.stack([snapshot["block_0/attention"] for snapshot in record.snapshots])
    found = levels_of(packed) / 254
    np.testing.assert_allclose(found[:2], weights[:2], atol=0.5 / 32 + 0.5 / 254 + 1e-7)
    np.testing.assert_allclose(found[2], weights[2], atol=0.5 / 254 + 1e-7)
    assert len(np.unique(found[:2])) <= 33


def test_a_long_run_shows_fewer_snapshots_and_says_how_many_there_were(make_run, monkeypatch):
    monkeypatch.setattr(page, "WEIGHTS_LIMIT", 4 * 2 * 25)
    data = page_data(read_record(make_run(steps=range(0, 101, 10))))
    assert (data["steps"], data["snapshots_taken"]) == ([0, 30, 70, 100], 11)


def test_a_page_that_would_be_too_large_holds_fewer_snapshots(make_run, monkeypatch):
    record = read_record(make_run(steps=range(0, 101, 10)))
    whole = len(page_data(record)["weights"][0]["packed"])
    monkeypatch.setattr(page, "TEXT_LIMIT", whole // 2)
    data = page_data(record)
    assert len(data["weights"][0]["packed"]) <= whole // 2
    assert 2 <= len(data["steps"]) < 11
    assert (data["steps"][0], data["steps"][-1]) == (0, 100)
    monkeypatch.setattr(page, "TEXT_LIMIT", 1)
    assert page_data(record)["steps"] == [0, 100]


def test_each_seed_of_the_last_test_is_listed(make_run):
    seeds = [{"seed": seed, "exact_accuracy": 0.5} for seed in (3, 4)]
    rows = [{"kind": "test", "step": 1, "examples": 8, "replicates": seeds}]
    assert page_data(read_record(make_run(metrics=rows)))["seeds"] == seeds
    assert page_data(read_record(make_run()))["seeds"] == []


def test_answers_travel_as_they_were_given(make_run):
    record = read_record(make_run())
    packed = page_data(record)["answers"]
    said = np.array(packed["texts"])[unpacked(packed, "packed", "<u2")]
    np.testing.assert_array_equal(said, np.stack(record.answers))
    older = dataclasses.replace(record, answers=[None, record.answers[1], None])
    assert (unpacked(page_data(older)["answers"], "packed", "<u2")[[0, 2]] == 65_535).all()
    assert page_data(dataclasses.replace(record, answers=()))["answers"] is None


def test_what_draws_a_filter_knows_no_run():
    for name in page.PARTS:
        script = resources.files("jattn.report").joinpath(name).read_text(encoding="utf-8")
        assert not re.search(r"\brun\.\w|\bstate\.\w|byId", script), name


def test_what_is_not_a_number_becomes_null(make_run):
    rows = [{"kind": "train", "step": 0, "loss": float("nan")}, {"kind": "train", "step": 1, "loss": 2.0}]
    record = read_record(make_run(metrics=rows))
    record.snapshots[0]["block_0/attention"][:] = np.inf
    data = data_of(build_page(record))
    assert data["panels"][0]["curves"][0]["values"] == [None, 2.0]
    assert data["measures"][0][0][0]["mass"] == [None]


def test_the_config_is_written_as_in_its_file(make_run):
    run_dir = make_run()
    config = 'plain = "é"\n\n[task]\nname = "reverse"\nrate = 0.0\nlengths = [8, 16]\non = true'
    (run_dir / "config.toml").write_text(config, encoding="utf-8")
    assert page_data(read_record(run_dir))["config"] == config


def test_a_run_without_a_task_is_titled_by_its_folder(make_run):
    run_dir = make_run()
    (run_dir / "config.toml").write_text("")
    assert page_data(read_record(run_dir))["title"] == run_dir.name


TEST = {
    "kind": "test",
    "step": 600,
    "examples": 10_000,
    "exact_accuracy": 0.99996,
    "token_accuracy": 1.0,
    "filter_score": 0.981,
}
EVALUATION = {
    "kind": "evaluation",
    "step": 200,
    "exact_accuracy": 0.5,
    "token_accuracy": float("nan"),
    "filter_score": None,
}


@pytest.mark.parametrize(
    ("rows", "sentence"),
    [
        ([], "The run has begun; nothing is evaluated yet."),
        ([{"kind": "evaluation", "step": 0}], "After 0 steps, no accuracy is known."),
        (
            [TEST, EVALUATION],
            "After 600 steps, 99.99 % of 10,000 fresh sequences are exactly right, 100.00 % of their tokens are right, "
            "the filter score is 0.981.",
        ),
        (
            [EVALUATION],
            "After 200 steps, 50.00 % of fresh sequences are exactly right, an unknown part of their tokens are right.",
        ),
    ],
)
def test_the_result_in_one_sentence(make_run, rows, sentence):
    assert result_line(read_record(make_run(metrics=rows))) == sentence


@pytest.mark.parametrize(
    ("steps", "said"),
    [
        ([0], ""),
        ([0, 0], ""),
        ([0, 0, 20], "; the run was resumed once"),
        ([0, 20, 40], "; the run was resumed 2 times"),
    ],
)
def test_only_a_session_that_goes_on_from_a_checkpoint_is_resumed(make_run, steps, said):
    folder = make_run()
    save_provenance(folder, {"sessions": [{"from_step": step, "seconds": 1.5} for step in steps]})
    times = f"{1.5 * len(steps):.1f} s of training, evaluation and test, compilation included"
    assert dict(record_lines(read_record(folder)))["wall time"] == times + said


def test_layers_without_an_oracle_have_no_mass(make_run):
    data = page_data(read_record(make_run((Layer("a", 2), Layer("b", 1, oracle=True)))))
    assert data_of(build_page(read_record(make_run((Layer("a", 2),)))))["measures"][0][0][0]["mass"] == [None, None]
    assert data["measures"][1][-1][0]["mass"] == [1.0]


POOLED = Layer("block_0/attention", 1, oracle=True)


def test_cells_of_a_map_are_within_half_a_level_of_their_root(make_pooled_run):
    record = read_record(make_pooled_run(lengths=(40, 12)))
    packed = page_data(record)["weights"][0]
    assert packed["shape"] == (3, 2, 1, 16, 16)
    roots = levels_of(packed) / 254
    for snapshot in range(3):
        for example, side in ((0, 16), (1, 12)):
            cells = record.picture(snapshot, POOLED, example)[0]
            found = roots[snapshot, example, 0, :side, :side]
            np.testing.assert_allclose(found, np.sqrt(cells), atol=0.5 / 254 + 1e-6)


def test_rows_on_demand_are_the_largest_weights_and_their_keys(make_pooled_run):
    record = read_record(make_pooled_run())
    packed = page_data(record)["rows"][0]
    kept = record.snapshots[1]["block_0/attention"]
    assert packed["snapshots"] == [0, 1, 2]
    assert packed["key_bytes"] == 2
    np.testing.assert_array_equal(unpacked(packed, "keys", "<u2")[1], kept.top_keys)
    weights = unpacked(packed, "levels", "<u2")[1] / 65_534
    np.testing.assert_allclose(weights, kept.top_weights, atol=0.5 / 65_534 + 1e-6)


def test_rows_that_are_not_numbers_are_told_apart(make_pooled_run):
    record = read_record(make_pooled_run())
    record.snapshots[0]["block_0/attention"].top_weights[0, 0, 3] = np.nan
    assert (unpacked(page_data(record)["rows"][0], "levels", "<u2")[0, 0, 0, 3] == 65_535).all()


MAPS, ROWS = 2 * 16 * 16, 40 * 8 * 4
"""The bytes of a snapshot's maps, and of one example's rows."""


@pytest.mark.parametrize(
    ("limit", "steps", "row_steps", "row_examples"),
    [
        (5 * (MAPS + 2 * ROWS), 5, [0, 1, 2, 3, 4], 2),
        (5 * MAPS + 6 * ROWS, 5, [0, 2, 4], 2),
        (5 * MAPS + 5 * ROWS, 5, [0, 4], 2),
        (5 * MAPS + 2 * ROWS, 5, [4], 2),
        (5 * MAPS + ROWS, 5, [4], 1),
        (5 * MAPS, 5, [4], 1),
        (3 * MAPS, 3, [2], 1),
        (1, 2, [1], 1),
    ],
)
def test_rows_are_left_out_before_maps_and_of_the_last_step_last(
    make_pooled_run, monkeypatch, limit, steps, row_steps, row_examples
):
    monkeypatch.setattr(page, "WEIGHTS_LIMIT", limit)
    data = page_data(read_record(make_pooled_run(steps=(0, 25, 50, 75, 100))))
    assert len(data["steps"]) == steps
    assert data["rows"][0]["snapshots"] == row_steps
    assert data["rows"][0]["shape"][1] == row_examples


def test_steps_that_were_kept_whole_have_no_rows_on_demand(make_pooled_run):
    run_dir = make_pooled_run()
    save_snapshot(run_dir, 100, {POOLED.name: np.full((2, 1, 40, 40), 1 / 40)})
    data = page_data(read_record(run_dir))
    assert data["rows"][0]["snapshots"] == [0, 1]
    assert data["measures"][0][2][0]["mass"] == [0.025]


def test_layers_say_whether_they_are_pooled_and_what_a_cell_is(make_run, make_pooled_run):
    data = page_data(read_record(make_pooled_run(lengths=(32, 16))))
    assert data["layers"][0]["pooled"] is True
    assert data["pooling"] == [["pooled: each cell is 2 queries x 2 keys", "pooled: each cell is 1 query x 1 key"]]
    whole = page_data(read_record(make_run()))
    assert (whole["layers"][0]["pooled"], whole["pooling"], whole["rows"]) == (False, [["", ""]], [None])
