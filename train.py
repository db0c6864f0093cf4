"""Trains a model on a toy task from a config, and shows its attention filters becoming meaningful.

    python train.py configs/reverse.toml
    python train.py configs/reverse.toml --model.num-heads 2 --run.folder runs/two_heads

The same command again resumes. Exit status: 0 done, 2 wrong config or arguments, 130 or 143 after saving on SIGINT or
SIGTERM, 1 otherwise.
"""

import os
import sys
from pathlib import Path
from typing import Any

import jax

from jattn.training.config import Config
from jattn.training.options import ConfigError, config_from_arguments


def main(arguments: list[str]) -> int:
    # The config comes first: a mistake in it is told before anything slow is imported or compiled.
    try:
        config = config_from_arguments(arguments)
        configure_jax(config)
        from jattn.training.setup import make_setup

        setup = make_setup(config)
    except ConfigError as error:
        print(error, file=sys.stderr)
        return 2

    from jattn.report import render
    from jattn.training.interrupts import Stopped, interrupts
    from jattn.training.loop import Run, TrainingFailed
    from jattn.training.progress import reporter
    from jattn.training.run_folder import RunFolder, RunFolderError

    try:
        with interrupts() as signals:
            # The folder belongs to this process until the run ends.
            folder = RunFolder(config)
            with reporter(config.training.steps) as report:
                report.line(f"{config.task.name}, layout {config.task.layout}: run folder {folder.path}")
                run = Run(setup, folder, report, signals)
                if run.step:
                    report.line(f"resumed at step {run.step}")
                # From here a signal waits until the state is saved.
                with signals.waiting():
                    run.train()
                    run.checkpoints.wait()
                # Fresh examples, never seen in training or evaluation, have the last word.
                result = run.test()
            # The pictures and the page are made from the files in the folder alone.
            page = render(folder.path)
    except Stopped as stopped:
        print(f"stopped by {stopped}; the same command resumes", file=sys.stderr)
        return stopped.status
    except RunFolderError as error:
        print(error, file=sys.stderr)
        return 2
    except (TrainingFailed, OSError) as error:
        print(error, file=sys.stderr)
        return 1

    print(f"test on {result['examples']} fresh sequences: {result['exact_accuracy']:.2%} right{filter_score(result)}")
    for length, found in result["by_length"].items():
        print(f"    length {length:>4}: {found['exact_accuracy']:8.2%} right{filter_score(found)}")
    print(f"see {page}")
    return 0


def filter_score(found: dict[str, Any]) -> str:
    """Words a filter score, where the task has an oracle."""
    return "" if found["filter_score"] is None else f", filter score {found['filter_score']:.3f}"


def configure_jax(config: Config) -> None:
    """Sets what must be set before JAX first touches a device."""
    # On a CPU, a device per core takes small steps faster than one device with a thread per core.
    jax.config.update("jax_num_cpu_devices", config.run.devices or cpu_devices(config))
    if config.run.cache and not os.environ.get("JAX_COMPILATION_CACHE_DIR"):
        # Compiled programs are code: they belong in a folder that only this user writes to.
        home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        jax.config.update("jax_compilation_cache_dir", str(home / "jattn" / "xla"))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
        jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)


def cpu_devices(config: Config) -> int:
    """Returns how many CPU devices suit a run: at most one per core, each with an equal and worthwhile share."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    sizes = config.training.batch_size, config.evaluation.batch_size
    worthwhile = range(1, min(cores, *(size // 32 for size in sizes)) + 1)
    return max((n for n in worthwhile if all(size % n == 0 for size in sizes)), default=1)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
