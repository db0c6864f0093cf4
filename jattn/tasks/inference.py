"""Textual entailment: what follows from a text, what it rules out, and what it leaves open."""

from __future__ import annotations

from typing import TYPE_CHECKING

from jattn.tasks.late import jax, jnp
from jattn.tasks.sampling import permutation, pick, uniform_token
from jattn.tasks.sequences import Sequence, Task, one_answer
from jattn.tasks.vocabulary import Vocabulary, word_class

if TYPE_CHECKING:
    from jaxtyping import Array, Int, PRNGKeyArray

_QUANTIFIERS = word_class("all no")
_KINDS = word_class("dogs cats birds fish insects snakes")
_SORTS = word_class("poodles lions robins trout ants cobras"), word_class("beagles tigers eagles salmon bees vipers")
_VERBS = word_class("swim sleep run hide play hunt")
_CLASSES = word_class("entailment contradiction neutral")
_SENTENCE, _CLAIM = 4, 3


def entailment() -> Task:
    """Tells what follows: ``all dogs swim . no cats hide . lions hide ? -> contradiction``.

    Each sentence says that all or no animals of a kind do something; as many say *all* as *no*, and no two name the
    same kind or the same deed. The claim is on one of the kinds, or on a sort of animals of that kind. It is an
    entailment or a contradiction if the text says of all or of no animals of the kind that they do so; it is neutral if
    the text says that of another kind. Each of the three classes is as likely whatever the text, whatever the claim,
    and whatever words there are in both: only who does what tells.

    The answer is read at ``?``; the oracle is what decides it, the words of the sentence on the kind. A source of
    ``8 n + 3`` holds ``2 n`` sentences.

    Example:
      >>> from jattn import tasks
      >>> print(tasks.draw(tasks.entailment()))
      no birds run . all snakes swim . vipers swim ?
      .  .     .   . #   #      #    . .      .    .  entailment

    Source: Bowman, Potts and Manning, "Recursive neural networks can learn logical semantics", 2015; Gururangan et al.,
    "Annotation artifacts in natural language inference data", 2018, on claims that tell their class without a text.
    """
    symbols = Vocabulary(". ?", _QUANTIFIERS, _KINDS, *_SORTS, _VERBS, _CLASSES)
    stop, ask = symbols.of(". ?")

    def sample(rng: PRNGKeyArray, length: Int[Array, ""], room: int) -> Sequence:
        rngs = jax.random.split(rng, 7)
        count, size = 2 * ((length - _CLAIM) // (2 * _SENTENCE)), 2 * ((room - _CLAIM) // (2 * _SENTENCE))
        index, slot = jnp.arange(room, dtype=jnp.int32), jnp.arange(size, dtype=jnp.int32)
        order, drawn = permutation(rngs[0], size, count), uniform_token(rngs[2], count)
        # The first two classes are numbered as the quantifiers that they come of.
        answer = uniform_token(rngs[1], 3)
        asked = jnp.argmax(order == jnp.where(answer == 2, drawn, drawn - drawn % 2 + answer)).astype(jnp.int32)
        other = (asked + 1 + uniform_token(rngs[3], count - 1)) % count
        kinds, deeds = permutation(rngs[4], len(_KINDS)), permutation(rngs[5], len(_VERBS))
        sort = pick(kinds, asked) + len(_KINDS) * uniform_token(rngs[6], 1 + len(_SORTS))
        deed = pick(deeds, jnp.where(answer == 2, other, asked))
        sentences = [
            symbols.first(_QUANTIFIERS) + order % 2,
            symbols.first(_KINDS) + pick(kinds, slot),
            symbols.first(_VERBS) + pick(deeds, slot),
            jnp.full((size,), stop, jnp.int32),
        ]
        claim = [symbols.first(_KINDS) + sort, symbols.first(_VERBS) + deed, jnp.int32(ask)]
        text, told = jnp.stack(sentences, axis=1).reshape(-1), _SENTENCE * count
        source = jnp.where(index < told, pick(text, index), pick(jnp.stack(claim), index - told))
        holds = (index // _SENTENCE == asked) & (index % _SENTENCE < _SENTENCE - 1)
        return one_answer(source, told + _CLAIM, symbols.first(_CLASSES) + answer, holds)

    return Task(
        name="entailment",
        symbols=symbols.text,
        sample=sample,
        shortest=2 * _SENTENCE + _CLAIM,
        longest=len(_KINDS) * _SENTENCE + _CLAIM,
        length=2 * _SENTENCE + _CLAIM,
        target_room=lambda room: 1,
        fills=lambda length: length % (2 * _SENTENCE) == _CLAIM,
        layouts=("encoder", "causal", "decoder", "encoder_decoder"),
    )
