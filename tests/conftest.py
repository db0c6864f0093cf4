"""Fixtures for the tests of the core."""

import jax
import pytest


@pytest.fixture(params=["walked", "at once"])
def heads(request, monkeypatch):
    """Runs a test with heads walked one at a time, as on a CPU, and with all of them in a block, as elsewhere."""
    monkeypatch.setattr(jax, "default_backend", lambda: "cpu" if request.param == "walked" else "gpu")
    return request.param
