"""How a run uses the machine: devices, and the cache of compiled programs. Imports JAX late."""

import contextlib
import os
import re
from collections.abc import Callable, Iterator, Sequence

from jattn.training.config import Config
from jattn.training.interrupts import resumes
from jattn.training.reading import ConfigError

PREALLOCATE = "XLA_PYTHON_CLIENT_PREALLOCATE"
"""The variable by which JAX takes an accelerator's memory at once or as it needs it."""


def configure_jax(configs: Sequence[Config], outlook: Callable[[], str] = resumes) -> None:
    """Sets what must be set before JAX first touches a device, so that it suits all of these runs.

    A run of several processes waits here for the others, and at the end of the program once it was trained.

    Args:
      configs: of the runs.
      outlook: says what the same command will do, for a process that ends because another did.

    Raises:
      ConfigError: if JAX finds no device, as with a ``JAX_PLATFORMS`` that is not there, or a run of several processes
        cannot begin.
    """
    import jax

    from jattn.training import processes

    if any(config.run.joins for config in configs):
        if len(configs) > 1:
            raise ConfigError("run.distributed: expected one run, got a sweep, whose runs have one process each")
        processes.join(configs[0].run.distributed, outlook)

    # On a CPU, a device per core takes small steps faster than one device with a thread per core.
    if asked_cpu_devices() is None:
        number = processes.asked_number()
        jax.config.update("jax_num_cpu_devices", max(cpu_devices(config, number) for config in configs))
    cached = any(config.run.cache for config in configs)
    if cached and not os.environ.get("JAX_COMPILATION_CACHE_DIR"):
        # Compiled programs are code: they belong in a folder that only this user writes to. A user without a home, as
        # in some containers, has none.
        home = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser(os.path.join("~", ".cache"))
        if os.path.isabs(home):
            jax.config.update("jax_compilation_cache_dir", os.path.join(home, "jattn", "xla"))
            jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
            jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
    try:
        jax.devices()
    except RuntimeError as error:
        platforms = os.environ.get("JAX_PLATFORMS")
        asked = f"JAX_PLATFORMS={platforms}: " if platforms else ""
        raise ConfigError(f"{asked}JAX finds no device to run on: {str(error).partition(chr(10))[0]}") from None


@contextlib.contextmanager
def leaving_memory() -> Iterator[None]:
    """Lets JAX take an accelerator's memory only as it needs it, if this is where it first touches the device.

    A variable that a person has set stays as it is, and processes that are begun later do not see this one.
    """
    if PREALLOCATE in os.environ:
        yield
        return
    os.environ[PREALLOCATE] = "false"
    try:
        yield
    finally:
        del os.environ[PREALLOCATE]


@contextlib.contextmanager
def in_float32() -> Iterator[None]:
    """Computes as a run does, whatever JAX is told for other code: in 32 bits, with ranks and dtypes promoted."""
    import jax

    with jax.enable_x64(False), jax.numpy_rank_promotion("allow"), jax.numpy_dtype_promotion("standard"):
        yield


def cpu_devices(config: Config, processes: int = 1) -> int:
    """Returns how many CPU devices each process of a run should have: its part of those asked for, or what suits.

    What suits is at most one per core, each with an equal and worthwhile share.
    """
    sequence = config.mesh.sequence
    if config.mesh.data != -1:
        return max(1, config.mesh.data * sequence // processes)
    if config.run.debug:
        return 1
    cores = max(1, (asked_cpu_devices() or cpu_cores()) // sequence)
    sizes = config.training.batch_size, config.evaluation.batch_size
    worthwhile = range(1, min(cores, *(size // 32 // processes for size in sizes)) + 1)
    return sequence * max((n for n in worthwhile if all(size % (n * processes) == 0 for size in sizes)), default=1)


def cpu_cores() -> int:
    """Returns how many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def asked_cpu_devices() -> int | None:
    """Returns how many CPU devices the environment variable XLA_FLAGS asks for; None where it asks for none."""
    found = re.search(r"--xla_force_host_platform_device_count=(\d+)", os.environ.get("XLA_FLAGS", ""))
    return int(found[1]) if found else None


def alone(config: Config) -> Config:
    """Returns the config without what only the first process of a run does: loggers.

    Keys by which steps are counted stay, as all processes take the same steps at once.
    """
    import jax

    if jax.process_index() == 0:
        return config
    return config.model_copy(update={"run": config.run.model_copy(update={"logger": ()})})


def on_its_devices(config: Config) -> Config:
    """Returns the config of a run with as many devices as it takes, where a CPU has those of other runs besides."""
    import jax

    on_accelerator = jax.default_backend() != "cpu" and not config.run.debug
    if config.mesh.data != -1 or on_accelerator or jax.process_count() > 1:
        return config
    devices = min(cpu_devices(config), jax.local_device_count()) // config.mesh.sequence
    return config.model_copy(update={"mesh": config.mesh.model_copy(update={"data": max(1, devices)})})
