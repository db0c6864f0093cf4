"""What is drawn is drawn evenly: lengths, tokens, and no two draws hang together."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy

from jattn.tasks import LAYOUTS, TASKS, make_batch
from jattn.tasks.counting import _nested
from jattn.tasks.sampling import distinct, permutation, uniform_tokens
from tests.sampled import sampled

MANY = 20_000
every_task = sampled("task", ["copy", "reverse", "shift", "odds_first", "sort", "histogram"], keep=2)


@functools.cache
def sample(task, symbols, lengths, room):
    made = functools.partial(make_batch, TASKS[task](symbols), LAYOUTS["encoder"], lengths=lengths, room=room)
    return jax.device_get(jax.jit(made)(jax.random.key(7), jnp.arange(MANY)))


def is_even(counts):
    return scipy.stats.chisquare(np.ravel(counts)).pvalue > 1e-3


@every_task
def test_lengths_are_uniform_from_the_shortest_to_the_longest(task):
    lengths = sample(task, 5, (3, 10), 12).inputs["lengths"]
    assert {*lengths} == set(range(3, 11))
    assert is_even(np.bincount(lengths)[3:])


@every_task
@sampled("symbols", [2, 7], keep=2)
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


@sampled("symbols", [2, 10, 97, 3000, 8192, 10_000], keep=2)
def test_no_draw_falls_outside_of_the_symbols(symbols, monkeypatch):
    """Of all the 2²³ float32 numbers that can be drawn, each gives a token, and all tokens come up alike."""
    drawn = jnp.arange(2**23, dtype=jnp.float32) / 2**23
    monkeypatch.setattr(jax.random, "uniform", lambda rng, shape, dtype: drawn.astype(dtype))
    counts = np.bincount(uniform_tokens(jax.random.key(0), symbols, 2**23))
    assert len(counts) == symbols
    assert counts.max() - counts.min() <= 1


def drawn(draw, number=MANY):
    """Draws many times; returns an array of draws."""
    return np.asarray(jax.jit(jax.vmap(draw))(jax.random.split(jax.random.key(3), number)))


def is_even_over(kinds, rows):
    """Tells whether each of so many kinds of rows comes as often."""
    _, counts = np.unique(rows.reshape(len(rows), -1), axis=0, return_counts=True)
    return len(counts) == kinds and is_even(counts)


@sampled(("count", "number", "kinds"), [(4, 4, 24), (6, 2, 30), (5, 3, 60), (30, 1, 30)], keep=2)
def test_what_is_drawn_without_putting_back_comes_in_every_arrangement(count, number, kinds):
    rows = drawn(lambda rng: distinct(rng, count, number))
    assert rows.min() == 0
    assert rows.max() == count - 1
    assert is_even_over(kinds, rows)


@pytest.mark.exhaustive
def test_many_of_many_are_all_different():
    rows = drawn(lambda rng: distinct(rng, 4096, 64), 50)
    assert all(len(set(row)) == 64 for row in rows.tolist())
    assert (np.sort(drawn(lambda rng: distinct(rng, 200, 200), 5)) == np.arange(200)).all()


def test_permutations_are_even_and_leave_what_is_beyond():
    rows = drawn(lambda rng: permutation(rng, 7, 4))
    assert (rows[:, 4:] == [4, 5, 6]).all()
    assert is_even_over(24, rows)


def test_brackets_nest_in_every_way_alike():
    """Four pairs nest in 14 ways, the fourth Catalan number."""
    assert is_even_over(14, drawn(lambda rng: _nested(rng, jnp.int32(4), 10)[0]))


@pytest.mark.exhaustive
def test_questions_come_in_slots_by_a_power_law():
    """One question in 12 slots: slot s with p(s) in proportion to s^-0.99."""
    made = functools.partial(make_batch, TASKS["mqar"](20, pairs=1), LAYOUTS["encoder"], lengths=(26, 26), room=26)
    counts = np.asarray(jax.jit(made)(jax.random.key(0), jnp.arange(MANY)).scored).sum(axis=0)
    assert counts[:2].sum() == counts[3::2].sum() == 0
    wanted = np.arange(1, 13) ** -0.99
    assert scipy.stats.chisquare(counts[2::2], MANY * wanted / wanted.sum()).pvalue > 1e-3


def bags(words):
    """How often each word comes."""
    return words.sum(axis=1)


def pairs(counts):
    """The product of every two numbers."""
    first, second = np.triu_indices(counts.shape[1])
    return counts[:, first] * counts[:, second]


@functools.cache
def examples(task, length):
    """Samples words as one-hot vectors, and the first answers."""
    task = TASKS[task]()
    made = jax.jit(jax.vmap(lambda rng: task.sample(rng, jnp.int32(length), length)))
    sequences = jax.device_get(made(jax.random.split(jax.random.key(1), 8000)))
    one_hot = np.eye(len(task.symbols))
    return one_hot[sequences.source], one_hot[sequences.target[:, 0]]


def accuracy(task, length, tell):
    """How often the best linear function of what is told of the words gives the first answer, on unseen examples."""
    words, answers = examples(task, length)
    told = np.concatenate([tell(words).reshape(8000, -1), np.ones((8000, 1))], axis=1)
    products = told[:4000].T @ told[:4000] + 1e-6 * np.eye(told.shape[1])
    fitted = np.linalg.solve(products, told[:4000].T @ answers[:4000])
    return np.mean((told[4000:] @ fitted).argmax(axis=1) == answers[4000:].argmax(axis=1))


@pytest.mark.exhaustive
@sampled(
    ("task", "length", "chance"), [("balanced", 9, 1 / 2), ("agreement", 12, 1 / 2), ("entailment", 11, 1 / 3)], keep=1
)
def test_the_number_of_each_word_tells_nothing(task, length, chance):
    assert accuracy(task, length, bags) == pytest.approx(chance, abs=0.03)


@pytest.mark.exhaustive
@sampled(
    "tell",
    [
        lambda words: words[:, :8],
        lambda words: words[:, 8:],
        lambda words: pairs(bags(words)),
    ],
    ids=["the text", "the claim", "pairs of words"],
    keep=1,
)
def test_nothing_less_than_who_does_what_tells_what_follows(tell):
    assert accuracy("entailment", 11, tell) == pytest.approx(1 / 3, abs=0.03)


@pytest.mark.exhaustive
def test_every_class_is_as_likely_whatever_the_claim():
    task = TASKS["entailment"]()

    def claim(rng):
        made = task.sample(rng, jnp.int32(11), 11)
        return jnp.append(made.source[8:10], made.target)

    table = np.zeros((len(task.symbols),) * 3, int)
    np.add.at(table, tuple(drawn(claim).T), 1)
    claims = table.reshape(-1, len(task.symbols))[:, -3:]
    claims = claims[claims.any(axis=1)]
    assert len(claims) == 18 * 6
    assert scipy.stats.chi2_contingency(claims).pvalue > 1e-3


def test_bags_of_words_tell_something_where_they_may():
    assert accuracy("majority", 16, bags) > 0.95


CHANCES = {
    **dict.fromkeys(("majority", "parity", "balanced", "agreement", "dyck"), 0.5),
    **dict.fromkeys(("copy", "reverse", "shift", "odds_first", "permute", "selective_copy", "needle"), 1 / 10),
    **{"associative_recall": 1 / 10, "induction": 1 / 20, "variable_tracking": 1 / 10, "most_frequent": 1 / 8},
    **{"modular_addition": 1 / 97, "pronoun": 1 / 40, "reading": 1 / 8, "addition": 1 / 10},
    **{"roles": 1 / 16, "captions": 1 / 4, "entailment": 1 / 3, "summarisation": 1 / 16},
}


@sampled("task", CHANCES, keep=2)
def test_no_answer_is_commoner_than_others(task):
    made = TASKS[task]()
    sample = jax.jit(jax.vmap(lambda rng: made.sample(rng, jnp.int32(made.length), made.length).target[0]))
    counts = np.bincount(sample(jax.random.split(jax.random.key(2), 5000)))
    assert counts.max() / 5000 < CHANCES[task] + 4 * np.sqrt(CHANCES[task] / 5000)


@pytest.mark.exhaustive
def test_a_pronoun_stands_for_either_noun_in_either_order():
    """The answer is the first noun in half of the sentences, whichever the kind of noun."""
    task = TASKS["pronoun"]()
    made = jax.jit(jax.vmap(lambda rng: task.sample(rng, jnp.int32(13), 13)))(jax.random.split(jax.random.key(0), 4000))
    first, passive = np.asarray(made.alignment[:, 0, 1]), np.asarray(made.source_length == 13)
    for kind in (passive, ~passive):
        assert np.mean(first[kind]) == pytest.approx(0.5, abs=0.04)


@pytest.mark.exhaustive
def test_any_number_of_sentences_is_marked_anywhere():
    task = TASKS["summarisation"]()
    made = jax.jit(jax.vmap(lambda rng: task.sample(rng, jnp.int32(17), 19)))(jax.random.split(jax.random.key(0), MANY))
    assert set(np.asarray(made.source_length)) == {15}
    assert is_even(np.bincount(made.target_length)[2:])
    assert is_even(np.asarray(made.alignment.sum(axis=(0, 1)))[3:15:5])


@pytest.mark.exhaustive
def test_lists_are_of_any_number_and_depth():
    """The outermost is of any operator; of two lists or more, one is in another, and of three some in that."""
    task = TASKS["listops"](depth=3)
    source = drawn(lambda rng: task.sample(rng, jnp.int32(16), 16).source)
    opened, closed = (source >= 10) & (source < 13), source == 13
    assert is_even(np.bincount(source[:, 0])[10:])
    assert is_even(np.bincount(opened.sum(axis=1))[1:])
    deep = np.cumsum(opened.astype(int) - closed, axis=1).max(axis=1)
    assert set(deep) == {1, 2, 3}
    assert ((deep > 1) == (opened.sum(axis=1) > 1)).all()


@pytest.mark.exhaustive
def test_pictures_show_everything_everywhere():
    """All 512 captions come alike, and each kind of picture has shapes in each row and each column of its pixels."""
    task = TASKS["captions"](image=12)
    sample = jax.jit(jax.vmap(lambda rng: task.sample(rng, jnp.int32(9), 9)))
    made = jax.device_get(sample(jax.random.split(jax.random.key(4), MANY)))
    assert is_even_over(512, made.target)
    shown = made.source.reshape(MANY, 3, 3, 4, 4, 3).any(axis=-1).swapaxes(2, 3).reshape(MANY, 12, 12)
    above = made.target[:, 2] == task.symbols.index("above")
    assert shown[above].any(axis=0).all()
    assert shown[~above].any(axis=0).all()


@pytest.mark.exhaustive
def test_an_answer_tells_nothing_of_the_properties_of_its_sentence():
    task = TASKS["roles"]()
    sample = jax.jit(jax.vmap(lambda rng: task.sample(rng, jnp.int32(12), 12)))
    made = jax.device_get(sample(jax.random.split(jax.random.key(5), MANY)))
    told = jax.device_get(jax.jit(jax.vmap(task.properties))(made))
    for name, label in told.items():
        assert name == "words" or (label.max() == 1 and is_even(np.bincount(label)))
        for place in range(4):
            _, answers = np.unique(made.target[:, place], return_inverse=True)
            table = np.zeros((answers.max() + 1, label.max() + 1), int)
            np.add.at(table, (answers, label), 1)
            assert scipy.stats.chi2_contingency(table).pvalue > 1e-4


@sampled("split", ["all", "train", "test"], keep=1)
def test_all_nouns_and_verbs_of_a_pronouns_sentences_come_alike_in_every_split(split):
    task = TASKS["pronoun"](split)
    made = jax.jit(jax.vmap(lambda rng: task.sample(rng, jnp.int32(13), 13)))(jax.random.split(jax.random.key(5), MANY))
    counts = np.bincount(np.ravel(made.source), minlength=len(task.symbols))
    animals, places = (task.symbols.index(word) for word in ("animal", "street"))
    verbs = counts[places + 20 : places + 28] + counts[places + 28 : places + 36]
    assert all(is_even(words) for words in (counts[animals:places], counts[places : places + 20], verbs))


@pytest.mark.exhaustive
def test_a_fifth_of_what_can_happen_is_held_out():
    """Of 3200 events, an animal, a place and a verb, 640 are in test sentences, and the other 2560 in training."""
    found = {}
    for split in ("train", "test"):
        task = TASKS["pronoun"](split)
        made = jax.jit(jax.vmap(lambda rng, task=task: task.sample(rng, jnp.int32(13), 13)))
        active = made(jax.random.split(jax.random.key(6), 4 * MANY))
        active = np.asarray(active.source)[np.asarray(active.source_length) == 12]
        found[split] = {tuple(event) for event in active[:, [1, 4, 6]].tolist()}
    assert (len(found["train"]), len(found["test"])) == (2560, 640)
    assert not found["train"] & found["test"]
