"""The table of calls that attention and its filter are tested on: each as the library and as the reference write it."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jattn import biases, masks, scores
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
SCALES = np.array([0.1, 0.5, 1.0, 2.0], np.float32)
BANNED = np.where(rng(4).random((HEADS, 1, KEYS)) < 0.4, -np.inf, 0.0).astype(np.float32)

MASKS = {
    "no mask": Variant({"mask": None}, {}),
    "causal": Variant({"mask": masks.causal()}, {"mask": lambda entry, head, i, j: j <= i}),
    "causal, later": Variant({"mask": masks.causal(2)}, {"mask": lambda entry, head, i, j: j <= i + 2}),
    "causal, first rows empty": Variant({"mask": masks.causal(-2)}, {"mask": lambda entry, head, i, j: j <= i - 2}),
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
}

VARIANTS = (
    {f"mask: {name}": variant for name, variant in MASKS.items()}
    | {f"bias: {name}": variant for name, variant in BIASES.items()}
    | {f"score: {name}": variant for name, variant in SCORES.items()}
    | {
        "cosine, bias, combination": join(SCORES["cosine"], BIASES["function of heads"], MASKS["combination"]),
        "scale by head, bias, array": join(SCORES["scaled_dot, scale by head"], BIASES["array"], MASKS["array"]),
        "minus infinity, padding": join(BIASES["minus infinity"], MASKS["padding of queries"]),
    }
)
"""Every mask, bias and score once, and some together; all fit a filter of shape `SHAPE`."""
