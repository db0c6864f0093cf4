import os
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest

from jattn.report import record as record_module, render
from jattn.report.record import Example, Layer, Probes, RunRecord, read_record, save_probes
from jattn.report.snapshots import save_snapshot
from tests.report.damage import assert_left_out

LAYER = Layer("block_0/attention", 1, oracle=True)


def example(**changes):
    given = {"sequences": {"inputs": ["a", "b"]}, "targets": ["b", "a"], "scored": [True] * 2, "oracle": [[1], [0]]}
    return Example(**(given | changes))


def test_a_record_reads_back_what_was_written(make_run):
    record = read_record(make_run(steps=(0, 5, 20)))
    assert record.config["task"]["name"] == "reverse"
    assert record.steps == [0, 5, 20]
    assert record.probes.layers == [LAYER]
    assert record.probes.examples[1].sequences["inputs"] == ["0", "1", "4", "2", "3"]
    np.testing.assert_array_equal(record.filters(2, LAYER, 0), np.eye(5, dtype=np.float32)[None, :, ::-1])
    assert [row["step"] for row in record.rows("train")] == [0, 5, 20]


def test_numpy_values_and_narrow_floats_are_written_as_plain_ones(tmp_path, make_run):
    run_dir = make_run()
    save_probes(run_dir, Probes([LAYER], [example(scored=np.array([True, False]), oracle=[np.array([1]), []])]))
    for step in (0, 50, 100):
        save_snapshot(run_dir, step, {LAYER.name: np.full((1, 1, 2, 2), 0.5, np.float16)})
    record = read_record(run_dir)
    assert record.probes.examples[0].scored == [True, False]
    assert record.snapshots[0][LAYER.name].dtype == np.float32


def test_snapshots_are_ordered_by_number_beyond_eight_digits(make_run):
    assert read_record(make_run(steps=(0, 99_999_999, 100_000_000))).steps == [0, 99_999_999, 100_000_000]


def test_filters_are_cut_to_the_length_of_their_example():
    layer = Layer("cross", 2, keys="source", oracle=True)
    probes = Probes([layer], [example(sequences={"inputs": ["a", "b"], "source": ["x", "y", "z"]})])
    record = RunRecord("run", {}, [], probes, [0], [{"cross": np.zeros((1, 2, 7, 9))}])
    assert record.filters(0, layer, 0).shape == (2, 2, 3)


@pytest.mark.parametrize("fails", ["write", "sync"])
def test_a_failed_write_leaves_the_old_file_and_no_other(make_run, monkeypatch, fails):
    run_dir = make_run()
    files = sorted((run_dir / "filters").iterdir())
    before = (run_dir / "filters" / "step_00000050.npz").read_bytes()

    def write_a_little(file, **arrays):
        file.write(b"half")
        raise OSError("no space left on device")

    def refuse(descriptor):
        raise OSError("no space left on device")

    if fails == "write":
        monkeypatch.setattr(np, "savez", write_a_little)
    else:
        monkeypatch.setattr(os, "fsync", refuse)
    with pytest.raises(OSError, match="no space left"):
        save_snapshot(run_dir, 50, {LAYER.name: np.zeros((2, 1, 5, 5))})
    assert (run_dir / "filters" / "step_00000050.npz").read_bytes() == before
    assert sorted((run_dir / "filters").iterdir()) == files


@pytest.mark.parametrize("cut", [1, 10, 40])
def test_a_last_line_cut_short_is_left_out(make_run, cut):
    run_dir = make_run()
    path = run_dir / "metrics.jsonl"
    whole = path.read_bytes()
    path.write_bytes(whole + '{"kind": "train", "step": 200, "note": "é'.encode()[: cut + 1])
    assert len(read_record(run_dir).metrics) == whole.count(b"\n")


def test_a_last_line_that_lacks_nothing_but_its_end_is_read(make_run):
    run_dir = make_run()
    path = run_dir / "metrics.jsonl"
    whole = path.read_bytes()
    path.write_bytes(whole.rstrip(b"\n"))
    assert len(read_record(run_dir).metrics) == whole.count(b"\n")


@pytest.mark.parametrize("garbage", [b"{", b"\xff\xfe", b"3", b'{"kind": "train"}', b""])
def test_garbage_in_the_middle_is_told_with_file_and_line(make_run, garbage):
    run_dir = make_run()
    path = run_dir / "metrics.jsonl"
    lines = path.read_bytes().split(b"\n")
    path.write_bytes(b"\n".join([lines[0], garbage, *lines[1:]]))
    with pytest.raises(ValueError, match=r"metrics\.jsonl, line 2: expected"):
        read_record(run_dir)


def test_a_line_separator_inside_a_text_ends_no_line(make_run):
    run_dir = make_run()
    with (run_dir / "metrics.jsonl").open("a", encoding="utf-8") as file:
        file.write('{"kind": "note", "step": 1, "text": "a\u2028b"}\n')
    assert read_record(run_dir).rows("note")[0]["text"] == "a\u2028b"


def test_of_two_rows_at_one_step_the_later_counts(make_run):
    rows = [
        {"kind": "train", "step": 5, "loss": 2},
        {"kind": "train", "step": 1},
        {"kind": "train", "step": 5, "loss": 1},
    ]
    assert read_record(make_run(metrics=rows)).rows("train") == rows[1:]


@pytest.mark.parametrize(
    ("missing", "message"),
    [("config.toml", "no config.toml in"), ("filters/probes.json", "no filters/probes.json in")],
)
def test_a_missing_file_is_named(make_run, missing, message):
    run_dir = make_run()
    (run_dir / missing).unlink()
    with pytest.raises(FileNotFoundError, match=message):
        read_record(run_dir)


def test_no_snapshot_asks_whether_the_run_has_started(make_run):
    run_dir = make_run()
    for path in (run_dir / "filters").glob("*.npz"):
        path.unlink()
    with pytest.raises(FileNotFoundError, match=r"no filter snapshots in .* has the run started"):
        read_record(run_dir)


def test_missing_metrics_are_no_metrics(make_run):
    run_dir = make_run()
    (run_dir / "metrics.jsonl").unlink()
    assert read_record(run_dir).metrics == []


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("config.toml", b"a = [", r"config\.toml"),
        ("filters/probes.json", b"{", r"probes\.json"),
        ("filters/probes.json", b"[]", r"probes\.json"),
        ("filters/probes.json", b'{"layers": []}', r"probes\.json: 'examples' is missing"),
        ("filters/probes.json", b'{"layers": [{"nam": "x"}], "examples": []}', r"probes\.json.*nam"),
    ],
)
def test_a_broken_file_is_named(make_run, file, content, message):
    run_dir = make_run()
    (run_dir / file).write_bytes(content)
    with pytest.raises(ValueError, match=message):
        read_record(run_dir)


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04half", b"\x93NUMPY"])
def test_a_broken_snapshot_is_left_out_and_named(make_run, content):
    run_dir = make_run()
    (run_dir / "filters" / "step_00000050.npz").write_bytes(content)
    assert_left_out(run_dir, r"step_00000050\.npz: not a snapshot")


def test_a_snapshot_with_any_bit_of_its_arrays_changed_is_left_out(make_run):
    run_dir = make_run()
    path = run_dir / "filters" / "step_00000050.npz"
    whole = path.read_bytes()
    with zipfile.ZipFile(path) as archive:
        entry = archive.infolist()[0]
    start = entry.header_offset + 30 + len(entry.filename) + 128
    for place in range(start, start + entry.file_size - 128, 37):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 4]) + whole[place + 1 :])
        assert_left_out(run_dir, r"step_00000050\.npz: not a snapshot")


def test_where_every_snapshot_is_broken_the_first_is_named(make_run):
    run_dir = make_run()
    for path in (run_dir / "filters").glob("*.npz"):
        path.write_bytes(b"")
    with pytest.raises(ValueError, match=r"step_00000000\.npz: not a snapshot of filters: No data left in file$"):
        read_record(run_dir)


def test_the_rest_of_a_report_is_drawn_and_what_is_broken_is_said(make_run):
    run_dir = make_run()
    (run_dir / "filters" / "step_00000050.npz").write_bytes(b"")
    said = []
    page = render(run_dir, said.append)
    assert page.stat().st_size > 0
    assert (run_dir / "figures" / "filters.png").exists()
    assert len(said) == 1
    with pytest.warns(UserWarning, match="it is left out"):
        render(run_dir)


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ({"other": np.zeros((2, 1, 5, 5))}, "block_0/attention"),
        ({LAYER.name: np.zeros((1, 1, 5, 5))}, r"expected shape \(2, 1, 5, 5\) .* got \(1, 1, 5, 5\)"),
        ({LAYER.name: np.zeros((2, 1, 4, 5))}, r"got \(2, 1, 4, 5\)"),
    ],
)
def test_a_snapshot_of_other_layers_or_shapes_is_refused(make_run, weights, message):
    run_dir = make_run()
    save_snapshot(run_dir, 50, weights)
    assert_left_out(run_dir, message)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sequences": {"source": ["a"]}}, "expected a sequence 'inputs'"),
        ({"targets": ["b"]}, "expected 2 targets, one per token of 'inputs', got 1"),
        ({"scored": []}, "expected 2 scored"),
        ({"oracle": [[0]]}, "expected 2 oracle"),
    ],
)
def test_an_example_checks_its_lengths(changes, message):
    with pytest.raises(ValueError, match=message):
        example(**changes)


@pytest.mark.parametrize(
    ("layers", "examples", "message"),
    [
        ([LAYER], [], "expected examples, got none"),
        ([LAYER, LAYER], [example()], "different names"),
        ([Layer("cross", 1, keys="source")], [example()], "reads 'source'"),
        ([LAYER], [example(oracle=[[2], [0]])], "has 2 keys, an oracle points to key 2"),
        ([LAYER], [example(oracle=[[-1], [0]])], "points to key -1"),
    ],
)
def test_probes_check_that_layers_and_examples_fit(layers, examples, message):
    with pytest.raises(ValueError, match=message):
        Probes(layers, examples)


def test_an_oracle_needs_the_queries_that_are_scored():
    sequences = {"inputs": ["a", "b"], "source": ["a", "b"]}
    with pytest.raises(ValueError, match="expected queries 'inputs', got 'source'"):
        Probes([Layer("encoder", 1, "source", "source", oracle=True)], [example(sequences=sequences)])


def test_a_snapshot_checks_step_and_axes(tmp_path):
    with pytest.raises(ValueError, match="expected a step >= 0, got -1"):
        save_snapshot(tmp_path, -1, {})
    with pytest.raises(ValueError, match=r"expected \[examples, heads, queries, keys\], got shape \(2, 2\)"):
        save_snapshot(tmp_path, 0, {"layer": np.zeros((2, 2))})


def test_reading_and_writing_records_imports_no_drawing():
    code = "import sys, jattn.report; sys.exit('matplotlib' in sys.modules or 'PIL' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_the_report_and_what_it_draws_with_need_no_jax():
    report = Path(record_module.__file__).parent
    sources = [*report.glob("*.py"), *(report.parent / "drawing").glob("*.py")]
    imports = [line for path in sources for line in path.read_text(encoding="utf-8").split("\n") if "import" in line]
    assert len(sources) > 15
    assert not [line for line in imports if re.search(r"\b(jax|flax)\b|jattn\.(?!report|drawing)", line)]
