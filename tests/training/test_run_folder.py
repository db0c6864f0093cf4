"""A run's folder: whose it is, what is refused, and that nothing is lost or left half written."""

import errno
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import tomllib
from contextlib import closing
from pathlib import Path

import pytest

from jattn.report.rows import write_row
from jattn.training.digests import history_of
from jattn.training.reading import ConfigError, check
from jattn.training.run_folder import RunFolder, RunFolderError, read_config, read_metrics, refuse_other_parts

# Runs in another process: makes a config for a folder, as `make_config` does here.
ELSEWHERE = """
import os, sys
from jattn.report.rows import write_row
from jattn.training.digests import history_of
from jattn.training.reading import check
from jattn.training.run_folder import RunFolder
config = check({"run": {"folder": sys.argv[1]}}, "test")
"""
HOLD = ELSEWHERE + "folder = RunFolder(config); print('held', flush=True); sys.stdin.read()"
DIE = ELSEWHERE + "os.fsync = lambda file: os._exit(9); RunFolder(config)"


def make_config(folder, **tables):
    return check({**tables, "run": {"folder": str(folder), **tables.get("run", {})}}, "test")


def open_folder(folder, **tables):
    return closing(RunFolder(make_config(folder, **tables)))


def row(step, **others):
    numbers = dict.fromkeys(("loss", "token_accuracy", "exact_accuracy", "gradient_norm"), 0.5)
    return {"kind": "train", "step": step, **numbers, "filters": {}, **others}


def rewind(folder, step, say=None):
    """Goes back to a checkpoint that was saved once all rows up to its step were written."""
    before = "".join(write_row(row(earlier)) for earlier in (0, 10, 20, 30) if earlier <= step)
    return folder.rewind(step, history_of(before.encode()) if step >= 0 else None, say)


def contents(folder):
    """Every file below a folder with its text, but for the lock."""
    return {
        str(path.relative_to(folder)): path.read_text()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != "lock"
    }


@pytest.fixture
def a_run(tmp_path):
    """A folder that a run has left, of the default config."""
    path = tmp_path / "run"
    with open_folder(path) as folder:
        for step in (0, 10, 20, 30):
            folder.append(row(step))
    (path / "filters").mkdir()
    for step in (0, 10, 30):
        (path / "filters" / f"step_{step:08d}.npz").write_text("filters")
    (path / "checkpoints" / "30").mkdir(parents=True)
    (path / "checkpoints" / "30" / "array").write_text("numbers")
    (path / "report.html").write_text("page")
    return path


def test_a_new_folder_holds_the_whole_config(tmp_path):
    path = tmp_path / "deep" / "down" / "run"
    config = make_config(path, model={"num_heads": 4}, evaluation={"test_lengths": [4, 8]})
    with closing(RunFolder(config)):
        written = tomllib.loads((path / "config.toml").read_text(encoding="utf-8"))
    assert written.keys() == {"task", "model", "training", "evaluation", "mesh", "run"}
    assert check(written, "test") == config


def test_the_same_config_goes_on_where_it_was(a_run):
    before = contents(a_run)
    with open_folder(a_run) as folder:
        assert [row["step"] for row in read_metrics(folder.path)] == [0, 10, 20, 30]
    assert contents(a_run) == before


@pytest.mark.parametrize("run", [{"cache": False}, {"overwrite": False, "cache": True}])
def test_how_a_run_is_written_does_not_make_it_another(a_run, run):
    with open_folder(a_run, run=run):
        pass


def test_a_folder_that_was_moved_is_the_same_run(a_run):
    moved = a_run.rename(a_run.with_name("moved"))
    with open_folder(moved) as folder:
        assert len(read_metrics(folder.path)) == 4


@pytest.mark.parametrize(
    ("tables", "differing"),
    [
        ({"model": {"num_heads": 2}}, ["model.num_heads: 2 | 1"]),
        ({"task": {"name": "copy"}}, ["task.name: 'copy' | 'reverse'"]),
        (
            {"training": {"seed": 7, "learning_rate": 0.5}},
            ["training.learning_rate: 0.5 | 0.01", "training.seed: 7 | 0"],
        ),
        ({"evaluation": {"test_lengths": [4]}}, ["evaluation.test_lengths: (4,) | ()"]),
        ({"run": {"snapshots": 7}}, ["run.snapshots: 7 | 20"]),
    ],
    ids=lambda value: ",".join(value) if isinstance(value, dict) else "",
)
def test_another_config_is_refused_with_the_keys_that_differ(a_run, tables, differing):
    before = contents(a_run)
    with pytest.raises(RunFolderError) as refused:
        RunFolder(make_config(a_run, **tables))
    between = re.search(r"\(asked for \| there\): (.*); choose", str(refused.value))
    assert between
    assert between[1] == ", ".join(differing)
    assert str(a_run) in str(refused.value)
    assert "--run.overwrite" in str(refused.value)
    assert contents(a_run) == before
    with open_folder(a_run):
        pass  # and the folder is free again


@pytest.mark.parametrize("text", [b"", b"garbage = [", b"[task]\nold_key = 1\n", b"\xff"])
def test_a_run_whose_config_cannot_be_read_is_refused(a_run, text):
    (a_run / "config.toml").write_bytes(text)
    with pytest.raises(RunFolderError, match=re.escape(str(a_run / "config.toml"))):
        RunFolder(make_config(a_run))


def test_one_process_at_a_time(a_run):
    before = contents(a_run)
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(a_run)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    with holder:
        assert holder.stdout.readline() == "held\n"
        for run in ({}, {"overwrite": True}):
            with pytest.raises(RunFolderError, match=rf"{re.escape(str(a_run))}.*\b{holder.pid}\b"):
                RunFolder(make_config(a_run, run=run))
        assert contents(a_run) == before
        holder.send_signal(signal.SIGKILL)
    with open_folder(a_run) as folder:
        assert len(read_metrics(folder.path)) == 4


def test_the_folder_is_held_until_it_is_closed(a_run):
    with open_folder(a_run), pytest.raises(RunFolderError, match=str(os.getpid())):
        RunFolder(make_config(a_run))
    with open_folder(a_run):
        pass


def test_overwrite_starts_anew(a_run):
    with open_folder(a_run, model={"num_heads": 2}, run={"overwrite": True}) as folder:
        assert read_metrics(folder.path) == []
        assert contents(a_run).keys() == {"config.toml", "format"}
        assert tomllib.loads((a_run / "config.toml").read_text())["model"]["num_heads"] == 2
    with open_folder(a_run, model={"num_heads": 2}):
        pass


def test_overwrite_does_not_follow_links(a_run, tmp_path):
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "thesis.txt").write_text("years of work")
    (a_run / "report.html").unlink()
    (a_run / "report.html").symlink_to(mine / "thesis.txt")
    (a_run / "figures").symlink_to(mine)
    (a_run / "checkpoints" / "30" / "deep").symlink_to(mine)
    (a_run / "filters" / "nowhere").symlink_to(mine / "missing")
    with open_folder(a_run, run={"overwrite": True}):
        assert {path.name for path in a_run.iterdir()} == {"config.toml", "format", "lock"}
    assert contents(mine) == {"thesis.txt": "years of work"}


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize(
    "files",
    [
        {"thesis.txt": ""},
        {"metrics.jsonl": ""},
        {".hidden": ""},
        {"src/main.py": ""},
        {"config.toml": 'title = "my site"\n', "thesis.txt": "years of work"},
        {"config.toml": "[model]\nname = 'resnet'\n", "thesis.txt": "years of work"},
    ],
    ids=lambda files: "+".join(files),
)
def test_a_folder_that_is_no_run_is_left_alone(tmp_path, files, overwrite):
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    with pytest.raises(RunFolderError, match=re.escape(str(tmp_path))):
        RunFolder(make_config(tmp_path, run={"overwrite": overwrite}))
    assert contents(tmp_path) == files


@pytest.mark.parametrize("folders", [0, 1])
def test_overwrite_can_be_asked_again_when_it_was_cut_off(a_run, monkeypatch, folders):
    deleted, names, delete = [], Path.iterdir, shutil.rmtree

    def delete_a_few(path):
        if len(deleted) == folders:
            raise KeyboardInterrupt
        deleted.append(path)
        delete(path)

    with monkeypatch.context() as patched:
        patched.setattr(Path, "iterdir", lambda self: iter(sorted(names(self), key=lambda p: p.name != "config.toml")))
        patched.setattr("shutil.rmtree", delete_a_few)
        with pytest.raises(KeyboardInterrupt):
            RunFolder(make_config(a_run, run={"overwrite": True}))
    with open_folder(a_run, run={"overwrite": True}):
        assert contents(a_run).keys() == {"config.toml", "format"}


def test_a_process_that_dies_while_writing_the_config_spoils_nothing(tmp_path):
    died = subprocess.run([sys.executable, "-c", DIE, str(tmp_path / "run")])
    assert died.returncode == 9
    assert not (tmp_path / "run" / "config.toml").exists()
    with open_folder(tmp_path / "run"):
        assert (tmp_path / "run" / "config.toml").stat().st_size > 0


def test_a_full_disk_spoils_nothing(a_run, tmp_path, monkeypatch):
    def full(file):
        raise OSError(errno.ENOSPC, "No space left on device")

    before = contents(a_run)["metrics.jsonl"]
    with monkeypatch.context() as patched:
        patched.setattr("os.fsync", full)
        with open_folder(a_run) as folder, pytest.raises(OSError, match="No space left"):
            rewind(folder, 10)
        with pytest.raises((OSError, RunFolderError), match="No space left"):
            RunFolder(make_config(tmp_path / "new"))
    assert contents(a_run)["metrics.jsonl"] == before
    with open_folder(tmp_path / "new"):
        pass


def test_no_metrics_are_no_rows(tmp_path):
    with open_folder(tmp_path / "run") as folder:
        assert read_metrics(folder.path) == []
        assert rewind(folder, -1) == []


def test_a_last_line_cut_short_anywhere_is_left_out(a_run):
    metrics = a_run / "metrics.jsonl"
    whole = metrics.read_text()
    start = whole.rstrip("\n").rindex("\n") + 1
    with open_folder(a_run) as folder:
        for end in range(start, len(whole) - 1):
            metrics.write_text(whole[:end])
            assert [row["step"] for row in read_metrics(folder.path)] == [0, 10, 20]
        rewind(folder, 20)
        folder.append(row(25))
        assert [row["step"] for row in read_metrics(folder.path)] == [0, 10, 20, 25]


GARBAGE = [
    b"{",
    b"oops",
    b"",
    b"3",
    b"null",
    b'"step"',
    b"\xff\xfe",
    b"{}",
    b"[" * 2000,
    b'{"a":' * 2000,
    b'{"kind": "train", "step": 1e400}',
    b'{"kind": "train", "step": Infinity}',
    b'{"kind": "train", "step": "7"}',
    b'{"kind": "train", "step": true}',
    b'{"kind": "train", "step": -1}',
    b'{"step": 15}',
    b'{"kind": [], "step": 15}',
    write_row(row(15, loss="low")).encode().strip(),
    write_row(row(15, filters=[])).encode().strip(),
]


@pytest.mark.parametrize("garbage", GARBAGE, ids=lambda garbage: garbage[:40].decode("latin-1"))
def test_garbage_between_rows_is_told_with_its_line(a_run, garbage):
    lines = (a_run / "metrics.jsonl").read_bytes().splitlines()
    spoilt = b"\n".join([*lines[:2], garbage, *lines[2:], b""])
    (a_run / "metrics.jsonl").write_bytes(spoilt)
    with pytest.raises(RunFolderError, match=r"metrics\.jsonl, line 3: expected"):
        read_metrics(a_run)
    said = []
    with open_folder(a_run) as folder:
        assert [row["step"] for row in rewind(folder, 20, said.append)] == [0, 10, 20]
        assert [row["step"] for row in read_metrics(a_run)] == [0, 10, 20]
    assert "the rows before step 20 are not as they were written" in said[0]
    assert (a_run / "metrics_damaged_1.jsonl").read_bytes() == spoilt


DAMAGES = {
    "deleted": lambda lines: None,
    "emptied": lambda lines: [],
    "cut": lambda lines: lines[:1],
    "a row less": lambda lines: [lines[0], *lines[2:]],
    "a row twice": lambda lines: [lines[0], lines[0], *lines[1:]],
    "reversed": lambda lines: lines[::-1],
    "a number changed": lambda lines: [lines[0].replace("0.5", "0.6"), *lines[1:]],
    "a step changed": lambda lines: [lines[0].replace('"step": 0', '"step": 5'), *lines[1:]],
}


@pytest.mark.parametrize("name", DAMAGES)
def test_rows_that_are_not_as_they_were_written_are_told_and_kept_aside(a_run, name):
    path = a_run / "metrics.jsonl"
    damaged = DAMAGES[name](path.read_text().splitlines(keepends=True))
    path.unlink() if damaged is None else path.write_text("".join(damaged))
    said = []
    with open_folder(a_run) as folder:
        rows = rewind(folder, 20, said.append)
        assert len(said) == 1
        assert "metrics.jsonl: the rows before step 20 are not as they were written" in said[0]
        assert (a_run / "metrics_damaged_1.jsonl").read_text() == "".join(damaged or [])
        steps = [row["step"] for row in rows]
        assert steps == sorted(set(steps))
        assert max(steps, default=0) <= 20
        folder.append(row(25))
    assert [row["step"] for row in read_metrics(a_run)] == [*steps, 25]


def test_numbers_that_are_not_finite_are_null(a_run):
    with open_folder(a_run) as folder:
        folder.append(row(40, loss=float("nan"), filters={"layer": {"mass": [float("inf"), 1.0]}}))
    assert read_metrics(a_run)[-1] == row(40, loss=None, filters={"layer": {"mass": [None, 1.0]}})


def test_a_module_of_other_numbers_is_another_model(tmp_path):
    (tmp_path / "own.json").write_text(json.dumps({"model": "one: Dropout(rate = 0)"}))
    refuse_other_parts(tmp_path, {"model": "one: Dropout(rate = 0)"})
    with pytest.raises(RunFolderError, match="holds a run of another model"):
        refuse_other_parts(tmp_path, {"model": "one: Dropout(rate = 1)"})


@pytest.mark.parametrize("mesh", [None, "data = 1\nshard_parameters = true"])
def test_a_run_is_read_whatever_it_was_split_over(a_run, mesh):
    text = (a_run / "config.toml").read_text()
    before, _, after = text.partition("[mesh]\n")
    after = after[after.index("[run]") :]
    if mesh is None:
        # As they were before there was a table of devices.
        after = after.replace('distributed = "none"\n', "devices = 2\n")
        assert "devices" in after
    (a_run / "config.toml").write_text(before + (f"[mesh]\n{mesh}\n" if mesh else "") + after)
    assert read_config(a_run) == make_config(a_run)
    with open_folder(a_run):
        pass


@pytest.mark.parametrize(("text", "got"), [("2", "'2'"), ("", "''"), (None, "'none'")])
def test_a_folder_of_another_format_is_refused(a_run, text, got):
    (a_run / "format").unlink() if text is None else (a_run / "format").write_text(text)
    with pytest.raises(RunFolderError, match=f"expected a run folder of format 1, got {got}"):
        RunFolder(make_config(a_run))
    with open_folder(a_run, run={"overwrite": True}):
        assert (a_run / "format").read_text() == "1"


def test_what_a_process_left_that_died_while_it_wrote_is_removed(a_run):
    (a_run / "figures").mkdir()
    for path in (a_run / ".report.html.123", a_run / "figures" / ".curves.png.7", a_run / "filters" / ".probes.json.9"):
        path.write_text("half")
    (a_run / ".notes.txt").write_text("mine")
    with open_folder(a_run):
        assert {path.name for path in a_run.rglob(".*")} == {".notes.txt"}


@pytest.mark.parametrize(
    ("step", "rows", "snapshots"),
    [
        (30, [0, 10, 20, 30], [0, 10, 30]),
        (29, [0, 10, 20], [0, 10]),
        (10, [0, 10], [0, 10]),
        (0, [0], [0]),
        (-1, [], []),
    ],
)
def test_rewinding_drops_what_came_later(a_run, step, rows, snapshots):
    with open_folder(a_run) as folder:
        assert [row["step"] for row in rewind(folder, step)] == rows
    written = (a_run / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in written] == rows
    names = sorted(path.name for path in (a_run / "filters").iterdir())
    assert names == [f"step_{number:08d}.npz" for number in snapshots]
    assert (a_run / "checkpoints" / "30" / "array").exists()


def test_who_reads_while_metrics_are_rewound_sees_the_old_ones_whole(a_run):
    with open_folder(a_run) as folder, (a_run / "metrics.jsonl").open() as reader:
        before = reader.read()
        reader.seek(0)
        rewind(folder, 10)
        assert reader.read() == before


def test_rewinding_leaves_files_of_other_names(a_run):
    (a_run / "filters" / "step_best.npz").write_text("mine")
    with open_folder(a_run) as folder:
        rewind(folder, 0)
    assert (a_run / "filters" / "step_best.npz").read_text() == "mine"


@pytest.mark.parametrize("name", ["file", "file/below", "a\0b", "x" * 300, "\udcff"])
def test_a_folder_that_cannot_be_made_is_told(tmp_path, name):
    (tmp_path / "file").write_text("mine")
    with pytest.raises((RunFolderError, ConfigError), match=r"run\.folder"):
        RunFolder(make_config(tmp_path / name))
    assert contents(tmp_path) == {"file": "mine"}


def test_a_folder_that_may_not_be_written_is_told():
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o555)
        user = os.geteuid()
        if user == 0:
            os.seteuid(65534)
        try:
            with pytest.raises(RunFolderError, match=re.escape(folder) + ".*Permission denied"):
                RunFolder(make_config(folder))
        finally:
            os.seteuid(user)
