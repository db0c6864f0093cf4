import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from jattn import attend, attention_filter, scores


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


@pytest.mark.parametrize("zero", ["query", "key"])
def test_a_zero_vector_has_cosine_zero_and_a_finite_gradient(zero):
    query, key, value = jnp.ones((2, 1, 4)), jnp.ones((3, 1, 4)), jnp.arange(3.0).reshape(3, 1, 1)
    if zero == "query":
        query = query.at[0].set(0)
        assert_array_equal(attention_filter(query, key, score=scores.cosine()).scores()[0, 0], 0)
    else:
        key = key.at[1].set(0)
        assert_array_equal(attention_filter(query, key, score=scores.cosine()).scores()[0, :, 1], 0)
    gradients = jax.grad(lambda *x: jnp.sum(attend(*x, score=scores.cosine()) ** 2), argnums=(0, 1, 2))
    assert all(np.isfinite(gradient).all() for gradient in gradients(query, key, value))


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
@pytest.mark.parametrize("name", ["scaled_dot", "cosine", "function"])
def test_scores_are_float32_or_wider(name, dtype):
    function = {
        "scaled_dot": scores.scaled_dot(),
        "cosine": scores.cosine(),
        "function": lambda query, key: query @ jnp.swapaxes(key, -1, -2),
    }[name]
    query = jnp.ones((2, 1, 4), dtype)
    assert attention_filter(query, query, score=function).scores().dtype == jnp.float32


def test_a_dot_product_accumulates_in_float32():
    ones = jnp.ones((1, 4096), jnp.bfloat16)
    assert scores.dot(ones, ones).tolist() == [[4096.0]]
    assert scores.dot(ones, ones).dtype == jnp.float32


def test_a_number_belongs_to_the_structure_and_an_array_is_a_leaf():
    assert jax.tree.leaves(scores.scaled_dot(2.0)) == []
    assert len(jax.tree.leaves(scores.cosine(jnp.array(2.0)))) == 1
    assert hash(scores.scaled_dot(2.0)) == hash(scores.scaled_dot(2.0))
    assert scores.scaled_dot(2.0) == scores.scaled_dot(2.0) != scores.scaled_dot(3.0)
