import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads
from numpy.testing import assert_allclose, assert_array_equal

from jattn import Grid, attend, attention_filter, biases, masks
from jattn.rules.grids import whole_grid
from tests import reference
from tests.sampled import sampled
from tests.variants import inputs, rng


@functools.partial(jax.jit, static_argnums=1)
def whole(bias, shape):
    """Computes a bias for a whole filter of a shape."""
    return jnp.broadcast_to(biases.as_bias(bias).fit(shape).evaluate(whole_grid(shape)), shape)


@jax.jit
def attend_with(bias, query, key, value, mask=None):
    """Attends; a bias and a mask are pytrees, so they pass through jit."""
    return attend(query, key, value, bias=bias, mask=mask)


@functools.partial(jax.jit, static_argnums=1)
def walked(bias, shape):
    """Computes a bias one head and row at a time, ``[batch x N, T, S]``."""
    fitted = biases.as_bias(bias).fit(shape)

    def row(stream, index):
        return jnp.broadcast_to(fitted.evaluate(Grid(index[None], shape, stream=stream)), (1, shape[-1]))[0]

    streams, rows = jnp.arange(math.prod(shape[:-2])), jnp.arange(shape[-2])
    return jax.vmap(lambda stream: jax.vmap(lambda index: row(stream, index))(rows))(streams)


def bucket(distance, num_buckets, max_distance, bidirectional):
    """Sorts one distance (key minus query) into its bucket, by the formula in float64."""
    first, steps = 0, -distance
    if bidirectional:
        num_buckets //= 2
        first, steps = (num_buckets if distance > 0 else 0), abs(distance)
    exact = num_buckets // 2
    if steps < exact:
        return first + max(steps, 0)
    share = math.log(steps / exact) / math.log(max_distance / exact)
    return first + min(exact + math.floor(share * (num_buckets - exact) + 1e-9), num_buckets - 1)


# Slopes.


@pytest.mark.parametrize(
    ("num_heads", "powers"),
    [
        (1, [8]),
        (2, [4, 8]),
        (8, [1, 2, 3, 4, 5, 6, 7, 8]),
        (16, np.arange(1, 17) / 2),
        (3, [4, 8, 2]),
        (6, [2, 4, 6, 8, 1, 3]),
        (12, [1, 2, 3, 4, 5, 6, 7, 8, 0.5, 1.5, 2.5, 3.5]),
    ],
)
def test_slopes_are_powers_of_two(num_heads, powers):
    slopes = biases.alibi_slopes(num_heads)
    assert slopes.dtype == jnp.float32
    assert_allclose(slopes, 2.0 ** -np.array(powers), rtol=1e-7)


def test_slopes_of_any_number_of_heads_differ():
    for num_heads in range(1, 40):
        slopes = np.asarray(biases.alibi_slopes(num_heads))
        assert slopes.shape == np.unique(slopes).shape == (num_heads,)
        assert slopes.min() >= 2**-8
        assert slopes.max() < 1


# ALiBi.


def test_alibi_of_two_heads_by_hand():
    steep = -np.array([[0, 1, 2, 3], [1, 0, 1, 2], [2, 1, 0, 1]]) / 16
    assert_array_equal(whole(biases.alibi(), (2, 3, 4)), [steep, steep / 16])


def test_alibi_under_a_causal_mask_is_that_of_the_paper():
    """The paper adds ``slope · [-(i-1), .., -1, 0]`` to the scores of query ``i``."""
    papers = biases.from_function(lambda head, query, key: -jnp.array([0.5, 0.25])[head] * (query - key))
    query, key, value = inputs(5, 5, batch=(), heads=2)
    slopes = jnp.array([0.5, 0.25])
    outs = [attend_with(bias, query, key, value, masks.causal()) for bias in (biases.alibi(slopes), papers)]
    assert_allclose(*outs, rtol=1e-6)


def test_given_slopes_and_given_heads_are_the_default():
    slopes = biases.alibi_slopes(3)
    for bias in (biases.alibi(slopes), biases.alibi(np.asarray(slopes)), biases.alibi(num_heads=3)):
        assert_array_equal(whole(bias, (2, 3, 4, 5)), whole(biases.alibi(), (2, 3, 4, 5)))
    assert_array_equal(whole(biases.alibi(slopes, 3), (3, 4, 5)), whole(biases.alibi(), (3, 4, 5)))


def test_alibi_has_no_longest_length():
    """Far from the start and far apart, the penalty is the slope times the distance, exactly."""
    shape = (1, 2**20, 2**20)
    rows = biases.alibi(jnp.array([0.5])).fit(shape).evaluate(Grid(jnp.array([2**20 - 1]), shape))
    assert_array_equal(rows[0, 0, :: 2**17], -0.5 * (2**20 - 1 - np.arange(0, 2**20, 2**17)))


# Buckets.


def test_buckets_of_both_directions_by_hand():
    """Of 8 buckets, 4 are for keys not later: 0 and 1 alone, then ``2 · √(32/2) = 8``: 2 to 7, and 8 on."""
    distances = {0: 0, -1: 1, -2: 2, -7: 2, -8: 3, -32: 3, -1000: 3, 1: 5, 2: 6, 7: 6, 8: 7, 1000: 7}
    found = biases.relative_buckets(np.array([*distances]), 8, 32, bidirectional=True)
    assert_array_equal(found, [*distances.values()])


def test_buckets_of_one_direction_by_hand():
    """Of 8 buckets, 0 to 3 hold one distance; then ``4 · 16^(k/4)``: 4 to 7, 8 to 15, 16 to 31, and 32 on."""
    distances = {
        0: 0,
        5: 0,
        1000: 0,
        -1: 1,
        -3: 3,
        -4: 4,
        -7: 4,
        -8: 5,
        -15: 5,
        -16: 6,
        -31: 6,
        -32: 7,
        -64: 7,
        -999: 7,
    }
    found = biases.relative_buckets(np.array([*distances]), 8, 64, bidirectional=False)
    assert_array_equal(found, [*distances.values()])


@sampled("bidirectional", [True, False], keep=5)
@pytest.mark.parametrize(("num_buckets", "max_distance"), [(32, 128), (4, 2), (4, 50), (10, 7), (64, 800)])
def test_buckets_are_those_of_the_formula(num_buckets, max_distance, bidirectional):
    max_distance = max_distance + (0 if bidirectional else 1)
    distances = np.arange(-2 * max_distance, 2 * max_distance)
    found = jax.jit(lambda x: biases.relative_buckets(x, num_buckets, max_distance, bidirectional))(distances)
    assert found.dtype == jnp.int32
    assert_array_equal(found, [bucket(int(d), num_buckets, max_distance, bidirectional) for d in distances])


def test_the_default_buckets_are_those_of_t5():
    found = np.asarray(biases.relative_buckets(np.arange(-200, 201)))
    assert_array_equal(found[::-1][:200] - 16, found[:200])
    starts = [int(np.argmax(found[200::-1] == number)) for number in range(16)]
    assert starts == [0, 1, 2, 3, 4, 5, 6, 7, 8, 12, 16, 23, 32, 46, 64, 91]


def test_far_distances_share_the_last_bucket():
    far = np.array([128, 129, 10**6, 2**31 - 1])
    assert_array_equal(biases.relative_buckets(far), 31)
    assert_array_equal(biases.relative_buckets(-far), 15)
    assert_array_equal(biases.relative_buckets(-far, bidirectional=False), 31)


# Relative.


@pytest.mark.parametrize("bidirectional", [True, False])
@sampled("offset", [0, 3, -2], keep=1)
def test_relative_looks_the_bucket_up(bidirectional, offset):
    table, shape = rng(0).standard_normal((8, 2)).astype(np.float32), (3, 2, 5, 7)
    expected = np.zeros(shape)
    for entry, head, i, j in np.ndindex(shape):
        expected[entry, head, i, j] = table[bucket(j - i - offset, 8, 6, bidirectional), head]
    for given in (offset, jnp.array(offset), np.int16(offset)):
        bias = biases.relative(jnp.asarray(table), bidirectional, 6, given)
        assert_array_equal(whole(bias, shape), expected.astype(np.float32))
    assert_array_equal(walked(bias, shape), expected.astype(np.float32).reshape(6, 5, 7))


@sampled("adjacent", [True, False], keep=1)
@pytest.mark.parametrize("stream", [None, 3])
@pytest.mark.parametrize(
    "bias",
    [biases.alibi(offset=1), biases.relative(jnp.arange(16.0).reshape(8, 2) ** 2, max_distance=5, offset=jnp.array(1))],
    ids=["alibi", "relative"],
)
def test_a_block_holds_its_rows_and_keys(bias, adjacent, stream):
    shape, rows = (3, 2, 6, 9), [2, 3, 4] if adjacent else [5, 0, 3, 3]
    grid = Grid(jnp.array(rows), shape, adjacent, None if stream is None else jnp.array(stream), jnp.array(4), 3)
    block = jax.jit(lambda grid: bias.fit(shape).evaluate(grid))(grid)
    expected = whole(bias, shape)[..., rows, 4:7]
    if stream is None:
        assert_array_equal(np.broadcast_to(block, expected.shape), expected)
    else:
        assert_array_equal(block, expected.reshape(6, len(rows), 3)[stream])


@pytest.mark.parametrize(("num_queries", "num_keys"), [(1, 1), (1, 4), (4, 1), (0, 3), (3, 0)])
def test_relative_of_the_smallest_filters(num_queries, num_keys):
    table = jnp.arange(4.0)[:, None]
    found = whole(biases.relative(table, max_distance=2), (1, num_queries, num_keys))
    expected = [[bucket(j - i, 4, 2, True) for j in range(num_keys)] for i in range(num_queries)]
    assert_array_equal(found[0], np.array(expected).reshape(num_queries, num_keys))


@pytest.mark.exhaustive
@sampled("heads", ["walked", "at once"], keep=1, indirect=True)
def test_offsets_may_differ_in_a_batch(heads):
    query, key, value = inputs(5, 7)
    table, offsets = jnp.asarray(rng(0).standard_normal((8, 4)), jnp.float32), np.array([3, -1])
    for make in (biases.alibi, lambda offset: biases.relative(table, max_distance=5, offset=offset)):
        out = jax.jit(functools.partial(attend, block_size=3))(query, key, value, bias=make(offset=offsets))
        for entry in range(2):
            alone = attend_with(make(offset=int(offsets[entry])), query[entry], key[entry], value[entry])
            assert_allclose(out[entry], alone, rtol=1e-5, atol=1e-6)


# Learned.

LEARNED = {
    "alibi": (biases.alibi, (2,)),
    "relative": (lambda table: biases.relative(table, max_distance=3), (8, 2)),
    "relative, one direction": (lambda table: biases.relative(table, False, 6, jnp.array(2)), (8, 2)),
    "sum": (lambda slopes: biases.alibi(slopes) + jnp.sin(slopes)[:, None, None] + biases.alibi(slopes * 2), (2,)),
}


@sampled(
    ("heads", "name"), [*(("walked", name) for name in LEARNED), ("at once", "relative")], indirect=["heads"], keep=1
)
def test_learned_biases_get_the_gradients_of_finite_differences(heads, name):
    make, shape = LEARNED[name]
    with jax.enable_x64(True):
        query, key, value = inputs(5, 4, batch=(2,), heads=2, kv_heads=1, dtype=np.float64)

        def attention(parameter):
            return attend(query, key, value, bias=make(parameter), mask=masks.causal(), block_size=2)

        check_grads(jax.jit(attention), (rng(1).standard_normal(shape),), 1, modes=["rev"], atol=1e-5, rtol=1e-5)


def test_the_gradient_of_a_table_counts_the_cells_of_a_bucket(heads):
    """Where a bias is added to all scores and the scores summed, each entry's gradient is how often it is used."""
    zeros, shape = jnp.zeros((6, 2, 3)), (2, 6, 6)

    def total(table):
        bias = biases.relative(table, max_distance=4)
        return attention_filter(zeros, zeros, bias=bias, block_size=4).scores().sum()

    counts = np.zeros((8, 2))
    for head, i, j in np.ndindex(shape):
        counts[bucket(j - i, 8, 4, True), head] += 1
    for dtype in (jnp.float32, jnp.bfloat16):
        gradient = jax.grad(total)(jnp.zeros((8, 2), dtype))
        assert gradient.dtype == dtype
        assert_array_equal(gradient, counts)


def test_gradients_of_half_precision_add_up_in_float32():
    """In bfloat16, adding 1 to 256 over and over would stay at 256."""
    zeros = jnp.zeros((400, 1, 1))

    def total(table):
        bias = biases.relative(table, False, 5)
        return attention_filter(zeros, jnp.zeros((1, 1, 1)), bias=bias, block_size=1).scores().sum()

    gradient = jax.grad(total)(jnp.zeros((4, 1), jnp.bfloat16))
    assert_array_equal(gradient.astype(jnp.float32)[:, 0], np.array([1, 1, 2, 396]).astype(jnp.bfloat16))


@pytest.mark.exhaustive
@sampled("name", LEARNED, keep=1)
def test_a_vmap_over_learned_biases_is_a_loop(name):
    make, shape = LEARNED[name]
    query, key, value = inputs(5, 4, heads=2)
    parameters = jnp.asarray(rng(2).standard_normal((3, *shape)), jnp.float32)

    @jax.jit
    def attention(parameter):
        return attend(query, key, value, bias=make(parameter), block_size=2)

    expected = np.stack([attention(parameter) for parameter in parameters])
    assert_allclose(jax.jit(jax.vmap(attention))(parameters), expected, rtol=1e-5, atol=1e-6)


@sampled("name", LEARNED, keep=1)
def test_filters_of_a_scan_keep_the_bias_of_each(name):
    """A scan over layers stacks their filters: their biases then have a batch axis more, like their queries."""
    make, shape = LEARNED[name]
    query, key, _ = inputs(5, 4, heads=2)
    parameters = jnp.asarray(rng(2).standard_normal((3, *shape)), jnp.float32)

    @jax.jit
    def filter_of(parameter):
        return attention_filter(query, key, bias=make(parameter), block_size=2)

    stacked = jax.lax.scan(lambda _, parameter: (None, filter_of(parameter)), None, parameters)[1]
    weights, rows = jax.jit(lambda filter: filter.weights()), jax.jit(lambda filter: filter.rows([3, 0]))
    expected = np.stack([weights(filter_of(parameter)) for parameter in parameters])
    assert_allclose(weights(stacked), expected, rtol=1e-5, atol=1e-6)
    assert_allclose(rows(stacked), expected[..., [3, 0], :], rtol=1e-5, atol=1e-6)


def test_an_offset_may_be_traced():
    shape, table = (2, 3, 5), jnp.asarray(rng(0).standard_normal((8, 2)))
    for make in (biases.alibi, lambda offset: biases.relative(table, offset=offset)):
        found = jax.jit(lambda offset, make=make: make(offset=offset).fit(shape).evaluate(whole_grid(shape)))
        for offset in (0, 2, -7):
            assert_array_equal(found(offset), whole(make(offset=offset), shape))


@pytest.mark.exhaustive
def test_queries_that_start_later_are_the_last_rows():
    """What decoding with kept keys needs: the rows from 3 on of a filter are those of the later queries alone."""
    query, key, value = inputs(6, 6)
    table = jnp.asarray(rng(0).standard_normal((8, 4)), jnp.float32)
    for make in (biases.alibi, lambda offset: biases.relative(table, False, 5, offset)):
        expected = attend_with(make(offset=0), query, key, value, masks.causal())[:, 3:]
        out = attend_with(make(offset=3), query[:, 3:], key, value, masks.causal(3))
        assert_allclose(out, expected, rtol=1e-5, atol=1e-6)


# Sums, functions and what biases are.


def test_biases_add_up_and_arrays_may_stand_on_either_side():
    shape = (2, 3, 4)
    array, other = rng(0).standard_normal((2, *shape)).astype(np.float32)
    alibi = whole(biases.alibi(), shape)
    for bias, expected in [
        (biases.alibi() + biases.as_bias(array), alibi + array),
        (biases.alibi() + array, alibi + array),
        (array + biases.alibi(), array + alibi),
        (jnp.asarray(array) + biases.alibi(), array + alibi),
        (biases.alibi() + jnp.asarray(array), alibi + array),
        (np.float32(0.5) + biases.alibi() + 1.5, alibi + 2),
        (array + (biases.alibi() + other), array + (alibi + other)),
    ]:
        assert isinstance(bias, biases.Bias)
        assert_allclose(whole(bias, shape), expected, rtol=1e-6)
        assert_allclose(walked(bias, shape), expected, rtol=1e-6)


def test_a_sum_is_float32_or_wider():
    tiny = jnp.full((1, 1, 1), 2.0**-10, jnp.bfloat16)
    total = whole(tiny + biases.as_bias(jnp.ones((1, 1, 1), jnp.bfloat16)), (1, 2, 2))
    assert total.dtype == np.float32
    assert_array_equal(total, 1 + 2.0**-10)


def test_numbers_belong_to_the_structure_and_arrays_are_leaves():
    assert jax.tree.leaves(biases.alibi(offset=2)) == []
    assert biases.alibi(offset=2) == biases.alibi(offset=2) != biases.alibi()
    assert hash(biases.alibi()) == hash(biases.alibi())
    learned = biases.alibi(jnp.ones(2)) + biases.relative(jnp.ones((4, 2)), offset=jnp.array(1)) + jnp.ones(5)
    assert len(jax.tree.leaves(learned)) == 4
    again = jax.jit(lambda bias: bias)(learned)
    assert_array_equal(whole(again, (2, 3, 5)), whole(learned, (2, 3, 5)))


def test_fitting_twice_changes_nothing():
    bias = biases.alibi(jnp.ones(2), offset=jnp.array(1)) + biases.relative(jnp.ones((4, 2)))
    once = bias.fit((3, 2, 4, 5))
    assert jax.tree.map(jnp.shape, once) == jax.tree.map(jnp.shape, once.fit((3, 2, 4, 5)))


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16, jnp.float32])
def test_biases_are_float32_or_wider(dtype):
    for bias in (biases.alibi(jnp.ones(2, dtype)), biases.relative(jnp.ones((4, 2), dtype))):
        assert whole(bias, (2, 3, 4)).dtype == np.float32


def test_biases_of_float64_are_float64():
    with jax.enable_x64(True):
        assert whole(biases.alibi(), (3, 2, 2)).dtype == np.float64
        table = rng(0).standard_normal((4, 1))
        assert_array_equal(whole(biases.relative(jnp.asarray(table)), (1, 1, 1)), table[:1, :, None])


@sampled("block_size", [None, 2], keep=3)
@pytest.mark.parametrize("module", [masks, biases])
def test_a_function_without_head_must_not_return_one_result_per_head(module, block_size, heads):
    """Whether heads are walked or computed at once, and even where the shapes would fit."""
    query, key, value = inputs(5, 4)
    per_head = {masks: jnp.ones((4, 1, 1), bool), biases: jnp.ones((4, 1, 1))}[module]
    name = {masks: "mask", biases: "bias"}[module]
    function = module.from_function(lambda query, key: per_head * (query + key >= 0))
    text = rf"{name}: the function must .* got \(4, .*what differs by head takes \(head, query, key\)"
    with pytest.raises(ValueError, match=text):
        attend(query, key, value, block_size=block_size, **{name: function})


def test_a_function_of_heads_may_return_less_than_its_block(heads):
    query, key, value = inputs(5, 4)
    slopes = np.array([0.1, 0.2, 0.3, 0.4], np.float32)
    expected = reference.attend(query, key, value, bias=lambda entry, head, i, j: slopes[head])
    bias = biases.from_function(lambda head, query, key: jnp.asarray(slopes)[head])
    out = jax.jit(functools.partial(attend, bias=bias, block_size=2))(query, key, value)
    assert_allclose(out, expected, rtol=2e-5, atol=2e-5)
