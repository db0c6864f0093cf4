"""Every task in every layout: the answers, the oracle, and what a batch is made of."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_array_equal

from jattn import attend
from jattn.tasks import LAYOUTS, TASKS, make_batch

# A task restated: the answer in plain Python, and per answer the places of a source of n tokens that hold it.
ANSWERS = {"copy": lambda source: source, "reverse": lambda source: source[::-1]}
PLACES = {"copy": lambda n: [{i} for i in range(n)], "reverse": lambda n: [{n - 1 - i} for i in range(n)]}

ROOM = 8
every_task = pytest.mark.parametrize("task", TASKS)
every_layout = pytest.mark.parametrize("layout", LAYOUTS)


@functools.cache
def sampler(task, layout, symbols=10, lengths=(1, ROOM), room=ROOM):
    """Makes batches from a seed and indices, under jit."""
    made = functools.partial(make_batch, TASKS[task](symbols), LAYOUTS[layout], lengths=lengths, room=room)
    return jax.jit(lambda seed, indices: made(jax.random.key(seed), indices))


def sample(task, layout, indices=ROOM, seed=0, **options):
    indices = jnp.arange(indices) if isinstance(indices, int) else jnp.asarray(indices, jnp.int32)
    return jax.device_get(sampler(task, layout, **options)(seed, indices))


def sources(batch, layout):
    """Reads the source of each example out of the model's inputs."""
    if layout == "encoder_decoder":
        tokens, lengths = batch.inputs["source"], batch.inputs["source_lengths"]
    else:
        tokens, lengths = batch.inputs["tokens"], batch.inputs["lengths"] // (2 if layout == "decoder" else 1)
    return [tokens[i, :length].tolist() for i, length in enumerate(lengths)]


def arranged(layout, source, target, pad, room):
    """One example as a layout should show it: inputs, and the query at which the first answer is read."""
    special = pad + 1

    def filled(tokens, size):
        return tokens + [pad] * (size - len(tokens))

    if layout == "encoder":
        return {"tokens": filled(source, room), "lengths": len(source)}, 0
    if layout == "decoder":
        tokens = [*source, special, *target[:-1]]
        return {"tokens": filled(tokens, 2 * room), "lengths": len(tokens)}, len(source)
    inputs = {"source": filled(source, room), "source_lengths": len(source)}
    return inputs | {"tokens": filled([special, *target[:-1]], room)}, 0


def test_every_task_is_restated_here():
    assert ANSWERS.keys() == PLACES.keys() == TASKS.keys()
    assert all(make(10).name == name for name, make in TASKS.items())
    assert all(layout.name == name for name, layout in LAYOUTS.items())


@every_task
@every_layout
@pytest.mark.parametrize(("symbols", "room"), [(2, 8), (10, 8), (97, 11)])
def test_a_thousand_samples_are_what_plain_python_says(task, layout, symbols, room):
    batch = sample(task, layout, 1000, symbols=symbols, room=room)
    found = sources(batch, layout)
    assert {len(source) for source in found} == set(range(1, ROOM + 1))
    for i, source in enumerate(found):
        target = ANSWERS[task](source)
        inputs, first = arranged(layout, source, target, symbols, room)
        assert {name: x[i].tolist() for name, x in batch.inputs.items()} == inputs
        assert np.flatnonzero(batch.scored[i]).tolist() == list(range(first, first + len(target)))
        assert batch.targets[i][batch.scored[i]].tolist() == target
        oracle = {int(query): set(np.flatnonzero(row)) for query, row in enumerate(batch.oracle[i]) if row.any()}
        assert oracle == {first + answer: places for answer, places in enumerate(PLACES[task](len(source)))}


@every_task
@every_layout
def test_the_oracle_is_found_from_the_data_alone(task, layout):
    """A key is in the oracle's set exactly when, over many examples of one length, it always holds the answer."""
    batch = sample(task, layout, 500, lengths=(5, 5))
    _, side = LAYOUTS[layout].sides(LAYOUTS[layout].oracle_layer)
    (queries,) = np.unique([np.flatnonzero(scored) for scored in batch.scored], axis=0)
    holds = batch.inputs[side][:, None, :] == batch.targets[:, queries, None]
    assert_array_equal(holds.all(axis=0), batch.oracle[0][queries])
    assert (batch.oracle == batch.oracle[0]).all()


@every_task
@every_layout
def test_attention_that_follows_the_oracle_solves_the_task(task, layout):
    """Weights spread evenly over the oracle's set, with tokens as values, say the target and nothing else."""
    batch = sample(task, layout, 200)
    queries, keys = LAYOUTS[layout].sides(LAYOUTS[layout].oracle_layer)
    query = jnp.zeros((*batch.inputs[queries].shape, 1, 4))
    key = jnp.zeros((*batch.inputs[keys].shape, 1, 4))
    value = jax.nn.one_hot(batch.inputs[keys], 12)[:, :, None]
    said = attend(query, key, value, mask=batch.oracle[:, None])[:, :, 0]
    wanted = jax.nn.one_hot(batch.targets, 12) * batch.scored[:, :, None]
    assert_array_equal(said, wanted)


@every_task
@every_layout
@pytest.mark.parametrize("lengths", [(2, 5), (5, 5)], ids=["variable", "full"])
def test_shapes_and_dtypes(task, layout, lengths):
    batch = sample(task, layout, 3, lengths=lengths, room=5)
    count = LAYOUTS[layout].num_positions(5)
    queries, keys = LAYOUTS[layout].sides(LAYOUTS[layout].oracle_layer)
    assert batch.inputs[queries].shape == batch.targets.shape == batch.scored.shape == (3, count)
    assert batch.oracle.shape == (3, count, batch.inputs[keys].shape[1])
    assert batch.scored.dtype == batch.oracle.dtype == bool
    assert {str(x.dtype) for x in [batch.targets, *batch.inputs.values()]} == {"int32"}
    assert all(x.shape == (3,) for name, x in batch.inputs.items() if name.endswith("lengths"))


@every_task
@every_layout
def test_a_batch_of_full_length_carries_no_lengths_and_no_padding(task, layout):
    full = sample(task, layout, 50, lengths=(5, 5), room=5)
    variable = sample(task, layout, 50, lengths=(4, 5), room=5)
    assert full.inputs.keys() == {name for name in variable.inputs if not name.endswith("lengths")} < {*variable.inputs}
    pad = 10
    assert not any((tokens == pad).any() for tokens in full.inputs.values())
    assert (full.scored.sum(axis=1) == 5).all()


@every_task
@every_layout
def test_an_example_depends_on_seed_and_index_alone(task, layout):
    whole = sample(task, layout, 8)
    again, other = sample(task, layout, 8), sample(task, layout, 8, seed=1)
    picked = sample(task, layout, [6, 2, 2])
    for name, tokens in whole.inputs.items():
        assert_array_equal(again.inputs[name], tokens)
        assert_array_equal(picked.inputs[name], tokens[[6, 2, 2]])
    assert_array_equal(picked.oracle, whole.oracle[[6, 2, 2]])
    assert sources(other, layout) != sources(whole, layout)
    assert len({tuple(source) for source in sources(sample(task, layout, 50, lengths=(8, 8), room=9), layout)}) == 50


@every_task
@every_layout
@pytest.mark.parametrize("lengths", [(2, 5), (5, 5)], ids=["variable", "full"])
def test_jit_and_vmap_change_nothing(task, layout, lengths):
    plain = functools.partial(make_batch, TASKS[task](10), LAYOUTS[layout], lengths=lengths, room=5)
    rngs = jax.random.split(jax.random.key(0), 2)
    mapped = jax.vmap(plain, in_axes=(0, None))(rngs, jnp.arange(3))
    for i, rng in enumerate(rngs):
        jax.tree.map(assert_array_equal, plain(rng, jnp.arange(3)), jax.jit(plain)(rng, jnp.arange(3)))
        jax.tree.map(assert_array_equal, plain(rng, jnp.arange(3)), jax.tree.map(lambda x, i=i: x[i], mapped))


def test_lengths_may_be_traced():
    made = functools.partial(make_batch, TASKS["reverse"](10), LAYOUTS["encoder"], jax.random.key(0), jnp.arange(50))
    traced = jax.jit(lambda shortest, longest: made((shortest, longest), room=8))
    jax.tree.map(assert_array_equal, traced(2, 5), made((2, 5), room=8))
    jax.tree.map(assert_array_equal, traced(8, 8).inputs["lengths"], np.full(50, 8))


@every_task
@every_layout
def test_batches_lower_for_every_platform(task, layout):
    made = sampler(task, layout, lengths=(2, 5), room=5)
    shapes = (jax.ShapeDtypeStruct((), jnp.int32), jax.ShapeDtypeStruct((4,), jnp.int32))
    exported = jax.export.export(made, platforms=["cpu", "cuda", "tpu"])(*shapes)
    assert exported.platforms == ("cpu", "cuda", "tpu")


@every_task
@every_layout
def test_every_token_has_a_text_of_its_own(task, layout):
    symbols = TASKS[task](97).symbols
    text = symbols + LAYOUTS[layout].specials
    assert len(symbols) == 97
    assert len(set(text)) == len(text)
    batch = sample(task, layout, 50, symbols=97)
    seen = {text[token] for tokens in (batch.inputs["tokens"], batch.targets) for token in tokens.flat}
    assert {"<pad>"} < seen
    assert math.prod(batch.targets[batch.scored] < 97)
