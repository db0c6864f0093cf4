"""What a terminal shows: the last line in any width, what is said to Ctrl-C, and terminals that can do less."""

import io
import os
import re
import subprocess
import sys

import pytest
from rich.console import Console

from jattn.drawing.plain import shortened
from jattn.training import progress
from jattn.training.progress import Reporter, Status, clock, in_width
from tests.command.terminals import in_terminal, lines_of

CONFIG = """
[task]
min_length = 3
max_length = 3
[model]
width = 8
hidden = 8
[training]
steps = 8
batch_size = 4
[evaluation]
every = 4
examples = 4
batch_size = 4
test_examples = 4
[run]
snapshots = 2
probes = 1
log_every = 2
[mesh]
data = 1
"""
LONG = ["--training.steps", "3000000", "--run.log-every", "1000", "--evaluation.every", "1000000"]


@pytest.fixture
def status(monkeypatch):
    """A status after 250 of 500 steps in 60 seconds."""
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    made = Status(500)
    made.training(0)
    now[0] = 60.0
    made.reached(250, "130 steps/s")
    return made


def test_the_last_line_fits_and_the_time_left_is_the_last_to_go(status):
    for columns in range(1, 121):
        words = status.words(columns)
        assert len(words) <= columns
        assert words.endswith("1:00 left"[:columns])


def test_what_a_line_has_room_for(status):
    assert status.words(9) == "1:00 left"
    assert status.words(20) == "250/500  1:00 left"
    assert status.words(40) == "250/500  130 steps/s  1:00 left"
    assert status.words(60) == "training  ━━━━━━━━╌╌╌╌╌╌╌╌╌  250/500  130 steps/s  1:00 left"


def test_the_time_left_counts_from_where_training_went_on(status, monkeypatch):
    monkeypatch.setattr(progress.time, "monotonic", lambda: 60.0)
    status.training(400)
    monkeypatch.setattr(progress.time, "monotonic", lambda: 70.0)
    status.reached(450)
    assert status.words(80).endswith("0:10 left")
    status.doing("testing")
    monkeypatch.setattr(progress.time, "monotonic", lambda: 73.0)
    assert status.words(80) == "testing ... 3 s"


def test_times_are_written_as_on_a_clock():
    assert [clock(seconds) for seconds in (0, 7.4, 65, 3600, 36_061)] == ["0:00", "0:07", "1:05", "1:00:00", "10:01:01"]


@pytest.mark.parametrize("columns", [1, 20, 33, 40, 80, 300])
def test_an_example_fits_in_a_line(columns):
    example = {"source": " ".join("abcdefgh"), "prediction": " ".join("hgfedcba"), "target": "h"}
    line = in_width(example, columns)
    assert len(line) <= columns
    if columns >= 80:
        assert line == "    a b c d e f g h -> h g f e d c b a   wrong"
    if columns in (33, 40):
        assert re.fullmatch(r"    a.*\.\.\..*h -> h.*\.\.\..*a   wrong", line)


def test_a_text_that_is_too_long_loses_its_middle():
    assert shortened("a" * 300) == "a" * 300
    assert shortened("a" * 200 + "b" * 200) == "a" * 149 + "..." + "b" * 148


def test_examples_are_printed_where_they_changed():
    out = io.StringIO()
    report = Reporter(Console(file=out), None)
    row = {
        "step": 0,
        "loss": 1.0,
        "token_accuracy": 0.0,
        "exact_accuracy": 0.0,
        "filter_score": None,
        "replicates": [1],
    }
    said = [("0 0", "0 0"), ("1 0", "0 0"), ("1 0", "0 0"), ("0 0", "0 0")]
    for first, second in said:
        examples = [{"source": "0 1", "target": "1 0", "prediction": prediction} for prediction in (first, second)]
        report.evaluation(row | {"examples": examples})
    report.evaluation(row | {"examples": examples[::-1], "perplexity": 2.0, "bits_per_byte": 1.0})
    lines = [line for line in out.getvalue().split("\n") if "->" in line]
    assert [line.split()[3:] for line in lines] == [
        ["0", "0", "wrong"], ["0", "0", "wrong"], ["1", "0", "right"],
    ]  # fmt: skip


def environment_of(**variables):
    return {**os.environ, "JAX_PLATFORMS": "cpu", **variables}


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "mine.toml").write_text(CONFIG)
    return tmp_path


@pytest.mark.exhaustive
@pytest.mark.parametrize("columns", [1, 40, 120])
def test_a_run_in_a_terminal(folder, columns):
    status, written = in_terminal(folder, "train", "mine.toml", columns=columns, JAX_PLATFORMS="cpu")
    assert status == 0, written
    assert written.count("\x1b[?25l") == written.count("\x1b[?25h") == 1
    for line in re.findall(r"\x1b\[2K([^\r\n\x1b]*)", written):
        assert len(line) <= columns or not re.match("starting|compiling|training|testing|drawing", line)
    if columns >= 40:
        assert re.search(r"compiling \.\.\. \d+ s", written)
        assert lines_of(written)[-1] == "see runs/mine/report.html"
        assert "on " in written
        assert "(JAX_PLATFORMS=cpu)" in written


@pytest.mark.exhaustive
@pytest.mark.parametrize(
    ("keys", "options", "said"),
    [
        ([("starting", 0.2)], [], "nothing was saved yet: the same command starts anew"),
        ([("compiling", 0.1)], ["--model.num-layers", "4", "--run.no-cache"], "nothing was saved yet"),
        ([("3000000", 1)], LONG, "saved at step [1-9][0-9]*: the same command resumes there"),
        ([("3000000", 1), ("stopping", 0)], LONG, "the same command"),
    ],
    ids=["start", "compiling", "training", "twice"],
)
def test_ctrl_c_in_each_phase(folder, keys, options, said):
    status, written = in_terminal(folder, "train", "mine.toml", *options, keys=keys)
    assert status == 130, written
    assert re.search(f"stopped by SIGINT; .*{said}", written), written
    assert "Traceback" not in written
    assert written.count("\x1b[?25l") <= written.count("\x1b[?25h")
    if keys[0][0] == "3000000":
        assert re.search(r"stopping after this chunk \(saved by step \d+\); again to stop at once", written)


@pytest.mark.exhaustive
def test_a_terminal_that_can_do_nothing_gets_plain_lines(folder):
    status, written = in_terminal(folder, "train", "mine.toml", TERM="dumb")
    assert status == 0
    assert "\x1b" not in written
    assert "compiling ..." in written


@pytest.mark.exhaustive
def test_without_colours_there_are_none(folder):
    _, written = in_terminal(folder, "train", "mine.toml", NO_COLOR="1")
    assert re.findall(r"\x1b\[[0-9;]*m", written) == []


@pytest.mark.exhaustive
def test_a_pipe_that_is_closed_early_ends_a_run_quietly(folder):
    program = f"{sys.executable} -m jattn train mine.toml | head -n 1"
    run = subprocess.run(
        ["bash", "-c", program], cwd=folder, env=environment_of(), capture_output=True, text=True, check=False
    )
    assert run.stderr == ""
    assert run.stdout == ("reverse, layout encoder: transformer of 1 layer, 1 head, width 8; run folder runs/mine\n")


@pytest.mark.exhaustive
def test_devices_that_xla_is_asked_for_are_taken_and_shown(folder):
    flags = "--xla_force_host_platform_device_count=3"
    options = ["--training.batch-size", "96", "--evaluation.batch-size", "96", "--mesh.data", "3"]
    run = subprocess.run(
        [sys.executable, "-m", "jattn", "train", "mine.toml", *options],
        cwd=folder, env=environment_of(XLA_FLAGS=flags), capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert run.returncode == 0, run.stderr
    assert re.search(rf"\non \d+ CPU cores? as 3 devices \(JAX_PLATFORMS=cpu XLA_FLAGS={flags}\)\n", run.stdout)


@pytest.mark.exhaustive
def test_a_finished_run_is_done_already(folder):
    command = [sys.executable, "-m", "jattn", "train", "mine.toml"]
    first, second = (
        subprocess.run(command, cwd=folder, env=environment_of(), capture_output=True, text=True, check=False)
        for _ in range(2)
    )
    assert (first.returncode, second.returncode) == (0, 0)
    assert "\nalready done at step 8\n" in second.stdout
    assert "resumed" not in second.stdout
    assert "compiling" not in second.stdout
    assert second.stdout.splitlines()[-2:] == first.stdout.splitlines()[-2:]
