import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from numpy.testing import assert_allclose, assert_array_equal

import jattn
from jattn import MultiHeadAttention, capture_filters, masks
from jattn.filters.filter import AttentionFilter
from jattn.filters.names import in_order
from tests import reference
from tests.sampled import sampled
from tests.variants import drawn_like, rng

close = functools.partial(assert_allclose, rtol=1e-4, atol=1e-5)

X = jnp.asarray(rng(0).standard_normal((2, 5, 8)), jnp.float32)
SOURCE, TOKENS = (jnp.asarray(rng(seed).integers(0, 7, (2, length))) for seed, length in ((1, 6), (2, 5)))
LENGTHS = np.array([4, 6])
DROPOUT = jax.random.key(3)


# Models, restated in NumPy


def embed(tokens, table):
    """Looks tokens up and adds sinusoidal positions."""
    length, width = tokens.shape[-1], table.shape[-1]
    place, frequency = np.arange(length)[:, None], 10_000.0 ** (-np.arange(0, width, 2) / width)
    waves = np.stack([np.sin(place * frequency), np.cos(place * frequency)], axis=-1).reshape(length, width)
    return table[tokens] + waves


def normalise(x, parameters):
    """Layer norm."""
    x = (x - x.mean(axis=-1, keepdims=True)) / np.sqrt(x.var(axis=-1, keepdims=True) + 1e-6)
    return x * parameters["scale"] + parameters["bias"]


def project(x, parameters):
    """Projects to heads."""
    return np.einsum("...td,dnh->...tnh", x, parameters["kernel"]) + parameters["bias"]


def join(attended, parameters):
    """Joins the heads."""
    return np.einsum("...tnh,nhd->...td", attended, parameters["out"]["kernel"]) + parameters["out"]["bias"]


def block(x, parameters, name, found, mask=reference.everywhere, context=None, context_mask=reference.everywhere):
    """A block with norms first; notes the filters that it finds."""
    for part, source, allowed in (("attention", None, mask), ("cross_attention", context, context_mask)):
        if part in parameters:
            p, y = parameters[part], normalise(x, parameters[f"{part}_norm"])
            source = y if source is None else source
            weights = reference.attention_filter(project(y, p["query"]), project(source, p["key"]), mask=allowed)
            found[f"{name}/{part}"] = weights
            x = x + join(reference.average(weights, project(source, p["value"])), p)
    p, y = parameters["feed_forward"], normalise(x, parameters["feed_forward_norm"])
    hidden = np.maximum(y @ p["hidden"]["kernel"] + p["hidden"]["bias"], 0)
    return x + hidden @ p["out"]["kernel"] + p["out"]["bias"]


def causal(entry, head, query, key):
    """Lets a query see no later key."""
    return key <= query


def padded(entry, head, query, key):
    """Lets a query see the real keys."""
    return key < LENGTHS[entry]


def encoder(parameters):
    """Finds the filters of an encoder."""
    x, found = embed(SOURCE, parameters["embedding"]["embedding"]), {}
    for layer in range(2):
        x = block(x, parameters[f"block_{layer}"], f"block_{layer}", found, padded)
    return found


def decoder(parameters):
    """Finds the filters of a decoder."""
    x, found = embed(SOURCE, parameters["embedding"]["embedding"]), {}
    for layer in range(2):
        x = block(x, parameters[f"block_{layer}"], f"block_{layer}", found, lambda *at: causal(*at) and padded(*at))
    return found


def encoder_decoder(parameters):
    """Finds the filters of an encoder and of a decoder that attends to it."""
    x, found = embed(SOURCE, parameters["source_embedding"]["embedding"]), {}
    for layer in range(2):
        x = block(x, parameters[f"encoder_{layer}"], f"encoder_{layer}", found, padded)
    context, x = normalise(x, parameters["encoder_norm"]), embed(TOKENS, parameters["embedding"]["embedding"])
    for layer in range(2):
        name = f"decoder_{layer}"
        x = block(x, parameters[name], name, found, causal, context, padded)
    return found


SIZES = {"vocabulary": 7, "num_layers": 2, "num_heads": 2, "width": 8, "hidden": 6}
MODELS = {
    "encoder": (jattn.Encoder(**SIZES), (SOURCE, LENGTHS), encoder),
    "decoder": (jattn.Decoder(**SIZES), (SOURCE, LENGTHS), decoder),
    "encoder_decoder": (jattn.EncoderDecoder(**SIZES), (SOURCE, TOKENS, LENGTHS), encoder_decoder),
}


@sampled("name", MODELS, keep=1)
def test_captured_filters_are_those_that_the_parameters_make(name):
    model, inputs, restated = MODELS[name]
    variables = drawn_like(model, *inputs)

    @jax.jit
    def look(variables):
        output, filters = capture_filters(model, variables, *inputs)
        return output, model.apply(variables, *inputs), {name: filter.weights() for name, filter in filters.items()}

    output, plain, weights = look(variables)
    assert_array_equal(output, plain)
    expected = restated(jax.tree.map(lambda x: np.asarray(x, np.float64), variables["params"]))
    assert weights.keys() == expected.keys()
    for layer, found in weights.items():
        close(found, expected[layer], err_msg=layer)


# Dropout


def attended(weights, parameters, x):
    """What an attention layer puts out, given its weights."""
    parameters = jax.tree.map(lambda x: np.asarray(x, np.float64), parameters)
    return join(reference.average(weights, project(np.asarray(x, np.float64), parameters["value"])), parameters)


@pytest.mark.exhaustive
def test_a_captured_filter_drops_the_weights_that_the_call_dropped():
    layer = MultiHeadAttention(num_heads=4, num_kv_heads=2, dropout_rate=0.5, block_size=2)
    variables = drawn_like(layer, X, deterministic=True)

    @jax.jit
    def look(variables):
        call = {"mask": masks.causal(), "deterministic": False, "rngs": {"dropout": DROPOUT}}
        output, filters = capture_filters(layer, variables, X, **call)
        _, quiet = capture_filters(layer, variables, X, mask=masks.causal(), deterministic=True)
        filter, quiet = filters["attention"], quiet["attention"]
        return output, filter.weights(), filter[1, 3, 2:4], filter.without_dropout().weights(), quiet.weights()

    output, weights, some, without, quiet = look(variables)
    close(output, attended(weights, variables["params"], X))
    assert_array_equal(some, weights[1, 3, 2:4])
    close(without, quiet, rtol=1e-6)
    seen = np.broadcast_to(np.tri(5, dtype=bool), quiet.shape)
    assert 0.3 < np.mean(weights[seen] == 0) < 0.7
    close(weights[weights != 0], 2 * quiet[weights != 0])


# Flax's transformations


class Stack(nn.Module):
    """Three layers of one kind, scanned over, each of them perhaps under remat."""

    layer: Callable[..., nn.Module]
    remat: bool = False

    @nn.compact
    def __call__(self, x):
        def step(layer, x, _):
            return layer(x, mask=masks.causal() & masks.padding(LENGTHS - 2)), None

        scan = nn.scan(
            nn.remat(step) if self.remat else step,
            variable_axes={"params": 0, "filters": 0},
            split_rngs={"params": True, "dropout": True},
            length=3,
        )
        return scan(self.layer(name="layers"), x, None)[0]


def one_by_one(layer, stacked, x, **call):
    """Applies layers one after the other, each to what the one before it returned; yields their filters."""
    for index in range(3):
        parameters = jax.tree.map(lambda x, index=index: x[index], stacked)
        x, filters = capture_filters(layer, {"params": parameters}, x, **call)
        yield x, filters


@sampled("remat", [False, True], ids=["scan", "scan of remat"], keep=1)
def test_filters_of_scanned_blocks_are_those_of_the_blocks_one_by_one(remat):
    model = Stack(functools.partial(jattn.Block, num_heads=2, hidden=6), remat)
    variables = drawn_like(model, X)

    @jax.jit
    def look(variables):
        output, filters = capture_filters(model, variables, X)
        call = {"mask": masks.causal() & masks.padding(LENGTHS - 2)}
        alone = list(one_by_one(model.layer(), variables["params"]["layers"], X, **call))
        expected = jnp.stack([filters["attention"].weights() for _, filters in alone])
        filter = filters["layers/attention"]
        one = jax.tree.map(lambda x: x[1], filter)
        return output, filter.weights(), filter[2, 0, 1, 3], one.weights(), alone[-1][0], expected

    output, weights, row, one, expected_output, expected = look(variables)
    close(output, expected_output)
    close(weights, expected)
    close(row, expected[2, 0, 1, 3])
    close(one, expected[1])


@pytest.mark.exhaustive
@sampled("remat", [False, True], ids=["scan", "scan of remat"], keep=1)
def test_scanned_layers_with_dropout_show_what_each_of_them_dropped(remat):
    layer = functools.partial(MultiHeadAttention, num_heads=2, dropout_rate=0.4)
    model = Stack(functools.partial(layer, deterministic=False), remat)
    variables = jax.tree.map(lambda x: x / 2, drawn_like(Stack(functools.partial(layer, deterministic=True)), X))

    @jax.jit
    def look(variables):
        output, filters = capture_filters(model, variables, X, rngs={"dropout": DROPOUT})
        filter = filters["layers"]
        one = jax.tree.map(lambda x: x[2], filter)
        return output, filter.weights(), filter.without_dropout().weights(), one.weights()

    output, weights, quiet, one = look(variables)
    assert weights.shape == (3, 2, 2, 5, 5)
    x = np.asarray(X)
    for index in range(3):
        parameters = jax.tree.map(
            lambda x, index=index: np.asarray(x[index], np.float64), variables["params"]["layers"]
        )
        query, key = project(x, parameters["query"]), project(x, parameters["key"])
        expected = reference.attention_filter(query, key, mask=lambda e, head, i, j: j <= i and j < LENGTHS[e] - 2)
        close(quiet[index], expected)
        x = attended(weights[index], parameters, x)
    close(output, x)
    assert_array_equal(one, weights[2])
    seen = np.tri(5, dtype=bool) & (np.arange(5) < LENGTHS[:, None, None, None] - 2)
    dropped = [np.asarray(w == 0)[np.broadcast_to(seen, w.shape)] for w in weights]
    assert np.any(dropped[0] != dropped[1])
    assert np.any(dropped[1] != dropped[2])
    assert 0.2 < np.mean(dropped) < 0.6


def test_filters_pass_through_flax_vmap():
    """An ensemble: its members have parameters of their own, and the same input."""

    class Ensemble(nn.Module):
        @nn.compact
        def __call__(self, x):
            axes = {"params": 0, "filters": 0}
            members = nn.vmap(
                MultiHeadAttention, variable_axes=axes, split_rngs={"params": True}, axis_size=3, in_axes=None
            )
            return members(num_heads=2, name="members")(x)

    variables = drawn_like(Ensemble(), X)
    filters = jax.jit(lambda variables: capture_filters(Ensemble(), variables, X)[1])(variables)
    weights = filters["members"].weights()
    assert weights.shape == (3, 2, 2, 5, 5)
    for found, *parameters in zip(weights, *jax.tree.leaves(variables["params"]["members"]), strict=True):
        p = jax.tree.unflatten(jax.tree.structure(variables["params"]["members"]), map(np.asarray, parameters))
        close(found, reference.attention_filter(project(X, p["query"]), project(X, p["key"])))


# Decoding


def test_a_decoding_step_captures_the_last_row_against_the_slots():
    model, _, _ = MODELS["decoder"]
    tokens, seen = SOURCE, jnp.array([3, 5])
    variables = drawn_like(model, tokens)

    @jax.jit
    def step(variables):
        cache = model.empty_cache(batch=(2,), slots=8)
        _, cache = model.apply(variables, tokens[:, :5], lengths=seen, cache=cache)
        following = jnp.take_along_axis(tokens, seen[:, None], axis=1)
        (logits, after), filters = capture_filters(model, variables, following, cache=cache)
        return logits, after[0].length, {name: filter.weights() for name, filter in filters.items()}

    @jax.jit
    def whole(variables):
        logits, filters = capture_filters(model, variables, tokens)
        return logits, {name: filter.weights() for name, filter in filters.items()}

    logits, length, rows = step(variables)
    assert_array_equal(length, seen + 1)
    assert rows.keys() == {"block_0/attention", "block_1/attention"}
    expected_logits, expected = whole(variables)
    for entry, last in enumerate(seen):
        close(logits[entry, 0], expected_logits[entry, last])
        for name, row in rows.items():
            assert row.shape == (2, 2, 1, 8)
            close(row[entry, :, 0, : last + 1], expected[name][entry, :, last, : last + 1], err_msg=name)
            assert_array_equal(row[entry, :, 0, last + 1 :], 0)


@pytest.mark.exhaustive
def test_a_layer_that_keeps_its_own_cache_shows_its_rows_against_it():
    layer = MultiHeadAttention(num_heads=2, num_kv_heads=1, rotary=True)
    decoder = layer.clone(decode=True)
    variables = drawn_like(layer, X)
    cache = jax.tree.map(jnp.zeros_like, drawn_like(decoder, X)["cache"])

    @jax.jit
    def read(variables, cache, x):
        (output, changed), filters = capture_filters(decoder, {**variables, "cache": cache}, x, mutable=["cache"])
        return output, changed, filters["attention"].weights()

    @jax.jit
    def whole(variables):
        output, filters = capture_filters(layer, variables, X, mask=masks.causal())
        return output, filters["attention"].weights()

    output, expected = whole(variables)
    for first in (0, 2):
        rows = slice(first, first + 2)
        part, changed, weights = read(variables, cache, X[:, rows])
        assert list(changed) == ["cache"]
        cache = changed["cache"]
        assert cache["cache_index"] == first + 2
        close(part, output[:, rows])
        close(weights, expected[:, :, rows])


@pytest.mark.exhaustive
def test_what_else_may_change_comes_back_as_from_apply():
    class Counted(nn.Module):
        @nn.compact
        def __call__(self, x):
            self.variable("counts", "calls", lambda: jnp.int32(0)).value += 1
            self.sow("seen", "x", x[0])
            return MultiHeadAttention(num_heads=2, name="look")(x)

    variables = jax.jit(Counted().init)(DROPOUT, X) | {"counts": {"calls": jnp.int32(6)}}
    variables.pop("seen", None)
    for mutable in (["counts"], "counts", ["counts", "seen", "filters"], True):
        (output, changed), filters = capture_filters(Counted(), variables, X, mutable=mutable)
        expected_output, expected = Counted().apply(variables, X, mutable=mutable)
        assert_array_equal(output, expected_output)
        expected.pop("filters", None)
        assert changed.keys() == expected.keys()
        assert changed["counts"] == {"calls": 7}
        assert list(filters) == ["look"]


def test_filters_that_an_earlier_call_left_among_the_variables_are_not_taken_for_new_ones():
    layer = MultiHeadAttention(num_heads=2)
    variables = drawn_like(layer, X)
    _, left = layer.apply(variables, X, mutable=["filters"])
    _, filters = capture_filters(layer, variables | left, X, mask=masks.causal())
    assert list(filters) == ["attention"]
    assert_array_equal(filters["attention"].weights()[..., 0, 1:], 0)


# Names


@pytest.mark.exhaustive
def test_later_calls_of_a_layer_and_layers_by_number():
    class Model(nn.Module):
        @nn.compact
        def __call__(self, x):
            shared = MultiHeadAttention(num_heads=1, name="shared")
            for mask in (None, masks.causal(), masks.prefix(2)):
                x = shared(x, mask=mask)
            for number in (10, 9, 2):
                x = MultiHeadAttention(num_heads=1, name=f"block_{number}")(x)
            return x

    variables = drawn_like(Model(), X)
    _, filters = capture_filters(Model(), variables, X)
    assert list(filters) == ["block_2", "block_9", "block_10", "shared", "shared#1", "shared#2"]
    allowed = {"shared": np.ones((5, 5)), "shared#1": np.tri(5), "shared#2": np.arange(5) < np.full((5, 1), 2)}
    for name, seen in allowed.items():
        assert_array_equal(filters[name].weights() > 0, np.broadcast_to(seen > 0, (2, 1, 5, 5)))
    through_jit = jax.jit(lambda variables: capture_filters(Model(), variables, X)[1])(variables)
    assert list(through_jit) != list(filters)
    assert list(in_order(through_jit)) == list(filters)


# Memory


def test_what_is_captured_takes_memory_linear_in_length():
    model, length = MODELS["encoder_decoder"][0].clone(dropout_rate=0.1), 4096
    tokens = jax.ShapeDtypeStruct((2, length), jnp.int32)
    lengths = jax.ShapeDtypeStruct((2,), jnp.int32)

    def look(variables, *inputs):
        return capture_filters(model, variables, *inputs, deterministic=False, rngs={"dropout": DROPOUT})[1]

    variables = jax.eval_shape(model.init, DROPOUT, tokens, tokens, lengths)
    filters = jax.eval_shape(look, variables, tokens, tokens, lengths)
    assert len(filters) == 6
    for filter in filters.values():
        assert isinstance(filter, AttentionFilter)
        assert filter.shape == (2, 2, length, length)
        most = 2 * (2 * length * 8) + 2 + 1  # queries and keys, lengths, the rng of dropout
        assert 2 * (2 * length * 8) < sum(leaf.size for leaf in jax.tree.leaves(filter)) <= most


def test_a_module_without_attention_is_told():
    dense = nn.Dense(3)
    variables = dense.init(jax.random.key(0), jnp.ones((2, 4)))
    with pytest.raises(ValueError, match=r"Dense has no attention of jattn's, .* variable_axes=\{'filters': 0\}"):
        capture_filters(dense, variables, jnp.ones((2, 4)))
    assert capture_filters(dense, variables, jnp.ones((2, 4)), allow_none=True)[1] == {}
