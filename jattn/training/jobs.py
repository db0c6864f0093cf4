"""Several runs at once, each in a process of its own, with its share of the machine."""

import dataclasses
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from typing import IO, Any

from jattn.drawing.plain import message
from jattn.training.announcing import result_words
from jattn.training.config import Config
from jattn.training.progress import SweepReporter, clock
from jattn.training.runs import cpu_cores

MEMORY = 0.75
"""The share of an accelerator's memory that JAX takes, and that the runs at once share."""


@dataclasses.dataclass
class Job:
    """A run in a process of its own: the place on the machine that it takes, what it prints, and when it began."""

    process: "subprocess.Popen[str]"
    slot: int
    out: IO[str]
    err: IO[str]
    start: float


def run_jobs(runs: Sequence[tuple[str, Config]], jobs: int, report: SweepReporter, command: str = "") -> None:
    """Does runs, `jobs` of them at once; prints a line for each.

    Args:
      runs: what each is called, and its config.
      jobs: how many there are at once.
      report: what shows them.
      command: as for `jattn.training.train`.

    Raises:
      Stopped: once the runs under way have saved; a signal is for this process alone.
    """
    jobs, left, steps = min(jobs, len(runs)), list(range(len(runs))), 0
    running: dict[int, Job] = {}
    report.begin(f"{len(runs)} runs,", 0)
    report.doing(f"{jobs} at once")
    try:
        while left or running:
            while left and len(running) < jobs:
                slot = min(set(range(jobs)) - {job.slot for job in running.values()})
                place = left.pop(0)
                running[place] = _start(runs[place][1], slot, jobs, command)
            time.sleep(0.1)
            for place in [place for place, job in running.items() if job.process.poll() is not None]:
                label, config = runs[place]
                steps += config.training.steps
                report.reached(steps)
                _tell(label, running.pop(place), report)
    finally:
        _stop(list(running.values()))


def _start(config: Config, slot: int, jobs: int, command: str) -> Job:
    """Starts a run in a process that hears no signal of the terminal."""
    out, err = _scratch(), _scratch()
    with _scratch() as asked:
        asked.write(config.model_dump_json())
        asked.seek(0)
        process = subprocess.Popen(
            [sys.executable, "-m", "jattn.training.job", str(slot), str(jobs), command],
            stdin=asked,
            stdout=out,
            stderr=err,
            text=True,
            env={"XLA_PYTHON_CLIENT_MEM_FRACTION": f"{MEMORY / jobs:.3f}", **os.environ},
            start_new_session=True,
        )
    return Job(process, slot, out, err, time.monotonic())


def _scratch() -> IO[str]:
    return tempfile.TemporaryFile("w+", encoding="utf-8")


def _tell(label: str, job: Job, report: SweepReporter) -> None:
    """Prints the result of a run that has ended, or its last words."""
    with job.out, job.err:
        job.out.seek(0)
        job.err.seek(0)
        out, err = job.out.read(), job.err.read()
    if job.process.returncode == 0:
        test = json.loads(out.splitlines()[-1])
        report.line(f"{label}: {result_words(test)}, {clock(time.monotonic() - job.start)}")
    else:
        why = err.strip().splitlines()[-1:] or [f"ended with status {job.process.returncode}"]
        print(message(f"{label}: {why[0]}"), file=sys.stderr)


def _stop(jobs: Sequence[Job]) -> None:
    """Lets runs that are under way save and stop; a signal meanwhile ends them at once."""
    for job in jobs:
        job.process.terminate()
    try:
        for job in jobs:
            job.process.wait()
    except BaseException:
        for job in jobs:
            job.process.kill()
        raise


def share_of_cores(slot: int, jobs: int) -> set[int] | None:
    """Returns the cores for one of several runs at once; None where they cannot be shared out."""
    if not hasattr(os, "sched_getaffinity") or cpu_cores() < 2:
        return None
    cores = sorted(os.sched_getaffinity(0))
    return set(cores[slot % len(cores) :: jobs])


def write_result(result: dict[str, Any]) -> None:
    """Prints a result for the process that asked for it."""
    print(json.dumps({name: result[name] for name in ("exact_accuracy", "filter_score")}), flush=True)
