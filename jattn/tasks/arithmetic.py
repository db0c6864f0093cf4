"""Arithmetic tasks: answers that no single token holds."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int, PRNGKeyArray

from jattn.tasks.sampling import numbers, pick, uniform_tokens
from jattn.tasks.sequences import Sequence, Task, check_at_least, one_answer


def addition(base: int = 10) -> Task:
    """Adds two numbers whose digits run from the lowest to the highest: ``7 2 + 5 1 -> 2 4 0``, for 27 + 15 = 042.

    A source of ``2 n + 1`` holds ``n`` digits of each; the sum has one more. Answer ``i`` is read at place ``i``: at
    the digits of the first number and at ``+``. The oracle of a digit is what decides it: both digits of its column and
    of the one below, and of each below that as long as the digits between add up to ``base - 1``, which hand a carry
    on.

    Args:
      base: how many different digits there are.

    Example:
      >>> from jattn import tasks
      >>> print(tasks.draw(tasks.addition(), length=7))
      8 1 2 + 0 0 5
      # . . . # . .  8
      # # . . # # .  1
      . # # . . # #  7
      . . # . . . #  0

    Published generators often let both numbers differ in length, and end the answer with a token of its own.
    """
    check_at_least("base", 2, base)

    def sample(rng: PRNGKeyArray, length: Int[Array, ""], room: int) -> Sequence:
        digits, size = (length - 1) // 2, max(1, (room - 1) // 2)
        index, column = jnp.arange(room, dtype=jnp.int32), jnp.arange(size + 1, dtype=jnp.int32)
        first, second = (uniform_tokens(each, base, size + 1) for each in jax.random.split(rng))
        sums = jnp.where(column < digits, first + second, 0)
        # A column reaches a higher one if none between stops a carry; stops are counted up to each, itself included.
        stops = jnp.cumsum(sums != base - 1)
        below = jnp.concatenate([stops[:1] * 0, stops[:-1]])
        reaches = (column < column[:, None]) & (below[:, None] == stops)
        carry = jnp.any(reaches & (sums >= base), axis=-1)
        decides = (reaches | (column == column[:, None])) & (column < digits) & (column <= digits)[:, None]
        source = jnp.where(index < digits, pick(first, index), pick(second, index - digits - 1))
        digits_of = (index == column[:, None]) | (index == digits + 1 + column[:, None])
        return Sequence(
            source=jnp.where(index == digits, base, source),
            source_length=2 * digits + 1,
            target=jnp.where(column <= digits, (sums + carry) % base, 0),
            target_length=digits + 1,
            alignment=jnp.any(decides[:, :, None] & digits_of, axis=1),
            read_at=column,
        )

    return Task(
        name="addition",
        symbols=(*numbers(base), "+"),
        sample=sample,
        shortest=3,
        length=7,
        target_room=lambda room: max(1, (room - 1) // 2) + 1,
        fills=lambda length: length % 2 == 1,
    )


def modular_addition(modulus: int = 97) -> Task:
    """Adds two numbers modulo a third: ``95 7 = -> 5`` for the modulus 97. Both numbers decide the answer.

    Args:
      modulus: how many numbers there are.

    Example:
      >>> from jattn import tasks
      >>> print(tasks.draw(tasks.modular_addition()))
      91 94 =
      #  #  .  88

    Source: Power et al., "Grokking", 2022; Nanda et al., "Progress measures for grokking via mechanistic
    interpretability", 2023, with the modulus 113. There training sees a fixed share of all pairs; here every pair may
    come, so nothing is left to grok.
    """
    check_at_least("modulus", 2, modulus)

    def sample(rng: PRNGKeyArray, length: Int[Array, ""], room: int) -> Sequence:
        index = jnp.arange(room, dtype=jnp.int32)
        terms = uniform_tokens(rng, modulus, room)
        answer = (terms[0] + terms[1]) % modulus
        return one_answer(jnp.where(index == 2, modulus, terms), jnp.int32(3), answer, index < 2)

    return Task(
        name="modular_addition",
        symbols=(*numbers(modulus), "="),
        sample=sample,
        shortest=3,
        longest=3,
        length=3,
        target_room=lambda room: 1,
        fills=lambda length: length == 3,
        layouts=("encoder", "causal", "decoder", "encoder_decoder"),
    )
