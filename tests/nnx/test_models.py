"""NNX models are the linen models: parameters, logits, filters, edits, knock-outs and generated tokens."""

import builtins
import functools
import runpy
from pathlib import Path

import flax
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

import jattn
from jattn import edits, normalizers, scores
from tests.sampled import sampled
from tests.variants import drawn_like

wing = pytest.importorskip("jattn.nnx", exc_type=ImportError)
nnx = flax.nnx

TOKENS, LENGTHS = jnp.array([[1, 0, 4, 2, 6], [5, 5, 1, 0, 0]]), jnp.array([5, 3])
SIZES = {"vocabulary": 9, "num_heads": 2, "width": 8, "hidden": 12, "num_layers": 2}
MODELS = {
    "encoder": ("Encoder", {"norm": "post", "positions": "relative"}),
    "encoder, positions": ("Encoder", {"queries": "positions", "positions": "learned"}),
    "encoder, cosine": ("Encoder", {"score": scores.cosine(), "positions": "alibi"}),
    "encoder, positions, post": ("Encoder", {"queries": "positions", "norm": "post"}),
    "decoder": ("Decoder", {}),
    "decoder, rotary": ("Decoder", {"positions": "rotary"}),
    "decoder, grouped window": (
        "Decoder",
        {"num_kv_heads": 1, "window": 2, "qk_norm": "rms", "positions": "rotary", "rotary_base": 50.0},
    ),
    "encoder, window": ("Encoder", {"window": 2, "qk_norm": "layer", "filter_dropout_rate": 0.5}),
    "both, relative": (
        "EncoderDecoder",
        {"positions": "relative", "num_kv_heads": 1, "num_layers": 1}
        | {"score": scores.additive(units=3), "normalizer": normalizers.learned_sink()},
    ),
    "both, learned, post": ("EncoderDecoder", {"positions": "learned", "max_length": 5, "norm": "post", "window": 2}),
    "pooled": ("PooledEncoder", {"qk_norm": "rms", "filter_dropout_rate": 0.5, "num_layers": 1}),
    "pooled, learned": (
        "PooledEncoder",
        {"positions": "learned", "max_length": 5, "num_layers": 0, "num_kv_heads": 1, "score": scores.bilinear()},
    ),
    "gru": ("RecurrentEncoderDecoder", {"num_layers": 1}),
    "lstm": ("RecurrentEncoderDecoder", {"cell": "lstm", "dtype": jnp.bfloat16}),
    "gru, no attention": ("RecurrentEncoderDecoder", {"attention": False}),
    "decoder, learned": ("Decoder", {"positions": "learned", "max_length": 12, "dtype": jnp.bfloat16}),
}


INPUTS = dict.fromkeys(("EncoderDecoder", "PooledEncoder", "RecurrentEncoderDecoder"), (TOKENS, TOKENS[:, :3], LENGTHS))
"""What a kind of model is called with; others with tokens and lengths."""

WITH_HIDDEN = ("Encoder", "Decoder", "EncoderDecoder", "PooledEncoder")
"""The kinds of models that have feed-forward layers."""


def inputs_of(name):
    return INPUTS.get(MODELS[name][0], (TOKENS, LENGTHS))


def sizes_of(name):
    kind, options = MODELS[name]
    return kind, {size: SIZES[size] for size in SIZES if size != "hidden" or kind in WITH_HIDDEN} | options


@functools.cache
def both(name):
    """Returns the NNX model, the linen model and its variables, which are those of both."""
    kind, options = sizes_of(name)
    linen = getattr(jattn, kind)(**options)
    variables = drawn_like(linen, *inputs_of(name))
    model = getattr(wing, kind)(**options, rngs=nnx.Rngs(0))
    return wing.from_linen(model, variables), linen, variables


@sampled("name", MODELS, keep=["encoder, positions", "both, relative", "pooled, learned", "gru"])
def test_logits_and_filters_are_those_of_the_linen_model(name):
    model, linen, variables = both(name)
    if name == "gru, no attention":
        assert_array_equal(model(*inputs_of(name)), linen.apply(variables, *inputs_of(name)))
        return

    @jax.jit
    def captured():
        both = (
            wing.capture_filters(model, *inputs_of(name)),
            jattn.capture_filters(linen, variables, *inputs_of(name)),
        )
        return [(output, filters, [filter.weights() for filter in filters.values()]) for output, filters in both]

    (output, filters, weights), (expected, of_linen, of_linen_weights) = captured()
    assert_array_equal(output, expected)
    assert [(name, filter.relates) for name, filter in filters.items()] == [
        (name, filter.relates) for name, filter in of_linen.items()
    ]
    jax.tree.map(assert_array_equal, weights, of_linen_weights)


@sampled("name", MODELS, keep=[name for name in MODELS if name not in ("lstm", "gru, no attention")])
def test_weights_move_both_ways_bit_for_bit(name):
    model, _, variables = both(name)
    again = wing.to_linen(model)
    assert jax.tree.structure(again) == jax.tree.structure(variables)
    jax.tree.map(assert_array_equal, again, variables)


def test_edits_and_knock_outs_are_those_of_the_linen_model():
    model, linen, variables = both("encoder, positions")
    out = {"block_1/attention": edits.knock_out([1])}
    edited = wing.apply_with_edits(model, TOKENS, edits=out)
    assert_array_equal(edited, jattn.apply_with_edits(linen, variables, TOKENS, edits=out))
    found = wing.knock_out(model, {"inputs": {"tokens": TOKENS}}, loss=first_logit)
    assert list(found.alone) == ["block_0/attention", "block_1/attention"]
    assert_allclose(found.alone["block_1/attention"].loss[1], first_logit(edited, None), rtol=1e-5)
    assert_allclose(found.before.loss, first_logit(model(TOKENS), None), rtol=1e-5)
    assert found.before.loss != found.alone["block_1/attention"].loss[1]


@pytest.mark.exhaustive
@pytest.mark.parametrize("name", ["both, relative", "pooled", "gru"])
def test_a_source_may_be_patches_of_an_image(name):
    (kind, options), patches = sizes_of(name), jnp.linspace(-1.0, 1.0, 24).reshape(2, 3, 4)
    linen = getattr(jattn, kind)(**options)
    variables = drawn_like(linen, patches, TOKENS)
    model = wing.from_linen(getattr(wing, kind)(**options, pixels=4, rngs=nnx.Rngs(0)), variables)
    assert_array_equal(model(patches, TOKENS), linen.apply(variables, patches, TOKENS))


@pytest.mark.exhaustive
def test_tables_of_knock_outs_and_judgements_are_those_of_the_linen_model():
    model, linen, variables = both("encoder, positions")
    batch = {"inputs": {"tokens": TOKENS}}
    found = wing.knock_out(model, batch, loss=first_logit)
    assert str(found) == str(jattn.knock_out(linen, variables, batch, loss=first_logit))
    assert_allclose(wing.judge(model, batch, loss=first_logit).loss, found.before.loss, rtol=1e-6)


def first_logit(logits, batch):
    return jnp.mean(logits[..., 0] ** 2)


@pytest.mark.exhaustive
def test_an_edit_of_the_layer_comes_before_one_from_outside():
    layer = wing.MultiHeadAttention(2, 8, edit=lambda weights, grid: 2 * weights, rngs=nnx.Rngs(0))
    x = jnp.asarray(np.random.default_rng(0).standard_normal((5, 8)), jnp.float32)
    added = {"attention": lambda weights, grid: weights + 1}
    plain = wing.capture_filters(layer, x)[1]["attention"].weights()
    graphdef, state = nnx.split(layer)
    model = jattn.nnx.study.NNXModel(graphdef)
    inspected = model.with_edits(state, {name: edits.as_edit(edit) for name, edit in added.items()})
    assert_allclose(model.capture(inspected, x)[1]["attention"].weights(), plain + 1, rtol=1e-6)


@pytest.mark.exhaustive
def test_generated_tokens_and_the_rows_they_come_from_are_those_of_the_linen_model():
    model, linen, variables = both("decoder")
    options = {"lengths": LENGTHS, "max_new_tokens": 4, "temperature": 0.7, "rng": jax.random.key(1)}
    tokens, rows = wing.generate_with_filters(model, TOKENS, **options)
    of_linen = jattn.generate_with_filters(linen, variables, TOKENS, **options)
    assert_array_equal(tokens, wing.generate(model, TOKENS, **options))
    assert_array_equal(tokens, of_linen[0])
    assert list(rows) == list(of_linen[1])
    for layer, row in rows.items():
        assert_allclose(row, of_linen[1][layer], atol=1e-6)


def test_a_layer_that_is_called_twice_has_a_filter_for_each_call():
    class Twice(nnx.Module):
        def __init__(self):
            self.layers = nnx.List([wing.MultiHeadAttention(1, 4, rngs=nnx.Rngs(0))])

        def __call__(self, x):
            return self.layers[0](self.layers[0](x))

    assert list(wing.capture_filters(Twice(), jnp.ones((3, 4)))[1]) == ["layers/0", "layers/0#1"]


@pytest.mark.exhaustive
def test_a_block_attends_to_context():
    options = {"num_heads": 2, "hidden": 12, "norm": "pre"}
    linen, x, context = jattn.Block(**options), jnp.ones((3, 8)), jnp.linspace(-1.0, 1.0, 32).reshape(4, 8)
    variables = drawn_like(linen, x, context)
    block = wing.from_linen(wing.Block(width=8, context_width=8, **options, rngs=nnx.Rngs(0)), variables)
    found, expected = jax.jit(lambda variables: (block(x, context), linen.apply(variables, x, context)))(variables)
    assert_allclose(found, expected, rtol=1e-6)


@pytest.mark.exhaustive
@pytest.mark.parametrize("name", ["decoder", "pooled", "gru"])
def test_dropout_is_on_between_train_and_eval(name):
    kind, options = sizes_of(name)
    model = getattr(wing, kind)(**options, dropout_rate=0.5, rngs=nnx.Rngs(0))
    call = functools.partial(model, *inputs_of(name))
    plain = call()
    model.train()
    assert bool(jnp.any(call() != call()))
    same = [call(rngs=nnx.Rngs(dropout=3)) for _ in range(2)]
    assert_array_equal(*same)
    model.eval()
    assert_array_equal(call(), plain)
    assert_array_equal(call(deterministic=True), plain)


@pytest.mark.exhaustive
@pytest.mark.parametrize(("name", "layer"), [("pooled", "pooling"), ("gru", "cross_attention")])
def test_models_of_one_source_are_edited_and_trained_as_the_linen_ones(name, layer):
    model, linen, variables = both(name)
    out = {layer: edits.knock_out([1])}
    edited = wing.apply_with_edits(model, *inputs_of(name), edits=out)
    assert_array_equal(edited, jattn.apply_with_edits(linen, variables, *inputs_of(name), edits=out))
    of_nnx = nnx.grad(lambda model: first_logit(model(*inputs_of(name)), None))(model)
    of_linen = jax.grad(lambda variables: first_logit(linen.apply(variables, *inputs_of(name)), None))(variables)
    jax.tree.map(functools.partial(assert_allclose, rtol=1e-4, atol=1e-6), nnx.to_pure_dict(of_nnx), of_linen["params"])


def without(variables, *path):
    """Returns variables without the entry at a path."""
    first, *rest = path
    return {
        name: without(value, *rest) if name == first else value
        for name, value in variables.items()
        if rest or name != first
    }


def model_and_variables(change):
    model, _, variables = both("decoder")
    return lambda: wing.from_linen(model, change(variables))


BIAS = ("params", "logits", "bias")
WRONG = {
    "missing": (
        model_and_variables(lambda v: without(v, *BIAS)),
        "variables: expected params/logits/bias of shape (9,)",
    ),
    "more": (
        model_and_variables(lambda v: {"params": v["params"] | {"more": {"bias": jnp.ones(3)}}}),
        "variables: expected only what the module has, got params/more/bias of shape (3,)",
    ),
    "shape": (
        model_and_variables(
            lambda v: {"params": v["params"] | {"logits": {"kernel": jnp.ones((8, 9)), "bias": jnp.ones(3)}}}
        ),
        "variables: expected params/logits/bias of shape (9,), got (3,)",
    ),
    "queries": (
        lambda: wing.Encoder(9, queries="keys", rngs=nnx.Rngs(0)),
        "queries: expected one of tokens, positions",
    ),
    "positions": (lambda: wing.Encoder(9, positions="up", rngs=nnx.Rngs(0)), "positions: expected one of sinusoidal"),
    "source": (
        lambda: wing.EncoderDecoder(9, rngs=nnx.Rngs(0))(jnp.ones((3, 4)), TOKENS[0]),
        "source: expected tokens, as pixels is None, got an array of dtype float32",
    ),
    "patches": (
        lambda: wing.EncoderDecoder(9, pixels=4, rngs=nnx.Rngs(0))(TOKENS[0], TOKENS[0]),
        "source: expected patches of 4 pixels, got an array of dtype int32",
    ),
    "cell": (
        lambda: wing.RecurrentEncoderDecoder(9, cell="rnn", rngs=nnx.Rngs(0)),
        "cell: expected one of gru, lstm, got 'rnn'",
    ),
    "heads": (
        lambda: wing.RecurrentEncoderDecoder(9, width=8, num_heads=0, rngs=nnx.Rngs(0)),
        "num_heads: expected a positive divisor of the 8 features, got 0",
    ),
    "norm": (lambda: wing.Encoder(9, norm="mid", rngs=nnx.Rngs(0)), "norm: expected 'post' or 'pre', got 'mid'"),
    "context": (
        lambda: wing.Block(1, 4, 4, rngs=nnx.Rngs(0))(jnp.ones((3, 4)), jnp.ones((3, 4))),
        "context: expected None for a block made without context_width, got an array",
    ),
    "no attention": (
        lambda: wing.capture_filters(nnx.Linear(2, 3, rngs=nnx.Rngs(0)), jnp.ones(2)),
        "capture_filters: Linear called no jattn.nnx.MultiHeadAttention",
    ),
    "edits": (
        lambda: wing.apply_with_edits(both("decoder")[0], TOKENS, edits={"block_7/attention": edits.knock_out([0])}),
        "edits: expected attention layers among block_0/attention, block_1/attention, got 'block_7/attention'",
    ),
    "linen": (lambda: wing.capture_filters(jattn.Encoder(9), TOKENS), "model: expected an NNX module, got Encoder"),
    "nnx": (
        lambda: jattn.knock_out(both("decoder")[0], {}, {"inputs": {}}, loss=first_logit),
        "module: expected a linen module and its variables, got the NNX module Decoder; the functions of jattn.nnx",
    ),
    "nnx filters": (
        lambda: jattn.capture_filters(both("decoder")[0], {}, TOKENS),
        "module: expected a linen module, got Decoder; jattn.nnx.capture_filters takes NNX modules",
    ),
    "nnx generate": (
        lambda: jattn.generate(both("decoder")[0], {}, TOKENS, max_new_tokens=1),
        "model: expected a module with apply and empty_cache, such as jattn.Decoder, got Decoder",
    ),
    "generate": (lambda: wing.generate(both("encoder")[0], TOKENS, max_new_tokens=1), "model: expected a module with"),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_is_wrong_is_said_in_one_line_and_changes_nothing(name):
    call, text = WRONG[name]
    before = wing.to_linen(both("decoder")[0])
    with pytest.raises((ValueError, TypeError)) as caught:
        call()
    assert str(caught.value).startswith(text)
    assert "\n" not in str(caught.value)
    jax.tree.map(assert_array_equal, wing.to_linen(both("decoder")[0]), before)


def test_a_flax_that_cannot_import_nnx_is_named_in_one_line(monkeypatch):
    real = builtins.__import__

    def failing(name, given=None, local=None, fromlist=(), level=0):
        if name == "flax" and fromlist and "nnx" in fromlist:
            raise AttributeError("module 'jax' has no attribute 'core'")
        return real(name, given, local, fromlist, level)

    monkeypatch.setattr(builtins, "__import__", failing)
    with pytest.raises(ImportError) as caught:
        runpy.run_path(str(Path(wing.__file__)))
    assert str(caught.value) == (
        f"jattn.nnx: expected a flax that can import flax.nnx, got flax {flax.__version__} on jax {jax.__version__} "
        "(AttributeError: module 'jax' has no attribute 'core'); upgrade flax"
    )
