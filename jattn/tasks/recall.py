"""Recall tasks: the answer stands beside an earlier occurrence of what is asked for."""

from __future__ import annotations

from typing import TYPE_CHECKING

from jattn.tasks.late import jax, jnp, lax
from jattn.tasks.sampling import (
    distinct,
    letters,
    nth_true,
    numbers,
    permutation,
    pick,
    put,
    ranks,
    uniform_token,
    uniform_tokens,
)
from jattn.tasks.sequences import Sequence, Task, check_at_least, check_generator, last_answer, one_answer

if TYPE_CHECKING:
    from jaxtyping import Array, Int, PRNGKeyArray

_FROM_THE_LEFT = ("encoder", "causal", "decoder", "encoder_decoder")


def associative_recall(num_keys: int = 20, num_values: int = 10, generator: str = "jattn") -> Task:
    """Says the value of a key among pairs: ``a 3 c 1 b 4 c -> 1``.

    A source of ``2 n + 1`` holds ``n`` pairs with different keys, and one of the keys again, where the answer is read.
    Values may be alike; the oracle is the value beside the key.

    Args:
      num_keys: how many different keys there are: as many pairs as a source can hold.
      num_values: how many different values.
      generator: ``"safari"`` draws each key from all, so that it may come again, then with the same value; puts ``=>``
        before the key that is asked for, one of those that came, all alike; and trains on every next token, read from
        left to right, but judges the answer alone: ``a 3 c 1 a 3 => a -> 3``.

    Example:
      >>> from jattn import tasks
      >>> print(tasks.draw(tasks.associative_recall(), length=7))
      q 0 d 0 f 5 f
      . . . . . # .  5

    Source: Ba et al., "Using fast weights to attend to the recent past", 2016, section 4.1. Later published
    generators repeat keys, such as that of Fu et al., "Hungry hungry hippos", 2022, table 1.
    """
    check_at_least("num_keys", 1, num_keys)
    check_at_least("num_values", 1, num_values)
    check_generator(generator, "safari")
    if generator == "safari":
        return _recall_with_repeats(num_keys, num_values)

    def sample(rng: PRNGKeyArray, length: Int[Array, ""], room: int) -> Sequence:
        pairs, size = (length - 1) // 2, max(1, (room - 1) // 2)
        rng_of_keys, rng_of_values, rng_of_query = jax.random.split(rng, 3)
        index = jnp.arange(room, dtype=jnp.int32)
        keys = distinct(rng_of_keys, num_keys, size)
        values = num_keys + uniform_tokens(rng_of_values, num_values, size)
        asked = uniform_token(rng_of_query, pairs)
        told = jnp.where(index % 2 == 0, pick(keys, index // 2), pick(values, index // 2))
        source = jnp.where(index == 2 * pairs, pick(keys, asked), told)
        return one_answer(source, 2 * pairs + 1, pick(values, asked), index == 2 * asked + 1)

    return Task(
        name="associative_recall",
        symbols=letters(num_keys) + numbers(num_values),
        sample=sample,
        shortest=3,
        longest=2 * num_keys + 1,
        length=min(9, 2 * num_keys + 1),
        target_room=lambda room: 1,
        fills=lambda length: length % 2 == 1,
        layouts=_FROM_THE_LEFT,
    )


def _recall_with_repeats(num_keys: int, num_values: int) -> Task:
    """Makes `associative_recall` as safari draws it; alignments say of every token which earlier ones hold the next."""

    def sample(rng: PRNGKeyArray, length: Int[Array, ""], room: int) -> Sequence:
        pairs, size = (length - 2) // 2, max(1, (room - 2) // 2)
        rng_of_keys, rng_of_values, rng_of_query = jax.random.split(rng, 3)
        index, slot = jnp.arange(room, dtype=jnp.int32), jnp.arange(size, dtype=jnp.int32)
        keys = uniform_tokens(rng_of_keys, num_keys, size)
        first = jnp.argmax(keys == keys[:, None], axis=-1).astype(jnp.int32)
        values = pick(num_keys + uniform_tokens(rng_of_values, num_values, size), first)
        new = (first == slot) & (slot < pairs)
        asked = pick(nth_true(new, size), uniform_token(rng_of_query, jnp.sum(new, dtype=jnp.int32)))
        key_at = jnp.where(index == 2 * pairs + 1, pick(keys, asked), pick(keys, index // 2))
        told = jnp.where(index % 2 == 0, key_at, pick(values, index // 2))
        source = jnp.select([index < 2 * pairs, index == 2 * pairs], [told, num_keys + num_values], key_at)
        asks = ((index < 2 * pairs) & (index % 2 == 0)) | (index == 2 * pairs + 1)
        holds = (index % 2 == 1) & (index < jnp.minimum(index[:, None], 2 * pairs))
        alignment = holds & asks[:, None] & (pick(keys, index // 2) == key_at[:, None])
        target = jnp.where(index == 2 * pairs + 1, pick(values, asked), jnp.roll(source, -1))
        return Sequence(source, 2 * pairs + 2, target, 2 * pairs + 2, alignment)

    return Task(
        name="associative_recall",
        symbols=(*letters(num_keys), *numbers(num_values), "=>"),
        sample=sample,
        judged=last_answer(sample),
        shortest=4,
        length=10,
        fills=lambda length: length % 2 == 0,
        layouts=("causal",),
    )


def mqar(vocabulary: int = 8192, pairs: int = 4, generator: str = "jattn") -> Task:
    """Says the values of many keys, wherever a key comes again: ``k3 v1 k0 v7 v2 v2 k0 v9 k3 v4 -> v7 v1``.

    A source begins with `pairs` pairs of different keys and values. Of the ``(n - 2 pairs) // 2`` slots of two places
    that follow, `pairs` begin with one of the keys each, where its value is the answer. The sooner a slot comes, the
    likelier it is taken: slot ``s`` with ``p(s) ∝ s^(a - 1)``, ``a = 0.01``, without replacement. Everything else is
    filled with values, so that a key is never there by chance.

    Args:
      vocabulary: how many tokens there are; the lower half are keys, the upper half values.
      pairs: how many pairs, and how many questions.
      generator: ``"zoology"`` fills with any tokens, keys among them, never has ``k0`` in a pair, and refuses a
        vocabulary that is not larger than the sequence.

    Example:
      >>> from jattn import tasks
      >>> print(tasks.draw(tasks.mqar(20, pairs=2), length=10))
      k8 v0 k1 v1 k8 v8 k1 v2 v8 v9
      .  #  .  .  .  .  .  .  .  .   v0
      .  .  .  #  .  .  .  .  .  .   v1

    Source: Arora et al., "Zoology: Measuring and improving recall in efficient language models", 2023, with lengths and
    pairs (64, 4), (128, 8) and (256, 16). There fillers come from both halves of the vocabulary and may equal a key,
    and a vocabulary that is not larger than the sequence is refused.
    """
    check_at_least("pairs", 1, pairs)
    check_generator(generator, "zoology")
    published = generator == "zoology"
    check_at_least("vocabulary", 4 * pairs + 2 if published else 2 * pairs, vocabulary)
    if vocabulary % 2:
        raise ValueError(f"vocabulary: expected an even number, got {vocabulary}; nearest: {vocabulary - 1}")
    half = vocabulary // 2
    first_key, first_filler, longest = (1, 0, min(vocabulary - 2, 4096)) if published else (0, half, 4096)

    def sample(rng: PRNGKeyArray, length: Int[Array, ""], room: int) -> Sequence:
        rng_of_keys, rng_of_values, rng_of_slots, rng_of_filler = jax.random.split(rng, 4)
        index, slots = jnp.arange(room, dtype=jnp.int32), (room - 2 * pairs) // 2
        keys = first_key + distinct(rng_of_keys, half - first_key, pairs)
        values = half + distinct(rng_of_values, half, pairs)
        number = jnp.arange(1, slots + 1, dtype=jnp.int32)
        # The largest of log p + Gumbel noise is a draw from p, the next largest a draw from the others, and so on.
        noisy = (0.01 - 1) * jnp.log(number.astype(jnp.float32)) + jax.random.gumbel(rng_of_slots, (slots,))
        taken = lax.top_k(jnp.where(number <= (length - 2 * pairs) // 2, noisy, -jnp.inf), pairs)[1]
        places = 2 * pairs + 2 * taken.astype(jnp.int32)
        order = jnp.sum(jnp.where(ranks(places) == jnp.arange(pairs)[:, None], jnp.arange(pairs), 0), axis=-1)
        told = jnp.where(index % 2 == 0, pick(keys, index // 2), pick(values, index // 2))
        filler = first_filler + uniform_tokens(rng_of_filler, vocabulary - first_filler, room)
        source = put(places, keys, jnp.where(index < 2 * pairs, told, filler))
        alignment = 2 * order[:, None] + 1 == index
        return Sequence(source, length, pick(values, order), jnp.int32(pairs), alignment, pick(places, order))

    return Task(
        name="mqar",
        symbols=tuple(f"k{i}" for i in range(half)) + tuple(f"v{i}" for i in range(half)),
        sample=sample,
        shortest=4 * pairs,
        longest=longest,
        length=min(max(64, 4 * pairs), longest),
        target_room=lambda room: pairs,
        layouts=_FROM_THE_LEFT,
    )


def induction(num_symbols: int = 20, generator: str = "jattn") -> Task:
    """Says what followed the last token when it came before: ``3 1 4 2 1 -> 4``.

    The last token stands at exactly one earlier place, which is anywhere but just before; the others are any others.

    Args:
      num_symbols: how many different tokens there are.
      generator: ``"safari"`` always asks with a token of its own, which stands anywhere but at the two places before,
        and trains on every next token, read from left to right, but judges the answer alone: ``3 => 4 2 7 => -> 4``.

    Example:
      >>> from jattn import tasks
      >>> print(tasks.draw(tasks.induction(), length=6))
      17 4 5 0 4 0
      .  . . . # .  4

    Source: Olsson et al., "In-context learning and induction heads", 2022; length 30 in Fu et al., "Hungry hungry
    hippos", 2022, table 1, whose generator has one trigger token for all sequences and counts the loss at every place.
    """
    check_at_least("num_symbols", 2, num_symbols)
    check_generator(generator, "safari")
    if generator == "safari":
        return _induction_of_one_trigger(num_symbols)

    def sample(rng: PRNGKeyArray, length: Int[Array, ""], room: int) -> Sequence:
        token_rng, rng_of_trigger, rng_of_place = jax.random.split(rng, 3)
        index = jnp.arange(room, dtype=jnp.int32)
        trigger, before = uniform_token(rng_of_trigger, num_symbols), uniform_token(rng_of_place, length - 2)
        others = uniform_tokens(token_rng, num_symbols - 1, room)
        others = others + (others >= trigger)
        source = jnp.where((index == before) | (index == length - 1), trigger, others)
        return one_answer(source, length, pick(source, before + 1), index == before + 1)

    return Task(
        name="induction",
        symbols=numbers(num_symbols),
        sample=sample,
        shortest=3,
        target_room=lambda room: 1,
        layouts=_FROM_THE_LEFT,
    )


def _induction_of_one_trigger(num_symbols: int) -> Task:
    """Makes `induction` as safari draws it."""
    trigger = num_symbols

    def sample(rng: PRNGKeyArray, length: Int[Array, ""], room: int) -> Sequence:
        token_rng, rng_of_place = jax.random.split(rng)
        index, last = jnp.arange(room, dtype=jnp.int32), length - 1
        before = uniform_token(rng_of_place, length - 3)
        tokens = uniform_tokens(token_rng, num_symbols, room)
        source = jnp.where((index == before) | (index == last), trigger, tokens)
        target = jnp.where(index == last, pick(source, before + 1), jnp.roll(source, -1))
        return Sequence(source, length, target, length, (index[:, None] == last) & (index == before + 1))

    return Task(
        name="induction",
        symbols=(*numbers(num_symbols), "=>"),
        sample=sample,
        judged=last_answer(sample),
        shortest=4,
        layouts=("causal",),
    )


def variable_tracking(num_names: int = 26, num_values: int = 10, hops: int = 1) -> Task:
    """Says the value that a variable has through others: ``a 7 d 2 c a f d c -> 7``.

    Read: ``a = 7, d = 2, c = a, f = d``, and ``c`` is asked for.

    Chains of ``hops + 1`` assignments, as many as fit and interwoven at random, each of two tokens: a new name, then a
    value for the first of a chain and the name before for the others. The last token asks for the end of one chain; the
    oracle is the value at its beginning.

    Args:
      num_names: how many different names there are: as many assignments as a source can hold.
      num_values: how many different values.
      hops: how many names lie between the value and the end of a chain.

    Example:
      >>> from jattn import tasks
      >>> print(tasks.draw(tasks.variable_tracking(), length=9))
      v 0 e v g 5 c g c
      . . . . . # . . .  5

    Source: Hsieh et al., "RULER: What's the real context size of your long-context language models?", 2024.
    """
    check_at_least("num_values", 1, num_values)
    check_at_least("hops", 1, hops)
    check_at_least("num_names", hops + 1, num_names)
    links = hops + 1
    longest = 2 * num_names + 1

    def sample(rng: PRNGKeyArray, length: Int[Array, ""], room: int) -> Sequence:
        size = max(1, (room - 1) // 2)
        chains = (length - 1) // 2 // links
        rng_of_names, rng_of_values, rng_of_order, rng_of_query = jax.random.split(rng, 4)
        index, slot = jnp.arange(room, dtype=jnp.int32), jnp.arange(size, dtype=jnp.int32)
        names = distinct(rng_of_names, num_names, size)
        values = num_names + uniform_tokens(rng_of_values, num_values, size)
        real = slot < chains * links
        chain = jnp.where(real, permutation(rng_of_order, size, chains * links) // links, -1)
        link = jnp.sum((chain == chain[:, None]) & (slot < slot[:, None]), axis=-1, dtype=jnp.int32)
        # The slot of the link before, in the same chain.
        before = (chain == chain[:, None]) & (link == link[:, None] - 1)
        named = jnp.sum(jnp.where(before, names, 0), axis=-1, dtype=jnp.int32)
        told = jnp.where(link == 0, values, named)
        asked = uniform_token(rng_of_query, chains)
        begins, ends = (chain == asked) & (link == 0), (chain == asked) & (link == hops)
        source = jnp.where(index % 2 == 0, pick(names, index // 2), pick(told, index // 2))
        source = jnp.where(index == 2 * chains * links, jnp.sum(jnp.where(ends, names, 0)), source)
        begin = jnp.sum(jnp.where(begins, slot, 0), dtype=jnp.int32)
        return one_answer(source, 2 * chains * links + 1, pick(values, begin), index == 2 * begin + 1)

    return Task(
        name="variable_tracking",
        symbols=letters(num_names) + numbers(num_values),
        sample=sample,
        shortest=2 * links + 1,
        longest=longest,
        length=min(4 * links + 1, longest),
        target_room=lambda room: 1,
        fills=lambda length: (length - 1) % (2 * links) == 0,
        layouts=_FROM_THE_LEFT,
    )
