"""A small seeded run learns, and its filter becomes the oracle."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jattn.training.evaluation import add_up, make_measure, summarize
from jattn.training.reading import check
from jattn.training.setup import make_setup
from jattn.training.step import initial_state, make_train_chunk
from tests.sampled import sampled

LENGTH = 6


@sampled(
    ("task", "model", "line"),
    [
        ("reverse", {}, np.arange(LENGTH)[::-1]),
        ("reverse", {"score": "cosine", "temperature": 0.05}, np.arange(LENGTH)[::-1]),
        ("copy", {"queries": "positions"}, np.arange(LENGTH)),
    ],
    ids=["reverse", "reverse by cosine", "copy"],
    keep=1,
)
def test_the_filter_of_a_solver_is_the_oracle(task, model, line):
    values = {
        "task": {"name": task, "min_length": LENGTH, "max_length": LENGTH},
        "model": {"width": 16, **model},
        "training": {"steps": 300, "batch_size": 64},
    }
    setup = make_setup(check(values, "test"))
    measure, state = make_measure(setup, LENGTH, 200), initial_state(setup)
    before = summarize(add_up([measure(state.params, setup.rng("test"), 0).sums]))
    state = make_train_chunk(setup)(state, jnp.int32(300))
    measured = jax.device_get(measure(state.params, setup.rng("test"), 0))
    after = summarize(add_up([measured.sums]))
    assert before["filter_score"] == pytest.approx(1 / LENGTH, abs=0.08)
    assert after["exact_accuracy"] == 1
    assert after["filter_score"] > 0.85
    weights = measured.weights["block_0/attention"]
    assert (weights.argmax(axis=-1) == line).all()
