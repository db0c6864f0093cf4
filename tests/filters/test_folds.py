import functools
import inspect
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from jax.test_util import check_grads
from numpy.testing import assert_allclose, assert_array_equal

from jattn import AttentionFilter, attend, attention_filter, biases, folds, masks, normalizers
from jattn.filters.largest import largest
from tests import reference
from tests.filters import fold_reference
from tests.sampled import sampled
from tests.variants import HEADS, KEYS, MASKS, QUERIES, SHAPE, TOGETHER, VARIANTS, inputs

close = functools.partial(assert_allclose, rtol=3e-5, atol=3e-5)

EDGES = (0.0, 0.013, 0.2, 1.0)
"""Edges of a histogram that no weight of the variants falls upon, but 0 and 1."""

FOLDS = {
    "entropy": (folds.entropy(), fold_reference.entropy),
    "effective_keys": (folds.effective_keys(), fold_reference.effective_keys),
    "max": (folds.max(), fold_reference.largest),
    "expected_distance": (folds.expected_distance(3), fold_reference.expected_distance(3)),
    "mass": (folds.mass(masks.causal(1)), fold_reference.mass(lambda entry, head, i, j: j <= i + 1)),
    "sink_mass": (folds.sink_mass(2), fold_reference.sink_mass(2)),
    "received": (folds.received(), fold_reference.received),
    "pool": (folds.pool(3, 4), fold_reference.pool(3, 4)),
    "pool of another size": (folds.pool(7, 1), fold_reference.pool(7, 1)),
    "whole": (lambda weights, grid: weights, lambda weights: weights),
    "columns": (folds.from_function(lambda weights, grid: weights.sum(-2), jnp.add), fold_reference.received),
    "largest of all": (
        folds.from_function(lambda weights, grid: weights.max((-1, -2)), jnp.maximum, initial=-jnp.inf),
        lambda weights: weights.max((-1, -2)),
    ),
}
"""Folds that are compared number by number, each with its reference. Ranks and counts are compared on their own."""

COMPARED_ON_THEIR_OWN = {"argmax", "top_k", "histogram", "log_normalizer", "max_score"}
"""Folds whose results are ranks, counts or no weights: tests of their own compare them."""

MOST = ["entropy", "max", "mass", "received", "pool", "whole"]
"""Those that the whole table of variants is asked."""


def test_every_fold_has_a_reference():
    methods = {name for name in vars(folds.FoldMethods) if name[0] != "_"}
    assert methods - set(FOLDS) == COMPARED_ON_THEIR_OWN


@functools.cache
def weights_of(name):
    """Computes the weights of a variant by the reference."""
    query, key, _ = inputs()
    return reference.attention_filter(query, key, **(VARIANTS | TOGETHER)[name].rules)


def check_ranks(found, weights):
    """Checks the largest weights and their keys; among weights that rounding makes equal the keys may change places."""
    expected, _ = fold_reference.top_k(found.keys.shape[-1])(weights)
    close(found.weights, expected)
    keys = np.asarray(found.keys)
    assert ((keys >= 0) == (np.asarray(found.weights) > 0)).all()
    at_keys = np.take_along_axis(weights, np.maximum(keys, 0), axis=-1)
    close(found.weights, np.where(keys < 0, 0, at_keys))
    for row in np.ndindex(*keys.shape[:-1]):
        real = keys[row][keys[row] >= 0]
        assert len(set(real)) == len(real)


def check_all(filter, weights, names=FOLDS):
    """Asks a filter everything in one sweep."""
    asked = {name: FOLDS[name][0] for name in names} | ({"argmax": folds.argmax()} if names is FOLDS else {})
    found = filter.summarize(best=folds.top_k(4), **asked)
    for name in names:
        close(found[name], FOLDS[name][1](weights), err_msg=name)
    check_ranks(found["best"], weights)
    if "argmax" in found:
        assert found["argmax"].dtype == found["best"].keys.dtype == jnp.int32
        at_argmax = np.take_along_axis(weights, np.asarray(found["argmax"])[..., None], axis=-1)[..., 0]
        close(at_argmax, fold_reference.largest(weights))


# Every fold of every variant


@sampled("name", TOGETHER, keep=2)
def test_every_fold_of_every_variant_is_the_reference(name):
    query, key, _ = inputs()
    check_all(attention_filter(query, key, **TOGETHER[name].call), weights_of(name), MOST)


@pytest.mark.exhaustive
@sampled(
    ("heads", "name"),
    [
        ("walked", "mask: window"),
        ("walked", "cosine, bias, combination"),
        ("walked", "sparsemax, causal, bias"),
        ("at once", "mask: window"),
        ("at once", "top_k, cosine by head, combination"),
        ("at once", "sink by head, additive by head, padding"),
    ],
    indirect=["heads"],
    keep=1,
)
def test_folds_do_not_depend_on_blocks(heads, name):
    query, key, _ = inputs()
    check_all(attention_filter(query, key, block_size=3, **VARIANTS[name].call), weights_of(name))


@sampled("name", ["mask: causal, first rows empty", "normalizer: softmax_plus_one, sink by head"], keep=1)
def test_half_precision_folds_are_those_of_the_rounded_inputs(name):
    query, key, _ = inputs(dtype=jnp.bfloat16)
    weights = reference.attention_filter(query, key, **VARIANTS[name].rules)
    check_all(attention_filter(query, key, block_size=4, **VARIANTS[name].call), weights, ["entropy", "pool", "max"])


@sampled(
    ("heads", "name"),
    [
        ("walked", "mask: no mask"),
        ("walked", "mask: window"),
        ("at once", "mask: array"),
        ("at once", "normalizer: sigmoid"),
    ],
    indirect=["heads"],
    keep=1,
)
def test_a_histogram_counts_the_weights_of_allowed_keys(heads, name):
    query, key, _ = inputs()
    rule = VARIANTS[name].rules.get("mask", reference.everywhere)
    for block_size in (None, 2):
        filter = attention_filter(query, key, block_size=block_size, **VARIANTS[name].call)
        counts = filter.histogram(EDGES)
        assert_array_equal(counts, fold_reference.histogram(EDGES, rule)(weights_of(name)))
    allowed = sum(rule((0,), 0, i, j) for i in range(QUERIES) for j in range(KEYS))
    assert counts[0, 0].sum() == allowed


def test_a_histogram_of_a_number_of_bins_covers_zero_to_one():
    filter = attention_filter(jnp.zeros((2, 1, 2)), jnp.zeros((2, 1, 2)), mask=masks.causal())
    assert filter.histogram(4).tolist() == [[0, 0, 2, 1]]


@pytest.mark.exhaustive
def test_the_log_normalizer_is_what_rows_are_divided_by():
    (query, key, _), variant = inputs(), VARIANTS["cosine, bias, combination"]
    filter = attention_filter(query, key, **variant.call)
    scores = np.where(weights_of("cosine, bias, combination") > 0, filter.scores(), -np.inf)
    expected = np.log(np.exp(scores.astype(np.float64)).sum(axis=-1))
    for block_size in (None, 3):
        found = attention_filter(query, key, block_size=block_size, **variant.call).summarize(
            "log_normalizer", "max_score"
        )
        close(found["log_normalizer"], expected)
        close(found["max_score"], scores.max(axis=-1))
        assert found["log_normalizer"].dtype == jnp.float32


def test_an_empty_row_is_divided_by_nothing():
    filter = attention_filter(jnp.ones((2, 1, 2)), jnp.ones((2, 1, 2)), mask=masks.causal(-1))
    assert filter.log_normalizer().tolist() == [[-math.inf, pytest.approx(math.sqrt(2))]]
    assert filter.max_score().tolist() == [[-math.inf, pytest.approx(math.sqrt(2))]]
    assert filter.top_k(1).keys.tolist() == [[[-1], [0]]]
    assert filter.effective_keys().tolist() == [[0, 1]]


def test_a_sink_has_its_part_in_the_log_normalizer():
    filter = attention_filter(jnp.zeros((1, 1, 2)), jnp.zeros((3, 1, 2)), normalizer=normalizers.softmax_plus_one(1.0))
    close(filter.log_normalizer(), [[np.log(3 + np.e)]])
    close(filter.entropy(), [[np.log(3)]])
    close(filter.max(), [[1 / (3 + np.e)]])


def test_the_log_normalizer_in_half_precision_is_a_natural_logarithm_in_float32():
    query, key, _ = inputs(dtype=jnp.bfloat16)
    found = attention_filter(query, key).log_normalizer()
    assert found.dtype == jnp.float32
    scores = attention_filter(query.astype(jnp.float32), key.astype(jnp.float32)).scores()
    close(found, jax.nn.logsumexp(scores, axis=-1))


@pytest.mark.parametrize("score", [1e4, -1e4])
def test_folds_of_huge_scores_are_finite(score):
    filter = attention_filter(jnp.ones((3, 1, 1)), jnp.full((3, 1, 1), score), bias=jnp.array([0.0, 0.0, -30.0]))
    found = filter.summarize("entropy", "log_normalizer", "max")
    close(found["entropy"], np.full((1, 3), np.log(2)))
    close(found["log_normalizer"], np.full((1, 3), score + np.log(2)), rtol=1e-6)
    close(found["max"], np.full((1, 3), 0.5))


# Sizes


@pytest.mark.exhaustive
@given(data=st.data())
@settings(max_examples=5, deadline=None)
def test_folds_of_any_sizes_are_the_reference(data):
    rows, keys = data.draw(st.integers(1, 40), "rows"), data.draw(st.integers(1, 40), "keys")
    q_bins, k_bins = data.draw(st.integers(1, rows), "q_bins"), data.draw(st.integers(1, keys), "k_bins")
    k, block_size = data.draw(st.integers(1, keys), "k"), data.draw(st.sampled_from([1, 3, 8, 16]), "block_size")
    window = data.draw(st.sampled_from([None, 0, 4]), "window")
    query, key, _ = inputs(rows, keys, batch=(), heads=2, kv_heads=1)
    mask, rule = None, reference.everywhere
    if window is not None:
        mask, rule = masks.sliding_window(window, 1), lambda entry, head, i, j: i - window <= j <= i + 1
    weights = reference.attention_filter(query, key, mask=rule)
    filter = attention_filter(query, key, mask=mask, block_size=block_size)
    found = filter.summarize("received", "entropy", map=folds.pool(q_bins, k_bins), best=folds.top_k(k))
    close(found["map"], fold_reference.pool(q_bins, k_bins)(weights))
    close(found["received"], fold_reference.received(weights))
    close(found["entropy"], fold_reference.entropy(weights))
    check_ranks(found["best"], weights)


def test_a_map_of_every_query_and_key_is_the_filter():
    query, key, _ = inputs()
    filter = attention_filter(query, key, mask=masks.causal(), block_size=2)
    close(filter.pool(QUERIES, KEYS), weights_of("mask: causal"))


@pytest.mark.parametrize("queries", [0, 3])
def test_folds_of_no_queries_or_keys_are_empty_or_zero(queries):
    filter = attention_filter(jnp.zeros((queries, 1, 2)), jnp.zeros((3 - queries, 1, 2)))
    found = filter.summarize("entropy", "max", "argmax", "received", "effective_keys", "histogram")
    for name, shape in {"entropy": (1, queries), "received": (1, 3 - queries), "histogram": (1, 10)}.items():
        assert found[name].shape == shape
        assert not found[name].any()


# One sweep


@pytest.mark.exhaustive
def test_summarize_is_each_fold_by_itself():
    query, key, _ = inputs()
    filter = attention_filter(query, key, mask=masks.causal(1), block_size=3)
    asked = {"best": folds.top_k(2), "map": folds.pool(2, 2), "near": folds.mass(masks.sliding_window(1))}
    together = filter.summarize("entropy", "received", "max", **asked)
    assert list(together) == ["entropy", "received", "max", "best", "map", "near"]
    alone = {name: getattr(filter, name)() for name in ("entropy", "received", "max")}
    alone |= {name: filter.fold(fold) for name, fold in asked.items()}
    jax.tree.map(functools.partial(assert_allclose, rtol=1e-6, atol=1e-6), together, {n: alone[n] for n in together})


def test_the_scores_of_several_folds_are_computed_once():
    x = jax.ShapeDtypeStruct((512, 2, 16), jnp.float32)

    def products(**asked):
        def ask(query, key):
            return attention_filter(query, key, block_size=128).summarize(**asked)

        return jax.jit(ask).lower(x, x).compile().cost_analysis()["flops"]

    five = {"a": "entropy", "b": "max", "c": "received", "d": folds.pool(8, 8), "e": folds.top_k(4)}
    assert products(**five) < 2 * products(a="entropy")


def test_keys_that_a_mask_rules_out_are_not_computed_by_folds():
    x = jax.ShapeDtypeStruct((2048, 1, 64), jnp.float32)

    def flops(mask):
        def ask(query, key):
            return attention_filter(query, key, mask=mask, block_size=64).summarize("entropy", "received")

        return jax.jit(ask).lower(x, x).compile().cost_analysis()["flops"]

    assert flops(masks.sliding_window(63)) < 0.6 * flops(masks.from_function(lambda query, key: key <= query))


@pytest.mark.exhaustive
def test_some_heads_are_asked_alone():
    query, key, _ = inputs()
    filter = attention_filter(query, key, bias=biases.alibi(), mask=masks.causal(1), block_size=3)
    asked = {"map": folds.pool(3, 4), "best": folds.top_k(2), "near": folds.mass(MASKS["array of heads"].call["mask"])}
    every = filter.summarize("entropy", "received", **asked)
    some = filter.summarize("entropy", "received", heads=[3, -4], **asked)
    jax.tree.map(functools.partial(assert_allclose, rtol=1e-5), some, jax.tree.map(lambda x: x[:, [3, 0]], every))


def test_heads_are_asked_for_by_their_indices():
    query, key, _ = inputs()
    filter = attention_filter(query, key)
    assert_allclose(filter.fold("max", heads=[-1]), filter.fold("max")[:, 3:], rtol=1e-6)
    with pytest.raises(ValueError, match="head index 4 is out of range for 4 heads"):
        filter.fold("max", heads=[4])
    for wrong in (1, [True], ["a"]):
        with pytest.raises(TypeError, match="heads: expected a list of head indices, got"):
            filter.fold("max", heads=wrong)
    assert attention_filter(query[:, :0], key).fold("max", heads=np.array([1])).shape == (2, 1, 0)


def test_nothing_asked_is_nothing_said():
    query, key, _ = inputs()
    assert attention_filter(query, key).summarize() == {}


def test_folds_compile_once(monkeypatch):
    query, key, _ = inputs()
    filter = attention_filter(query, key, mask=masks.causal())
    traced = []

    def count(weights, grid):
        traced.append(1)
        return weights.sum(-1)

    for scale in (1.0, 2.0, 3.0):
        attention_filter(scale * query, key, mask=masks.causal()).fold(count)
    assert len(traced) == 1
    assert filter.fold(count).shape == SHAPE[:-1]


# Functions


def test_a_fold_of_a_users_own_may_return_a_pytree():
    query, key, _ = inputs()
    fold = folds.from_function(
        lambda weights, grid: {"sum": weights.sum((-1, -2)), "most": weights.max((-1, -2))},
        lambda a, b: {"sum": a["sum"] + b["sum"], "most": jnp.maximum(a["most"], b["most"])},
        initial={"sum": 0, "most": -jnp.inf},
    )
    found = attention_filter(query, key, block_size=3).fold(fold)
    close(found["sum"], weights_of("mask: no mask").sum((-1, -2)))
    close(found["most"], weights_of("mask: no mask").max((-1, -2)))


@sampled("whole_rows", [True, False], keep=1)
def test_a_fold_says_whether_it_needs_keys_that_the_mask_rules_out(whole_rows):
    query, key, _ = inputs(64, 64, batch=())
    widths = []

    def count(weights, grid):
        widths.append(weights.shape[-1])
        return weights.sum((-1, -2))

    fold = folds.from_function(count, jnp.add, whole_rows=whole_rows)
    attention_filter(query, key, mask=masks.sliding_window(3), block_size=8).fold(fold)
    assert (min(widths) == 64) == whole_rows


# Gradients


@sampled("call", [{"mask": masks.causal(-1)}, {"bias": jnp.array([0, 0, 0, -200.0])}], keep=1)
def test_folds_have_finite_gradients(call):
    query, key, _ = inputs(4, 4)

    @jax.jit
    @functools.partial(jax.grad, argnums=(0, 1))
    def gradients(query, key):
        names = ["entropy", "max", "effective_keys", "expected_distance", "received", "sink_mass"]
        found = attention_filter(query, key, **call).summarize(*names)
        return sum(jnp.sum(found[name] ** 2) for name in names)

    assert all(np.isfinite(gradient).all() for gradient in gradients(query, key))


@pytest.mark.exhaustive
@sampled(
    "call",
    [
        {"mask": masks.causal(1), "block_size": 2},
        {"normalizer": normalizers.softmax_plus_one(jnp.array([0.3, -1.0])[:, None, None])},
        {"normalizer": normalizers.sigmoid(), "mask": masks.causal(1)},
    ],
    keep=1,
)
def test_gradients_of_folds_are_those_of_finite_differences(call):
    asked = ["entropy", "max", "effective_keys", "expected_distance", "received", "sink_mass"]
    soft = "normalizer" not in call
    with jax.enable_x64(True):
        query, key, _ = inputs(3, 4, batch=(), heads=2, kv_heads=1, dtype=np.float64)

        def everything(query, key):
            found = attention_filter(query, key, **call).summarize(
                *asked, *(["log_normalizer"] if soft else []), map=folds.pool(2, 2), best=folds.top_k(2)
            )
            return {**found, "best": found["best"].weights}

        check_grads(jax.jit(everything), (query, key), order=1, modes=["rev"], atol=1e-4, rtol=1e-4)


@pytest.mark.exhaustive
def test_the_log_normalizer_has_the_weights_for_its_gradient():
    query, key, _ = inputs()
    bias = jnp.zeros(SHAPE)

    def total(bias):
        return jnp.sum(attention_filter(query, key, bias=bias, mask=masks.causal(-2)).log_normalizer()[..., 2:])

    close(jax.grad(total)(bias), weights_of("mask: causal, first rows empty"))


@pytest.mark.exhaustive
def test_entropy_may_be_part_of_a_loss():
    query, key, value = inputs(batch=())

    @jax.jit
    def loss(key):
        filter = attention_filter(query, key)
        return jnp.mean(attend(query, key, value) ** 2) - 0.1 * jnp.mean(filter.entropy())

    before, slope = jax.jit(jax.value_and_grad(loss))(key)
    assert loss(key - 0.01 * slope) < before


# NaN


@sampled("block_size", [None, 2], keep=1)
def test_only_rows_that_may_see_a_bad_key_are_nan(block_size, heads):
    query, key, _ = inputs()
    filter = attention_filter(query, key.at[0, 3, 0, 0].set(np.nan), mask=masks.causal(), block_size=block_size)
    found = filter.summarize("entropy", "max", "max_score", "log_normalizer", "received", best=folds.top_k(1))
    bad = np.zeros(SHAPE[:-1], bool)
    bad[0, :2, 3:] = True
    for name in ("entropy", "max", "max_score", "log_normalizer"):
        assert_array_equal(np.isnan(found[name]), bad, err_msg=name)
    assert_array_equal(np.isnan(found["best"].weights[..., 0]), bad)
    assert_array_equal(np.isnan(found["received"]).any(-1), bad.any(-1))


@sampled("block_size", [None, 3], keep=1)
def test_a_row_of_nan_stays_in_its_bin(block_size):
    query, key, _ = inputs()
    filter = attention_filter(query.at[..., 6, 0, 0].set(np.nan), key, mask=masks.causal(), block_size=block_size)
    assert_array_equal(np.isnan(filter.pool(4, 2)).any(-1)[:, 0], np.broadcast_to([False, False, False, True], (2, 4)))


@sampled("block_size", [None, 2], keep=1)
def test_a_nan_that_no_row_of_a_loss_sees_has_no_part_in_its_gradient(block_size):
    """Padding may be queries too: whoever leaves their rows out of a loss gets the gradient of the others alone."""
    query, key, _ = inputs(6, 6, batch=(), heads=1, kv_heads=1)

    def loss(query, key):
        filter = attention_filter(query, key, mask=masks.causal(), block_size=block_size)
        names = ["entropy", "max", "effective_keys", "log_normalizer"]
        found = filter.summarize(*names, whole=folds.from_function(whole), best=folds.top_k(2))
        return sum(jnp.sum(found[name][:, :5]) for name in names) + jnp.sum(found["whole"][:, :5] ** 2)

    def whole(weights, grid):
        return weights

    gradients = jax.jit(jax.grad(loss, argnums=(0, 1)))
    for dirty in (query.at[5].set(np.nan), query.at[5].set(np.inf)):
        found = gradients(dirty, key.at[5].set(np.nan))
        for gradient, clean in zip(found, gradients(query, key), strict=True):
            close(gradient[:5], clean[:5])
            assert not gradient[5].any()


# The largest numbers of a row


@sampled(("k", "width"), [(1, 17), (16, 17), (17, 17), (5, 100), (1, 1000), (17, 1000), (5, 4097), (16, 4097)], keep=2)
def test_the_largest_are_those_of_sorting(k, width):
    rows = np.random.default_rng(k).integers(0, 50, (3, 4, width)).astype(np.float32)
    found, index = jax.jit(largest, static_argnums=1)(rows, k)
    expected = np.argsort(-rows, axis=-1, kind="stable")[..., :k]
    assert_array_equal(index, expected)
    assert_array_equal(found, np.take_along_axis(rows, expected, axis=-1))


def test_the_largest_of_short_rows_go_on_with_minus_infinity():
    found, _ = largest(jnp.array([[2.0, 3.0]]), 4)
    assert found.tolist() == [[3, 2, -math.inf, -math.inf]]


# Bad input


@pytest.mark.parametrize(
    ("ask", "error", "words"),
    [
        (lambda f: f.top_k(0), ValueError, "k must be at least 1, got 0"),
        (lambda f: f.top_k(10), ValueError, "at most the 9 keys of the filter, got 10"),
        (lambda f: f.top_k(2.0), TypeError, "k must be an int.*, got 2.0"),
        (lambda f: f.pool(8, 1), ValueError, "q_bins to be at most the 7 queries of the filter, got 8"),
        (lambda f: f.pool(1, 10), ValueError, "k_bins to be at most the 9 keys of the filter, got 10"),
        (lambda f: f.pool(0, 1), ValueError, "q_bins must be at least 1, got 0"),
        (lambda f: f.histogram(0), ValueError, "bins must be at least 1, got 0"),
        (lambda f: f.histogram([0.5]), ValueError, "at least two ascending edges"),
        (lambda f: f.histogram([1.0, 0.0]), ValueError, "at least two ascending edges"),
        (lambda f: f.histogram("many"), ValueError, "bins: expected a positive int or"),
        (lambda f: f.sink_mass(10), ValueError, "at most the 9 keys of the filter, got 10"),
        (lambda f: f.expected_distance(0.5), TypeError, "offset: expected an int, got 0.5"),
        (
            lambda f: f.mass(np.ones((2, 7, 9), bool)),
            ValueError,
            r"mass: keys: .* \(2, 4, 7, 9\), got \(2, 7, 9\); a set that is the same for all heads has an axis",
        ),
        (lambda f: f.mass(np.ones(9)), TypeError, "mass: keys: expected booleans .* got dtype float64"),
        (lambda f: f.fold(folds.entropy), TypeError, r"the function entropy; call it: folds.entropy\("),
        (
            lambda f: f.fold(folds.from_function(lambda w, grid: w.sum((-1, -2)), jnp.add, initial={"a": 0})),
            ValueError,
            "initial: expected a number for each result",
        ),
        (lambda f: f.fold("entropi"), ValueError, "expected one of log_normalizer, .*got 'entropi'"),
        (lambda f: f.fold(3), TypeError, "fold: expected a function of"),
        (lambda f: f.summarize(folds.entropy()), TypeError, "names of folds, and other folds as name=fold"),
        (lambda f: f.summarize("entropy", entropy=folds.max()), ValueError, "expected different names"),
        (lambda f: f.summarize("max", "max"), ValueError, "expected different names"),
        (lambda f: f.fold(folds.from_function(jnp.sum, 3)), TypeError, "combine: expected a function"),
        (lambda f: f.fold(lambda w, grid: w.sum()), ValueError, "needs `combine`; defined in test_folds.py, line "),
        (
            lambda f: f.fold(folds.from_function(lambda w, grid: w.sum(-2), lambda a, b: (a, b))),
            ValueError,
            "combine: the function must return what it takes.*; defined in test_folds.py, line ",
        ),
        (
            lambda f: f.fold(folds.from_function(lambda w, grid: w.sum(), jnp.add)),
            ValueError,
            r"must return arrays that begin with the axes \(2, 4\).*; defined in test_folds.py, line ",
        ),
    ],
)
def test_what_cannot_be_asked_is_refused(ask, error, words):
    query, key, _ = inputs()
    with pytest.raises(error, match=words):
        ask(attention_filter(query, key))


@pytest.mark.parametrize("normalizer", [normalizers.sigmoid(), normalizers.sparsemax()])
def test_only_a_softmax_has_a_log_normalizer(normalizer):
    query, key, _ = inputs()
    with pytest.raises(ValueError, match="log_normalizer: expected a filter that is normalized by a softmax, got S"):
        attention_filter(query, key, normalizer=normalizer).log_normalizer()


@pytest.mark.exhaustive
@sampled("heads", ["walked", "at once"], keep=1, indirect=True)
def test_a_bias_by_head_is_seen_by_folds_of_walked_heads(heads):
    query, key, _ = inputs(20, 20, batch=())
    filter = attention_filter(query, key, bias=biases.alibi(), block_size=5)
    weights = filter.weights()
    assert weights.shape == (HEADS, 20, 20)
    close(filter.expected_distance(), fold_reference.expected_distance(0)(np.asarray(weights, np.float64)))


def test_masks_of_the_table_are_sets_of_keys_too():
    query, key, _ = inputs()
    filter = attention_filter(query, key)
    names = ["padding", "array", "array of rows", "segments", "combination of ranges"]
    found = filter.summarize(**{name: folds.mass(MASKS[name].call["mask"]) for name in names})
    for name in names:
        close(found[name], fold_reference.mass(MASKS[name].rules["mask"])(weights_of("mask: no mask")))


# The table of folds


def test_every_fold_is_a_class_with_a_docstring_a_maker_and_a_method_of_one_name():
    table = {name: method for name, method in vars(folds.FoldMethods).items() if not name.startswith("_")}
    assert {"entropy", "top_k", "pool", *folds.FOLDS} <= table.keys()
    for name, method in table.items():
        fold = getattr(folds, name)
        assert issubclass(fold, folds.Fold)
        assert fold.name == name
        asked = getattr(AttentionFilter, name)
        assert asked.__doc__ == method.__doc__ == inspect.getdoc(fold)
        assert asked.__doc__.startswith(("Asks", "Counts"))
        self, *arguments = inspect.signature(asked).parameters.values()
        assert self.name == "self"
        assert arguments == list(inspect.signature(fold).parameters.values())


def test_a_fold_prints_as_the_code_that_makes_it():
    made = [folds.entropy(), folds.top_k(3), folds.pool(2, 4), folds.sink_mass(), folds.histogram((0.0, 0.5, 1.0))]
    assert [repr(fold) for fold in made] == [
        "entropy()",
        "top_k(k=3)",
        "pool(q_bins=2, k_bins=4)",
        "sink_mass(num_keys=1)",
        "histogram(bins=(0.0, 0.5, 1.0))",
    ]
    assert [eval(repr(fold), vars(folds)) for fold in made] == made


def test_what_a_key_receives_is_the_same_whatever_else_is_asked():
    query, key, _ = inputs()
    filter = attention_filter(query, key)
    alone = filter.received()
    for bins in (1, 3, QUERIES):
        together = filter.summarize(map=folds.pool(bins, 2), received="received")
        assert_array_equal(together["received"], alone)
        assert_array_equal(filter.summarize("received", map=folds.pool(bins, 2))["received"], alone)
