"""Promise 1: what a query may not see leaves no trace in its output, forward or backward."""

import functools
import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from jattn import attend, attention_filter, biases, masks, normalizers, scores
from tests.sampled import sampled
from tests.variants import BANNED, KEYS, QUERIES, inputs

BAD = [np.nan, np.inf, -np.inf]
DENSE, BLOCKED = ROUTES = ({"implementation": "dense"}, {"block_size": 3})
SCORES = {
    "scaled_dot": scores.scaled_dot(),
    "scale": scores.scaled_dot(jnp.ones((4, 1, 1))),
    "cosine": scores.cosine(),
    "function": lambda query, key: -jnp.sum((query[..., :, None, :] - key[..., None, :, :]) ** 2, axis=-1),
}
SCORES_AND_ROUTES = [*((name, DENSE) for name in SCORES), ("scaled_dot", BLOCKED), ("function", BLOCKED)]

close = functools.partial(assert_allclose, rtol=1e-5, atol=1e-6)


def loss_and_gradients(rows, **call):
    """Returns a function of query, key, value and bias: a loss over some rows of the output only, and its gradients."""

    def loss(query, key, value, bias):
        return jnp.sum(jnp.cos(attend(query, key, value, bias=bias, **call)[rows] + 1))

    return jax.jit(jax.value_and_grad(loss, argnums=(0, 1, 2, 3)))


def plant(array, positions, bad, component=1):
    """Writes a bad number into one component of some tokens, or into all of them."""
    return array.at[:, positions, :, component].set(bad)


EMPTY = {
    "causal": (masks.causal(-2), np.s_[:, :2]),
    "padding": (masks.padding(jnp.array([0, 4])), np.s_[:1]),
    "padding of queries": (masks.padding(jnp.array(KEYS), jnp.array([3, 3])), np.s_[:, 3:]),
    "array": (np.arange(QUERIES)[:, None] != 4, np.s_[:, 4:5]),
    "all": (masks.from_function(lambda query, key: key < 0), np.s_[:]),
    "all, a number": (np.bool_(False), np.s_[:]),
}


@sampled(("name", "route"), [*((name, DENSE) for name in EMPTY), ("causal", BLOCKED), ("all", BLOCKED)], keep=1)
def test_a_query_without_keys_has_output_zero_and_gradient_zero(name, route):
    mask, empty = EMPTY[name]
    arguments, bias = inputs(), jnp.ones((4, QUERIES, KEYS))
    assert_array_equal(attend(*arguments, mask=mask, bias=bias, **route)[empty], 0)
    loss, gradients = loss_and_gradients(np.s_[:], mask=mask, **route)(*arguments, bias)
    assert np.isfinite(loss)
    assert all(np.isfinite(gradient).all() for gradient in gradients)
    assert_array_equal(gradients[0][empty], 0)


@sampled("route", ROUTES, keep=1)
def test_a_loss_over_queries_without_keys_has_no_gradient(route):
    gradient = loss_and_gradients(np.s_[:, :2], mask=masks.causal(-2), **route)
    _, gradients = gradient(*inputs(), jnp.ones((4, QUERIES, KEYS)))
    assert not any(np.any(gradient) for gradient in gradients)


@sampled("route", ROUTES, keep=1)
def test_other_queries_are_not_empty(route):
    assert np.all(attend(*inputs(), mask=masks.causal(-2), **route)[:, 2:] != 0)


@sampled("route", ROUTES, keep=1)
def test_a_row_of_minus_infinity_is_an_empty_row(route):
    bias = jnp.where(jnp.arange(QUERIES)[:, None] == 2, -jnp.inf, jnp.asarray(BANNED))
    loss, gradients = loss_and_gradients(np.s_[:], **route)(*inputs(), bias)
    assert_array_equal(attend(*inputs(), bias=bias, **route)[:, 2], 0)
    assert np.isfinite(loss)
    assert all(np.isfinite(gradient).all() for gradient in gradients)
    assert_array_equal(gradients[0][:, 2], 0)
    assert_array_equal(gradients[3][:, 2], 0)
    assert_array_equal(np.where(np.isinf(bias), gradients[3], 0), 0)


@sampled(("score", "route"), SCORES_AND_ROUTES, keep=1)
def test_padding_may_hold_anything(score, route):
    (query, key, value), bias, padding = inputs(), jnp.ones(KEYS), np.s_[6:]
    gradient = loss_and_gradients(np.s_[:], mask=masks.padding(jnp.array([6, 6])), score=SCORES[score], **route)
    clean = gradient(query, plant(key, padding, 0), plant(value, padding, 0), bias)
    assert all(np.isfinite(array).all() for array in jax.tree.leaves(clean))
    for bad_key, bad_value in [(np.nan, 0), (0, np.nan), (np.inf, -np.inf), (-np.inf, np.inf)]:
        dirty = gradient(query, plant(key, padding, bad_key), plant(value, padding, bad_value), bias)
        jax.tree.map(close, dirty, clean)
        assert not np.any(dirty[1][1][:, padding])
        assert not np.any(dirty[1][2][:, padding])


@sampled("score", SCORES, keep=2)
def test_padding_may_hold_nothing_but_bad_numbers(score):
    (query, key, value), bias, everything = inputs(), jnp.ones(KEYS), np.s_[:]
    gradient = loss_and_gradients(np.s_[:], mask=masks.padding(jnp.array([6, 6])), score=SCORES[score])
    clean = gradient(query, key, value, bias)
    for bad in (0.0, np.nan, np.inf):
        padded = [plant(array, np.s_[6:], bad, everything) for array in (key, value)]
        jax.tree.map(close, gradient(query, *padded, bias), clean)


@sampled(("score", "route"), SCORES_AND_ROUTES, keep=1)
def test_a_causal_query_knows_nothing_of_later_keys(score, route):
    arguments, bias = inputs(QUERIES, QUERIES), jnp.ones(QUERIES)
    gradient = loss_and_gradients(np.s_[:, :4], mask=masks.causal(), score=SCORES[score], **route)
    clean = gradient(*(plant(x, 4, 0.0) for x in arguments), bias)
    assert all(np.isfinite(array).all() for array in jax.tree.leaves(clean))
    for bad in BAD:
        jax.tree.map(close, gradient(*(plant(x, 4, bad) for x in arguments), bias), clean)


@sampled("route", ROUTES, keep=2)
def test_a_bad_key_or_value_reaches_every_query_that_may_see_it(route, heads):
    attention = jax.jit(functools.partial(attend, mask=masks.causal(), **route))
    expected = np.zeros((2, QUERIES, 4, 3), bool)
    expected[0, 4:, 2:] = True  # of the first batch entry, the two heads that the second key/value head serves
    for argument in (1, 2):
        for bad in BAD:
            arguments = list(inputs(QUERIES, QUERIES))
            arguments[argument] = arguments[argument].at[0, 4, 1, 1].set(bad)
            assert_array_equal(np.isnan(attention(*arguments)), expected)


@pytest.mark.parametrize("route", ROUTES)
def test_a_bad_query_reaches_its_own_output_only(route):
    attention = jax.jit(functools.partial(attend, mask=masks.causal(), **route))
    query, key, value = inputs()
    expected = np.zeros((2, QUERIES, 4, 3), bool)
    expected[1, 3, 2] = True
    for bad in BAD:
        assert_array_equal(np.isnan(attention(query.at[1, 3, 2, 0].set(bad), key, value)), expected)


@sampled("route", ROUTES, keep=1)
def test_a_bad_query_without_keys_has_output_zero(route):
    query, key, value = inputs()
    bias = jnp.ones(KEYS)
    gradient = loss_and_gradients(np.s_[:], mask=masks.causal(-2), **route)
    clean, dirty = gradient(query, key, value, bias), gradient(plant(query, 1, np.nan), key, value, bias)
    jax.tree.map(close, dirty, clean)


@pytest.mark.parametrize("route", ROUTES)
@pytest.mark.parametrize("argument", [0, 1, 2])
def test_without_a_mask_a_bad_number_reaches_every_query_it_meets(argument, route):
    arguments = list(inputs())
    arguments[argument] = plant(arguments[argument], 3, np.nan)
    touched = np.isnan(attend(*arguments, **route)).any(axis=(0, 2, 3))
    assert_array_equal(touched, [i == 3 or argument > 0 for i in range(QUERIES)])


@sampled("route", ROUTES, keep=1)
def test_a_bad_bias_at_forbidden_keys_leaves_no_trace(route):
    forbidden = np.arange(KEYS) >= 6
    gradient = loss_and_gradients(np.s_[:], mask=~forbidden, **route)
    clean = gradient(*inputs(), jnp.where(forbidden, 0, 0.5))
    for bad in BAD:
        jax.tree.map(close, gradient(*inputs(), jnp.where(forbidden, bad, 0.5)), clean)


def test_an_undefined_bias_function_at_forbidden_keys_leaves_no_trace():
    distance = biases.from_function(lambda query, key: -jnp.sqrt((query - key).astype(jnp.float32)))
    out = attend(*inputs(), mask=masks.causal(), bias=distance)
    clean = biases.from_function(lambda query, key: -jnp.sqrt(jnp.maximum(query - key, 0).astype(jnp.float32)))
    close(out, attend(*inputs(), mask=masks.causal(), bias=clean))


@sampled("route", ROUTES, keep=1)
def test_forward_gradients_know_nothing_of_padding_either(route):
    query, key, value = inputs()
    attention = functools.partial(attend, mask=masks.padding(jnp.array([6, 6])), **route)
    tangents = inputs(seed=1)
    clean = jax.jvp(attention, (query, key, value), tangents)
    bad = (query, plant(key, np.s_[6:], np.nan), plant(value, np.s_[6:], np.inf))
    jax.tree.map(close, jax.jvp(attention, bad, tangents), clean)


def test_half_precision_padding_may_hold_anything():
    for dtype in (jnp.bfloat16, jnp.float16):
        query, key, value = inputs(dtype=dtype)
        attention = functools.partial(attend, mask=masks.padding(jnp.array([6, 6])))
        out = attention(query, plant(key, np.s_[6:], np.nan), plant(value, np.s_[6:], np.inf))
        assert_array_equal(out, attention(query, key, value))


@sampled("score", [*SCORES, "soft_cap"], keep=1)
def test_few_queries_know_nothing_of_what_they_may_not_see(score):
    """A step of decoding, which on a CPU looks for bad numbers in its results before it looks in its inputs."""
    score = scores.soft_cap(scores.scaled_dot(), 5.0) if score == "soft_cap" else SCORES[score]
    (query, key, value), bias, mask = inputs(2), jnp.ones(KEYS), masks.causal(5)
    gradient = loss_and_gradients(np.s_[:], mask=mask, score=score)
    attention = jax.jit(functools.partial(attend, mask=mask, score=score))
    clean = gradient(query, plant(key, np.s_[7:], 0), plant(value, np.s_[7:], 0), bias)
    for bad in BAD:
        dirty = plant(key, np.s_[7:], bad), plant(value, np.s_[7:], bad)
        close(attention(query, *dirty), attention(query, key, value))
        jax.tree.map(close, gradient(query, *dirty, bias), clean)
        for argument in (1, 2):
            arguments = [query, key, value]
            arguments[argument] = plant(arguments[argument], 6, bad)
            seen = np.isnan(attention(*arguments)).all(axis=(0, 2, 3))
            assert_array_equal(seen, [False, True])


@sampled("route", ROUTES, keep=[BLOCKED])
@sampled("sign", [1, -1], keep=1)
def test_a_score_that_its_dtype_cannot_hold_reaches_only_the_queries_that_may_attend_there(sign, route):
    """Finite vectors, whose product is beyond float32: query 3 may see key 2, the queries before it may not."""
    query, key, value = inputs()
    query, key = query.at[..., 0].set(1e30), plant(key, 2, sign * 1e30, component=0)
    gradients_of = loss_and_gradients(np.s_[:, :2], mask=masks.causal(), **route)
    weights = attention_filter(query, key, mask=masks.causal()).weights()
    for found in (attend(query, key, value, mask=masks.causal(), **route), jnp.moveaxis(weights, 1, 2)):
        assert np.isfinite(found[:, :2]).all()
        assert np.isnan(found[:, 2:]).all()
    loss, gradients = gradients_of(query, key, value, jnp.zeros((4, QUERIES, KEYS)))
    assert np.isfinite(loss)
    assert all(np.isfinite(gradient).all() for gradient in gradients)


@sampled("route", ROUTES, keep=1)
def test_no_gradient_flows_through_a_row_that_is_nan(route):
    query, key, value = inputs()

    def loss(*arguments):
        return jnp.sum(attend(*arguments, mask=masks.causal(), **route) ** 2)

    assert np.isnan(loss(plant(query, 3, np.nan), key, value))
    gradients = jax.grad(loss, (0, 1, 2))(plant(query, 3, np.nan), key, value)
    assert all(np.isfinite(gradient).all() for gradient in gradients)


def loss_of_fine_rows(query, key, value, sink, **route):
    normalizer = normalizers.softmax_plus_one(sink)
    out = attend(query, key, value, mask=masks.causal(), normalizer=normalizer, **route)
    return jnp.sum(jnp.sin(out[:, :2]))


@pytest.mark.exhaustive
@sampled("argument", [0, 1, 2], keep=[1])
@sampled("route", ROUTES, keep=1)
def test_the_gradient_of_a_sink_and_second_derivatives_know_nothing_of_rows_that_are_nan(route, argument):
    query, key, value = inputs()
    sides = [query, key, value]
    sides[argument] = plant(sides[argument], 2, np.nan)
    sink = jnp.array([[[0.5]], [[-0.5]], [[0.0]], [[1.0]]])
    loss = functools.partial(loss_of_fine_rows, **route)

    def slope(*arguments):
        return sum(jnp.sum(x) for x in jax.grad(loss, (0, 1, 2, 3))(*arguments))

    first, second = jax.jit(lambda *x: (jax.grad(loss, 3)(*x), jax.grad(slope, (0, 1, 2, 3))(*x)))(*sides, sink)
    # What the two rows may see is all there is, as far as they know.
    expected = jax.grad(loss, 3)(query[:, :2], key[:, :2], value[:, :2], sink)
    close(first, expected)
    assert all(np.isfinite(found).all() for found in second)


@pytest.mark.exhaustive
def test_values_may_be_wider_or_narrower_than_queries_and_keys():
    query, key, value = (x[:, :4] for x in inputs())
    with jax.enable_x64(True):
        out = attend(query, key, value.astype(jnp.float64), mask=masks.causal())
        assert out.dtype == jnp.float64
        close(out, attend(query, key, value, mask=masks.causal()))
    with jax.numpy_dtype_promotion("strict"):
        assert attend(query, key, value.astype(jnp.bfloat16), mask=masks.causal()).dtype == jnp.bfloat16


def test_forbidden_values_take_no_larger_array_than_a_plain_masked_softmax():
    def plain(query, key, value):
        products = jnp.einsum("btnh,bsnh->bnts", query, key)
        scores = jnp.where(jnp.tri(16, dtype=bool), products / query.shape[-1] ** 0.5, -jnp.inf)
        return jnp.einsum("bnts,bsnh->btnh", jax.nn.softmax(scores), value)

    def most_numbers(function):
        tokens = jax.ShapeDtypeStruct((6, 16, 2, 40), jnp.float32)
        gradients = jax.grad(lambda *sides: jnp.sum(function(*sides) ** 2), (0, 1, 2))
        text = jax.jit(gradients).lower(tokens, tokens, tokens).compile().as_text()
        shapes = re.findall(r"= \w+\[([\d,]+)\]", text)
        return max(math.prod(map(int, shape.split(","))) for shape in shapes)

    assert most_numbers(functools.partial(attend, mask=masks.causal())) <= most_numbers(plain)
