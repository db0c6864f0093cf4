"""One run of several processes, on the loopback of this machine: they train, stop, end and resume together."""

import contextlib
import json
import math
import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import jax
import numpy as np
import pytest

from jattn.command.main import main
from jattn.report.rows import read_rows
from jattn.training import loop, processes
from tests.training.processes.commands import CONFIG, context, newest, rows

pytestmark = pytest.mark.exhaustive

SEVERAL = CONFIG.replace("[mesh]\ndata = 1\n", "").replace("batch_size = 4", "batch_size = 8")
LIMIT = 600
"""Seconds in which everything ends on any machine."""
LATE = 40
"""Seconds by which a process is late; Gloo waits for 30."""


class Several:
    """Processes of one run, for as long as it is open.

    Args:
      folder: of the run; what they print is beside it.
      processes: how many there are; those whose number is in `missing` never come.
      options: of the command, for all of them.
      wait: seconds for which they wait for one another.
      config: the text of the file.
      late: by the number of a process, the functions whose first call takes it longer; see `delay`.
    """

    def __init__(self, folder, processes, *options, missing=(), wait=LIMIT, config=SEVERAL, late=None):
        path = folder.with_suffix(".toml")
        path.write_text(config)
        self.folder, self.processes = folder, {}
        coordinator = f"127.0.0.1:{free_port()}"
        for index in sorted({*range(processes)} - {*missing}):
            where = f'{{coordinator = "{coordinator}", processes = {processes}, index = {index}, wait = {wait}}}'
            several = () if processes == 1 else ("--run.distributed", where)
            arguments = [str(path), "--run.folder", str(folder), *several, *options]
            out = folder.with_name(f"{folder.name}_{index}")
            self.processes[index] = context().Process(
                target=command, args=(arguments, out, (late or {}).get(index, ()))
            )
            self.processes[index].start()

    def __enter__(self):
        return self

    def __exit__(self, *raised):
        for process in self.processes.values():
            process.kill()
            process.join()

    def finish(self):
        """Waits for all to end; returns the status of each."""
        until = time.monotonic() + LIMIT
        for process in self.processes.values():
            process.join(max(0, until - time.monotonic()))
        return [process.exitcode for process in self.processes.values()]

    def said(self, index, stream="err"):
        """Returns what a process printed."""
        path = self.folder.with_name(f"{self.folder.name}_{index}.{stream}")
        return path.read_text(errors="replace") if path.exists() else ""

    def wait_for(self, condition):
        """Waits until something holds while all of them run."""
        until = time.monotonic() + LIMIT
        while not condition():
            assert all(process.is_alive() for process in self.processes.values()), [
                self.said(index) for index in self.processes
            ]
            assert time.monotonic() < until
            time.sleep(0.01)


def command(arguments, out, late=()):
    """Does the command in this process, without the report, which takes longer than all else."""
    for stream, name in ((sys.stdout, "out"), (sys.stderr, "err")):
        file = os.open(f"{out}.{name}", os.O_CREAT | os.O_WRONLY | os.O_TRUNC)
        os.dup2(file, stream.fileno())
        os.close(file)
        stream.reconfigure(line_buffering=True)
    loop.render = lambda folder, say: None
    delay(late)
    sys.exit(main(arguments))


def delay(names):
    """Lets the first call of each of these functions take `LATE` seconds longer in this process."""

    def later(function):
        def called(*arguments, **options):
            if function.__name__ in left:
                left.remove(function.__name__)
                time.sleep(LATE)
            return function(*arguments, **options)

        return called

    left = [*names]
    for module, name in ((loop, "make_setup"), (jax.stages.Lowered, "compile")):
        setattr(module, name, later(getattr(module, name)))


def free_port():
    with contextlib.closing(socket.socket()) as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def trained(folder, processes, *options):
    """Trains to the end, and returns what the processes said."""
    with Several(folder, processes, *options) as several:
        status = several.finish()
        assert status == [0] * processes, (status, [several.said(index) for index in range(processes)])
        return [re.sub(r"\[Gloo\].*\n", "", several.said(index, "out")) for index in range(processes)]


def close(ours, theirs):
    """Says whether numbers in two nested values are equal up to rounding, and all else is the same."""
    if isinstance(ours, dict) and isinstance(theirs, dict):
        return ours.keys() == theirs.keys() and all(close(ours[key], theirs[key]) for key in ours)
    if isinstance(ours, list) and isinstance(theirs, list):
        return len(ours) == len(theirs) and all(map(close, ours, theirs))
    if isinstance(ours, float) and isinstance(theirs, float):
        return math.isclose(ours, theirs, rel_tol=1e-5, abs_tol=1e-5)
    return ours == theirs


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """The folder of one process with as many devices as the others have together."""

    def folder_of(devices):
        if devices not in found:
            found[devices] = tmp_path_factory.mktemp("alone") / "run"
            trained(found[devices], 1, "--mesh.data", str(devices))
        return found[devices]

    found = {}
    return folder_of


def snapshots(folder):
    """Reads what a run saw of its filters, by the name of the file."""
    return {path.name: {k: v.tolist() for k, v in np.load(path).items()} for path in (folder / "filters").glob("*.npz")}


@pytest.mark.parametrize(
    ("processes", "devices", "options"),
    [
        (2, 2, ("--mesh.data", "2")),
        (4, 4, ("--mesh.data", "4")),
        (2, 4, ("--mesh.data", "4", "--mesh.shard-parameters")),
        (2, 2, ("--mesh.data", "1", "--mesh.sequence", "2")),
        (2, 4, ("--mesh.data", "-1", "--mesh.sequence", "2")),
    ],
    ids=["two", "four", "two, split parameters", "two, one sequence over both", "two, sequences over two devices each"],
)
def test_processes_train_as_one_process_does(processes, devices, options, alone, tmp_path):
    said = trained(tmp_path / "run", processes, *options)
    assert close(rows(tmp_path / "run"), rows(alone(devices)))
    assert len(snapshots(tmp_path / "run")) == 3
    assert close(snapshots(tmp_path / "run"), snapshots(alone(devices)))
    assert "test on 8 fresh sequences" in said[0]
    assert said[1:] == [""] * (processes - 1)
    session = json.loads((tmp_path / "run" / "provenance.json").read_text())["sessions"][0]
    assert (session["devices"], session["processes"]) == (devices, processes)
    # What the command would do again.
    again = trained(tmp_path / "run", processes, *options)
    assert "already done at step 12" in again[0]
    assert trained(tmp_path / "run", 1, "--mesh.data", "1")[0].count("already done at step 12") == 1


def test_a_process_that_takes_longer_to_begin_is_waited_for(alone, tmp_path):
    with Several(tmp_path / "run", 2, "--mesh.data", "2", late={1: ["make_setup", "compile"]}) as several:
        assert several.finish() == [0, 0], [several.said(index) for index in (0, 1)]
    assert close(rows(tmp_path / "run"), rows(alone(2)))


PROGRAM = """
import sys, time
from jattn.training import loop
from jattn.training.reading import check
from jattn.training.runs import configure_jax

loop.render = lambda folder, say: None
where = {"coordinator": sys.argv[1], "processes": 2, "index": int(sys.argv[2])}
values = {"task": {"min_length": 2, "max_length": 3, "symbols": 4}, "model": {"width": 4, "hidden": 4}}
values |= {"training": {"steps": 2, "batch_size": 8}}
values |= {"evaluation": {"examples": 8, "batch_size": 8, "test_examples": 8}}
config = check(values | {"run": {"folder": sys.argv[3], "distributed": where}}, "test")
configure_jax([config])
loop.train(config)
time.sleep(int(sys.argv[4]))
print("as long as it likes")
"""


def test_programs_that_end_later_than_others_end_well(tmp_path):
    # The first, which is the coordinator, ends at once, the other after more than a process may be silent.
    coordinator = f"127.0.0.1:{free_port()}"
    programs = [
        subprocess.Popen(
            [sys.executable, "-c", PROGRAM, coordinator, str(index), str(tmp_path / "run"), seconds],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for index, seconds in enumerate(["0", str(processes.SILENT + 10)])
    ]
    try:
        for program in programs:
            said, complained = program.communicate(timeout=LIMIT)
            assert program.returncode == 0, complained
            assert said.endswith("as long as it likes\n")
    finally:
        for program in programs:
            program.kill()
            program.communicate()


@pytest.mark.parametrize(("index", "handlers"), [(0, 0), (1, 1)])
def test_only_those_that_the_coordinator_may_leave_handle_an_abort(index, handlers, monkeypatch):
    installed = []
    monkeypatch.setattr(processes, "_state", lambda: SimpleNamespace(process_id=index))
    monkeypatch.setattr(processes.ctypes, "CDLL", lambda _: SimpleNamespace(signal=lambda *of: installed.append(of)))
    monkeypatch.setattr(processes._Joined, "_watch", lambda *_: None)
    processes._Joined(lambda: "")
    assert [number for number, _ in installed] == [signal.SIGABRT] * handlers


LONG = ("--training.steps", "100000", "--training.schedule", "constant", "--run.checkpoint-every", "20")
SHORT = ("--training.schedule", "constant")


@pytest.mark.parametrize(("processes", "stopped", "then"), [(2, 1, 2), (2, 0, 1), (4, 2, 2)])
def test_a_signal_to_any_process_stops_all_at_the_same_step(processes, stopped, then, tmp_path):
    folder = tmp_path / "run"
    with Several(folder, processes, *LONG) as several:
        several.wait_for(lambda: newest(folder) is not None)
        os.kill(several.processes[stopped].pid, signal.SIGTERM)
        status, said = several.finish(), [several.said(index) for index in range(processes)]
    assert status == [128 + signal.SIGTERM] * processes, said
    step = newest(folder)
    last = rf"stopped by SIGTERM; saved at step {step}: the same command resumes there\n"
    assert all(re.search(rf"(^|\n){last}$", text) for text in said), said
    assert max(row["step"] for row in rows(folder)) == step
    resumed_from(folder, then, step)


def resumed_from(folder, processes, step, *options):
    """Asserts that any number of processes goes on from a step, and stops again."""
    with Several(folder, processes, *LONG, *options) as several:
        several.wait_for(lambda: (newest(folder) or 0) > step)
        os.kill(several.processes[0].pid, signal.SIGINT)
        assert several.finish() == [128 + signal.SIGINT] * processes, several.said(0)
        assert f"resumed at step {step}" in several.said(0, "out")


@pytest.mark.parametrize(
    ("processes", "killed", "options"),
    [(2, 1, ()), (2, 0, ()), (4, 3, ()), (2, 1, ("--mesh.data", "1", "--mesh.sequence", "2"))],
    ids=["the second of two", "the first of two", "the last of four", "the second of two with sequences split"],
)
def test_a_process_that_dies_ends_the_others_and_what_is_saved_stays(processes, killed, options, tmp_path):
    folder = tmp_path / "run"
    with Several(folder, processes, *LONG, *options) as several:
        several.wait_for(lambda: newest(folder) is not None)
        several.processes[killed].kill()
        status = several.finish()
        said = {index: several.said(index) for index in range(processes) if index != killed}
    assert all(code not in (0, None) for code in status), (status, said)
    step = newest(folder)
    for text in said.values():
        assert re.search(r"(ended|failed).*; saved at step \d+: the same command resumes there\n$", text), text
        assert "Traceback" not in text, text
    # Where sequences were split, examples are.
    resumed_from(folder, processes, step, "--mesh.data", str(processes))


def test_a_process_that_never_comes_is_not_waited_for_without_end(tmp_path):
    with Several(tmp_path / "run", 2, missing=[1], wait=2) as several:
        assert several.finish() == [2]
        assert re.fullmatch(
            r"run\.distributed: expected 2 processes at the coordinator 127\.0\.0\.1:\d+, "
            r"not all of them came within 2 s",
            several.said(0).splitlines()[-1],
        )
    with Several(tmp_path / "run", 2, missing=[0], wait=2) as several:
        assert several.finish() == [2]
        assert re.fullmatch(
            r"run\.distributed: the process with index 0 did not answer at the coordinator 127\.0\.0\.1:\d+ "
            r"\(Connection refused\) within 2 s",
            several.said(1).splitlines()[-1],
        )


def test_all_are_told_why_the_first_cannot_begin(tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "letter.txt").write_text("mine")
    with Several(folder, 2) as several:
        assert several.finish() == [2, 2]
        assert all("without config.toml and with 'letter.txt' in it" in several.said(index) for index in (0, 1))
    with Several(tmp_path / "three", 2, "--mesh.data", "3") as several:
        assert several.finish() == [2, 2]
        for index in (0, 1):
            assert "mesh.data: expected the 2 devices of the 2 processes, or -1, got 3" in several.said(index)
    assert read_rows(Path(tmp_path / "three" / "metrics.jsonl")) == []
