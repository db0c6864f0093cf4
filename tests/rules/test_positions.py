import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from jattn import positions
from tests.sampled import sampled

rotary = jax.jit(positions.rotary, static_argnames=("base", "layout", "dims", "scaling"))


@pytest.mark.parametrize("width", [2, 4, 10])
def test_sinusoidal_is_its_formula(width):
    expected = np.zeros((50, width))
    for p in range(50):
        for i in range(width // 2):
            expected[p, 2 * i] = np.sin(p / 10000 ** (2 * i / width))
            expected[p, 2 * i + 1] = np.cos(p / 10000 ** (2 * i / width))
    encoded = positions.sinusoidal(jnp.arange(50), width)
    assert encoded.dtype == jnp.float32
    assert_allclose(encoded, expected, atol=4e-7)


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
    assert_allclose(rotary(jnp.asarray(x), jnp.arange(7), base=100.0), expected, atol=1e-5)


def test_dot_products_of_rotated_vectors_depend_on_the_distance_alone():
    query, key = jax.random.normal(jax.random.key(0), (2, 1, 1, 8))
    places = jnp.arange(40)
    queries, keys = (rotary(jnp.broadcast_to(x, (40, 1, 8)), places)[:, 0] for x in (query, key))
    products = np.asarray(queries @ keys.T)
    for distance in (-30, -3, 0, 1, 20):
        diagonal = np.diagonal(products, distance)
        assert_allclose(diagonal, np.full(len(diagonal), diagonal[0]), atol=1e-5)
    assert np.ptp(products[0]) > 1


def test_rotary_keeps_lengths_and_position_zero():
    x = jax.random.normal(jax.random.key(0), (9, 2, 8))
    rotated = rotary(x, jnp.arange(9))
    assert_allclose(jnp.linalg.norm(rotated, axis=-1), jnp.linalg.norm(x, axis=-1), rtol=1e-5)
    assert_array_equal(rotated[0], x[0])


@sampled("dtype", [jnp.bfloat16, jnp.float16, jnp.float32], keep=1)
def test_rotary_keeps_the_dtype_and_computes_in_float32(dtype):
    x = jax.random.normal(jax.random.key(0), (500, 1, 8), dtype)
    rotated = positions.rotary(x, jnp.arange(500))
    assert rotated.dtype == dtype
    assert_array_equal(rotated, positions.rotary(x.astype(jnp.float32), jnp.arange(500)).astype(dtype))


def test_rotary_of_float64_is_float64():
    with jax.enable_x64(True):
        assert rotary(jnp.ones((3, 1, 4)), jnp.arange(3)).dtype == jnp.float64


def test_positions_may_differ_in_a_batch():
    x = jax.random.normal(jax.random.key(0), (2, 3, 1, 4))
    places = jnp.array([[0, 1, 2], [5, 0, 7]])
    rotated = rotary(x, places)
    for entry in range(2):
        assert_allclose(rotated[entry], rotary(x[entry], places[entry]), rtol=1e-6)


@pytest.mark.parametrize("top", [10**4, 10**6, 2**31 - 1])
def test_angles_stay_accurate_at_far_positions(top):
    """A float32 product of position and frequency is wrong in the second digit at a million."""
    places = np.unique(np.linspace(-top, top, 999).astype(np.int64))
    angles = places[:, None] * 10000.0 ** (-np.arange(0, 16, 2) / 16)
    expected = np.stack([np.sin(angles), np.cos(angles)], axis=-1).reshape(-1, 16)
    encoded = jax.jit(positions.sinusoidal, static_argnums=1)(places.astype(np.int32), 16)
    assert_allclose(encoded, expected, rtol=0, atol=4e-7 if top <= 10**6 else 5e-5)


OPTIONS = [{}, {"layout": "half"}, {"dims": 4}, {"layout": "half", "dims": 6, "scaling": 4.0}, {"scaling": 0.3}]


def rotated_by_hand(x, p, base=10000.0, layout="interleaved", dims=None, scaling=1.0):
    """Rotates one vector in float64, pair by pair."""
    dims = dims or len(x)
    out = np.array(x, np.float64)
    for i in range(dims // 2):
        one, two = (2 * i, 2 * i + 1) if layout == "interleaved" else (i, i + dims // 2)
        angle = p / scaling / base ** (2 * i / dims)
        out[one] = x[one] * np.cos(angle) - x[two] * np.sin(angle)
        out[two] = x[one] * np.sin(angle) + x[two] * np.cos(angle)
    return out


@sampled("options", OPTIONS, keep=3)
def test_rotary_of_every_option_is_its_formula(options):
    x, places = np.random.default_rng(0).standard_normal((5, 2, 8)).astype(np.float32), np.array([0, 1, 7, 1000, -3])
    expected = np.array([[rotated_by_hand(x[t, n], places[t], **options) for n in range(2)] for t in range(5)])
    assert_allclose(rotary(jnp.asarray(x), places, **options), expected, atol=2e-6)
    with jax.enable_x64(True):
        assert_allclose(rotary(jnp.asarray(x, jnp.float64), places, **options), expected, atol=1e-12)


def test_rotary_of_half_by_hand():
    """A quarter turn of the pair (0, 2); the second pair, of frequency 1/100, stands still at position 0."""
    x = jnp.array([1.0, 2.0, 3.0, 4.0]).reshape(1, 1, 4)
    assert_array_equal(rotary(x, np.array([0]), layout="half"), x)
    turned = rotary(x, np.array([1]), layout="half", scaling=2 / np.pi)[0, 0]
    small = np.pi / 200
    expected = [-3, 2 * np.cos(small) - 4 * np.sin(small), 1, 2 * np.sin(small) + 4 * np.cos(small)]
    assert_allclose(turned, expected, atol=1e-6)


@pytest.mark.parametrize("dims", [None, 6])
def test_the_layouts_are_the_same_up_to_the_order_of_dims(dims):
    x = jax.random.normal(jax.random.key(0), (5, 2, 8))
    order = np.arange(8)
    order[: dims or 8] = np.arange(dims or 8).reshape(-1, 2).T.ravel()
    interleaved = rotary(x, jnp.arange(5), dims=dims)
    assert_array_equal(rotary(x[..., order], jnp.arange(5), layout="half", dims=dims), interleaved[..., order])


@pytest.mark.parametrize("layout", positions.LAYOUTS)
def test_partial_rotary_rotates_the_first_dims_only(layout):
    """An odd head dim is fine where the rotated part is even."""
    x = jax.random.normal(jax.random.key(0), (5, 2, 7))
    rotated = rotary(x, jnp.arange(5), layout=layout, dims=4)
    assert_array_equal(rotated[..., 4:], x[..., 4:])
    assert_array_equal(rotated[..., :4], rotary(x[..., :4], jnp.arange(5), layout=layout))


def test_scaling_gives_a_longer_text_the_angles_of_the_trained_range():
    x = jax.random.normal(jax.random.key(0), (5, 2, 8))
    scaled = rotary(x, 4 * jnp.arange(5), scaling=4)
    assert_allclose(scaled, rotary(x, jnp.arange(5)), atol=1e-6)


def test_llama_3_keeps_fast_rotations_and_divides_slow_ones():
    """Of four frequencies one turns often enough in 64 tokens to be kept, one seldom enough to be divided whole."""
    frequencies = 2 * np.pi / 64 * np.array([8.0, 4.0, 2.5, 0.5])
    found = positions.Llama3Scaling(factor=4.0, length=64)(frequencies)
    assert_allclose(found / frequencies, [1, 1, 0.5 + 0.5 / 4, 1 / 4])
    with pytest.raises(ValueError, match="scaling: expected positive finite numbers with low < high, got"):
        positions.Llama3Scaling(low=4.0)


@pytest.mark.parametrize("options", OPTIONS)
def test_distance_alone_matters_however_far_out(options):
    """Dot products at distance 5, near the start and a million tokens later; lengths stay."""
    query, key = jax.random.normal(jax.random.key(0), (2, 1, 1, 8))
    places = np.array([0, 1, 1000, 10**6, 2 * 10**6])
    queries, keys = (jnp.broadcast_to(x, (5, 1, 8)) for x in (query, key))
    queries, keys = rotary(queries, places + 5, **options), rotary(keys, places, **options)
    products = jnp.sum(queries * keys, axis=-1)[:, 0]
    assert_allclose(products, np.full(5, products[0]), atol=1e-5)
    assert abs(products[0] - jnp.sum(query * key)) > 0.01
    assert_allclose(jnp.linalg.norm(queries, axis=-1)[:, 0], np.full(5, jnp.linalg.norm(query)), rtol=1e-6)


def test_rotary_under_vmap_and_its_gradient():
    """The gradient of a rotation turns back."""
    x = jax.random.normal(jax.random.key(0), (3, 5, 2, 6))
    places = jnp.array([[0, 1, 2, 3, 4], [7, 7, 0, 1, 9], [1, 2, 3, 4, 5]])
    rotated, back = jax.vjp(lambda x: rotary(x, places, layout="half", dims=4), x)
    assert_allclose(jax.vmap(lambda x, p: rotary(x, p, layout="half", dims=4))(x, places), rotated, atol=1e-6)
    assert_allclose(back(rotated)[0], x, atol=1e-6)
