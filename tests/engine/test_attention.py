import functools
import re

import hypothesis
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from hypothesis.extra import numpy as arrays
from jax.test_util import check_grads
from numpy.testing import assert_allclose, assert_array_equal

from jattn import attend, attention_filter, masks, scores
from tests import reference
from tests.compilations import anew, counted
from tests.sampled import sampled
from tests.variants import BANNED, MASKS, SHAPE, TOGETHER, VARIANTS, inputs, join

examples = functools.partial(hypothesis.settings, deadline=None, derandomize=True, database=None)
close = functools.partial(assert_allclose, rtol=2e-5, atol=2e-5)


def squares(attention, *arguments):
    """A scalar whose gradient depends on every output."""
    out = attention(*arguments)
    return jnp.sum(out * jnp.sin(jnp.arange(out.size, dtype=out.dtype)).reshape(out.shape))


def compiled(**call):
    """One program, which takes less time to compile than its operations one by one."""
    return jax.jit(functools.partial(attend, **call))


@sampled("name", VARIANTS, keep=14)
def test_every_variant_is_the_reference(name):
    """And is compiled once: with rules written anew, a second call is the program of the first."""
    query, key, value = inputs()
    expected = reference.attend(query, key, value, **VARIANTS[name].rules)
    found = attend(query, key, value, **VARIANTS[name].call)
    close(found, expected)
    with counted() as happened:
        again = attend(query, key, value, **anew(VARIANTS[name].call))
    assert happened == []
    assert_array_equal(again, found)


def in_ragged_blocks(variant):
    """Compares attention in compiled blocks with the reference."""
    arrays = inputs()
    close(compiled(block_size=3, **variant.call)(*arrays), reference.attend(*arrays, **variant.rules))


@sampled("name", TOGETHER, keep=1)
def test_every_variant_in_ragged_blocks_of_one_head_is_the_reference(name):
    in_ragged_blocks(TOGETHER[name])


@sampled("name", ["mask: padding of queries", "mask: function of heads", "scale by head, bias, array"], keep=1)
def test_variants_in_ragged_blocks_of_all_heads_are_the_reference(name, heads_at_once):
    in_ragged_blocks(VARIANTS[name])


@sampled("num_queries", [0, 1, 3, 4, 5, 8, 9], keep=2)
def test_any_number_of_queries(num_queries):
    query, key, value = inputs(num_queries, num_keys=6)
    expected = reference.attend(query, key, value, mask=lambda entry, head, i, j: j <= i)
    close(compiled(mask=masks.causal(), block_size=4)(query, key, value), expected)


@sampled("num_keys", [0, 1, 3], keep=2)
@pytest.mark.parametrize("block_size", [None, 4])
def test_any_number_of_keys(num_keys, block_size):
    query, key, value = inputs(6, num_keys)
    close(compiled(block_size=block_size)(query, key, value), reference.attend(query, key, value))


@sampled(("num_heads", "num_kv_heads"), [(1, 1), (4, 1), (6, 3)], keep=2)
def test_grouped_heads(num_heads, num_kv_heads, heads):
    query, key, value = inputs(heads=num_heads, kv_heads=num_kv_heads)
    expected = reference.attend(query, key, value)
    close(compiled(block_size=4)(query, key, value), expected)


@sampled("batch", [(), (1,), (2, 3), (2, 0)], keep=1)
def test_any_batch_axes(batch, heads):
    query, key, value = inputs(5, 4, batch)
    expected = reference.attend(query, key, value, mask=lambda entry, head, i, j: j <= i)
    close(compiled(mask=masks.causal(), block_size=2)(query, key, value), expected)


@pytest.mark.exhaustive
@pytest.mark.parametrize("axes", [(1, 1), (2, 1), (1, 3)])
def test_keys_of_a_batch_axis_of_size_one_serve_all_queries(axes):
    query, key, value = inputs(batch=(2, 3))
    key, value = (x[: axes[0], : axes[1]] for x in (key, value))
    repeated = [jnp.broadcast_to(x, (2, 3, *x.shape[2:])) for x in (key, value)]

    def both(query, key, value):
        filter = attention_filter(query, key, mask=masks.causal(2))
        return attend(query, key, value, mask=masks.causal(2)), filter.weights()

    expected = both(query, *repeated)
    jax.tree.map(assert_array_equal, both(query, key, value), expected)
    gradient = jax.grad(lambda *sides: jnp.sum(jnp.sin(both(query, *sides)[0])), (0, 1))
    for found, of_each in zip(gradient(key, value), gradient(*repeated), strict=True):
        once = [axis for axis, size in enumerate(axes) if size == 1]
        assert_allclose(found, np.sum(of_each, axis=tuple(once), keepdims=True), rtol=1e-5, atol=1e-6)


def test_lengths_of_several_batch_axes(heads):
    query, key, value = inputs(5, 4, (2, 3))
    lengths = np.array([[0, 1, 2], [3, 4, 2]])
    expected = reference.attend(query, key, value, mask=lambda entry, head, i, j: j < lengths[entry])
    close(compiled(mask=masks.padding(lengths), block_size=2)(query, key, value), expected)


@pytest.mark.exhaustive
@sampled("heads", ["walked", "at once"], keep=1, indirect=True)
def test_gradients_do_not_depend_on_blocks(heads):
    call = join(
        VARIANTS["mask: combination"], VARIANTS["bias: array"], VARIANTS["score: cosine, temperature by head"]
    ).call
    gradient = jax.grad(squares, argnums=(1, 2, 3))
    dense, blocked = (
        jax.jit(functools.partial(gradient, functools.partial(attend, **options, **call)))(*inputs())
        for options in ({"implementation": "dense"}, {"block_size": 3})
    )
    jax.tree.map(close, blocked, dense)


@sampled(("score", "block_size", "order"), [(scores.scaled_dot(), 2, 2), (scores.cosine(1.0), None, 1)], keep=1)
def test_gradients_are_those_of_finite_differences(score, block_size, order):
    with jax.enable_x64(True):
        query, key, value = inputs(3, 4, batch=(), heads=2, kv_heads=1, dtype=np.float64)
        bias = jnp.asarray(np.random.default_rng(1).standard_normal((2, 3, 4)))

        def attention(query, key, value, bias):
            return attend(query, key, value, bias=bias, score=score, mask=masks.causal(-1), block_size=block_size)

        check_grads(jax.jit(attention), (query, key, value, bias), order, modes=["rev"], atol=1e-4, rtol=1e-4)


@pytest.mark.exhaustive
def test_a_learned_scale_gets_a_gradient():
    with jax.enable_x64(True):
        query, key, value = inputs(3, 4, batch=(), dtype=np.float64)

        def attention(scale):
            return attend(query, key, value, score=scores.scaled_dot(scale), block_size=2)

        check_grads(jax.jit(attention), (jnp.linspace(0.1, 1, 4)[:, None, None],), order=1, modes=["rev"])


# Other libraries


@sampled("causal", [False, True], keep=1)
def test_jax_nn_agrees(causal):
    query, key, _ = inputs()
    expected = jax.nn.dot_product_attention(query, key, key, is_causal=causal)
    close(attend(query, key, key, mask=masks.causal() if causal else None), expected)


def test_jax_nn_agrees_with_bias_and_mask():
    query, key, _ = inputs()
    call = join(VARIANTS["mask: array of keys"], VARIANTS["bias: array of rows and keys"]).call
    broadcast = {name: jnp.broadcast_to(array, SHAPE) for name, array in call.items()}
    expected = jax.nn.dot_product_attention(query, key, key, **broadcast)
    close(attend(query, key, key, **call), expected)


def test_flax_agrees():
    query, key, value = inputs(kv_heads=4)
    call = join(VARIANTS["mask: array of keys"], VARIANTS["bias: array"]).call
    close(attend(query, key, value, **call), nn.dot_product_attention(query, key, value, **call))


# Properties

contents = arrays.arrays(np.float32, (5, 2, 2), elements={"min_value": -16, "max_value": 16})
some_keys = arrays.arrays(bool, 5)
unmasked, masked = jax.jit(attend), jax.jit(lambda query, key, value, mask: attend(query, key, value, mask=mask))


@examples(max_examples=30)
@hypothesis.given(contents, contents, arrays.arrays(bool, (5, 5)))
def test_rows_sum_to_one_or_zero(query, key, mask):
    weights = np.asarray(attention_filter(query, key, mask=mask).weights())
    assert_allclose(weights.sum(axis=-1), np.broadcast_to(mask.any(axis=-1), (2, 5)), atol=1e-6)
    assert np.all(weights >= 0)


@examples(max_examples=30)
@hypothesis.given(contents, contents, contents, some_keys)
def test_a_mask_equals_deleting_the_keys(query, key, value, mask):
    close(masked(query, key, value, mask), unmasked(query, key[mask], value[mask]))


@examples(max_examples=20)
@hypothesis.given(contents, contents, contents, hypothesis.strategies.permutations(range(5)))
def test_permuting_keys_with_their_values_changes_nothing(query, key, value, order):
    order = np.array(order)
    mask = np.array([[1, 0, 1, 1, 0], [1, 1, 1, 1, 1], [0, 0, 0, 0, 0], [0, 0, 1, 0, 0], [1, 1, 0, 0, 1]], bool)
    expected = masked(query, key, value, mask)
    close(masked(query, key[order], value[order], mask[:, order]), expected)


@examples(max_examples=20)
@hypothesis.given(contents, contents, contents, hypothesis.strategies.permutations(range(5)))
def test_permuting_queries_permutes_outputs(query, key, value, order):
    order = np.array(order)
    close(unmasked(query[order], key, value), unmasked(query, key, value)[order])


@examples(max_examples=20)
@hypothesis.given(contents, contents, contents)
def test_outputs_lie_between_the_values(query, key, value):
    out = np.asarray(unmasked(query, key, value))
    assert np.all(out <= value.max(axis=0) + 1e-4)
    assert np.all(out >= value.min(axis=0) - 1e-4)


@sampled(("argument", "block_size"), [(1, None), (2, None), (1, 2)], keep=1)
def test_a_causal_query_depends_on_exactly_the_keys_up_to_its_own(argument, block_size):
    arguments = inputs(5, 5, batch=(), heads=1, kv_heads=1)
    attention = functools.partial(attend, mask=masks.causal(), block_size=block_size)
    jacobian = jax.jit(jax.jacrev(attention, argument))(*arguments)
    depends = np.abs(jacobian).max(axis=(1, 2, 4, 5)) > 0
    expected = np.tril(np.ones((5, 5), bool))
    if argument == 1:
        expected[0, 0] = False  # the first query has but one key, whose weight is one whatever it is
    assert_array_equal(depends, expected)


@sampled("size", [1e4, 1e18], keep=1)
def test_scores_of_any_finite_size_give_finite_weights(size):
    query, key, value = inputs()
    gradient = jax.jit(jax.value_and_grad(functools.partial(squares, attend), argnums=(0, 1, 2)))
    out, gradients = gradient(query * size, key * size, value)
    assert np.isfinite(out)
    assert np.isfinite(gradients[2]).all()


# Transformations


@sampled("name", ["padding", "array", "combination"], keep=1)
def test_masks_pass_through_jit(name):
    query, key, value = inputs()
    attention = jax.jit(lambda mask: attend(query, key, value, mask=mask, block_size=3))
    mask = masks.as_mask(MASKS[name].call["mask"])
    close(attention(mask), attend(query, key, value, mask=mask))


@sampled("heads", ["walked", "at once"], keep=1, indirect=True)
def test_vmap_is_a_batch_axis(heads):
    query, key, value = inputs(batch=(3,))
    lengths = jnp.array([2, 9, 0])

    def attention(query, key, value, length):
        return attend(query, key, value, mask=masks.padding(length), block_size=3)

    expected = attend(query, key, value, mask=masks.padding(lengths))
    close(jax.vmap(attention)(query, key, value, lengths), expected)


# Dtypes


@sampled("dtype", [jnp.bfloat16, jnp.float16], keep=1)
@sampled("name", ["mask: no mask", "mask: combination", "bias: array", "score: scaled_dot, scale"], keep=2)
def test_half_precision_is_no_worse_than_twice_a_plain_one(name, dtype):
    query, key, value = inputs(kv_heads=4, dtype=dtype, seed=5)
    call, rules = VARIANTS[name].call, VARIANTS[name].rules
    mask = np.broadcast_to(attention_filter(query, key, mask=call.get("mask")).weights() > 0, SHAPE)

    def plain():
        scale = 2.0 if "score" in call else query.shape[-1] ** -0.5
        products = jnp.einsum("btnh,bsnh->bnts", query, key) * jnp.asarray(scale, dtype)
        products = products + jnp.asarray(call.get("bias", 0), dtype)
        return jnp.einsum("bnts,bsnv->btnv", jax.nn.softmax(products, where=mask), value)

    def error(out):
        assert out.dtype == dtype
        return np.abs(np.asarray(out, np.float64) - reference.attend(query, key, value, **rules)).max()

    assert error(attend(query, key, value, **call)) <= 2 * error(plain())


def test_large_half_precision_products_do_not_overflow():
    query, key, value = inputs(kv_heads=4, dtype=jnp.float16)
    query, key = query * 300, key * 300
    rules = {"score": lambda query, key, head: 1e-4 * (query @ key)}
    out = attend(query, key, value, score=scores.scaled_dot(1e-4))
    assert_allclose(out, reference.attend(query, key, value, **rules), atol=5e-3)


@pytest.mark.parametrize("block_size", [None, 3])
def test_products_accumulate_in_float32(block_size):
    program = jax.make_jaxpr(functools.partial(attend, block_size=block_size))(*inputs(dtype=jnp.bfloat16))
    assert re.findall(r":(\w+)\[[\w,]*\] = dot_general", str(program)) == ["f32", "f32"]


@sampled("dtype", [jnp.bfloat16, jnp.float16, jnp.float32], keep=1)
def test_output_has_the_dtype_of_value(dtype):
    query, key, value = inputs()
    for arguments in ((query, key, value.astype(dtype)), [x.astype(dtype) for x in (query, key, value)]):
        assert attend(*arguments).dtype == dtype
        assert attend(*arguments, block_size=3).dtype == dtype
        assert attention_filter(*arguments[:2]).weights().dtype == jnp.float32


@sampled("name", ["mask: combination", "score: cosine", "score: function", "bias: minus infinity"], keep=1)
def test_float64_stays_float64(name):
    with jax.enable_x64(True):
        query, key, value = inputs(dtype=np.float64)
        call, rules = VARIANTS[name].call, VARIANTS[name].rules
        out = attend(query, key, value, **call)
        assert out.dtype == jnp.float64
        assert_allclose(out, reference.attend(query, key, value, **rules), rtol=1e-12, atol=1e-12)


# Memory


def compiled_gradients(length, bias_shape=None, **call):
    """Compiles the gradients of two heads; returns the program and the bytes that it needs besides its arguments."""
    x = jax.ShapeDtypeStruct((length, 2, 16), jnp.float32)
    bias = None if bias_shape is None else jax.ShapeDtypeStruct(bias_shape, jnp.float32)

    def loss(query, key, value, bias):
        return squares(functools.partial(attend, bias=bias, **call), query, key, value)

    compiled = jax.jit(jax.grad(loss, (0, 1, 2) if bias is None else (0, 1, 2, 3))).lower(x, x, x, bias).compile()
    return compiled.as_text(), compiled.memory_analysis().temp_size_in_bytes


@sampled(
    "call",
    [
        {"score": scores.cosine()},
        {"mask": masks.sliding_window(100), "bias_shape": (2, 1, 1)},
        {"mask": masks.causal(), "bias_shape": (2, 1, 1)},
    ],
    ids=["full", "window", "causal"],
    keep=1,
)
def test_memory_is_linear_in_length(call):
    """With a learned bias per head, too."""
    (_, shorter), (program, longer) = compiled_gradients(2048, **call), compiled_gradients(8192, **call)
    assert "8192,8192" not in program
    assert longer <= 4.4 * shorter
    assert longer <= 8192 * 8192 * 4 / 2


@pytest.mark.exhaustive
@sampled(("block_size", "most"), [(None, 4), (128, 1)], keep=1)
def test_blocks_of_all_heads_store_no_array_of_queries_by_keys(block_size, most, heads_at_once):
    program, temporary = compiled_gradients(2048, mask=masks.causal(), block_size=block_size)
    assert "2048,2048" not in program
    assert temporary < most * 2048 * 2048 * 4


# Dropout


def dropped(block_size=None, rate=0.4, seed=0):
    """The weights that are left after dropout: the output for values that are one-hot."""
    query, key, _ = inputs(50, 20, batch=())
    value = jnp.broadcast_to(jnp.eye(20)[:, None], (20, 2, 20))
    out = attend(
        query,
        key,
        value,
        dropout_rate=rate,
        dropout_rng=jax.random.key(seed),
        mask=masks.causal(),
        block_size=block_size,
    )
    return np.moveaxis(out, 0, 1), np.asarray(attention_filter(query, key, mask=masks.causal()).weights())


def test_dropout_drops_weights_and_scales_the_others():
    left, weights = dropped()
    kept = left != 0
    assert_allclose(left[kept], weights[kept] / 0.6, rtol=1e-5)
    assert abs(kept[weights > 0].mean() - 0.6) < 0.04
    columns = kept[:, 25:].reshape(-1, 20)
    assert len(np.unique(columns, axis=0)) > 90, "every row of every head should draw its own"


@pytest.mark.exhaustive
def test_the_same_weights_drop_whatever_the_block(heads):
    close(dropped(block_size=7)[0], dropped()[0])


@sampled("heads", ["walked", "at once"], keep=1, indirect=True)
def test_broadcast_dropout_drops_the_same_weights_of_all_heads_and_entries(heads):
    query, key, _ = inputs(9, 6)
    call = {"dropout_rate": 0.4, "dropout_rng": jax.random.key(0), "broadcast_dropout": True}
    filter = attention_filter(query, key, **call)
    kept = np.asarray(filter.weights()) != 0
    assert np.all(kept == kept[:1, :1])
    assert 0.4 < kept.mean() < 0.8
    assert len(np.unique(kept[0, 0], axis=0)) > 4, "every row should draw its own"
    value = jnp.broadcast_to(jnp.eye(6)[:, None], (*key.shape[:-1], 6))
    for block_size in (None, 2):
        close(jnp.swapaxes(attend(query, key, value, block_size=block_size, **call), -3, -2), filter.weights())
    close(filter[1, 1:, 2], filter.weights()[1, 1:, 2])


def test_dropout_depends_on_its_rng():
    assert np.any(dropped(seed=0)[0] != dropped(seed=1)[0])


def test_dropout_of_rate_zero_needs_no_rng():
    query, key, value = inputs()
    assert_array_equal(attend(query, key, value, dropout_rate=0.0), attend(query, key, value))


# Edits


def knock_out(weights, grid):
    """Forbids every head but the first to look at key 1."""
    return jnp.where((grid.key == 1) & (grid.head > 0) & (grid.query > 2), 0, weights)


@pytest.mark.exhaustive
@pytest.mark.parametrize("block_size", [None, 3])
def test_an_edit_changes_the_weights_of_attention_and_of_its_filter(block_size, heads):
    query, key, value = inputs()
    expected = reference.attention_filter(query, key)
    expected[:, 1:, 3:, 1] = 0
    call = {"edit": knock_out, "block_size": block_size}
    close(attention_filter(query, key, **call).weights(), expected)
    close(attend(query, key, value, **call), reference.average(expected, value))


def test_minus_infinity_is_a_mask():
    query, key, value = inputs()
    close(attend(query, key, value, bias=jnp.asarray(BANNED)), attend(query, key, value, mask=BANNED == 0))
