"""Tasks that draw as published generators do: what comes, how often, and what a model is judged on."""

import collections
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy
from numpy.testing import assert_array_equal

from jattn.tasks import LAYOUTS, TASKS, make_batch
from tests.sampled import sampled
from tests.tasks import published, restated_published
from tests.tasks.cases import expected_batch

MANY = 20_000

GENERATORS = [
    ("odds_first", "chomsky", 5, {"num_symbols": 3}),
    ("selective_copy", "mad", 9, {"num_symbols": 2, "items": 2}),
    ("selective_copy", "mad", 12, {"num_symbols": 1, "items": 3}),
    ("associative_recall", "safari", 8, {"num_keys": 2, "num_values": 2}),
    ("associative_recall", "safari", 8, {"num_keys": 4, "num_values": 1}),
    ("induction", "safari", 6, {"num_symbols": 3}),
    ("addition", "chomsky", 6, {"base": 2}),
    ("addition", "chomsky", 5, {"base": 3}),
]
"""Tasks with the generator that they are compared with, and so short that every source comes often."""


@functools.cache
def sampler(task, length):
    return jax.jit(jax.vmap(lambda rng: task.sample(rng, jnp.int32(length), length)))


def counted(task, length):
    """Counts how often each source with its answers is sampled: its words, and what is said where."""
    made = jax.device_get(sampler(task, length)(jax.random.split(jax.random.key(4), MANY)))
    _, first, counts = np.unique(
        np.concatenate([made.source, made.target], axis=1), axis=0, return_index=True, return_counts=True
    )
    found = collections.Counter()
    for i, times in zip(first, counts.tolist(), strict=True):
        count = made.target_length[i]
        read_at = range(count) if made.read_at is None else made.read_at[i][:count].tolist()
        said = [task.symbols[token] for token in made.target[i][:count]]
        words = tuple(task.words(made.source[i][: made.source_length[i]]))
        found[words, tuple(zip(said, read_at, strict=True))] += times
    return found


def drawn(name, length, options):
    """Counts as many that are drawn by the published rule, restated."""
    rng, draw = np.random.default_rng(5), getattr(published, name)
    found = collections.Counter(tuple(draw(rng, length, **options)) for _ in range(MANY))
    rule = functools.partial(
        getattr(restated_published, name), **{key: options[key] for key in options.keys() & {"base"}}
    )
    return collections.Counter(
        {(words, tuple((said, place) for said, _, place in rule(list(words)))): times for words, times in found.items()}
    )


def pvalue(some, others):
    """How likely two lots of things that are drawn alike differ by as much in how often each comes."""
    return scipy.stats.chi2_contingency([[count[each] for each in some | others] for count in (some, others)]).pvalue


@sampled(("name", "generator", "length", "options"), GENERATORS, keep=[GENERATORS[i] for i in (3, 6)])
def test_every_source_and_its_answers_come_as_often_as_published(name, generator, length, options):
    wanted = drawn(name, length, options)
    assert pvalue(counted(TASKS[name](**options, generator=generator), length), wanted) > 1e-3
    assert pvalue(counted(TASKS[name](**options), length), wanted) < 1e-9


@sampled(("vocabulary", "pairs", "length"), [(8, 1, 6), (10, 2, 8), (14, 2, 10)], keep=1)
def test_keys_questions_and_fillers_come_as_often_as_in_zoology(vocabulary, pairs, length):
    def told(words, places):
        fillers = [word for place, word in enumerate(words) if place >= 2 * pairs and place not in places]
        return words[0], sorted(places).index(places[0]), places[-1], fillers[0]

    def found(generator):
        counts = collections.Counter()
        for (words, answers), times in counted(TASKS["mqar"](vocabulary, pairs, generator), length).items():
            asked = {words[place]: place for _, place in answers}
            counts[told(words, [asked[key] for key in words[: 2 * pairs : 2]])] += times
        return counts

    rng = np.random.default_rng(6)
    wanted = collections.Counter(told(*published.mqar(rng, length, vocabulary, pairs)) for _ in range(MANY))
    assert pvalue(found("zoology"), wanted) > 1e-3
    assert pvalue(found("jattn"), wanted) < 1e-9


@pytest.mark.exhaustive
@sampled("layout", LAYOUTS, keep=1)
def test_zoologys_questions_are_right_among_fillers_that_equal_keys(layout):
    """What is asked where cannot be told from a source alone; all else can."""
    task, room, pairs = TASKS["mqar"](14, 3, "zoology"), 12, 3
    number = {word: token for token, word in enumerate(task.symbols)}
    made = jax.device_get(sampler(task, room)(jax.random.split(jax.random.key(4), 500)))
    batch = jax.device_get(jax.vmap(LAYOUTS[layout].arrange, in_axes=(0, None))(made, len(number)))
    among_fillers = 0
    for i in range(500):
        words, places = task.words(made.source[i]), made.read_at[i].tolist()
        keys = words[: 2 * pairs : 2]
        assert "k0" not in keys
        assert sorted(words[place] for place in places) == sorted(keys)
        assert places == sorted(places)
        assert all(place >= 2 * pairs and place % 2 == 0 for place in places)
        among_fillers += sum(words.count(key) > 2 for key in keys)
        held = [2 * keys.index(words[place]) + 1 for place in places]
        answers = [(number[words[j]], {j}, place) for j, place in zip(held, places, strict=True)]
        inputs, targets, scored, oracle = expected_batch(layout, made.source[i].tolist(), answers, 14, room, pairs)
        assert all(np.array_equal(batch.inputs[key][i], each) for key, each in inputs.items())
        assert_array_equal(batch.scored[i], scored)
        assert_array_equal(batch.targets[i] * scored, targets)
        assert_array_equal(batch.oracle[i], oracle)
    assert among_fillers > 100


@pytest.mark.exhaustive
@sampled(("name", "shortest", "longest"), [("induction", 4, 9), ("associative_recall", 4, 11)], keep=1)
def test_safari_judges_the_answer_alone(name, shortest, longest):
    """Examples are those that `sample` makes, of which only the last query is scored."""
    task, layout = TASKS[name](5, generator="safari"), LAYOUTS["causal"]
    rng, indices = jax.random.key(0), jnp.arange(300)
    trained = make_batch(task, layout, rng, indices, (shortest, longest), longest)
    judged = make_batch(task.as_judged(), layout, rng, indices, (shortest, longest), longest)
    jax.tree.map(assert_array_equal, judged.inputs, trained.inputs)
    last = np.arange(longest) == np.asarray(trained.inputs["lengths"])[:, None] - 1
    assert_array_equal(trained.scored.sum(axis=-1), trained.inputs["lengths"])
    assert_array_equal(judged.scored, last)
    assert_array_equal(judged.targets[last], trained.targets[last])
    assert_array_equal(judged.oracle[last], trained.oracle[last])
    assert judged.oracle[last].any(axis=-1).all()


def pairs_of(task):
    """Counts how often each pair of numbers comes among many samples."""
    return collections.Counter({tuple(map(int, words[:2])): times for (words, _), times in counted(task, 3).items()})


@sampled(("share", "count"), [(0.3, 15), (0.5, 24), (0.02, 1), (0.98, 48)], keep=1)
def test_the_pairs_of_training_and_those_held_out_are_all_pairs_and_share_none(share, count):
    task = TASKS["modular_addition"](7, share)
    training, held_out = pairs_of(task), pairs_of(task.as_judged())
    assert (len(training), len(held_out)) == (count, 49 - count)
    assert not training & held_out
    assert len(training | held_out) == 49
    assert all(
        scipy.stats.chisquare(list(each.values())).pvalue > 1e-3 for each in (training, held_out) if len(each) > 1
    )


def test_a_split_is_the_same_in_every_process_and_another_with_another_seed():
    """The pairs are written down here: no version, process or seed of a run may change them."""
    first, other = (set(pairs_of(TASKS["modular_addition"](7, 0.1, split_seed=seed))) for seed in (0, 1))
    assert first == {(0, 4), (3, 5), (4, 1), (4, 2), (4, 4)}
    assert other == {(0, 2), (3, 6), (4, 6), (5, 4), (6, 6)}


def test_without_a_split_every_pair_may_come():
    task = TASKS["modular_addition"](7)
    assert task.judged is None
    assert len(pairs_of(task)) == 49


@pytest.mark.parametrize(("name", "generator"), sorted({case[:2] for case in GENERATORS}))
def test_examples_are_judged_as_they_are_trained_where_no_generator_says_otherwise(name, generator):
    task = TASKS[name]()
    assert task.as_judged() is task
    assert (TASKS[name](generator=generator).judged is None) == (generator != "safari")
