import functools

import flax
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from numpy.testing import assert_allclose, assert_array_equal

import jattn
from jattn import (
    MultiHeadAttention,
    PatchEmbedding,
    RelativePositions,
    attend,
    attention_filter,
    biases,
    capture_filters,
    masks,
    normalizers,
    positions,
    scores,
)
from jattn.layers import heads
from jattn.layers.projections import ONE_HOT_VOCABULARY
from jattn.linen.multi_head import Projection
from jattn.rules.grids import whole_grid
from tests import reference
from tests.sampled import sampled
from tests.variants import drawn_like

RNG = jax.random.key(0)
X, CONTEXT, VALUES = (
    jnp.asarray(np.random.default_rng(seed).standard_normal((2, length, 8)), jnp.float32)
    for seed, length in enumerate([5, 7, 7])
)
close = functools.partial(assert_allclose, rtol=1e-5, atol=1e-5)


def made(module, *arguments):
    """Initialises a module under jit."""
    return jax.jit(module.init)(RNG, *arguments)


BOXED = {
    "kernel_init": nn.with_partitioning(nn.initializers.lecun_normal(), ("in", "out", None)),
    "bias_init": nn.with_partitioning(nn.initializers.normal(), ("out",)),
}


@sampled("options", [{}, {"use_bias": False}, {"dtype": jnp.bfloat16}, BOXED], keep=[BOXED])
def test_a_projection_is_that_of_flax(options):
    for x, features, ours, theirs in [(X, (2, 3), {}, {}), (X, (4,), {"in_axes": 2}, {"axis": (-2, -1)})]:
        projection, dense = Projection(features, **ours, **options), nn.DenseGeneral(features, **theirs, **options)
        variables = made(dense, x)
        jax.tree.map(assert_array_equal, made(projection, x), variables)
        out, expected = projection.apply(variables, x), dense.apply(variables, x)
        assert out.dtype == expected.dtype
        assert_allclose(out.astype(jnp.float32), expected.astype(jnp.float32), rtol=1e-5, atol=1e-5)


def test_patches_are_multiplied_with_a_matrix():
    layer = PatchEmbedding(width=3)
    variables = drawn_like(layer, X)
    parameters = variables["params"]["linear"]
    close(layer.apply(variables, X), np.einsum("bsp,pd->bsd", X, parameters["kernel"]) + parameters["bias"])


@sampled("bidirectional", [True, False], keep=1)
def test_relative_positions_are_a_learned_table_of_distances(bidirectional):
    layer = RelativePositions(num_heads=2, bidirectional=bidirectional, num_buckets=6, max_distance=9)
    variables = jax.jit(lambda rng: layer.init(rng))(RNG)
    table = variables["params"]["embedding"]
    assert table.shape == (6, 2)
    found = layer.apply(variables, jnp.array([0, 4])).fit((2, 2, 3, 5)).evaluate(whole_grid((2, 2, 3, 5)))
    distance = np.arange(5) - np.arange(3)[:, None] - np.array([0, 4])[:, None, None]
    buckets = biases.relative_buckets(distance, 6, 9, bidirectional)
    assert_array_equal(found, jnp.moveaxis(table[buckets], -1, 1))


# What attention passes on


def projected(parameters, x):
    """The query, key and value of self-attention."""
    return (
        jnp.einsum("btd,dnh->btnh", x, parameters[name]["kernel"]) + parameters[name]["bias"]
        for name in ("query", "key", "value")
    )


def test_arguments_of_attention_reach_attend():
    rules = {
        "score": scores.cosine(0.5),
        "normalizer": lambda scores, allowed: jnp.where(allowed, jax.nn.sigmoid(scores), 0),
        "edit": lambda weights, grid: jnp.where(grid.key == 1, 0, weights),
    }
    call = {"mask": masks.causal(), "bias": biases.from_function(lambda query, key: -0.3 * abs(query - key))}
    layer = MultiHeadAttention(num_heads=2, implementation="blocked", block_size=2, **rules)
    variables = drawn_like(layer, X)
    parameters = variables["params"]
    attended = attend(*projected(parameters, X), **rules, **call)
    expected = jnp.einsum("btnh,nhd->btd", attended, parameters["out"]["kernel"]) + parameters["out"]["bias"]
    close(layer.apply(variables, X, **call), expected)
    _, filters = capture_filters(layer, variables, X, **call)
    assert filters["attention"].block_size == 2
    query, key, _ = projected(parameters, X)
    close(filters["attention"].weights(), attention_filter(query, key, **rules, **call).weights())


LEARNED = {
    "bilinear": ("bilinear()", {"bilinear_matrix": (2, 4, 4)}),
    "additive, capped, sink": (
        "soft_cap(additive(units=3), 2.0)",
        {"additive_query_kernel": (2, 4, 3), "additive_key_kernel": (2, 4, 3), "additive_vector": (2, 3), "sink": (2,)},
    ),
}


@pytest.mark.parametrize("name", LEARNED)
def test_arrays_that_a_score_or_normalizer_leaves_out_are_learned_by_the_layer(name):
    code, shapes = LEARNED[name]
    score = scores.bilinear() if name == "bilinear" else scores.soft_cap(scores.additive(units=3), 2.0)
    assert repr(score) == code
    normalizer = normalizers.learned_sink() if "sink" in shapes else normalizers.softmax()
    layer = MultiHeadAttention(num_heads=2, score=score, normalizer=normalizer)
    own = {path: value.shape for path, value in made(layer, X)["params"].items() if not isinstance(value, dict)}
    assert own == shapes
    variables = drawn_like(layer, X)
    arrays = {path.removeprefix("additive_"): variables["params"][path] for path in shapes}
    sink = arrays.pop("sink", None)
    if sink is None:
        given = {"score": scores.bilinear(*arrays.values())}
    else:
        given = {"score": scores.soft_cap(scores.additive(**arrays), 2.0)}
        given["normalizer"] = normalizers.softmax_plus_one(sink[:, None, None])
    assert_array_equal(layer.apply(variables, X), MultiHeadAttention(num_heads=2, **given).apply(variables, X))
    slopes = jax.grad(lambda variables: jnp.sum(layer.apply(variables, X) ** 2))(variables)["params"]
    assert all(jnp.any(slopes[path] != 0) for path in shapes)


def test_a_bilinear_score_begins_as_the_scaled_dot_product():
    variables = made(MultiHeadAttention(num_heads=2, score=scores.bilinear()), X)
    params = {name: array for name, array in variables["params"].items() if name != "bilinear_matrix"}
    out = MultiHeadAttention(num_heads=2, score=scores.bilinear()).apply(variables, X)
    close(out, MultiHeadAttention(num_heads=2).apply({"params": params}, X))


@pytest.mark.parametrize(
    ("rules", "message"),
    [
        ({"score": scores.bilinear()}, "bilinear: matrix: expected an array"),
        ({"score": scores.soft_cap(scores.additive(), 2.0)}, "additive: query_kernel: expected an array"),
        ({"normalizer": normalizers.learned_sink()}, "learned_sink: sink: expected an array"),
    ],
)
def test_what_a_layer_learns_is_refused_where_there_is_no_layer(rules, message):
    with pytest.raises(ValueError, match=rf"{message}, or a MultiHeadAttention that learns one, got none"):
        attend(X[:, :, None], X[:, :, None], X[:, :, None], **rules)


@pytest.mark.exhaustive
@sampled("num_kv_heads", [1, 2], keep=1)
def test_key_value_heads_serve_groups_of_query_heads(num_kv_heads):
    layer = MultiHeadAttention(num_heads=4, num_kv_heads=num_kv_heads, qkv_features=12, normalize_qk=True)
    variables = drawn_like(layer, X)
    assert variables["params"]["value"]["kernel"].shape == (8, num_kv_heads, 3)
    repeated = {
        name: jax.tree.map(lambda x: jnp.repeat(x, 4 // num_kv_heads, axis=-2), variables["params"][name])
        for name in ("key", "value")
    }
    expected = MultiHeadAttention(num_heads=4, qkv_features=12, normalize_qk=True).apply(
        {"params": variables["params"] | repeated}, X, mask=masks.causal()
    )
    close(layer.apply(variables, X, mask=masks.causal()), expected)


@sampled("options", [{}, {"base": 100.0, "layout": "half"}, {"dims": 2}], keep=1)
def test_rotary_attention_rotates_queries_and_keys(options):
    layer = MultiHeadAttention(num_heads=2, rotary=options or True)
    variables = drawn_like(layer, X)
    _, filters = capture_filters(layer, variables, X)
    query, key, _ = projected(variables["params"], X)
    close(filters["attention"].query, positions.rotary(query, jnp.arange(5), **options))
    close(filters["attention"].key, positions.rotary(key, jnp.arange(5), **options))


# Dropout


def test_attention_drops_weights_only_where_it_is_not_deterministic():
    layer = MultiHeadAttention(num_heads=2, dropout_rate=0.5)
    variables = drawn_like(layer, X, deterministic=True)
    expected = MultiHeadAttention(num_heads=2).apply(variables, X)
    assert_array_equal(layer.apply(variables, X, deterministic=True), expected)
    first, second, again = (
        layer.apply(variables, X, deterministic=False, rngs={"dropout": jax.random.key(seed)}) for seed in (1, 2, 1)
    )
    assert_array_equal(first, again)
    assert np.any(first != second)
    assert np.any(first != expected)


def test_dropout_needs_its_rng():
    layer = MultiHeadAttention(num_heads=2, dropout_rate=0.5, deterministic=False)
    with pytest.raises(flax.errors.InvalidRngError, match="dropout"):
        layer.apply(drawn_like(MultiHeadAttention(num_heads=2), X), X)


def test_the_captured_filter_holds_the_weights_after_dropout_and_before():
    layer = MultiHeadAttention(num_heads=2, dropout_rate=0.5)
    variables = drawn_like(layer, X, deterministic=True)
    _, quiet = capture_filters(layer, variables, X, deterministic=True)
    _, noisy = capture_filters(layer, variables, X, deterministic=False, rngs={"dropout": RNG})
    assert_array_equal(noisy["attention"].without_dropout().weights(), quiet["attention"].weights())
    dropped = np.asarray(noisy["attention"].weights())
    assert 0.2 < np.mean(dropped == 0) < 0.8
    assert_allclose(dropped[dropped != 0], 2 * np.asarray(quiet["attention"].weights())[dropped != 0], rtol=1e-6)


# Capturing


class Twice(nn.Module):
    """Calls one attention twice, and another one in a module of its own."""

    @nn.compact
    def __call__(self, x):
        shared = MultiHeadAttention(num_heads=2, name="shared")
        x = shared(shared(x), mask=masks.causal())
        return jattn.Block(num_heads=1, hidden=4, name="block")(x)


def test_filters_are_named_by_path_and_call():
    variables = drawn_like(Twice(), X)
    output, filters = capture_filters(Twice(), variables, X)
    assert_array_equal(output, Twice().apply(variables, X))
    assert sorted(filters) == ["block/attention", "shared", "shared#1"]
    assert filters["block/attention"].shape == (2, 1, 5, 5)
    assert np.all(filters["shared"].weights() > 0)
    assert_array_equal(filters["shared#1"].weights() > 0, np.broadcast_to(np.tri(5, dtype=bool), (2, 2, 5, 5)))


def test_a_captured_filter_reproduces_the_output():
    layer = MultiHeadAttention(num_heads=2)
    variables = drawn_like(layer, X, CONTEXT)
    output, filters = capture_filters(layer, variables, X, CONTEXT, mask=masks.padding(jnp.array([3, 7])))
    parameters = jax.tree.map(np.asarray, variables["params"])
    value = np.einsum("bsd,dnh->bsnh", CONTEXT, parameters["value"]["kernel"]) + parameters["value"]["bias"]
    attended = reference.average(filters["attention"].weights(), value)
    close(output, np.einsum("btnh,nhd->btd", attended, parameters["out"]["kernel"]) + parameters["out"]["bias"])


def test_filters_are_sown_only_where_their_collection_is_mutable():
    layer = MultiHeadAttention(num_heads=2)
    variables = drawn_like(layer, X)
    assert list(variables) == ["params"]
    _, others = layer.apply(variables, X, mutable=["intermediates"])
    assert not others
    _, sown = layer.apply(variables, X, mutable=["filters"])
    assert list(sown) == ["filters"]


def test_capturing_computes_nothing(monkeypatch):
    layer = MultiHeadAttention(num_heads=2)
    variables = drawn_like(layer, X)
    plain = jax.make_jaxpr(lambda variables: layer.apply(variables, X))(variables)
    captured = jax.make_jaxpr(lambda variables: capture_filters(layer, variables, X)[0])(variables)
    assert str(captured) == str(plain)
    monkeypatch.setattr(heads, "attention_filter", None)
    layer.apply(variables, X)


def test_filters_may_be_captured_under_jit_and_differentiated():
    layer = MultiHeadAttention(num_heads=2)
    variables = drawn_like(layer, X)

    @jax.jit
    @jax.grad
    def gradient(variables):
        return jnp.sum(capture_filters(layer, variables, X)[1]["attention"].entropy())

    gradients = gradient(variables)["params"]
    assert np.any(gradients["query"]["kernel"] != 0)
    assert not np.any(gradients["out"]["kernel"])


@pytest.mark.exhaustive
@sampled("mask", [masks.padding(jnp.array(3)), jnp.tri(5, dtype=bool)], ids=type, keep=1)
def test_filters_of_scanned_layers_are_stacked(mask):
    class Layers(nn.Module):
        @nn.compact
        def __call__(self, x):
            def step(layer, x, _):
                return layer(x, mask=mask), None

            axes = {"params": 0, "filters": 0}
            scan = nn.scan(step, variable_axes=axes, split_rngs={"params": True}, length=3)
            return scan(MultiHeadAttention(num_heads=4, name="layers"), x, None)[0]

    variables = drawn_like(Layers(), X)
    _, filters = capture_filters(Layers(), variables, X)
    assert filters["layers"].shape == (3, 2, 4, 5, 5)
    first = {"params": jax.tree.map(lambda x: x[0], variables["params"]["layers"])}
    _, expected = capture_filters(MultiHeadAttention(num_heads=4), first, X, mask=mask)
    close(filters["layers"].weights()[0], expected["attention"].weights())


# Tokens and positions


@sampled("vocabulary", [1, ONE_HOT_VOCABULARY, ONE_HOT_VOCABULARY + 1], keep=3)
@pytest.mark.parametrize("dtype", [None, jnp.bfloat16])
def test_an_embedding_is_a_table_look_up(vocabulary, dtype):
    embedding = jattn.TokenEmbedding(vocabulary, 8, dtype)
    tokens = jnp.array([[0, vocabulary - 1, vocabulary // 2], [vocabulary // 3, 0, 0]])
    variables = drawn_like(embedding, tokens)
    table = variables["params"]["embedding"]
    assert table.shape == (vocabulary, 8)
    assert table.dtype == jnp.float32
    out = embedding.apply(variables, tokens)
    assert_array_equal(out, table.astype(dtype or jnp.float32)[tokens])
    assert out.dtype == (dtype or jnp.float32)


@pytest.mark.exhaustive
def test_gradients_of_an_embedding_count_the_tokens():
    tokens = jnp.array([[0, 3, 3]])
    for vocabulary in (ONE_HOT_VOCABULARY, ONE_HOT_VOCABULARY + 1):
        embedding = jattn.TokenEmbedding(vocabulary, 2)
        variables = drawn_like(embedding, tokens)
        gradient = jax.grad(lambda v, e=embedding: jnp.sum(e.apply(v, tokens)))(variables)["params"]["embedding"]
        assert_array_equal(gradient[:, 0], np.bincount([0, 3, 3], minlength=vocabulary))


def test_learned_positions_are_rows_of_a_table():
    layer = jattn.LearnedPositions(max_length=6, width=4)
    variables = jax.jit(layer.init, static_argnums=1)(RNG, 6)
    assert_array_equal(layer.apply(variables, 3), variables["params"]["embedding"][:3])


def test_learned_positions_end():
    with pytest.raises(ValueError, match="expected a length of at most max_length 6, got 7"):
        jattn.LearnedPositions(max_length=6, width=4).init(RNG, 7)


# Blocks, restated in NumPy


def normalise(x, parameters):
    """Layer norm."""
    x = (x - x.mean(axis=-1, keepdims=True)) / np.sqrt(x.var(axis=-1, keepdims=True) + 1e-6)
    return x * parameters["scale"] + parameters["bias"]


def look(x, context, parameters, **rules):
    """Multi-head attention."""
    query, key, value = (
        np.einsum("btd,dnh->btnh", y, parameters[name]["kernel"]) + parameters[name]["bias"]
        for y, name in ((x, "query"), (context, "key"), (context, "value"))
    )
    attended = reference.attend(query, key, value, **rules)
    return np.einsum("btnh,nhd->btd", attended, parameters["out"]["kernel"]) + parameters["out"]["bias"]


def think(x, parameters):
    """The feed-forward layer."""
    hidden = np.maximum(x @ parameters["hidden"]["kernel"] + parameters["hidden"]["bias"], 0)
    return hidden @ parameters["out"]["kernel"] + parameters["out"]["bias"]


def test_a_post_norm_block_adds_then_norms():
    block = jattn.Block(num_heads=2, hidden=6, norm="post")
    variables = drawn_like(block, X, CONTEXT)
    p, x = jax.tree.map(np.asarray, variables["params"]), np.asarray(X)
    x = normalise(x + look(x, x, p["attention"], mask=lambda entry, head, i, j: j <= i), p["attention_norm"])
    x = normalise(x + look(x, CONTEXT, p["cross_attention"]), p["cross_attention_norm"])
    x = normalise(x + think(x, p["feed_forward"]), p["feed_forward_norm"])
    assert_allclose(block.apply(variables, X, CONTEXT, mask=masks.causal()), x, rtol=1e-4, atol=1e-4)


def test_a_pre_norm_block_norms_then_adds():
    block = jattn.Block(num_heads=2, hidden=6)
    variables = drawn_like(block, X, CONTEXT)
    p, x = jax.tree.map(np.asarray, variables["params"]), np.asarray(X)
    y = normalise(x, p["attention_norm"])
    x = x + look(y, y, p["attention"])
    y = normalise(x, p["cross_attention_norm"])
    x = x + look(y, CONTEXT, p["cross_attention"], mask=lambda entry, head, i, j: j < 4)
    x = x + think(normalise(x, p["feed_forward_norm"]), p["feed_forward"])
    out = block.apply(variables, X, CONTEXT, context_mask=masks.padding(jnp.array(4)))
    assert_allclose(out, x, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("norm", ["pre", "post"])
def test_a_block_may_attend_to_tokens_instead_of_itself(norm):
    block = jattn.Block(num_heads=2, hidden=6, norm=norm)
    variables = drawn_like(block, X, tokens=VALUES[:, :5])
    p, x, tokens = jax.tree.map(np.asarray, variables["params"]), np.asarray(X), np.asarray(VALUES[:, :5])
    if norm == "pre":
        x = x + look(normalise(x, p["attention_norm"]), normalise(tokens, p["tokens_norm"]), p["attention"])
        x = x + think(normalise(x, p["feed_forward_norm"]), p["feed_forward"])
    else:
        x = normalise(x + look(x, tokens, p["attention"]), p["attention_norm"])
        x = normalise(x + think(x, p["feed_forward"]), p["feed_forward_norm"])
    assert_allclose(block.apply(variables, X, tokens=VALUES[:, :5]), x, rtol=1e-4, atol=1e-4)


def test_only_self_attention_is_rotary():
    block = jattn.Block(num_heads=2, hidden=6, rotary=True)
    variables = drawn_like(block, X, CONTEXT)
    _, filters = capture_filters(block, variables, X, CONTEXT)
    _, plain = capture_filters(jattn.Block(num_heads=2, hidden=6), variables, X, CONTEXT)
    assert np.any(filters["attention"].key != plain["attention"].key)
    assert_array_equal(filters["cross_attention"].key, plain["cross_attention"].key)


# Bad input

WRONG = {
    "heads that do not divide": (
        MultiHeadAttention(num_heads=3),
        (X,),
        "num_heads: expected a positive divisor of the 8 features, got 3",
    ),
    "no heads": (MultiHeadAttention(num_heads=0), (X,), "num_heads: expected a positive divisor .* got 0"),
    "values without keys": (MultiHeadAttention(num_heads=2), (X, None, X), "inputs_k: expected an array .* got None"),
    "batches that differ": (
        MultiHeadAttention(num_heads=2),
        (X, jnp.concatenate([X, X[:1]])),
        r"batch shape .* \(2,\), .* got \(3,\)",
    ),
    "fewer values than keys": (MultiHeadAttention(num_heads=2), (X, X, X[:, :4]), r"value: expected shape \[2, 5, 2"),
    "norm": (jattn.Block(num_heads=2, hidden=4, norm="none"), (X,), "norm: expected 'post' or 'pre', got 'none'"),
    "key/value heads that do not divide": (
        MultiHeadAttention(num_heads=4, num_kv_heads=3),
        (X,),
        "num_kv_heads: expected a positive divisor of the 4 heads, got 3",
    ),
    "no key/value heads": (MultiHeadAttention(num_heads=2, num_kv_heads=0), (X,), "num_kv_heads: expected .* got 0"),
    "dropout_rate below 0": (
        MultiHeadAttention(num_heads=2, dropout_rate=-0.1, deterministic=False),
        (X,),
        "dropout_rate: expected .* got -0.1",
    ),
    "rotary, odd head dim": (MultiHeadAttention(num_heads=8, rotary=True), (X,), "rotary: .* 1"),
}


@pytest.mark.parametrize("name", WRONG)
def test_layers_say_what_is_wrong(name):
    module, arguments, text = WRONG[name]
    with pytest.raises(ValueError, match=text):
        jax.eval_shape(module.init, {"params": RNG, "dropout": RNG}, *arguments)


@pytest.mark.parametrize("rotary", ["half", {"bases": 3.0}])
def test_rotary_options_that_do_not_exist_are_refused(rotary):
    with pytest.raises(
        TypeError, match=r"rotary: expected a bool or a mapping of options \(base, .* got .*(half|bases)"
    ):
        jax.eval_shape(MultiHeadAttention(num_heads=2, rotary=rotary).init, RNG, X)
