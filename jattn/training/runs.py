"""What the command does: JAX is told how to use the machine, and a run goes from its config to its report."""

import os
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import jax

from jattn.training.config import Config
from jattn.training.interrupts import Interrupts


def configure_jax(configs: Sequence[Config]) -> None:
    """Sets what must be set before JAX first touches a device, so that it suits all of these runs."""
    # On a CPU, a device per core takes small steps faster than one device with a thread per core.
    jax.config.update("jax_num_cpu_devices", max(config.run.devices or cpu_devices(config) for config in configs))
    cached = any(config.run.cache for config in configs)
    if cached and not os.environ.get("JAX_COMPILATION_CACHE_DIR"):
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


def on_its_devices(config: Config) -> Config:
    """Returns the config of a run with as many devices as it takes, where a CPU has those of other runs besides."""
    if config.run.devices or jax.default_backend() != "cpu":
        return config
    devices = min(cpu_devices(config), jax.local_device_count())
    return config.model_copy(update={"run": config.run.model_copy(update={"devices": devices})})


def run_config(config: Config, signals: Interrupts) -> dict[str, Any]:
    """Trains, tests and draws a run, or resumes it where it was cut off; returns the row of metrics of its test.

    `configure_jax` comes before the first run of a process.

    Args:
      config: of the run; its folder is held until the end.
      signals: of `jattn.training.interrupts.interrupts`, in whose time this runs.

    Raises:
      ConfigError: if the devices do not fit the batch sizes.
      RunFolderError: if the folder cannot be used.
      TrainingFailed: at a loss that is not finite.
      Stopped: after saving, when a signal came.
    """
    from jattn.report import render
    from jattn.training.loop import Run
    from jattn.training.progress import reporter
    from jattn.training.run_folder import RunFolder
    from jattn.training.setup import make_setup

    setup = make_setup(on_its_devices(config))
    # The folder belongs to this process until the run ends.
    with closing(RunFolder(config)) as folder, reporter(config.training.steps) as report:
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
    render(folder.path)
    return result
