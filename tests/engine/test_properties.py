"""Random calls of every ragged shape against the reference: few programs, compiled once, and many contents."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import hypothesis
import jax
import jax.numpy as jnp
import numpy as np
from hypothesis import strategies
from numpy.testing import assert_allclose

from jattn import attend, masks, normalizers, scores
from tests import reference
from tests.sampled import sampled

BATCH, HEADS, KV_HEADS, HEAD_DIM, VALUE_DIM = (2,), 2, 1, 4, 3


@dataclasses.dataclass(frozen=True)
class Kind:
    """A call whose contents are drawn: arrays for its mask, bias and sink, and what the library and the reference do.

    ``draw`` takes a generator and (T, S) and returns arrays; ``call`` and ``rules`` take those arrays.
    """

    draw: Callable[[np.random.Generator, int, int], Any]
    call: Callable[[Any], dict[str, Any]]
    rules: Callable[[Any], dict[str, Any]]


def offsets(rng, num_queries, num_keys):
    return rng.integers(-num_queries - 1, num_keys + 2, BATCH, dtype=np.int32)


def nothing(rng, num_queries, num_keys):
    return ()


def causal_and_padding(rng, num_queries, num_keys):
    return offsets(rng, num_queries, num_keys), rng.integers(-1, num_keys + 2, BATCH, dtype=np.int32)


def array_and_bias(rng, num_queries, num_keys):
    bias = 3 * rng.standard_normal((HEADS, num_queries, num_keys))
    bias = np.where(rng.random(bias.shape) < 0.1, -np.inf, bias)
    return rng.random((*BATCH, 1, num_queries, num_keys)) < rng.choice([0.0, 0.1, 0.7]), bias.astype(np.float32)


def segment_ids(rng, num_queries, num_keys):
    ids = rng.integers(0, 3, (*BATCH, num_queries), np.int32), rng.integers(0, 3, (*BATCH, num_keys), np.int32)
    return tuple(np.sort(x, axis=-1) for x in ids)


def bias_and_sink(rng, num_queries, num_keys):
    draw = rng.standard_normal
    return draw((*BATCH, 1, 1, num_keys)).astype(np.float32), 4 * draw((HEADS, 1, 1)).astype(np.float32)


KINDS = {
    "plain": Kind(nothing, lambda _: {}, lambda _: {}),
    "causal": Kind(
        nothing, lambda _: {"mask": masks.causal(1)}, lambda _: {"mask": lambda entry, head, i, j: j <= i + 1}
    ),
    "window": Kind(
        nothing,
        lambda _: {"mask": masks.sliding_window(2, 1)},
        lambda _: {"mask": lambda entry, head, i, j: i - 2 <= j <= i + 1},
    ),
    "chunks or a prefix": Kind(
        nothing,
        lambda _: {"mask": masks.chunked(3) & ~masks.prefix(1)},
        lambda _: {"mask": lambda entry, head, i, j: i // 3 == j // 3 and j >= 1},
    ),
    "offsets and lengths": Kind(
        causal_and_padding,
        lambda x: {"mask": masks.causal(x[0]) & masks.padding(x[1])},
        lambda x: {"mask": lambda entry, head, i, j: j <= i + x[0][entry] and j < x[1][entry]},
    ),
    "windows or prefixes": Kind(
        causal_and_padding,
        lambda x: {"mask": masks.sliding_window(1, 2, x[0]) | masks.prefix(x[1])},
        lambda x: {"mask": lambda entry, head, i, j: -1 <= j - i - x[0][entry] <= 2 or j < x[1][entry]},
    ),
    "array and bias": Kind(
        array_and_bias,
        lambda x: {"mask": x[0], "bias": x[1]},
        lambda x: {
            "mask": lambda entry, head, i, j: x[0][(*entry, 0, i, j)],
            "bias": lambda entry, head, i, j: x[1][head, i, j],
        },
    ),
    "segments": Kind(
        segment_ids,
        lambda x: {"mask": masks.segments(*x) & masks.causal()},
        lambda x: {"mask": lambda entry, head, i, j: x[0][(*entry, i)] == x[1][(*entry, j)] and j <= i},
    ),
    "bias and sink": Kind(
        bias_and_sink,
        lambda x: {"bias": x[0], "normalizer": normalizers.softmax_plus_one(x[1]), "score": scores.scaled_dot(0.7)},
        lambda x: {
            "bias": lambda entry, head, i, j: x[0][(*entry, 0, 0, j)],
            "normalizer": reference.softmax_plus_one(x[1][:, 0, 0]),
            "score": lambda query, key, head: 0.7 * (query @ key),
        },
    ),
}

# Kind, T, S and the block size: no row, one, one less and one more than a block, and so on; None is all rows at once.
CASES = [
    ("plain", 9, 5, 4),
    ("plain", 3, 1, 4),
    ("plain", 5, 0, 4),
    ("causal", 5, 5, 4),
    ("causal", 12, 9, 4),
    ("causal", 1, 8, 4),
    ("window", 13, 13, 4),
    ("window", 4, 3, 4),
    ("chunks or a prefix", 9, 8, 4),
    ("offsets and lengths", 7, 6, 4),
    ("offsets and lengths", 0, 3, 4),
    ("windows or prefixes", 8, 4, 4),
    ("array and bias", 6, 7, 4),
    ("array and bias", 1, 1, 4),
    ("segments", 10, 11, 4),
    ("bias and sink", 5, 6, 4),
    ("bias and sink", 4, 0, 4),
    ("offsets and lengths", 9, 6, None),
    ("offsets and lengths", 2, 6, None),
    ("array and bias", 10, 5, None),
    ("bias and sink", 3, 9, None),
]
GRADIENT_CASES = [
    ("plain", 5, 3, 4),
    ("causal", 12, 9, 4),
    ("window", 13, 13, 4),
    ("offsets and lengths", 7, 6, 4),
    ("array and bias", 6, 7, 4),
    ("segments", 5, 9, 4),
    ("bias and sink", 5, 6, 4),
    ("offsets and lengths", 3, 6, None),
    ("array and bias", 9, 4, None),
]

seeds = strategies.integers(0, 2**32 - 1)
styles = strategies.sampled_from(["normal", "normal", "small", "large", "ties", "alike", "zero"])
examples = functools.partial(hypothesis.settings, deadline=None, derandomize=True, database=None)


def contents(seed, style, kind, num_queries, num_keys):
    """Draws a query, a key, a value and the arrays of a kind."""
    rng = np.random.default_rng(seed)
    arrays = [
        rng.standard_normal(shape)
        for shape in [
            (*BATCH, num_queries, HEADS, HEAD_DIM),
            (*BATCH, num_keys, KV_HEADS, HEAD_DIM),
            (*BATCH, num_keys, KV_HEADS, VALUE_DIM),
        ]
    ]
    if style == "ties":
        arrays = [np.round(x) for x in arrays]
    elif style == "alike":
        arrays = [x - x + x.ravel()[:1].sum() for x in arrays]
    scale = {"small": 1e-3, "large": 5.0, "zero": 0.0}.get(style, 1.0)
    query, key, value = (
        x.astype(np.float32) for x in (scale * arrays[0], arrays[1], 10.0 ** rng.integers(-3, 4) * arrays[2])
    )
    return query, key, value, KINDS[kind].draw(rng, num_queries, num_keys)


@functools.cache
def attention(kind, block_size):
    """The compiled function of a kind; shapes are compiled once each."""
    return jax.jit(
        lambda query, key, value, drawn: attend(query, key, value, block_size=block_size, **KINDS[kind].call(drawn))
    )


def largest(array):
    return np.max(np.abs(array), initial=0)


def score_size(query, key):
    """About how large scores are; float32 knows a score, and so the logarithm of a weight, to 1e-7 of that."""
    return max(1, largest(query) * largest(key))


@sampled(("kind", "num_queries", "num_keys", "block_size"), CASES, keep=3)
@examples(max_examples=55)
@hypothesis.given(seeds, styles)
def test_attention_is_the_reference_whatever_the_contents(kind, num_queries, num_keys, block_size, seed, style):
    query, key, value, drawn = contents(seed, style, kind, num_queries, num_keys)
    out = attention(kind, block_size)(query, key, value, drawn)
    expected = reference.attend(query, key, value, **KINDS[kind].rules(drawn))
    tolerance = 2e-6 * (1 if style != "large" else 5)
    assert out.shape == expected.shape
    assert_allclose(out, expected, rtol=0, atol=tolerance * largest(value))


@functools.cache
def gradients(kind, block_size):
    """The compiled gradients of a kind with respect to query, key, value, bias and sink, from that of the output."""

    def pull(query, key, value, drawn, gradient):
        def function(query, key, value, floats):
            merged = [x if f is None else f for x, f in zip(drawn, floats, strict=True)]
            return attend(query, key, value, block_size=block_size, **KINDS[kind].call(merged))

        floats = [x if x.dtype == jnp.float32 else None for x in drawn]
        return jax.vjp(function, query, key, value, floats)[1](gradient)

    return jax.jit(pull)


def expected_gradients(query, key, value, gradient, weights, scale):
    """The gradients of a softmax's attention, with its sink, in float64; of query, key, value and scores."""
    query, key, value, gradient = (np.moveaxis(np.float64(x), -2, -3) for x in (query, key, value, gradient))
    key, value = (np.repeat(x, HEADS // KV_HEADS, axis=-3) for x in (key, value))
    of_weights = gradient @ np.swapaxes(value, -1, -2)
    of_scores = weights * (of_weights - np.sum(weights * of_weights, axis=-1, keepdims=True))
    of_value = np.swapaxes(weights, -1, -2) @ gradient
    of_key = scale * np.swapaxes(of_scores, -1, -2) @ query
    by_kv_head = [x.reshape(*BATCH, KV_HEADS, -1, *x.shape[-2:]).sum(axis=-3) for x in (of_key, of_value)]
    outs = [np.moveaxis(x, -3, -2) for x in (scale * of_scores @ key, *by_kv_head)]
    of_sink = -np.sum((1 - weights.sum(axis=-1)) * np.sum(weights * of_weights, axis=-1), axis=(0, 2))
    return *outs, of_scores, of_sink


@sampled(("kind", "num_queries", "num_keys", "block_size"), GRADIENT_CASES, keep=1)
@examples(max_examples=30)
@hypothesis.given(seeds, styles)
def test_gradients_are_those_of_float64_whatever_the_contents(kind, num_queries, num_keys, block_size, seed, style):
    query, key, value, drawn = contents(seed, style, kind, num_queries, num_keys)
    gradient = np.float32(np.random.default_rng(seed).standard_normal((*BATCH, num_queries, HEADS, VALUE_DIM)))
    outs = gradients(kind, block_size)(query, key, value, drawn, gradient)
    weights = reference.attention_filter(query, key, **KINDS[kind].rules(drawn))
    scale = 0.7 if kind == "bias and sink" else HEAD_DIM**-0.5
    of_query, of_key, of_value, of_scores, of_sink = expected_gradients(query, key, value, gradient, weights, scale)
    rows = num_queries * HEADS
    size = 3e-6 * largest(value) * largest(gradient) * score_size(query, key)

    def close(out, expected, size):
        assert out.shape == expected.shape
        assert_allclose(out, expected, rtol=0, atol=size)

    close(outs[0], of_query, size * largest(key))
    close(outs[1], of_key, size * largest(query) * rows)
    close(outs[2], of_value, 3e-6 * largest(gradient) * rows * score_size(query, key))
    if kind == "array and bias":
        close(outs[3][1], of_scores.sum(axis=0), 2 * size)
    if kind == "bias and sink":
        close(outs[3][0], of_scores.sum(axis=(1, 2), keepdims=True), size * rows)
        close(outs[3][1][:, 0, 0], of_sink, size * 2 * rows)
