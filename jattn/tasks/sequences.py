"""What a sequence task yields: a source, a target, and where in the source each target token is found.

Glossary of shapes: ``S`` room for the source, ``L`` room for the target; the first `source_length` and `target_length`
places are real. Everything is a pure function of an rng, made on the device.
"""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Int, PRNGKeyArray


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Sequence:
    """One example of a sequence task.

    Attributes:
      source: tokens to read; places beyond `source_length` are meaningless.
      source_length: how many tokens of `source` are real.
      target: tokens to answer with.
      target_length: how many tokens of `target` are real.
      alignment: ``[i, j]`` is True where source token ``j`` holds the answer for target token ``i``; several may.
    """

    source: Int[Array, " S"]
    source_length: Int[Array, ""]
    target: Int[Array, " L"]
    target_length: Int[Array, ""]
    alignment: Bool[Array, "L S"]


@dataclasses.dataclass(frozen=True)
class Task:
    """A toy task with a known answer: what to read, what to say, and where to look.

    Attributes:
      name: its name in the table of tasks.
      symbols: the vocabulary, a text per token.
      sample: makes one `Sequence` from ``(rng, length, room)``: `length` source tokens in arrays of size `room`.
    """

    name: str
    symbols: tuple[str, ...]
    sample: Callable[[PRNGKeyArray, Int[Array, ""], int], Sequence]


def uniform_tokens(rng: PRNGKeyArray, num_symbols: int, room: int) -> Int[Array, " S"]:
    """Draws tokens from ``0 .. num_symbols - 1``, each as likely to within ``num_symbols / 2²³``."""
    return jnp.floor(jax.random.uniform(rng, (room,), jnp.float32) * num_symbols).astype(jnp.int32)
