"""Aligned tasks: every target token is one source token, found at a place that only the task knows.

In each, ``target[i] = source[place(i, length)]``, so the oracle of answer ``i`` is the one key ``place(i, length)``.
"""

from collections.abc import Callable

import jax.numpy as jnp
from jaxtyping import Array, Int, PRNGKeyArray

from jattn.tasks.sequences import Sequence, Task, uniform_tokens

Place = Callable[[Int[Array, " L"], Int[Array, ""]], Int[Array, " L"]]


def copy(num_symbols: int) -> Task:
    """Says the source again: ``3 1 2 -> 3 1 2``. The oracle is the diagonal, ``place(i, n) = i``."""
    return _aligned("copy", num_symbols, lambda index, length: index)


def reverse(num_symbols: int) -> Task:
    """Says the source backwards: ``3 1 2 -> 2 1 3``. The oracle is the anti-diagonal, ``place(i, n) = n - 1 - i``."""
    return _aligned("reverse", num_symbols, lambda index, length: length - 1 - index)


def _aligned(name: str, num_symbols: int, place: Place) -> Task:
    if num_symbols < 1:
        raise ValueError(f"num_symbols: expected at least 1, got {num_symbols}")

    def sample(rng: PRNGKeyArray, length: Int[Array, ""], room: int) -> Sequence:
        index = jnp.arange(room, dtype=jnp.int32)
        real = index < length
        places = jnp.where(real, place(index, length), 0)
        alignment = (places[:, None] == index) & real[:, None]
        source = uniform_tokens(rng, num_symbols, room)
        target = jnp.sum(alignment * source, axis=-1, dtype=jnp.int32)
        return Sequence(source=source, source_length=length, target=target, target_length=length, alignment=alignment)

    return Task(name=name, symbols=tuple(str(symbol) for symbol in range(num_symbols)), sample=sample)
