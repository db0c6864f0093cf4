"""Aligned tasks: every target token is one source token, found at a place that only the task knows.

In most, ``target[i] = source[place(i, length)]``, so the oracle of answer ``i`` is the one key ``place(i, length)``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from jattn.tasks.late import jax, jnp
from jattn.tasks.sampling import (
    distinct,
    letters,
    nth_true,
    numbers,
    permutation,
    pick,
    put,
    uniform_token,
    uniform_tokens,
)
from jattn.tasks.sequences import Sequence, Task, check_at_least, check_generator, one_answer

if TYPE_CHECKING:
    from jaxtyping import Array, Int, PRNGKeyArray

    Place = Callable[[Int[Array, " L"], Int[Array, ""]], Int[Array, " L"]]


def copy(num_symbols: int = 10) -> Task:
    """Says the source again: ``3 1 2 -> 3 1 2``. The oracle is the diagonal, ``place(i, n) = i``.

    Example: the source, and below it a line per answer, with ``#`` where the answer is found.
      >>> from jattn import tasks
      >>> print(tasks.draw(tasks.copy(), length=4))
      9 9 3 4
      # . . .  9
      . # . .  9
      . . # .  3
      . . . #  4
    """
    return _placed("copy", num_symbols, lambda index, length: index)


def reverse(num_symbols: int = 10) -> Task:
    """Says the source backwards: ``3 1 2 -> 2 1 3``. The oracle is the anti-diagonal, ``place(i, n) = n - 1 - i``.

    Example:
      >>> from jattn import tasks
      >>> print(tasks.draw(tasks.reverse(), length=4))
      9 9 3 4
      . . . #  4
      . . # .  3
      . # . .  9
      # . . .  9
    """
    return _placed("reverse", num_symbols, lambda index, length: length - 1 - index)


def shift(num_symbols: int = 10, by: int = 1) -> Task:
    """Moves every token to the right, round the end: ``3 1 2 -> 2 3 1``; ``place(i, n) = (i - by) mod n``.

    Args:
      num_symbols: how many different tokens there are.
      by: how many places each moves; to the left where negative.

    Example:
      >>> from jattn import tasks
      >>> print(tasks.draw(tasks.shift(by=2), length=5))
      9 9 3 4 5
      . . . # .  4
      . . . . #  5
      # . . . .  9
      . # . . .  9
      . . # . .  3
    """
    return _placed("shift", num_symbols, lambda index, length: (index - by) % length)


def odds_first(num_symbols: int = 10, generator: str = "jattn") -> Task:
    """Says the first, third, fifth ... token, then the others: ``4 1 5 2 6 -> 4 5 6 1 2``.

    With ``h = ⌈n / 2⌉``, ``place(i, n)`` is ``2 i`` where ``i < h``, and ``2 (i - h) + 1`` from there on.

    Args:
      num_symbols: how many different tokens there are.
      generator: ``"chomsky"`` says the other half first, as the published code does: ``4 1 5 2 6 -> 1 2 4 5 6``.

    Example:
      >>> from jattn import tasks
      >>> print(tasks.draw(tasks.odds_first(), length=5))
      9 9 3 4 5
      # . . . .  9
      . . # . .  3
      . . . . #  5
      . # . . .  9
      . . . # .  4

    Source: Delétang et al., "Neural networks and the Chomsky hierarchy", 2022, whose code says the other half first.
    """
    check_generator(generator, "chomsky")
    first = 0 if generator == "jattn" else 1

    def place(index: Int[Array, " L"], length: Int[Array, ""]) -> Int[Array, " L"]:
        half = (length + 1 - first) // 2
        return jnp.where(index < half, 2 * index + first, 2 * (index - half) + 1 - first)

    return _placed("odds_first", num_symbols, place)


def _placed(name: str, num_symbols: int, place: Place) -> Task:
    check_at_least("num_symbols", 1, num_symbols)

    def sample(rng: PRNGKeyArray, length: Int[Array, ""], room: int) -> Sequence:
        index = jnp.arange(room, dtype=jnp.int32)
        real = index < length
        places = jnp.where(real, place(index, length), 0)
        alignment = (places[:, None] == index) & real[:, None]
        source = uniform_tokens(rng, num_symbols, room)
        target = jnp.sum(alignment * source, axis=-1, dtype=jnp.int32)
        return Sequence(source=source, source_length=length, target=target, target_length=length, alignment=alignment)

    return Task(name=name, symbols=numbers(num_symbols), sample=sample)


def sort(num_symbols: int = 10) -> Task:
    """Says the source in rising order: ``3 1 2 1 -> 1 1 2 3``.

    Token ``s[j]`` holds answer ``i`` where ``|{k : s[k] < s[j]}| <= i < |{k : s[k] <= s[j]}|``: equal tokens hold the
    same answers, so the oracle of each is the set of all of them.

    Example:
      >>> from jattn import tasks
      >>> print(tasks.draw(tasks.sort(4), length=5))
      3 3 1 1 2
      . . # # .  1
      . . # # .  1
      . . . . #  2
      # # . . .  3
      # # . . .  3
    """
    check_at_least("num_symbols", 1, num_symbols)

    def sample(rng: PRNGKeyArray, length: Int[Array, ""], room: int) -> Sequence:
        index = jnp.arange(room, dtype=jnp.int32)
        real = index < length
        source = uniform_tokens(rng, num_symbols, room)
        first = jnp.sum((source < source[:, None]) & real, axis=-1)
        last = jnp.sum((source <= source[:, None]) & real, axis=-1)
        alignment = (first <= index[:, None]) & (index[:, None] < last) & real & real[:, None]
        target = jnp.max(jnp.where(alignment, source, 0), axis=-1)
        return Sequence(source, length, target, length, alignment)

    return Task(name="sort", symbols=numbers(num_symbols), sample=sample)


def permute(num_symbols: int = 10, num_places: int = 32) -> Task:
    """Says the tokens in an order that the source tells: ``c a b 2 0 1 -> b c a``.

    A source of ``2 n`` holds ``n`` tokens and then an arrangement ``p`` of ``0 .. n - 1``;
    ``target[i] = source[p[i]]``, read where ``p[i]`` stands. Of an odd length the last place stays unused.

    Args:
      num_symbols: how many different tokens there are.
      num_places: how many there are to arrange at most.

    Example:
      >>> from jattn import tasks
      >>> print(tasks.draw(tasks.permute(), length=6, seed=3))
      a a d 0 2 1
      # . . . . .  a
      . . # . . .  d
      . # . . . .  a
    """
    check_at_least("num_symbols", 1, num_symbols)
    check_at_least("num_places", 1, num_places)

    def sample(rng: PRNGKeyArray, length: Int[Array, ""], room: int) -> Sequence:
        half, size = length // 2, max(1, room // 2)
        token_rng, rng_of_order = jax.random.split(rng)
        index, answer = jnp.arange(room, dtype=jnp.int32), jnp.arange(size, dtype=jnp.int32)
        order = permutation(rng_of_order, size, half)
        source = uniform_tokens(token_rng, num_symbols, room)
        source = jnp.where(index < half, source, num_symbols + pick(order, index - half))
        alignment = (order[:, None] == index) & (answer < half)[:, None]
        return Sequence(source, 2 * half, pick(source, order), half, alignment, half + answer)

    return Task(
        name="permute",
        symbols=letters(num_symbols) + numbers(num_places),
        sample=sample,
        shortest=2,
        longest=2 * num_places + 1,
        target_room=lambda room: max(1, room // 2),
        fills=lambda length: length % 2 == 0,
    )


def selective_copy(num_symbols: int = 10, items: int = 4, generator: str = "jattn") -> Task:
    """Says the tokens that stand among blanks, in order: ``. 3 . . 1 > > -> 3 1``.

    The last `items` places ask: the i-th ``>`` for the i-th token. The places of the tokens are any others, all choices
    as likely.

    Args:
      num_symbols: how many different tokens there are.
      items: how many tokens stand in each source.
      generator: ``"mad"`` puts each blank before one of the tokens, all alike, so that the last token is never followed
        by one, and then a single ``>`` and `items` blanks, where the answers are read: ``. 3 . . 1 > . . -> 3 1``.

    Example:
      >>> from jattn import tasks
      >>> print(tasks.draw(tasks.selective_copy(items=2), length=8, seed=3))
      0 . . 0 . . > >
      # . . . . . . .  0
      . . . # . . . .  0

    Source: Gu and Dao, "Mamba", 2023, section 3.1; drawn as in the authors' code for S4. In that of Poli et al.,
    "Mechanistic design and scaling of hybrid architectures", 2024, there is one copy token, and the last item is
    always last.
    """
    check_at_least("num_symbols", 1, num_symbols)
    check_at_least("items", 1, items)
    check_generator(generator, "mad")
    blank, asked = num_symbols, num_symbols + 1
    shortest = 2 * items if generator == "jattn" else 2 * items + 2

    def draw_places(rng: PRNGKeyArray, length: Int[Array, ""], room: int) -> Int[Array, " items"]:
        if generator == "jattn":
            places = distinct(rng, length - items, items)
            return nth_true(jnp.any(places[:, None] == jnp.arange(room), axis=0), items)
        item, blanks = jnp.arange(items, dtype=jnp.int32), length - 2 * items - 1
        before = jnp.where(jnp.arange(room) < blanks, uniform_tokens(rng, items, room), items)
        return item + jnp.sum(before <= item[:, None], axis=-1, dtype=jnp.int32)

    def sample(rng: PRNGKeyArray, length: Int[Array, ""], room: int) -> Sequence:
        token_rng, rng_of_places = jax.random.split(rng)
        index, count = jnp.arange(room, dtype=jnp.int32), jnp.int32(items)
        places = draw_places(rng_of_places, length, room)
        target = uniform_tokens(token_rng, num_symbols, items)
        asks = index >= length - items if generator == "jattn" else index == length - items - 1
        source = put(places, target, jnp.where(asks, asked, blank))
        read_at = length - items + jnp.arange(items, dtype=jnp.int32)
        return Sequence(source, length, target, count, places[:, None] == index, read_at)

    return Task(
        name="selective_copy",
        symbols=(*numbers(num_symbols), ".", ">"),
        sample=sample,
        shortest=shortest,
        length=max(16, shortest),
        target_room=lambda room: items,
        layouts=("encoder", "causal", "decoder", "encoder_decoder"),
    )


def needle(num_symbols: int = 10, num_hay: int = 26) -> Task:
    """Finds the only number in a heap of letters: ``c a 7 b ? -> 7``, as deep in the heap as anywhere else.

    Args:
      num_symbols: how many different numbers there are.
      num_hay: how many different letters.

    Example:
      >>> from jattn import tasks
      >>> print(tasks.draw(tasks.needle(), length=7))
      v e f d e 0 ?
      . . . . . # .  0
    """
    check_at_least("num_symbols", 1, num_symbols)
    check_at_least("num_hay", 1, num_hay)

    def sample(rng: PRNGKeyArray, length: Int[Array, ""], room: int) -> Sequence:
        rng_of_hay, rng_of_answer, rng_of_depth = jax.random.split(rng, 3)
        index = jnp.arange(room, dtype=jnp.int32)
        answer, depth = uniform_token(rng_of_answer, num_symbols), uniform_token(rng_of_depth, length - 1)
        hay = num_symbols + uniform_tokens(rng_of_hay, num_hay, room)
        source = jnp.where(index == depth, answer, jnp.where(index == length - 1, num_symbols + num_hay, hay))
        return one_answer(source, length, answer, index == depth)

    return Task(
        name="needle",
        symbols=(*numbers(num_symbols), *letters(num_hay), "?"),
        sample=sample,
        shortest=2,
        length=64,
        target_room=lambda room: 1,
        layouts=("encoder", "causal", "decoder", "encoder_decoder"),
    )
