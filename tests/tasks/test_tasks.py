"""Every task in every layout: the answers, the oracle, and what a batch is made of."""

import functools

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

SYMBOLS, LONGEST, ROOM = 97, 8, 11
every_task = pytest.mark.parametrize("task", TASKS)
every_layout = pytest.mark.parametrize("layout", LAYOUTS)


@functools.cache
def sampler(task, layout, symbols=SYMBOLS, room=ROOM):
    """Makes batches from a seed, indices and lengths, under jit."""
    made = functools.partial(make_batch, TASKS[task](symbols), LAYOUTS[layout], room=room)
    return jax.jit(lambda seed, indices, *lengths: made(jax.random.key(seed), indices, lengths))


def sample(task, layout, lengths=(1, LONGEST), indices=range(1000), seed=0, **options):
    indices = jnp.asarray(indices, jnp.int32)
    return jax.device_get(sampler(task, layout, **options)(seed, indices, *lengths))


@functools.cache
def full_batch(task, layout):
    """A batch in which every source is known to fill its room."""
    made = functools.partial(make_batch, TASKS[task](SYMBOLS), LAYOUTS[layout], lengths=(5, 5), room=5)
    return jax.device_get(jax.jit(made)(jax.random.key(0), jnp.arange(3)))


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
@pytest.mark.parametrize(("symbols", "room"), [(2, 8), (SYMBOLS, ROOM)])
def test_a_thousand_samples_are_what_plain_python_says(task, layout, symbols, room):
    batch = sample(task, layout, symbols=symbols, room=room)
    found = sources(batch, layout)
    assert {len(source) for source in found} == set(range(1, LONGEST + 1))
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
    """A visible key is in the oracle's set exactly when, over many examples of a length, it always holds the answer."""
    batch = sample(task, layout, (5, 5))
    _, side = LAYOUTS[layout].sides(LAYOUTS[layout].oracle_layer)
    holds = np.all(batch.inputs[side][:, None, :] == batch.targets[:, :, None], axis=0)
    if layout == "decoder":
        holds = np.tril(holds)
    assert (batch.scored == batch.scored[0]).all()
    assert (batch.oracle == batch.oracle[0]).all()
    assert_array_equal(batch.oracle[0], holds & batch.scored[0][:, None])


@every_task
@every_layout
def test_attention_that_follows_the_oracle_solves_the_task(task, layout):
    """Weights spread evenly over the oracle's set, with tokens as values, say the target and nothing else."""
    batch = sample(task, layout)
    queries, keys = LAYOUTS[layout].sides(LAYOUTS[layout].oracle_layer)
    query = jnp.zeros((*batch.inputs[queries].shape, 1, 1))
    key = jnp.zeros((*batch.inputs[keys].shape, 1, 1))
    tokens = jnp.arange(SYMBOLS + 2)
    value = (batch.inputs[keys][:, :, None] == tokens).astype(jnp.float32)
    said = attend(query, key, value[:, :, None], mask=batch.oracle[:, None])[:, :, 0]
    wanted = (batch.targets[:, :, None] == tokens) & batch.scored[:, :, None]
    assert_array_equal(said, wanted.astype(np.float32))


@every_task
@every_layout
@pytest.mark.parametrize(("make", "size", "room"), [(sample, 1000, ROOM), (full_batch, 3, 5)], ids=["variable", "full"])
def test_shapes_and_dtypes(task, layout, make, size, room):
    batch = make(task, layout)
    count = LAYOUTS[layout].num_positions(room)
    queries, keys = LAYOUTS[layout].sides(LAYOUTS[layout].oracle_layer)
    assert batch.inputs[queries].shape == batch.targets.shape == batch.scored.shape == (size, count)
    assert batch.oracle.shape == (size, count, batch.inputs[keys].shape[1])
    assert batch.scored.dtype == batch.oracle.dtype == bool
    assert {str(x.dtype) for x in [batch.targets, *batch.inputs.values()]} == {"int32"}
    assert all(x.shape == (size,) for name, x in batch.inputs.items() if name.endswith("lengths"))


@every_task
@every_layout
def test_a_batch_of_full_length_carries_no_lengths_and_no_padding(task, layout):
    full, variable = full_batch(task, layout), sample(task, layout)
    assert full.inputs.keys() == {name for name in variable.inputs if not name.endswith("lengths")}
    assert full.inputs.keys() < variable.inputs.keys()
    assert not any((tokens == SYMBOLS).any() for tokens in full.inputs.values())
    assert (full.scored.sum(axis=1) == 5).all()
    queries = full.oracle[full.scored].reshape(3, 5, -1).any(axis=1).sum(axis=1)
    assert (queries == 5).all()


@every_task
@every_layout
def test_an_example_depends_on_seed_and_index_alone(task, layout):
    whole, again, other = sample(task, layout), sample(task, layout), sample(task, layout, seed=1)
    picked = sample(task, layout, indices=[706, 2, 2])
    jax.tree.map(assert_array_equal, again, whole)
    jax.tree.map(lambda few, many: assert_array_equal(few, many[[706, 2, 2]]), picked, whole)
    assert sources(other, layout) != sources(whole, layout)
    long = sources(sample(task, layout, (8, 8)), layout)
    assert len({tuple(source) for source in long}) == 1000


@every_task
@every_layout
def test_jit_and_vmap_change_nothing(task, layout):
    plain = functools.partial(make_batch, TASKS[task](SYMBOLS), LAYOUTS[layout], lengths=(2, 5), room=6)
    rngs = jax.random.split(jax.random.key(0), 2)
    mapped = jax.jit(jax.vmap(plain, in_axes=(0, None)))(rngs, jnp.arange(3))
    jax.tree.map(lambda one, both: assert_array_equal(one, both[1]), plain(rngs[1], jnp.arange(3)), mapped)


@every_task
@every_layout
def test_batches_lower_for_every_platform(task, layout):
    integer, indices = jax.ShapeDtypeStruct((), jnp.int32), jax.ShapeDtypeStruct((4,), jnp.int32)
    lower = jax.export.export(sampler(task, layout), platforms=["cpu", "cuda", "tpu"])
    assert lower(integer, indices, integer, integer).platforms == ("cpu", "cuda", "tpu")


@every_task
@every_layout
def test_every_token_has_a_text_of_its_own(task, layout):
    symbols, specials = TASKS[task](SYMBOLS).symbols, LAYOUTS[layout].specials
    text = symbols + specials
    assert len(symbols) == SYMBOLS
    assert len(set(text)) == len(text)
    batch = sample(task, layout)
    tokens = [tokens for name, tokens in batch.inputs.items() if not name.endswith("lengths")]
    assert {text[token] for each in tokens for token in each.flat} == set(text)
    assert {text[token] for token in batch.targets[batch.scored]} == set(symbols)
