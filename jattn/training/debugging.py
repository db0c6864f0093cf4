"""`run.debug`: steps that stop at the first array that is not finite, and name it.

The values are asserted inside of the compiled step: by `chex.assert_tree_all_finite`, which `chex.chexify` makes work
there.
"""

import re
from typing import Any

import chex
import jax
import jax.numpy as jnp
from jaxtyping import Array, Int

from jattn.training.setup import Setup
from jattn.training.step import TrainChunk, TrainingFailed, TrainState, on_each_device, train_step


def make_debugged_chunk(setup: Setup) -> TrainChunk:
    """Makes "train until this step" as one compiled step after the other, each with all its arrays looked at.

    Of several arrays that are not finite, the first that the step makes is named: inputs, parameters, what each layer
    returns in the order of the calls, the loss, gradients, updates.
    """

    def step(state: TrainState) -> TrainState:
        one = setup.each(lambda state, seed: train_step(setup, state, seed, assert_finite))
        return one(state, setup.seeds)

    checked = chex.chexify(jax.jit(on_each_device(setup, step)), async_check=False)

    def train_chunk(state: TrainState, until: Int[Array, ""]) -> TrainState:
        while state.number < int(until):
            try:
                state = checked(state)
            except AssertionError as error:
                found = re.search(r"non-finite value: \{'(.*?)':", str(error))
                what = found[1] if found else str(error)
                raise TrainingFailed(f"step {state.number}: {what} is not finite") from None
        return state

    return train_chunk


def assert_finite(kind: str, arrays: Any) -> None:
    """Asserts of each float array of a pytree that it is finite; the message names it."""
    for path, array in _in_order(arrays):
        if jnp.issubdtype(jnp.result_type(array), jnp.floating):
            chex.assert_tree_all_finite({f"{kind} {path}".strip(): array})


def _in_order(arrays: Any, path: str = "") -> list[tuple[str, Any]]:
    """Lists arrays with their paths, in the order in which they were put into dicts, which that of a pytree is not."""
    if isinstance(arrays, dict):
        found = []
        for name, part in arrays.items():
            found += _in_order(part, path if name == "__call__" else f"{path}/{name}".strip("/"))
        return found
    return [(path, leaf) for leaf in jax.tree.leaves(arrays)]
