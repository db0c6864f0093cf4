"""What `train.py` does: a run, or a sweep of runs, from the arguments to the exit status."""

import shlex
import sys
from pathlib import Path
from typing import Any

from jattn.command.console import on_console
from jattn.command.options import config_from_arguments
from jattn.command.sweeps import sweep_from_arguments
from jattn.drawing.plain import in_plain
from jattn.training.config import Config
from jattn.training.interrupts import Interrupts, Stopped, interrupts
from jattn.training.reading import ConfigError
from jattn.training.run_folder import RunFolderError
from jattn.training.runs import configure_jax
from jattn.training.sweeps import Sweep, prepare, run_sweep


def main(arguments: list[str], program: str = "train.py") -> int:
    """Does what `train.py`, or another program that trains, is asked for; returns the exit status.

    0 done, 2 wrong config or arguments, 129, 130 or 143 after saving on SIGHUP, SIGINT or SIGTERM, 1 otherwise.
    """
    return on_console(lambda: answer(arguments, program))


def answer(arguments: list[str], program: str = "train.py") -> int:
    """Does what is asked for, and says in one line why it could not; returns the exit status."""
    # What is asked for comes first: a mistake in it is reported before anything slow is imported or compiled.
    try:
        sweep = sweep_from_arguments(arguments, program)
        configs = [one.config for one in sweep.combinations] if sweep else [config_from_arguments(arguments, program)]
        configure_jax(configs)
    except ConfigError as error:
        print(in_plain(str(error)), file=sys.stderr)
        return 2

    from jattn.training.step import TrainingFailed

    try:
        with interrupts() as signals:
            command = shlex.join([*(["python"] if program.endswith(".py") else []), *program.split(), *arguments])
            return do_sweep(sweep, signals, command) if sweep else do_run(configs[0], signals, command)
    except Stopped as stopped:
        print(f"stopped by {stopped}; the same command resumes", file=sys.stderr)
        return stopped.status
    except (ConfigError, RunFolderError) as error:
        print(in_plain(str(error)), file=sys.stderr)
        return 2
    except BrokenPipeError:
        raise
    except (TrainingFailed, OSError) as error:
        print(in_plain(str(error)), file=sys.stderr)
        return 1


def do_run(config: Config, signals: Interrupts, command: str = "") -> int:
    """Does one run and prints its result; returns the exit status."""
    from jattn.training.loop import train

    result = train(config, signals=signals, command=command)
    print(f"test on {result['examples']} fresh sequences: {result['exact_accuracy']:.2%} right{filter_score(result)}")
    for length, found in result["by_length"].items():
        print(f"    length {length:>4}: {found['exact_accuracy']:8.2%} right{filter_score(found)}")
    print(in_plain(f"see {Path(config.run.folder) / 'report.html'}"))
    return 0


def do_sweep(sweep: Sweep, signals: Interrupts, command: str = "") -> int:
    """Does the runs of a sweep, once all are known to be right, and prints their results; returns the exit status."""
    outcomes = run_sweep(prepare(sweep), signals, command)
    print(in_plain(f"see {sweep.folder / 'sweep.html'}; sweep.png, sweep.md and sweep.csv are beside it"))
    return 1 if any(outcome.test is None for outcome in outcomes) else 0


def filter_score(found: dict[str, Any]) -> str:
    """Words a filter score, where the task has an oracle."""
    return "" if found["filter_score"] is None else f", filter score {found['filter_score']:.3f}"
