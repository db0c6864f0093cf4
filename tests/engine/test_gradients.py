"""Derivatives of every order and mode through blocks are those of the formula, written out for all rows at once."""

import functools
import operator

import jax
import jax.flatten_util
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads
from numpy.testing import assert_allclose, assert_array_equal

from jattn import attend, masks, normalizers, scores
from jattn.engine.attention import attend_heads_first
from jattn.engine.averages import average_by_softmax
from jattn.engine.plans import blocked_plan, dense_plan
from jattn.engine.rows import row_program
from jattn.rules import products
from jattn.rules.biases import as_bias
from jattn.rules.normalizers import forbid
from tests.sampled import sampled
from tests.variants import rng

close = functools.partial(assert_allclose, rtol=1e-9, atol=1e-9)


@pytest.fixture
def x64():
    with jax.enable_x64(True):
        yield


def draw(*shape, seed=0, dtype=np.float64):
    """Draws an array that is no special case."""
    return jnp.asarray(rng(seed).standard_normal(shape), dtype)


def arguments(num_queries=3, num_keys=4, heads=2, kv_heads=1):
    """A query, a key, a value, a bias and a sink."""
    shapes = ((num_queries, heads, 2), (num_keys, kv_heads, 2), (num_keys, kv_heads, 2), (heads, num_queries, num_keys))
    return [draw(*shape, seed=seed) for seed, shape in enumerate((*shapes, (heads, 1, 1)))]


def blocked(query, key, value, bias, sink):
    """Attention whose first row has no key, in blocks of two rows."""
    normalizer = normalizers.softmax() if sink is None else normalizers.softmax_plus_one(sink)
    return attend(query, key, value, bias=bias, mask=masks.causal(-1), normalizer=normalizer, block_size=2)


def plain(query, key, value, bias, sink):
    """The same, all rows at once."""
    group = query.shape[1] // key.shape[1]
    key, value = (jnp.repeat(x, group, axis=1) for x in (key, value))
    exponentials = jnp.exp(jnp.einsum("tnh,snh->nts", query, key) * query.shape[-1] ** -0.5 + bias)
    exponentials = exponentials * jnp.tri(query.shape[0], key.shape[0], -1)
    total = jnp.sum(exponentials, axis=-1, keepdims=True)
    total = jnp.where(total == 0, 1, total) if sink is None else total + jnp.exp(sink)
    return jnp.einsum("nts,snv->tnv", exponentials / total, value)


def squares(attention, *arguments):
    """A scalar whose gradient depends on every output."""
    out = attention(*arguments)
    return jnp.sum(out**2 * jnp.cos(jnp.arange(out.size, dtype=out.dtype)).reshape(out.shape))


# Second order


@pytest.mark.exhaustive
def test_second_derivatives_through_blocks_are_those_of_the_formula(x64):
    flat, unravel = jax.flatten_util.ravel_pytree(arguments(heads=1))

    def hessian(attention):
        return jax.hessian(lambda flat: squares(attention, *unravel(flat)))

    expected = jax.jit(hessian(plain))(flat)
    close(jax.jit(hessian(blocked))(flat), expected)
    assert np.linalg.matrix_rank(expected) > 10


@sampled("with_sink", [False, True], keep=1)
def test_the_softmax_average_has_the_derivatives_of_finite_differences(with_sink, x64):
    allowed = jnp.array([[True, True, False], [False, False, False], [True, False, True]])

    def average(scores, value, sink):
        out, log_normalizer = average_by_softmax(forbid(scores, allowed), value, sink if with_sink else None, None)
        return out, jnp.where(allowed.any(axis=-1) | with_sink, log_normalizer, 0)

    arguments = draw(2, 3, 3), draw(2, 3, 2), draw(2, 3, 1)
    check_grads(jax.jit(average), arguments, 2, modes=["fwd", "rev"], atol=1e-4, rtol=1e-4)


@sampled(("function", "shapes"), [(products.dot, (3, 2)), (products.average, (3, 4))], keep=1)
def test_products_have_the_derivatives_of_finite_differences(function, shapes, x64):
    pair = draw(2, *shapes), draw(2, 4, 2, seed=1)
    check_grads(jax.jit(function), pair, 2, modes=["fwd", "rev"], atol=1e-5, rtol=1e-5)


@pytest.mark.exhaustive
@sampled("normalizer", [normalizers.sigmoid(-1.0), normalizers.entmax15()], keep=1)
def test_other_normalizers_have_second_derivatives_through_blocks(normalizer, x64):
    query, key, value, bias, _ = arguments(heads=1)

    def attention(block_size, query, bias):
        out = attend(query, key, value, bias=bias, mask=masks.causal(1), normalizer=normalizer, block_size=block_size)
        return jnp.sum(out**2)

    in_blocks, whole = (
        jax.jit(jax.hessian(functools.partial(attention, size), (0, 1)))(query, bias) for size in (2, None)
    )
    jax.tree.map(close, in_blocks, whole)


# Transformations of derivatives


def test_forward_derivatives_through_blocks_are_those_of_the_formula(x64):
    primals, tangents = arguments(5, 6), [draw(*x.shape, seed=9) for x in arguments(5, 6)]
    of_blocks, of_formula = (jax.jit(functools.partial(jax.jvp, f))(primals, tangents) for f in (blocked, plain))
    jax.tree.map(close, of_blocks, of_formula)


@pytest.mark.exhaustive
def test_gradients_for_each_example_are_those_of_the_formula(x64):
    stacked = [jnp.stack([x, 2 * x, x - 1]) for x in arguments(5, 6)]
    gradient = jax.jit(jax.vmap(jax.grad(functools.partial(squares, blocked), range(5))))(*stacked)
    expected = jax.jit(jax.grad(functools.partial(squares, plain), range(5)))
    for example in range(3):
        one = expected(*(x[example] for x in map(np.asarray, stacked)))
        jax.tree.map(close, [np.asarray(x)[example] for x in gradient], [*one])


@pytest.mark.exhaustive
def test_a_jacobian_of_both_modes_is_that_of_the_formula(x64):
    expected = jax.jit(jax.jacfwd(plain, range(5)))(*arguments())
    jax.tree.map(close, jax.jit(jax.jacfwd(blocked, range(5)))(*arguments()), expected)
    jax.tree.map(close, jax.jit(jax.jacrev(blocked, range(5)))(*arguments()), expected)


def test_attention_may_be_computed_again_in_the_backward_pass(x64):
    gradients = jax.grad(functools.partial(squares, jax.checkpoint(jax.checkpoint(blocked))), range(5))
    expected = jax.jit(jax.grad(functools.partial(squares, plain), range(5)))
    jax.tree.map(close, jax.jit(gradients)(*arguments(5, 6)), expected(*arguments(5, 6)))


@pytest.mark.exhaustive
def test_layers_may_be_scanned_and_computed_again(x64):
    query, _, _, _, sink = arguments(5, 5, kv_heads=2)
    kernels, biases = draw(3, 2, 2, seed=7), draw(3, 2, 5, 5, seed=8)

    def model(attention, query, kernels, biases):
        def layer(x, parameters):
            kernel, bias = parameters
            return x + attention(x, x @ kernel, x, bias, sink), None

        return jax.lax.scan(jax.checkpoint(layer), query, (kernels, biases))[0]

    gradient, expected = (
        jax.jit(jax.grad(functools.partial(squares, functools.partial(model, attention)), (0, 1, 2)))
        for attention in (blocked, plain)
    )
    jax.tree.map(close, gradient(query, kernels, biases), expected(query, kernels, biases))


BIASES = [(2, 7, 9), (7, 9), (2, 1, 9), (1, 7, 1), (3, 1, 1, 1), (3, 2, 7, 9), ()]


@pytest.mark.exhaustive
def test_learned_biases_of_any_shape_get_the_gradients_of_the_formula(x64, heads):
    """What is shared is summed: over blocks, over heads, over batch entries."""
    query, key, value = draw(3, 7, 2, 2), draw(3, 9, 1, 2, seed=1), draw(3, 9, 1, 2, seed=2)
    learned = [draw(*shape, seed=seed) for seed, shape in enumerate(BIASES)]

    def everything(learned):
        return jax.vmap(plain, (0, 0, 0, 0, None))(query, key, value, sum(learned, jnp.zeros((3, 2, 7, 9))), None)

    def attention(learned):
        bias = functools.reduce(operator.add, map(as_bias, learned))
        return attend(query, key, value, bias=bias, mask=masks.causal(-1), block_size=3)

    of_blocks, of_formula = (jax.jit(jax.grad(functools.partial(squares, f)))(learned) for f in (attention, everything))
    jax.tree.map(close, of_blocks, of_formula)


# The log-normalizer


def log_normalizer(query, key, plan="dense", sink=None, mask=None, bias=None):
    """The output of heads-first attention with key as value, and what each row was divided by."""
    shape = (*query.shape[:-1], key.shape[-2])
    normalizer = normalizers.softmax() if sink is None else normalizers.softmax_plus_one(sink)
    program = row_program(scores.scaled_dot(), bias, mask, normalizer, None, None, shape)
    plan = dense_plan(shape) if plan == "dense" else blocked_plan(shape, program.mask, 2, plan == "walked")
    return attend_heads_first(query, key, key, program, plan)[1]


def expected_log_normalizer(query, key, mask, bias, sink):
    query, key = (np.asarray(x, np.float64) for x in (query, key))
    products = query @ np.swapaxes(key, -1, -2) * query.shape[-1] ** -0.5 + bias
    exponentials = np.where(mask, np.exp(products), 0)
    with np.errstate(divide="ignore"):
        return np.log(exponentials.sum(axis=-1) + (0 if sink is None else np.exp(sink[..., 0])))


@sampled("plan", ["dense", "walked", "at once"], keep=1)
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_a_log_normalizer_is_natural_and_float32(plan, dtype):
    query, key = draw(2, 3, 5, 4, dtype=dtype), draw(2, 3, 4, 4, seed=1, dtype=dtype)
    bias, sink = draw(3, 5, 4, seed=2, dtype=np.float32), draw(3, 1, 1, seed=3, dtype=np.float32)
    mask = np.tri(5, 4, -1, dtype=bool)
    for one in (None, sink):
        out = jax.jit(log_normalizer, static_argnums=2)(query, key, plan, one, masks.causal(-1), bias)
        assert out.dtype == jnp.float32
        expected = expected_log_normalizer(query, key, mask, np.float64(bias), one)
        assert_allclose(out, np.broadcast_to(expected, out.shape), rtol=2e-6, atol=2e-6)
        if one is None:
            assert_array_equal(np.isneginf(out), np.broadcast_to(np.arange(5) == 0, out.shape))


@pytest.mark.parametrize("plan", ["dense", "walked"])
def test_a_log_normalizer_does_not_overflow(plan):
    query, key = 100 * jnp.ones((1, 3, 4)), 100 * jnp.ones((1, 4, 4))
    compiled = jax.jit(log_normalizer, static_argnums=2)
    close(compiled(query, key, plan), np.full((1, 3), 2e4 + np.log(4)), rtol=1e-6)
    close(compiled(-query, key, plan), np.full((1, 3), -2e4 + np.log(4)), rtol=1e-6)


@sampled("plan", ["dense", "walked"], keep=1)
def test_a_log_normalizer_has_the_gradient_of_the_logarithm_of_a_sum(plan, x64):
    query, key, sink, bias = draw(2, 3, 4), draw(2, 5, 4, seed=1), draw(2, 1, 1, seed=2), draw(2, 3, 5, seed=3)
    mask = np.tri(3, 5, dtype=bool)

    def ours(query, key, bias, sink):
        return jnp.sum(jnp.sin(log_normalizer(query, key, plan, sink, masks.causal(), bias)))

    def formula(query, key, bias, sink):
        products = jnp.where(mask, jnp.einsum("nth,nsh->nts", query, key) / 2 + bias, -jnp.inf)
        sink = jnp.broadcast_to(sink, (2, 3, 1))
        return jnp.sum(jnp.sin(jax.nn.logsumexp(jnp.concatenate([products, sink], -1), -1)))

    found, expected = (jax.jit(jax.grad(f, (0, 1, 2, 3)))(query, key, bias, sink) for f in (ours, formula))
    jax.tree.map(close, found, expected)
