"""One of several runs at once: ``python -m jattn.training.job SLOT JOBS COMMAND`` reads a config, a line of its input.

Its input ends with the process that started it: then the run saves and stops, so that none is left without one.

The last line that it prints is JSON: the numbers of the test, or `error`, with `traceback` where it was not foreseen.
"""

import json
import os
import signal
import sys
import threading
import traceback
from typing import Any

from rich.console import Console

from jattn.training.interrupts import Interrupts, Stopped, interrupts


def main(asked: str) -> int:
    """Does the run whose config comes in, as `jattn.training.jobs.asked_of` writes it; returns `train.py`'s status."""
    status = 1
    try:
        with interrupts() as signals:
            outcome = run(asked, int(sys.argv[1]), int(sys.argv[2]), sys.argv[3], signals)
            status = 1 if "error" in outcome else 0
    except Stopped as stopped:
        outcome, status = {"error": f"stopped by {stopped}"}, stopped.status
    except Exception as error:
        outcome = {"error": f"{type(error).__name__}: {error}", "traceback": traceback.format_exc()}
    print(json.dumps(outcome), flush=True)
    return status


def stop_at_end_of_input() -> None:
    """Stops this process, as SIGTERM does, once its input ends, of which a line was read."""

    def wait() -> None:
        # Unbuffered: a thread that waits in a buffer's lock makes Python's end fail.
        while os.read(0, 1):
            pass
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=wait, name="input", daemon=True).start()


def run(asked: str, slot: int, jobs: int, command: str, signals: Interrupts) -> dict[str, Any]:
    """Trains with a share of the machine; returns the numbers of the test, or an error that names what to change."""
    from jattn.training.evaluation import OF_TEXT
    from jattn.training.jobs import RESULT, share_of_cores
    from jattn.training.loop import train
    from jattn.training.own.code import Places
    from jattn.training.progress import SweepReporter
    from jattn.training.reading import ConfigError, check
    from jattn.training.run_folder import RunFolderError
    from jattn.training.runs import configure_jax
    from jattn.training.step import TrainingFailed

    cores = share_of_cores(slot, jobs)
    if cores:
        os.sched_setaffinity(0, cores)
    report = SweepReporter(Console(stderr=True), None, announces=False)
    try:
        values = json.loads(asked)
        then = values.pop("code", {})
        config = check(values, "sweep", places=Places(known={file: path for file, (path, _) in then.items()}))
        for code in config.code:
            if code.sha256 != then[code.file][1]:
                raise ConfigError(f"{code.file}: expected it as it was when the sweep began, got {code.path} changed")
        configure_jax([config])
        test = train(config, signals=signals, report=report, command=command)
    except (ConfigError, RunFolderError, TrainingFailed, OSError) as error:
        return {"error": str(error)}
    return {name: test[name] for name in (*RESULT, *OF_TEXT) if name in test}


if __name__ == "__main__":
    line = sys.stdin.readline()
    stop_at_end_of_input()
    sys.exit(main(line))
