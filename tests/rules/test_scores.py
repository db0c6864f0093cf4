import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads
from numpy.testing import assert_allclose, assert_array_equal

from jattn import attend, attention_filter, masks, scores
from tests.sampled import exhaustive, sampled
from tests.variants import HEADS, KEY_KERNEL, MATRIX, QUERY_KERNEL, SCALES, VECTOR, inputs

# Scores with learned arrays of every head: how to make them, and the arrays.
LEARNED = {
    "scaled_dot": (scores.scaled_dot, [SCALES[:, None, None]]),
    "cosine": (scores.cosine, [SCALES[:, None, None]]),
    "negative_squared_distance": (scores.negative_squared_distance, [SCALES[:, None, None]]),
    "bilinear": (scores.bilinear, [MATRIX]),
    "additive": (scores.additive, [QUERY_KERNEL, KEY_KERNEL, VECTOR]),
    "soft_cap": (functools.partial(scores.soft_cap, scores.scaled_dot(2.0)), [SCALES[:, None, None]]),
}


def score(query, key, score):
    """Scores lists of vectors, with one head."""
    query, key = (jnp.asarray(x, jnp.float32)[:, None] for x in (query, key))
    return attention_filter(query, key, score=score).scores()[0]


def test_scaled_dot_divides_by_the_root_of_the_head_dim():
    assert_allclose(score([[1, 2, 3, 4]], [[1, 1, 1, 1], [0, 2, 0, 0]], scores.scaled_dot()), [[5, 2]])


def test_scaled_dot_takes_a_scale():
    assert_allclose(score([[1, 2]], [[3, 4]], scores.scaled_dot(2)), [[22]])
    assert_allclose(score([[1, 2]], [[3, 4]], scores.scaled_dot(jnp.array([[0.5]]))), [[5.5]])


def test_scaled_scores_have_the_variance_of_their_inputs():
    query, key = np.random.default_rng(0).standard_normal((2, 200, 64))
    assert abs(np.var(score(query, key, scores.scaled_dot())) - 1) < 0.05


def test_cosine_is_the_angle_alone():
    keys = [[3, 0], [0, 2], [-1, 0], [1, 1]]
    expected = np.array([[1, 0, -1, np.sqrt(0.5)]])
    assert_allclose(score([[0.1, 0]], keys, scores.cosine(1.0)), expected, atol=1e-6)
    assert_allclose(score([[5, 0]], keys, scores.cosine()), 10 * expected, atol=1e-5)


@pytest.mark.parametrize("size", [1e-15, 1e15])
def test_cosine_does_not_depend_on_the_length_of_vectors(size):
    query, key = np.random.default_rng(0).standard_normal((2, 3, 4))
    expected = score(query, key, scores.cosine())
    assert_allclose(score(query * size, key / size, scores.cosine()), expected, rtol=1e-4)


@pytest.mark.parametrize(("of_query", "of_key"), [(1e20, 1e-20), (1e-20, 1e-20), (3e38, 3e38), (1e-30, 1e-30)])
def test_cosine_of_vectors_whose_squares_leave_float32(of_query, of_key):
    query, key = np.random.default_rng(0).uniform(-1, 1, (2, 3, 4)).astype(np.float32)
    expected = score(query, key, scores.cosine())
    query, key = query * np.float32(of_query), key * np.float32(of_key)
    assert_allclose(score(query, key, scores.cosine()), expected, rtol=1e-5)


def test_the_gradient_of_a_cosine_grows_as_the_vector_shrinks():
    query, key = (jnp.asarray(x)[:, None] for x in np.random.default_rng(0).standard_normal((2, 3, 4)))

    def gradient(size):
        return jax.grad(lambda query: attention_filter(query, key, score=scores.cosine()).scores()[0, 0, 1])(
            query * size
        )

    assert_allclose(gradient(1e-20) * 1e-20, gradient(1.0), rtol=1e-4, atol=1e-5)
    assert_allclose(gradient(1e20) * 1e20, gradient(1.0), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_the_cosine_with_a_bad_vector_is_nan(bad):
    cosines = score([[1, 2]], [[bad, 1], [1, 1], [bad, bad]], scores.cosine())
    assert_array_equal(np.isnan(cosines), [[True, False, True]])


@sampled("zero", ["query", "key"], keep=1)
def test_a_zero_vector_has_cosine_zero_and_a_finite_gradient(zero):
    query, key, value = jnp.ones((2, 1, 4)), jnp.ones((3, 1, 4)), jnp.arange(3.0).reshape(3, 1, 1)
    if zero == "query":
        query = query.at[0].set(0)
        assert_array_equal(attention_filter(query, key, score=scores.cosine()).scores()[0, 0], 0)
    else:
        key = key.at[1].set(0)
        assert_array_equal(attention_filter(query, key, score=scores.cosine()).scores()[0, :, 1], 0)
    gradients = jax.jit(jax.grad(lambda *x: jnp.sum(attend(*x, score=scores.cosine()) ** 2), argnums=(0, 1, 2)))
    assert all(np.isfinite(gradient).all() for gradient in gradients(query, key, value))


def test_distances_by_hand():
    keys = [[1, 2], [1, 5], [4, 6]]
    assert_allclose(score([[1, 2]], keys, scores.negative_squared_distance()), [[0, -9, -25]])
    assert_allclose(score([[1, 2]], keys, scores.negative_squared_distance(0.5)), [[0, -4.5, -12.5]])


@pytest.mark.parametrize("far", [0.0, 1e3, -1e6])
def test_distances_are_exact_far_from_the_origin(far):
    query, key = np.random.default_rng(0).standard_normal((2, 3, 4)).astype(np.float32) + np.float32(far)
    differences = query[:, None].astype(np.float64) - key
    found = score(query, key, scores.negative_squared_distance())
    assert_allclose(found, -(differences**2).sum(-1), rtol=1e-6)
    assert_array_equal(jnp.diag(score(key, key, scores.negative_squared_distance())), 0)
    of_query, of_key = jax.grad(
        lambda query, key: jnp.sum(WEIGHTS * score(query, key, scores.negative_squared_distance())), (0, 1)
    )(query, key)
    slopes = -2 * np.asarray(WEIGHTS, np.float64)[..., None] * differences
    assert_allclose(of_query, slopes.sum(1), rtol=1e-4, atol=1e-5)
    assert_allclose(of_key, -slopes.sum(0), rtol=1e-4, atol=1e-5)


WEIGHTS = np.random.default_rng(5).standard_normal((3, 3)).astype(np.float32)

OF_SIZES = {
    "scaled_dot": (scores.scaled_dot(), lambda q, k: q @ k.T / 2),
    "cosine": (
        scores.cosine(1.0),
        lambda q, k: (
            (q / np.linalg.norm(q, axis=-1, keepdims=True)) @ (k / np.linalg.norm(k, axis=-1, keepdims=True)).T
        ),
    ),
    "negative_squared_distance": (
        scores.negative_squared_distance(),
        lambda q, k: np.maximum(-((q[:, None] - k) ** 2).sum(-1), np.finfo(np.float32).min),
    ),
    "bilinear": (scores.bilinear(np.eye(4, dtype=np.float32)[::-1]), lambda q, k: q[:, ::-1] @ k.T),
    "additive": (
        scores.additive(np.eye(4, dtype=np.float32), -np.eye(4, dtype=np.float32), np.ones(4, np.float32)),
        lambda q, k: np.tanh(q[:, None] - k).sum(-1),
    ),
    "soft_cap": (scores.soft_cap(scores.scaled_dot(), 5.0), lambda q, k: 5 * np.tanh(q @ k.T / 10)),
    "soft_cap of bilinear": (
        scores.soft_cap(scores.bilinear(np.eye(4, dtype=np.float32)), 5.0),
        lambda q, k: 5 * np.tanh(q @ k.T / 5),
    ),
    "soft_cap of distance": (
        scores.soft_cap(scores.negative_squared_distance(), 5.0),
        lambda q, k: 5 * np.tanh(-((q[:, None] - k) ** 2).sum(-1) / 5),
    ),
}
"""A name: a score, and what it is in float64."""


@sampled("name", OF_SIZES, keep=2)
def test_vectors_of_any_size_have_the_scores_that_float32_can_hold(name):
    rule, exact = OF_SIZES[name]
    query, key = np.random.default_rng(0).standard_normal((2, 3, 4)).astype(np.float32)
    find = jax.jit(lambda query, key: score(query, key, rule))
    grow = jax.jit(jax.grad(lambda query, key: jnp.sum(WEIGHTS * score(query, key, rule)), (0, 1)))
    for size in (1e-30, 1e-19, 1e-5, 1.0, 1e5, 1e15, 1e19, 1e25, 1e30):
        for of_query, of_key in ((size, size), (size, 1.0), (1.0, size), (size, 1 / size)):
            q, k = query * np.float32(of_query), key * np.float32(of_key)
            expected = exact(q.astype(np.float64), k.astype(np.float64))
            # A dot product alone leaves float32 where its terms do.
            if np.abs(expected).max() > 1e37 and "distance" not in name:
                continue
            found = find(q, k)
            assert_allclose(found, expected, rtol=2e-6, atol=1e-6 * np.abs(expected).max() + 1e-37)
            assert all(np.isfinite(x).all() for x in grow(q, k)), (of_query, of_key)


def test_distance_is_the_softmax_of_a_gaussian_kernel():
    query, key = np.random.default_rng(0).standard_normal((2, 4, 3))
    kernel = np.exp(-np.sum((query[:, None] - key) ** 2, axis=-1) / (2 * 0.7**2))
    query, key = (jnp.asarray(x, jnp.float32)[:, None] for x in (query, key))
    weights = attention_filter(query, key, score=scores.negative_squared_distance(1 / (2 * 0.7**2))).weights()[0]
    assert_allclose(weights, kernel / kernel.sum(axis=-1, keepdims=True), rtol=1e-5)


def test_bilinear_by_hand():
    assert_allclose(score([[1, 2]], [[3, 4], [1, 0]], scores.bilinear(jnp.array([[1.0, 2.0], [0.0, 1.0]]))), [[19, 1]])


def test_bilinear_with_the_identity_is_the_dot_product():
    query, key = np.random.default_rng(0).standard_normal((2, 3, 4))
    assert_allclose(score(query, key, scores.bilinear(np.eye(4))), query @ key.T, rtol=1e-5)


def test_additive_by_hand():
    eye, vector = jnp.eye(2), jnp.array([1.0, 10.0])
    expected = [[np.tanh(4) + 10 * np.tanh(2), np.tanh(1) + 10 * np.tanh(1)]]
    assert_allclose(score([[1, 2]], [[3, 0], [0, -1]], scores.additive(eye, eye, vector)), expected, rtol=1e-6)
    swapped = scores.additive(eye, eye[::-1], vector)
    assert_allclose(score([[1, 2]], [[3, 0]], swapped), [[np.tanh(1) + 10 * np.tanh(5)]], rtol=1e-6)


def test_additive_without_hidden_units_is_zero():
    nothing = jnp.ones((2, 0))
    assert_array_equal(score([[1, 2]], [[3, 0], [0, -1]], scores.additive(nothing, nothing, nothing[0])), 0)


@sampled("call", [{"implementation": "dense"}, {"block_size": 64}], keep=1)
def test_additive_takes_the_memory_of_the_scores_not_of_its_hidden_units(call):
    length, units = 256, 64
    query, key, value = jnp.ones((3, length, 1, 4))
    arrays = jnp.ones((4, units)), jnp.ones((4, units)), jnp.ones(units)

    def loss(query, key, value, *arrays):
        return jnp.sum(attend(query, key, value, score=scores.additive(*arrays), **call) ** 2)

    gradient = jax.jit(jax.grad(loss, argnums=range(6)))
    memory = gradient.lower(query, key, value, *arrays).compile().memory_analysis()
    assert memory.temp_size_in_bytes < 8 * length * length * 4


def test_soft_cap_by_hand():
    capped = scores.soft_cap(scores.scaled_dot(1.0), 5.0)
    expected = [[5 * np.tanh(0.2), 0, -5 * np.tanh(2), 5]]
    assert_allclose(score([[1]], [[1], [0], [-10], [1e30]], capped), expected, rtol=1e-6)


def test_soft_cap_keeps_minus_infinity_and_nan():
    rows = jnp.array([[-jnp.inf, jnp.nan, jnp.inf, 2.0]])
    capped = score([[0]], [[0]] * 4, scores.soft_cap(lambda query, key: rows.reshape(1, 1, 4), 3.0))
    assert_allclose(capped, [[-np.inf, np.nan, 3, 3 * np.tanh(2 / 3)]], rtol=1e-6)


@sampled("name", LEARNED, keep=1)
def test_forbidden_keys_whose_scores_overflow_leave_no_trace(name):
    make, arrays = LEARNED[name]
    query, key, value = inputs()
    allowed = masks.padding(jnp.array(6))

    def loss(arrays, query, key):
        out = attend(query, key, value, mask=allowed, score=make(*arrays))
        return jnp.sum(jnp.cos(out))

    gradient = jax.jit(jax.grad(loss, argnums=(0, 1, 2)))
    signs = jnp.where(jnp.arange(6) % 2, -1, 1)
    clean = gradient(arrays, query, key.at[:, 6:].set(0))
    dirty = gradient(arrays, query, key.at[:, 6:].set(3e38 * signs))
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(dirty))
    jax.tree.map(lambda x, y: assert_allclose(x, y, rtol=1e-5, atol=1e-6), dirty, clean)


@pytest.mark.parametrize("order", [1, exhaustive(2)])
@sampled("name", LEARNED, keep=1)
def test_gradients_are_those_of_finite_differences(name, order):
    make, arrays = LEARNED[name]
    with jax.enable_x64(True):
        query, key, _ = inputs(2, 2, batch=(), kv_heads=HEADS, dtype=np.float64)

        def function(query, key, *arrays):
            return attention_filter(query, key, score=make(*arrays)).scores()

        arrays = [jnp.asarray(x, jnp.float64) for x in arrays]
        check_grads(jax.jit(function), (query, key, *arrays), order, modes=("fwd", "rev"), rtol=1e-4, atol=1e-4)


@pytest.mark.exhaustive
@sampled(
    ("heads", "name"),
    [*(("walked", name) for name in LEARNED), ("at once", "cosine"), ("at once", "additive")],
    indirect=["heads"],
    keep=1,
)
def test_learned_arrays_have_the_same_gradient_in_walked_blocks(heads, name):
    make, arrays = LEARNED[name]
    arguments = inputs()

    def gradient(**call):
        def loss(arrays):
            return jnp.sum(jnp.cos(attend(*arguments, score=make(*arrays), mask=masks.causal(), **call)))

        return jax.jit(jax.grad(loss))(arrays)

    dense = gradient(implementation="dense")
    jax.tree.map(lambda x, y: assert_allclose(x, y, rtol=1e-3, atol=1e-5), gradient(block_size=3), dense)
    assert all(np.any(x != 0) for x in dense)


@pytest.mark.exhaustive
@sampled("name", ["bilinear", "additive"], keep=1)
def test_filters_with_learned_arrays_stack(name):
    """A filter that leaves a scan has one more batch axis, and so have its arrays."""
    make, arrays = LEARNED[name]
    arrays = [jnp.stack([x, 2 * x, -x]) for x in arrays]
    query, key, _ = inputs()

    def one(_, arrays):
        filter = attention_filter(query, key, score=make(*arrays), block_size=3)
        return None, filter

    stacked = jax.lax.scan(one, None, arrays)[1]
    expected = [one(None, [x[i] for x in arrays])[1].weights() for i in range(3)]
    assert_allclose(stacked.weights(), expected, rtol=1e-5)
    assert_allclose(jax.jit(jax.vmap(lambda *x: one(None, x)[1].weights()))(*arrays), expected, rtol=1e-5)


@sampled("name", ["bilinear", "additive"], keep=1)
@pytest.mark.parametrize("block_size", [None, 3])
def test_learned_arrays_may_differ_by_batch_entry(name, block_size):
    make, arrays = LEARNED[name]
    query, key, _ = inputs()
    scored = attention_filter(query, key, score=make(*(np.stack([x, -2 * x]) for x in arrays)), block_size=block_size)
    for entry, factor in enumerate([1, -2]):
        expected = attention_filter(query[entry], key[entry], score=make(*(factor * x for x in arrays))).scores()
        assert_allclose(scored.scores()[entry], expected, rtol=1e-5, atol=1e-5)


@sampled("dtype", [jnp.bfloat16, jnp.float16], keep=1)
@sampled("name", LEARNED, keep=2)
def test_scores_are_float32_or_wider(name, dtype):
    make, arrays = LEARNED[name]
    query, key, *arrays = (jnp.asarray(x, dtype) for x in (*inputs()[:2], *arrays))
    computed = attention_filter(query, key, score=make(*arrays)).scores()
    query, key, *arrays = (x.astype(jnp.float32) for x in (query, key, *arrays))
    assert computed.dtype == jnp.float32
    assert_allclose(computed, attention_filter(query, key, score=make(*arrays)).scores(), rtol=1e-4, atol=1e-4)


def test_the_scores_of_a_function_are_float32():
    query = jnp.ones((2, 1, 4), jnp.bfloat16)
    function = attention_filter(query, query, score=lambda query, key: query @ jnp.swapaxes(key, -1, -2))
    assert function.scores().dtype == jnp.float32


def test_a_dot_product_accumulates_in_float32():
    ones = jnp.ones((1, 4096), jnp.bfloat16)
    assert scores.dot(ones, ones).tolist() == [[4096.0]]
    assert scores.dot(ones, ones).dtype == jnp.float32


def test_a_number_belongs_to_the_structure_and_an_array_is_a_leaf():
    assert jax.tree.leaves(scores.scaled_dot(2.0)) == []
    assert len(jax.tree.leaves(scores.cosine(jnp.array(2.0)))) == 1
    assert hash(scores.scaled_dot(2.0)) == hash(scores.scaled_dot(2.0))
    assert scores.scaled_dot(2.0) == scores.scaled_dot(2.0) != scores.scaled_dot(3.0)
