"""Attention under what JAX does to functions: exported for any size, compiled ahead, with a batch of rules."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose

import jattn
from jattn import attend, attention_filter, biases, masks, normalizers, scores
from tests.sampled import sampled

QUERY, KEY, VALUE = (
    jnp.asarray(np.random.default_rng(seed).standard_normal((3, 6, 2, 4)), jnp.float32) for seed in range(3)
)
close = functools.partial(assert_allclose, rtol=1e-5, atol=1e-5)


def filter_of(query, key, **call):
    return attention_filter(query, key, mask=masks.causal(), **call)


# Functions of query, key and value, for any batch and length.
EXPORTED = {
    "causal": lambda q, k, v: attend(q, k, v, mask=masks.causal()),
    "window, ALiBi": lambda q, k, v: attend(
        q, k, v, mask=masks.sliding_window(2), bias=biases.alibi(biases.alibi_slopes(2))
    ),
    "cosine, entmax, prefix": lambda q, k, v: attend(
        q, k, v, score=scores.cosine(), normalizer=normalizers.entmax15(), mask=masks.prefix(4)
    ),
    "segments": lambda q, k, v: attend(q, k, v, mask=masks.segments(jnp.arange(q.shape[1]) // 2)),
    "gradient": jax.grad(lambda q, k, v: jnp.sum(attend(q, k, v, mask=masks.causal()) ** 2), argnums=(0, 1, 2)),
    "drop-in": lambda q, k, v: jattn.dot_product_attention(
        q, k, v, is_causal=True, key_value_seq_lengths=jnp.full(q.shape[0], 3)
    ),
    "weights": lambda q, k, v: filter_of(q, k).weights(),
    "rows": lambda q, k, v: filter_of(q, k).rows([-1, 2]),
    "folds": lambda q, k, v: (filter_of(q, k).entropy(), filter_of(q, k).received(), filter_of(q, k).top_k(2)),
    "dropout": lambda q, k, v: attend(q, k, v, dropout_rate=0.5, dropout_rng=jax.random.key(0)),
    "broadcast dropout": lambda q, k, v: attend(
        q, k, v, dropout_rate=0.5, dropout_rng=jax.random.key(0), broadcast_dropout=True
    ),
}


def exported(function, shape):
    """Exports a function of query, key and value for all sizes that the shape leaves open."""
    sizes = jax.export.symbolic_shape(shape, constraints=["t >= 4"] if "t" in shape else [])
    tokens = jax.ShapeDtypeStruct(sizes, jnp.float32)
    return jax.export.export(jax.jit(function))(tokens, tokens, tokens)


@sampled("name", EXPORTED, keep=["gradient"])
def test_one_export_serves_any_batch_and_length(name):
    program = exported(EXPORTED[name], "b, t, 2, 4")
    for part in (np.s_[:], np.s_[:2, :5]):
        tokens = [x[part] for x in (QUERY, KEY, VALUE)]
        jax.tree.map(close, program.call(*tokens), jax.jit(EXPORTED[name])(*tokens))


def test_an_export_serves_values_of_any_size():
    sizes = jax.export.symbolic_shape("b, t, 2, v")
    value = jax.ShapeDtypeStruct(sizes, jnp.float32)
    tokens = jax.ShapeDtypeStruct((*sizes[:3], 4), jnp.float32)
    program = jax.export.export(jax.jit(functools.partial(attend, mask=masks.causal())))(tokens, tokens, value)
    close(program.call(QUERY, KEY, VALUE[..., :3]), attend(QUERY, KEY, VALUE[..., :3], mask=masks.causal()))


# What is cut into blocks needs lengths, but no batch.
OF_ANY_BATCH = {
    "blocks": lambda q, k, v: attend(q, k, v, mask=masks.causal(), block_size=4),
    "gradient": jax.grad(lambda q, k, v: jnp.sum(attend(q, k, v, mask=masks.causal(), block_size=4) ** 2)),
    "folds": lambda q, k, v: (filter_of(q, k, block_size=4).entropy(), filter_of(q, k, block_size=4).pool(2, 3)),
}


@pytest.mark.exhaustive
@pytest.mark.parametrize("name", OF_ANY_BATCH)
def test_one_export_serves_any_batch(name):
    program = exported(OF_ANY_BATCH[name], "b, 6, 2, 4")
    for tokens in ((QUERY, KEY, VALUE), (QUERY[:2], KEY[:2], VALUE[:2])):
        jax.tree.map(close, program.call(*tokens), jax.jit(OF_ANY_BATCH[name])(*tokens))


UNPLANNED = {
    "blocks": (lambda q, k, v: attend(q, k, v, block_size=4), ValueError, "block_size.* lengths are symbolic"),
    "an index": (lambda q, k, v: filter_of(q, k)[0], TypeError, r"index: .* known sizes, got \(b, 2, t, t\)"),
    "bins": (lambda q, k, v: filter_of(q, k).pool(2, 2), TypeError, "pool: expected a known number of queries, got t"),
}


@pytest.mark.parametrize("name", UNPLANNED)
def test_what_needs_known_lengths_says_so(name):
    function, error, message = UNPLANNED[name]
    with pytest.raises(error, match=message):
        exported(function, "b, t, 2, 4")


@pytest.mark.exhaustive
def test_a_model_is_exported_for_any_batch_and_length():
    model = jattn.Decoder(vocabulary=9, num_layers=1, width=8, num_heads=2, positions="rotary")
    tokens = jnp.array([[1, 2, 3, 4, 5], [8, 7, 6, 5, 4]])
    variables = jax.jit(model.init)(jax.random.key(0), tokens)
    sizes = jax.ShapeDtypeStruct(jax.export.symbolic_shape("b, t"), jnp.int32)
    program = jax.export.export(jax.jit(functools.partial(model.apply, variables)))(sizes)
    for part in (tokens, tokens[:1, :3]):
        close(program.call(part), jax.jit(model.apply)(variables, part))


@sampled("block_size", [None, 4], keep=1)
def test_a_call_is_compiled_ahead(block_size):
    function = jax.jit(lambda q: attend(q, KEY, VALUE, mask=masks.causal(), block_size=block_size))
    close(function.lower(QUERY).compile()(QUERY), attend(QUERY, KEY, VALUE, mask=masks.causal()))


# What makes the arguments of a call of a number or an array, and a batch of them.
RULES = {
    "windows": (lambda width: {"mask": masks.sliding_window(width)}, jnp.array([0, 3, 1])),
    "windows of each entry": (
        lambda width: {"mask": masks.sliding_window(width, width)},
        jnp.array([[0, 1, 2], [3, 0, 0], [1, 1, 9]]),
    ),
    "chunks": (lambda size: {"mask": masks.chunked(size)}, jnp.array([1, 4, 3])),
    "offsets": (lambda offset: {"mask": masks.causal(offset)}, jnp.array([-2, 0, 3])),
    "lengths": (lambda length: {"mask": masks.padding(length)}, jnp.array([[1, 2, 3], [6, 0, 4], [5, 5, 5]])),
    "masks": (lambda mask: {"mask": mask}, jnp.arange(3 * 36).reshape(3, 6, 6) % 5 > 1),
    "biases": (lambda bias: {"bias": bias}, jnp.sin(jnp.arange(3 * 36.0)).reshape(3, 6, 6)),
    "temperatures": (lambda scale: {"score": scores.scaled_dot(scale)}, jnp.array([0.1, 1.0, 3.0])),
    "sinks": (lambda sink: {"normalizer": normalizers.softmax_plus_one(sink)}, jnp.array([0.0, 1.0, -2.0])),
    "slopes": (lambda slopes: {"bias": biases.alibi(slopes)}, jnp.array([[0.5, 1.0], [2.0, 0.1], [0.0, 0.0]])),
}


@sampled(
    ("name", "block_size"),
    [(name, block_size) for name in RULES for block_size in (None, 4)],
    keep=[("windows of each entry", 4)],
)
def test_rules_come_in_batches(name, block_size):
    make, batch = RULES[name]

    def call(one):
        filter = attention_filter(QUERY, KEY, **make(one), block_size=block_size)
        return attend(QUERY, KEY, VALUE, **make(one), block_size=block_size), filter.received()

    out, alone = jax.device_get(jax.jit(jax.vmap(call))(batch)), jax.jit(call)
    for place, one in enumerate(batch):
        jax.tree.map(lambda every, one, place=place: close(every[place], one), out, alone(one))
