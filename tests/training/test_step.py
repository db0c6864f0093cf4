"""The training step: its loss, its one compilation, and the platforms it lowers for."""

import dataclasses
import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jattn.tasks import Batch
from jattn.training.flops import flops_per_step
from jattn.training.reading import check
from jattn.training.setup import make_setup
from jattn.training.step import (
    TrainingFailed,
    check_finite,
    cross_entropy,
    initial_state,
    is_correct,
    make_train_chunk,
    mark_broken,
    train_step,
)
from tests.compilations import counted
from tests.sampled import sampled

TINY = {
    "task": {"min_length": 4, "max_length": 4},
    "model": {"width": 8, "hidden": 8},
    "training": {"batch_size": 8, "warmup_steps": 0, "seed": 1},
}
"""A config of which nearly all tests are, so that they share its programs."""


@functools.cache
def setup_of(**training):
    return make_setup(check(TINY | {"training": TINY["training"] | training}, "test"))


@functools.cache
def chunk_of(**training):
    return make_train_chunk(setup_of(**training))


def batch_of(targets, scored):
    targets = jnp.array(targets)
    return Batch(
        inputs={"tokens": targets}, targets=targets, scored=jnp.array(scored), oracle=jnp.zeros((1, 2, 2), bool)
    )


def test_cross_entropy_is_minus_the_log_of_the_probability_of_the_target():
    logits = jnp.log(jnp.array([[[0.5, 0.25, 0.25], [0.1, 0.1, 0.8]]]))
    losses = cross_entropy(logits, batch_of([[1, 2]], [[True, True]]))
    np.testing.assert_allclose(losses, [[np.log(4), -np.log(0.8)]], rtol=1e-6)


def test_what_is_not_scored_costs_nothing_and_counts_as_right():
    logits = jnp.array([[[9.0, 0.0, 0.0], [9.0, 0.0, 0.0]]])
    batch = batch_of([[0, 2]], [[True, False]])
    assert cross_entropy(logits, batch)[0, 1] == 0
    assert is_correct(logits, batch).tolist() == [[True, True]]


@pytest.mark.exhaustive
def test_a_chunk_is_its_steps_one_after_the_other():
    setup = setup_of()
    chunk = chunk_of()
    together = chunk(initial_state(setup), jnp.int32(5))
    one_by_one = initial_state(setup)
    for step in range(5):
        one_by_one = chunk(one_by_one, jnp.int32(step + 1))
    chex.assert_trees_all_equal(together, one_by_one)
    assert int(together.step) == 5


@pytest.mark.exhaustive
def test_chunks_of_any_length_take_one_compilation():
    setup = setup_of()
    state, chunk = initial_state(setup), make_train_chunk(setup)
    for until in (1, 2, 7):
        state = chunk(state, jnp.int32(until))
    assert chunk._cache_size() == 1


def test_operations_are_counted_in_the_very_program_that_takes_the_steps():
    setup, chunk, here = setup_of(), chunk_of(), jnp.int32(0)
    state = initial_state(setup)
    flops = flops_per_step(setup, chunk, state, here)
    assert flops is not None
    # A token meets each of 8 x 8 parameters once forward and twice backward at the least.
    assert flops > 3 * 2 * setup.tokens_per_step * 64
    with counted() as happened:
        chunk(state, here)
    assert happened == []


def test_a_count_that_lacks_products_is_none():
    setup, square = setup_of(), jnp.ones((8, 8))
    whole = jax.jit(lambda x, y: x @ y + 1)
    assert flops_per_step(setup, whole, square, square) == pytest.approx(setup.mesh.size * (2 * 8**3 + 8**2), rel=0.1)
    looped = jax.jit(lambda x, y: jax.lax.fori_loop(0, 4, lambda _, x: x @ y, x))
    assert flops_per_step(setup, looped, square, square) is None


def test_a_step_follows_the_gradient_of_the_loss_on_its_batch():
    setup = setup_of()
    before = initial_state(setup)
    after = chunk_of()(initial_state(setup), jnp.int32(1))
    batch = jax.jit(setup.training_batch)(jax.random.fold_in(setup.rng("training"), 0), jnp.arange(8))

    def loss_of(params):
        return cross_entropy(setup.apply(params, batch), batch).mean()

    @jax.jit
    def step_by_hand(params, opt_state):
        loss, gradient = jax.value_and_grad(loss_of)(params)
        updates, _ = setup.optimizer.update(gradient, opt_state, params)
        return loss, optax.tree.norm(gradient), optax.apply_updates(params, updates)

    loss, norm, expected = step_by_hand(before.params, before.opt_state)
    for params in (after.params, expected):  # a key bias shifts whole rows of scores: its gradient is rounding noise
        del params["block_0"]["attention"]["key"]["bias"]
    chex.assert_trees_all_close(after.params, expected, atol=1e-5)
    np.testing.assert_allclose(after.sums["loss"], loss, rtol=1e-5)
    np.testing.assert_allclose(after.sums["gradient_norm"], norm, rtol=1e-4)


@pytest.mark.exhaustive
def test_the_loop_ends_at_a_loss_that_is_not_finite_and_says_at_which_step():
    setup = setup_of()
    state = initial_state(setup)
    broken = jax.tree.map(lambda x: jnp.full_like(x, jnp.nan), state.params)
    state = chunk_of()(dataclasses.replace(state, step=jnp.int32(3), params=broken), jnp.int32(10))
    assert (int(state.broken_step), int(state.step)) == (3, 4)


@sampled("part", ["params", "opt_state"], keep=1)
def test_a_divergence_in_the_last_update_is_seen(part):
    setup = setup_of()
    state, mark = initial_state(setup), jax.jit(functools.partial(mark_broken, setup))
    assert int(mark(state).broken_step) == -1
    spoilt = jax.tree.map(lambda x: np.full_like(x, np.inf) if x.ndim else x, getattr(state, part))
    state = mark(dataclasses.replace(state, step=jnp.int32(7), **{part: spoilt}))
    with pytest.raises(TrainingFailed, match=r"^the state of training is not finite at step 7; nothing is kept"):
        check_finite(state, setup.seeds, lambda: "nothing is kept")


def test_what_an_optimizer_begins_with_need_not_be_finite():
    setup = dataclasses.replace(setup_of(), optimizer=optax.contrib.reduce_on_plateau())
    state = initial_state(setup)
    assert any(np.isinf(np.asarray(x)).any() for x in jax.tree.leaves(state.opt_state))
    assert int(jax.jit(functools.partial(mark_broken, setup))(state).broken_step) == -1


@pytest.mark.exhaustive
def test_the_seed_decides_everything():
    runs = [chunk_of(seed=seed)(initial_state(setup_of(seed=seed)), jnp.int32(3)) for seed in (0, 0, 1)]
    chex.assert_trees_all_equal(runs[0].params, runs[1].params)
    assert float(optax.tree.norm(optax.tree.sub(runs[0].params, runs[2].params))) > 0.1


@sampled("replicate", [1, 0], keep=1)
def test_replicates_are_the_runs_of_their_seeds(replicate):
    together = chunk_of(seed=0, replicates=2)(initial_state(setup_of(seed=0, replicates=2)), jnp.int32(3))
    # Seed 1 is that of the config, whose programs are there.
    own = {} if replicate == 1 else {"seed": replicate}
    alone = chunk_of(**own)(initial_state(setup_of(**own)), jnp.int32(3))
    one = jax.tree.map(lambda x: x[replicate], jax.device_get(together))
    for params in (alone.params, one.params):  # a key bias shifts whole rows: its gradient is rounding noise
        del params["block_0"]["attention"]["key"]["bias"]
    chex.assert_trees_all_close(one.params, alone.params, atol=1e-5)
    np.testing.assert_allclose(one.sums["loss"], alone.sums["loss"], rtol=1e-5)


@pytest.mark.exhaustive
def test_the_loop_ends_when_one_replicate_breaks():
    setup = setup_of(seed=1, replicates=2)
    state = initial_state(setup)
    broken = jax.tree.map(lambda x: x.at[1].set(jnp.nan), state.params)
    state = chunk_of(seed=1, replicates=2)(dataclasses.replace(state, params=broken), jnp.int32(10))
    assert (state.broken_step.tolist(), state.step.tolist()) == ([-1, 0], [1, 1])


@pytest.mark.exhaustive
@sampled("dtype", ["float32", "bfloat16"], keep=1)
def test_parameters_and_loss_stay_float32(dtype):
    state = chunk_of(dtype=dtype)(initial_state(setup_of(dtype=dtype)), jnp.int32(2))
    assert {x.dtype for x in jax.tree.leaves(state.params)} == {jnp.dtype("float32")}
    assert 1 < float(state.sums["loss"]) / 2 < 6


@sampled("layout", ["encoder", "decoder", "encoder_decoder"], keep=1)
def test_the_train_step_lowers_for_cpu_cuda_and_tpu(layout):
    setup = make_setup(check(TINY | {"task": {"layout": layout, "min_length": 2, "max_length": 4}}, "test"))
    shapes = jax.eval_shape(lambda: initial_state(setup))
    everywhere = jax.sharding.PartitionSpec()
    step = jax.shard_map(
        lambda state: train_step(setup, state),
        mesh=setup.mesh,
        in_specs=everywhere,
        out_specs=everywhere,
        check_vma=False,
    )
    exported = jax.export.export(jax.jit(step), platforms=["cpu", "cuda", "tpu"])(shapes)
    assert exported.platforms == ("cpu", "cuda", "tpu")
