"""Sentences that differ in a single word, which turns the answer: only who reads that word can be right on both."""

import functools

import jax
from jaxtyping import Array, Int, PRNGKeyArray

from jattn.tasks.layouts import Batch, Layout
from jattn.tasks.words import pronoun, pronoun_sentence


def minimal_pairs(
    layout: Layout, rng: PRNGKeyArray, indices: Int[Array, " B"], split: str = "test", read_at: str = "it"
) -> tuple[Batch, Batch]:
    """Makes pairs of sentences of the task `jattn.tasks.pronoun` that differ in their last word alone.

    In the first of a pair *it* is the animal, in the second the place. A model's answers *flip* where it is right on
    both; guessing from the rest of the sentence is right on one at most.

    Args:
      layout: how the model sees them.
      rng: the randomness of the whole stream of pairs.
      indices: the index of each pair in that stream.
      split: which sentences; those of ``"test"`` are never in ``"train"``.
      read_at: where in the sentence the answer is read.

    Returns:
      The batch of all first sentences and that of all second ones.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from jattn import tasks
      >>> from jattn.tasks.minimal_pairs import minimal_pairs
      >>> task, layout = tasks.pronoun(), tasks.LAYOUTS["encoder"]
      >>> for batch in minimal_pairs(layout, jax.random.key(0), jnp.arange(1)):
      ...     print(" ".join(task.words(batch.inputs["tokens"][0][: batch.inputs["lengths"][0]])))
      the donkey did not cross the street because it was too impatient
      the donkey did not cross the street because it was too remote
    """
    task = pronoun(split, read_at)

    def example(index: Int[Array, ""], of_place: bool) -> Batch:
        sentence = pronoun_sentence(jax.random.fold_in(rng, index), of_place, task.length, split, read_at)
        return layout.arrange(sentence, len(task.symbols))

    animals, places = (jax.vmap(functools.partial(example, of_place=of_place))(indices) for of_place in (False, True))
    return animals, places
