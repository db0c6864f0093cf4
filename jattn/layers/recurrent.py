"""What recurrent models compute around their cells: states passed along a sequence, their scores.

Glossary of shapes: ``T`` items read, ``D`` width, ``V`` numbers in all states together, ``N`` heads, ``H`` head dim.
"""

from collections.abc import Callable, Iterable
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float, Int

from jattn.rules import scores

CELLS: dict[str, Callable[..., nn.RNNCellBase]] = {"gru": nn.GRUCell, "lstm": nn.OptimizedLSTMCell}
"""The recurrent cells by name."""


def additive_score(vector: Float[Array, "H N"]) -> scores.Score:
    """Makes the additive score of queries and keys that are projected already: ``vᵀ tanh(query + key)``."""
    unit = jnp.eye(vector.shape[0])
    return scores.additive(unit, unit, vector.T)


def first_states(cells: Iterable[nn.RNNCellBase], x: Float[Array, "*batch T D"]) -> list[Any]:
    """Makes the states, all zero, in which the cells of a stack begin."""
    return [cell.initialize_carry(jax.random.key(0), (*x.shape[:-2], x.shape[-1])) for cell in cells]


def as_vector(states: list[Any]) -> Float[Array, "*batch V"]:
    """Joins the states of a stack."""
    return jnp.concatenate(jax.tree.leaves(states), axis=-1)


def as_states(vector: Float[Array, "*batch V"], like: list[Any]) -> list[Any]:
    """Parts a vector into states like others; it undoes `as_vector`."""
    leaves, structure = jax.tree.flatten(like)
    return jax.tree.unflatten(structure, jnp.split(vector, len(leaves), axis=-1))


def read_through(
    stack: Iterable[Callable[..., Any]],
    states: list[Any],
    x: Float[Array, "*batch T D"],
    lengths: Int[Array, "*batch"] | None,
    drop: Callable[[Array], Array],
) -> tuple[Float[Array, "*batch T D"], list[Any]]:
    """Passes vectors through a stack of cells; returns what the last one said, and the states they end in.

    A sequence that is over stays in its last state.

    Args:
      stack: each called as `flax.linen.RNN` is.
      states: in which the cells begin.
      x: what is read.
      lengths: how many items of each batch entry are real.
      drop: dropout of what goes into a cell, and of what the last one says.
    """
    batch, ends = x.shape[:-2], []
    # nn.RNN knows lengths of one batch axis alone.
    x = drop(x).reshape(-1, *x.shape[-2:])
    lengths = None if lengths is None else jnp.broadcast_to(jnp.asarray(lengths), batch).reshape(-1)
    for rnn, state in zip(stack, states, strict=True):
        first = jax.tree.map(lambda part: part.reshape(-1, part.shape[-1]), state)
        end, said = rnn(x, initial_carry=first, seq_lengths=lengths, return_carry=True)
        if lengths is not None:
            # Of nothing to read, nn.RNN takes the state at the end of the padding.
            end = jax.tree.map(lambda last, first: jnp.where(lengths[:, None] > 0, last, first), end, first)
        x = drop(said.astype(x.dtype))
        ends.append(jax.tree.map(lambda part: part.reshape(*batch, -1), end))
    return x.reshape(*batch, *x.shape[-2:]), ends
