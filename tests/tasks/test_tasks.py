"""Every task of the table in every layout: answers, oracle and reading places as plain Python says them."""

import functools
import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_array_equal

from jattn import attend
from jattn.tasks import FAMILIES, LAYOUTS, TASKS, make_batch
from tests.sampled import sampled
from tests.tasks import restated, restated_sentences
from tests.tasks.cases import CASES, FIRST, arranged, expected_batch, layouts_of, sequences, words

# The cases of the default run: all tests take the same ones, whose samplers are compiled once.
CHOSEN = FIRST[::5]
every_task = sampled("case", FIRST, keep=CHOSEN, ids=lambda case: case.id)
NAMES = [case.name for case in CASES]
# One of each family, and those whose samplers do most.
some_tasks = sampled("name", ["sort", "mqar", "dyck", "listops", "reading"], keep=["dyck"])
# The tasks whose answers are tokens of the source, one or several alike.
SAID = [
    case
    for case in CASES
    if case.name
    in (
        *("copy", "reverse", "shift", "odds_first", "sort", "permute", "selective_copy", "needle"),
        *("associative_recall", "mqar", "induction", "variable_tracking", "most_frequent", "pronoun", "reading"),
        *("listops", "summarisation"),
    )
]
every_said = sampled("case", SAID, keep=[case for case in SAID if case in CHOSEN], ids=lambda case: case.id)
# The shortest sources of the tasks whose sources of one length, as told, differ in their own.
SHORTEST = {"pronoun": 12, "summarisation": 5, "roles": 8, "sentences": 8}


def test_every_task_is_in_the_table_once_restated_and_sampled():
    named = [make.__name__ for family in FAMILIES.values() for make in family]
    assert len(set(named)) == len(named)
    assert list(TASKS) == named
    assert {case.name for case in CASES} == set(TASKS)
    assert all(inspect.isfunction(getattr(restated, name)) for name in TASKS)
    assert all(layout.name == name for name, layout in LAYOUTS.items())


@pytest.mark.parametrize("name", TASKS)
def test_a_task_has_defaults_that_work(name):
    task = TASKS[name]()
    assert task.name == name
    assert 1 <= task.shortest <= task.length <= task.longest
    assert task.fills(task.length) or name in SHORTEST
    assert set(task.layouts) <= set(LAYOUTS)
    assert task.layouts[0] == ("encoder" if task.describe is None else "encoder_decoder")


@sampled("case", CASES, keep=CHOSEN, ids=lambda case: case.id)
def test_a_thousand_samples_are_what_plain_python_says(case):
    made = sequences(case)
    number = {word: token for token, word in enumerate(case.task.symbols)}
    room, target_room, pad = case.room, case.task.target_room(case.room), len(number)
    assert made.target.shape[1] == target_room
    wanted = {layout: [] for layout in layouts_of(case)}
    for i in range(len(made.source)):
        source = words(case, made, i)
        answers = [(number[word], places, read_at) for word, places, read_at in case.restate(source)]
        assert made.target_length[i] == len(answers)
        items = made.source[i][: len(source)].tolist()
        for layout, rows in wanted.items():
            rows.append(expected_batch(layout, items, answers, pad, room, target_room))
    for layout, rows in wanted.items():
        batch = arranged(case, layout)
        inputs, targets, scored, oracle = zip(*rows, strict=True)
        assert batch.inputs.keys() == inputs[0].keys()
        for name, found in batch.inputs.items():
            assert_array_equal(found, [example[name] for example in inputs])
        assert_array_equal(batch.scored, scored)
        assert_array_equal(batch.targets * batch.scored, targets)
        assert_array_equal(batch.oracle, oracle)
        assert layout != "causal" or not np.triu(oracle, 1).any()


@sampled("name", [name for name in TASKS if TASKS[name]().properties], keep=1)
def test_properties_are_what_plain_python_says(name):
    case = next(case for case in FIRST if case.name == name)
    made = sequences(case)
    found = jax.device_get(jax.jit(jax.vmap(case.task.properties))(made))
    for i in range(len(made.source)):
        assert {name: label[i] for name, label in found.items()} == restated_sentences.properties(words(case, made, i))


@every_task
def test_sources_are_as_long_as_can_be(case):
    """All lengths come, and a source leaves less of its length unused than the next longer one would need."""
    made = sequences(case)
    lengths = {int(length) for length in made.source_length}
    assert min(lengths) >= SHORTEST.get(case.name, case.task.shortest)
    assert max(lengths) <= case.longest
    possible = [n for n in range(case.task.shortest, case.longest + 1) if case.task.fills(n)]
    assert lengths >= set(possible)
    assert case.name in SHORTEST or lengths == set(possible)


def told(case, attention):
    """What attention over weights spread evenly over the oracle's set reads of one-hot tokens, and the targets."""
    layout = layouts_of(case)[-1]
    batch = jax.tree.map(lambda x: x[:100], arranged(case, layout))
    _, keys = LAYOUTS[layout].oracle
    tokens = np.arange(min(len(case.task.symbols), 200) + 2)
    value = (batch.inputs[keys][:, :, None] == tokens).astype(np.float32)
    # The full stop that ends a summary is found nowhere.
    wanted = (batch.targets[:, :, None] == tokens) & batch.oracle.any(axis=-1)[:, :, None]
    return attention(batch.oracle, value), wanted.astype(np.float32)


@every_said
def test_the_oracle_solves_the_task(case):
    """Weights spread evenly over the oracle's set, with tokens as values, say the target and nothing else."""
    assert_array_equal(*told(case, lambda oracle, value: oracle @ value / np.maximum(oracle.sum(-1), 1)[..., None]))


@sampled("case", SAID, keep=1, ids=lambda case: case.id)
def test_attention_that_follows_the_oracle_solves_the_task(case):
    def attention(oracle, value):
        query, key = (np.zeros((len(oracle), size, 1, 1), np.float32) for size in oracle.shape[1:])
        return attend(query, key, value[:, :, None], mask=oracle[:, None])[:, :, 0]

    assert_array_equal(*told(case, attention))


@every_task
def test_an_example_depends_on_seed_and_index_alone(case):
    whole, other = sequences(case), sequences(case, seed=1)
    indices = (70, 2, 2, *range(1, 1048))
    picked = sequences(case, indices=indices)
    jax.tree.map(lambda few, many: assert_array_equal(few[:3], many[[70, 2, 2]]), picked, whole)
    assert not np.array_equal(other.source, whole.source)
    assert len({tokens.tobytes() for tokens in whole.source}) > 30
    for layout in layouts_of(case):
        few, many = arranged(case, layout, indices=indices), arranged(case, layout)
        jax.tree.map(lambda few, many: assert_array_equal(few[:3], many[[70, 2, 2]]), few, many)


@pytest.mark.exhaustive
@some_tasks
def test_jit_and_vmap_change_nothing(name):
    task = TASKS[name](*((20,) if name == "mqar" else ()))
    plain = functools.partial(make_batch, task, LAYOUTS["encoder"], lengths=(task.shortest, 40), room=40)
    rngs = jax.random.split(jax.random.key(0), 2)
    mapped = jax.jit(jax.vmap(plain, in_axes=(0, None)))(rngs, jnp.arange(3))
    one = jax.jit(plain)(rngs[1], jnp.arange(8))
    jax.tree.map(lambda few, both: assert_array_equal(few[:3], both[1]), one, mapped)


@pytest.mark.exhaustive
@sampled("name", ["mqar", "dyck"], keep=1)
def test_samples_are_right_as_a_user_compiles_them(name, optimized):
    """Arithmetic that is rounded differently where it is computed twice must not matter."""
    case = next(case for case in CASES if case.name == name)
    sample = jax.jit(jax.vmap(lambda rng: case.task.sample(rng, jnp.int32(12), 12)))
    made = jax.device_get(sample(jax.random.split(jax.random.key(0), 2000)))
    for i in range(2000):
        said = [case.task.symbols[token] for token in made.target[i]]
        assert said == [answer for answer, _, _ in case.restate(words(case, made, i))]


@pytest.mark.exhaustive
@sampled("name", ["copy", "dyck"], keep=1)
def test_a_sampler_runs_without_jit(name):
    plain = functools.partial(make_batch, TASKS[name](), LAYOUTS["encoder"], lengths=(4, 4), room=5)
    rng, indices = jax.random.key(0), jnp.arange(2)
    jax.tree.map(assert_array_equal, plain(rng, indices), jax.jit(plain)(rng, indices))


@every_task
def test_shapes_and_dtypes(case):
    for layout in case.task.layouts:
        made = functools.partial(make_batch, case.task, LAYOUTS[layout], room=case.room)
        lengths = case.task.shortest, case.longest
        batch = jax.eval_shape(
            lambda rng, made=made, lengths=lengths: made(rng, jnp.arange(7), lengths), jax.random.key(0)
        )
        count = LAYOUTS[layout].num_positions(case.room, case.task.target_room(case.room))
        queries, keys = LAYOUTS[layout].oracle
        assert batch.inputs[queries].shape == batch.targets.shape == batch.scored.shape
        assert batch.oracle.shape == (*batch.scored.shape, batch.inputs[keys].shape[1])
        assert count == max(x.shape[1] for x in batch.inputs.values() if len(x.shape) > 1)
        assert batch.scored.dtype == batch.oracle.dtype == bool
        assert {str(x.dtype) for x in [batch.targets, *batch.inputs.values()] if x.ndim < 3} == {"int32"}
        assert {(x.ndim, str(x.dtype)) for x in batch.inputs.values() if x.ndim > 2} <= {(3, "float32")}
        assert all(x.shape == (7,) for name, x in batch.inputs.items() if name.endswith("lengths"))


@every_task
def test_a_batch_carries_lengths_unless_every_source_fills_it(case):
    layout = LAYOUTS[case.task.layouts[0]]
    make = functools.partial(make_batch, case.task, layout, jax.random.key(0), jnp.arange(9))
    for room in range(max(case.task.shortest, case.room - 2), min(case.room, case.task.longest) + 1):
        full = jax.eval_shape(lambda make=make, room=room: make((room, room), room))
        assert any(name.endswith("lengths") for name in full.inputs) != case.task.fills(room)


@every_task
def test_sources_fill_their_room_where_the_task_says_so(case):
    made = sequences(case)
    full = case.task.fills(case.room)
    longest = made.source_length == case.room
    # Where there is one length, all sources have it, and some may be shorter than it all the same.
    fill = longest.any() if case.task.shortest < case.longest else longest.all()
    assert case.longest < case.room or full == fill
    assert (made.target_length[longest] == made.target.shape[1]).all() or not full


@some_tasks
def test_batches_lower_for_every_platform(name):
    task, integer = TASKS[name](), jax.ShapeDtypeStruct((), jnp.int32)
    room = max(task.length, 16)

    def make(seed, shortest, longest):
        lengths = shortest, longest
        return make_batch(task, LAYOUTS["encoder"], jax.random.key(seed), jnp.arange(4), lengths, room)

    lower = jax.export.export(jax.jit(make), platforms=["cpu", "cuda", "tpu"])
    assert lower(integer, integer, integer).platforms == ("cpu", "cuda", "tpu")


@every_task
def test_every_token_has_a_text_of_its_own(case):
    text = case.task.symbols + tuple({special for layout in LAYOUTS.values() for special in layout.specials})
    assert len(set(text)) == len(text)
    assert all(word.isprintable() and word and " " not in word for word in text)
    assert not any("<" in word or "&" in word for word in case.task.symbols)


@sampled(
    "name",
    [name for name in TASKS if name != "mqar"],
    keep=[case.name for case in CHOSEN if NAMES.count(case.name) == 1],
)
def test_every_token_is_used(name):
    cases = [case for case in CASES if case.name == name]
    used = set()
    for case in cases:
        made = sequences(case)
        asked = np.arange(made.target.shape[1]) < made.target_length[:, None]
        used |= {case.task.symbols[token] for token in made.target[asked]}
        for i in range(len(made.source)):
            used |= set(words(case, made, i))
    unused = {word for case in cases for word in case.task.symbols} - used
    # Places and counts are there up to the longest lengths, which are not sampled here.
    expected = {"histogram": [str(count) for count in range(7, 17)], "permute": [str(place) for place in range(6, 33)]}
    assert unused <= set(expected.get(name, ()))


@sampled("name", [name for name, make in TASKS.items() if make().shortest < make().longest], keep=3)
def test_a_longer_length_makes_longer_sources(name):
    task = TASKS[name]()
    rngs = jax.random.split(jax.random.key(0), 64)

    def longest(length):
        sample = jax.jit(jax.vmap(lambda rng: task.sample(rng, jnp.int32(length), length).source_length))
        return np.max(sample(rngs))

    assert longest(min(task.length + 40, task.longest)) > longest(task.shortest)
