"""Head portraits: the numbers against loops, the names of heads that were planted, the table and the picture."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

import jattn
from jattn import masks, normalizers, patterns, tasks
from jattn.drawing.portrait_table import columns
from jattn.study.portraits import EXCESS, HeadPortraits, head_portraits
from tests.sampled import sampled
from tests.variants import VARIANTS, inputs, rng

# The numbers, restated

RELATIVE = {
    "itself": lambda i, j, band: j == i,
    "previous token": lambda i, j, band: j == i - 1,
    "next token": lambda i, j, band: j == i + 1,
    "local band": lambda i, j, band: abs(i - j) <= band,
}


def restated_sets(num_queries, num_keys, tokens=None, query_tokens=None, offset=0, band=3):
    """Lists the keys of each pattern for each query of one batch entry, by loops: bool ``[T, S]``."""
    sets = {"first token": lambda i, j: j == 0}
    if offset is not None:
        for name, rule in RELATIVE.items():
            sets[name] = lambda i, j, rule=rule: rule(i + offset, j, band)
    if tokens is not None:
        sets["same token"] = lambda i, j: tokens[j] == query_tokens[i]
        if offset is None:
            sets["induction"] = lambda i, j: j >= 1 and tokens[j - 1] == query_tokens[i]
        else:
            sets["duplicate token"] = lambda i, j: tokens[j] == query_tokens[i] and j != i + offset
            sets["induction"] = lambda i, j: j >= 1 and tokens[j - 1] == query_tokens[i] and j - 1 < i + offset
    return {
        name: np.array([[bool(rule(i, j)) for j in range(num_keys)] for i in range(num_queries)])
        for name, rule in sets.items()
    }


def restated(weights, allowed, sets, real=None):
    """Computes mass, chance, queries of each set and the evenness by loops, in float64.

    ``weights`` and ``allowed`` are ``[B, N, T, S]``; ``sets[name]`` is ``[B, N, T, S]``; ``real[b]`` counts queries.
    """
    weights = np.asarray(weights, np.float64)
    entries, heads, num_queries, num_keys = weights.shape
    result = {}
    for name, chosen in sets.items():
        numbers = []
        for head in range(heads):
            masses, chances = [], []
            for entry in range(entries):
                for i in range(num_queries):
                    if real is not None and i >= real[entry]:
                        continue
                    row, visible = weights[entry, head, i], allowed[entry, head, i]
                    count = sum(visible[j] and chosen[entry, head, i, j] for j in range(num_keys))
                    if 0 < count < visible.sum():
                        on_set = sum(row[j] for j in range(num_keys) if chosen[entry, head, i, j])
                        masses.append(on_set / max(1.0, row.sum()))
                        chances.append(count / visible.sum())
            numbers.append((np.mean(masses), np.mean(chances), len(masses)) if masses else (np.nan, np.nan, 0))
        result[name] = np.array(numbers).T
    evenness = []
    for head in range(heads):
        values = []
        for entry in range(entries):
            for i in range(num_queries):
                row, visible = weights[entry, head, i], allowed[entry, head, i].sum()
                if visible > 1 and (real is None or i < real[entry]):
                    shares = row[row > 0] / row.sum()
                    keys = np.exp(-(shares * np.log(shares)).sum()) if len(shares) else 0.0
                    values.append(min(1.0, row.sum()) * keys / visible)
        evenness.append(np.mean(values) if values else np.nan)
    return result, np.array(evenness)


def check(portraits, expected, evenness, layer="attention"):
    """Compares portraits of one layer with what was restated."""
    assert set(portraits.mass[layer]) == set(expected)
    for name, (mass, chance, queries) in expected.items():
        assert_array_equal(portraits.queries[layer][name], queries, err_msg=name)
        assert_allclose(portraits.mass[layer][name], mass, rtol=2e-5, atol=1e-6, err_msg=name)
        assert_allclose(portraits.chance[layer][name], chance, rtol=2e-5, atol=1e-6, err_msg=name)
        assert_allclose(portraits.lift[layer][name], mass / chance, rtol=5e-5, atol=1e-5, err_msg=name)
    assert_allclose(portraits.evenness[layer], evenness, rtol=2e-5, err_msg="evenness")


def everywhere(sets, shape):
    """Gives sets ``[T, S]`` or ``[B, T, S]`` the shape ``[B, N, T, S]``."""
    return {name: np.broadcast_to(x if x.ndim == 2 else x[:, None], shape) for name, x in sets.items()}


def by_entry(*of_entries):
    """Stacks the sets of batch entries."""
    return {name: np.stack([of[name] for of in of_entries]) for name in of_entries[0]}


def visible(filter):
    """Tells which keys the mask of a filter allows: ``[*batch, N, T, S]``."""
    uniform = jattn.attention_filter(jnp.zeros_like(filter.query), jnp.zeros_like(filter.key), mask=filter.program.mask)
    return np.asarray(uniform.weights()) > 0


TOKENS = np.array([[0, 1, 0, 2, 2, 0, 1, 1, 0], [3, 3, 1, 2, 3, 1, 2, 0, 0]])
QUERY, KEY = np.indices((9, 9))
MASKS = {
    "none": None,
    "causal": masks.causal(),
    "by head": masks.from_function(lambda head, query, key: (head + query * key) % 3 != 0),
    # Arrays of one shape, which share a program.
    "no keys for the first": np.broadcast_to(KEY <= QUERY - 2, (2, 4, 9, 9)),
    "window": np.broadcast_to((QUERY - 4 <= KEY) & (KEY <= QUERY + 1), (2, 4, 9, 9)),
    "padding": np.broadcast_to(np.array([5, 9])[:, None, None, None] > KEY, (2, 4, 9, 9)),
    "array": rng(3).random((2, 4, 9, 9)) < 0.4,
}


@sampled(("heads", "name"), [*(("walked", name) for name in MASKS), ("at once", "causal")], indirect=["heads"], keep=1)
def test_every_number_is_what_loops_make_of_the_weights(heads, name):
    query, key, _ = inputs(9, 9)
    filter = jattn.attention_filter(query, key, mask=MASKS[name], block_size=4)
    oracle = rng(4).random((2, 9, 9)) < 0.2
    sets = by_entry(*(restated_sets(9, 9, tokens, tokens, band=2) for tokens in TOKENS))
    expected = restated(filter.weights(), visible(filter), everywhere(sets | {"oracle": oracle}, filter.shape))
    check(head_portraits(filter, jnp.asarray(TOKENS), band=2, oracle=oracle), *expected)


NORMALIZERS = {
    "softmax_plus_one": normalizers.softmax_plus_one(1.0),
    "sigmoid, rows above one": normalizers.sigmoid(jnp.array(0.0)),
    "sigmoid, rows below one": normalizers.sigmoid(jnp.array(-5.0)),
    "sparsemax": normalizers.sparsemax(),
    "top_k": normalizers.top_k(3),
}


@pytest.mark.exhaustive
@sampled("name", NORMALIZERS, keep=1)
def test_chance_counts_keys_and_mass_counts_weights_whatever_the_normalizer(name):
    query, key, _ = inputs(9, 9)
    filter = jattn.attention_filter(query, key, mask=masks.causal(), normalizer=NORMALIZERS[name])
    sets = everywhere(restated_sets(9, 9, TOKENS[0], TOKENS[0]), filter.shape)
    check(head_portraits(filter, TOKENS[0]), *restated(filter.weights(), visible(filter), sets))


@pytest.mark.exhaustive
@sampled("name", ["cosine, bias, combination", "bias: alibi, later", "scale by head, bias, array"], keep=1)
def test_scores_and_biases_of_a_call_are_in_its_portraits(name):
    query, key, _ = inputs()
    filter = jattn.attention_filter(query, key, **VARIANTS[name].call)
    sets = everywhere(restated_sets(7, 9, offset=None), filter.shape)
    check(head_portraits(filter), *restated(filter.weights(), visible(filter), sets))


def test_queries_beyond_the_lengths_are_not_judged_and_leave_no_trace():
    query, key, _ = inputs(9, 9)
    query = query.at[0, 4:].set(jnp.nan)
    filter = jattn.attention_filter(query, key, mask=masks.causal())
    sets = by_entry(*(restated_sets(9, 9, tokens, tokens) for tokens in TOKENS))
    weights = np.nan_to_num(filter.weights())
    expected = restated(weights, visible(filter), everywhere(sets, filter.shape), real=[4, 7])
    check(head_portraits(filter, TOKENS, lengths=jnp.array([4, 7])), *expected)


@pytest.mark.exhaustive
@sampled("offset", [0, 2], keep=1)
def test_queries_in_the_middle_of_the_keys_have_the_patterns_of_their_positions(offset):
    query, key, _ = inputs(5, 9)
    filter = jattn.attention_filter(query, key, mask=masks.causal(offset))
    sets = by_entry(*(restated_sets(5, 9, x, x[offset : offset + 5], offset) for x in TOKENS))
    expected = restated(filter.weights(), visible(filter), everywhere(sets, filter.shape))
    check(head_portraits(filter, TOKENS, offset=offset), *expected)


def test_queries_of_another_sequence_have_no_patterns_of_positions():
    query, key, _ = inputs(5, 9)
    filter = jattn.attention_filter(query, key)
    query_tokens = TOKENS[:, 2:7] % 3
    sets = by_entry(*(restated_sets(5, 9, x, y, None) for x, y in zip(TOKENS, query_tokens, strict=True)))
    expected = restated(filter.weights(), visible(filter), everywhere(sets, filter.shape))
    assert set(sets) == {"first token", "same token", "induction"}
    check(head_portraits(filter, TOKENS, query_tokens=query_tokens), *expected)


def test_as_many_queries_as_keys_of_another_sequence_have_no_patterns_of_positions_either():
    filter = jattn.attention_filter(*inputs(9, 9)[:2])
    portraits = head_portraits(filter, TOKENS, query_tokens=TOKENS[:, ::-1])
    assert set(portraits.mass["attention"]) == {"first token", "same token", "induction"}


@pytest.mark.exhaustive
@sampled(("batch", "tokens"), [((), TOKENS[0]), ((1,), TOKENS[:1]), ((2, 2), np.stack([TOKENS, TOKENS[::-1]]))], keep=1)
def test_portraits_are_means_over_a_batch_of_any_rank(batch, tokens):
    query, key, _ = inputs(9, 9, batch=batch)
    filter = jattn.attention_filter(query, key, mask=masks.causal())
    sets = by_entry(*(restated_sets(9, 9, x, x) for x in tokens.reshape(-1, 9)))
    shape = (len(tokens.reshape(-1, 9)), 4, 9, 9)
    flat = [np.asarray(x).reshape(shape) for x in (filter.weights(), visible(filter))]
    check(head_portraits(filter, tokens), *restated(*flat, everywhere(sets, shape)))


@pytest.mark.exhaustive
def test_tokens_without_a_batch_serve_all_entries():
    filter = jattn.attention_filter(*inputs(9, 9)[:2])
    shared, given = head_portraits(filter, TOKENS[0]), head_portraits(filter, np.stack([TOKENS[0]] * 2))
    jax.tree.map(assert_array_equal, shared, given)


ORACLES = {
    "[T, S]": rng(5).random((9, 9)) < 0.3,
    "[*batch, T, S]": rng(5).random((2, 9, 9)) < 0.3,
    "[*batch, 1, T, S]": rng(5).random((2, 1, 9, 9)) < 0.3,
    "[*batch, N, T, S]": rng(5).random((2, 4, 9, 9)) < 0.3,
}


@sampled(
    ("heads", "name"),
    [*(("walked", name) for name in ORACLES), ("at once", "[*batch, N, T, S]")],
    indirect=["heads"],
    keep=1,
)
def test_an_oracle_may_differ_by_entry_and_by_head(heads, name):
    oracle = ORACLES[name]
    filter = jattn.attention_filter(*inputs(9, 9)[:2], mask=masks.causal())
    whole = np.broadcast_to(oracle[:, None] if oracle.ndim == 3 else oracle, filter.shape)
    expected, _ = restated(filter.weights(), visible(filter), {"oracle": whole})
    for kind in (oracle, jnp.asarray(oracle)):
        portraits = head_portraits(filter, oracle=kind)
        assert_allclose(portraits.mass["attention"]["oracle"], expected["oracle"][0], rtol=2e-5)
        assert_allclose(portraits.chance["attention"]["oracle"], expected["oracle"][1], rtol=2e-5)


def test_an_oracle_of_one_entry_without_a_batch_may_differ_by_head():
    oracle = rng(5).random((4, 9, 9)) < 0.3
    filter = jattn.attention_filter(*inputs(9, 9, batch=())[:2])
    expected, _ = restated(filter.weights()[None], visible(filter)[None], {"oracle": oracle[None]})
    assert_allclose(head_portraits(filter, oracle=oracle).mass["attention"]["oracle"], expected["oracle"][0], rtol=2e-5)


@pytest.mark.exhaustive
def test_several_named_sets_are_columns_of_their_own():
    filter = jattn.attention_filter(*inputs(9, 9)[:2])
    portraits = head_portraits(filter, oracle={"two back": patterns.itself(-2), "far": masks.causal(-4)})
    assert portraits.patterns[-2:] == ("two back", "far")
    assert columns(portraits)[-2:] == ["two back", "far"]
    band = head_portraits(filter, oracle=masks.sliding_window(3, 3)).mass["attention"]
    assert_array_equal(band["oracle"], band["local band"])


def test_a_query_without_a_choice_is_not_judged():
    zeros = jnp.zeros((4, 1, 2))
    causal = head_portraits(jattn.attention_filter(zeros, zeros, mask=masks.causal()), band=3)
    queries = {name: int(x[0]) for name, x in causal.queries["attention"].items()}
    assert queries == {"itself": 3, "previous token": 3, "next token": 0, "local band": 0, "first token": 3}
    assert np.isnan(causal.mass["attention"]["local band"]).all()
    assert columns(causal) == ["itself", "previous token", "first token"]


@pytest.mark.exhaustive
def test_half_precision_is_measured_in_float32():
    query, key, _ = inputs(9, 9, dtype=jnp.bfloat16)
    filter = jattn.attention_filter(query, key, mask=masks.causal())
    sets = everywhere(restated_sets(9, 9, TOKENS[0], TOKENS[0]), filter.shape)
    portraits = head_portraits(filter, TOKENS[0])
    assert {x.dtype.name for x in jax.tree.leaves((portraits.mass, portraits.evenness))} == {"float32"}
    check(portraits, *restated(filter.weights(), visible(filter), sets))


@pytest.mark.exhaustive
def test_portraits_are_the_same_under_jit():
    filters = {f"block_{i}/attention": jattn.attention_filter(*inputs(9, 9, seed=i)[:2]) for i in (0, 10, 2)}
    oracle = {"z": ORACLES["[T, S]"], "a": masks.causal()}

    def measure(filters, tokens, lengths):
        return head_portraits(filters, tokens, lengths=lengths, oracle=oracle)

    arguments = filters, jnp.asarray(TOKENS), jnp.array([9, 5])
    eager, jitted = measure(*arguments), jax.jit(measure)(*arguments)
    assert isinstance(jitted, HeadPortraits)
    jax.tree.map(lambda x, y: assert_allclose(x, y, rtol=1e-5, atol=1e-7), eager, jitted)
    assert str(eager) == str(jitted)
    assert list(jitted.names()) == ["block_0/attention", "block_2/attention", "block_10/attention"]
    assert columns(jitted)[-2:] == ["z", "a"]


def test_inputs_are_left_as_they_are():
    filter = jattn.attention_filter(*inputs(9, 9)[:2])
    filters, tokens, oracle = {"a": filter}, TOKENS.copy(), {"mine": ORACLES["[T, S]"].copy()}
    str(head_portraits(filters, tokens, oracle=oracle, lengths=np.array([3, 4])))
    assert filters == {"a": filter}
    assert_array_equal(tokens, TOKENS)
    assert_array_equal(oracle["mine"], ORACLES["[T, S]"])


@pytest.mark.exhaustive
def test_mass_has_a_gradient():
    query, key, _ = inputs(9, 9, batch=(), heads=2, kv_heads=1)

    @jax.jit
    def mass(query):
        filter = jattn.attention_filter(query, key, mask=masks.causal())
        return head_portraits(filter, TOKENS[0]).mass["attention"]["induction"][1]

    slope = jax.grad(mass)(query)
    assert_array_equal(slope[:, 0], 0)
    length = jnp.linalg.norm(slope)
    step = 1e-2 * slope / length
    assert_allclose((mass(query + step) - mass(query - step)) / 2e-2, length, rtol=1e-2)
    assert length > 1e-3


# Planted heads

LENGTHS = {16: 6, 500: 40}
"""The lengths, and how many different tokens there are at each."""


def tokens_of(length, batch=()):
    """Draws tokens."""
    return rng(length).integers(0, LENGTHS[length], (*batch, length))


def planted(name, tokens, causal, strength=30.0):
    """Makes a bias ``[*batch, 1, T, S]`` that lets a head look at a pattern, and at the first key where it cannot."""
    length = tokens.shape[-1]
    i, j = np.arange(length)[:, None], np.arange(length)
    same = tokens[..., :, None] == tokens[..., None, :]
    before = np.concatenate([np.zeros_like(same[..., :1]), same[..., :-1]], axis=-1)
    chosen = {
        "itself": j == i,
        "previous token": j == i - 1,
        "next token": j == i + 1,
        "local band": abs(i - j) <= 3,
        "first token": j == 0,
        "same token": same,
        "duplicate token": same & (i != j),
        "induction": before & (j <= i),
        "oracle": j == (i // 2 if causal else length - 1 - i),
        "uniform": np.zeros((length, length), bool),
    }[name]
    chosen = np.broadcast_to(chosen, (*tokens.shape[:-1], length, length))[..., None, :, :]
    return np.where(chosen, strength, np.where((j == 0) & (name != "uniform"), strength / 2, 0)).astype(np.float32)


@sampled(
    ("causal", "length", "batch"), [(False, 16, ()), (True, 16, (2,)), (False, 500, (2,)), (True, 500, ())], keep=1
)
def test_planted_heads_get_their_names(causal, length, batch):
    names = ["itself", "previous token", "next token", "local band", "first token"]
    names += ["same token", "duplicate token", "induction", "oracle", "uniform"]
    names = [name for name in names if not (causal and name == "next token")]
    tokens = tokens_of(length, batch)
    bias = np.concatenate([planted(name, tokens, causal) for name in names], axis=-3)
    zeros = jnp.zeros((*batch, length, len(names), 2))
    filter = jattn.attention_filter(zeros, zeros, bias=bias, mask=masks.causal() if causal else None)
    place = np.arange(length)
    oracle = place == (place[:, None] // 2 if causal else length - 1 - place[:, None])
    portraits = head_portraits(filter, tokens, oracle=oracle)
    assert portraits.names() == {"attention": names}
    assert portraits.heads("induction") == {"attention": [names.index("induction")]}
    for name in names[:-1]:
        assert_allclose(portraits.mass["attention"][name][names.index(name)], 1, atol=1e-5)


@pytest.mark.exhaustive
def test_heads_made_of_queries_and_keys_get_their_names():
    # One-hot positions and tokens, as a trained head would have to encode them; batch entries differ.
    tokens = rng(0).integers(0, 8, (3, 40))
    place, token = np.eye(40), 50 * np.eye(8)[tokens]
    before = np.concatenate([np.zeros((3, 1, 8)), np.eye(8)[tokens[:, :-1]]], axis=1)
    vectors = {
        "previous token": (np.roll(50 * place, -1, axis=1), place),
        "induction": (token, before),
        "same token": (token, np.eye(8)[tokens]),
        "first token": (np.full((40, 1), 50.0), place[:, :1]),
    }

    def stack(which):
        arrays = [np.broadcast_to(x[which], (3, 40, x[which].shape[-1])) for x in vectors.values()]
        return np.stack([np.pad(x, ((0, 0), (0, 0), (0, 40 - x.shape[-1]))) for x in arrays], axis=-2)

    query, key = (jnp.asarray(stack(which), jnp.float32) * 40**0.25 for which in (0, 1))
    filter = jattn.attention_filter(query, key, mask=masks.causal())
    assert head_portraits(filter, tokens).names() == {"attention": list(vectors)}


@pytest.mark.exhaustive
@sampled("name", ["itself", "previous token", "induction", "same token", "first token", "local band"], keep=1)
def test_a_head_that_does_it_half_of_the_time_still_gets_its_name(name):
    length, tokens = 500, tokens_of(500)
    weights = np.stack([planted(name, tokens, True)[0], np.zeros((length, length), np.float32)])
    causal = np.tril(np.ones((length, length), bool))
    parts = np.asarray(jax.nn.softmax(np.where(causal, weights, -np.inf), axis=-1))
    zeros = jnp.zeros((length, 1, 2))
    bias = jnp.log(0.5 * parts[:1] + 0.5 * parts[1:] + 1e-30)
    filter = jattn.attention_filter(zeros, zeros, bias=bias, mask=masks.causal())
    portraits = head_portraits(filter, tokens)
    assert 0.5 <= portraits.mass["attention"][name][0] < 0.7
    assert portraits.names() == {"attention": [name]}


@sampled("period", [3, 20, 125], keep=1)
def test_an_induction_head_on_a_repeated_sequence_is_no_previous_token_head(period):
    tokens = np.tile(np.random.default_rng(0).permutation(period), 500 // period + 1)[:500]
    zeros = jnp.zeros((500, 2, 2))
    names = ["induction", "previous token"]
    bias = np.concatenate([planted(name, tokens, True) for name in names])
    filter = jattn.attention_filter(zeros, zeros, bias=bias, mask=masks.causal())
    assert head_portraits(filter, tokens).names() == {"attention": names}


@pytest.mark.exhaustive
@sampled("mask", [None, masks.causal()], keep=1)
@sampled("length", [16, 500], keep=1)
def test_random_heads_are_near_chance_and_get_no_name(length, mask):
    query, key = jax.random.normal(jax.random.key(length), (2, 8, length, 8, 16))
    tokens = rng(length).integers(0, 10, (8, length))
    filter = jattn.attention_filter(query, key, mask=mask)
    oracle = np.eye(length, dtype=bool)[::-1]
    portraits = jax.jit(lambda filter, tokens: head_portraits(filter, tokens, oracle=oracle))(filter, tokens)
    lift = {name: x for name, x in portraits.lift["attention"].items() if name in columns(portraits)}
    assert len(lift) == 9 - (mask is not None)
    for name, of_heads in lift.items():
        assert_allclose(np.mean(of_heads), 1, atol=0.1, err_msg=name)
    assert set(portraits.names()["attention"]) == {"mixed"}


@pytest.mark.exhaustive
def test_of_a_few_queries_random_heads_get_no_name_either():
    # Among 16 tokens of 50 hardly any query is judged by duplicates and induction.
    @jax.jit
    def measure(query, key, tokens):
        return head_portraits(jattn.attention_filter(query, key, mask=masks.causal()), tokens)

    for seed in range(20):
        query, key = jax.random.normal(jax.random.key(seed), (2, 16, 8, 16))
        portraits = measure(query, key, rng(seed).integers(0, 50, 16))
        assert set(portraits.names()["attention"]) == {"mixed"}


@pytest.mark.exhaustive
def test_one_query_is_no_evidence_and_the_same_query_of_many_entries_is():
    tokens = np.array([[1, 2, 3, 1, 4, 5]])
    for entries, name in ((1, "mixed"), (8, "duplicate token")):
        zeros = jnp.zeros((entries, 6, 1, 2))
        bias = np.where((np.arange(6)[:, None] == 3) & (np.arange(6) == 0), 30, 2.0 * (np.arange(6) == 1))
        filter = jattn.attention_filter(zeros, zeros, bias=bias.astype(np.float32), mask=masks.causal())
        portraits = head_portraits(filter, tokens.repeat(entries, axis=0))
        assert portraits.queries["attention"]["duplicate token"] == entries
        assert portraits.names() == {"attention": [name]}


def test_an_even_head_is_uniform_and_one_that_looks_away_is_not():
    zeros = jnp.zeros((2, 30, 3, 4))
    sink = jnp.array([-jnp.inf, 0.0, 8.0]).reshape(3, 1, 1)
    filter = jattn.attention_filter(zeros, zeros, normalizer=normalizers.softmax_plus_one(sink))
    portraits = head_portraits(filter)
    assert_allclose(portraits.evenness["attention"], [1, 30 / 31, 30 / (30 + np.exp(8))], rtol=1e-5)
    assert portraits.names() == {"attention": ["uniform", "uniform", "mixed"]}


@pytest.mark.exhaustive
def test_of_equal_patterns_an_oracle_comes_first_then_the_order_of_patterns():
    zeros, tokens = jnp.zeros((16, 1, 2)), np.arange(16)
    filter = jattn.attention_filter(zeros, zeros, bias=planted("itself", tokens, False))
    assert head_portraits(filter, tokens).names() == {"attention": ["itself"]}
    assert head_portraits(filter, tokens, oracle=np.eye(16, dtype=bool)).names() == {"attention": ["oracle"]}
    assert head_portraits(filter, tokens, oracle={"copy": patterns.itself()}).heads("copy") == {"attention": [0]}


@pytest.mark.exhaustive
def test_a_pattern_that_holds_a_little_weight_gives_no_name():
    # Weight p on the previous token and the rest spread evenly has an excess of p.
    zeros, length = jnp.zeros((100, 2, 2)), 100
    one_back = np.eye(length, k=-1)
    parts = np.array([EXCESS - 0.02, EXCESS + 0.02])[:, None, None]
    bias = jnp.log(jnp.asarray(parts * one_back + (1 - parts) / length, jnp.float32))
    assert head_portraits(jattn.attention_filter(zeros, zeros, bias=bias)).names() == {
        "attention": ["mixed", "previous token"]
    }


def test_a_head_without_a_choice_or_with_nan_is_unknown():
    one = jnp.zeros((1, 2, 4))
    assert head_portraits(jattn.attention_filter(one, one)).names() == {"attention": ["unknown", "unknown"]}
    query, key, _ = inputs(9, 9)
    filter = jattn.attention_filter(query.at[0, 3, 1].set(jnp.nan), key, mask=masks.causal())
    names = head_portraits(filter).names()["attention"]
    assert [name == "unknown" for name in names] == [False, True, False, False]


@pytest.mark.exhaustive
def test_a_trained_layer_is_measured_through_capture_filters_and_the_oracle_of_its_task():
    task = tasks.reverse(10)
    batch = tasks.make_batch(task, tasks.LAYOUTS["encoder"], jax.random.key(0), jnp.arange(4), lengths=(3, 12), room=12)
    layer = jattn.MultiHeadAttention(num_heads=2)
    x = jax.nn.one_hot(batch.inputs["tokens"], 16)
    lengths = batch.inputs["lengths"]
    variables = layer.init(jax.random.key(0), x)
    _, filters = jattn.capture_filters(layer, variables, x, mask=masks.padding(lengths))
    portraits = head_portraits(filters, batch.inputs["tokens"], lengths=lengths, oracle=batch.oracle)
    expected = filters["attention"].mass(batch.oracle[:, None])
    judged = np.arange(12) < np.asarray(lengths)[:, None]
    assert_allclose(portraits.mass["attention"]["oracle"], [expected[:, n][judged].mean() for n in range(2)], rtol=1e-5)


# Joining


def portraits_of(*layers, num_heads=2, **call):
    """Makes portraits of random layers."""
    filters = {
        layer: jattn.attention_filter(*inputs(9, 9, heads=num_heads, kv_heads=num_heads, seed=seed)[:2], **call)
        for seed, layer in enumerate(layers)
    }
    return head_portraits(filters)


def test_portraits_of_different_layers_are_joined():
    self_attention = portraits_of("decoder/attention", mask=masks.causal())
    cross = jattn.attention_filter(*inputs(5, 9)[:2])
    both = self_attention | head_portraits(
        {"decoder/cross": cross}, TOKENS, query_tokens=TOKENS[:, :5], oracle={"it": masks.causal()}
    )
    assert list(both.names()) == ["decoder/attention", "decoder/cross"]
    assert columns(both) == [
        "itself",
        "previous token",
        "local band",
        "first token",
        "same token",
        "induction",
        "it",
    ]
    assert_array_equal(both.mass["decoder/attention"]["itself"], self_attention.mass["decoder/attention"]["itself"])
    with pytest.raises(ValueError, match="expected different layers to join, got 'decoder/attention' twice"):
        both | self_attention
    with pytest.raises(TypeError):
        both | {}


# Bad input

FILTER = jattn.attention_filter(*inputs(5, 9)[:2])
SQUARE = jattn.attention_filter(*inputs(9, 9)[:2])


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"filters": {}}, ValueError, "filters: expected an AttentionFilter, or a dict of them by layer, got none"),
        ({"filters": (1, {"a": SQUARE})}, TypeError, "filters: expected an AttentionFilter.*got tuple"),
        ({"filters": {"a": SQUARE.weights()}}, TypeError, "got .*Array.* for 'a'"),
        (
            {"tokens": TOKENS[:, :5]},
            ValueError,
            r"layer 'attention': tokens: expected shape \(9,\) or \(2, 9\), got \(2, 5\)",
        ),
        ({"tokens": TOKENS[:1]}, ValueError, r"expected shape \(9,\) or \(2, 9\), got \(1, 9\)"),
        ({"tokens": TOKENS + 0.5}, TypeError, "tokens: expected an array of integers.*float64"),
        ({"tokens": "abc"}, TypeError, "tokens: expected an array of integers.*str"),
        ({"tokens": np.array(3)}, ValueError, "tokens: expected an array of integers.*scalar"),
        ({"query_tokens": TOKENS}, ValueError, "query_tokens: expected tokens as well"),
        ({"tokens": TOKENS, "query_tokens": TOKENS[:, :5]}, ValueError, r"query_tokens: expected shape \(9,\) or"),
        (
            {"filters": {"x": FILTER}, "tokens": TOKENS},
            ValueError,
            "layer 'x': tokens: 5 queries and 9 keys need query_tokens",
        ),
        (
            {"filters": FILTER, "tokens": TOKENS, "offset": 5},
            ValueError,
            "offset: expected 0 to 4 for 5 queries.*got 5",
        ),
        (
            {"filters": FILTER, "tokens": TOKENS, "offset": -1},
            ValueError,
            "offset: expected 0 to 4 for 5 queries.*got -1",
        ),
        ({"offset": 1.0}, TypeError, r"offset must be an int or None, got 1\.0"),
        ({"offset": True}, TypeError, "offset must be an int or None, got True"),
        ({"band": -1}, ValueError, "band must be at least 0, got -1"),
        ({"filters": FILTER, "band": -1}, ValueError, "band must be at least 0, got -1"),
        ({"band": 1.5}, TypeError, r"band must be an int, got 1\.5"),
        (
            {"lengths": jnp.array([1, 2, 3])},
            ValueError,
            r"lengths: expected one per batch entry, of shape \(2,\), got \(3,\)",
        ),
        ({"lengths": jnp.array([1.0, 2.0])}, TypeError, "lengths: expected integers.*got float32"),
        ({"lengths": "all"}, TypeError, "lengths: expected integers.*got str"),
        (
            {"oracle": np.ones((9, 5), bool)},
            ValueError,
            r"oracle 'oracle': .*\(9, 9\) or \(2, 9, 9\) or \(2, 4, 9, 9\), got \(9, 5\)",
        ),
        ({"oracle": np.ones((4, 9, 9), bool)}, ValueError, r"got \(4, 9, 9\)"),
        (
            {"oracle": {"mine": np.ones((9, 9))}},
            TypeError,
            "oracle 'mine': expected a mask or an array of booleans.*float64",
        ),
        ({"oracle": [[True]]}, TypeError, "oracle 'oracle': expected a mask or an array of booleans.*list"),
        (
            {"oracle": {"induction": masks.causal()}},
            ValueError,
            "oracle: expected a name other than .*, got 'induction'",
        ),
        ({"oracle": {"mixed": masks.causal()}}, ValueError, "oracle: expected a name other than .*, got 'mixed'"),
        ({"oracle": {3: masks.causal()}}, TypeError, "oracle: expected sets of keys by name, got 3"),
    ],
)
def test_what_does_not_fit_is_named(arguments, error, message):
    with pytest.raises(error, match=message):
        head_portraits(**({"filters": SQUARE} | arguments))
