"""Trains a model on a toy task from a config, and shows its attention filters becoming meaningful.

    python train.py configs/reverse.toml
    python train.py configs/reverse.toml --model.num-heads 2 --run.folder runs/two_heads
    python train.py configs/reverse.toml --sweep model.num-heads 1 2 4 --sweep model.score scaled_dot cosine

The same command again resumes. Exit status: 0 done, 2 wrong config or arguments, 130 or 143 after saving on SIGINT or
SIGTERM, 1 otherwise.
"""

import sys
from pathlib import Path
from typing import Any

from jattn.command.options import config_from_arguments
from jattn.command.sweeps import sweep_from_arguments
from jattn.training.config import Config
from jattn.training.interrupts import Interrupts, Stopped, interrupts
from jattn.training.reading import ConfigError
from jattn.training.run_folder import RunFolderError
from jattn.training.runs import configure_jax, run_config
from jattn.training.sweeps import Sweep, prepare, run_sweep


def main(arguments: list[str]) -> int:
    # What is asked for comes first: a mistake in it is told before anything slow is imported or compiled.
    try:
        sweep = sweep_from_arguments(arguments)
        configs = [one.config for one in sweep.combinations] if sweep else [config_from_arguments(arguments)]
        configure_jax(configs)
    except ConfigError as error:
        print(error, file=sys.stderr)
        return 2

    from jattn.training.loop import TrainingFailed

    try:
        with interrupts() as signals:
            return do_sweep(sweep, signals) if sweep else do_run(configs[0], signals)
    except Stopped as stopped:
        print(f"stopped by {stopped}; the same command resumes", file=sys.stderr)
        return stopped.status
    except (ConfigError, RunFolderError) as error:
        print(error, file=sys.stderr)
        return 2
    except (TrainingFailed, OSError) as error:
        print(error, file=sys.stderr)
        return 1


def do_run(config: Config, signals: Interrupts) -> int:
    """Does one run and tells its result; returns the exit status."""
    result = run_config(config, signals)
    print(f"test on {result['examples']} fresh sequences: {result['exact_accuracy']:.2%} right{filter_score(result)}")
    for length, found in result["by_length"].items():
        print(f"    length {length:>4}: {found['exact_accuracy']:8.2%} right{filter_score(found)}")
    print(f"see {Path(config.run.folder) / 'report.html'}")
    return 0


def do_sweep(sweep: Sweep, signals: Interrupts) -> int:
    """Does the runs of a sweep, once all are known to be right, and tells their results; returns the exit status."""
    outcomes = run_sweep(prepare(sweep), signals)
    print(f"see {sweep.folder / 'sweep.png'}, sweep.md and sweep.csv beside it")
    return 1 if any(outcome.test is None for outcome in outcomes) else 0


def filter_score(found: dict[str, Any]) -> str:
    """Words a filter score, where the task has an oracle."""
    return "" if found["filter_score"] is None else f", filter score {found['filter_score']:.3f}"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
