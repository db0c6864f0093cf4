"""What a user gets wrong is told in the user's words: the argument, what was expected, what came."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jattn import attend, attention_filter, biases, masks, positions, scores

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
        r"key: expected the batch shape of query, \(2,\), got \(3,\)",
    ),
    "a key without a batch": ({"key": jnp.ones((7, 2, 6))}, ValueError, r"key: .* batch shape .* \(2,\), got \(\)"),
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
    "mask, a string": ({"mask": "causal"}, TypeError, "mask: expected a boolean array or a jattn mask .* got str"),
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
        r"padding lengths must be a scalar or have the batch shape \(2,\), got \(3,\)",
    ),
    "query lengths of another batch": (
        {"mask": masks.causal() & masks.padding(jnp.array([1, 2]), jnp.array([1]))},
        ValueError,
        r"padding query_lengths must be a scalar or have the batch shape \(2,\), got \(1,\)",
    ),
    "bias of booleans": ({"bias": jnp.ones((5, 7), bool)}, TypeError, "bias: expected a float dtype, got bool.*mask"),
    "bias of integers": ({"bias": jnp.ones((5, 7), int)}, TypeError, "bias: expected a float dtype, got int"),
    "bias, a list": ({"bias": [0.0] * 7}, TypeError, "bias: expected a float array or a jattn bias, got list"),
    "bias of other keys": ({"bias": jnp.ones(8)}, ValueError, r"bias: .* \(2, 4, 5, 7\), got \(8,\)"),
    "bias, a mask": ({"bias": masks.causal()}, TypeError, "bias: expected a float array or a jattn bias, got _Causal"),
    "mask, a bias": (
        {"mask": biases.from_function(lambda query, key: query - key)},
        TypeError,
        "mask: expected a boolean array or a jattn mask",
    ),
    "score, a string": ({"score": "cosine"}, TypeError, "score: expected a jattn score or a function .* got str"),
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
        "normalizer: expected a jattn normalizer .* got str",
    ),
    "edit, an array": ({"edit": jnp.ones(7)}, TypeError, r"edit: expected a function of \(weights, grid\), got"),
    "block_size 0": ({"block_size": 0}, ValueError, "block_size: expected a positive int, got 0"),
    "block_size -1": ({"block_size": -1}, ValueError, "block_size: expected a positive int, got -1"),
    "block_size True": ({"block_size": True}, ValueError, "block_size: expected a positive int, got True"),
    "block_size 2.0": ({"block_size": 2.0}, ValueError, r"block_size: expected a positive int, got 2\.0"),
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
        "implementation: expected one of dense, blocked or None, got 'flash'",
    ),
    "dense with a block_size": (
        {"implementation": "dense", "block_size": 2},
        ValueError,
        "block_size: implementation 'dense' has one block, got block_size 2",
    ),
    "dropout_rate 1": ({"dropout_rate": 1.0}, ValueError, r"dropout_rate: expected a number in \[0, 1\), got 1\.0"),
    "dropout_rate below 0": ({"dropout_rate": -0.1}, ValueError, r"dropout_rate: expected .* got -0\.1"),
    "dropout_rate, nan": ({"dropout_rate": np.nan}, ValueError, "dropout_rate: expected .* got nan"),
    "dropout_rate, a string": ({"dropout_rate": "0.1"}, ValueError, "dropout_rate: expected .* got '0.1'"),
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
    "edit": ({"edit": lambda weights, grid: weights[..., :1]}, ValueError, "edit: the function must return weights of"),
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


@pytest.mark.parametrize("part", ["mask", "bias"])
def test_a_function_that_returns_all_heads_where_one_is_walked_is_refused(part):
    """In one block of all heads a table by head fits; in a block of one head it would widen the block."""
    per_head = {"mask": jnp.ones((4, 1, 1), bool), "bias": jnp.ones((4, 1, 1))}[part]
    module = {"mask": masks, "bias": biases}[part]
    with pytest.raises(ValueError, match=f"{part}: the function must"):
        attention(block_size=2, **{part: module.from_function(lambda query, key: per_head * (key >= 0))})


FILTER = attention_filter(QUERY, KEY)

# Calls of everything else: a thunk, the type, fragments of the message.
OTHERS = {
    "rows out of range": (lambda: FILTER.rows([0, 5]), ValueError, "rows: query index 5 is out of range for 5 queries"),
    "rows below range": (lambda: FILTER.rows([-6]), ValueError, "rows: query index -6 is out of range for 5 queries"),
    "rows, a number": (lambda: FILTER.rows(1), ValueError, r"rows: expected a list of query indices, got shape \(\)"),
    "rows of floats": (lambda: FILTER.rows(jnp.ones(2)), ValueError, "rows: expected a list .* dtype float32"),
    "rows of booleans": (lambda: FILTER.rows(np.ones(5, bool)), ValueError, "rows: expected a list .* dtype bool"),
    "mass of a list": (lambda: FILTER.mass([True] * 7), TypeError, "got list"),
    "mass of floats": (lambda: FILTER.mass(jnp.ones(7)), TypeError, "expected dtype bool .* got float32"),
    "fold of no function": (lambda: FILTER.fold("entropy"), TypeError, "fold: expected a function .* got str"),
    "causal, a float": (lambda: masks.causal(1.5), TypeError, r"causal: offset must be an int, got 1\.5"),
    "causal, a boolean": (lambda: masks.causal(True), TypeError, "causal: offset must be an int, got True"),
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
