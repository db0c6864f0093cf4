"""Sentences: answers that hang on which word refers to which."""

from __future__ import annotations

from typing import TYPE_CHECKING

from jattn.tasks.late import jax, jnp
from jattn.tasks.sampling import permutation, pick, uniform_token, uniform_tokens
from jattn.tasks.sequences import EVERY_LAYOUT, Sequence, Task, one_answer
from jattn.tasks.vocabulary import Vocabulary, word_class

if TYPE_CHECKING:
    from jaxtyping import Array, Bool, Int, PRNGKeyArray

_ANIMALS = word_class(
    "animal dog cat horse rabbit donkey camel sheep goat cow fox wolf bear deer mouse hen pig lamb pony puppy"
)
_PLACES = word_class(
    "street road river bridge field valley desert hill mountain canyon swamp lake meadow forest tunnel path square "
    "garden beach glacier"
)
_VERBS = word_class("cross enter explore visit search climb approach pass")
_PARTICIPLES = word_class("crossed entered explored visited searched climbed approached passed")
_OF_ANIMALS = word_class("tired scared hungry thirsty lazy sleepy weak shy sick nervous impatient clumsy")
_OF_PLACES = word_class("wide long narrow steep crowded rocky slippery remote windy icy foggy bumpy")

_PRONOUN = Vocabulary(
    "the did was not by because it too", _ANIMALS, _PLACES, _VERBS, _PARTICIPLES, _OF_ANIMALS, _OF_PLACES
)
_SPLITS = {"all": range(5), "train": range(1, 5), "test": range(1)}
"""What the numbers of animal, place and verb may add up to, modulo 5."""
_LONGEST_SENTENCE = 13


def pronoun(split: str = "all", read_at: str = "it") -> Task:
    """Says what *it* is: ``the animal did not cross the street because it was too tired -> animal``.

    With ``wide`` in the place of ``tired`` the answer is ``street``: the last word alone decides between the two nouns.
    Half of the sentences are turned round, ``the street was not crossed by the animal because it was too wide``, so
    that no place in the sentence gives the answer away. The oracle is the noun that *it* stands for.

    Args:
      split: ``"train"`` leaves out a fifth of all events: those of an animal, a place and a verb whose numbers in
        their lists add up to a multiple of five. ``"test"`` has these alone, and ``"all"`` has both.
      read_at: where the answer is read, at ``"it"`` or at the ``"end"``: a model that reads from left to right can know
        it at the end alone, and a single layer only there, as the last word decides.

    Example:
      >>> from jattn import tasks
      >>> print(tasks.draw(tasks.pronoun()))
      the donkey did not cross the field because it was too remote
      .   .      .   .   .     .   #     .       .  .   .   .       field

    Source: Winograd, "Understanding natural language", 1972; the sentence is from Uszkoreit's blog post "Transformer: A
    novel neural network architecture for language understanding", 2017.
    """
    if split not in _SPLITS:
        raise ValueError(f"split: expected 'all', 'train' or 'test', got {split!r}")
    if read_at not in ("it", "end"):
        raise ValueError(f"read_at: expected 'it' or 'end', got {read_at!r}")

    def sample(rng: PRNGKeyArray, length: Int[Array, ""], room: int) -> Sequence:
        rng_of_sentence, rng_of_kind = jax.random.split(rng)
        return pronoun_sentence(rng_of_sentence, jax.random.bernoulli(rng_of_kind), room, split, read_at)

    return Task(
        name="pronoun",
        symbols=_PRONOUN.text,
        sample=sample,
        shortest=_LONGEST_SENTENCE,
        longest=_LONGEST_SENTENCE,
        length=_LONGEST_SENTENCE,
        target_room=lambda room: 1,
        fills=lambda length: False,
        layouts=EVERY_LAYOUT if read_at == "it" else ("encoder", "causal", "decoder", "encoder_decoder"),
    )


def pronoun_sentence(
    rng: PRNGKeyArray, of_place: bool | Bool[Array, ""], room: int, split: str = "all", read_at: str = "it"
) -> Sequence:
    """Makes a sentence of the task `pronoun`, about the place or about the animal; all but its last word is the same.

    Args:
      rng: decides the sentence, and the last word among those of its kind.
      of_place: whether *it* is the place, rather than the animal.
      room: the size of the arrays, 13 at least.
      split: see `pronoun`.
      read_at: see `pronoun`.
    """
    the, did, was, no, by, because, it, too = _PRONOUN.of("the did was not by because it too")
    rngs, sums = jax.random.split(rng, 5), _SPLITS[split]
    animal, verb = uniform_token(rngs[0], len(_ANIMALS)), uniform_token(rngs[1], len(_VERBS))
    drawn = uniform_token(rngs[2], len(_PLACES) // 5 * len(sums))
    place = drawn // len(sums) * 5 + (sums.start + drawn % len(sums) - animal - verb) % 5
    animal, place = _PRONOUN.first(_ANIMALS) + animal, _PRONOUN.first(_PLACES) + place
    said = _PRONOUN.first(_VERBS) + verb, _PRONOUN.first(_PARTICIPLES) + verb
    qualities = uniform_tokens(rngs[3], len(_OF_ANIMALS), 2)
    quality = jnp.where(of_place, _PRONOUN.first(_OF_PLACES) + qualities[0], _PRONOUN.first(_OF_ANIMALS) + qualities[1])
    plain = [the, animal, did, no, said[0], the, place, because, it, was, too, quality, 0]
    passive = [the, place, was, no, said[1], by, the, animal, because, it, was, too, quality]
    turned = jax.random.bernoulli(rngs[4])
    sentence = jnp.where(turned, jnp.stack(passive), jnp.stack(plain)).astype(jnp.int32)
    source, size = jnp.pad(sentence, (0, room - _LONGEST_SENTENCE)), jnp.where(turned, 13, 12)
    answer = jnp.where(of_place, place, animal)
    holds = (source == answer) & (jnp.arange(room) < size)
    read = size - (4 if read_at == "it" else 1)
    return Sequence(source, size, answer[None], jnp.int32(1), holds[None], read[None])


_NOUNS = word_class(
    "key cabinet door box window lamp table chair picture mirror carpet clock bottle basket letter ladder"
)
_SEVERAL = word_class(
    "keys cabinets doors boxes windows lamps tables chairs pictures mirrors carpets clocks bottles baskets letters "
    "ladders"
)
_BESIDE = word_class("of near behind under beside above")


def agreement() -> Task:
    """Says the verb that agrees with the subject: ``the keys of the cabinet near the door ? -> are``.

    The subject is the first noun, and the oracle; every noun after it is an attractor. Half of all nouns are plural (if
    their number is odd, half of one more or one less, as likely), so that how many are tells little of the subject; of
    an even number of nouns, nothing. A source of ``3 n + 3`` has ``n`` attractors.

    Example:
      >>> from jattn import tasks
      >>> print(tasks.draw(tasks.agreement(), length=9))
      the baskets above the doors above the box ?
      .   #       .     .   .     .     .   .   .  are

    Source: Linzen et al., "Assessing the ability of LSTMs to learn syntax-sensitive dependencies", 2016.
    """
    symbols = Vocabulary("the ?", _NOUNS, _SEVERAL, _BESIDE, ("is", "are"))
    the, ask, one, several = symbols.of("the ? is are")

    def sample(rng: PRNGKeyArray, length: Int[Array, ""], room: int) -> Sequence:
        count, size = length // 3, room // 3
        rng_of_nouns, rng_of_numbers, rng_of_words, rng_of_half = jax.random.split(rng, 4)
        index = jnp.arange(room, dtype=jnp.int32)
        half = (count + jax.random.bernoulli(rng_of_half)) // 2
        plural = permutation(rng_of_numbers, size, count) < half
        nouns = uniform_tokens(rng_of_nouns, len(_NOUNS), size)
        nouns = jnp.where(plural, symbols.first(_SEVERAL), symbols.first(_NOUNS)) + nouns
        beside = symbols.first(_BESIDE) + uniform_tokens(rng_of_words, len(_BESIDE), size)
        told = jnp.select([index % 3 == 0, index % 3 == 1], [the, pick(nouns, index // 3)], pick(beside, index // 3))
        source = jnp.where(index == 3 * count - 1, ask, told).astype(jnp.int32)
        return one_answer(source, 3 * count, jnp.where(plural[0], several, one), index == 1)

    return Task(
        name="agreement",
        symbols=symbols.text,
        sample=sample,
        shortest=6,
        length=12,
        target_room=lambda room: 1,
        fills=lambda length: length % 3 == 0,
        layouts=("encoder", "causal", "decoder", "encoder_decoder"),
    )


_NAMES = word_class("mary john anna peter laura david emma paul")
_ROOMS = word_class("kitchen garden office cellar attic hall bathroom bedroom")
_THINGS = word_class("apple ball book cup lamp hat bottle pen")
_SENTENCE = 6


def reading(facts: int = 1) -> Task:
    """Answers a question on a story: ``mary went to the hall . john went to the garden . where is mary ? -> hall``.

    What has to be found in the story:
      1 fact: ``where is mary ?`` Where she went last.
      2 facts: ``where is the cup ?`` Who picked it up, and where that person went last, with the cup.
      3 facts: ``where was the cup before the hall ?`` Who picked it up, that this person then went to the hall, last
      of all, and which other room they went to just before that.

    Nothing is picked up twice. With two and three facts, one more thing is picked up, by anyone. The oracle is the
    answer's word in the sentence that tells it; the answer is read at the last ``?``. A source holds as many sentences
    of six words as fit.

    Args:
      facts: 1, 2 or 3.

    Example:
      >>> from jattn import tasks
      >>> print(tasks.draw(tasks.reading(), length=16))
      paul went to the kitchen . john went to the kitchen . where is paul ?
      .    .    .  .   #       . .    .    .  .   .       . .     .  .    .  kitchen

    Source: Weston et al., "Towards AI-complete question answering", 2015, tasks 1 to 3.
    """
    if facts not in (1, 2, 3):
        raise ValueError(f"facts: expected 1, 2 or 3, got {facts}; nearest: {min(max(facts, 1), 3)}")
    symbols = Vocabulary("went to the . picked up where is was before ?", _NAMES, _ROOMS, _THINGS)
    went, to, the, stop, picked, up = symbols.of("went to the . picked up")
    where, is_, was, before, ask = symbols.of("where is was before ?")
    question, least = {1: (4, 1), 2: (5, 3), 3: (8, 4)}[facts]

    def sample(rng: PRNGKeyArray, length: Int[Array, ""], room: int) -> Sequence:
        count, size = (length - question) // _SENTENCE, (room - question) // _SENTENCE
        rngs = jax.random.split(rng, 7)
        slot = jnp.arange(size, dtype=jnp.int32)
        people, rooms = uniform_tokens(rngs[0], len(_NAMES), size), uniform_tokens(rngs[1], len(_ROOMS), size)
        asked = uniform_token(rngs[2], len(_NAMES))
        order = permutation(rngs[3], size, count)
        # The slots of the facts that there have to be, by role.
        if facts == 1:
            needed, takes, other = order < 1, order < 0, order < 0
        elif facts == 2:
            needed, takes, other = order < 2, order == 0, order == 2
        else:
            needed, other = order < 3, order == 3
            number = jnp.cumsum(needed) - 1
            takes = needed & (number == jax.random.bernoulli(rngs[4]))
        people = jnp.where(needed, asked, people)
        moves = (people == asked) & ~takes & ~other & (slot < count)
        last = jnp.max(jnp.where(moves, slot, -1))
        previous = jnp.max(jnp.where(moves & (slot < last), slot, -1))
        if facts == 3:
            another = (pick(rooms, previous) + 1 + uniform_token(rngs[5], len(_ROOMS) - 1)) % len(_ROOMS)
            rooms = jnp.where(slot == last, another, rooms)
        things = permutation(rngs[6], len(_THINGS))[:2]
        thing = symbols.first(_THINGS) + jnp.where(other, things[1], things[0])
        rooms = symbols.first(_ROOMS) + rooms
        picking = takes | other
        end = jnp.where(picking, thing, rooms)
        verb, particle = jnp.where(picking, picked, went), jnp.where(picking, up, to)
        words = jnp.stack(
            [symbols.first(_NAMES) + people, verb, particle, slot * 0 + the, end, slot * 0 + stop], axis=1
        )
        about = symbols.first(_THINGS) + things[0]
        asking = {
            1: [where, is_, symbols.first(_NAMES) + asked, ask],
            2: [where, is_, the, about, ask],
            3: [where, was, the, about, before, the, pick(rooms, last), ask],
        }[facts]
        index = jnp.arange(room, dtype=jnp.int32)
        story = jnp.pad(words.reshape(-1), (0, room - _SENTENCE * size))
        asking = pick(jnp.stack(asking).astype(jnp.int32), index - _SENTENCE * count)
        source = jnp.where(index < _SENTENCE * count, story, asking).astype(jnp.int32)
        found = last if facts < 3 else previous
        holds = index == _SENTENCE * found + 4
        return one_answer(source, _SENTENCE * count + question, pick(rooms, found), holds)

    return Task(
        name="reading",
        symbols=symbols.text,
        sample=sample,
        shortest=_SENTENCE * least + question,
        length=_SENTENCE * 5 + question,
        target_room=lambda room: 1,
        fills=lambda length: (length - question) % _SENTENCE == 0,
        layouts=("encoder", "causal", "decoder", "encoder_decoder"),
    )
