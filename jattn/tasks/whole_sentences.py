"""Sentences that one vector has to stand for: what a model says of them, and what is true of them besides."""

from __future__ import annotations

from typing import TYPE_CHECKING

from jattn.tasks.late import jax, jnp
from jattn.tasks.sampling import distinct, nth_true, pick, put, uniform_token, uniform_tokens
from jattn.tasks.sequences import Sequence, Task
from jattn.tasks.vocabulary import Vocabulary, word_class

if TYPE_CHECKING:
    from jaxtyping import Array, Bool, Int, PRNGKeyArray

_NOUNS = word_class("dog cat horse bear goat lion cow pig boy girl king queen nurse judge pilot farmer")
_SEVERAL = word_class(
    "dogs cats horses bears goats lions cows pigs boys girls kings queens nurses judges pilots farmers"
)
_VERBS = word_class("follow help visit paint greet pull trust warn")
_OF_ONE = word_class("follows helps visits paints greets pulls trusts warns")
_PAST = word_class("followed helped visited painted greeted pulled trusted warned")
_ADJECTIVES = word_class("old young small big tall quiet happy proud")
_PLACES = word_class("garden kitchen forest street park barn castle market")
_SYMBOLS = Vocabulary("the in by is are was were", _NOUNS, _SEVERAL, _VERBS, _OF_ONE, _PAST, _ADJECTIVES, _PLACES)
_SHORTEST, _LONGEST = 8, 12


def sentences() -> Task:
    """Says a sentence again, word by word: ``the king warned the dogs in the park``.

    A sentence of 8 to 12 words tells who does what to whom, and where, in one of 128 ways, all alike: in the passive or
    not, in the past or not, of one or several who do it, of one or several whom it is done to, either of them with an
    adjective or not, with the place first or last. Who and whom are never the same noun.

    It is meant for models of kind ``pooled``, which answer out of one vector, and for probes of that vector: what
    `properties` tells of a sentence shows in its words, but is never asked for; see `jattn.training.probing`.

    Example:
      >>> from jattn import tasks
      >>> print(tasks.draw(tasks.sentences(), seed=35))
      the dogs help the queens in the market
      #   .    .    .   .      .  .   .       the
      .   #    .    .   .      .  .   .       dogs
      .   .    #    .   .      .  .   .       help
      .   .    .    #   .      .  .   .       the
      .   .    .    .   #      .  .   .       queens
      .   .    .    .   .      #  .   .       in
      .   .    .    .   .      .  #   .       the
      .   .    .    .   .      .  .   #       market

    Source: Lin et al., "A structured self-attentive sentence embedding", 2017, for the vector; Conneau et al., "What
    you can cram into a single vector: Probing sentence embeddings for linguistic properties", 2018, for autoencoders
    among what is probed.
    """

    def sample(rng: PRNGKeyArray, length: Int[Array, ""], room: int) -> Sequence:
        source, words, _, _ = _draw(rng, room)
        index = jnp.arange(room, dtype=jnp.int32)
        return Sequence(source, words, source, words, (index == index[:, None]) & (index < words))

    return Task(
        name="sentences",
        symbols=_SYMBOLS.text,
        sample=sample,
        shortest=_LONGEST,
        longest=_LONGEST,
        length=_LONGEST,
        fills=lambda length: False,
        properties=properties,
    )


def roles() -> Task:
    """Says who does what to whom, and where: ``in the park the dogs were warned by the king -> king warn dog park``.

    The sentences are those of `sentences`. The answer is four words in the form of a dictionary, always in this order,
    and tells nothing of the way in which the sentence says it: of the eight `properties`, each is as likely as always,
    whatever the answer. The oracle is the word itself, in the form that it has in the sentence.

    Example:
      >>> from jattn import tasks
      >>> print(tasks.draw(tasks.roles()))
      in the market the horses are followed by the small judges
      .  .   .      .   .      .   .        .  .   .     #       judge
      .  .   .      .   .      .   #        .  .   .     .       follow
      .  .   .      .   #      .   .        .  .   .     .       horse
      .  .   #      .   .      .   .        .  .   .     .       market

    Source: Palmer et al., "The proposition bank: An annotated corpus of semantic roles", 2005, for roles that stay the
    same in the passive.
    """

    def sample(rng: PRNGKeyArray, length: Int[Array, ""], room: int) -> Sequence:
        source, words, answer, places = _draw(rng, room)
        index = jnp.arange(room, dtype=jnp.int32)
        return Sequence(source, words, answer, jnp.int32(4), places[:, None] == index, index[:4])

    return Task(
        name="roles",
        symbols=_SYMBOLS.text,
        sample=sample,
        shortest=_LONGEST,
        longest=_LONGEST,
        length=_LONGEST,
        target_room=lambda room: 4,
        fills=lambda length: False,
        properties=properties,
    )


def properties(sequence: Sequence) -> dict[str, Int[Array, ""]]:
    """Tells in which way a sentence says what it says.

    Args:
      sequence: as `sentences` or `roles` sample it; only its source matters.

    Returns:
      ``passive``, ``past``, ``place first``, whether there are ``several who`` do it or ``several whom`` it is done to,
      and whether there is an ``adjective of who`` and an ``adjective of whom``, each 1 or 0; and ``words``, how many
      more than eight there are, 0 to 4.
    """
    in_, by, was, were = _SYMBOLS.of("in by was were")
    real = jnp.arange(len(sequence.source)) < sequence.source_length
    source = jnp.where(real, sequence.source, -1)
    passive = jnp.any(source == by)
    in_past = jnp.where(passive, (source == was) | (source == were), _is_of(source, _PAST))
    nouns = nth_true(_is_of(source, _NOUNS) | _is_of(source, _SEVERAL), 2)
    several = _is_of(pick(source, nouns), _SEVERAL)
    described = _is_of(pick(source, nouns - 1), _ADJECTIVES)
    who, whom = passive.astype(jnp.int32), 1 - passive.astype(jnp.int32)
    told = {
        "passive": passive,
        "past": jnp.any(in_past),
        "place first": source[0] == in_,
        "several who": several[who],
        "several whom": several[whom],
        "adjective of who": described[who],
        "adjective of whom": described[whom],
        "words": sequence.source_length - _SHORTEST,
    }
    return {name: value.astype(jnp.int32) for name, value in told.items()}


def _draw(
    rng: PRNGKeyArray, room: int
) -> tuple[Int[Array, " room"], Int[Array, ""], Int[Array, " 4"], Int[Array, " 4"]]:
    """Draws a sentence: its words and how many there are; who does what to whom, and where; and where it says so."""
    rngs = jax.random.split(rng, 5)
    nouns = distinct(rngs[0], len(_NOUNS), 2)
    verb, place = uniform_token(rngs[1], len(_VERBS)), uniform_token(rngs[2], len(_PLACES))
    adjectives = uniform_tokens(rngs[3], len(_ADJECTIVES), 2)
    words, present, slots = _slots(nouns, verb, place, adjectives, jax.random.bernoulli(rngs[4], shape=(7,)))
    places = jnp.where(present, jnp.cumsum(present, dtype=jnp.int32) - 1, room)
    source = put(places, words, jnp.zeros(room, jnp.int32))
    firsts = jnp.array([_SYMBOLS.first(words) for words in (_NOUNS, _VERBS, _NOUNS, _PLACES)], jnp.int32)
    answer = firsts + jnp.stack([nouns[0], verb, nouns[1], place])
    return source, jnp.sum(present, dtype=jnp.int32), answer, pick(places, slots)


def _slots(
    nouns: Int[Array, " 2"],
    verb: Int[Array, ""],
    place: Int[Array, ""],
    adjectives: Int[Array, " 2"],
    ways: Bool[Array, " 7"],
) -> tuple[Int[Array, " 15"], Bool[Array, " 15"], Int[Array, " 4"]]:
    """Returns the words that a sentence may have, which of them it has, and the slots of who, what, whom and where."""
    passive, past, place_first, several, described = ways[0], ways[1], ways[2], ways[3:5], ways[5:7]
    the, in_, by, is_, are, was, were = _SYMBOLS.of("the in by is are was were")
    # Who does it comes first, but for the passive.
    first, second = passive.astype(jnp.int32), 1 - passive.astype(jnp.int32)
    form = jnp.where(several, _SYMBOLS.first(_SEVERAL), _SYMBOLS.first(_NOUNS)) + nouns
    now = jnp.where(several[first], _SYMBOLS.first(_VERBS), _SYMBOLS.first(_OF_ONE))
    auxiliary = jnp.where(several[first], jnp.where(past, were, are), jnp.where(past, was, is_))
    adjectives = _SYMBOLS.first(_ADJECTIVES) + adjectives
    somewhere = (in_, the, _SYMBOLS.first(_PLACES) + place)
    words = (
        *somewhere,
        *(the, adjectives[first], form[first]),
        *(auxiliary, verb + jnp.where(passive | past, _SYMBOLS.first(_PAST), now), by),
        *(the, adjectives[second], form[second]),
        *somewhere,
    )
    present = (
        *[place_first] * 3,
        *(True, described[first], True),
        *(passive, True, passive),
        *(True, described[second], True),
        *[~place_first] * 3,
    )
    slots = (5 + 6 * first, 7, 5 + 6 * second, jnp.where(place_first, 2, 14))
    return jnp.stack(jnp.broadcast_arrays(*words)), jnp.stack(jnp.broadcast_arrays(*present)), jnp.stack(slots)


def _is_of(tokens: Int[Array, "*n"], words: tuple[str, ...]) -> Bool[Array, "*n"]:
    first = _SYMBOLS.first(words)
    return (tokens >= first) & (tokens < first + len(words))
