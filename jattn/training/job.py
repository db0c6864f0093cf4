"""One of several runs at once: ``python -m jattn.training.job SLOT JOBS COMMAND`` reads a config from its input."""

import json
import os
import sys

from rich.console import Console

from jattn.training.interrupts import Stopped, interrupts


def main() -> int:
    """Does the run whose config comes in; returns the exit status, as of `train.py`."""
    slot, jobs, command = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
    try:
        with interrupts() as signals:
            from jattn.training.jobs import share_of_cores, write_result
            from jattn.training.progress import SweepReporter
            from jattn.training.reading import check
            from jattn.training.runs import configure_jax

            config = check(json.load(sys.stdin), "sweep")
            cores = share_of_cores(slot, jobs)
            if cores:
                os.sched_setaffinity(0, cores)
            configure_jax([config])

            from jattn.training.loop import train

            report = SweepReporter(Console(stderr=True), None, announces=False)
            write_result(train(config, signals=signals, report=report, command=command))
    except Stopped as stopped:
        return stopped.status
    except Exception as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
