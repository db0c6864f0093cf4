"""Several runs at once, each in a process of its own, with its share of the machine."""

import contextlib
import dataclasses
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any

from jattn.drawing.plain import message
from jattn.report.rows import METRICS, read_row
from jattn.training.announcing import result_words
from jattn.training.config import Config
from jattn.training.interrupts import Interrupts, say
from jattn.training.progress import SweepReporter, clock
from jattn.training.runs import cpu_cores

MEMORY = 0.75
"""The share of an accelerator's memory that JAX takes, and that the runs at once share."""

RESULT = ("exact_accuracy", "filter_score")
"""The numbers of a test that a run hands on."""

ROWS = 2**16
"""The bytes at the end of the metrics of a run in which its last row is looked for."""

LAST_WORDS = 20
"""Lines that are shown of what a run printed before it ended without a word on why."""


@dataclasses.dataclass
class Job:
    """A run in a process of its own: the place on the machine that it takes, what it prints, and when it began.

    Its input stays open while this process lives: at its end, a run saves and stops.
    """

    process: "subprocess.Popen[str]"
    slot: int
    out: IO[str]
    err: IO[str]
    start: float
    began: float

    @property
    def input(self) -> IO[str]:
        """The input of the process."""
        assert self.process.stdin is not None
        return self.process.stdin

    def close(self) -> None:
        """Closes what it reads and what it printed."""
        with contextlib.suppress(BrokenPipeError):
            self.input.close()
        self.out.close()
        self.err.close()


def run_jobs(
    runs: Sequence[tuple[str, Config]], jobs: int, report: SweepReporter, signals: Interrupts, command: str = ""
) -> None:
    """Does runs, `jobs` of them at once; prints a line for each.

    Args:
      runs: what each is called, and its config.
      jobs: how many there are at once.
      report: what shows them.
      signals, command: as for `jattn.training.train`.

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
                # Nobody would stop a run that is started and not yet known here.
                with signals.held_back():
                    running[place] = _start(runs[place][1], slot, jobs, command)
            time.sleep(0.1)
            for place in [place for place, job in running.items() if job.process.poll() is not None]:
                label, config = runs[place]
                steps += config.training.steps
                _tell(label, running.pop(place), report)
            report.reached(steps + sum(steps_taken(runs[place][1], job.began) for place, job in running.items()))
    finally:
        _stop(list(running.values()))


def _start(config: Config, slot: int, jobs: int, command: str) -> Job:
    """Starts a run in a process that hears no signal of the terminal, and ends when this one does."""
    out, err = _scratch(), _scratch()
    process = subprocess.Popen(
        [sys.executable, "-m", "jattn.training.job", str(slot), str(jobs), command],
        stdin=subprocess.PIPE,
        stdout=out,
        stderr=err,
        text=True,
        env={**_share_of_memory(jobs), **os.environ},
        start_new_session=True,
    )
    job = Job(process, slot, out, err, time.monotonic(), time.time())
    # A process that is gone already says why by its status.
    with contextlib.suppress(BrokenPipeError):
        job.input.write(asked_of(config) + "\n")
        job.input.flush()
    return job


def steps_taken(config: Config, since: float) -> int:
    """Returns the last step that a run has logged since a time of `time.time`; 0 where there is none yet."""
    path = Path(config.run.folder) / METRICS
    with contextlib.suppress(OSError, ValueError, IndexError):
        if path.stat().st_mtime >= since:
            with path.open("rb") as file:
                file.seek(max(0, path.stat().st_size - ROWS))
                # After the last end of a line a row may be half written.
                return read_row(file.read().split(b"\n")[-2])["step"]
    return 0


def asked_of(config: Config) -> str:
    """Returns what a process of its own reads: the config, with the path and the SHA-256 of its code, by the names."""
    code = {code.file: (str(code.path), code.sha256) for code in config.code}
    return json.dumps({**config.model_dump(), "code": code})


def _scratch() -> IO[str]:
    return tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace")


def _share_of_memory(jobs: int) -> dict[str, str]:
    """Returns the variable that gives a run its share of an accelerator's memory; none where a person chose one."""
    # JAX refuses the one name beside the other.
    chosen = "XLA_CLIENT_MEM_FRACTION" in os.environ
    return {} if chosen else {"XLA_PYTHON_CLIENT_MEM_FRACTION": f"{MEMORY / jobs:.3f}"}


def _tell(label: str, job: Job, report: SweepReporter) -> None:
    """Prints the result of a run that has ended, or why there is none."""
    job.out.seek(0)
    job.err.seek(0)
    out, err = job.out.read(), job.err.read()
    job.close()
    outcome = _outcome(out)
    if job.process.returncode == 0 and set(RESULT) <= outcome.keys():
        report.line(f"{label}: {result_words(outcome)}, {clock(time.monotonic() - job.start)}")
        return
    error = outcome.get("error")
    print(message(f"{label}: {_ending(job.process.returncode) if error is None else error}"), file=sys.stderr)
    details = err if error is None else outcome.get("traceback", "")
    for line in details.rstrip().splitlines()[-LAST_WORDS:]:
        print(message(f"    {line}"), file=sys.stderr)


def _outcome(printed: str) -> dict[str, Any]:
    """Reads the last line of a run; empty where the run ended before it."""
    try:
        found = json.loads(printed.splitlines()[-1])
    except (IndexError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _ending(status: int) -> str:
    """Says how a process ended."""
    if status >= 0:
        return f"ended with status {status}"
    try:
        return f"killed by {signal.Signals(-status).name}"
    except ValueError:
        return f"killed by signal {-status}"


def _stop(jobs: Sequence[Job]) -> None:
    """Lets runs that are under way save and stop; a signal meanwhile ends them at once."""
    try:
        for job in jobs:
            job.process.terminate()
        if jobs:
            say(f"waiting for {len(jobs)} run{'s' * (len(jobs) > 1)} to save; again to stop at once")
        for job in jobs:
            job.process.wait()
    except BaseException:
        for job in jobs:
            job.process.kill()
        raise
    finally:
        for job in jobs:
            job.close()


def share_of_cores(slot: int, jobs: int) -> set[int] | None:
    """Returns the cores for one of several runs at once; None where they cannot be shared out."""
    if not hasattr(os, "sched_getaffinity") or cpu_cores() < 2:
        return None
    cores = sorted(os.sched_getaffinity(0))
    return set(cores[slot % len(cores) :: jobs])
