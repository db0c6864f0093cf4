"""The training step, and the compiled loop around it.

A step makes its own batch on the device from the seed and its number, so a run needs nothing from the host between two
chunks, and a resumed run takes the very steps that the uninterrupted one would have taken.
"""

import dataclasses
import functools
import itertools
from collections.abc import Callable
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax
from jax.flatten_util import ravel_pytree
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Float, Int

from jattn.rules.trees import as_pytree
from jattn.tasks.answers import cross_entropy, is_correct
from jattn.training.setup import Setup
from jattn.training.sharding import shardings

WATCHED = ("loss", "token_accuracy", "exact_accuracy", "gradient_norm")
"""What a step measures of itself."""


Look = Callable[[str, Any], None]
"""Is shown what a step computes: what it is, and a pytree of arrays, in the order in which they are made."""

_numbers = itertools.count()


class TrainingFailed(RuntimeError):
    """A run that cannot go on; its text says why, and what is kept."""


@as_pytree
@dataclasses.dataclass(frozen=True)
class TrainState:
    """All that changes while training; with replicates, every array has a first axis of them.

    Attributes:
      step: how many steps were taken.
      params: the model's parameters, float32.
      opt_state: the optimizer's state.
      sums: what was `WATCHED`, summed over the steps since the last row of metrics.
      broken_step: the first step whose loss was not finite, or after which parameters or optimizer state were not when
        the loop ended; or -1.
    """

    step: Int[Array, ""]
    params: optax.Params
    opt_state: optax.OptState
    sums: dict[str, Float[Array, ""]]
    broken_step: Int[Array, ""]

    @property
    def number(self) -> int:
        """How many steps were taken, fetched from the device."""
        return int(np.max(jax.device_get(self.step)))


TrainChunk = Callable[[TrainState, Int[Array, ""]], TrainState]
"""Takes a state, and the step up to which it trains; returns the state there."""


def initial_state(setup: Setup) -> TrainState:
    """Makes the state before the first step, under jit, where it lies on the devices."""

    def init(seed: Int[Array, ""]) -> TrainState:
        batch = setup.training_batch(setup.rng("training", seed), jnp.arange(1))
        params = setup.init(batch, seed)
        return TrainState(
            step=jnp.int32(0),
            params=params,
            opt_state=setup.optimizer.init(params),
            sums={name: jnp.float32(0) for name in WATCHED},
            broken_step=jnp.int32(-1),
        )

    def state() -> TrainState:
        return setup.each(init)(setup.seeds)

    lies = shardings(setup.mesh, jax.eval_shape(state), setup.splits_parameters)
    return jax.jit(state, out_shardings=lies)()


def train_step(
    setup: Setup, state: TrainState, seed: Int[Array, ""] | None = None, look: Look | None = None
) -> TrainState:
    """Takes one optimizer step of one replicate on a fresh batch, of which each device has a share.

    `look`, where given, is shown the arrays on the way, what each layer returns among them.
    """
    shown: Look = (lambda kind, arrays: None) if look is None else look
    gradients, found = _gradients(setup, state, seed, look)
    gradients = jax.tree.map(lambda gradient: gradient / found["tokens"], gradients)
    chex.assert_trees_all_equal_shapes_and_dtypes(gradients, state.params)
    shown("the gradient of", gradients)
    watched = {
        "loss": found["loss"] / found["tokens"],
        "token_accuracy": found["right_tokens"] / found["tokens"],
        "exact_accuracy": found["right_sequences"] / setup.config.training.batch_size,
        "gradient_norm": optax.tree.norm(gradients),
    }
    new_row = state.step % setup.config.run.log_every == 0
    updates, opt_state = setup.optimizer.update(gradients, state.opt_state, state.params)
    shown("the update of", updates)
    return TrainState(
        step=state.step + 1,
        params=optax.apply_updates(state.params, updates),
        opt_state=opt_state,
        sums={name: jnp.where(new_row, 0, state.sums[name]) + watched[name] for name in WATCHED},
        broken_step=jnp.where(jnp.isfinite(watched["loss"]), state.broken_step, state.step),
    )


Found = tuple[Float[Array, ""], dict[str, Float[Array, ""]]]
"""A loss summed over tokens, and what is counted besides."""


def loss_of_share(
    setup: Setup,
    state: TrainState,
    seed: Int[Array, ""] | None,
    look: Look | None,
    params: optax.Params,
    device: Int[Array, ""],
) -> Found:
    """Computes the loss of the share of a batch that a device has: examples and dropout depend on its number alone.

    Where sequences are split, there is one share, whose arrays XLA splits.
    """
    shown: Look = (lambda kind, arrays: None) if look is None else look
    share = setup.config.training.batch_size // (1 if setup.splits_sequence else setup.mesh.size)
    indices = device * share + jnp.arange(share)
    batch = setup.training_batch(jax.random.fold_in(setup.rng("training", seed), state.step), indices)
    dropout_rng = jax.random.fold_in(jax.random.fold_in(setup.rng("dropout", seed), state.step), device)
    options: dict[str, Any] = {"deterministic": False, "rngs": {"dropout": dropout_rng}}
    shown("the input", batch.inputs)
    shown("the parameter", state.params)
    if look is None:
        logits = setup.apply(params, batch, **options)
    else:
        watched = {"capture_intermediates": True, "mutable": ["intermediates"]}
        logits, kept = setup.apply(params, batch, **options, **watched)
        look("the output of layer", kept["intermediates"])
    correct = is_correct(logits, batch)
    loss = jnp.sum(cross_entropy(logits, batch))
    chex.assert_rank(loss, 0)
    shown("the loss", loss)
    return loss, {
        "loss": loss,
        "right_tokens": jnp.sum(correct & batch.scored, dtype=jnp.float32),
        "right_sequences": jnp.sum(jnp.all(correct, axis=-1), dtype=jnp.float32),
        "tokens": jnp.sum(batch.scored, dtype=jnp.float32),
    }


def _gradients(setup: Setup, state: TrainState, seed: Int[Array, ""] | None, look: Look | None) -> tuple[Any, Any]:
    """Returns gradients and counts, summed over the shares of all devices."""
    of_share = functools.partial(loss_of_share, setup, state, seed, look)
    if setup.splits_sequence:
        return jax.grad(of_share, has_aux=True)(state.params, jnp.int32(0))
    if not setup.splits_parameters:
        shares = jax.grad(of_share, has_aux=True)(state.params, lax.axis_index("data"))
        return sum_over_devices(setup.mesh, shares)

    def of_all(params: optax.Params) -> Found:
        numbers = lax.with_sharding_constraint(
            jnp.arange(setup.mesh.size), NamedSharding(setup.mesh, PartitionSpec("data"))
        )
        each = jax.vmap(of_share, (None, 0), spmd_axis_name="data")(params, numbers)
        return jax.tree.map(lambda x: jnp.sum(x, axis=0), each)

    return jax.grad(of_all, has_aux=True)(state.params)


def mark_broken(setup: Setup, state: TrainState) -> TrainState:
    """Marks a state whose parameters or optimizer state are not finite, which only the next loss would show.

    What an optimizer begins with, such as the best loss so far, need not be finite.
    """
    beginning = jax.tree.map(jnp.zeros_like, state.params)
    beginning = beginning, setup.optimizer.init(beginning)
    broken = jax.tree.map(
        lambda now, then: jnp.any(~jnp.isfinite(now) & jnp.isfinite(then)),
        (state.params, state.opt_state),
        beginning,
    )
    unseen = jnp.any(jnp.stack(jax.tree.leaves(broken))) & (state.broken_step < 0)
    return dataclasses.replace(state, broken_step=jnp.where(unseen, state.step, state.broken_step))


def sum_over_devices(mesh: Mesh, shares: Any) -> Any:
    """Adds up a pytree of float32 arrays over all devices, as one vector: each sum is an all-reduce."""
    if mesh.size == 1:
        return shares
    vector, split = ravel_pytree(shares)
    return split(lax.psum(vector, "data"))


def make_train_chunk(setup: Setup) -> TrainChunk:
    """Compiles "train until this step" as one loop on the devices; it ends early at a loss that is not finite."""
    step = setup.each(lambda state, seed: train_step(setup, state, seed))

    def steps(state: TrainState, until: Int[Array, ""]) -> TrainState:
        state = lax.while_loop(
            lambda state: jnp.all((state.step < until) & (state.broken_step < 0)),
            lambda state: _in_place(setup, step(state, setup.seeds)),
            state,
        )
        return _in_place(setup, setup.each(lambda state: mark_broken(setup, state))(state))

    # chex counts by name, and every run of a process has a loop of its own.
    steps.__name__ = f"steps_{next(_numbers)}"
    traced_once = chex.assert_max_traces(steps, n=1)

    def train_chunk(state: TrainState, until: Int[Array, ""]) -> TrainState:
        return on_each_device(setup, traced_once)(state, until)

    return jax.jit(train_chunk, donate_argnums=0)


def on_each_device(setup: Setup, function: Callable[..., Any]) -> Callable[..., Any]:
    """Maps a function over the devices of a run, each of which holds all of its arguments and of its result.

    Where parameters or sequences are split, the function is left as it is, for XLA to split.
    """
    if setup.splits_parameters or setup.splits_sequence:
        return function
    everywhere = PartitionSpec()
    return jax.shard_map(function, mesh=setup.mesh, in_specs=everywhere, out_specs=everywhere, check_vma=False)


def _in_place(setup: Setup, state: TrainState) -> TrainState:
    """Keeps each array of a state split as it is at the beginning."""
    if not setup.splits_parameters and not setup.splits_sequence:
        return state
    return lax.with_sharding_constraint(state, shardings(setup.mesh, state, setup.splits_parameters))


def check_finite(state: TrainState, seeds: Int[Any, "*R"], kept: Callable[[], str]) -> None:
    """Raises `TrainingFailed` if the loss or the state of a seed was not finite; `kept` says what there is to keep."""
    broken_steps = np.ravel(jax.device_get(state.broken_step))
    if np.all(broken_steps < 0):
        return
    which = int(np.argmax(broken_steps))
    of_seed = f" of seed {np.ravel(seeds)[which]}" if len(broken_steps) > 1 else ""
    after_update = broken_steps[which] == np.ravel(jax.device_get(state.step))[which]
    what = f"the state of training{of_seed}" if after_update else f"the loss{of_seed}"
    raise TrainingFailed(
        f"{what} is not finite at step {broken_steps[which]}; {kept()}; "
        "a lower training.learning_rate or training.clip_norm may help"
    )
