import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads
from numpy.testing import assert_allclose, assert_array_equal

from jattn import attend, attention_filter, folds, masks, normalizers, scores
from jattn.filters.filter import AttentionFilter
from tests import reference
from tests.sampled import sampled
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


@sampled("name", ["cosine, bias, combination", "scale by head, bias, array"], keep=1)
def test_a_filter_times_the_values_is_attention(name):
    query, key, value = inputs()
    weights = filter_of(**VARIANTS[name].call).weights()
    close(reference.average(weights, value), attend(query, key, value, **VARIANTS[name].call))


@sampled(
    ("heads", "name"),
    [
        ("walked", "cosine, bias, combination"),
        ("walked", "scale by head, bias, array"),
        ("walked", "minus infinity, padding"),
        ("at once", "scale by head, bias, array"),
    ],
    indirect=["heads"],
    keep=1,
)
def test_a_filter_does_not_depend_on_blocks(heads, name):
    filter = filter_of(block_size=3, **VARIANTS[name].call)
    close(filter.weights(), weights_of(name))
    close(filter.mass(np.arange(KEYS) < 4), weights_of(name)[..., :4].sum(axis=-1))


@sampled("dtype", [jnp.bfloat16, jnp.float16], keep=1)
def test_half_precision_attention_is_its_filter_times_the_values(dtype):
    query, key, value = inputs(dtype=dtype)
    weights = attention_filter(query, key, mask=masks.causal()).weights()
    assert weights.dtype == jnp.float32
    out = attend(query, key, value, mask=masks.causal())
    assert_allclose(out.astype(jnp.float32), reference.average(weights, value), atol=4 * jnp.finfo(dtype).eps)


@sampled(("heads", "block_size"), [("walked", None), ("walked", 3), ("at once", 3)], indirect=["heads"], keep=1)
def test_a_filter_of_a_call_with_dropout_holds_the_weights_that_are_left(heads, block_size):
    query, key, value = inputs()
    dropout = {"dropout_rate": 0.3, "dropout_rng": jax.random.key(5)}
    filter = filter_of(block_size=block_size, **dropout)
    left = np.asarray(filter.weights())
    close(reference.average(left, value), attend(query, key, value, block_size=block_size, **dropout))
    close(left[left != 0], weights_of("mask: no mask")[left != 0] / 0.7)
    assert 0.2 < np.mean(left == 0) < 0.4
    close(filter.rows([2, 4]), left[..., [2, 4], :])
    close(filter[1, 2], left[1, 2])
    close(filter.without_dropout().weights(), weights_of("mask: no mask"))


def test_what_happens_to_arrays_later_changes_no_filter():
    query, key, _ = (np.array(x) for x in inputs())
    mask, bias = np.ones(key.shape[-3], bool), np.zeros(key.shape[-3], np.float32)
    filter = attention_filter(query, key, mask=mask, bias=bias)
    before = np.array(filter.weights())
    for array in (query, key, mask, bias):
        array[...] = np.flip(array) * 2
    mask[0], bias[0] = False, 5
    assert_array_equal(filter.weights(), before)


def test_old_and_new_keys_drop_the_same():
    old, new = (filter_of(dropout_rate=0.5, dropout_rng=make(3)) for make in (jax.random.PRNGKey, jax.random.key))
    assert_array_equal(old.weights(), new.weights())


def test_a_filter_tells_its_shape_and_dtype():
    assert filter_of().shape == SHAPE
    assert repr(filter_of()) == "AttentionFilter(shape=(2, 4, 7, 9), dtype=float32)"
    with jax.enable_x64(True):
        query, key, _ = inputs(dtype=np.float64)
        assert attention_filter(query, key).dtype == jnp.float64
        assert attention_filter(query, key).weights().dtype == jnp.float64


@sampled("name", ["score: cosine", "cosine, bias, combination", "mask: padding"], keep=1)
def test_scores_come_before_mask_and_normalizer(name):
    (query, key, _), variant = inputs(), VARIANTS[name]
    score, bias = variant.rules.get("score", reference.scaled_dot), variant.rules.get("bias", reference.nowhere)
    expected = np.zeros(SHAPE)
    for b, n, i, j in np.ndindex(*SHAPE):
        expected[b, n, i, j] = score(query[b, i, n], key[b, j, n // 2], n) + bias((b,), n, i, j)
    assert_allclose(filter_of(**variant.call).scores(), expected, rtol=1e-4, atol=1e-5)
    assert_allclose(filter_of(block_size=3, **variant.call).scores(), expected, rtol=1e-4, atol=1e-5)


# Rows


@sampled("name", ["mask: no mask", "mask: padding of queries", "scale by head, bias, array"], keep=2)
@sampled("indices", [[0], [6, 0, 3], [-1, 2, -7], [2, 2]], keep=2)
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
    gradients = jax.jit(jax.grad(lambda q, k: jnp.sum(attention_filter(q, k, **call).entropy()), argnums=(0, 1)))
    assert all(np.isfinite(gradient).all() for gradient in gradients(query, key))


def test_gradients_of_entropy_are_those_of_finite_differences():
    with jax.enable_x64(True):
        query, key, _ = inputs(3, 4, batch=(), heads=2, kv_heads=1, dtype=np.float64)

        def entropy(query, key):
            return attention_filter(query, key, mask=masks.causal(1), block_size=2).entropy()

        check_grads(jax.jit(entropy), (query, key), order=1, modes=["rev"], atol=1e-4, rtol=1e-4)


@sampled("keys", ["causal", "padding", "array", "array of keys", "array of rows", "combination"], keep=3)
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


@sampled("block_size", [None, 3], keep=2)
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


def test_no_array_of_queries_by_keys_is_stored_by_folds():
    """Blocks are all that grows, and they have a size of their own."""

    def temporaries(length):
        x = jax.ShapeDtypeStruct((length, 4, 16), jnp.float32)

        def loss(query, key):
            filter = attention_filter(query, key, mask=masks.from_function(lambda query, key: key <= query))
            asked = filter.summarize("entropy", "received", map=folds.pool(16, 16), best=folds.top_k(4))
            return sum(jnp.sum(x) for x in (asked["entropy"], asked["received"], asked["map"], asked["best"].weights))

        compiled = jax.jit(jax.grad(loss)).lower(x, x).compile()
        assert f"{length},{length}" not in compiled.as_text()
        return compiled.memory_analysis().temp_size_in_bytes

    longer = temporaries(16384)
    assert longer < 3.2 * temporaries(8192)  # four times, if they were stored
    assert longer < 4 * 16384 * 16384 * 4 / 5


# A part of it


INDICES = {
    "a head": (0, 3),
    "a head of all entries": (..., 2, slice(None), slice(None)),
    "rows of a head": (..., 3, slice(2, 5), slice(None)),
    "rows from the end": (slice(None), slice(None), slice(None, None, -2)),
    "one row": (1, 2, -1),
    "one weight": (1, 2, -1, 4),
    "keys": (Ellipsis, slice(1, 8, 3)),
    "keys backwards": (0, 0, slice(None), slice(None, None, -1)),
    "no keys": (0, 0, slice(None), slice(3, 3)),
    "no rows": (0, 0, slice(3, 3)),
    "a list of rows": (0, slice(None), [6, 0, 0]),
    "a list of keys": (0, 1, slice(None), [8, 0, 0]),
    "lists in pairs": ([0, 1, 1], [3, 0, 0], [1, 2, 3]),
    "lists across": (np.array([[0], [1]]), np.array([0, 3]), slice(None), slice(0, 2)),
    "lists apart": (slice(None), [0, 1], slice(None), [2, 3]),
    "a number and a list": (0, slice(None), slice(None), [2, 3]),
    "booleans": (0, np.array([True, False, True, False])),
    "booleans of two axes": (np.arange(8).reshape(2, 4) % 3 == 0,),
    "a diagonal": (0, 1, list(range(7)), list(range(7))),
    "one key": (0, slice(None), slice(None), -2),
    "one key of rows in a list": (slice(None), [0, 3], slice(None), 5),
    "a number of numpy and one of jax": (np.int64(1), jnp.int32(2)),
    "a new axis": (None, 0, 1, None),
    "a new axis at the end": (0, 1, slice(None), slice(None), None),
    "an array of jax": (jnp.array([1, 0]),),
    "everything": (),
    "a number": 1,
}


def is_list(part):
    """Keeps lists in an index whole."""
    return isinstance(part, list)


@sampled(
    "index",
    INDICES,
    keep=[*list(INDICES)[::13], "one key of rows in a list", "a list of keys", "a diagonal", "lists in pairs"],
)
def test_a_filter_is_indexed_as_numpy_does(index):
    found = filter_of(**VARIANTS["cosine, bias, combination"].call)[INDICES[index]]
    expected = weights_of("cosine, bias, combination")[
        jax.tree.map(lambda x: np.asarray(x) if isinstance(x, jax.Array) else x, INDICES[index], is_leaf=is_list)
    ]
    assert found.shape == expected.shape
    close(found, expected)


@sampled(
    ("heads", "name"),
    [
        ("walked", "bias: array"),
        ("walked", "mask: array of heads"),
        ("walked", "score: additive by head"),
        ("at once", "bias: array"),
    ],
    indirect=["heads"],
    keep=1,
)
def test_parts_of_filters_with_arrays_are_parts_of_the_weights(heads, name):
    filter, expected = filter_of(**VARIANTS[name].call), weights_of(name)
    close(filter[1, 2:, [3, 0]], expected[1, 2:, [3, 0]])
    close(filter[[0, 1], [3, 1], 2], expected[[0, 1], [3, 1], 2])
    close(filter.block(slice(1, 4), slice(2, 9, 2)), expected[..., 1:4, 2:9:2])
    close(filter.block([5, -6], slice(8, None, -3)), expected[..., [5, 1], 8::-3])


@pytest.mark.exhaustive
@sampled("heads", ["walked", "at once"], keep=1, indirect=True)
def test_many_rows_are_computed_some_at_a_time(heads):
    filter = attention_filter(*jax.random.normal(jax.random.key(0), (2, 2000, 2, 8)), mask=masks.causal())
    weights = filter.weights()
    assert_allclose(filter[:, :1700], weights[:, :1700], atol=1e-6)
    assert_allclose(filter.rows(np.arange(1999, 0, -1)), weights[:, :0:-1], atol=1e-6)


def test_only_the_rows_that_are_asked_for_are_computed():
    x = jax.ShapeDtypeStruct((4096, 8, 64), jnp.float32)

    def work(ask):
        return jax.jit(lambda q, k: ask(attention_filter(q, k))).lower(x, x).compile().cost_analysis()["flops"]

    assert work(lambda filter: filter[3, 100:110]) < 3 * 10 * 4096 * 64 * 3
    assert work(lambda filter: filter.rows([7])) < 3 * 8 * 4096 * 64 * 3


@pytest.mark.exhaustive
def test_an_index_makes_nothing_larger_than_its_result():
    filter = attention_filter(*jnp.ones((2, 8192, 1, 2))).with_limit(0.01)
    column, diagonal = filter[0, :, 5], filter[0, range(8192), np.arange(8192)[::-1]]
    close(column, np.full(8192, 1 / 8192))
    close(diagonal, np.full(8192, 1 / 8192))
    with pytest.raises(ValueError, match=r"at most 0.01 GB, got \(67108864,\) = 0.3 GB"):
        filter[0, :, list(range(8192))]


@pytest.mark.exhaustive
def test_a_filter_is_indexed_and_walked_through_under_jit():
    filter = filter_of(**VARIANTS["mask: combination"].call)
    close(jax.jit(lambda filter: filter[0, 1, 2:4])(filter), weights_of("mask: combination")[0, 1, 2:4])
    assert len(filter) == 2
    close([part[1, 2] for part in filter], weights_of("mask: combination")[:, 1, 2])
    close(np.asarray(filter), weights_of("mask: combination"))


@pytest.mark.exhaustive
def test_parts_have_gradients():
    query, key, _ = inputs()

    def gradient(part):
        return jax.jit(jax.grad(lambda query: jnp.sum(part(attention_filter(query, key)) ** 2)))(query)

    close(gradient(lambda filter: filter[0, 1, 2:4]), gradient(lambda filter: filter.weights()[0, 1, 2:4]))


@pytest.mark.exhaustive
def test_some_scores_are_rows_of_the_scores():
    filter = filter_of(**VARIANTS["cosine, bias, combination"].call)
    close(filter.scores([5, -7]), filter.scores()[..., [5, 0], :])


def test_a_filter_too_large_for_an_array_says_how_large():
    x = jax.ShapeDtypeStruct((65536, 2, 8), jnp.float32)
    with pytest.raises(ValueError, match=r"at most 2 GB, got \(2, 65536, 65536\) = 34.4 GB.*with_limit\(35\)"):
        jax.eval_shape(lambda q, k: attention_filter(q, k).weights(), x, x)
    for ask in (lambda f: f[0], lambda f: f.scores(), lambda f: f.rows(range(9000)), lambda f: np.asarray(f)):
        with pytest.raises(ValueError, match=r"at most 2 GB, got .* GB"):
            jax.eval_shape(lambda q, k, ask=ask: ask(attention_filter(q, k)), x, x)
    assert jax.eval_shape(lambda q, k: attention_filter(q, k)[0, :9], x, x).shape == (9, 65536)
    raised = jax.eval_shape(lambda q, k: attention_filter(q, k).with_limit(35).weights(), x, x)
    assert raised.shape == (2, 65536, 65536)


@pytest.mark.parametrize(
    ("ask", "error", "words"),
    [
        (lambda f: f[0, 1, 2, 3, 4], IndexError, r"at most 4 indices for a filter of shape \(2, 4, 7, 9\)"),
        (lambda f: f[2], IndexError, "index 2 is out of bounds for axis 0 with size 2"),
        (lambda f: f[0, 0, 0, 9], IndexError, "index 9 is out of bounds for axis 3 with size 9"),
        (lambda f: f[..., ...], IndexError, "at most one '...'"),
        (lambda f: f["a"], TypeError, "only integers, slices"),
        (lambda f: f[0.5], TypeError, "only integers, slices"),
        (lambda f: f[np.ones(3, bool)], IndexError, "boolean index did not match"),
        (lambda f: jax.jit(lambda i: f[i])(1), TypeError, "`rows` takes traced query indices"),
        (lambda f: f.rows("a"), TypeError, "rows: expected a list of query indices, got 'a'"),
        (lambda f: f.rows([7]), ValueError, "rows: query index 7 is out of range for 7 queries"),
        (lambda f: f.scores([-8]), ValueError, "scores: query index -8 is out of range for 7 queries"),
        (lambda f: f.rows([[1]]), ValueError, r"list of query indices, got shape \(1, 1\)"),
        (lambda f: f.block([0], [1]), TypeError, "keys: expected a slice, got list"),
        (lambda f: f.with_limit(0), ValueError, "limit_gb: expected a number above 0, got 0"),
        (lambda f: f.with_limit("all"), ValueError, "limit_gb: expected a number above 0, got 'all'"),
        (lambda f: f.apply(jnp.ones((2, 9, 3, 1))), ValueError, r"x: expected shape \[2, 9, 1 or 2 or 4 heads, V\]"),
        (lambda f: f.apply(jnp.ones((2, 7, 4, 1))), ValueError, r"x: expected shape .*got \(2, 7, 4, 1\)"),
        (lambda f: f.apply([1.0]), TypeError, "x: expected a float array, got list"),
        (lambda f: f.apply_transposed(jnp.ones((2, 7, 2, 1))), ValueError, r"y: expected shape \[2, 7, 1 or 4 heads"),
        (lambda f: f.apply_transposed(jnp.ones((2, 7, 4, 1), int)), TypeError, "y: expected a float array, got int32"),
    ],
)
def test_parts_that_there_are_not_are_refused(ask, error, words):
    with pytest.raises(error, match=words):
        ask(filter_of())


# Products


PRODUCTS = ["mask: causal, first rows empty", "cosine, bias, combination", "sparsemax, causal, bias"]


@sampled("name", PRODUCTS, keep=1)
@pytest.mark.parametrize("value_heads", [1, 2, 4])
def test_a_filter_is_multiplied_with_any_values(name, value_heads):
    x = np.random.default_rng(0).standard_normal((2, KEYS, value_heads, 3)).astype(np.float32)
    found = filter_of(**VARIANTS[name].call).apply(jnp.asarray(x))
    close(found, np.einsum("bnts,bsnv->btnv", weights_of(name), np.repeat(x, HEADS // value_heads, axis=2)))


@sampled(
    ("heads", "name", "block_size", "value_heads"),
    [
        *(("walked", name, None, HEADS) for name in PRODUCTS),
        *(("walked", name, 3, HEADS) for name in PRODUCTS),
        *(("at once", name, 3, HEADS) for name in PRODUCTS[:2]),
        ("walked", PRODUCTS[1], None, 1),
        ("walked", PRODUCTS[0], 3, 1),
    ],
    indirect=["heads"],
    keep=1,
)
def test_a_filter_transposed_is_multiplied_with_anything_per_query(heads, name, block_size, value_heads):
    y = np.random.default_rng(1).standard_normal((2, QUERIES, value_heads, 3)).astype(np.float32)
    found = filter_of(block_size=block_size, **VARIANTS[name].call).apply_transposed(jnp.asarray(y))
    whole = np.broadcast_to(y, (2, QUERIES, HEADS, 3))
    close(found, np.einsum("bnts,btnv->bsnv", weights_of(name), whole))


@pytest.mark.exhaustive
@sampled("block_size", [None, 3], keep=1)
def test_products_of_a_filter_edited_beyond_its_mask_are_those_of_its_weights(block_size):
    filter = filter_of(mask=masks.causal(), edit=lambda weights, grid: weights + 0.1, block_size=block_size)
    weights, ones = np.asarray(filter.weights()), jnp.ones((2, QUERIES, 1, 1))
    close(filter.apply_transposed(ones)[..., 0], np.moveaxis(weights.sum(-2), -1, -2))
    close(filter.apply(jnp.ones((2, KEYS, 1, 1)))[..., 0], np.moveaxis(weights.sum(-1), -1, -2))


@pytest.mark.exhaustive
def test_a_transposed_product_is_the_gradient_of_attention_for_values():
    query, key, value = inputs(heads=2, kv_heads=2)
    y = jnp.sin(jnp.arange(2 * QUERIES * 2 * 3.0).reshape(2, QUERIES, 2, 3))

    @jax.jit
    def pull(y):
        return jax.vjp(lambda value: attend(query, key, value, mask=masks.causal()), value)[1](y)[0]

    close(attention_filter(query, key, mask=masks.causal()).apply_transposed(y), pull(y))


def test_products_keep_the_dtype_of_what_is_multiplied():
    x, y = jnp.ones((2, KEYS, 1, 1), jnp.bfloat16), jnp.ones((2, QUERIES, 1, 1), jnp.bfloat16)
    assert filter_of().apply(x).dtype == filter_of().apply_transposed(y).dtype == jnp.bfloat16


@sampled(("heads", "block_size"), [("walked", None), ("walked", 3), ("at once", 3)], indirect=["heads"], keep=1)
def test_nan_reaches_the_keys_that_its_query_may_attend_to(heads, block_size):
    y = jnp.ones((2, QUERIES, HEADS, 2)).at[0, 3, 1, 0].set(np.nan)
    bad = np.isnan(filter_of(mask=masks.causal(), block_size=block_size).apply_transposed(y))
    assert_array_equal(bad[0, :, 1].any(-1), np.arange(KEYS) <= 3)
    assert not bad[1].any()
    assert not bad[0, :, [0, 2, 3]].any()


# Uniform


def test_uniform_looks_at_all_keys_it_may_look_at_alike():
    filter = filter_of(**join(VARIANTS["mask: combination"], VARIANTS["bias: array"]).call).uniform()
    allowed = weights_of("mask: combination") > 0
    close(filter.weights(), allowed / np.maximum(allowed.sum(axis=-1, keepdims=True), 1))


def test_uniform_is_chance_whatever_the_normalizer():
    filter = filter_of(normalizer=normalizers.top_k(2), mask=masks.causal()).uniform()
    close(filter.weights()[0, 0], np.tri(QUERIES, KEYS) / np.arange(1, QUERIES + 1)[:, None])


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


@sampled(("how", "name"), [*(("vmap", name) for name in ONE), ("scan", "an array"), ("scan", "a bias each")], keep=1)
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


@pytest.mark.exhaustive
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
