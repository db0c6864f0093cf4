"""What several tests share."""

import os
import tempfile

import jax
import pytest

from jattn import sweeps


def pytest_configure(config):
    """Lets all processes of one test session, and the commands they start, share compiled programs."""
    if not hasattr(config, "workerinput"):
        folder = tempfile.TemporaryDirectory(prefix="jattn-tests-")
        config.add_cleanup(folder.cleanup)
        os.environ["JAX_COMPILATION_CACHE_DIR"] = folder.name
        os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.2"
        os.environ["JAX_DISABLE_MOST_OPTIMIZATIONS"] = "1"
    jax.config.update("jax_compilation_cache_dir", os.environ["JAX_COMPILATION_CACHE_DIR"])
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.2)
    jax.config.update("jax_disable_most_optimizations", True)


@pytest.fixture
def heads_at_once(monkeypatch):
    """Computes blocks of all heads at once, as on an accelerator, where a CPU walks them one at a time."""
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")


@pytest.fixture(params=["walked", "at once"])
def heads(request):
    """Runs a test both ways."""
    if request.param == "at once":
        request.getfixturevalue("heads_at_once")


OPTIMIZED = ("test_properties.py", "test_gradients.py", "test_lowering.py", "test_plans.py", "test_learning.py")
"""The tests whose programs are compiled as a user's are."""


@pytest.fixture(autouse=True)
def quick_compilation(request):
    """Compiles what most tests run a single time without most optimizations, which takes a quarter less time."""
    quick = request.path.name not in OPTIMIZED and "optimized" not in request.fixturenames
    jax.config.update("jax_disable_most_optimizations", quick)
    yield
    jax.config.update("jax_disable_most_optimizations", True)


TESTS_PER_CLEARING = 150
"""How many tests keep their programs: each takes some memory maps, of which Linux grants a process 65,530."""

_tests_run = 0


@pytest.fixture(autouse=True)
def programs_are_let_go():
    """Lets go of compiled programs now and then."""
    yield
    global _tests_run
    _tests_run += 1
    if _tests_run % TESTS_PER_CLEARING == 0:
        sweeps._jitted.cache_clear()
        jax.clear_caches()


@pytest.fixture
def optimized():
    """Marks a test that looks at compiled programs: they are compiled as a user's are."""
