"""`jattn.MultiHeadAttention` where `flax.linen.MultiHeadDotProductAttention` stood."""

import functools
import importlib
import subprocess
import sys

import flax
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from numpy.testing import assert_allclose, assert_array_equal

from jattn import MultiHeadAttention, MultiHeadDotProductAttention, biases, capture_filters, masks
from jattn.linen.as_flax import INSTEAD
from tests.sampled import sampled
from tests.variants import drawn_like

RNG = jax.random.key(0)
X, CONTEXT, VALUES = (
    jnp.asarray(np.random.default_rng(seed).standard_normal((2, length, 8)), jnp.float32)
    for seed, length in enumerate([5, 7, 7])
)
CAUSAL = nn.make_causal_mask(jnp.ones((2, 5)))
close = functools.partial(assert_allclose, rtol=1e-5, atol=1e-5)


def both(num_heads=2, **options):
    """The layer of jattn and that of flax."""
    return MultiHeadAttention(num_heads=num_heads, **options), nn.MultiHeadAttention(num_heads=num_heads, **options)


# Options, arguments of the call, mask.
CALLS = {
    "self-attention": ({}, (X,), None),
    "one sequence without batch": ({}, (X[0],), None),
    "two batch axes": ({}, (X[None],), CAUSAL[None]),
    "causal": ({}, (X,), CAUSAL.astype(bool)),
    "causal, floats": ({}, (X,), CAUSAL),
    "causal, ints": ({}, (X,), np.asarray(CAUSAL, np.int32)),
    "padding": ({}, (X,), nn.make_attention_mask(jnp.ones((2, 5)), jnp.arange(5) < jnp.array([[3], [5]]))),
    "mask by head": ({}, (X,), jnp.stack([jnp.tri(5), jnp.eye(5)])[None]),
    "cross-attention": ({}, (X, CONTEXT), None),
    "values of their own": ({}, (X, CONTEXT, VALUES), jnp.ones((2, 1, 5, 7), bool)),
    "features": ({"qkv_features": 12, "out_features": 3}, (X, CONTEXT), None),
    "no bias": ({"use_bias": False}, (X,), None),
    "norm of queries and keys": ({"normalize_qk": True}, (X, CONTEXT), None),
    "initialisers": (
        {
            "kernel_init": nn.initializers.xavier_uniform(),
            "bias_init": nn.initializers.normal(1.0),
            "out_kernel_init": nn.initializers.normal(0.3),
            "out_bias_init": nn.initializers.ones,
        },
        (X,),
        None,
    ),
    "precision": ({"precision": jax.lax.Precision.HIGHEST}, (X,), None),
    "bfloat16": ({"dtype": jnp.bfloat16}, (X,), None),
    "bfloat16 with a norm": ({"dtype": jnp.bfloat16, "normalize_qk": True}, (X,), CAUSAL),
    "bfloat16 parameters": ({"param_dtype": jnp.bfloat16, "normalize_qk": True}, (X,), None),
    "bfloat16 inputs": ({}, (X.astype(jnp.bfloat16),), None),
    "bfloat16 throughout": ({"param_dtype": jnp.bfloat16}, (X.astype(jnp.bfloat16),), None),
    "bfloat16 but for the queries": ({"param_dtype": jnp.bfloat16}, (X, CONTEXT.astype(jnp.bfloat16)), None),
    "integers": ({}, (jnp.arange(40).reshape(5, 8) % 3,), None),
}


def alike(mine, flaxs, tolerance):
    """Asserts that arrays agree but for rounding, dtypes included."""
    assert mine.dtype == flaxs.dtype
    mine, flaxs = (np.asarray(x, np.float32) for x in (mine, flaxs))
    assert_allclose(mine, flaxs, rtol=tolerance, atol=tolerance * max(1, np.max(np.abs(flaxs))))


@sampled("name", CALLS, keep=[*list(CALLS)[::12], "bfloat16 parameters"])
def test_parameters_and_outputs_are_those_of_flax(name):
    options, arguments, mask = CALLS[name]
    ours, theirs = both(**options)
    assert jax.eval_shape(ours.init, RNG, *arguments) == jax.eval_shape(theirs.init, RNG, *arguments)
    variables = drawn_like(theirs, *arguments)
    out, expected = (
        jax.jit(functools.partial(layer.apply, mask=mask))(variables, *arguments) for layer in (ours, theirs)
    )
    alike(out, expected, 2e-2 if "bfloat16" in name else 1e-5)


@pytest.mark.exhaustive
@sampled("name", ["causal, floats", "values of their own", "bfloat16 with a norm"], keep=1)
def test_gradients_are_those_of_flax(name):
    options, arguments, mask = CALLS[name]
    ours, theirs = both(**options)
    variables = drawn_like(theirs, *arguments)

    def gradients(layer):
        def loss(variables, *arguments):
            return jnp.sum(layer.apply(variables, *arguments, mask=mask).astype(jnp.float32) ** 2)

        return jax.jit(jax.grad(loss, argnums=range(1 + len(arguments))))(variables, *arguments)

    tolerance = 5e-2 if "bfloat16" in name else 2e-5
    jax.tree.map(functools.partial(alike, tolerance=tolerance), gradients(ours), gradients(theirs))


@sampled("name", ["values of their own", "initialisers", "bfloat16 parameters"], keep=1)
def test_parameters_have_the_first_values_of_flax(name):
    options, arguments, _ = CALLS[name]
    ours, theirs = both(**options)
    jax.tree.map(assert_array_equal, jax.jit(ours.init)(RNG, *arguments), jax.jit(theirs.init)(RNG, *arguments))


def test_the_first_fields_have_the_order_of_flax():
    ours, theirs = (list(kind.__dataclass_fields__) for kind in (MultiHeadAttention, nn.MultiHeadAttention))
    last = theirs.index("use_bias") + 1
    assert ours[:last] == theirs[:last]
    swapped = MultiHeadDotProductAttention.__dataclass_fields__
    assert swapped.keys() >= set(theirs)


class Stack(nn.Module):
    """Two layers that flax names by their class."""

    kind: type[nn.Module]

    @nn.compact
    def __call__(self, x, context):
        x = x + self.kind(num_heads=2)(x, mask=CAUSAL)
        return x + self.kind(num_heads=2, force_fp32_for_softmax=True)(x, inputs_k=context)


def test_swapping_one_import_keeps_names_and_weights():
    variables = drawn_like(Stack(nn.MultiHeadDotProductAttention), X, CONTEXT)
    assert list(variables["params"]) == ["MultiHeadDotProductAttention_0", "MultiHeadDotProductAttention_1"]
    expected = Stack(nn.MultiHeadDotProductAttention).apply(variables, X, CONTEXT)
    out, filters = capture_filters(Stack(MultiHeadDotProductAttention), variables, X, CONTEXT)
    close(out, expected)
    assert [filter.shape for filter in filters.values()] == [(2, 2, 5, 5), (2, 2, 5, 7)]


@pytest.mark.parametrize("name", INSTEAD)
def test_what_would_replace_attention_is_refused_by_name(name):
    with pytest.raises(ValueError, match=f"{name}: expected None, because .* say"):
        MultiHeadDotProductAttention(num_heads=2, **{name: nn.softmax})


def test_flax_names_of_what_is_computed_anyway_are_taken():
    layer = MultiHeadDotProductAttention(num_heads=2, attention_fn=nn.dot_product_attention)
    variables = drawn_like(layer, X, CONTEXT)
    assert_array_equal(layer.apply(variables, X, inputs_kv=CONTEXT), layer.apply(variables, X, CONTEXT))
    with pytest.raises(ValueError, match="inputs_kv: expected None where inputs_k or inputs_v is given"):
        layer.apply(variables, X, CONTEXT, inputs_kv=CONTEXT)


def test_partitioned_parameters_keep_their_names():
    ours, theirs = both(kernel_init=nn.with_partitioning(nn.initializers.lecun_normal(), ("in", "heads", None)))
    ours, theirs = (nn.get_partition_spec(jax.eval_shape(layer.init, RNG, X)) for layer in (ours, theirs))
    assert ours == theirs
    assert ours["params"]["query"]["kernel"] == jax.sharding.PartitionSpec("in", "heads", None)


@pytest.mark.exhaustive
def test_second_derivatives_are_those_of_flax():
    ours, theirs = both(normalize_qk=True)
    variables = drawn_like(theirs, X)

    def curvature(layer):
        def loss(x):
            return jnp.sum(layer.apply(variables, x, mask=CAUSAL) ** 2)

        return jax.jit(lambda x: jax.jvp(jax.grad(loss), (x,), (jnp.sin(x),))[1])(X)

    assert_allclose(curvature(ours), curvature(theirs), rtol=1e-4, atol=1e-3)


@pytest.mark.exhaustive
def test_float64_is_float64():
    with jax.enable_x64(True):
        x = jnp.asarray(np.asarray(X), jnp.float64)
        ours, theirs = both(param_dtype=jnp.float64)
        variables = drawn_like(theirs, x)
        out = ours.apply(variables, x, mask=CAUSAL)
        assert out.dtype == jnp.float64
        assert_allclose(out, theirs.apply(variables, x, mask=CAUSAL), rtol=1e-12, atol=1e-12)


def test_complex_inputs_are_refused():
    with pytest.raises(TypeError, match="query: expected a float dtype, got complex64"):
        jax.eval_shape(both()[0].init, RNG, X.astype(jnp.complex64))


# Masks of zeros and ones


def test_a_mask_of_zeros_and_ones_may_be_traced():
    layer, _ = both()
    variables = drawn_like(layer, X)
    expected = layer.apply(variables, X, mask=masks.causal())
    close(jax.jit(lambda mask: layer.apply(variables, X, mask=mask))(CAUSAL), expected)
    close(jax.jit(lambda: layer.apply(variables, X, mask=CAUSAL))(), expected)


def test_additive_masks_are_refused_or_make_the_output_nan():
    layer, _ = both()
    variables = drawn_like(layer, X)
    for additive in (jnp.where(CAUSAL > 0, 0.0, -1e9), jnp.where(CAUSAL > 0, 0.0, -jnp.inf), 0.5 * CAUSAL):
        with pytest.raises(TypeError, match=r"mask: expected booleans, or zeros and ones .* float32; give .* as bias"):
            layer.apply(variables, X, mask=additive)
        assert np.all(np.isnan(jax.jit(lambda mask: layer.apply(variables, X, mask=mask))(additive)))


def test_a_query_that_may_attend_to_nothing_gets_the_last_bias_where_flax_averages():
    ours, theirs = both()
    variables = drawn_like(theirs, X)
    nothing = jnp.zeros((2, 1, 5, 5))
    bias = variables["params"]["out"]["bias"]
    assert_array_equal(ours.apply(variables, X, mask=nothing), np.broadcast_to(bias, X.shape))
    assert np.all(theirs.apply(variables, X, mask=nothing) != bias)


# Dropout


@pytest.mark.exhaustive
def test_dropout_has_the_mean_and_the_spread_of_flax():
    options = {"num_heads": 2, "dropout_rate": 0.4, "deterministic": False}
    ours, theirs = MultiHeadAttention(**options), nn.MultiHeadAttention(**options, broadcast_dropout=False)
    variables = drawn_like(both()[0], X)
    rngs = jax.random.split(RNG, 2000)

    def draws(layer):
        return jax.jit(jax.vmap(lambda rng: layer.apply(variables, X, mask=CAUSAL, dropout_rng=rng)))(rngs)

    drawn, expected = draws(ours), draws(theirs)
    error = np.std(expected, axis=0) / np.sqrt(len(rngs))
    quiet = both()[0].apply(variables, X, mask=CAUSAL)
    assert np.all(np.abs(np.mean(drawn, axis=0) - quiet) < 5 * error)
    assert_allclose(np.std(drawn, axis=0), np.std(expected, axis=0), rtol=0.1)


def test_a_dropout_rng_of_the_call_comes_first():
    layer = MultiHeadAttention(num_heads=2, dropout_rate=0.5, deterministic=False)
    variables = drawn_like(both()[0], X)
    first, second = jax.random.split(RNG)
    out = layer.apply(variables, X, dropout_rng=first)
    assert_array_equal(out, layer.apply(variables, X, dropout_rng=first, rngs={"dropout": second}))
    assert np.any(out != layer.apply(variables, X, dropout_rng=second))
    assert np.any(out != layer.apply(variables, X, rngs={"dropout": first}))
    assert_array_equal(
        MultiHeadAttention(2, dropout_rate=0.5).apply(variables, X, dropout_rng=first, deterministic=True),
        both()[0].apply(variables, X),
    )


@pytest.mark.parametrize("kind", [MultiHeadDotProductAttention, nn.MultiHeadDotProductAttention])
def test_broadcast_dropout_drops_the_same_weights_in_all_heads_and_entries(kind):
    layer = kind(num_heads=2, dropout_rate=0.5, deterministic=False, bias_init=nn.initializers.ones)
    same = jnp.tile(X[:1, :1], (3, 5, 1))  # each weight is 1/5, or 2/5, or dropped
    variables = layer.init({"params": RNG, "dropout": RNG}, same)
    out = layer.apply(variables, same, rngs={"dropout": RNG})
    assert_array_equal(out[0], out[1])
    assert_array_equal(out[0], out[2])
    assert np.any(out[0, 0] != out[0, 1])


# Sown weights


class Thrice(nn.Module):
    """Sows the weights of its first and last attention."""

    kind: type[nn.Module]

    @nn.compact
    def __call__(self, x, **call):
        for place, sow_weights in enumerate([True, False, True]):
            x = self.kind(num_heads=2, name=f"layer_{place}")(x, sow_weights=sow_weights, **call)
        return x


def test_sown_weights_are_those_of_flax():
    ours, theirs = Thrice(MultiHeadAttention), Thrice(nn.MultiHeadAttention)
    variables = drawn_like(theirs, X)
    (out, sown), (expected_out, expected) = (
        layer.apply(variables, X, mask=CAUSAL, mutable=["intermediates"]) for layer in (ours, theirs)
    )
    assert list(sown["intermediates"]) == ["layer_0", "layer_2"]
    jax.tree.map(close, sown, expected)
    close(out, expected_out)
    assert_array_equal(ours.apply(variables, X, mask=CAUSAL), out)


def test_sown_weights_are_whole_float32_and_from_before_dropout():
    layer = MultiHeadAttention(2, dtype=jnp.bfloat16, dropout_rate=0.9, deterministic=False)
    variables = drawn_like(both()[0], X)
    rngs = {"dropout": RNG}
    _, sown = layer.apply(variables, X, sow_weights=True, mutable=["intermediates", "filters"], rngs=rngs)
    (weights,) = sown["intermediates"]["attention_weights"]
    assert weights.dtype == jnp.float32
    close(np.sum(weights, axis=-1), np.ones((2, 2, 5)))
    assert_array_equal(weights, sown["filters"]["filter"][0].without_dropout().weights())


def test_weights_are_computed_only_where_they_can_be_sown():
    layer, _ = both()
    variables = drawn_like(layer, X)
    plain, sowing = (
        jax.make_jaxpr(lambda x, sow=sow: layer.apply(variables, x, sow_weights=sow))(X) for sow in (False, True)
    )
    assert str(plain) == str(sowing)


# Decoding


def empty_cache(layer, *arguments):
    """The cache that init makes."""
    shapes = jax.eval_shape(layer.init, RNG, *arguments)["cache"]
    return jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)


def decoded(layer, params, x, steps, **call):
    """Feeds the tokens in portions; returns outputs, and the cache after each."""
    cache, outputs, caches = empty_cache(layer, x), [], []
    step = jax.jit(functools.partial(layer.apply, mutable=["cache"]))
    for tokens in np.split(np.asarray(x), np.cumsum(steps)[:-1], axis=-2):
        out, updates = step({"params": params, "cache": cache}, tokens, **call)
        cache = updates["cache"]
        outputs.append(out)
        caches.append(cache)
    return jnp.concatenate(outputs, axis=-2), caches


@sampled("options", [{}, {"normalize_qk": True, "dtype": jnp.bfloat16}], keep=1)
def test_decoding_goes_step_by_step_as_in_flax(options):
    ours, theirs = both(decode=True, **options)
    assert jax.eval_shape(ours.init, RNG, X) == jax.eval_shape(theirs.init, RNG, X)
    params = drawn_like(theirs, X)["params"]
    mask = jnp.array([1, 1, 0, 1, 1])[None, None, None]
    (out, caches), (expected, expected_caches) = (
        decoded(layer, params, X, [1] * 5, mask=mask) for layer in (ours, theirs)
    )
    tolerance = 2e-2 if options else 1e-5
    alike = functools.partial(assert_allclose, rtol=tolerance, atol=tolerance)
    alike(np.asarray(out, np.float32), np.asarray(expected, np.float32))
    for cache, expected_cache in zip(caches, expected_caches, strict=True):
        assert jax.tree.map(jnp.shape, cache) == jax.tree.map(jnp.shape, expected_cache)
        jax.tree.map(lambda x, y: alike(np.asarray(x, np.float32), np.asarray(y, np.float32)), cache, expected_cache)


def test_init_of_a_decoding_layer_attends_to_all_and_leaves_the_cache_empty():
    ours, theirs = both(decode=True)
    (out, variables), (expected, expected_variables) = (layer.init_with_output(RNG, X) for layer in (ours, theirs))
    close(out, expected)
    jax.tree.map(assert_array_equal, variables, expected_variables)
    assert not np.any(variables["cache"]["cached_key"])


# Options, call: whatever depends on positions, too.
DECODED = {
    "plain": ({}, {}),
    "grouped heads": ({"num_heads": 4, "num_kv_heads": 2}, {}),
    "rotary": ({"rotary": {"base": 30.0}}, {}),
    "blocks": ({"block_size": 1}, {}),
    "mask and bias of positions": (
        {},
        {
            "mask": masks.from_function(lambda query, key: (query - key) % 2 == 0) | masks.padding(jnp.array([1, 2])),
            "bias": biases.from_function(lambda head, query, key: -0.2 * (1 + head) * abs(query - key)),
        },
    ),
    "causal, as in training": ({}, {"mask": masks.causal()}),
}


@sampled("name", DECODED, keep=["causal, as in training"])
def test_decoding_gives_what_the_whole_sequence_gives(name):
    options, call = DECODED[name]
    layer = MultiHeadAttention(**({"num_heads": 2} | options))
    params = drawn_like(layer, X)["params"]
    mask = masks.causal() & call["mask"] if "mask" in call else masks.causal()
    expected = layer.apply({"params": params}, X, **(call | {"mask": mask}))
    out, caches = decoded(layer.clone(decode=True), params, X, [3, 1, 1], **call)
    close(out, expected)
    assert caches[-1]["cache_index"] == 5


def test_decoding_runs_in_a_scan_and_forgets_nothing_under_vmap():
    layer, _ = both(decode=True)
    params = drawn_like(both()[0], X)["params"]

    def one(x):
        def step(cache, token):
            out, updates = layer.apply({"params": params, "cache": cache}, token[None], mutable=["cache"])
            return updates["cache"], out[0]

        return jax.lax.scan(step, empty_cache(layer, x), x)[1]

    close(jax.jit(jax.vmap(one))(X), both()[0].apply({"params": params}, X, mask=masks.causal()))


@pytest.mark.exhaustive
def test_arrays_hold_the_rows_of_the_call():
    layer, _ = both()
    params = drawn_like(layer, X)["params"]
    variables = {"params": params, "cache": decoded(layer.clone(decode=True), params, X, [3, 2])[1][0]}
    mask, bias = jnp.array([[1, 0, 1, 1, 0], [0, 1, 0, 1, 1]]), jnp.sin(jnp.arange(10.0)).reshape(2, 5)
    whole = {
        "mask": masks.causal() & jnp.ones((5, 5), bool).at[3:].set(mask == 1),
        "bias": jnp.zeros((5, 5)).at[3:].set(bias),
    }
    expected = layer.apply({"params": params}, X, **whole)[:, 3:]
    for same in (mask, mask == 1, masks.causal() & (mask == 1)):
        for block_size in (None, 1):
            decoder = layer.clone(decode=True, block_size=block_size)
            close(decoder.apply(variables, X[:, 3:], mask=same, bias=bias, mutable=["cache"])[0], expected)


@pytest.mark.exhaustive
def test_the_filter_of_a_decoding_layer_holds_the_rows_of_the_call():
    layer, _ = both()
    params = drawn_like(layer, X)["params"]
    _, expected = capture_filters(layer, {"params": params}, X, mask=masks.causal())
    decoder = layer.clone(decode=True)
    variables = {"params": params, "cache": decoded(decoder, params, X, [3, 2])[1][0]}

    @jax.jit
    def step(variables):
        return decoder.apply(variables, X[:, 3:], sow_weights=True, mutable=["cache", "filters", "intermediates"])[1]

    sown = step(variables)
    close(sown["filters"]["filter"][0].weights(), expected["attention"].weights()[:, :, 3:])
    close(sown["intermediates"]["attention_weights"][0], expected["attention"].weights()[:, :, 3:])


@pytest.mark.exhaustive
@sampled("mask", [None, masks.from_function(lambda query, key: key != 1)], ids=type, keep=1)
def test_filters_of_decoding_layers_may_be_stacked_but_for_objects_of_positions(mask):
    layer, _ = both()
    params = drawn_like(layer, X)["params"]
    variables = {"params": params, "cache": decoded(layer.clone(decode=True), params, X, [3, 2])[1][0]}
    _, sown = layer.clone(decode=True).apply(variables, X[:, 3:], mask=mask, mutable=["cache", "filters"])
    filter = sown["filters"]["filter"][0]
    stacked = jax.tree.map(lambda x: jnp.stack([x, x]), filter)
    close(jax.tree.map(lambda x: x[1], stacked).weights(), filter.weights())
    if mask is None:
        close(stacked.weights()[1], filter.weights())
    else:
        with pytest.raises(ValueError, match="take one"):
            stacked.weights()


def test_slots_that_are_not_written_yet_have_no_influence():
    layer, _ = both(decode=True)
    params = drawn_like(both()[0], X)["params"]
    clean = empty_cache(layer, X)
    spoilt = clean | {name: jnp.full_like(clean[name], jnp.nan) for name in ("cached_key", "cached_value")}

    @jax.jit
    @jax.value_and_grad
    def loss(params, cache):
        out, _ = layer.apply({"params": params, "cache": cache}, X[:, :2], mutable=["cache"])
        return jnp.sum(out**2)

    (value, gradient), (expected, expected_gradient) = (loss(params, cache) for cache in (spoilt, clean))
    close(value, expected)
    jax.tree.map(close, gradient, expected_gradient)


def test_a_full_cache_is_refused_or_makes_the_output_nan():
    layer, _ = both(decode=True)
    params = drawn_like(both()[0], X)["params"]
    cache = decoded(layer, params, X, [3, 2])[1][0]

    def step(cache, tokens):
        return layer.apply({"params": params, "cache": cache}, tokens, mutable=["cache"])[0]

    with pytest.raises(ValueError, match="decode: expected at most 2 tokens, the room left in the cache, got 3"):
        step(cache, X[:, :3])
    with pytest.raises(ValueError, match="decode: expected at most 5 tokens, the room left in the cache, got 7"):
        jax.jit(step)(cache, CONTEXT)
    assert np.all(np.isnan(jax.jit(step)(cache, X[:, :3])))
    assert np.all(np.isfinite(jax.jit(step)(cache, X[:, :2])))


WRONG_STEPS = {"another batch": (X[:1, :1],), "fewer axes": (X[0, :1],), "more keys than queries": (X[:, :1], X[:, :2])}


@pytest.mark.parametrize("name", WRONG_STEPS)
def test_steps_that_do_not_fit_the_cache_are_refused(name):
    layer, _ = both(decode=True)
    variables = {"params": drawn_like(both()[0], X)["params"], "cache": empty_cache(layer, X)}
    with pytest.raises(ValueError, match=r"decode: expected as many queries, keys and values, .* cache \(2, 5, 2, 4\)"):
        layer.apply(variables, *WRONG_STEPS[name], mutable=["cache"])


# Elsewhere


def import_nnx():
    """Imports flax.nnx, or skips the test where this flax cannot with this jax."""
    try:
        return importlib.import_module("flax.nnx")
    except Exception as error:
        if tuple(map(int, flax.__version__.split(".")[:3])) > (0, 12, 9):
            raise
        pytest.skip(f"flax {flax.__version__} cannot import flax.nnx with jax {jax.__version__}: {error}")


@pytest.mark.exhaustive
def test_a_layer_lives_in_nnx():
    nnx = import_nnx()
    linen = MultiHeadAttention(num_heads=2)
    layer = nnx.bridge.ToNNX(linen, rngs=nnx.Rngs(0))
    nnx.bridge.lazy_init(layer, X)
    out = layer(X, mask=masks.causal(), mutable=["filters"])
    (filter,) = layer.filter.get_value()
    params = {
        name: {leaf: variable.get_value() for leaf, variable in getattr(layer, name).items()}
        for name in ("query", "key", "value", "out")
    }
    expected, filters = capture_filters(linen, {"params": params}, X, mask=masks.causal())
    close(out, expected)
    close(filter.weights(), filters["attention"].weights())
    gradient = nnx.grad(lambda layer: jnp.sum(layer(X, mask=masks.causal()) ** 2))(layer)
    expected = jax.grad(lambda params: jnp.sum(linen.apply({"params": params}, X, mask=masks.causal()) ** 2))(params)
    close(gradient["query"]["kernel"].get_value(), expected["query"]["kernel"])


@pytest.mark.exhaustive
def test_jattn_never_imports_nnx_by_its_own_doing():
    program = (
        "import sys, flax.linen; nnx = lambda: {name for name in sys.modules if name.startswith('flax.nnx')}; "
        "before = nnx(); import jattn, jattn.layers.step_cache, jattn.linen.multi_head; print(sorted(nnx() - before))"
    )
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"
