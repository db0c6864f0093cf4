"""Arithmetic tasks: answers that no single token holds."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from jattn.tasks.late import jax, jnp
from jattn.tasks.sampling import numbers, pick, uniform_token, uniform_tokens
from jattn.tasks.sequences import Sequence, Task, check_at_least, check_generator, one_answer

if TYPE_CHECKING:
    from jaxtyping import Array, Int, PRNGKeyArray

_MOST_SPLIT = 1000
"""The greatest modulus whose pairs are split: they are all written into the program."""


def addition(base: int = 10, generator: str = "jattn") -> Task:
    """Adds two numbers whose digits run from the lowest to the highest: ``7 2 + 5 1 -> 2 4 0``, for 27 + 15 = 042.

    A source of ``2 n + 1`` holds ``n`` digits of each; the sum has one more. Answer ``i`` is read at place ``i``: at
    the digits of the first number and at ``+``. The oracle of a digit is what decides it: both digits of its column and
    of the one below, and of each below that as long as the digits between add up to ``base - 1``, which hand a carry
    on.

    Args:
      base: how many different digits there are.
      generator: ``"chomsky"`` splits a source at any place into two numbers from 1 on, and ends the sum, which has no
        zeros behind its highest digit, with a token of its own: ``7 2 + 5 -> 2 3 .``; that one is found nowhere.

    Example:
      >>> from jattn import tasks
      >>> print(tasks.draw(tasks.addition(), length=7))
      8 1 2 + 0 0 5
      # . . . # . .  8
      # # . . # # .  1
      . # # . . # #  7
      . . # . . . #  0

    Published generators often let both numbers differ in length, and end the answer with a token of its own, such as
    that of Delétang et al., "Neural networks and the Chomsky hierarchy", 2022, with the base 2; its loss also counts
    the zeros that it writes behind that token.
    """
    check_at_least("base", 2, base)
    check_generator(generator, "chomsky")
    if generator == "chomsky":
        return _addition_of_any_lengths(base)

    def sample(rng: PRNGKeyArray, length: Int[Array, ""], room: int) -> Sequence:
        digits, size = (length - 1) // 2, max(1, (room - 1) // 2) + 1
        first, second = (uniform_tokens(each, base, size) for each in jax.random.split(rng))
        return _added((first, second), (digits, digits), base, room)

    return Task(
        name="addition",
        symbols=(*numbers(base), "+"),
        sample=sample,
        shortest=3,
        length=7,
        target_room=lambda room: max(1, (room - 1) // 2) + 1,
        fills=lambda length: length % 2 == 1,
    )


def _addition_of_any_lengths(base: int) -> Task:
    """Makes `addition` as the code of Delétang et al. draws it."""

    def sample(rng: PRNGKeyArray, length: Int[Array, ""], room: int) -> Sequence:
        rng_of_split, *rngs = jax.random.split(rng, 3)
        size = 1 + uniform_token(rng_of_split, length - 2)
        sizes = size, length - 1 - size
        first, second = (_positive(each, base, size, room) for each, size in zip(rngs, sizes, strict=True))
        made = _added((first, second), sizes, base, room)
        column = jnp.arange(room, dtype=jnp.int32)
        digits = 1 + jnp.max(jnp.where(made.target > 0, column, 0))
        return made._replace(
            target=jnp.where(column == digits, base + 1, made.target),
            target_length=digits + 1,
            alignment=made.alignment & (column < digits)[:, None],
        )

    return Task(
        name="addition",
        symbols=(*numbers(base), "+", "."),
        sample=sample,
        shortest=3,
        length=7,
        fills=lambda length: False,
    )


def _positive(rng: PRNGKeyArray, base: int, digits: Int[Array, ""], room: int) -> Int[Array, " room"]:
    """Draws a number of so many digits, the highest of which may be zero, but not all: each of those as likely."""
    rng_of_top, rng_of_highest, token_rng = jax.random.split(rng, 3)
    column = jnp.arange(room, dtype=jnp.int32)
    # So many numbers have their highest digit in a column as that many digits below it can be: base to that power.
    logits = jnp.where(column < digits, (column - digits).astype(jnp.float32) * math.log(base), -jnp.inf)
    top = jax.random.categorical(rng_of_top, logits).astype(jnp.int32)
    highest = 1 + uniform_token(rng_of_highest, base - 1)
    return jnp.where(column < top, uniform_tokens(token_rng, base, room), jnp.where(column == top, highest, 0))


def _added(
    numbers: tuple[Int[Array, " C"], Int[Array, " C"]],
    sizes: tuple[Int[Array, ""], Int[Array, ""]],
    base: int,
    room: int,
) -> Sequence:
    """Adds two numbers, given by their digits from the lowest on, and how many of them are real."""
    (first, second), (first_size, second_size) = numbers, sizes
    index, column = jnp.arange(room, dtype=jnp.int32), jnp.arange(first.shape[0], dtype=jnp.int32)
    digits = jnp.maximum(first_size, second_size)
    sums = jnp.where(column < first_size, first, 0) + jnp.where(column < second_size, second, 0)
    # A column reaches a higher one if none between stops a carry; stops are counted up to each, itself included.
    stops = jnp.cumsum(sums != base - 1)
    below = jnp.concatenate([stops[:1] * 0, stops[:-1]])
    reaches = (column < column[:, None]) & (below[:, None] == stops)
    carry = jnp.any(reaches & (sums >= base), axis=-1)
    decides = (reaches | (column == column[:, None])) & (column < digits) & (column <= digits)[:, None]
    source = jnp.where(index < first_size, pick(first, index), pick(second, index - first_size - 1))
    of_first = (index == column[:, None]) & (column < first_size)[:, None]
    of_second = (index == first_size + 1 + column[:, None]) & (column < second_size)[:, None]
    return Sequence(
        source=jnp.where(index == first_size, base, source),
        source_length=first_size + 1 + second_size,
        target=jnp.where(column <= digits, (sums + carry) % base, 0),
        target_length=digits + 1,
        alignment=jnp.any(decides[:, :, None] & (of_first | of_second), axis=1),
        read_at=column,
    )


def modular_addition(modulus: int = 97, train_share: float = 1.0, split_seed: int = 0) -> Task:
    """Adds two numbers modulo a third: ``95 7 = -> 5`` for the modulus 97. Both numbers decide the answer.

    Of the pairs of numbers, ``m²`` for the modulus ``m``, the first ``round(train_share m²)`` in an order that
    `split_seed` shuffles are for training, and the others for evaluation and test, where a model that groks is right
    long after it is right in training. With a share of 1 every pair may come in all of them.

    Args:
      modulus: how many numbers there are.
      train_share: the share of all pairs that training draws from.
      split_seed: decides which pairs those are; it is no seed of a run, so that all runs may have the same.

    Example:
      >>> from jattn import tasks
      >>> print(tasks.draw(tasks.modular_addition()))
      91 94 =
      #  #  .  88

    Source: Power et al., "Grokking", 2022; Nanda et al., "Progress measures for grokking via mechanistic
    interpretability", 2023, with the modulus 113 and a share of 0.3. There training goes through all of its pairs in
    turn; here it draws from them.
    """
    check_at_least("modulus", 2, modulus)
    split = _split(modulus, train_share, split_seed)

    def sampler(pairs: Int[np.ndarray, " N"] | None) -> Callable[..., Sequence]:
        def sample(rng: PRNGKeyArray, length: Int[Array, ""], room: int) -> Sequence:
            index = jnp.arange(room, dtype=jnp.int32)
            if pairs is None:
                terms = uniform_tokens(rng, modulus, room)
            else:
                drawn = jnp.asarray(pairs)[jax.random.randint(rng, (), 0, len(pairs), jnp.int32)]
                terms = jnp.where(index == 0, drawn // modulus, drawn % modulus)
            answer = (terms[0] + terms[1]) % modulus
            return one_answer(jnp.where(index == 2, modulus, terms), jnp.int32(3), answer, index < 2)

        return sample

    return Task(
        name="modular_addition",
        symbols=(*numbers(modulus), "="),
        sample=sampler(None if split is None else split[0]),
        judged=None if split is None else sampler(split[1]),
        shortest=3,
        longest=3,
        length=3,
        target_room=lambda room: 1,
        fills=lambda length: length == 3,
        layouts=("encoder", "causal", "decoder", "encoder_decoder"),
    )


def _split(modulus: int, train_share: float, seed: int) -> tuple[Int[np.ndarray, " N"], Int[np.ndarray, " M"]] | None:
    """Returns the pairs to train on and those held out, each pair as ``a m + b``; None where there is no split.

    Raises:
      ValueError: if there is no such share, a seed and no split, no pair on one side of it, or too many pairs.
    """
    if not 0 < train_share <= 1:
        raise ValueError(f"train_share: expected a share above 0, at most 1, got {train_share}")
    if train_share == 1:
        if seed != 0:
            raise ValueError(f"split_seed: expected 0, as with a train_share of 1 all pairs are trained on, got {seed}")
        return None
    pairs = modulus * modulus
    if modulus > _MOST_SPLIT:
        raise ValueError(f"modulus: expected at most {_MOST_SPLIT} with a train_share below 1, got {modulus}")
    if not 0 <= seed < 2**32:
        raise ValueError(f"split_seed: expected a number from 0 to 2**32 - 1, got {seed}")
    count = round(train_share * pairs)
    if not 0 < count < pairs:
        raise ValueError(
            f"train_share: expected 1, or a share with 1 to {pairs - 1} of the {pairs} pairs, "
            f"got {train_share} with {count}"
        )
    # NumPy keeps the draws of this generator the same in every version.
    shuffled = np.random.RandomState(seed).permutation(pairs).astype(np.int32)
    return shuffled[:count], shuffled[count:]
