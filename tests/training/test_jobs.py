"""Several runs at once: how each ends, what is said of it, and what a signal leaves."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from rich.console import Console

from jattn.training import job, jobs
from jattn.training.interrupts import Interrupts, Stopped, handled
from jattn.training.own.code import Places
from jattn.training.progress import SweepReporter
from jattn.training.reading import check
from jattn.training.step import TrainingFailed

CONFIG = check({"mesh": {"data": 1}, "run": {"folder": "runs/mine"}}, "test")


@pytest.fixture
def run_programs(tmp_path, monkeypatch):
    """Does runs that are each a script of the shell in place of a training."""

    def run(script, count=1, signals=None):
        program = tmp_path / "program"
        program.write_text(f"#!/bin/sh\n{script}\n")
        program.chmod(0o755)
        monkeypatch.setattr(sys, "executable", str(program))
        report = SweepReporter(Console(), None, announces=False)
        runs = [(f"[{number + 1}/{count}]", CONFIG) for number in range(count)]
        jobs.run_jobs(runs, count, report, signals or Interrupts())

    return run


@pytest.mark.parametrize(
    ("script", "said"),
    [
        ("echo on 2 CPU cores >&2; kill -9 $$", "[1/1]: killed by SIGKILL\n    on 2 CPU cores\n"),
        ("kill -63 $$", "[1/1]: killed by signal 63\n"),
        ("echo '{\"exact'; exit 3", "[1/1]: ended with status 3\n"),
        ("exit 0", "[1/1]: ended with status 0\n"),
        ("printf 'a\\377\\n' >&2; exit 1", "[1/1]: ended with status 1\n    a\ufffd\n"),
        ('echo noise >&2; echo \'{"error": "no"}\'; exit 1', "[1/1]: no\n"),
        ('echo \'{"error": "KeyError: 1", "traceback": "Traceback"}\'; exit 1', "[1/1]: KeyError: 1\n    Traceback\n"),
    ],
)
def test_a_run_that_ends_without_a_result_is_told_with_the_reason(run_programs, capfd, script, said):
    run_programs(script)
    assert capfd.readouterr() == ("", said)


def test_a_result_is_told(run_programs, capfd):
    run_programs('echo \'{"exact_accuracy": 0.5, "filter_score": null}\'')
    assert capfd.readouterr() == ("[1/1]: 50.00% right, 0:00\n", "")


@pytest.mark.parametrize(
    ("written", "step"),
    [
        (None, 0),
        ('{"step": 7', 0),
        ('{"kind": "train", "step": 7}\n', 7),
        ('{"kind": "train", "step": 7}\n{"kind": "train", "step": 9}\n{"kind": "tra', 9),
        ('{"kind": "train", "step": 7}\nnoise\n', 0),
    ],
)
def test_the_steps_of_a_run_in_another_process_are_those_it_has_logged(tmp_path, written, step):
    config = check({"mesh": {"data": 1}, "run": {"folder": str(tmp_path)}}, "test")
    if written is not None:
        (tmp_path / "metrics.jsonl").write_text(written)
    assert jobs.steps_taken(config, 0) == step
    assert jobs.steps_taken(config, time.time() + 60) == 0


def fail(error):
    def train(*arguments, **options):
        raise error

    return train


@pytest.mark.parametrize(
    ("error", "status", "said"),
    [
        (KeyError("x"), 1, "KeyError: 'x'"),
        (TrainingFailed("the loss is not finite"), 1, "the loss is not finite"),
        (Stopped(signal.SIGTERM), 143, "stopped by SIGTERM"),
    ],
)
def test_a_job_hands_on_its_error(monkeypatch, capsys, error, status, said):
    monkeypatch.setattr("jattn.training.runs.configure_jax", lambda configs: None)
    monkeypatch.setattr("jattn.training.loop.train", fail(error))
    monkeypatch.setattr(jobs, "share_of_cores", lambda slot, jobs: None)
    monkeypatch.setattr(sys, "argv", ["job", "0", "2", ""])
    assert job.main(CONFIG.model_dump_json()) == status
    outcome = json.loads(capsys.readouterr().out)
    assert outcome.pop("error") == said
    assert ("in train" in outcome.get("traceback", "")) == isinstance(error, KeyError)


@pytest.mark.parametrize(("edit", "said"), [("", "trained"), ("# later", "zz_job.py: expected it as it was when the")])
def test_a_job_does_not_train_with_code_that_was_edited_after_the_sweep_began(tmp_path, monkeypatch, edit, said):
    code = tmp_path / "zz_job.py"
    code.write_text("import optax\nslow = optax.sgd(0.1)\n")
    values = {"training": {"optimizer": "zz_job.py:slow"}, "run": {"folder": str(tmp_path / "run")}}
    asked = jobs.asked_of(check(values, "test", places=Places((tmp_path,))))
    code.write_text(code.read_text() + edit)
    monkeypatch.setattr("jattn.training.runs.configure_jax", lambda configs: None)
    monkeypatch.setattr("jattn.training.loop.train", fail(TrainingFailed("trained")))
    monkeypatch.setattr(jobs, "share_of_cores", lambda slot, jobs: None)
    assert job.run(asked, 0, 2, "", Interrupts())["error"].startswith(said)


def note_processes(monkeypatch, also=lambda: None):
    """Notes all processes that are begun, and does something before their beginner knows them."""
    begun, begin = [], subprocess.Popen

    def noting(*arguments, **options):
        begun.append(begin(*arguments, **options))
        also()
        return begun[-1]

    monkeypatch.setattr(subprocess, "Popen", noting)
    return begun


@pytest.mark.parametrize(("count", "who"), [(1, "1 run"), (2, "2 runs")])
def test_what_a_stop_waits_for_is_said(run_programs, monkeypatch, capfd, count, who):
    begun = note_processes(monkeypatch)
    monkeypatch.setattr("time.sleep", lambda seconds: fail(Stopped(signal.SIGINT))())
    with pytest.raises(Stopped):
        run_programs("exec sleep 60", count)
    assert [process.poll() for process in begun] == [-signal.SIGTERM] * count
    assert capfd.readouterr().err == f"waiting for {who} to save; again to stop at once\n"


def test_a_signal_while_a_run_is_started_leaves_no_process(run_programs, monkeypatch):
    begun = note_processes(monkeypatch, lambda: signal.raise_signal(signal.SIGINT))
    with pytest.raises(Stopped), handled(Interrupts()) as signals:
        run_programs("exec sleep 60", 2, signals)
    try:
        assert [process.poll() for process in begun] == [-signal.SIGTERM]
    finally:
        for process in begun:
            process.kill()


@pytest.mark.parametrize("chosen", ["XLA_CLIENT_MEM_FRACTION", "XLA_PYTHON_CLIENT_MEM_FRACTION"])
def test_a_share_of_memory_that_a_person_chose_is_kept(run_programs, monkeypatch, capfd, chosen):
    for name in ("XLA_CLIENT_MEM_FRACTION", "XLA_PYTHON_CLIENT_MEM_FRACTION"):
        monkeypatch.delenv(name, raising=False)
    run_programs("env | grep ^XLA.*MEM >&2; exit 1")
    assert "XLA_PYTHON_CLIENT_MEM_FRACTION=0.750" in capfd.readouterr().err
    monkeypatch.setitem(os.environ, chosen, "0.5")
    run_programs("env | grep ^XLA.*MEM >&2; exit 1")
    assert capfd.readouterr().err.splitlines()[1:] == [f"    {chosen}=0.5"]


def test_a_job_stops_when_the_process_that_started_it_is_gone():
    code = """if True:
        import signal, sys
        from jattn.training import job
        signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(7))
        print(sys.stdin.readline(), end="", flush=True)
        job.stop_at_end_of_input()
        signal.pause()
    """
    process = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    process.stdin.write("a config\n")
    process.stdin.flush()
    assert process.stdout.readline() == "a config\n"
    assert process.poll() is None
    process.stdin.close()
    process.stdout.close()
    assert process.wait() == 7


@pytest.mark.exhaustive
def test_a_sweep_that_is_killed_leaves_no_run(tmp_path):
    options = "--training.steps 3000000 --evaluation.every 1000000 --mesh.data 1 --jobs 2 --sweep training.seed 0 1"
    command = [sys.executable, "-m", "jattn", "train", "reverse", "--run.folder", "swept", *options.split()]
    sweep = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    try:
        while len([*tmp_path.glob("swept/*/metrics.jsonl")]) < 2:
            assert sweep.poll() is None
            time.sleep(0.1)
        children = Path(f"/proc/{sweep.pid}/task/{sweep.pid}/children").read_text().split()
        assert len(children) == 2
    finally:
        sweep.kill()
        sweep.communicate()
    deadline = time.monotonic() + 300
    while any(Path("/proc", child).exists() for child in children):
        assert time.monotonic() < deadline
        time.sleep(0.1)
