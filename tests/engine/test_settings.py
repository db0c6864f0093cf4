"""JAX's settings: whatever a caller tells JAX for other code, jattn's functions do what they say."""

import jax
import jax.numpy as jnp
import pytest

import jattn
from jattn import attend, attention_filter, biases, edits, masks, normalizers, positions, scores
from jattn.decode.cache import KVCache
from tests.sampled import sampled
from tests.variants import MASKS, NORMALIZERS, SCORES, drawn_like, inputs

QUERY, KEY, VALUE = (jnp.asarray(x) for x in inputs())
TOKENS = jnp.zeros((2, 5), jnp.int32)
SMALL = {"vocabulary": 7, "num_layers": 1, "num_heads": 2, "width": 8, "hidden": 8}


def a_filter(**call):
    return attention_filter(QUERY, KEY, mask=masks.causal(2), **call)


def of_model(model, *inputs):
    return lambda: model.init_with_output(jax.random.key(0), *inputs)


def generated():
    model = jattn.Decoder(**SMALL)
    variables = drawn_like(model, TOKENS)
    return jattn.generate(model, variables, TOKENS, max_new_tokens=2)


def gradient_of(**call):
    def loss(*sides):
        return jnp.sum(jnp.sin(attend(*sides, **call)))

    return lambda: jax.grad(loss, (0, 1, 2))(QUERY, KEY, VALUE)


def cached():
    cache = KVCache.empty((2,), 4, VALUE.shape[-2], KEY.shape[-1], VALUE.shape[-1])
    return jattn.attend_cached(QUERY[:, :3], cache.append(KEY[:, :3], VALUE[:, :3]), cache.next_positions(3))


CALLS = {
    **{
        f"{kind}: {name}": lambda call=variant.call: attend(QUERY, KEY, VALUE, **call)
        for kind, table in (("mask", MASKS), ("score", SCORES), ("normalizer", NORMALIZERS))
        for name, variant in table.items()
    },
    "bias: alibi": lambda: attend(QUERY, KEY, VALUE, bias=biases.alibi()),
    "bias: array": lambda: attend(QUERY, KEY, VALUE, bias=jnp.zeros(KEY.shape[1], jnp.float32)),
    "edit: forbid": lambda: attend(QUERY, KEY, VALUE, edit=edits.forbid(masks.prefix(1), heads=[1])),
    "blocks": lambda: attend(QUERY, KEY, VALUE, mask=masks.causal(), block_size=3),
    "an empty row": lambda: attend(QUERY, KEY, VALUE, mask=masks.causal(-2)),
    "few rows": lambda: attend(QUERY[:, :1], KEY, VALUE, mask=masks.padding(jnp.array([3, 5], jnp.int32))),
    "dropout": lambda: attend(QUERY, KEY, VALUE, dropout_rate=0.5, dropout_rng=jax.random.key(0)),
    "gradient": gradient_of(),
    "gradient: mask": gradient_of(mask=masks.causal(-2), bias=biases.alibi()),
    "gradient: distance": gradient_of(score=scores.negative_squared_distance(), normalizer=normalizers.entmax15()),
    "gradient: sink": gradient_of(normalizer=normalizers.softmax_plus_one(), mask=masks.causal(-1)),
    "filter": lambda: (a_filter().weights(), a_filter().scores(), a_filter()[0, 1, 2], a_filter()[:, :, 3]),
    "folds": lambda: a_filter().summarize("entropy", "expected_distance", "argmax", "received", "histogram"),
    "apply": lambda: (a_filter().apply(VALUE), a_filter().apply_transposed(QUERY)),
    "mass": lambda: a_filter().mass(masks.prefix(1)),
    "portraits": lambda: jattn.head_portraits({"layer": a_filter()}).mass,
    "drop-in": lambda: jattn.dot_product_attention(QUERY, KEY, VALUE, is_causal=True, return_residual=True),
    "positions": lambda: (positions.sinusoidal(jnp.arange(5), 8), positions.rotary(QUERY, jnp.arange(QUERY.shape[1]))),
    "layer": of_model(jattn.MultiHeadAttention(num_heads=2, qkv_features=8), jnp.ones((2, 5, 8))),
    "encoder": of_model(jattn.Encoder(**SMALL), TOKENS),
    "decoder": of_model(jattn.Decoder(**SMALL, positions="rotary"), TOKENS),
    "encoder-decoder": of_model(jattn.EncoderDecoder(**SMALL, positions="learned"), TOKENS, TOKENS),
    "cache": cached,
    "generate": generated,
}
"""A name: a call of something public."""

TRACED = {
    "ranks": lambda: jax.numpy_rank_promotion("raise"),
    "dtypes": lambda: jax.numpy_dtype_promotion("strict"),
    "64 bits": lambda: jax.enable_x64(True),
    "leaks": jax.checking_leaks,
    "precision": lambda: jax.default_matmul_precision("bfloat16"),
    "rbg": lambda: jax.default_prng_impl("rbg"),
    "unsafe_rbg": lambda: jax.default_prng_impl("unsafe_rbg"),
}
"""Settings that make a difference while a function is traced."""


@sampled("setting", TRACED, keep=["ranks"])
def test_every_call_can_be_traced(setting):
    for name, call in CALLS.items():
        with TRACED[setting]():
            try:
                # Captured filters and folds are read on the host: those calls are made as they are.
                call() if name in ("filter", "folds", "portraits", "generate") else jax.eval_shape(call)
            except Exception as error:
                pytest.fail(f"{name}: {error}")


@sampled("name", CALLS, keep=["mask: causal", "an empty row", "gradient: mask", "portraits"])
def test_no_debug_switch_is_tripped(name):
    with jax.debug_infs(True), jax.debug_nans(True):
        jax.block_until_ready(CALLS[name]())


@pytest.mark.parametrize("kind", ["rbg", "unsafe_rbg"])
def test_the_same_weights_drop_in_one_block_and_in_several(kind):
    rng = jax.random.key(3, impl=kind)
    call = {"dropout_rate": 0.5, "dropout_rng": rng}
    whole = attend(QUERY, KEY, VALUE, **call)
    assert jnp.allclose(whole, attend(QUERY, KEY, VALUE, block_size=2, **call), atol=1e-5)
    assert not jnp.allclose(whole, attend(QUERY, KEY, VALUE), atol=1e-2)


def test_settings_of_a_caller_are_as_they_were():
    with jax.numpy_rank_promotion("raise"):
        attend(QUERY, KEY, VALUE, mask=masks.causal())
        with pytest.raises(ValueError, match="rank"):
            jnp.ones((2, 2)) + jnp.ones(2)
