"""What a user gets wrong is told in the user's words: the argument, what was expected, what came."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jattn import attend, attention_filter, biases, masks, normalizers, positions, scores
from jattn.rules import checks

QUERY, KEY, VALUE = jnp.ones((2, 5, 4, 6)), jnp.ones((2, 7, 2, 6)), jnp.ones((2, 7, 2, 3))


def attention(query=QUERY, key=KEY, value=VALUE, **call):
    """Attends; every test changes one argument."""
    return attend(query, key, value, **call)


# What fails in attend and in attention_filter alike: arguments, type, fragments of the message.
CALLS = {
    "query, a list": ({"query": [1.0]}, TypeError, "query: expected an array, got list"),
    "key, a list": ({"key": [[[1.0]]]}, TypeError, "key: expected an array, got list"),
    "query, None": ({"query": None}, TypeError, "query: expected an array, got NoneType"),
    "query of integers": ({"query": jnp.ones((2, 5, 4, 6), int)}, TypeError, "query: expected a float dtype, got int"),
    "key of booleans": ({"key": KEY > 0}, TypeError, "key: expected a float dtype, got bool"),
    "query of complex numbers": ({"query": QUERY * 1j}, TypeError, "query: expected a float dtype, got complex64"),
    "query of two axes": ({"query": jnp.ones((5, 6))}, ValueError, r"query: expected at least 3 axes .* \(5, 6\)"),
    "key of one axis": ({"key": jnp.ones(6)}, ValueError, r"key: expected at least 3 axes .* got shape \(6,\)"),
    "batches that differ": (
        {"key": jnp.ones((3, 7, 2, 6))},
        ValueError,
        r"key: expected the batch shape of query, \(2,\), or axes of size 1 in it, got \(3,\)",
    ),
    "a key without a batch": ({"key": jnp.ones((7, 2, 6))}, ValueError, r"key: .* batch shape .* \(2,\), .* got \(\)"),
    "head dims that differ": ({"key": jnp.ones((2, 7, 2, 5))}, ValueError, "key: expected the head dim .* 6, got 5"),
    "heads that do not divide": (
        {"key": jnp.ones((2, 7, 3, 6))},
        ValueError,
        "key: expected a number of heads that divides the 4 of query, got 3",
    ),
    "more key heads than query heads": ({"key": jnp.ones((2, 7, 8, 6))}, ValueError, "divides the 4 of query, got 8"),
    "no key heads": ({"key": jnp.ones((2, 7, 0, 6))}, ValueError, "divides the 4 of query, got 0"),
    "mask of floats": ({"mask": jnp.ones((5, 7))}, TypeError, "mask: expected dtype bool .* got float32"),
    "mask of integers": ({"mask": np.ones((5, 7), int)}, TypeError, "mask: expected dtype bool .* got int"),
    "mask, a list": ({"mask": [True] * 7}, TypeError, "mask: expected a boolean array or a jattn mask .* got list"),
    "mask, a string": ({"mask": "causal"}, TypeError, "mask: expected a boolean array or a jattn mask .* got 'causal'"),
    "mask of other keys": (
        {"mask": jnp.ones((5, 8), bool)},
        ValueError,
        r"mask: expected a shape that broadcasts to \[\*batch, N, T, S\] = \(2, 4, 5, 7\), got \(5, 8\)",
    ),
    "mask of key heads": ({"mask": jnp.ones((2, 1, 7), bool)}, ValueError, r"mask: .* got \(2, 1, 7\)"),
    "mask of too many axes": ({"mask": jnp.ones((1, 2, 4, 5, 7), bool)}, ValueError, r"got \(1, 2, 4, 5, 7\)"),
    "mask of a part": (
        {"mask": masks.causal() & ~(masks.causal() | np.ones((5, 8), bool))},
        ValueError,
        r"mask: .* got \(5, 8\)",
    ),
    "lengths of another batch": (
        {"mask": masks.padding(jnp.array([1, 2, 3]))},
        ValueError,
        r"padding: lengths must be a scalar or have the batch shape \(2,\), got \(3,\)",
    ),
    "query lengths of another batch": (
        {"mask": masks.causal() & masks.padding(jnp.array([1, 2]), jnp.array([1]))},
        ValueError,
        r"padding: query_lengths must be a scalar or have the batch shape \(2,\), got \(1,\)",
    ),
    "bias of booleans": ({"bias": jnp.ones((5, 7), bool)}, TypeError, "bias: expected a float dtype, got bool.*mask"),
    "bias of integers": ({"bias": jnp.ones((5, 7), int)}, TypeError, "bias: expected a float dtype, got int"),
    "bias, a list": ({"bias": [0.0] * 7}, TypeError, "bias: expected a float array or a jattn bias, got list"),
    "bias of other keys": ({"bias": jnp.ones(8)}, ValueError, r"bias: .* \(2, 4, 5, 7\), got \(8,\)"),
    "bias, a mask": (
        {"bias": masks.causal()},
        TypeError,
        r"bias: expected a float array or .* got causal\(\)",
    ),
    "mask, a bias": (
        {"mask": biases.from_function(lambda query, key: query - key)},
        TypeError,
        "mask: expected a boolean array or a jattn mask",
    ),
    "score, a string": ({"score": "cosine"}, TypeError, "score: expected a jattn score or a function .* got 'cosine'"),
    "scale by three heads": (
        {"score": scores.scaled_dot(jnp.ones((3, 1, 1)))},
        ValueError,
        r"scaled_dot: scale: .* \(2, 4, 5, 7\), got \(3, 1, 1\)",
    ),
    "temperature by three heads": (
        {"score": scores.cosine(jnp.ones((3, 1, 1)))},
        ValueError,
        r"cosine: temperature: .* \(2, 4, 5, 7\), got \(3, 1, 1\)",
    ),
    "normalizer, a string": (
        {"normalizer": "softmax"},
        TypeError,
        "normalizer: expected a jattn normalizer .* got 'softmax'",
    ),
    "edit, an array": (
        {"edit": jnp.ones(7)},
        TypeError,
        r"edit: expected a jattn edit or a function of \(weights, grid\), got",
    ),
    "unknown precision": ({"precision": "bad"}, ValueError, "precision: expected None.* got 'bad'"),
    "block_size 0": ({"block_size": 0}, ValueError, "block_size must be at least 1, got 0"),
    "block_size -1": ({"block_size": -1}, ValueError, "block_size must be at least 1, got -1"),
    "block_size True": ({"block_size": True}, TypeError, "block_size must be an int.*, got True"),
    "block_size 2.0": ({"block_size": 2.0}, TypeError, r"block_size must be an int.*, got 2\.0"),
}


@pytest.mark.parametrize("name", CALLS)
def test_attention_says_what_is_wrong(name):
    call, kind, text = CALLS[name]
    with pytest.raises(kind, match=text):
        attention(**call)


@pytest.mark.parametrize("name", CALLS)
def test_a_filter_says_what_is_wrong_when_it_is_made(name):
    call, kind, text = CALLS[name]
    with pytest.raises(kind, match=text):
        attention_filter(**{"query": QUERY, "key": KEY} | call)


# What only attend takes.
ATTEND_CALLS = {
    "value, a list": ({"value": [1.0]}, TypeError, "value: expected an array, got list"),
    "value of integers": ({"value": jnp.ones((2, 7, 2, 3), int)}, TypeError, "value: expected a float dtype, got int"),
    "value of other keys": (
        {"value": jnp.ones((2, 8, 2, 3))},
        ValueError,
        r"value: expected shape \[2, 7, 2, V\].* got \(2, 8, 2, 3\)",
    ),
    "value of other heads": ({"value": jnp.ones((2, 7, 4, 3))}, ValueError, r"value: .* got \(2, 7, 4, 3\)"),
    "value without a batch": ({"value": jnp.ones((7, 2, 3))}, ValueError, r"value: .* got \(7, 2, 3\)"),
    "unknown implementation": (
        {"implementation": "flash"},
        ValueError,
        "implementation: expected one of dense, blocked, cudnn, splash or None, got 'flash'",
    ),
    "implementation, a list": ({"implementation": []}, ValueError, r"implementation: expected one of .* got \[\]"),
    "dense with a block_size": (
        {"implementation": "dense", "block_size": 2},
        ValueError,
        "block_size: implementation 'dense' has one block, got block_size 2",
    ),
    "dropout_rate 1": ({"dropout_rate": 1.0}, ValueError, r"dropout_rate: expected a number in \[0, 1\), got 1\.0"),
    "dropout_rate below 0": ({"dropout_rate": -0.1}, ValueError, r"dropout_rate: expected .* got -0\.1"),
    "dropout_rate, nan": ({"dropout_rate": np.nan}, ValueError, "dropout_rate: expected .* got nan"),
    "dropout_rate, a string": ({"dropout_rate": "0.1"}, ValueError, "dropout_rate: expected .* got '0.1'"),
    "dropout_rng, an int": (
        {"dropout_rng": 3},
        TypeError,
        "dropout_rng: expected one key, as jax.random.key makes it, got int",
    ),
    "dropout_rng of two keys": (
        {"dropout_rng": jax.random.split(jax.random.key(0))},
        TypeError,
        r"dropout_rng: expected one key, .* got shape \(2,\), dtype key",
    ),
    "broadcast_dropout, a number": ({"broadcast_dropout": 1}, TypeError, "broadcast_dropout: expected a bool, got 1"),
    "dropout without rng": ({"dropout_rate": 0.1}, ValueError, r"dropout_rng: needed for dropout_rate 0\.1, got None"),
}


@pytest.mark.parametrize("name", ATTEND_CALLS)
def test_attention_says_what_is_wrong_with_its_own_arguments(name):
    call, kind, text = ATTEND_CALLS[name]
    with pytest.raises(kind, match=text):
        attention(**call)


# Functions that return something else than they should, found when they are called.
FUNCTIONS = {
    "score": (
        {"score": lambda query, key: query @ query.mT},
        ValueError,
        "score: the function got query .* must return",
    ),
    "normalizer": ({"normalizer": lambda scores, allowed: scores[..., :1]}, ValueError, "normalizer: .* must return"),
    "edit": ({"edit": lambda weights, grid: weights[..., :1]}, ValueError, "edit: the function must return shape"),
    "mask of floats": (
        {"mask": masks.from_function(lambda query, key: 1.0 * (query - key))},
        TypeError,
        "mask: the function must return booleans .* got dtype float32",
    ),
    "mask that does not broadcast": (
        {"mask": masks.from_function(lambda query, key: jnp.ones(4, bool))},
        ValueError,
        r"mask: the function must .* got .*\(4,\)",
    ),
    "mask of more axes than the block": (
        {"mask": masks.from_function(lambda query, key: (query >= key) & jnp.ones((3, 1, 1, 1, 1), bool))},
        ValueError,
        r"mask: the function must .* got",
    ),
    "bias of booleans": (
        {"bias": biases.from_function(lambda query, key: query >= key)},
        TypeError,
        "bias: the function must return floats",
    ),
    "bias that does not broadcast": (
        {"bias": biases.from_function(lambda query, key: jnp.ones(4))},
        ValueError,
        r"bias: the function must .* got .*\(4,\)",
    ),
    "bias of more axes than the block": (
        {"bias": biases.from_function(lambda query, key: (query - key) * jnp.ones((3, 1, 1, 1, 1)))},
        ValueError,
        r"bias: the function must .* got",
    ),
}


@pytest.mark.parametrize("block_size", [None, 2])
@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_function_that_returns_something_else_is_named(name, block_size):
    call, kind, text = FUNCTIONS[name]
    with pytest.raises(kind, match=text):
        attention(block_size=block_size, **call)
    with pytest.raises(kind, match=text):
        attention_filter(QUERY, KEY, block_size=block_size, **call).weights()


FILTER = attention_filter(QUERY, KEY)

# Calls of everything else: a thunk, the type, fragments of the message.
OTHERS = {
    "rows out of range": (lambda: FILTER.rows([0, 5]), ValueError, "rows: query index 5 is out of range for 5 queries"),
    "rows below range": (lambda: FILTER.rows([-6]), ValueError, "rows: query index -6 is out of range for 5 queries"),
    "rows, a number": (lambda: FILTER.rows(1), ValueError, r"rows: expected a list of query indices, got shape \(\)"),
    "rows of floats": (lambda: FILTER.rows(jnp.ones(2)), ValueError, "rows: expected a list .* dtype float32"),
    "rows of booleans": (lambda: FILTER.rows(np.ones(5, bool)), ValueError, "rows: expected a list .* dtype bool"),
    "mass of a list": (lambda: FILTER.mass([True] * 7), TypeError, "got list"),
    "mass of floats": (lambda: FILTER.mass(jnp.ones(7)), TypeError, "expected booleans .* got dtype float32"),
    "fold of no function": (lambda: FILTER.fold(3), TypeError, "fold: expected a function .* got int"),
    "causal, a float": (lambda: masks.causal(1.5), TypeError, r"causal: offset must be an int, or an .* got 1\.5"),
    "causal, a boolean": (lambda: masks.causal(True), TypeError, "causal: offset must be an int, or .* got True"),
    "padding of floats": (lambda: masks.padding(jnp.ones(2)), TypeError, "padding: lengths must be integers.*float32"),
    "padding of booleans": (lambda: masks.padding(np.ones(2, bool)), TypeError, "padding: lengths must be integers"),
    "padding of queries, floats": (
        lambda: masks.padding(2, 1.0),
        TypeError,
        "padding: query_lengths must be integers, .* got dtype float32",
    ),
    "padding, a string": (lambda: masks.padding("3"), TypeError, "padding: lengths must be integers"),
    "mask function of one": (
        lambda: masks.from_function(lambda query: query),
        TypeError,
        "masks.from_function: expected",
    ),
    "mask of no function": (lambda: masks.from_function(7), TypeError, "masks.from_function: expected a function .* 7"),
    "bias function of one": (lambda: biases.from_function(abs), TypeError, "biases.from_function: expected a function"),
    "mask and a list": (lambda: masks.causal() & [True], TypeError, "mask: expected a boolean array .* got list"),
    "floats and mask": (lambda: np.ones(3) & masks.causal(), TypeError, "mask: expected dtype bool .* got float"),
    "scale, a boolean": (lambda: scores.scaled_dot(True), TypeError, "scaled_dot: scale must be a real number"),
    "scale, a string": (lambda: scores.scaled_dot("2"), TypeError, "scaled_dot: scale must be a real number"),
    "scale of integers": (lambda: scores.scaled_dot(jnp.ones(3, int)), TypeError, "scaled_dot: scale must be .* int"),
    "temperature 0": (lambda: scores.cosine(0), ValueError, "cosine: temperature must be positive, got 0"),
    "temperature, nan": (lambda: scores.cosine(np.nan), ValueError, "cosine: temperature must be positive, got nan"),
    "temperature of integers": (
        lambda: scores.cosine(np.ones(3, int)),
        TypeError,
        "cosine: temperature must be .* int",
    ),
    "sinusoidal, odd width": (
        lambda: positions.sinusoidal(jnp.arange(3), 5),
        ValueError,
        "sinusoidal: expected an even width of at least 2, got 5",
    ),
    "sinusoidal, no width": (lambda: positions.sinusoidal(jnp.arange(3), 0), ValueError, "sinusoidal: .* got 0"),
    "rotary, odd head dim": (
        lambda: positions.rotary(jnp.ones((3, 1, 5)), jnp.arange(3)),
        ValueError,
        "rotary: expected an even head dim of at least 2, got 5",
    ),
    "rotary of a list": (lambda: positions.rotary([1.0, 2.0], jnp.arange(1)), TypeError, "rotary: .* got list"),
    "rotary of integers": (
        lambda: positions.rotary(jnp.ones((3, 1, 4), int), jnp.arange(3)),
        TypeError,
        "rotary: expected a float dtype, got int32",
    ),
    "rotary, two positions for three": (
        lambda: positions.rotary(jnp.ones((3, 1, 4)), jnp.arange(2)),
        ValueError,
        r"rotary: .*positions.* 3.* got .*\(2,\)",
    ),
    "rotary, three positions for one": (
        lambda: positions.rotary(jnp.ones((1, 1, 4)), jnp.arange(3)),
        ValueError,
        r"rotary: .*positions.* 1.* got .*\(3,\)",
    ),
}


@pytest.mark.parametrize("name", OTHERS)
def test_others_say_what_is_wrong(name):
    function, kind, text = OTHERS[name]
    with pytest.raises(kind, match=text):
        function()


def test_what_is_wrong_is_found_under_jit_too():
    with pytest.raises(ValueError, match="key: expected the head dim of query, 6, got 5"):
        jax.jit(functools.partial(attention, QUERY))(jnp.ones((2, 7, 2, 5)))


def test_numpy_arrays_and_numbers_are_welcome():
    out = attend(*(np.asarray(x) for x in (QUERY, KEY, VALUE)), bias=np.float32(0.5), mask=np.bool_(True), block_size=2)
    np.testing.assert_allclose(out, attention(), rtol=1e-6)
    rng = jax.random.key(0)
    assert attention(dropout_rate=np.float32(0.5), dropout_rng=rng, block_size=np.int64(2)).shape == (2, 5, 4, 3)


TABLE = jnp.ones((8, 4))

# Calls of biases and positions: a thunk, the type, fragments of the message.
BIASES_AND_POSITIONS = {
    "slopes, a list": (lambda: biases.alibi([0.5]), TypeError, "alibi: slopes: expected an array, got list"),
    "slopes of integers": (lambda: biases.alibi(jnp.ones(4, int)), TypeError, "alibi: slopes: .* dtype, got int32"),
    "slopes of two axes": (lambda: biases.alibi(TABLE), ValueError, r"alibi: slopes must .* \[N\], got shape \(8, 4\)"),
    "slopes of other heads": (
        lambda: attention(bias=biases.alibi(jnp.ones(3))),
        ValueError,
        "bias: alibi needs a slope for each of the 4 heads, got 3 slopes",
    ),
    "one slope for all heads": (lambda: attention(bias=biases.alibi(jnp.ones(1))), ValueError, "4 heads, got 1 slopes"),
    "num_heads of another filter": (
        lambda: attention(bias=0.5 + biases.alibi(num_heads=8)),
        ValueError,
        "bias: alibi needs a slope for each of the 4 heads, got 8",
    ),
    "num_heads and other slopes": (
        lambda: biases.alibi(jnp.ones(4), 8),
        ValueError,
        "alibi: expected as many slopes as num_heads 8, got 4",
    ),
    "num_heads 0": (lambda: biases.alibi_slopes(0), ValueError, "alibi: num_heads must be at least 1, got 0"),
    "num_heads, a float": (
        lambda: biases.alibi(num_heads=4.0),
        TypeError,
        r"alibi: num_heads must be an int, got 4\.0",
    ),
    "num_heads, a boolean": (lambda: biases.alibi_slopes(True), TypeError, "alibi: num_heads must be an int, got True"),
    "offset, a float": (lambda: biases.alibi(offset=1.0), TypeError, r"alibi: offset must be .* integers .* got 1\.0"),
    "offset, a boolean": (lambda: biases.alibi(offset=True), TypeError, "alibi: offset must be .* got True"),
    "offset, None": (lambda: biases.relative(TABLE, offset=None), TypeError, "relative: offset must be .* got None"),
    "offset of floats": (
        lambda: biases.relative(TABLE, offset=jnp.array(1.0)),
        TypeError,
        "relative: offset must be .* got dtype float32",
    ),
    "offsets of another batch": (
        lambda: attention(bias=biases.alibi(offset=jnp.array([1, 2, 3]))),
        ValueError,
        r"alibi: offset must be a scalar or have the batch shape \(2,\), got \(3,\)",
    ),
    "table, a list": (lambda: biases.relative([[1.0]]), TypeError, "relative: table: expected an array, got list"),
    "table of integers": (lambda: biases.relative(jnp.ones((8, 4), int)), TypeError, "relative: table: .* got int32"),
    "table of one axis": (
        lambda: biases.relative(jnp.ones(8)),
        ValueError,
        r"relative: table must have two axes \[buckets, N\], got shape \(8,\)",
    ),
    "table of other heads": (
        lambda: attention(bias=biases.relative(TABLE.T)),
        ValueError,
        "bias: relative needs a column of its table for each of the 4 heads, got 8 columns",
    ),
    "odd buckets, two directions": (
        lambda: biases.relative(jnp.ones((7, 4))),
        ValueError,
        "relative: expected an even number of buckets, at least 4, for bidirectional=True, got 7",
    ),
    "two buckets, two directions": (
        lambda: biases.relative_buckets(jnp.arange(3), 2),
        ValueError,
        "at least 4, .* got 2",
    ),
    "one bucket": (
        lambda: biases.relative_buckets(jnp.arange(3), 1, bidirectional=False),
        ValueError,
        "relative_buckets: expected at least 2 buckets for bidirectional=False, got 1",
    ),
    "num_buckets, a float": (
        lambda: biases.relative_buckets(jnp.arange(3), 32.0),
        TypeError,
        r"relative_buckets: num_buckets must be an int, got 32\.0",
    ),
    "max_distance, a float": (
        lambda: biases.relative(TABLE, max_distance=128.0),
        TypeError,
        r"relative: max_distance must be an int, got 128\.0",
    ),
    "max_distance too small": (
        lambda: biases.relative(TABLE, False, 4),
        ValueError,
        "relative: expected max_distance above 4, the distances with a bucket each, got 4",
    ),
    "distances of floats": (
        lambda: biases.relative_buckets(jnp.ones(3)),
        TypeError,
        "relative_buckets: expected distances of an integer dtype, got float32",
    ),
    "bias and a list": (lambda: biases.alibi().__add__([1.0]), TypeError, "bias: expected a float array .* got list"),
    "bias and an int": (lambda: 1 + biases.alibi(), TypeError, "bias: expected a float array .* got int"),
    "bias and a mask": (
        lambda: biases.alibi() + masks.causal(),
        TypeError,
        r"bias: expected a float array .* got causal\(\)",
    ),
    "bias and booleans": (lambda: np.ones(3, bool) + biases.alibi(), TypeError, "bias: .* a boolean array is a mask"),
    "sum of a part": (
        lambda: attention(bias=biases.alibi() + jnp.ones((5, 8))),
        ValueError,
        r"bias: expected a shape that broadcasts to .* got \(5, 8\)",
    ),
    "sinusoidal, a float width": (
        lambda: positions.sinusoidal(jnp.arange(3), 4.0),
        TypeError,
        r"sinusoidal: width must be an int, got 4\.0",
    ),
    "sinusoidal, a width True": (
        lambda: positions.sinusoidal(jnp.arange(3), True),
        TypeError,
        "sinusoidal: .* got True",
    ),
    "sinusoidal of floats": (
        lambda: positions.sinusoidal(jnp.ones(3), 4),
        TypeError,
        "sinusoidal: positions must be integers, got dtype float32",
    ),
    "sinusoidal of a string": (lambda: positions.sinusoidal("3", 4), TypeError, "sinusoidal: positions .* got str"),
    "rotary, no positions": (lambda: positions.rotary(QUERY, None), TypeError, "rotary: positions .* got NoneType"),
    "rotary, booleans": (
        lambda: positions.rotary(QUERY, np.ones(5, bool)),
        TypeError,
        "rotary: positions .* dtype bool",
    ),
    "rotary, unknown layout": (
        lambda: positions.rotary(QUERY, jnp.arange(5), layout="neox"),
        ValueError,
        "rotary: expected layout 'interleaved' or 'half', got 'neox'",
    ),
    "rotary, odd dims": (
        lambda: positions.rotary(QUERY, jnp.arange(5), dims=3),
        ValueError,
        "rotary: expected even dims from 2 to the head dim 6, got 3",
    ),
    "rotary, too many dims": (lambda: positions.rotary(QUERY, jnp.arange(5), dims=8), ValueError, "head dim 6, got 8"),
    "rotary, no dims": (lambda: positions.rotary(QUERY, jnp.arange(5), dims=0), ValueError, "head dim 6, got 0"),
    "rotary, float dims": (
        lambda: positions.rotary(QUERY, jnp.arange(5), dims=4.0),
        TypeError,
        r"rotary: dims must be an int, got 4\.0",
    ),
    "rotary, scaling 0": (
        lambda: positions.rotary(QUERY, jnp.arange(5), scaling=0),
        ValueError,
        "rotary: scaling must be positive and finite, got 0",
    ),
    "rotary, scaling, a string": (
        lambda: positions.rotary(QUERY, jnp.arange(5), scaling="2"),
        TypeError,
        "rotary: scaling must be a real number, got '2'",
    ),
    "rotary, base below 0": (
        lambda: positions.rotary(QUERY, jnp.arange(5), -1.0),
        ValueError,
        r"rotary: base must be positive and finite, got -1\.0",
    ),
    "rotary, base nan": (lambda: positions.rotary(QUERY, jnp.arange(5), np.nan), ValueError, "rotary: base .* got nan"),
}


@pytest.mark.parametrize("name", BIASES_AND_POSITIONS)
def test_biases_and_positions_say_what_is_wrong(name):
    function, kind, text = BIASES_AND_POSITIONS[name]
    with pytest.raises(kind, match=text):
        function()


EYE = jnp.eye(6)

# Scores and normalizers that cannot be made: a thunk, the type, fragments of the message.
PARTS = {
    "distance, a string": (
        lambda: scores.negative_squared_distance("1"),
        TypeError,
        "negative_squared_distance: scale must be a real number or a float array, got str",
    ),
    "bilinear of a list": (
        lambda: scores.bilinear([[1.0]]),
        TypeError,
        "bilinear: matrix: expected an array, got list",
    ),
    "bilinear of integers": (lambda: scores.bilinear(np.eye(6, dtype=int)), TypeError, "bilinear: matrix: .* got int"),
    "bilinear of one axis": (lambda: scores.bilinear(EYE[0]), ValueError, r"bilinear: matrix: .*\[H, H\].* got \(6,\)"),
    "bilinear, not square": (lambda: scores.bilinear(EYE[:5]), ValueError, r"bilinear: matrix: .* got \(5, 6\)"),
    "additive of booleans": (
        lambda: scores.additive(EYE, EYE > 0, EYE[0]),
        TypeError,
        "additive: key_kernel: expected a float dtype, got bool",
    ),
    "additive, a number": (lambda: scores.additive(EYE, EYE, 1.0), TypeError, "additive: vector: .* array, got float"),
    "additive, one array": (
        lambda: scores.additive(EYE),
        TypeError,
        "additive: key_kernel: expected an array, got None",
    ),
    "additive, units of arrays": (
        lambda: scores.additive(EYE, EYE, EYE[0], units=6),
        ValueError,
        "additive: units: expected None with arrays, which have their own, got 6",
    ),
    "additive, no units": (lambda: scores.additive(units=0), ValueError, "additive: units must be at least 1, got 0"),
    "additive, kernel of one axis": (
        lambda: scores.additive(EYE[0], EYE, EYE[0]),
        ValueError,
        r"additive: query_kernel: expected shape \[H, D\] or \[N, H, D\], got \(6,\)",
    ),
    "additive, hidden units that differ": (
        lambda: scores.additive(EYE, EYE[:, :5], EYE[0]),
        ValueError,
        "additive: key_kernel: expected the 6 hidden units of query_kernel, got 5",
    ),
    "additive, vector of other units": (
        lambda: scores.additive(EYE, EYE, EYE[0, :5]),
        ValueError,
        "additive: vector: expected the 6 hidden units of query_kernel, got 5",
    ),
    "soft_cap of a string": (
        lambda: scores.soft_cap("dot", 5.0),
        TypeError,
        "score: expected a jattn score .* got 'dot'",
    ),
    "soft_cap 0": (lambda: scores.soft_cap(scores.cosine(), 0), ValueError, "soft_cap: cap must be positive, got 0"),
    "soft_cap, None": (
        lambda: scores.soft_cap(scores.cosine(), None),
        TypeError,
        "soft_cap: cap must be a real number",
    ),
    "sink, a string": (
        lambda: normalizers.softmax_plus_one("0"),
        TypeError,
        "softmax_plus_one: sink must be a real number or a float array, got str",
    ),
    "sink of integers": (
        lambda: normalizers.softmax_plus_one(jnp.ones(1, int)),
        TypeError,
        "softmax_plus_one: sink must be .* got dtype int",
    ),
    "sink, infinite": (
        lambda: normalizers.softmax_plus_one(np.inf),
        ValueError,
        "softmax_plus_one: sink must be a number below infinity, got inf",
    ),
    "sigmoid bias, nan": (lambda: normalizers.sigmoid(np.nan), ValueError, "sigmoid: bias must be .* got nan"),
    "sigmoid bias, a boolean": (lambda: normalizers.sigmoid(True), TypeError, "sigmoid: bias must be .* got bool"),
    "top_k 0": (lambda: normalizers.top_k(0), ValueError, "top_k: k must be at least 1, got 0"),
    "top_k 2.0": (lambda: normalizers.top_k(2.0), TypeError, r"top_k: k must be an int, got 2\.0"),
    "top_k True": (lambda: normalizers.top_k(True), TypeError, "top_k: k must be an int, got True"),
    "precision, a string": (
        lambda: checks.check_precision("bad"),
        ValueError,
        "precision: expected None, 'default', .* got 'bad'",
    ),
    "precision, a number": (lambda: checks.check_precision(32), ValueError, "precision: .* got 32"),
    "precision, a list": (lambda: checks.check_precision(["high"]), ValueError, r"precision: .* got \['high'\]"),
}


@pytest.mark.parametrize("name", PARTS)
def test_scores_and_normalizers_say_what_is_wrong(name):
    function, kind, text = PARTS[name]
    with pytest.raises(kind, match=text):
        function()


# Scores and normalizers that do not fit the call.
PARTS_OF_CALLS = {
    "distance by three heads": (
        {"score": scores.negative_squared_distance(jnp.ones((3, 1, 1)))},
        r"negative_squared_distance: scale: .* \(2, 4, 5, 7\), got \(3, 1, 1\)",
    ),
    "bilinear of three heads": (
        {"score": scores.bilinear(jnp.ones((3, 6, 6)))},
        r"bilinear: matrix: expected shape \[H, H\] or \[N, H, H\] with N = 4, got \(3, 6, 6\)",
    ),
    "additive of too many axes": (
        {"score": scores.additive(EYE, EYE, jnp.ones((3, 2, 4, 6)))},
        r"additive: vector: expected shape \[D\] or \[N, D\] with N = 4, got \(3, 2, 4, 6\)",
    ),
    "soft_cap of a scale by three heads": (
        {"score": scores.soft_cap(scores.scaled_dot(jnp.ones((3, 1, 1))), 5.0)},
        r"scaled_dot: scale: .* got \(3, 1, 1\)",
    ),
    "soft_cap by three heads": (
        {"score": scores.soft_cap(scores.scaled_dot(), jnp.ones((3, 1, 1)))},
        r"soft_cap: cap: .* got \(3, 1, 1\)",
    ),
    "sink by three heads": (
        {"normalizer": normalizers.softmax_plus_one(jnp.ones((3, 1, 1)))},
        r"softmax_plus_one: sink: .* got \(3, 1, 1\)",
    ),
    "sink by key": (
        {"normalizer": normalizers.softmax_plus_one(jnp.ones(7))},
        r"softmax_plus_one: sink: expected .* \[\*batch, N, T, 1\] = \(2, 4, 5, 1\), got \(7,\)",
    ),
    "sigmoid bias by head, forgotten axes": (
        {"normalizer": normalizers.sigmoid(jnp.ones(4))},
        r"sigmoid: bias: expected .* \(2, 4, 5, 1\), got \(4,\)",
    ),
}


@pytest.mark.parametrize("name", PARTS_OF_CALLS)
def test_attention_and_filter_say_what_does_not_fit(name):
    call, text = PARTS_OF_CALLS[name]
    with pytest.raises(ValueError, match=text):
        attention(**call)
    with pytest.raises(ValueError, match=text):
        attention_filter(QUERY, KEY, **call)


@pytest.mark.parametrize("block_size", [None, 2])
def test_a_kernel_of_another_head_dim_is_named(block_size):
    with pytest.raises(ValueError, match=r"bilinear: matrix: expected 6 rows, one for each component .* got 5"):
        attention(score=scores.bilinear(jnp.eye(5)), block_size=block_size)
    with pytest.raises(ValueError, match=r"additive: key_kernel: expected 6 rows, one for each component .* got 5"):
        attention(score=scores.additive(EYE, EYE[:5], EYE[0]), block_size=block_size)


@pytest.mark.parametrize(
    "precision", [None, "high", "highest", jax.lax.Precision.HIGH, ("default", "high"), "BF16_BF16_F32"]
)
def test_a_precision_that_jax_knows_is_welcome(precision):
    checks.check_precision(precision)


# Masks that cannot be made: a thunk, the type, fragments of the message.
MASKS = {
    "causal, None": (lambda: masks.causal(None), TypeError, "causal: offset must be an int, or an array .* got None"),
    "causal of a list": (lambda: masks.causal([1, 2]), TypeError, r"causal: offset must be .* got \[1, 2\]"),
    "causal of floats": (lambda: masks.causal(jnp.ones(2)), TypeError, "causal: offset must be .* got dtype float32"),
    "causal of booleans": (
        lambda: masks.causal(np.ones(2, bool)),
        TypeError,
        "causal: offset must be .* got dtype bool",
    ),
    "window, a float": (
        lambda: masks.sliding_window(1.0),
        TypeError,
        r"sliding_window: left must be an int, or an array .* got 1\.0",
    ),
    "window, a boolean": (
        lambda: masks.sliding_window(1, True),
        TypeError,
        "sliding_window: right must be an int, or an array .* got True",
    ),
    "window, floats": (
        lambda: masks.sliding_window(jnp.array(1.0)),
        TypeError,
        "sliding_window: left must be .* got dtype float32",
    ),
    "window, an array below 0": (
        lambda: masks.sliding_window(jnp.array([2, -3])),
        ValueError,
        "sliding_window: left must be at least 0, got -3",
    ),
    "window, left below 0": (
        lambda: masks.sliding_window(-1),
        ValueError,
        "sliding_window: left must be at least 0, got -1",
    ),
    "window, right below 0": (
        lambda: masks.sliding_window(None, -2),
        ValueError,
        "sliding_window: right must be at least 0, got -2",
    ),
    "window, offset a string": (
        lambda: masks.sliding_window(1, offset="1"),
        TypeError,
        "sliding_window: offset must be an int, or an array .* got '1'",
    ),
    "chunked, an array with 0": (
        lambda: masks.chunked(np.array([1, 0])),
        ValueError,
        "chunked: size must be at least 1, got 0",
    ),
    "chunked, 0": (lambda: masks.chunked(0), ValueError, "chunked: size must be at least 1, got 0"),
    "chunked, a float": (lambda: masks.chunked(2.0), TypeError, r"chunked: size must be an int, .* got 2\.0"),
    "chunked, a boolean": (lambda: masks.chunked(True), TypeError, "chunked: size must be an int, .* got True"),
    "chunked, offset of floats": (
        lambda: masks.chunked(2, jnp.ones(2)),
        TypeError,
        "chunked: offset must be .* got dtype float32",
    ),
    "prefix, a float": (lambda: masks.prefix(2.0), TypeError, r"prefix: lengths must be an int, or .* got 2\.0"),
    "prefix, None": (lambda: masks.prefix(None), TypeError, "prefix: lengths must be .* got None"),
    "prefix of floats": (lambda: masks.prefix(jnp.ones(2)), TypeError, "prefix: lengths must .* got dtype float32"),
    "segments, a list": (
        lambda: masks.segments([0, 1]),
        TypeError,
        r"segments: query_ids must be an array of integers \[\*batch, length\], got list",
    ),
    "segments of floats": (
        lambda: masks.segments(jnp.arange(5), jnp.ones(7)),
        TypeError,
        "segments: key_ids must be an array of integers .* got dtype float32",
    ),
    "segments, a scalar": (
        lambda: masks.segments(jnp.array(0)),
        ValueError,
        "segments: query_ids must .* got a scalar",
    ),
    "offsets of another batch": (
        lambda: attention(mask=masks.causal(jnp.array([1, 2, 3]))),
        ValueError,
        r"causal: offset must be a scalar or have the batch shape \(2,\), got \(3,\)",
    ),
    "window's offsets of another batch": (
        lambda: attention(mask=~masks.sliding_window(1, offset=jnp.array([1]))),
        ValueError,
        r"sliding_window: offset must be .* \(2,\), got \(1,\)",
    ),
    "chunks' offsets of another batch": (
        lambda: attention(mask=masks.chunked(2, jnp.ones((2, 1), int))),
        ValueError,
        r"chunked: offset must be .* \(2,\), got \(2, 1\)",
    ),
    "prefixes of another batch": (
        lambda: attention(mask=masks.causal() | masks.prefix(jnp.array([1, 2, 3]))),
        ValueError,
        r"prefix: lengths must be .* \(2,\), got \(3,\)",
    ),
    "segments of other queries": (
        lambda: attention(mask=masks.segments(jnp.arange(7))),
        ValueError,
        r"mask: segments query_ids must have shape \(5,\) or \(2, 5\), got \(7,\)",
    ),
    "segments of other keys": (
        lambda: attention(mask=masks.segments(jnp.arange(5))),
        ValueError,
        r"mask: segments key_ids must have shape \(7,\) or \(2, 7\), got \(5,\)",
    ),
    "segments of another batch": (
        lambda: attention(mask=masks.segments(jnp.zeros((3, 5), int), jnp.arange(7))),
        ValueError,
        r"segments query_ids must have shape \(5,\) or \(2, 5\), got \(3, 5\)",
    ),
    "a mask and a number": (lambda: masks.causal() & 1, TypeError, "mask: expected a boolean array .* got int"),
    "a mask or None": (lambda: masks.prefix(1) | None, TypeError, "mask: expected a boolean array .* got NoneType"),
}


@pytest.mark.parametrize("name", MASKS)
def test_masks_say_what_is_wrong(name):
    function, kind, text = MASKS[name]
    with pytest.raises(kind, match=text):
        function()


class Foreign:
    """An array of another library."""

    dtype, shape, ndim = "float32", (2, 5, 4, 6), 4

    def __dlpack__(self):
        raise AssertionError("not asked for")


ARRAYS = {
    "a list": ([[1.0]], "query: expected an array, got list"),
    "another library's": (Foreign(), r"query: expected an array, got Foreign; jnp.from_dlpack\(query\) converts it"),
    "eight bits": (jnp.ones((2, 5, 4, 6), jnp.float8_e4m3fn), "query: expected floats of 16 bits or more, got float8"),
    "masked": (np.ma.masked_array(np.ones((2, 5, 4, 6), np.float32), mask=True), "masked arrays"),
    "big-endian": (np.ones((2, 5, 4, 6), ">f4"), "not a valid JAX array type"),
}


@pytest.mark.parametrize("name", ARRAYS)
def test_arrays_that_jax_does_not_know_are_refused_by_name(name):
    array, message = ARRAYS[name]
    for call in (lambda: attention(query=array), lambda: attention_filter(array, KEY).weights()):
        with pytest.raises((TypeError, ValueError), match=message):
            call()


NOT_FINITE = {
    "scale": (scores.scaled_dot, "scaled_dot: scale must be a finite number"),
    "distance": (scores.negative_squared_distance, "scale must be a finite number"),
    "sink": (normalizers.softmax_plus_one, "sink must be a"),
    "bias": (normalizers.sigmoid, "bias must be a"),
    "cap": (lambda cap: scores.soft_cap(scores.scaled_dot(), cap), "cap must be"),
    "temperature": (scores.cosine, "temperature must be"),
}


@pytest.mark.parametrize("name", NOT_FINITE)
def test_numbers_that_are_not_finite_are_refused(name):
    make, message = NOT_FINITE[name]
    for number in (float("nan"), float("inf")):
        with pytest.raises(ValueError, match=message):
            make(number)


def test_positions_must_have_an_axis():
    with pytest.raises(ValueError, match=r"sinusoidal: positions must have an axis, such as jnp.arange\(16\)"):
        positions.sinusoidal(16, 32)
