"""Fixtures for the tests of the core."""

import jax
import pytest


@pytest.fixture
def heads_at_once(monkeypatch):
    """Computes blocks of all heads at once, as on an accelerator, where a CPU walks them one at a time."""
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")


@pytest.fixture(params=["walked", "at once"])
def heads(request):
    """Runs a test both ways."""
    if request.param == "at once":
        request.getfixturevalue("heads_at_once")
