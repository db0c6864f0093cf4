import hypothesis
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis.extra import numpy as arrays
from jax.test_util import check_grads
from numpy.testing import assert_allclose, assert_array_equal

from jattn import attend, attention_filter, masks, normalizers
from tests import reference


def softmax(scores, allowed=None):
    """Normalizes rows with the library's softmax."""
    return normalizers.softmax().evaluate(jnp.asarray(scores), None if allowed is None else jnp.asarray(allowed))


finite = {"min_value": -100, "max_value": 100}


@hypothesis.settings(deadline=None, derandomize=True, database=None, max_examples=50)
@hypothesis.given(arrays.arrays(np.float32, (3, 5), elements=finite), arrays.arrays(bool, (3, 5)))
def test_softmax_is_the_reference(scores, allowed):
    expected = [reference.softmax(*row) for row in zip(scores.astype(np.float64), allowed, strict=True)]
    assert_allclose(softmax(scores, allowed), expected, rtol=1e-4, atol=1e-7)


def test_softmax_of_hand_computed_rows():
    assert_allclose(softmax(np.log([[1.0, 3.0, 4.0]]), [[True, True, False]]), [[0.25, 0.75, 0]], rtol=1e-6)
    assert_allclose(softmax(np.log([[1.0, 3.0, 4.0]])), [[1 / 8, 3 / 8, 1 / 2]], rtol=1e-6)


def test_softmax_does_not_overflow():
    assert_array_equal(softmax([[3e38, 0.0, -3e38], [-3e38, -3e38, -3e38]]), [[1, 0, 0], [1 / np.float32(3)] * 3])


def test_minus_infinity_is_a_forbidden_key():
    scores = np.array([[0, -np.inf, 1], [-np.inf] * 3], np.float32)
    assert_array_equal(softmax(scores), softmax(np.where(np.isinf(scores), 0, scores), ~np.isinf(scores)))
    assert_array_equal(softmax(scores)[1], 0)


def test_softmax_gradients_are_those_of_finite_differences():
    allowed = jnp.array([[True, True, False, True], [False] * 4, [False, True, False, False]])
    with jax.enable_x64(True):
        scores = jnp.asarray(np.random.default_rng(0).standard_normal((3, 4)))
        for mask in (None, allowed):
            check_grads(lambda x, mask=mask: normalizers.softmax().evaluate(x, mask), (scores,), order=2)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_forbidden_scores_may_be_anything(bad):
    allowed = jnp.array([[True, True, False], [False] * 3])

    def loss(scores):
        return jnp.sum(jnp.cos(softmax(scores, allowed)))

    clean, dirty = (jnp.where(allowed, 1.0, fill) for fill in (0.0, bad))
    assert_array_equal(softmax(dirty, allowed), softmax(clean, allowed))
    assert_array_equal(jax.grad(loss)(dirty), jax.grad(loss)(clean))


def relu(scores, allowed):
    """Rows need not sum to one, and know nothing of the mask."""
    return jnp.maximum(scores, 0) + 1


@pytest.mark.parametrize("block_size", [None, 2])
def test_a_function_may_normalize(block_size):
    query, key, value = jax.random.normal(jax.random.key(0), (3, 5, 2, 4))
    filter = attention_filter(query, key, normalizer=relu, mask=masks.causal(), block_size=block_size)
    expected = (np.maximum(filter.scores(), 0) + 1) * np.tri(5)
    assert_allclose(filter.weights(), expected, rtol=1e-6)
    out = attend(query, key, value, normalizer=relu, mask=masks.causal(), block_size=block_size)
    assert_allclose(out, reference.average(expected, value), rtol=1e-5)


def test_a_function_gets_the_mask_of_every_key():
    seen = []

    def spy(scores, allowed):
        seen.append((scores.shape, allowed.shape, allowed.dtype))
        return jax.nn.softmax(scores, where=allowed)

    query = jnp.ones((5, 2, 4))
    attention_filter(query, query, normalizer=spy, mask=masks.causal()).weights()
    attention_filter(query, query, normalizer=spy).weights()
    assert seen == [((2, 5, 5), (2, 5, 5), jnp.bool_)] * 2
