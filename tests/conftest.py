"""What several tests share."""

import gc
import os
import shutil
import tempfile
from pathlib import Path

import jax
import pytest

from jattn.engine import compiling

MOST_STORED = 10**9
"""The bytes of compiled programs, of this code and of older code, that are kept from one session to the next."""


def pytest_addoption(parser):
    parser.addoption("--slice", metavar="K/N", help="run only every N-th of the selected tests, from the K-th (K < N)")


def pytest_collection_finish(session):
    """Lets the garbage collector look at what tests make, not at all that is imported: a tenth of the time."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(100_000, 50, 100)


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config, items):
    """Keeps every N-th of the tests that are left, so that N runs with K = 0, ..., N - 1 run all of them."""
    if config.option.slice is None:
        return
    try:
        first, step = map(int, config.option.slice.split("/"))
        chosen = items[first % step :: step]
    except (ValueError, ZeroDivisionError):
        raise pytest.UsageError(f"--slice: expected K/N, such as 0/5, got {config.option.slice!r}") from None
    config.hook.pytest_deselected(items=[item for place, item in enumerate(items) if place % step != first % step])
    items[:] = chosen


def pytest_configure(config):
    """Lets all processes of one test session, the commands they start and the next session share compiled programs."""
    if not hasattr(config, "workerinput"):
        os.environ["JAX_COMPILATION_CACHE_DIR"] = folder_of_programs(config)
        os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
        os.environ["JAX_DISABLE_MOST_OPTIMIZATIONS"] = "1"
    jax.config.update("jax_compilation_cache_dir", os.environ["JAX_COMPILATION_CACHE_DIR"])
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
    jax.config.update("jax_disable_most_optimizations", True)
    # Whatever became of a stored program, by a kill or a full disk, it is compiled again.
    config.addinivalue_line("filterwarnings", "ignore:Error (reading|writing) persistent compilation cache")


def folder_of_programs(config):
    """Finds a folder in pytest's own cache, which `--cache-clear` empties, or makes one for a single session."""
    if not hasattr(config, "cache"):
        folder = tempfile.TemporaryDirectory(prefix="jattn-tests-")
        config.add_cleanup(folder.cleanup)
        return folder.name
    folder = config.cache.mkdir("programs")
    if sum(path.stat().st_size for path in folder.iterdir()) > MOST_STORED:
        shutil.rmtree(folder)
        folder.mkdir()
    return str(folder)


@pytest.fixture
def heads_at_once(monkeypatch):
    """Computes blocks of all heads at once, as on an accelerator, where a CPU walks them one at a time."""
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")


@pytest.fixture(params=["walked", "at once"])
def heads(request):
    """Runs a test both ways."""
    if request.param == "at once":
        request.getfixturevalue("heads_at_once")


OPTIMIZED = ("test_properties.py",)
"""The tests whose programs are compiled as a user's are."""


@pytest.fixture(autouse=True)
def quick_compilation(request):
    """Compiles what most tests run a single time without most optimizations, which takes a third less time.

    These are optimizations of machine code: what a program stores and how many operations it has are a user's.
    """
    quick = request.path.name not in OPTIMIZED and "optimized" not in request.fixturenames
    jax.config.update("jax_disable_most_optimizations", quick)
    yield
    jax.config.update("jax_disable_most_optimizations", True)


@pytest.fixture
def optimized():
    """Marks a test whose numbers are to be those of programs that are compiled as a user's are."""


MOST_MAPS = 30_000
"""How many memory maps a process may have before its programs are let go: Linux grants it 65,530."""

_tests_run = 0


@pytest.fixture(autouse=True)
def programs_are_let_go():
    """Lets go of compiled programs, each of which takes some memory maps, when there are many."""
    yield
    global _tests_run
    _tests_run += 1
    maps = Path("/proc/self/maps")
    if _tests_run % 10 == 0 and maps.exists() and maps.read_bytes().count(b"\n") > MOST_MAPS:
        compiling.forget()
        jax.clear_caches()
