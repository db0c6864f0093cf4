"""Promise 1: what a query may not see leaves no trace in its output, forward or backward."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from jattn import attend, biases, masks, scores
from tests.variants import BANNED, KEYS, QUERIES, inputs

BAD = [np.nan, np.inf, -np.inf]
ROUTES = [{"implementation": "dense"}, {"block_size": 3}]
SCORES = {
    "scaled_dot": scores.scaled_dot(),
    "scale": scores.scaled_dot(jnp.ones((4, 1, 1))),
    "cosine": scores.cosine(),
    "function": lambda query, key: -jnp.sum((query[..., :, None, :] - key[..., None, :, :]) ** 2, axis=-1),
}

close = functools.partial(assert_allclose, rtol=1e-5, atol=1e-6)


def loss_and_gradients(rows, bias=None, **call):
    """Returns a loss over some rows of the output only, and its gradients for query, key, value and bias."""

    def loss(query, key, value, bias):
        out = attend(query, key, value, bias=bias, **call)[:, rows]
        return jnp.sum(jnp.cos(out + 1))

    return functools.partial(jax.value_and_grad(loss, argnums=(0, 1, 2) if bias is None else (0, 1, 2, 3)), bias=bias)


def plant(array, positions, bad):
    """Writes a bad number into one component of some tokens."""
    return array.at[:, positions, :, 1].set(bad)


EMPTY = {
    "causal": (masks.causal(-2), np.s_[:, :2]),
    "padding": (masks.padding(jnp.array([0, 4])), np.s_[:1]),
    "padding of queries": (masks.padding(jnp.array(KEYS), jnp.array([3, 3])), np.s_[:, 3:]),
    "array": (np.arange(QUERIES)[:, None] != 4, np.s_[:, 4:5]),
    "all": (masks.from_function(lambda query, key: key < 0), np.s_[:]),
    "all, a number": (np.bool_(False), np.s_[:]),
}


@pytest.mark.parametrize("route", ROUTES)
@pytest.mark.parametrize("name", EMPTY)
def test_a_query_without_keys_has_output_zero_and_gradient_zero(name, route):
    mask, empty = EMPTY[name]
    arguments, bias = inputs(), jnp.ones((4, QUERIES, KEYS))
    out = np.asarray(attend(*arguments, mask=mask, bias=bias, **route))
    assert_array_equal(out[empty], 0)
    loss, gradients = loss_and_gradients(np.s_[:], bias, mask=mask, **route)(*arguments)
    assert np.isfinite(loss)
    assert all(np.isfinite(gradient).all() for gradient in gradients)
    assert_array_equal(gradients[0][empty], 0)
    others = np.delete(np.abs(gradients[0]).max(axis=(-1, -2)), ()) if name.startswith("all") else None
    assert others is None or not others.any()


@pytest.mark.parametrize("route", ROUTES)
def test_other_queries_are_not_empty(route):
    mask, empty = EMPTY["causal"]
    out = np.asarray(attend(*inputs(), mask=mask, **route))
    assert np.all(np.delete(out, [0, 1], axis=1) != 0)


@pytest.mark.parametrize("route", ROUTES)
def test_a_row_of_minus_infinity_is_an_empty_row(route):
    bias = jnp.where(jnp.arange(QUERIES)[:, None] == 2, -jnp.inf, jnp.asarray(BANNED))
    loss, gradients = loss_and_gradients(np.s_[:], bias, **route)(*inputs())
    assert_array_equal(attend(*inputs(), bias=bias, **route)[:, 2], 0)
    assert np.isfinite(loss)
    assert all(np.isfinite(gradient).all() for gradient in gradients)
    assert_array_equal(gradients[0][:, 2], 0)
    assert_array_equal(gradients[3][:, 2], 0)
    assert_array_equal(np.where(np.isinf(bias), gradients[3], 0), 0)


@pytest.mark.parametrize("route", ROUTES)
@pytest.mark.parametrize("bad", BAD)
@pytest.mark.parametrize("score", SCORES)
def test_padding_may_hold_anything(score, bad, route):
    query, key, value = inputs()
    call = {"mask": masks.padding(jnp.array([6, 6])), "score": SCORES[score], "bias": jnp.ones(KEYS)} | route
    padding = np.s_[6:]
    gradient = loss_and_gradients(np.s_[:], **call)
    clean = gradient(query, plant(key, padding, 0), plant(value, padding, 0))
    dirty = gradient(query, plant(key, padding, bad), plant(value, padding, bad))
    assert np.isfinite(clean[0])
    jax.tree.map(close, dirty, clean)
    assert_array_equal(dirty[1][1][:, padding], 0)
    assert_array_equal(dirty[1][2][:, padding], 0)


@pytest.mark.parametrize("route", ROUTES)
@pytest.mark.parametrize("score", SCORES)
def test_a_causal_query_knows_nothing_of_later_keys(score, route):
    arguments = inputs(QUERIES, QUERIES)
    call = {"mask": masks.causal(), "score": SCORES[score]} | route
    gradient = loss_and_gradients(np.s_[:4], **call)
    clean = gradient(*(plant(x, 4, 0.0) for x in arguments))
    for bad in BAD:
        dirty_arguments = [plant(x, 4, bad) for x in arguments]
        jax.tree.map(close, gradient(*dirty_arguments), clean)


@pytest.mark.parametrize("route", ROUTES)
@pytest.mark.parametrize("bad", BAD)
@pytest.mark.parametrize("argument", [1, 2])
def test_a_bad_key_or_value_reaches_every_query_that_may_see_it(argument, bad, route, heads):
    arguments = list(inputs(QUERIES, QUERIES))
    arguments[argument] = arguments[argument].at[0, 4, 1, 1].set(bad)
    out = attend(*arguments, mask=masks.causal(), **route)
    expected = np.zeros((2, QUERIES, 4, 1), bool)
    expected[0, 4:, 2:] = True  # of the first batch entry, the two heads that the second key/value head serves
    assert_array_equal(np.isnan(out), np.broadcast_to(expected, out.shape))


@pytest.mark.parametrize("route", ROUTES)
@pytest.mark.parametrize("bad", BAD)
def test_a_bad_query_reaches_its_own_output_only(bad, route):
    query, key, value = inputs()
    query = query.at[1, 3, 2, 0].set(bad)
    out = attend(query, key, value, mask=masks.causal(), **route)
    expected = np.zeros((2, QUERIES, 4, 1), bool)
    expected[1, 3, 2] = True
    assert_array_equal(np.isnan(out), np.broadcast_to(expected, out.shape))


@pytest.mark.parametrize("route", ROUTES)
def test_a_bad_query_without_keys_has_output_zero(route):
    query, key, value = inputs()
    gradient = loss_and_gradients(np.s_[:], mask=masks.causal(-2), **route)
    clean, dirty = gradient(query, key, value), gradient(plant(query, 1, np.nan), key, value)
    jax.tree.map(close, dirty, clean)


@pytest.mark.parametrize("route", ROUTES)
@pytest.mark.parametrize("argument", [0, 1, 2])
def test_without_a_mask_a_bad_number_reaches_every_query_it_meets(argument, route):
    arguments = list(inputs())
    arguments[argument] = plant(arguments[argument], 3, np.nan)
    touched = np.isnan(attend(*arguments, **route)).any(axis=(0, 2, 3))
    assert_array_equal(touched, [i == 3 or argument > 0 for i in range(QUERIES)])


@pytest.mark.parametrize("route", ROUTES)
def test_a_bad_bias_at_forbidden_keys_leaves_no_trace(route):
    forbidden = np.arange(KEYS) >= 6
    gradient = {
        bad: loss_and_gradients(np.s_[:], jnp.where(forbidden, bad, 0.5), mask=~forbidden, **route)(*inputs())
        for bad in (0.0, np.nan, np.inf)
    }
    jax.tree.map(close, gradient[np.nan], gradient[0.0])
    jax.tree.map(close, gradient[np.inf], gradient[0.0])


def test_an_undefined_bias_function_at_forbidden_keys_leaves_no_trace():
    distance = biases.from_function(lambda query, key: -jnp.sqrt((query - key).astype(jnp.float32)))
    out = attend(*inputs(), mask=masks.causal(), bias=distance)
    clean = biases.from_function(lambda query, key: -jnp.sqrt(jnp.maximum(query - key, 0).astype(jnp.float32)))
    close(out, attend(*inputs(), mask=masks.causal(), bias=clean))


@pytest.mark.parametrize("route", ROUTES)
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
