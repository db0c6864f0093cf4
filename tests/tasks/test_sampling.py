"""What is drawn is drawn evenly: lengths, tokens, and no two draws hang together."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from jattn.tasks import LAYOUTS, TASKS, make_batch
from jattn.tasks.sequences import uniform_tokens

MANY = 20_000
every_task = pytest.mark.parametrize("task", TASKS)


@functools.cache
def sample(task, symbols, lengths, room):
    made = functools.partial(make_batch, TASKS[task](symbols), LAYOUTS["encoder"], lengths=lengths, room=room)
    return jax.device_get(jax.jit(made)(jax.random.key(7), jnp.arange(MANY)))


def is_even(counts):
    return stats.chisquare(np.ravel(counts)).pvalue > 1e-3


@every_task
def test_lengths_are_uniform_from_the_shortest_to_the_longest(task):
    lengths = sample(task, 5, (3, 10), 12).inputs["lengths"]
    assert {*lengths} == set(range(3, 11))
    assert is_even(np.bincount(lengths)[3:])


@every_task
@pytest.mark.parametrize("symbols", [2, 7])
def test_tokens_are_uniform_and_neighbours_independent(task, symbols):
    tokens = sample(task, symbols, (6, 6), 6).inputs["tokens"]
    for place in range(5):
        pairs = np.zeros((symbols, symbols), int)
        np.add.at(pairs, (tokens[:, place], tokens[:, place + 1]), 1)
        assert is_even(pairs)


@every_task
def test_tokens_tell_nothing_of_the_length(task):
    batch = sample(task, 5, (3, 10), 12)
    table = np.zeros((8, 5), int)
    np.add.at(table, (batch.inputs["lengths"] - 3, batch.inputs["tokens"][:, 0]), 1)
    assert is_even(table)


@every_task
def test_neighbouring_examples_are_independent(task):
    first = sample(task, 5, (3, 10), 12).inputs["tokens"][:, 0]
    pairs = np.zeros((5, 5), int)
    np.add.at(pairs, (first[::2], first[1::2]), 1)
    assert is_even(pairs)


@pytest.mark.parametrize("symbols", [2, 10, 97, 3000, 8192, 10_000])
def test_no_draw_falls_outside_of_the_symbols(symbols, monkeypatch):
    """Of all the 2²³ float32 numbers that can be drawn, each gives a token, and all tokens come up alike."""
    drawn = jnp.arange(2**23, dtype=jnp.float32) / 2**23
    monkeypatch.setattr(jax.random, "uniform", lambda rng, shape, dtype: drawn.astype(dtype))
    counts = np.bincount(uniform_tokens(jax.random.key(0), symbols, 2**23))
    assert len(counts) == symbols
    assert counts.max() - counts.min() <= 1
