"""`run.debug` names the first array that is not finite, and changes nothing else."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from jattn.tasks import TASKS
from jattn.training import train
from jattn.training.debugging import make_debugged_chunk
from jattn.training.reading import ConfigError, check
from jattn.training.runs import on_its_devices
from jattn.training.setup import make_setup
from jattn.training.step import TrainingFailed, initial_state, make_train_chunk
from tests.sampled import sampled

SMALL = {
    "task": {"min_length": 3, "max_length": 3, "symbols": 4},
    "model": {"width": 4, "hidden": 4},
    "training": {"batch_size": 2, "steps": 4, "warmup_steps": 0},
    "mesh": {"data": 1},
    "run": {"debug": True},
}


def setup_of(model=None, **changes):
    return make_setup(
        check({table: SMALL.get(table, {}) | changes.get(table, {}) for table in SMALL}, "test"), model=model
    )


class Breaks(nn.Module):
    """Looks tokens up and lets a layer break where it is told to."""

    where: str

    @nn.compact
    def __call__(self, tokens, deterministic=True):
        x = nn.Embed(5, 4, name="embedding")(tokens)
        x = Layer(self.where == "layer", name="zeta")(x)
        x = Layer(False, name="alpha")(x)
        return nn.Dense(5, name="logits")(x)


class Layer(nn.Module):
    breaks: bool

    @nn.compact
    def __call__(self, x):
        x = nn.Dense(4, name="inside")(x)
        return x / jnp.where(self.breaks, 0.0, 1.0)


def failure(setup, state=None):
    state = initial_state(setup) if state is None else state
    with pytest.raises(TrainingFailed) as failed:
        make_debugged_chunk(setup)(state, jnp.int32(4))
    return str(failed.value)


def test_the_first_layer_that_breaks_is_named_not_the_first_by_its_name():
    assert failure(setup_of(Breaks("layer"))) == "step 0: the output of layer zeta is not finite"


@pytest.mark.exhaustive
def test_a_parameter_that_is_broken_is_named():
    setup = setup_of(Breaks("nowhere"))
    state = initial_state(setup)
    params = jax.tree.map(lambda x: x, state.params)
    params["zeta"]["inside"]["bias"] = params["zeta"]["inside"]["bias"] * jnp.nan
    state = type(state)(state.step + 2, params, state.opt_state, state.sums, state.broken_step)
    assert failure(setup, state) == "step 2: the parameter zeta/inside/bias is not finite"


@pytest.mark.exhaustive
def test_an_update_that_is_too_large_is_named():
    huge = setup_of(training={"learning_rate": 1e38, "optimizer": "sgd", "clip_norm": 1e38})
    told = failure(huge)
    assert told.startswith("step 1: ")
    assert "is not finite" in told


@pytest.mark.exhaustive
@sampled("replicates", [1, 2], keep=1)
def test_steps_are_those_of_a_run_without_it(replicates):
    setup = setup_of(training={"replicates": replicates})
    plain, debugged = (
        make(setup)(initial_state(setup), jnp.int32(3)) for make in (make_train_chunk, make_debugged_chunk)
    )
    for one, other in zip(jax.tree.leaves(plain), jax.tree.leaves(debugged), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-6)


@pytest.mark.exhaustive
def test_a_whole_run_may_be_debugged(tmp_path):
    config = check(SMALL | {"evaluation": {"examples": 4, "test_examples": 4, "batch_size": 4}}, "test")
    config = config.model_copy(update={"run": config.run.model_copy(update={"folder": str(tmp_path / "run")})})
    assert train(config)["step"] == 4
    with pytest.raises(TrainingFailed, match="step 0: the output of layer zeta"):
        train(
            config.model_copy(update={"run": config.run.model_copy(update={"folder": str(tmp_path / "other")})}),
            model=Breaks("layer"),
        )


def test_it_takes_one_device():
    assert on_its_devices(check({"run": {"debug": True}}, "test")).mesh.data == 1
    with pytest.raises(ConfigError, match=r"mesh\.data: expected 1 with run\.debug, or nothing, got 2"):
        check({"run": {"debug": True}, "mesh": {"data": 2}}, "test")


@pytest.mark.exhaustive
def test_the_loop_of_a_run_is_traced_once():
    for setup in (setup_of(), setup_of()):
        chunk, state = make_train_chunk(setup), initial_state(setup)
        for until in (1, 2, 4):
            state = chunk(state, jnp.int32(until))
        assert state.number == 4
    with pytest.raises(AssertionError, match="traced > 1 times"):
        chunk(jax.tree.map(lambda x: x[None], state), jnp.int32(5))


class Short(nn.Module):
    @nn.compact
    def __call__(self, tokens, deterministic=True):
        return nn.Embed(5, 4)(tokens)


def test_an_own_model_returns_logits():
    with pytest.raises(ValueError, match=r"model: expected to return logits of shape \[B, T, C\] = \(1, 3, 5\)"):
        setup_of(Short())


def test_an_own_task_has_arrays_that_fit():
    task = TASKS["reverse"](4)

    def sample(rng, length, room):
        sequence = task.sample(rng, length, room)
        return sequence._replace(alignment=sequence.alignment[:1])

    wrong = type(task)(**vars(task) | {"sample": sample})
    with pytest.raises(ValueError, match=r"task 'reverse': expected alignment of shape \(3, 3\), got \(1, 3\)"):
        initial_state(make_setup(check(SMALL, "test"), task=wrong))
