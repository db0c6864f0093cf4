"""What `sequences.py` checks of layers and models whose sequence is split over a mesh axis."""

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import AxisType

import jattn
import jattn.nnx
from jattn import masks, sharded

ASKED = ("entropy", "argmax", "received")


def make_mesh():
    return jax.make_mesh((2, 4), ("data", "sequence"), axis_types=(AxisType.Auto,) * 2)


def close(found, expected, tolerance=1e-5):
    for x, y in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(x, y, rtol=tolerance, atol=tolerance)


def check_layer():
    """A ragged length, grouped heads: the output, and the filter that is captured, under jit and without."""
    x = jax.random.normal(jax.random.key(0), (2, 7, 8), jnp.float32)
    one = jattn.MultiHeadAttention(num_heads=4, num_kv_heads=2)
    variables = one.init(jax.random.key(1), x)

    def capture(layer):
        output, filters = jattn.capture_filters(layer, variables, x, mask=masks.causal())
        return output, filters["attention"]

    out, filter = capture(one)
    expected = out, filter.summarize(*ASKED), filter.rows([6, 0])
    with jax.set_mesh(make_mesh()):
        out, split = jax.jit(lambda: capture(one.clone(sequence_axis="sequence")))()
        assert isinstance(split, sharded.ShardedFilter)
        close((out, split.summarize(*ASKED), split.rows([6, 0])), expected)


def check_nnx_layer():
    x = jax.random.normal(jax.random.key(0), (2, 8, 8), jnp.float32)
    made = {"num_heads": 2, "in_features": 8}
    one = jattn.nnx.MultiHeadAttention(**made, rngs=nnx.Rngs(0))
    out, filters = jattn.nnx.capture_filters(one, x)
    expected = out, filters["attention"].summarize(*ASKED)
    with jax.set_mesh(make_mesh()):
        how = {"sequence_axis": "sequence", "implementation": "ring"}
        out, filters = jattn.nnx.capture_filters(jattn.nnx.MultiHeadAttention(**made, **how, rngs=nnx.Rngs(0)), x)
        assert isinstance(filters["attention"], sharded.ShardedFilter)
        close((out, filters["attention"].summarize(*ASKED)), expected)


def check_decoder_with_a_cache():
    """Gradients of a whole text; then a prompt and a token with a cache of split slots."""
    tokens = jnp.arange(14).reshape(2, 7) % 5
    one = jattn.Decoder(vocabulary=5, num_layers=2, num_heads=2, width=8, hidden=8, window=4)
    many = one.clone(sequence_axis="sequence")
    variables = one.init(jax.random.key(0), tokens)

    def loss(model, variables):
        return jnp.sum(jnp.sin(model.apply(variables, tokens)))

    expected, logits = jax.grad(lambda v: loss(one, v))(variables), one.apply(variables, tokens)
    with jax.set_mesh(make_mesh()):
        close(jax.jit(jax.grad(lambda v: loss(many, v)))(variables), expected)
        read, cache = jax.jit(many.apply), many.empty_cache((2,), 8)
        prompt, cache = read(variables, tokens[:, :5], cache=cache)
        token, cache = read(variables, tokens[:, 5:6], cache=cache)
        close(jnp.concatenate([prompt, token], axis=1), logits[:, :6])


def check_layer_that_decodes():
    """The layer's own cache: masks see true positions."""
    x = jax.random.normal(jax.random.key(0), (2, 8, 8), jnp.float32)
    one = jattn.MultiHeadAttention(num_heads=2, decode=True)
    first = one.init(jax.random.key(1), x)

    def decode(layer):
        _, kept = layer.apply(first, x[:, :3], mutable=["cache"])
        return layer.apply(first | kept, x[:, 3:5], mutable=["cache"], mask=masks.sliding_window(2))

    expected = decode(one)
    with jax.set_mesh(make_mesh()):
        close(decode(one.clone(sequence_axis="sequence")), expected)


def check_cached_attention():
    """`attend_cached` with both strategies, ragged texts and grouped heads."""
    query, key = (jax.random.normal(jax.random.key(0), (2, 3, heads, 4)) for heads in (4, 2))
    cache = jattn.KVCache.empty((2,), 9, 2, 4).append(key, key, lengths=jnp.array([3, 1]))
    at = cache.next_positions(3)
    cache = cache.append(key + 1, key - 1)
    expected = jattn.attend_cached(query, cache, at)
    for strategy in ("gathered", "ring"):
        split = {"mesh": make_mesh(), "axis": "sequence", "strategy": strategy}
        close(jattn.attend_cached(query, cache, at, **split), expected)


def check_edited_model():
    """A filter of other tokens put in the place of one head's own, where either is split."""
    tokens = jnp.arange(16).reshape(2, 8) % 5
    one = jattn.Encoder(vocabulary=5, num_heads=2, width=8, hidden=8)
    variables = one.init(jax.random.key(0), tokens)

    def swapped(model):
        _, filters = jattn.capture_filters(model, variables, (tokens + 1) % 5)
        (name, filter), *_ = filters.items()
        return jattn.apply_with_edits(model, variables, tokens, edits={name: jattn.edits.swap(filter, heads=[1])})

    expected = swapped(one)
    with jax.set_mesh(make_mesh()):
        close(swapped(one.clone(sequence_axis="sequence")), expected)


CHECKS = {name.removeprefix("check_"): check for name, check in globals().items() if name.startswith("check_")}
