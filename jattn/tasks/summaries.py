"""Summaries: what a longer text marks as worth saying, in order."""

from __future__ import annotations

from typing import TYPE_CHECKING

from jattn.tasks.late import jax, jnp
from jattn.tasks.sampling import nth_true, permutation, pick, uniform_token, uniform_tokens
from jattn.tasks.sequences import Sequence, Task
from jattn.tasks.vocabulary import Vocabulary, word_class

if TYPE_CHECKING:
    from jaxtyping import Array, Int, PRNGKeyArray

_MARKS = word_class("importantly notably crucially")
_ASIDES = word_class("meanwhile incidentally elsewhere")
_NAMES = word_class("mary john anna peter laura david emma paul")
_VERBS = word_class("bought sold found lost drew mended")
_THINGS = word_class("lamps keys maps coins books rings cups hats pens boats bells kites nuts shells ropes dolls")
_SENTENCE = 5


def summarisation() -> Task:
    """Says what is marked: ``notably emma sold hats . meanwhile paul lost keys . -> hats .``, in order.

    Each sentence begins with one of three words that mark it (*importantly*, *notably*, *crucially*) or of three that
    do not (*meanwhile*, *incidentally*, *elsewhere*). The summary is the things of the marked sentences, and a full
    stop. A source of ``5 n`` has 1 to ``n`` marked sentences, each number as likely. Answer ``i`` is read at place
    ``i``; the oracle is the thing in its sentence, and empty for the full stop.

    Example:
      >>> from jattn import tasks
      >>> print(tasks.draw(tasks.summarisation(), length=15))
      elsewhere anna bought kites . crucially david drew bells . incidentally paul bought ropes .
      .         .    .      .     . .         .     .    #     . .            .    .      .     .  bells
      .         .    .      .     . .         .     .    .     . .            .    .      .     .  .

    Source: Luhn, "The automatic creation of literature abstracts", 1958, which extracts the sentences that their words
    mark as significant.
    """
    symbols = Vocabulary(".", _MARKS, _ASIDES, _NAMES, _VERBS, _THINGS)
    (stop,) = symbols.of(".")

    def sample(rng: PRNGKeyArray, length: Int[Array, ""], room: int) -> Sequence:
        rngs = jax.random.split(rng, 6)
        count, size = length // _SENTENCE, room // _SENTENCE
        index, answer = jnp.arange(room, dtype=jnp.int32), jnp.arange(size + 1, dtype=jnp.int32)
        marked = permutation(rngs[0], size, count) <= uniform_token(rngs[1], count)
        first, *others = (
            symbols.first(words) + uniform_tokens(each, len(words), size)
            for each, words in zip(rngs[2:], (_MARKS, _NAMES, _VERBS, _THINGS), strict=True)
        )
        sentences = [jnp.where(marked, first, first + len(_MARKS)), *others, jnp.full((size,), stop, jnp.int32)]
        source = pick(jnp.stack(sentences, axis=1).reshape(-1), index)
        number = jnp.sum(marked, dtype=jnp.int32)
        places = jnp.where(answer < number, _SENTENCE * nth_true(marked, size + 1) + 3, room)
        target = jnp.where(answer < number, pick(source, places), stop)
        return Sequence(source, _SENTENCE * count, target, number + 1, places[:, None] == index, answer)

    return Task(
        name="summarisation",
        symbols=symbols.text,
        sample=sample,
        shortest=_SENTENCE,
        length=5 * _SENTENCE,
        target_room=lambda room: room // _SENTENCE + 1,
        fills=lambda length: False,
    )
