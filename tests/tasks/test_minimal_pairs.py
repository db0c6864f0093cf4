"""Pairs of sentences that differ in one word."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jattn.tasks import LAYOUTS, pronoun
from jattn.tasks.minimal_pairs import minimal_pairs
from tests.sampled import sampled
from tests.tasks import restated


@sampled(("split", "read_at"), [("test", "it"), ("train", "end")], keep=1)
def test_the_last_word_alone_differs_and_turns_the_answer(split, read_at):
    task = pronoun(split, read_at)
    make = jax.jit(lambda rng: minimal_pairs(LAYOUTS["encoder"], rng, jnp.arange(300), split, read_at))
    pairs = jax.device_get(make(jax.random.key(0)))
    for i in range(300):
        sentences, said = [], []
        for batch in pairs:
            sentences.append(task.words(batch.inputs["tokens"][i][: batch.inputs["lengths"][i]]))
            ((word, places, read),) = restated.pronoun(sentences[-1], split, read_at)
            assert np.flatnonzero(batch.scored[i]).tolist() == [read]
            assert task.symbols[batch.targets[i, read]] == word
            assert np.flatnonzero(batch.oracle[i, read]).tolist() == list(places)
            said.append(places)
        first, second = sentences
        assert first[:-1] == second[:-1]
        assert said[0] != said[1]


@pytest.mark.exhaustive
def test_a_pair_depends_on_the_rng_and_its_index_alone():
    make = jax.jit(minimal_pairs, static_argnums=0)
    many, few = (make(LAYOUTS["encoder"], jax.random.key(1), jnp.array(n)) for n in ([0, 1, 2, 3], [3, 1]))
    for whole, part in zip(many, few, strict=True):
        np.testing.assert_array_equal(whole.inputs["tokens"][jnp.array([3, 1])], part.inputs["tokens"])
