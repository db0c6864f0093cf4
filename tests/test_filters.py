import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads
from numpy.testing import assert_allclose, assert_array_equal

from jattn import attend, attention_filter, masks, scores
from jattn.filters import AttentionFilter
from tests import reference
from tests.variants import HEADS, KEYS, MASKS, QUERIES, SHAPE, VARIANTS, inputs, join

close = functools.partial(assert_allclose, rtol=2e-5, atol=2e-5)


def filter_of(**call):
    """Makes a filter of the usual shape."""
    query, key, _ = inputs()
    return attention_filter(query, key, **call)


@functools.cache
def weights_of(name):
    """Computes the weights of a variant by the reference."""
    query, key, _ = inputs()
    return reference.attention_filter(query, key, **VARIANTS[name].rules)


def uniform_filter(**call):
    """Makes a filter of one head and 4 x 4 that has no preferences among the keys it may see."""
    return attention_filter(jnp.zeros((4, 1, 2)), jnp.zeros((4, 1, 2)), **call)


# Same call, same filter


@pytest.mark.parametrize("name", VARIANTS)
def test_the_filter_of_every_variant_is_the_reference(name):
    """So is attention, in its own tests: same call, same filter."""
    weights = filter_of(**VARIANTS[name].call).weights()
    assert weights.shape == SHAPE
    close(weights, weights_of(name))


@pytest.mark.parametrize("name", ["cosine, bias, combination", "scale by head, bias, array"])
def test_a_filter_times_the_values_is_attention(name):
    query, key, value = inputs()
    weights = filter_of(**VARIANTS[name].call).weights()
    close(reference.average(weights, value), attend(query, key, value, **VARIANTS[name].call))


@pytest.mark.parametrize("name", ["cosine, bias, combination", "scale by head, bias, array", "minus infinity, padding"])
def test_a_filter_does_not_depend_on_blocks(name, heads):
    filter = filter_of(block_size=3, **VARIANTS[name].call)
    close(filter.weights(), weights_of(name))
    close(filter.mass(np.arange(KEYS) < 4), weights_of(name)[..., :4].sum(axis=-1))


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_half_precision_attention_is_its_filter_times_the_values(dtype):
    query, key, value = inputs(dtype=dtype)
    weights = attention_filter(query, key, mask=masks.causal()).weights()
    assert weights.dtype == jnp.float32
    out = attend(query, key, value, mask=masks.causal())
    assert_allclose(out.astype(jnp.float32), reference.average(weights, value), atol=4 * jnp.finfo(dtype).eps)


def test_a_filter_holds_the_weights_before_dropout():
    query, key, value = inputs()
    seeds = jax.random.split(jax.random.key(0), 2000)
    attention = functools.partial(attend, query, key, value, dropout_rate=0.3)
    mean = jnp.mean(jax.lax.map(lambda rng: attention(dropout_rng=rng), seeds, batch_size=500), axis=0)
    assert_allclose(mean, reference.average(filter_of().weights(), value), atol=0.1)


def test_a_filter_tells_its_shape_and_dtype():
    assert filter_of().shape == SHAPE
    assert repr(filter_of()) == "AttentionFilter(shape=(2, 4, 7, 9), dtype=float32)"
    with jax.enable_x64(True):
        query, key, _ = inputs(dtype=np.float64)
        assert attention_filter(query, key).dtype == jnp.float64
        assert attention_filter(query, key).weights().dtype == jnp.float64


@pytest.mark.parametrize("name", ["score: cosine", "cosine, bias, combination", "mask: padding"])
def test_scores_come_before_mask_and_normalizer(name):
    (query, key, _), variant = inputs(), VARIANTS[name]
    score, bias = variant.rules.get("score", reference.scaled_dot), variant.rules.get("bias", reference.nowhere)
    expected = np.zeros(SHAPE)
    for b, n, i, j in np.ndindex(*SHAPE):
        expected[b, n, i, j] = score(query[b, i, n], key[b, j, n // 2], n) + bias((b,), n, i, j)
    assert_allclose(filter_of(**variant.call).scores(), expected, rtol=1e-4, atol=1e-5)
    assert_allclose(filter_of(block_size=3, **variant.call).scores(), expected, rtol=1e-4, atol=1e-5)


# Rows


@pytest.mark.parametrize("name", ["mask: no mask", "mask: padding of queries", "scale by head, bias, array"])
@pytest.mark.parametrize("indices", [[0], [6, 0, 3], [-1, 2, -7], [2, 2]])
def test_rows_are_rows_of_the_weights(name, indices):
    close(filter_of(**VARIANTS[name].call).rows(indices), weights_of(name)[..., indices, :])


def test_rows_of_a_model_with_edits_are_edited():
    def edit(weights, grid):
        return jnp.where(grid.query == 3, 0, weights)

    assert_array_equal(filter_of(edit=edit).rows([3, 4]), filter_of(edit=edit).weights()[..., 3:5, :])


def test_row_indices_may_be_traced():
    filter = filter_of(**VARIANTS["mask: combination"].call)
    rows = jax.jit(lambda filter, indices: filter.rows(indices))(filter, jnp.array([-1, 3]))
    close(rows, weights_of("mask: combination")[..., [6, 3], :])


@pytest.mark.parametrize("masked", [False, True])
def test_traced_row_indices_that_are_out_of_range_give_nan(masked):
    filter = filter_of(mask=masks.causal() if masked else None)
    rows = jax.jit(lambda filter, indices: filter.rows(indices))(filter, jnp.array([7, 3]))
    assert np.isnan(rows[..., 0, :]).all()
    close(rows[..., 1, :], filter.weights()[..., 3, :])


def test_no_rows():
    assert filter_of().rows(jnp.zeros(0, jnp.int32)).shape == (2, 4, 0, KEYS)
    assert filter_of().rows([]).shape == (2, 4, 0, KEYS)


# Folds


def test_entropy_of_looking_at_n_keys_alike_is_the_logarithm_of_n():
    close(uniform_filter(mask=masks.causal()).entropy(), np.log([[1, 2, 3, 4]]))


def test_entropy_of_hand_computed_rows():
    bias = jnp.log(jnp.array([[0.5, 0.5, 0.0, 0.0], [1, 0, 0, 0], [0.5, 0.25, 0.125, 0.125], [0.9, 0.1, 0, 0]]))
    expected = [np.log(2), 0, 1.75 * np.log(2), -0.9 * np.log(0.9) - 0.1 * np.log(0.1)]
    close(uniform_filter(bias=bias).entropy(), [expected])


def test_an_empty_row_has_entropy_zero():
    filter = uniform_filter(mask=masks.causal(-1))
    close(filter.entropy(), np.log([[1, 1, 2, 3]]))


def test_entropy_of_rows_that_do_not_sum_to_one():
    close(uniform_filter(edit=lambda weights, grid: 3 * weights).entropy(), np.full((1, 4), np.log(4)))


@pytest.mark.parametrize("call", [{"mask": masks.causal(-1)}, {"bias": jnp.array([0, 0, 0, -200.0])}])
def test_entropy_has_finite_gradients(call):
    query, key, _ = inputs(4, 4)
    gradients = jax.grad(lambda q, k: jnp.sum(attention_filter(q, k, **call).entropy()), argnums=(0, 1))(query, key)
    assert all(np.isfinite(gradient).all() for gradient in gradients)


def test_gradients_of_entropy_are_those_of_finite_differences():
    with jax.enable_x64(True):
        query, key, _ = inputs(3, 4, batch=(), heads=2, kv_heads=1, dtype=np.float64)

        def entropy(query, key):
            return attention_filter(query, key, mask=masks.causal(1), block_size=2).entropy()

        check_grads(jax.jit(entropy), (query, key), order=1, modes=["rev"], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("keys", ["causal", "padding", "array", "array of keys", "array of rows", "combination"])
def test_mass_is_the_weight_on_a_set_of_keys(keys):
    chosen = np.zeros(SHAPE, bool)
    for *entry, n, i, j in np.ndindex(*SHAPE):
        chosen[(*entry, n, i, j)] = MASKS[keys].rules["mask"]((*entry,), n, i, j)
    expected = np.sum(weights_of("bias: function of heads") * chosen, axis=-1)
    close(filter_of(**VARIANTS["bias: function of heads"].call).mass(MASKS[keys].call["mask"]), expected)


def test_mass_of_keys_in_blocks(heads):
    filter = filter_of(block_size=4)
    close(filter.mass(masks.causal()), np.sum(weights_of("mask: no mask") * np.tri(QUERIES, KEYS), axis=-1))


def test_mass_of_a_set_that_does_not_fit_says_so():
    with pytest.raises(ValueError, match=r"broadcasts to .* \(2, 4, 7, 9\), got \(8,\)"):
        filter_of().mass(np.ones(8, bool))


def test_argmax_is_the_key_of_most_weight():
    indices = filter_of().argmax()
    assert indices.dtype == jnp.int32
    assert_array_equal(indices, weights_of("mask: no mask").argmax(axis=-1))


def test_argmax_of_equals_is_the_first_and_of_nothing_zero():
    assert_array_equal(uniform_filter(mask=masks.causal(-1)).argmax(), [[0, 0, 0, 0]])
    assert_array_equal(uniform_filter(mask=masks.from_function(lambda i, j: j > i)).argmax(), [[1, 2, 3, 0]])
    assert_array_equal(attention_filter(jnp.zeros((4, 1, 2)), jnp.zeros((0, 1, 2))).argmax(), [[0, 0, 0, 0]])


@pytest.mark.parametrize("block_size", [None, 3])
def test_a_fold_computes_anything_per_row(block_size, heads):
    def furthest_and_two_largest(weights, grid):
        return {
            "distance": jnp.sum(weights * (grid.key - grid.query), axis=-1),
            "largest": jax.lax.top_k(weights, 2),
            "head": jnp.broadcast_to(grid.head, weights.shape)[..., 0],
        }

    folded = filter_of(block_size=block_size).fold(furthest_and_two_largest)
    weights = weights_of("mask: no mask")
    close(folded["distance"], np.sum(weights * (np.arange(KEYS) - np.arange(QUERIES)[:, None]), axis=-1))
    close(folded["largest"][0], -np.sort(-weights, axis=-1)[..., :2])
    assert_array_equal(folded["largest"][1], np.argsort(-weights, axis=-1)[..., :2])
    assert_array_equal(folded["head"], np.broadcast_to(np.arange(HEADS)[:, None], SHAPE[:-1]))


@pytest.mark.parametrize("block_size", [None, 3])
@pytest.mark.parametrize("function", [lambda w, grid: jnp.sum(w), lambda w, grid: jnp.sum(w, axis=-2)])
def test_a_fold_over_rows_is_refused(function, block_size):
    with pytest.raises(ValueError, match="fold: the function must return arrays that begin with the rows"):
        filter_of(block_size=block_size).fold(function)


def test_no_array_of_queries_by_keys_is_stored_by_folds(optimized):
    length = 4096
    x = jax.ShapeDtypeStruct((length, 4, 16), jnp.float32)

    def loss(query, key):
        filter = attention_filter(query, key, mask=masks.causal())
        return jnp.sum(filter.entropy()) + jnp.sum(filter.mass(masks.padding(jnp.array(7))))

    compiled = jax.jit(jax.grad(loss)).lower(x, x).compile()
    assert "4096,4096" not in compiled.as_text()
    assert compiled.memory_analysis().temp_size_in_bytes < length * length * 4 / 2


# Uniform


def test_uniform_looks_at_all_keys_it_may_look_at_alike():
    filter = filter_of(**join(VARIANTS["mask: combination"], VARIANTS["bias: array"]).call).uniform()
    allowed = weights_of("mask: combination") > 0
    close(filter.weights(), allowed / np.maximum(allowed.sum(axis=-1, keepdims=True), 1))


# A filter is a pytree


def test_a_filter_passes_through_jit():
    filter = jax.jit(lambda filter: filter)(filter_of(**VARIANTS["scale by head, bias, array"].call))
    assert isinstance(filter, AttentionFilter)
    close(filter.weights(), weights_of("scale by head, bias, array"))


def test_leaves_of_a_filter_are_its_arrays():
    assert len(jax.tree.leaves(filter_of(mask=masks.causal()))) == 2
    assert len(jax.tree.leaves(filter_of(**VARIANTS["scale by head, bias, array"].call))) == 5


ONE = {
    "no mask": lambda rows: {},
    "causal": lambda rows: {"mask": masks.causal()},
    "one length": lambda rows: {"mask": masks.padding(jnp.array(4))},
    "an array": lambda rows: {"mask": jnp.tri(3, 5, dtype=bool)},
    "an array of keys": lambda rows: {"mask": ~masks.as_mask(jnp.arange(5) > 2)},
    "a length each": lambda rows: {"mask": masks.padding(rows)},
    "an array each": lambda rows: {"mask": jnp.arange(3)[:, None] + jnp.arange(5) <= rows},
    "a bias": lambda rows: {"bias": jnp.sin(jnp.arange(15.0).reshape(3, 5))},
    "a bias each": lambda rows: {"bias": jnp.sin(rows * jnp.arange(15.0).reshape(3, 5))},
    "a scale": lambda rows: {"score": scores.scaled_dot(jnp.array([0.5, 1, 2])[:, None, None])},
}


@pytest.mark.parametrize(
    ("how", "name"), [*(("vmap", name) for name in ONE), ("scan", "an array"), ("scan", "a bias each")]
)
def test_stacked_filters_are_the_filters_one_by_one(how, name):
    count = 3 if "each" in name else 2  # as many filters as heads: the new axis must not be taken for that of heads
    query, key, _ = inputs(3, 5, batch=(count,), heads=3, kv_heads=1)
    lengths = jnp.array([1, 4, 2])[:count]

    def one(query, key, length):
        return attention_filter(query, key, **ONE[name](length))

    if how == "vmap":
        stacked = jax.vmap(one)(query, key, lengths)
    else:
        _, stacked = jax.lax.scan(lambda carry, x: (carry, one(*x)), None, (query, key, lengths))
    expected = np.stack([one(query[i], key[i], lengths[i]).weights() for i in range(count)])
    close(jax.tree.map(lambda x: x[1], stacked).weights(), expected[1])
    close(jax.vmap(lambda filter: filter.weights())(stacked), expected)
    assert stacked.shape == (count, 3, 3, 5)
    close(stacked.weights(), expected)


@pytest.mark.parametrize("name", ["one length", "a length each", "an array", "a bias each"])
def test_stacked_filters_of_a_batch_are_the_filters_one_by_one(name):
    count = 3 if "each" in name else 2
    query, key, _ = inputs(3, 5, batch=(count, 3), heads=3, kv_heads=1)
    lengths = jnp.array([1, 4, 2])[:count]

    def one(query, key, length):
        return attention_filter(query, key, **ONE[name](length))

    _, stacked = jax.lax.scan(lambda carry, x: (carry, one(*x)), None, (query, key, lengths))
    close(stacked.weights(), np.stack([one(query[i], key[i], lengths[i]).weights() for i in range(count)]))


# Forbidden values


def test_padding_may_hold_anything_and_leaves_no_trace_in_a_filter():
    query, key, _ = inputs()

    @jax.jit
    def look(key):
        filter = attention_filter(query, key, mask=masks.padding(jnp.array(6)))
        return filter.weights(), filter.rows([3]), filter.entropy(), filter.mass(masks.causal()), filter.argmax()

    @jax.jit
    @functools.partial(jax.grad, argnums=(0, 1))
    def gradients(query, key):
        return jnp.sum(attention_filter(query, key, mask=masks.padding(jnp.array(6))).entropy())

    for bad in (np.nan, np.inf):
        dirty = key.at[:, 6:].set(bad)
        jax.tree.map(close, look(dirty), look(key))
        jax.tree.map(close, gradients(query, dirty), gradients(query, key.at[:, 6:].set(0)))


def test_rows_that_may_see_a_bad_key_are_nan_and_others_are_not():
    query, key, _ = inputs()
    filter = attention_filter(query, key.at[0, 3, 0, 0].set(np.nan), mask=masks.causal())
    expected = np.zeros(SHAPE[:-1], bool)
    expected[0, :2, 3:] = True
    assert_array_equal(np.isnan(filter.weights()).all(axis=-1), expected)
    assert_array_equal(np.isnan(filter.weights()).any(axis=-1), expected)
    assert_array_equal(np.isnan(filter.rows([2, 5])).any(axis=-1), expected[..., [2, 5]])
