"""`jattn.nnx.MultiHeadAttention` beside that of flax, and beside that of the linen shell."""

import functools
import inspect
import re

import flax
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

import jattn
from jattn import masks, scores
from tests.sampled import sampled
from tests.variants import HEADS, KEYS, KV_HEADS, QUERIES, TOGETHER, VARIANTS, drawn_like

wing = pytest.importorskip("jattn.nnx", exc_type=ImportError)
REPLACED = pytest.importorskip("jattn.nnx.multi_head", exc_type=ImportError).REPLACED
nnx = flax.nnx

RNGS = nnx.Rngs(0)
X, CONTEXT = (
    jnp.asarray(np.random.default_rng(seed).standard_normal((2, length, 8)), jnp.float32)
    for seed, length in enumerate([QUERIES, KEYS])
)
close = functools.partial(assert_allclose, rtol=1e-5, atol=1e-5)


@functools.cache
def layer_of(**options):
    return wing.MultiHeadAttention(num_heads=2, in_features=8, rngs=RNGS, **options)


def names_of(function, kinds):
    return [name for name, parameter in inspect.signature(function).parameters.items() if parameter.kind in kinds]


def test_the_arguments_are_those_of_flax_in_its_order():
    positional = (inspect.Parameter.POSITIONAL_OR_KEYWORD,)
    for name in ("__init__", "__call__", "init_cache", "set_view"):
        ours, theirs = getattr(wing.MultiHeadAttention, name), getattr(nnx.MultiHeadAttention, name)
        assert names_of(ours, positional) == names_of(theirs, positional)
        keywords = (inspect.Parameter.KEYWORD_ONLY,)
        missing = {*names_of(theirs, keywords)} - {*names_of(ours, keywords)}
        assert missing <= (REPLACED.keys() if name == "__init__" else set())
    defaults = inspect.signature(nnx.MultiHeadAttention.__init__).parameters
    for name, parameter in inspect.signature(wing.MultiHeadAttention.__init__).parameters.items():
        if name in defaults and not callable(parameter.default) and "metadata" not in name:
            assert parameter.default == defaults[name].default, name


@sampled("options", [{"num_kv_heads": 1, "normalize_qk": True}, {}, {"use_bias": False, "out_features": 3}], keep=1)
def test_first_values_and_outputs_are_those_of_flax(options):
    ours, theirs = (
        kind(num_heads=2, in_features=8, in_kv_features=8, decode=False, rngs=nnx.Rngs(3), **options)
        for kind in (wing.MultiHeadAttention, nnx.MultiHeadAttention)
    )
    jax.tree.map(assert_array_equal, *(nnx.to_pure_dict(nnx.state(layer, nnx.Param)) for layer in (ours, theirs)))
    mask = jnp.tri(QUERIES, KEYS)
    both = nnx.jit(lambda layer, x: (layer(x, CONTEXT, mask=mask), layer(x, is_causal=True)))
    jax.tree.map(close, both(ours, X), both(theirs, X))


CALLS = TOGETHER | VARIANTS


@sampled("name", CALLS, keep=["sigmoid, soft_cap, array"])
def test_outputs_and_filters_are_those_of_the_linen_layer_bit_for_bit(name):
    call = dict(CALLS[name].call)
    options = {"num_heads": HEADS, "num_kv_heads": KV_HEADS, "qkv_features": 6 * HEADS}
    options |= {what: call.pop(what) for what in ("score", "normalizer") if what in call}
    layer, linen = wing.MultiHeadAttention(in_features=8, rngs=RNGS, **options), jattn.MultiHeadAttention(**options)
    variables = drawn_like(linen, X, CONTEXT)
    wing.from_linen(layer, variables)
    output, filters = wing.capture_filters(layer, X, CONTEXT, **call)
    expected, of_linen = jattn.capture_filters(linen, variables, X, CONTEXT, **call)
    assert_array_equal(output, expected)
    assert_array_equal(filters["attention"].weights(), of_linen["attention"].weights())


def test_decoding_gives_what_the_whole_sequence_gives_also_where_it_is_said_to_be_causal():
    layer, window = layer_of(rotary=True, num_kv_heads=1), masks.sliding_window(3)
    layer.init_cache(X.shape)

    @nnx.jit
    def decode(layer):
        parts = [(slice(0, 5), False), (slice(5, 7), True)]
        steps = [layer(X[:, part], mask=window, is_causal=is_causal, decode=True) for part, is_causal in parts]
        return jnp.concatenate(steps, axis=1), layer(X, mask=window, is_causal=True)

    close(*decode(layer))
    assert int(layer.cache_index[...]) == QUERIES
    with pytest.raises(ValueError, match="expected at most 0 tokens, the room left in the cache, got 1"):
        layer(X[:, :1], decode=True)


def test_a_full_cache_makes_the_output_nan_under_jit():
    layer = wing.MultiHeadAttention(num_heads=2, in_features=8, decode=True, rngs=RNGS)
    layer.init_cache((2, 2, 8))
    step = nnx.jit(lambda layer, x: layer(x))
    found = [bool(jnp.isnan(step(layer, X[:, at : at + 1])).any()) for at in range(3)]
    assert found == [False, False, True]


def test_dropout_is_that_of_the_linen_layer_with_the_same_rng():
    options = {"num_heads": 2, "dropout_rate": 0.5, "broadcast_dropout": False}
    layer = wing.MultiHeadAttention(in_features=8, rngs=nnx.Rngs(params=0, dropout=1), **options)
    linen, variables = jattn.MultiHeadAttention(**options), wing.to_linen(layer)
    for rngs in (None, nnx.Rngs(dropout=5)):
        stream = nnx.clone(layer.rngs if rngs is None else rngs.dropout)
        expected = linen.apply(variables, X, deterministic=False, dropout_rng=stream())
        assert_array_equal(layer(X, deterministic=False, rngs=rngs), expected)
    layer.train()
    assert bool(jnp.any(layer(X) != layer(X)))
    layer.eval()
    assert_array_equal(layer(X), layer(X))


def test_a_capture_holds_the_dropped_weights_and_leaves_the_module_as_it_was():
    layer = wing.MultiHeadAttention(num_heads=2, in_features=8, dropout_rate=0.5, deterministic=False, rngs=RNGS)
    before = jax.tree.structure(nnx.state(layer)), int(layer.rngs.count[...])
    output, filters = wing.capture_filters(layer, X)
    assert before == (jax.tree.structure(nnx.state(layer)), int(layer.rngs.count[...]))
    assert_array_equal(output, layer(X))
    assert 0.2 < float(jnp.mean(filters["attention"].weights() == 0)) < 0.8


def test_filters_and_weights_are_captured_in_a_program_of_ones_own():
    layer = layer_of()

    @nnx.jit
    def run(layer, x):
        call = nnx.capture(lambda layer, x: layer(x, sow_weights=True), wing.Filter, nnx.Intermediate)
        _, filters, others = call(layer, x)
        return filters["filter"].get_value(), others["attention_weights"].get_value()

    (filter,), (weights,) = run(layer, X)
    assert_allclose(filter.weights(), weights, atol=1e-6)
    assert not hasattr(layer, "filter")


def test_scores_with_arrays_are_state_and_not_trained():
    layer = wing.MultiHeadAttention(2, 8, score=scores.cosine(jnp.full((2, 1, 1), 0.5)), rngs=RNGS)
    graphdef, params, others = nnx.split(layer, nnx.Param, ...)
    assert hash(graphdef) == hash(nnx.split(layer)[0])
    assert len(jax.tree.leaves(params)) == 8
    assert [leaf.shape for leaf in jax.tree.leaves(others)] == [(2, 1, 1)]


def test_a_program_has_as_many_operations_as_that_of_the_linen_layer():
    layer, linen = layer_of(rotary=True), jattn.MultiHeadAttention(num_heads=2, rotary=True)
    graphdef, state = nnx.split(layer)
    variables = wing.to_linen(layer)
    call = {"mask": masks.causal()}

    def cost(function, parameters):
        gradient = jax.grad(lambda parameters: jnp.sum(function(parameters) ** 2))
        return jax.jit(gradient).lower(parameters).cost_analysis()

    ours = cost(lambda state: nnx.merge(graphdef, state)(X, **call), state)
    expected = cost(lambda variables: linen.apply(variables, X, **call), variables)
    assert ours["flops"] == expected["flops"] > 0
    assert ours["bytes accessed"] == expected["bytes accessed"]


WRONG = {
    "params": (
        lambda: wing.from_linen(layer_of(), {"params": None}),
        "params: expected a dict of arrays, got NoneType",
    ),
    "heads": (lambda: wing.MultiHeadAttention(3, 8, rngs=RNGS), "num_heads: expected a positive divisor of the 8"),
    "kv heads": (lambda: layer_of(num_kv_heads=3), "num_kv_heads: expected a positive divisor of the 2 heads, got 3"),
    "qk norm": (lambda: layer_of(qk_norm="batch"), "qk_norm: expected 'layer' or 'rms', got 'batch'"),
    "attention": (lambda: layer_of(attention_fn=max), "attention_fn: expected None, because score, normalizer"),
    "dtype": (lambda: layer_of(ln_promote_dtype=max), "ln_promote_dtype: expected None, because dtype says"),
    "queries": (lambda: layer_of()(X[..., :3]), "inputs_q: expected a last axis of 8, got (2, 7, 3)"),
    "values": (lambda: layer_of()(X, X, X[..., :3]), "inputs_v: expected a last axis of 8, got (2, 7, 3)"),
    "keys": (lambda: layer_of()(X, None, X), "inputs_k: expected an array where inputs_v is given, got None"),
    "cache": (lambda: layer_of()(X, decode=True), "decode: expected a cache, got none; call init_cache first"),
    "positions": (lambda: layer_of()(X, input_positions=jnp.arange(7)), "input_positions: expected None for a layer"),
    "deterministic": (lambda: layer_of(dropout_rate=0.5)(X), "deterministic: expected True or False for a layer"),
    "rngs": (
        lambda: layer_of(dropout_rate=0.5, keep_rngs=False)(X, deterministic=False),
        "rngs: expected nnx.Rngs or a stream of them for a layer made with keep_rngs=False, got None",
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_is_wrong_is_said_in_one_line(name):
    call, text = WRONG[name]
    with pytest.raises(ValueError, match=f"^{re.escape(text)}") as caught:
        call()
    assert "\n" not in str(caught.value)


def test_an_argument_that_does_not_exist_is_refused():
    with pytest.raises(TypeError, match="MultiHeadAttention: expected no argument 'num_head', got 3"):
        layer_of(num_head=3)
