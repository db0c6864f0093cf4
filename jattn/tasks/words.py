"""Sentences: answers that hang on which word refers to which."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int, PRNGKeyArray

from jattn.tasks.draws import permutation, pick, uniform_token, uniform_tokens
from jattn.tasks.sequences import Sequence, Task, one_answer


def _class(words: str) -> tuple[str, ...]:
    return tuple(words.split())


_ANIMALS = _class(
    "animal dog cat horse rabbit donkey camel sheep goat cow fox wolf bear deer mouse hen pig lamb pony puppy"
)
_PLACES = _class(
    "street road river bridge field valley desert hill mountain canyon swamp lake meadow forest tunnel path square "
    "garden beach glacier"
)
_VERBS = _class("cross enter explore visit search climb approach pass")
_PARTICIPLES = _class("crossed entered explored visited searched climbed approached passed")
_OF_ANIMALS = _class("tired scared hungry thirsty lazy sleepy weak shy sick nervous impatient clumsy")
_OF_PLACES = _class("wide long narrow steep crowded rocky slippery remote windy icy foggy bumpy")


def pronoun() -> Task:
    """Says what *it* is: ``the animal did not cross the street because it was too tired -> animal``.

    With ``wide`` in the place of ``tired`` the answer is ``street``: the last word alone decides between the two nouns.
    Half of the sentences are turned round, ``the street was not crossed by the animal because it was too wide``, so
    that no place in the sentence gives the answer away. It is read at *it*, and the oracle is the noun it stands for.

    Example:
      >>> from jattn import tasks
      >>> print(tasks.draw(tasks.pronoun()))
      the street was not passed by the pig because it was too thirsty
      .   .      .   .   .      .  .   #   .       .  .   .   .        pig

    Source: Winograd, "Understanding natural language", 1972; the sentence is from Uszkoreit's blog post "Transformer: A
    novel neural network architecture for language understanding", 2017.
    """
    symbols = _Words(
        "the did was not by because it too", _ANIMALS, _PLACES, _VERBS, _PARTICIPLES, _OF_ANIMALS, _OF_PLACES
    )
    the, did, was, no, by, because, it, too = symbols.of("the did was not by because it too")

    def sample(rng: PRNGKeyArray, length: Int[Array, ""], room: int) -> Sequence:
        rngs = jax.random.split(rng, 6)
        animal = symbols.first(_ANIMALS) + uniform_token(rngs[0], len(_ANIMALS))
        place = symbols.first(_PLACES) + uniform_token(rngs[1], len(_PLACES))
        verb, quality = uniform_token(rngs[2], len(_VERBS)), uniform_token(rngs[3], len(_OF_ANIMALS))
        turned, of_place = jax.random.bernoulli(rngs[4]), jax.random.bernoulli(rngs[5])
        said = symbols.first(_VERBS) + verb, symbols.first(_PARTICIPLES) + verb
        quality = jnp.where(of_place, symbols.first(_OF_PLACES), symbols.first(_OF_ANIMALS)) + quality
        plain = [the, animal, did, no, said[0], the, place, because, it, was, too, quality, 0]
        passive = [the, place, was, no, said[1], by, the, animal, because, it, was, too, quality]
        sentence = jnp.where(turned, jnp.stack(passive), jnp.stack(plain)).astype(jnp.int32)
        index = jnp.arange(room, dtype=jnp.int32)
        answer = jnp.where(of_place, place, animal)
        source, size = jnp.pad(sentence, (0, room - 13)), jnp.where(turned, 13, 12)
        holds = (source == answer) & (index < size)
        return Sequence(source, size, answer[None], jnp.int32(1), holds[None], jnp.where(turned, 9, 8)[None])

    return Task(
        name="pronoun",
        symbols=symbols.text,
        sample=sample,
        shortest=13,
        length=13,
        target_room=lambda room: 1,
        fills=lambda length: False,
    )


_NOUNS = _class("key cabinet door box window lamp table chair picture mirror carpet clock bottle basket letter ladder")
_SEVERAL = _class(
    "keys cabinets doors boxes windows lamps tables chairs pictures mirrors carpets clocks bottles baskets letters "
    "ladders"
)
_BESIDE = _class("of near behind under beside above")


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
    symbols = _Words("the ?", _NOUNS, _SEVERAL, _BESIDE, ("is", "are"))
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


_NAMES = _class("mary john anna peter laura david emma paul")
_ROOMS = _class("kitchen garden office cellar attic hall bathroom bedroom")
_THINGS = _class("apple ball book cup lamp hat bottle pen")
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
    symbols = _Words("went to the . picked up where is was before ?", _NAMES, _ROOMS, _THINGS)
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


class _Words:
    """A vocabulary of single words and of classes of words."""

    def __init__(self, words: str, *classes: tuple[str, ...]) -> None:
        self.text = (*words.split(), *(word for each in classes for word in each))
        self.number = {word: number for number, word in enumerate(self.text)}

    def of(self, words: str) -> list[int]:
        return [self.number[word] for word in words.split()]

    def first(self, words: tuple[str, ...]) -> int:
        return self.number[words[0]]
