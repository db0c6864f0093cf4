"""Writes down what makes a run: the command, versions, devices and times; `jattn.report.provenance` reads it."""

import contextlib
import datetime
import importlib.metadata
import platform
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jattn.report.provenance import read_provenance, save_provenance
from jattn.training.announcing import device_words
from jattn.training.config import Config
from jattn.training.processes import is_first
from jattn.training.reading import HOW_WRITTEN, ConfigError, check
from jattn.training.sections import Section
from jattn.training.setup import Setup
from jattn.training.step import TrainState

PACKAGES = ("jattn", "jax", "jaxlib", "flax", "optax", "numpy")


@contextlib.contextmanager
def recorded(
    setup: Setup, folder: Path, state: TrainState, command: str, finished: bool
) -> Iterator[Callable[[], None]]:
    """Adds this process to what the folder says of the run, and in the end how long it took.

    Yields a function that writes down the time so far, for a process that does not come to its end.

    Args:
      setup: the parts of the run.
      folder: the run's.
      state: what training goes on from.
      command: what was asked for on the command line; empty where there was none.
      finished: whether the run was done before, so that nothing is left to write down.
    """
    if finished or not is_first():
        yield lambda: None
        return
    began, session = time.perf_counter(), _session(setup, state.number)
    sessions = [*read_provenance(folder).get("sessions", []), session]
    provenance = {"command": command, **_facts(setup, state), "sessions": sessions}

    def save() -> None:
        session["seconds"] = round(time.perf_counter() - began, 1)
        save_provenance(folder, provenance)

    save()
    try:
        yield save
    except BaseException:
        # What ended the run matters more than a disk that is full now.
        with contextlib.suppress(OSError):
            save()
        raise
    save()


def _facts(setup: Setup, state: TrainState) -> dict[str, Any]:
    sizes = sum(np.size(leaf) for leaf in jax.tree.leaves(state.params))
    return {
        "differences": differences_from_defaults(setup.config),
        "code": {code.file: code.sha256 for code in setup.config.code},
        "parameters": sizes // setup.config.training.replicates,
        "seeds": np.ravel(setup.seeds).tolist(),
    }


def _session(setup: Setup, step: int) -> dict[str, Any]:
    device = setup.mesh.devices.flat[0]
    return {
        "started": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "from_step": step,
        "python": platform.python_version(),
        "platform": platform.platform(terse=True),
        "packages": {name: version for name in PACKAGES if (version := _version(name))},
        "device": device.device_kind,
        "devices": setup.mesh.size,
        "ran_on": device_words(setup),
        "processes": jax.process_count(),
    }


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def differences_from_defaults(config: Config) -> dict[str, Any]:
    """Returns the keys of a config that are not as they would be by default, with their values.

    The keys that choose what other keys there are, such as the task's name, are compared first; others are compared
    with what is the default after these choices.

    Example:
      >>> from jattn.training.provenance import differences_from_defaults
      >>> from jattn.training.reading import check
      >>> differences_from_defaults(check({"task": {"name": "shift", "by": 2}, "training": {"seed": 3}}, "example"))
      {'task.name': 'shift', 'task.by': 2, 'training.seed': 3}
    """
    found, first = config.model_dump(), Config().model_dump()
    chosen = {
        name: {key: found[name][key] for key in section.tables if key in found[name]}
        for name, section in _sections(config)
    }
    try:
        base = check(chosen, "defaults", places=config.places).model_dump()
    except ConfigError:
        # The defaults of these choices need not fit together.
        base = check(chosen, "defaults", draft=True, places=config.places).model_dump()
    return {
        f"{name}.{key}": value
        for name, table in found.items()
        for key, value in table.items()
        if f"{name}.{key}" not in HOW_WRITTEN and value != (first if key in chosen[name] else base)[name].get(key)
    }


def _sections(config: Config) -> Iterator[tuple[str, Section]]:
    return ((name, getattr(config, name)) for name in Config.model_fields)
