import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from jattn import positions


@pytest.mark.parametrize("width", [2, 4, 10])
def test_sinusoidal_is_its_formula(width):
    expected = np.zeros((50, width))
    for p in range(50):
        for i in range(width // 2):
            expected[p, 2 * i] = np.sin(p / 10000 ** (2 * i / width))
            expected[p, 2 * i + 1] = np.cos(p / 10000 ** (2 * i / width))
    encoded = positions.sinusoidal(jnp.arange(50), width)
    assert encoded.dtype == jnp.float32
    assert_allclose(encoded, expected, atol=2e-5)


def test_sinusoidal_takes_positions_of_any_shape():
    places = np.array([[3, 0], [1, 2]])
    assert_array_equal(positions.sinusoidal(places, 6), positions.sinusoidal(np.arange(4), 6)[places])


def test_rotary_is_a_rotation_of_each_pair():
    x = np.random.default_rng(0).standard_normal((2, 7, 3, 6)).astype(np.float32)
    expected = np.zeros(x.shape)
    for p in range(7):
        for i in range(3):
            angle = p / 100 ** (2 * i / 6)
            rotation = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
            expected[:, p, :, 2 * i : 2 * i + 2] = x[:, p, :, 2 * i : 2 * i + 2] @ rotation.T
    assert_allclose(positions.rotary(jnp.asarray(x), jnp.arange(7), base=100.0), expected, atol=1e-5)


def test_dot_products_of_rotated_vectors_depend_on_the_distance_alone():
    query, key = jax.random.normal(jax.random.key(0), (2, 1, 1, 8))
    places = jnp.arange(40)
    queries, keys = (positions.rotary(jnp.broadcast_to(x, (40, 1, 8)), places)[:, 0] for x in (query, key))
    products = np.asarray(queries @ keys.T)
    for distance in (-30, -3, 0, 1, 20):
        diagonal = np.diagonal(products, distance)
        assert_allclose(diagonal, np.full(len(diagonal), diagonal[0]), atol=2e-4)
    assert np.ptp(products[0]) > 1


def test_rotary_keeps_lengths_and_position_zero():
    x = jax.random.normal(jax.random.key(0), (9, 2, 8))
    rotated = positions.rotary(x, jnp.arange(9))
    assert_allclose(jnp.linalg.norm(rotated, axis=-1), jnp.linalg.norm(x, axis=-1), rtol=1e-5)
    assert_array_equal(rotated[0], x[0])


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16, jnp.float32])
def test_rotary_keeps_the_dtype_and_computes_in_float32(dtype):
    x = jax.random.normal(jax.random.key(0), (500, 1, 8), dtype)
    rotated = positions.rotary(x, jnp.arange(500))
    assert rotated.dtype == dtype
    assert_array_equal(rotated, positions.rotary(x.astype(jnp.float32), jnp.arange(500)).astype(dtype))


def test_rotary_of_float64_is_float64():
    with jax.enable_x64(True):
        assert positions.rotary(jnp.ones((3, 1, 4)), jnp.arange(3)).dtype == jnp.float64


def test_positions_may_differ_in_a_batch():
    x = jax.random.normal(jax.random.key(0), (2, 3, 1, 4))
    places = jnp.array([[0, 1, 2], [5, 0, 7]])
    rotated = positions.rotary(x, places)
    for entry in range(2):
        assert_allclose(rotated[entry], positions.rotary(x[entry], places[entry]), rtol=1e-6)
