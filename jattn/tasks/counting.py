"""Counting tasks: answers that depend on how often a token comes, or on how brackets nest."""

from __future__ import annotations

from typing import TYPE_CHECKING

from jattn.tasks.late import jax, jnp
from jattn.tasks.sampling import letters, nth_true, numbers, permutation, pick, uniform_token, uniform_tokens
from jattn.tasks.sequences import Sequence, Task, check_at_least, one_answer

if TYPE_CHECKING:
    from jaxtyping import Array, Bool, Int, PRNGKeyArray

_FROM_THE_LEFT = ("encoder", "causal", "decoder", "encoder_decoder")


def histogram(num_symbols: int = 8, max_count: int = 16) -> Task:
    """Says of each token how often it comes: ``a b a -> 2 1 2``. The oracle is every place of an equal token.

    Args:
      num_symbols: how many different tokens there are.
      max_count: the greatest count, and so the greatest length.

    Example:
      >>> from jattn import tasks
      >>> print(tasks.draw(tasks.histogram(3), length=5))
      c c a b b
      # # . . .  2
      # # . . .  2
      . . # . .  1
      . . . # #  2
      . . . # #  2

    Source: Weiss et al., "Thinking like transformers", 2021, section 5.
    """
    check_at_least("num_symbols", 1, num_symbols)
    check_at_least("max_count", 1, max_count)

    def sample(rng: PRNGKeyArray, length: Int[Array, ""], room: int) -> Sequence:
        real = jnp.arange(room) < length
        source = uniform_tokens(rng, num_symbols, room)
        alignment = (source == source[:, None]) & real & real[:, None]
        counts = jnp.sum(alignment, axis=-1, dtype=jnp.int32)
        return Sequence(source, length, jnp.where(real, num_symbols + counts - 1, 0), length, alignment)

    return Task(
        name="histogram",
        symbols=letters(num_symbols) + numbers(max_count, 1),
        sample=sample,
        longest=max_count,
        length=min(8, max_count),
    )


def most_frequent(num_symbols: int = 8) -> Task:
    """Says the token that comes most often: ``a c b c ? -> c``. The oracle is every place where it stands.

    All tokens but one are any; that one, at a random place, is the most frequent of the others, or one of those. So no
    other token comes as often.

    Example:
      >>> from jattn import tasks
      >>> print(tasks.draw(tasks.most_frequent(3), length=7))
      a a a a a c ?
      # # # # # . .  a

    Source: Weiss et al., "Thinking like transformers", 2021, section 5.
    """
    check_at_least("num_symbols", 2, num_symbols)

    def sample(rng: PRNGKeyArray, length: Int[Array, ""], room: int) -> Sequence:
        source, answer = _with_a_winner(rng, num_symbols, length, room)
        real = jnp.arange(room) < length - 1
        source = jnp.where(real, source, num_symbols)
        return one_answer(source, length, answer, (source == answer) & real)

    return Task(
        name="most_frequent",
        symbols=(*letters(num_symbols), "?"),
        sample=sample,
        shortest=2,
        length=9,
        target_room=lambda room: 1,
        layouts=_FROM_THE_LEFT,
    )


def majority() -> Task:
    """Says which bit comes more often: ``0 1 1 ? -> 1``. Every bit counts, so the oracle is all of them.

    Bits are drawn as the tokens of `most_frequent`: there is never a tie.

    Example:
      >>> from jattn import tasks
      >>> print(tasks.draw(tasks.majority(), length=6))
      0 0 0 0 0 ?
      # # # # # .  0
    """

    def sample(rng: PRNGKeyArray, length: Int[Array, ""], room: int) -> Sequence:
        bits, answer = _with_a_winner(rng, 2, length, room)
        real = jnp.arange(room) < length - 1
        return one_answer(jnp.where(real, bits, 2), length, answer, real)

    return Task(
        name="majority",
        symbols=("0", "1", "?"),
        sample=sample,
        shortest=2,
        length=16,
        target_room=lambda room: 1,
        layouts=_FROM_THE_LEFT,
    )


def parity() -> Task:
    """Says whether the number of ones is even or odd: ``0 1 1 ? -> even``. Every bit counts.

    A change of any bit changes the answer. One layer of attention averages, and can hardly tell one bit in many: the
    longer, the harder. That makes it a test of what is *not* learned.

    Example:
      >>> from jattn import tasks
      >>> print(tasks.draw(tasks.parity(), length=6))
      1 1 0 0 1 ?
      # # # # # .  odd

    Source: Hahn, "Theoretical limitations of self-attention in neural sequence models", 2020.
    """

    def sample(rng: PRNGKeyArray, length: Int[Array, ""], room: int) -> Sequence:
        real = jnp.arange(room) < length - 1
        bits = jnp.where(real, uniform_tokens(rng, 2, room), 2)
        return one_answer(bits, length, 3 + jnp.sum(bits * real, dtype=jnp.int32) % 2, real)

    return Task(
        name="parity",
        symbols=("0", "1", "?", "even", "odd"),
        sample=sample,
        shortest=2,
        length=32,
        target_room=lambda room: 1,
        layouts=_FROM_THE_LEFT,
    )


def _with_a_winner(
    rng: PRNGKeyArray, num_symbols: int, length: Int[Array, ""], room: int
) -> tuple[Int[Array, " S"], Int[Array, ""]]:
    """Draws ``length - 1`` tokens of which one comes most often; returns them and that one."""
    token_rng, rng_of_place, rng_of_ties = jax.random.split(rng, 3)
    index, symbol = jnp.arange(room, dtype=jnp.int32), jnp.arange(num_symbols, dtype=jnp.int32)
    place = uniform_token(rng_of_place, length - 1)
    tokens = uniform_tokens(token_rng, num_symbols, room)
    counted = (index < length - 1) & (index != place)
    counts = jnp.sum((tokens == symbol[:, None]) & counted, axis=-1)
    winner = jnp.argmax(counts + jax.random.uniform(rng_of_ties, (num_symbols,))).astype(jnp.int32)
    return jnp.where(index == place, winner, tokens), winner


def dyck() -> Task:
    """Says with which bracket each ``_`` closes: ``( [ _ _ ( _ -> ] ) )``. The oracle is the bracket that it closes.

    Two kinds of brackets, nested in any way, all ways as likely; the closing ones are hidden, and answers are read
    where they stand.

    Example:
      >>> from jattn import tasks
      >>> print(tasks.draw(tasks.dyck(), length=8))
      ( _ [ ( _ _ ( _
      # . . . . . . .  )
      . . . # . . . .  )
      . . # . . . . .  ]
      . . . . . . # .  )
    """

    def sample(rng: PRNGKeyArray, length: Int[Array, ""], room: int) -> Sequence:
        half, size = length // 2, max(1, room // 2)
        rng_of_shape, rng_of_kinds = jax.random.split(rng)
        opens, closes = _nested(rng_of_shape, half, room)
        kinds = uniform_tokens(rng_of_kinds, 2, room)
        places = nth_true(jnp.any(closes, axis=-1), size)
        real = jnp.arange(size) < half
        opened = jnp.sum(closes * jnp.arange(room), axis=-1, dtype=jnp.int32)
        openers = pick(opened, places)
        alignment = (openers[:, None] == jnp.arange(room)) & real[:, None]
        return Sequence(
            source=jnp.where(opens, kinds, 2),
            source_length=2 * half,
            target=jnp.where(real, 3 + pick(kinds, openers), 0),
            target_length=half,
            alignment=alignment,
            read_at=places,
        )

    return Task(
        name="dyck",
        symbols=("(", "[", "_", ")", "]"),
        sample=sample,
        shortest=2,
        target_room=lambda room: max(1, room // 2),
        fills=lambda length: length % 2 == 0,
        layouts=_FROM_THE_LEFT,
    )


def balanced() -> Task:
    """Says whether brackets are balanced: ``( [ ) ] ? -> no``. The oracle is those that close the wrong kind.

    Of ``n`` brackets half of each kind of pair, nested in any way; in half of the sources, two closing brackets of
    different kinds are exchanged. So the number of each bracket tells nothing. Where all is well the oracle is empty.

    Example:
      >>> from jattn import tasks
      >>> print(tasks.draw(tasks.balanced(), length=9))
      ( ) [ [ ] ] ( ) ?
      . . . . . . . . .  yes
    """

    def sample(rng: PRNGKeyArray, length: Int[Array, ""], room: int) -> Sequence:
        half = (length - 1) // 2
        rng_of_shape, rng_of_kinds, rng_of_fault = jax.random.split(rng, 3)
        index = jnp.arange(room, dtype=jnp.int32)
        opens, closes = _nested(rng_of_shape, half, room)
        order = permutation(rng_of_kinds, room, half)
        number = jnp.cumsum(opens, dtype=jnp.int32) - 1
        kinds = pick(order, number) % 2
        closed = pick(kinds, jnp.sum(closes * index, axis=-1, dtype=jnp.int32))
        faulty = jax.random.bernoulli(rng_of_fault)
        # The openers that come to 0 and 1 are of different kinds; the brackets that close them are exchanged.
        swapped = jnp.any(closes & (opens & (pick(order, number) < 2)), axis=-1) & faulty
        tokens = jnp.where(opens, kinds, 2 + jnp.where(swapped, 1 - closed, closed))
        source = jnp.where(index < 2 * half, tokens, 4)
        return one_answer(source, 2 * half + 1, 5 + faulty.astype(jnp.int32), swapped)

    return Task(
        name="balanced",
        symbols=("(", "[", ")", "]", "?", "yes", "no"),
        sample=sample,
        shortest=5,
        length=9,
        target_room=lambda room: 1,
        fills=lambda length: length % 2 == 1,
        layouts=_FROM_THE_LEFT,
    )


def _nested(rng: PRNGKeyArray, half: Int[Array, ""], room: int) -> tuple[Bool[Array, " S"], Bool[Array, "S S"]]:
    """Draws a nesting of `half` pairs of brackets, all as likely: which places open, and which one each place closes.

    Any arrangement of ``half`` ups and ``half + 1`` downs, begun after its first lowest point, never goes below where
    it began until its very last step down; each nesting comes of ``2 half + 1`` arrangements (the cycle lemma).
    """
    index, size = jnp.arange(room + 1, dtype=jnp.int32), 2 * half + 1
    ups = permutation(rng, room + 1, size) < half
    heights = jnp.cumsum(jnp.where(index < size, jnp.where(ups, 1, -1), 0))
    begin = jnp.argmin(jnp.where(index < size, heights, room + 1)) + 1
    real = index[:-1] < 2 * half
    opens = (pick(ups.astype(jnp.int32), (index[:-1] + begin) % size) > 0) & real
    depth = jnp.cumsum(jnp.where(opens, 1, -1)) + ~opens
    # A bracket closes the last one before it that opened at its depth.
    before = opens & (depth == depth[:, None]) & (index[:-1] < index[:-1, None]) & (real & ~opens)[:, None]
    last = jnp.max(jnp.where(before, index[:-1], -1), axis=-1)
    return opens, before & (last[:, None] == index[:-1])
