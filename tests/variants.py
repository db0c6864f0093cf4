"""The table of calls that attention and its filter are tested on: each as the library and as the reference write it."""

import dataclasses
import functools
import itertools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jattn import biases, masks, normalizers, scores
from tests import reference

BATCH, QUERIES, KEYS, HEADS, KV_HEADS, HEAD_DIM, VALUE_DIM = (2,), 7, 9, 4, 2, 6, 3
SHAPE = (*BATCH, HEADS, QUERIES, KEYS)


def rng(seed=0):
    """Returns a NumPy generator."""
    return np.random.default_rng(seed)


def inputs(num_queries=QUERIES, num_keys=KEYS, batch=BATCH, heads=HEADS, kv_heads=KV_HEADS, dtype=np.float32, seed=0):
    """Draws a query, a key and a value; the value dim is unlike the head dim."""
    draw = rng(seed).standard_normal
    return (
        jnp.asarray(draw((*batch, num_queries, heads, HEAD_DIM)), dtype),
        jnp.asarray(draw((*batch, num_keys, kv_heads, HEAD_DIM)), dtype),
        jnp.asarray(draw((*batch, num_keys, kv_heads, VALUE_DIM)), dtype),
    )


def drawn_like(module, *arguments, **options):
    """Draws variables for a module without compiling its init: no scale is one, no bias zero."""
    shapes = jax.eval_shape(functools.partial(module.init, **options), jax.random.key(0), *arguments)
    leaves, structure = jax.tree.flatten(shapes)
    draw = rng(7).standard_normal
    return jax.tree.unflatten(structure, [jnp.asarray(0.5 * draw(leaf.shape), leaf.dtype) for leaf in leaves])


@dataclasses.dataclass(frozen=True)
class Variant:
    """A call's arguments in the library's words, and in the reference's."""

    call: dict[str, Any]
    rules: dict[str, Callable]


def array_mask(*shape, seed=1, kind=jnp.asarray):
    """Makes a random mask array with some empty rows."""
    array = (rng(seed).random(shape) < 0.6) & (rng(seed + 1).random((*shape[:-1], 1)) < 0.8)
    return Variant({"mask": kind(array)}, {"mask": reference.look_up(array, SHAPE)})


def array_bias(*shape, seed=2):
    """Makes a random bias array."""
    array = rng(seed).standard_normal(shape).astype(np.float32)
    return Variant({"bias": jnp.asarray(array)}, {"bias": reference.look_up(array, SHAPE)})


def join(*variants):
    """Joins variants that speak of different arguments."""
    call, rules = {}, {}
    for variant in variants:
        assert not call.keys() & variant.call.keys()
        call, rules = call | variant.call, rules | variant.rules
    return Variant(call, rules)


LENGTHS, QUERY_LENGTHS = np.array([4, 9]), np.array([7, 3])
HOLES = rng(3).random((QUERIES, KEYS)) < 0.3
OFFSETS = np.array([-2, 3])
WIDTHS = np.array([3, 1])
QUERY_IDS, KEY_IDS = np.array([[0, 0, 1, 1, 1, 4, 2], [7, 2, 2, 2, 0, 0, 0]]), np.array([0, 0, 0, 1, 1, 2, 2, 2, 3])
SCALES = np.array([0.1, 0.5, 1.0, 2.0], np.float32)
UNITS = 5
QUERY_KERNEL, KEY_KERNEL = (0.5 * rng(5).standard_normal((2, HEADS, HEAD_DIM, UNITS))).astype(np.float32)
VECTOR = rng(6).standard_normal((HEADS, UNITS)).astype(np.float32)
MATRIX = (0.3 * rng(7).standard_normal((HEADS, HEAD_DIM, HEAD_DIM))).astype(np.float32)
TABLE = rng(5).standard_normal((8, HEADS)).astype(np.float32)
BANNED = np.where(rng(4).random((HEADS, 1, KEYS)) < 0.4, -np.inf, 0.0).astype(np.float32)

MASKS = {
    "no mask": Variant({"mask": None}, {}),
    "causal": Variant({"mask": masks.causal()}, {"mask": lambda entry, head, i, j: j <= i}),
    "causal, later": Variant({"mask": masks.causal(2)}, {"mask": lambda entry, head, i, j: j <= i + 2}),
    "causal, first rows empty": Variant({"mask": masks.causal(-2)}, {"mask": lambda entry, head, i, j: j <= i - 2}),
    "causal, later by entry": Variant(
        {"mask": masks.causal(jnp.asarray(OFFSETS))}, {"mask": lambda entry, head, i, j: j <= i + OFFSETS[entry]}
    ),
    "window": Variant({"mask": masks.sliding_window(2, 1)}, {"mask": lambda entry, head, i, j: i - 2 <= j <= i + 1}),
    "window, later": Variant(
        {"mask": masks.sliding_window(1, offset=4)}, {"mask": lambda entry, head, i, j: i + 3 <= j <= i + 4}
    ),
    "window, open to the right, later and wider by entry": Variant(
        {"mask": masks.sliding_window(WIDTHS, None, OFFSETS)},
        {"mask": lambda entry, head, i, j: i + OFFSETS[entry] - WIDTHS[entry] <= j},
    ),
    "chunked": Variant({"mask": masks.chunked(3, 1)}, {"mask": lambda entry, head, i, j: (i + 1) // 3 == j // 3}),
    "chunked, later and larger by entry": Variant(
        {"mask": masks.chunked(WIDTHS, OFFSETS)},
        {"mask": lambda entry, head, i, j: (i + OFFSETS[entry]) // WIDTHS[entry] == j // WIDTHS[entry]},
    ),
    "prefix": Variant({"mask": masks.prefix(4)}, {"mask": lambda entry, head, i, j: j < 4}),
    "prefix by entry or causal": Variant(
        {"mask": masks.causal() | masks.prefix(jnp.asarray(LENGTHS))},
        {"mask": lambda entry, head, i, j: j <= i or j < LENGTHS[entry]},
    ),
    "segments": Variant(
        {"mask": masks.segments(jnp.asarray(QUERY_IDS), jnp.asarray(KEY_IDS))},
        {"mask": lambda entry, head, i, j: QUERY_IDS[(*entry, i)] == KEY_IDS[j]},
    ),
    "padding": Variant(
        {"mask": masks.padding(jnp.asarray(LENGTHS))}, {"mask": lambda entry, head, i, j: j < LENGTHS[entry]}
    ),
    "padding, one length": Variant({"mask": masks.padding(jnp.array(5))}, {"mask": lambda entry, head, i, j: j < 5}),
    "padding, no keys": Variant({"mask": masks.padding(jnp.array([0, 9]))}, {"mask": lambda e, head, i, j: e == (1,)}),
    "padding of queries": Variant(
        {"mask": masks.padding(LENGTHS, QUERY_LENGTHS)},
        {"mask": lambda entry, head, i, j: j < LENGTHS[entry] and i < QUERY_LENGTHS[entry]},
    ),
    "function": Variant(
        {"mask": masks.from_function(lambda query, key: (query - key) % 3 == 0)},
        {"mask": lambda entry, head, i, j: (i - j) % 3 == 0},
    ),
    "function of heads": Variant(
        {"mask": masks.from_function(lambda head, query, key: (head + query + key) % 2 == 0)},
        {"mask": lambda entry, head, i, j: (head + i + j) % 2 == 0},
    ),
    "array": array_mask(*SHAPE),
    "array of heads": array_mask(HEADS, QUERIES, KEYS, kind=np.asarray),
    "array of a batch": array_mask(*BATCH, 1, QUERIES, KEYS),
    "array of rows": array_mask(QUERIES, 1),
    "array of keys": array_mask(*BATCH, 1, 1, KEYS),
    "array of one axis": array_mask(KEYS),
    "combination": Variant(
        {"mask": (masks.causal() & ~jnp.asarray(HOLES)) | masks.from_function(lambda query, key: key == 8)},
        {"mask": lambda entry, head, i, j: (j <= i and not HOLES[i, j]) or j == 8},
    ),
    "combination of ranges": Variant(
        {"mask": (masks.sliding_window(2, 1) & ~masks.prefix(2)) | (masks.chunked(3) & ~masks.causal(-1))},
        {"mask": lambda entry, head, i, j: (i - 2 <= j <= i + 1 and j >= 2) or (i // 3 == j // 3 and j > i - 1)},
    ),
    "combination of arrays": Variant(
        {"mask": ~masks.segments(QUERY_IDS, KEY_IDS) & masks.causal(OFFSETS) | ~(masks.causal(2) | ~HOLES)},
        {
            "mask": lambda entry, head, i, j: (
                (QUERY_IDS[(*entry, i)] != KEY_IDS[j] and j <= i + OFFSETS[entry]) or (j > i + 2 and HOLES[i, j])
            )
        },
    ),
}

BIASES = {
    "array": array_bias(*SHAPE),
    "array of heads": array_bias(HEADS, 1, 1),
    "array of rows and keys": array_bias(QUERIES, KEYS),
    "array of a batch": array_bias(*BATCH, 1, 1, KEYS),
    "function": Variant(
        {"bias": biases.from_function(lambda query, key: -0.5 * abs(query - key))},
        {"bias": lambda entry, head, i, j: -0.5 * abs(i - j)},
    ),
    "function of heads": Variant(
        {"bias": biases.from_function(lambda head, query, key: -abs(query - key) / (1.0 + head))},
        {"bias": lambda entry, head, i, j: -abs(i - j) / (1 + head)},
    ),
    "minus infinity": Variant({"bias": jnp.asarray(BANNED)}, {"bias": reference.look_up(BANNED, SHAPE)}),
    "alibi, later": Variant(
        {"bias": biases.alibi(offset=2)},
        {"bias": lambda entry, head, i, j: -(2.0 ** (-2 * (head + 1))) * abs(i + 2 - j)},
    ),
    "relative": Variant(
        {"bias": biases.relative(jnp.asarray(TABLE), max_distance=5)},
        {"bias": lambda entry, head, i, j: TABLE[(0, 1, 2, 2, 3)[min(abs(i - j), 4)] + (4 if j > i else 0), head]},
    ),
    "sum": Variant(
        {"bias": SCALES[:, None, None] + biases.alibi(jnp.asarray(SCALES)) + jnp.asarray(TABLE[0, 0])},
        {"bias": lambda entry, head, i, j: SCALES[head] * (1 - abs(i - j)) + TABLE[0, 0]},
    ),
}

SCORES = {
    "scaled_dot, scale": Variant(
        {"score": scores.scaled_dot(2.0)}, {"score": lambda query, key, head: 2 * (query @ key)}
    ),
    "scaled_dot, scale by head": Variant(
        {"score": scores.scaled_dot(jnp.asarray(SCALES)[:, None, None])},
        {"score": lambda query, key, head: SCALES[head] * (query @ key)},
    ),
    "cosine": Variant({"score": scores.cosine()}, {"score": reference.cosine(0.1)}),
    "cosine, temperature by head": Variant(
        {"score": scores.cosine(jnp.asarray(SCALES)[:, None, None])},
        {"score": lambda query, key, head: reference.cosine(SCALES[head])(query, key, head)},
    ),
    "function": Variant(
        {"score": lambda query, key: -jnp.sum((query[..., :, None, :] - key[..., None, :, :]) ** 2, axis=-1)},
        {"score": lambda query, key, head: -np.sum((query - key) ** 2)},
    ),
    "additive": Variant(
        {"score": scores.additive(*map(jnp.asarray, (QUERY_KERNEL[0], KEY_KERNEL[0], VECTOR[0])))},
        {"score": reference.additive(QUERY_KERNEL[[0] * HEADS], KEY_KERNEL[[0] * HEADS], VECTOR[[0] * HEADS])},
    ),
    "additive by head": Variant(
        {"score": scores.additive(*map(jnp.asarray, (QUERY_KERNEL, KEY_KERNEL, VECTOR)))},
        {"score": reference.additive(QUERY_KERNEL, KEY_KERNEL, VECTOR)},
    ),
    "additive, vector by head": Variant(
        {"score": scores.additive(QUERY_KERNEL[0], KEY_KERNEL[0], VECTOR)},
        {"score": reference.additive(QUERY_KERNEL[[0] * HEADS], KEY_KERNEL[[0] * HEADS], VECTOR)},
    ),
    "bilinear": Variant({"score": scores.bilinear(MATRIX[0])}, {"score": reference.bilinear(MATRIX[[0] * HEADS])}),
    "bilinear by head": Variant({"score": scores.bilinear(jnp.asarray(MATRIX))}, {"score": reference.bilinear(MATRIX)}),
    "negative_squared_distance": Variant(
        {"score": scores.negative_squared_distance()}, {"score": reference.negative_squared_distance([1] * HEADS)}
    ),
    "negative_squared_distance, scale by head": Variant(
        {"score": scores.negative_squared_distance(jnp.asarray(SCALES)[:, None, None])},
        {"score": reference.negative_squared_distance(SCALES)},
    ),
    "soft_cap": Variant(
        {"score": scores.soft_cap(scores.scaled_dot(2.0), 3.0)},
        {"score": reference.soft_cap(lambda query, key, head: 2 * (query @ key), [3] * HEADS)},
    ),
    "soft_cap, cap by head, of a function": Variant(
        {"score": scores.soft_cap(lambda query, key: query @ jnp.swapaxes(key, -1, -2), SCALES[:, None, None])},
        {"score": reference.soft_cap(lambda query, key, head: query @ key, SCALES)},
    ),
    "soft_cap of additive by head": Variant(
        {"score": scores.soft_cap(scores.additive(QUERY_KERNEL, KEY_KERNEL, VECTOR), 2.0)},
        {"score": reference.soft_cap(reference.additive(QUERY_KERNEL, KEY_KERNEL, VECTOR), [2] * HEADS)},
    ),
}

NORMALIZERS = {
    "softmax": Variant({"normalizer": normalizers.softmax()}, {"normalizer": reference.softmax}),
    "softmax_plus_one": Variant(
        {"normalizer": normalizers.softmax_plus_one()}, {"normalizer": reference.softmax_plus_one([0] * HEADS)}
    ),
    "softmax_plus_one, sink by head": Variant(
        {"normalizer": normalizers.softmax_plus_one(jnp.asarray(SCALES)[:, None, None])},
        {"normalizer": reference.softmax_plus_one(SCALES)},
    ),
    "sigmoid": Variant({"normalizer": normalizers.sigmoid(-2.0)}, {"normalizer": reference.sigmoid([-2] * HEADS)}),
    "sigmoid, bias by head": Variant(
        {"normalizer": normalizers.sigmoid(jnp.asarray(SCALES)[:, None, None])},
        {"normalizer": reference.sigmoid(SCALES)},
    ),
    "sparsemax": Variant({"normalizer": normalizers.sparsemax()}, {"normalizer": reference.entmax(2)}),
    "entmax15": Variant({"normalizer": normalizers.entmax15()}, {"normalizer": reference.entmax(1.5)}),
    "top_k": Variant({"normalizer": normalizers.top_k(3)}, {"normalizer": reference.top_k(3)}),
    "top_k of more than there are": Variant({"normalizer": normalizers.top_k(99)}, {"normalizer": reference.softmax}),
}

VARIANTS = (
    {f"mask: {name}": variant for name, variant in MASKS.items()}
    | {f"bias: {name}": variant for name, variant in BIASES.items()}
    | {f"score: {name}": variant for name, variant in SCORES.items()}
    | {f"normalizer: {name}": variant for name, variant in NORMALIZERS.items()}
    | {
        "cosine, bias, combination": join(SCORES["cosine"], BIASES["function of heads"], MASKS["combination"]),
        "scale by head, bias, array": join(SCORES["scaled_dot, scale by head"], BIASES["array"], MASKS["array"]),
        "minus infinity, padding": join(BIASES["minus infinity"], MASKS["padding of queries"]),
        "sparsemax, causal, bias": join(
            NORMALIZERS["sparsemax"], MASKS["causal, first rows empty"], BIASES["function of heads"]
        ),
        "entmax15, minus infinity, array": join(
            NORMALIZERS["entmax15"], BIASES["minus infinity"], MASKS["array of heads"]
        ),
        "top_k, cosine by head, combination": join(
            NORMALIZERS["top_k"], SCORES["cosine, temperature by head"], MASKS["combination"]
        ),
        "sink by head, additive by head, padding": join(
            NORMALIZERS["softmax_plus_one, sink by head"], SCORES["additive by head"], MASKS["padding, no keys"]
        ),
        "sigmoid, soft_cap, array": join(
            NORMALIZERS["sigmoid, bias by head"], SCORES["soft_cap"], MASKS["array of a batch"]
        ),
    }
)
"""Every mask, bias, score and normalizer once, and some together; all fit a filter of shape `SHAPE`."""


def cover():
    """Joins masks, biases, scores and normalizers, so that each of them is there at least once."""
    tables = {"mask": MASKS, "bias": BIASES, "score": SCORES, "normalizer": NORMALIZERS}
    names = [itertools.islice(itertools.cycle(table), max(map(len, tables.values()))) for table in tables.values()]
    return {
        ", ".join(row): join(*(table[name] for table, name in zip(tables.values(), row, strict=True)))
        for row in zip(*names, strict=True)
    }


TOGETHER = cover()
"""Every mask, bias, score and normalizer at least once, one of each in every call."""
