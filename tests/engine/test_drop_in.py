"""`dot_product_attention` where `jax.nn.dot_product_attention` stood."""

import functools
import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads
from numpy.testing import assert_allclose, assert_array_equal

from jattn.engine import attention, drop_in
from jattn.engine.drop_in import dot_product_attention
from jattn.engine.plans import blocked_plan
from tests import reference
from tests.sampled import sampled
from tests.variants import HEAD_DIM, QUERIES, SHAPE, inputs, rng

BATCH, HEADS, _, KEYS = SHAPE
close = functools.partial(assert_allclose, rtol=2e-5, atol=2e-5)


def alike(**options):
    """Draws a query, a key and a value of one head dim, as JAX wants them."""
    query, key, _ = inputs(**options)
    return query, key, jnp.sin(3 * key)


def floats(*shape):
    """Draws a bias."""
    return jnp.asarray(rng(2).standard_normal(shape), jnp.float32)


def booleans(*shape):
    """Draws a mask; some of its rows are empty."""
    return jnp.asarray((rng(3).random(shape) < 0.6) & (rng(4).random((*shape[:-1], 1)) < 0.8))


LENGTHS = {"query_seq_lengths": jnp.array([7, 3]), "key_value_seq_lengths": jnp.array([4, 9])}
# The arguments after query, key and value.
CALLS = {
    "nothing": {},
    "scale": {"scale": 0.7},
    "scale, an int": {"scale": 1},
    "causal": {"is_causal": True},
    "window": {"local_window_size": 1},
    "window of two sizes": {"local_window_size": (3, 2)},
    "window with empty rows": {"local_window_size": (0, 0), "key_value_seq_lengths": jnp.array([4, 0])},
    "causal window": {"local_window_size": (2, 1), "is_causal": True},
    "key lengths": {"key_value_seq_lengths": jnp.array([4, 9])},
    "query lengths": {"query_seq_lengths": np.array([7, 3], np.int32)},
    "lengths": LENGTHS,
    "lengths, causal": {**LENGTHS, "is_causal": True},
    "mask": {"mask": booleans(*SHAPE)},
    "mask of rows and keys": {"mask": booleans(QUERIES, KEYS)},
    "mask by head": {"mask": booleans(1, HEADS, 1, KEYS)},
    "mask, numpy": {"mask": np.asarray(booleans(BATCH, 1, QUERIES, KEYS))},
    "bias": {"bias": floats(*SHAPE)},
    "bias by head": {"bias": floats(HEADS, 1, 1)},
    "bias of keys": {"bias": floats(BATCH, 1, 1, KEYS)},
    "everything": {
        **LENGTHS,
        "bias": floats(1, HEADS, QUERIES, KEYS),
        "mask": booleans(BATCH, 1, QUERIES, KEYS),
        "scale": -0.4,
        "is_causal": True,
        "local_window_size": (4, 0),
    },
}


def allowed(mask=True, is_causal=False, local_window_size=None, **call):
    """Restates what a call allows: booleans ``[B, N, T, S]``."""
    before, after = (KEYS, KEYS) if local_window_size is None else np.broadcast_to(local_window_size, 2)
    rows, keys = call.get("query_seq_lengths", (QUERIES,) * BATCH), call.get("key_value_seq_lengths", (KEYS,) * BATCH)
    result = np.array(np.broadcast_to(mask, SHAPE))
    for entry, _, i, j in np.ndindex(*SHAPE):
        near = i - before <= j <= i + after
        real = i < rows[entry] and j < keys[entry]
        result[entry, :, i, j] &= near and real and (j <= i or not is_causal)
    return result


def scores(query, key, bias=0.0, scale=None):
    """Restates the scores of a call: floats ``[B, N, T, S]``."""
    query, key = np.asarray(query, np.float64), np.asarray(key, np.float64)
    key = np.repeat(key, HEADS // key.shape[-2], axis=-2)
    scale = 1 / np.sqrt(HEAD_DIM) if scale is None else scale
    return np.einsum("btnh,bsnh->bnts", query, key) * scale + np.asarray(bias, np.float64)


def log_sums(query, key, bias=0.0, scale=None, **call):
    """Restates the residual of a call: floats ``[B, T, N]``."""
    with np.errstate(divide="ignore"):
        return np.log(np.sum(np.exp(scores(query, key, bias, scale)), -1, where=allowed(**call))).swapaxes(1, 2)


def both(call, query, key, value):
    """The output and the gradients of jattn and of JAX, on the rows that may attend to something."""
    call = dict(call)
    rows = jnp.asarray(allowed(**{k: x for k, x in call.items() if k not in ("bias", "scale")}).any(-1).swapaxes(1, 2))
    weights = rows[..., None] * jnp.sin(jnp.arange(query.size, dtype=jnp.float32)).reshape(query.shape)
    bias = call.pop("bias", None)

    def loss(attention, query, key, value, bias):
        out = attention(query, key, value, bias, **call)
        return jnp.sum(out.astype(jnp.float32) * weights), jnp.where(rows[..., None], out, 0)

    with_gradient = jax.value_and_grad(loss, argnums=(1, 2, 3) if bias is None else (1, 2, 3, 4), has_aux=True)
    for attend in (dot_product_attention, jax.nn.dot_product_attention):
        (_, out), gradients = jax.jit(functools.partial(with_gradient, attend))(query, key, value, bias)
        yield out, gradients


@pytest.fixture
def in_blocks(monkeypatch):
    """Computes small filters as large ones: in ragged blocks of rows."""
    monkeypatch.setattr(attention, "DENSE_WEIGHTS", 0)
    monkeypatch.setattr(attention, "blocked_plan", lambda shape, mask, _, *how: blocked_plan(shape, mask, 3, *how))


def test_the_signature_is_that_of_jax():
    ours, theirs = (
        [(x.name, x.kind, x.default) for x in inspect.signature(function).parameters.values()]
        for function in (dot_product_attention, jax.nn.dot_product_attention)
    )
    assert ours == theirs


# Output and gradients


@sampled("name", CALLS, keep=["everything"])
def test_jax_agrees(name):
    ours, theirs = both(CALLS[name], *alike())
    jax.tree.map(close, ours, theirs)


@pytest.mark.exhaustive
@sampled("name", ["lengths, causal", "everything"], keep=1)
def test_jax_agrees_in_bfloat16(name):
    ours, theirs = both(CALLS[name], *alike(dtype=jnp.bfloat16))
    for x, y in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        assert x.dtype == y.dtype
        assert_allclose(x.astype(jnp.float32), y.astype(jnp.float32), rtol=3e-2, atol=3e-2)


@sampled("kv_heads", [1, 4], keep=1)
def test_jax_agrees_on_grouped_heads(kv_heads):
    arguments = alike(kv_heads=kv_heads)
    ours, theirs = (
        jax.jit(functools.partial(f, is_causal=True))(*arguments)
        for f in (dot_product_attention, jax.nn.dot_product_attention)
    )
    close(ours, theirs)


@pytest.mark.exhaustive
def test_jax_agrees_in_blocks(in_blocks):
    ours, theirs = both(CALLS["everything"], *alike())
    jax.tree.map(close, ours, theirs)


@sampled(
    "call",
    [
        {"mask": booleans(QUERIES, KEYS).at[:, 0].set(True), "bias": floats(HEADS, QUERIES, KEYS)},
        {"mask": jnp.ones((1, HEADS, 1, KEYS), bool), "bias": floats(1, 1, 1, 1)},
        {"key_value_seq_lengths": jnp.array([5]), "local_window_size": 2, "is_causal": True},
    ],
    ids=["axes of one entry", "axes of one batch", "lengths of one batch"],
    keep=1,
)
@sampled("with_batch", [(False, False, False), (True, False, False), (False, True, True)], keep=1)
def test_jax_agrees_without_a_batch(call, with_batch):
    arguments = [x[None] if batch else x for x, batch in zip(alike(batch=()), with_batch, strict=True)]
    ours = dot_product_attention(*arguments, **call, return_residual=True)
    theirs = jax.nn.dot_product_attention(*arguments, **call, return_residual=True)
    jax.tree.map(close, ours, theirs)
    assert ours[0].shape == arguments[0].shape


def test_positional_bias_and_mask():
    bias, mask = floats(*SHAPE), jnp.ones(SHAPE, bool)
    close(dot_product_attention(*alike(), bias, mask), jax.nn.dot_product_attention(*alike(), bias, mask))


def test_numpy_arrays_and_any_value_dim():
    query, key, value = inputs()
    out = dot_product_attention(np.asarray(query), np.asarray(key), np.asarray(value), scale=np.float32(0.5))
    expected = reference.attend(query, key, value, score=lambda query, key, head: 0.5 * query @ key)
    close(out, expected)


def test_xla_is_no_kernel(monkeypatch):
    monkeypatch.setattr(attention, "choose_kernel", None)
    close(dot_product_attention(*alike(), implementation="xla"), jax.nn.dot_product_attention(*alike()))


def test_callers_may_forbid_rank_promotion():
    call = {**LENGTHS, "is_causal": True}
    expected = dot_product_attention(*alike(), **call)
    with jax.numpy_rank_promotion("raise"):
        close(jax.jit(functools.partial(dot_product_attention, **call))(*alike()), expected)


def test_vmap_over_the_batch_is_the_batch():
    lengths = jnp.array([4, 9])

    def attend(query, key, value, length):
        return dot_product_attention(query, key, value, is_causal=True, key_value_seq_lengths=length)

    close(jax.jit(jax.vmap(attend))(*alike(), lengths), attend(*alike(), lengths))


def test_a_traced_scale_is_that_scale():
    out = jax.jit(lambda scale: dot_product_attention(*alike(), scale=scale))(0.3)
    close(out, dot_product_attention(*alike(), scale=0.3))


@pytest.mark.parametrize(
    ("call", "keys"),
    [
        ({}, ()),
        ({"is_causal": True}, (0, 20)),
        ({"local_window_size": (3, 2)}, (7, 22)),
        ({"local_window_size": 3, "is_causal": True, "mask": booleans(1, KEYS)}, (7, 20)),
    ],
)
def test_causality_and_windows_rule_out_keys(call, keys, monkeypatch):
    def span_of_rows_10_to_19(query, key, value, *, mask, **options):
        edges = () if mask is None else mask.allowed_span(*np.array([[10], [19]]), 50)
        spans.append(tuple(int(edge[0]) for edge in edges))
        return query

    spans = []
    monkeypatch.setattr(drop_in, "attend", span_of_rows_10_to_19)
    dot_product_attention(*alike(), **call)
    assert spans == [keys]


# Where the two differ: rows that may attend to nothing, the residual


@sampled("name", ["lengths", "mask", "everything"], keep=1)
def test_rows_that_may_attend_to_nothing_are_zero(name):
    call = {k: x for k, x in CALLS[name].items() if k not in ("bias", "scale")}
    empty = ~allowed(**call).any(-1).swapaxes(1, 2)
    assert empty.any()
    out, pullback = jax.vjp(lambda *x: dot_product_attention(*x, **CALLS[name]), *alike())
    assert_array_equal(np.asarray(out)[empty], 0)
    for gradient in pullback(jnp.asarray(empty[..., None] * np.ones(HEAD_DIM), jnp.float32)):
        assert_array_equal(gradient, 0)


@sampled("name", CALLS, keep=2)
def test_the_residual_is_the_logarithm_of_the_sum_of_exponentials(name):
    query, key, value = alike()
    out, residual = dot_product_attention(query, key, value, **CALLS[name], return_residual=True)
    close(residual, log_sums(query, key, **CALLS[name]))
    assert residual.dtype == jnp.float32
    close(out, dot_product_attention(query, key, value, **CALLS[name]))


@pytest.mark.exhaustive
def test_the_residual_of_jax_agrees():
    call = {**CALLS["causal window"], "bias": floats(*SHAPE), "return_residual": True}
    jax.tree.map(close, dot_product_attention(*alike(), **call), jax.nn.dot_product_attention(*alike(), **call))


def test_the_residual_of_half_precision_is_float32():
    query, key, value = alike(dtype=jnp.bfloat16)
    _, residual = dot_product_attention(query, key, value, return_residual=True)
    assert residual.dtype == jnp.float32
    close(residual, log_sums(query, key))


@pytest.mark.exhaustive
def test_the_residual_in_blocks(in_blocks):
    query, key, value = alike()
    _, residual = dot_product_attention(query, key, value, **CALLS["everything"], return_residual=True)
    close(residual, log_sums(query, key, **CALLS["everything"]))


@pytest.mark.exhaustive
@sampled("blocks", [False, True], keep=1)
def test_the_gradient_of_the_residual_is_that_of_finite_differences(blocks, request):
    if blocks:
        request.getfixturevalue("in_blocks")
    name = "everything"
    with jax.enable_x64(True):
        query, key, value = alike(dtype=np.float64)
        filled = np.isfinite(log_sums(query, key, **CALLS[name]))

        def attend(query, key, value):
            out, residual = dot_product_attention(query, key, value, **CALLS[name], return_residual=True)
            assert residual.dtype == jnp.float64
            return out, jnp.where(filled, residual, 0)

        check_grads(jax.jit(attend), (query, key, value), order=1, modes=["rev"], atol=1e-5, rtol=1e-5)


def test_two_halves_of_the_keys_merge_by_their_residuals():
    query, key, value = alike()
    halves = [
        dot_product_attention(query, key[:, part], value[:, part], return_residual=True)
        for part in (slice(0, 4), slice(4, None))
    ]
    shares = jax.nn.softmax(jnp.stack([residual for _, residual in halves]), axis=0)
    merged = sum(share[..., None] * out for share, (out, _) in zip(shares, halves, strict=True))
    close(merged, dot_product_attention(query, key, value))


@sampled("return_residual", [False, True], keep=1)
def test_nan_in_forbidden_keys_reaches_nothing(return_residual):
    query, key, value = alike()

    def attend(key, value):
        return dot_product_attention(query, key, value, **LENGTHS, return_residual=return_residual)

    def loss(key, value):
        return sum(jnp.sum(jnp.where(jnp.isfinite(x), x, 0)) for x in jax.tree.leaves(attend(key, value)))

    beyond = jnp.arange(KEYS)[:, None, None] >= LENGTHS["key_value_seq_lengths"][:, None, None, None]
    broken = [jnp.where(beyond, jnp.nan, x) for x in (key, value)]
    jax.tree.map(assert_array_equal, attend(*broken), attend(key, value))
    jax.tree.map(assert_array_equal, jax.grad(loss, (0, 1))(*broken), jax.grad(loss, (0, 1))(key, value))


@pytest.mark.parametrize("arguments", [{"num_queries": 0}, {"num_keys": 0}, {"batch": (0,)}])
def test_nothing_to_attend(arguments):
    query, key, value = alike(**arguments)
    out, residual = dot_product_attention(query, key, value, return_residual=True)
    assert out.shape == query.shape
    assert residual.shape == query.shape[:-1]
    assert np.all(out == 0)
    assert np.all(residual == -jnp.inf)


# What fails: arguments, type, fragments of the message.
QUERY, KEY, VALUE = alike()
ERRORS = {
    "query, a list": ({"query": [[[1.0]]]}, TypeError, "query: expected an array, got list"),
    "query of integers": ({"query": jnp.ones((2, 5, 4, 6), int)}, TypeError, "query: expected a float dtype, got int"),
    "query of two axes": ({"query": QUERY[0, 0]}, ValueError, r"query: expected 3 axes .* got shape \(4, 6\)"),
    "value of five axes": (
        {"value": VALUE[None]},
        ValueError,
        r"value: expected 3 axes .* got shape \(1, 2, 9, 2, 6\)",
    ),
    "key of another batch": ({"key": KEY[:1]}, ValueError, r"key: expected the batch shape of query, \(2,\), got"),
    "key of another dim": ({"key": KEY[..., :5]}, ValueError, "key: expected the head dim of query, 6, got 5"),
    "heads that do not divide": (
        {"query": QUERY[:, :, :3]},
        ValueError,
        "key: expected a number of heads that divides",
    ),
    "value of other keys": ({"value": VALUE[:, :8]}, ValueError, r"value: expected the shape of key, \(2, 9, 2, 6\)"),
    "mask of floats": ({"mask": jnp.ones((7, 9))}, TypeError, "mask: expected dtype bool"),
    "mask of other keys": ({"mask": jnp.ones((7, 8), bool)}, ValueError, r"mask: .* got \(7, 8\)"),
    "mask of five axes": ({"mask": jnp.ones((1, 1, 1, 7, 9), bool)}, ValueError, "mask: expected a shape"),
    "bias of booleans": ({"bias": jnp.ones((7, 9), bool)}, TypeError, "bias: expected a float dtype, got bool"),
    "bias of other heads": ({"bias": jnp.ones((2, 7, 9))}, ValueError, r"bias: .* got \(2, 7, 9\)"),
    "scale, a string": ({"scale": "large"}, TypeError, "scale must be a real number .* got str"),
    "window of floats": ({"local_window_size": 1.5}, TypeError, "local_window_size: expected an int or a tuple of two"),
    "window of three": ({"local_window_size": (1, 2, 3)}, TypeError, r"local_window_size: .* got \(1, 2, 3\)"),
    "window, true": ({"local_window_size": True}, TypeError, "local_window_size: expected an int .* got True"),
    "window below zero": ({"local_window_size": (1, -1)}, ValueError, r"local_window_size: expected at least 0, got"),
    "key lengths of floats": (
        {"key_value_seq_lengths": jnp.ones(2)},
        TypeError,
        "key_value_seq_lengths: expected integers, got dtype float32",
    ),
    "query lengths, a string": ({"query_seq_lengths": "7"}, TypeError, "query_seq_lengths: expected integers, got str"),
    "query lengths of another batch": (
        {"query_seq_lengths": jnp.array([1, 2, 3])},
        ValueError,
        r"query_seq_lengths: expected one length per batch entry, shape \(2,\), got \(3,\)",
    ),
    "implementation of jattn": (
        {"implementation": "blocked"},
        ValueError,
        "implementation: expected 'xla', 'cudnn' or",
    ),
    "cudnn in float32": ({"implementation": "cudnn"}, ValueError, "implementation: 'cudnn' needs .* got float32"),
    "residual of cudnn": (
        {"implementation": "cudnn", "return_residual": True},
        ValueError,
        "return_residual: expected implementation 'xla' or None with it, got 'cudnn'",
    ),
}


@pytest.mark.parametrize("name", ERRORS)
def test_bad_input_is_told_in_the_words_of_the_caller(name):
    changed, error, message = ERRORS[name]
    with pytest.raises(error, match=message):
        dot_product_attention(**{"query": QUERY, "key": KEY, "value": VALUE, **changed})
