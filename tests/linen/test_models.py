import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from jattn import (
    Decoder,
    Encoder,
    EncoderDecoder,
    PooledEncoder,
    RecurrentEncoderDecoder,
    apply_with_edits,
    biases,
    capture_filters,
    edits,
    scores,
)
from tests.sampled import sampled
from tests.variants import drawn_like

SIZES = {"vocabulary": 7, "num_heads": 2, "width": 8, "hidden": 12}
TOKENS = jnp.array([[1, 0, 4, 2, 6, 3], [5, 5, 1, 3, 2, 0]])
SOURCE = jnp.array([[3, 1, 6, 0], [2, 2, 5, 4]])
KINDS = [Encoder, Decoder, EncoderDecoder, PooledEncoder]
READERS = (EncoderDecoder, PooledEncoder)
close = functools.partial(assert_allclose, rtol=1e-4, atol=1e-5)


def inputs(kind):
    """The tokens that a model of this kind reads."""
    return (SOURCE, TOKENS) if kind in READERS else (TOKENS,)


@functools.cache
def made(kind, **options):
    """Makes a small model of random parameters, and returns its variables and its application under jit."""
    model = kind(**SIZES | options)
    variables = drawn_like(model, *inputs(kind))
    return variables, jax.jit(functools.partial(model.apply, variables))


@sampled("kind", KINDS, keep=1)
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_logits_are_float32_one_per_token_of_the_vocabulary(kind, dtype):
    variables, apply = made(kind, dtype=dtype)
    logits = apply(*inputs(kind))
    assert logits.shape == (2, 6, 7)
    assert logits.dtype == jnp.float32
    assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {jnp.dtype(jnp.float32)}
    assert_allclose(logits, made(kind)[1](*inputs(kind)), atol=0.1)


@pytest.mark.exhaustive
@sampled("kind", KINDS, keep=1)
def test_any_batch_axes(kind):
    _, apply = made(kind)
    expected = apply(*inputs(kind))
    close(apply(*(tokens[0] for tokens in inputs(kind))), expected[0])
    close(apply(*(tokens[:, None, None] for tokens in inputs(kind))), expected[:, None, None])


def depends(kind, table, **options):
    """Which logits ``[T]`` depend on which entries of an embedding table; all tokens differ."""
    model, variables = kind(**SIZES | options), made(kind, **options)[0]
    tokens = (jnp.arange(4), jnp.arange(5)) if kind is EncoderDecoder else (jnp.arange(5),)

    def logits(entries):
        return model.apply({"params": variables["params"] | {table: {"embedding": entries}}}, *tokens)

    jacobian = jax.jit(jax.jacrev(logits))(variables["params"][table]["embedding"])
    return np.abs(jacobian).max(axis=(1, 3)) > 0


@sampled(("kind", "options"), [(Decoder, {}), (Decoder, {"norm": "post"}), (EncoderDecoder, {})], keep=1)
def test_a_prediction_depends_on_exactly_the_tokens_up_to_its_own(kind, options):
    assert_array_equal(depends(kind, "embedding", **options)[:, :5], np.tri(5, dtype=bool))


@pytest.mark.exhaustive
def test_other_dependences():
    assert depends(Encoder, "embedding")[:, :5].all()
    on_source = depends(EncoderDecoder, "source_embedding")
    assert on_source[:, :4].all()
    assert not on_source[:, 4:].any()


@sampled("kind", KINDS, keep=1)
def test_padding_has_no_influence(kind):
    _, apply = made(kind)
    lengths = jnp.array([3, 2]) if kind in READERS else jnp.array([4, 3])
    first, *others = inputs(kind)
    real = jnp.arange(first.shape[1]) < lengths[:, None]
    logits = [apply(jnp.where(real, first, padding), *others, lengths) for padding in (0, 6)]
    without = apply(first[1:, : lengths[1]], *(tokens[1:] for tokens in others))[0]
    if others:
        assert_array_equal(*logits)
        close(logits[0][1], without)
    else:
        assert_array_equal(*(np.asarray(x)[real] for x in logits))
        close(logits[0][1, : lengths[1]], without)


def test_padding_matters_where_no_length_is_told():
    _, apply = made(Encoder)
    assert np.any(apply(TOKENS)[:, 0] != apply(TOKENS.at[:, -1].add(-1))[:, 0])


@sampled("options", [{"positions": "none"}, {"positions": "none", "norm": "post"}], keep=1)
def test_an_encoder_without_positions_is_permutation_equivariant(options):
    _, apply = made(Encoder, **options)
    order = np.array([3, 0, 5, 4, 1, 2])
    close(apply(TOKENS[:, order]), apply(TOKENS)[:, order])


@sampled("positions", ["sinusoidal", "learned", "rotary", "relative"], keep=1)
def test_positions_tell_the_order(positions):
    _, apply = made(Encoder, positions=positions)
    assert np.abs(apply(TOKENS[:, ::-1]) - apply(TOKENS)[:, ::-1]).max() > 1e-2


@sampled(
    ("kind", "options"),
    [*((kind, {}) for kind in KINDS), *((kind, {"positions": "relative"}) for kind in (Encoder, EncoderDecoder))],
    keep=1,
)
def test_every_parameter_is_used(kind, options):
    variables, _ = made(kind, **options)
    model = kind(**SIZES | options)

    def loss(variables):
        return jnp.sum(jnp.sin(model.apply(variables, *inputs(kind))))

    gradients, _ = jax.tree_util.tree_flatten_with_path(jax.jit(jax.grad(loss))(variables))
    unused = ["/".join(str(part.key) for part in path) for path, gradient in gradients if np.abs(gradient).max() < 1e-6]
    # A key's bias moves all scores of a row alike, which a softmax does not see.
    assert [name for name in unused if not name.endswith(("attention/key/bias", "pooling/key/bias"))] == []


def test_filters_of_an_encoder_decoder():
    model = EncoderDecoder(**SIZES, num_layers=2)
    variables = drawn_like(model, *inputs(EncoderDecoder))
    _, filters = jax.eval_shape(functools.partial(capture_filters, model), variables, *inputs(EncoderDecoder))
    assert {name: filter.shape for name, filter in filters.items()} == {
        f"{name}_{layer}{attention}": (2, 2, *shape)
        for layer in range(2)
        for name, attention, shape in [
            ("encoder", "/attention", (4, 4)),
            ("decoder", "/attention", (6, 6)),
            ("decoder", "/cross_attention", (6, 4)),
        ]
    }


def test_scores_reach_every_attention():
    score = scores.cosine(0.5)
    model = EncoderDecoder(**SIZES, score=score)
    variables = drawn_like(model, *inputs(EncoderDecoder))
    _, filters = jax.eval_shape(functools.partial(capture_filters, model), variables, *inputs(EncoderDecoder))
    assert len(filters) == 3
    assert {filter.program.score for filter in filters.values()} == {score}


# Positions that are told by biases


def test_alibi_tells_an_encoder_how_far_a_key_is_and_not_on_which_side():
    _, apply = made(Encoder, positions="alibi")
    close(apply(TOKENS[:, ::-1]), apply(TOKENS)[:, ::-1])
    order = np.array([3, 0, 5, 4, 1, 2])
    assert np.abs(apply(TOKENS[:, order]) - apply(TOKENS)[:, order]).max() > 1e-3


def with_and_without(kind, positions):
    """The filters of a model of two layers, and what they are with the same parameters and no positions."""
    options = {"positions": positions, "num_layers": 2}
    variables, _ = made(kind, **options)
    filters = (
        jax.jit(functools.partial(capture_filters, kind(**SIZES | options | {"positions": told})))(
            variables, *inputs(kind)
        )[1]
        for told in (positions, "none")
    )
    return variables["params"], *filters


@sampled(
    ("kind", "positions", "stacks"),
    [
        (Encoder, "alibi", ["block"]),
        (Encoder, "relative", ["block"]),
        (Decoder, "relative", ["block"]),
        (EncoderDecoder, "relative", ["encoder", "decoder"]),
        (EncoderDecoder, "alibi", ["encoder", "decoder"]),
    ],
    keep=1,
)
def test_biases_reach_the_scores_of_self_attention_in_every_layer(kind, positions, stacks):
    parameters, filters, plain = with_and_without(kind, positions)
    for stack in stacks:
        length = filters[f"{stack}_0/attention"].shape[-1]
        distance = np.arange(length) - np.arange(length)[:, None]
        expected = -np.asarray(biases.alibi_slopes(2))[:, None, None] * abs(distance)
        if positions == "relative":
            both_ways = stack == "encoder" or kind is Encoder
            buckets = biases.relative_buckets(distance, bidirectional=both_ways)
            expected = np.moveaxis(parameters[f"{stack}_positions"]["embedding"][buckets], -1, 0)
        added = filters[f"{stack}_0/attention"].scores() - plain[f"{stack}_0/attention"].scores()
        seen = np.isfinite(added)
        assert_allclose(added[seen], np.broadcast_to(expected, added.shape)[seen], atol=1e-4)
        # Deeper layers read what the biases have changed: there the table itself is compared.
        bias = filters[f"{stack}_1/attention"].program.bias
        jax.tree.map(assert_array_equal, bias, filters[f"{stack}_0/attention"].program.bias)
    for name, filter in filters.items():
        assert (filter.program.bias is None) == name.endswith("cross_attention")


# One vector


@pytest.mark.exhaustive
def test_answers_from_one_vector_read_no_token_of_the_target():
    _, apply = made(PooledEncoder)
    assert_array_equal(apply(SOURCE, TOKENS), apply(SOURCE, 0 * TOKENS))
    close(apply(SOURCE, TOKENS)[:, :2], apply(SOURCE, TOKENS[:, :2]))


@pytest.mark.exhaustive
def test_all_that_is_said_of_a_source_goes_through_the_pooling_and_the_vector():
    variables, apply = made(PooledEncoder)
    model = PooledEncoder(**SIZES)
    _, filters = jax.eval_shape(functools.partial(capture_filters, model), variables, SOURCE, TOKENS)
    assert {name: filter.shape for name, filter in filters.items()} == {
        "encoder_0/attention": (2, 2, 4, 4),
        "pooling": (2, 2, 1, 4),
    }
    unread = apply_with_edits(model, variables, SOURCE, TOKENS, edits={"pooling": edits.knock_out()})
    assert_array_equal(unread[0], unread[1])
    assert np.any(apply(SOURCE, TOKENS)[0] != apply(SOURCE, TOKENS)[1])


@pytest.mark.exhaustive
def test_the_vector_of_a_source_is_at_hand():
    variables, _ = made(PooledEncoder)
    model = PooledEncoder(**SIZES)
    vector = jax.jit(functools.partial(model.apply, method="vector"))
    found = vector(variables, SOURCE, jnp.array([3, 4]))
    assert (found.shape, found.dtype) == ((2, 8), jnp.float32)
    close(found[0], vector(variables, SOURCE[0, :3]))
    assert np.any(found != vector(variables, SOURCE[:, ::-1], jnp.array([3, 4])))


@sampled("positions", ["learned", "rotary", "none"], keep=1)
def test_answers_from_one_vector_know_their_place(positions):
    variables, apply = made(PooledEncoder, positions=positions)
    logits = apply(SOURCE, TOKENS)
    assert np.abs(logits[:, 1:] - logits[:, :-1]).max(axis=(0, 2)).min() > 1e-2
    assert ("embedding_positions" in variables["params"]) == (positions == "learned")


# Images


@pytest.mark.exhaustive
@sampled("kind", READERS, keep=1)
def test_a_source_may_be_patches_of_an_image(kind):
    image = jax.random.uniform(jax.random.key(0), (2, 4, 5))
    model = kind(**SIZES)
    variables = drawn_like(model, image, TOKENS)
    patches = variables["params"].pop("patch_embedding")["linear"]
    assert patches["kernel"].shape == (5, 8)
    assert "source_embedding" not in variables["params"]
    apply = jax.jit(model.apply)
    found = apply({"params": variables["params"] | {"patch_embedding": {"linear": patches}}}, image, TOKENS)
    # Tokens whose vectors are those of the patches are read alike.
    table = (image[0] @ patches["kernel"] + patches["bias"])[jnp.array([0, 1, 2, 3, 0, 0, 0])]
    as_tokens = {"params": variables["params"] | {"source_embedding": {"embedding": table}}}
    close(apply(as_tokens, jnp.arange(4), TOKENS[0]), found[0])


# Queries that know only where they stand


@pytest.mark.exhaustive
@sampled("options", [{}, {"norm": "post", "positions": "learned"}], keep=1)
def test_queries_of_positions_do_not_know_the_tokens(options):
    options = {"queries": "positions"} | options
    variables, apply = made(Encoder, **options)
    model = Encoder(**SIZES | options)
    capture = jax.jit(functools.partial(capture_filters, model, variables))
    filters = [capture(tokens)[1] for tokens in (TOKENS, TOKENS[::-1])]
    assert_array_equal(*(filter["block_0/attention"].query for filter in filters))
    assert np.any(filters[0]["block_0/attention"].key != filters[1]["block_0/attention"].key)
    nothing_to_see = jnp.zeros(2, int)
    assert_array_equal(apply(TOKENS, nothing_to_see), apply(TOKENS[::-1], nothing_to_see))
    assert np.any(apply(TOKENS) != apply(TOKENS[::-1]))


def test_queries_of_tokens_know_their_token():
    _, apply = made(Encoder)
    nothing_to_see = jnp.zeros(2, int)
    assert np.any(apply(TOKENS, nothing_to_see) != apply(TOKENS[::-1], nothing_to_see))


# Caches


DEEP = {"num_layers": 2, "max_length": 6}
POSITIONED = [DEEP | {"positions": kind} for kind in ("sinusoidal", "learned", "rotary", "alibi", "relative", "none")]


@sampled("options", [*POSITIONED, DEEP | {"norm": "post"}], ids=str, keep=1)
def test_reading_with_a_cache_predicts_what_reading_all_predicts(options):
    _, apply = made(Decoder, **options)
    cache, logits = Decoder(**SIZES | options).empty_cache((2,), 6), []
    for tokens in (TOKENS[:, :3], TOKENS[:, 3:4], TOKENS[:, 4:5], TOKENS[:, 5:]):
        new, cache = apply(tokens, cache=cache)
        logits.append(new)
    close(jnp.concatenate(logits, axis=1), apply(TOKENS))
    assert [layer.length.tolist() for layer in cache] == [[6, 6]] * 2
    assert logits[0].dtype == jnp.float32


@pytest.mark.exhaustive
@sampled("options", POSITIONED, ids=str, keep=1)
def test_entries_of_a_batch_may_be_at_different_positions(options):
    _, apply = made(Decoder, **options)
    expected, read = apply(TOKENS), [0, 0]
    cache = Decoder(**SIZES | options).empty_cache((2,), 6)
    for lengths in ([3, 1], [1, 3], [2, 0]):
        tokens = [
            TOKENS[entry, start : start + new].tolist() + [6] * (3 - new)
            for entry, (start, new) in enumerate(zip(read, lengths, strict=True))
        ]
        logits, cache = apply(jnp.array(tokens), jnp.array(lengths), cache=cache)
        for entry, new in enumerate(lengths):
            close(logits[entry, :new], expected[entry, read[entry] : read[entry] + new])
            read[entry] += new


def test_a_cache_changes_no_parameter():
    model = Decoder(**SIZES | DEEP)
    tree = jax.eval_shape(model.init, jax.random.key(0), TOKENS)
    with_cache = functools.partial(model.init, cache=model.empty_cache((2,), 6))
    assert jax.tree.map(jnp.shape, jax.eval_shape(with_cache, jax.random.key(0), TOKENS)) == jax.tree.map(
        jnp.shape, tree
    )


@pytest.mark.exhaustive
def test_the_filters_of_a_call_with_a_cache_have_a_column_per_slot():
    options = {"positions": "rotary"}
    variables, apply = made(Decoder, **options)
    model = Decoder(**SIZES | options)
    capture = jax.jit(functools.partial(capture_filters, model, variables))
    _, whole = capture(TOKENS)
    _, cache = apply(TOKENS[:, :4], cache=model.empty_cache((2,), 8))
    _, filters = capture(TOKENS[:, 4:], cache=cache)
    assert filters.keys() == whole.keys()
    for name, filter in filters.items():
        assert filter.shape == (2, 2, 2, 8)
        close(filter.weights()[..., :6], whole[name].weights()[:, :, 4:])


@pytest.mark.exhaustive
def test_a_cache_may_be_donated():
    variables, _ = made(Decoder, **DEEP)
    model = Decoder(**SIZES | DEEP)
    apply = jax.jit(lambda tokens, cache: model.apply(variables, tokens, cache=cache), donate_argnums=1)
    cache = model.empty_cache((2,), 6)
    _, after = apply(TOKENS[:, :2], cache)
    assert cache[0].key.is_deleted()
    assert after[1].length.tolist() == [2, 2]


@pytest.mark.exhaustive
def test_there_are_no_learned_positions_beyond_the_last():
    options = DEEP | {"positions": "learned"}
    model, (variables, apply) = Decoder(**SIZES | options), made(Decoder, **options)
    with pytest.raises(ValueError, match="slots: expected at most max_length 6 for learned positions, got 7"):
        model.empty_cache((2,), 7)
    roomy = Decoder(**SIZES | DEEP).empty_cache((2,), 9)
    _, cache = apply(TOKENS[:, :5], cache=roomy)
    with pytest.raises(ValueError, match="learned positions: expected at most max_length 6 tokens, got 7 with the"):
        model.apply(variables, TOKENS[:, :2], cache=cache)
    logits, _ = apply(TOKENS[:, :2], cache=cache)
    assert_array_equal(jnp.isnan(logits).all(-1), [[False, True]] * 2)
    assert not jnp.isnan(logits[:, 0]).any()


WRONG_CACHES = {
    "a list of arrays": ([TOKENS], TypeError, "cache: expected a KVCache per layer, .* got list"),
    "one layer's": (Decoder(**SIZES).empty_cache((2,), 6)[0], TypeError, "cache: expected a .* got KVCache"),
    "too few layers": (Decoder(**SIZES).empty_cache((2,), 6), ValueError, "cache: .* each of 2 layers, got 1"),
    "another batch": (
        Decoder(**SIZES | DEEP).empty_cache((3,), 6),
        ValueError,
        r"cache: expected the batch shape \(2,\), got \(3,\)",
    ),
    "no room": (
        Decoder(**SIZES | DEEP).empty_cache((2,), 5),
        ValueError,
        "cache: expected room for 6 tokens, got 5 slots and no window",
    ),
    "other heads": (
        Decoder(**SIZES | DEEP | {"num_heads": 4}).empty_cache((2,), 6),
        ValueError,
        r"key: expected shape \[2, n, 4, 2\] for this cache, got \(2, 6, 2, 4\)",
    ),
}


@pytest.mark.parametrize("name", WRONG_CACHES)
def test_a_decoder_says_what_is_wrong_with_its_cache(name):
    cache, error, text = WRONG_CACHES[name]
    model = Decoder(**SIZES | DEEP)
    with pytest.raises(error, match=text):
        jax.eval_shape(functools.partial(model.init, cache=cache), jax.random.key(0), TOKENS)


# Dropout


def test_dropout_is_a_function_of_its_rng():
    variables, apply = made(Encoder)
    model = Encoder(**SIZES, dropout_rate=0.3)
    noisy = jax.jit(lambda rng: model.apply(variables, TOKENS, deterministic=False, rngs={"dropout": rng}))
    first, second, again = (noisy(jax.random.key(seed)) for seed in (1, 2, 1))
    assert_array_equal(first, again)
    assert np.any(first != second)
    assert np.any(first != apply(TOKENS))


@sampled("kind", KINDS, keep=1)
def test_a_deterministic_model_computes_no_dropout(kind):
    programs = [
        jax.make_jaxpr(kind(**SIZES, dropout_rate=rate).apply)(made(kind)[0], *inputs(kind)) for rate in (0.0, 0.3)
    ]
    assert str(programs[0]) == str(programs[1])


# Bad input

WRONG = {
    "positions": ({"positions": "absolute"}, "positions: expected one of sinusoidal, .*, none, got 'absolute'"),
    "norm": ({"norm": "both"}, "norm: expected 'post' or 'pre', got 'both'"),
    "heads that do not divide": ({"num_heads": 3}, "num_heads: expected a positive divisor of the 8 features, got 3"),
    "too long": ({"positions": "learned", "max_length": 3}, "at most max_length 3, got"),
    "odd width": ({"width": 9, "num_heads": 3}, "sinusoidal: expected an even width of at least 2, got 9"),
    "odd head dim": ({"positions": "rotary", "num_heads": 8}, "rotary: expected an even head dim .* got 1"),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", WRONG)
def test_models_say_what_is_wrong(name, kind):
    options, text = WRONG[name]
    with pytest.raises(ValueError, match=text):
        jax.eval_shape(kind(**SIZES | options).init, jax.random.key(0), *inputs(kind))


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"queries": "none"}, "queries: expected one of tokens, positions, got 'none'"),
        ({"queries": "positions", "positions": "none"}, "queries: 'positions' needs .* got 'none'"),
        ({"queries": "positions", "positions": "rotary"}, "queries: 'positions' needs .* got 'rotary'"),
    ],
)
def test_an_encoder_says_what_is_wrong_with_its_queries(options, text):
    with pytest.raises(ValueError, match=text):
        jax.eval_shape(Encoder(**SIZES | options).init, jax.random.key(0), TOKENS)


SIDES = {
    Encoder: {"block_0/attention": ("tokens", "tokens")},
    Decoder: {"block_0/attention": ("tokens", "tokens")},
    EncoderDecoder: {
        "decoder_0/attention": ("tokens", "tokens"),
        "decoder_0/cross_attention": ("tokens", "source"),
        "encoder_0/attention": ("source", "source"),
    },
    PooledEncoder: {"encoder_0/attention": ("source", "source"), "pooling": ("vector", "source")},
    RecurrentEncoderDecoder: {"cross_attention": ("tokens", "source")},
}


@sampled("kind", SIDES, keep=2)
def test_each_layer_says_which_sequences_its_filter_relates(kind):
    model, given = kind(vocabulary=7), (TOKENS,) if kind in (Encoder, Decoder) else (SOURCE, TOKENS)
    _, filters = jax.eval_shape(lambda: capture_filters(model, model.init(jax.random.key(0), *given), *given))
    assert {name: filter.relates for name, filter in filters.items()} == SIDES[kind]


def test_self_attention_has_grouped_heads_a_window_and_norms_of_queries_and_keys():
    options = {"num_kv_heads": 1, "window": 2, "qk_norm": "rms", "positions": "rotary", "rotary_base": 50.0}
    model = Decoder(**SIZES | options)
    variables = drawn_like(model, TOKENS)
    own = variables["params"]["block_0"]["attention"]
    assert own["key"]["kernel"].shape == own["value"]["kernel"].shape == (8, 1, 4)
    assert own["query_ln"]["scale"].shape == own["key_ln"]["scale"].shape == (4,)
    logits, filters = jax.jit(lambda: capture_filters(model, variables, TOKENS))()
    distance = np.arange(6)[:, None] - np.arange(6)
    weights = filters["block_0/attention"].weights()
    assert_array_equal(weights > 0, np.broadcast_to((distance >= 0) & (distance < 2), weights.shape))
    assert filters["block_0/attention"].key.shape[-2] == 1
    read = jax.jit(model.apply)
    _, cache = read(variables, TOKENS[:, :3], cache=model.empty_cache(batch=(2,), slots=6))
    later, _ = read(variables, TOKENS[:, 3:], cache=cache)
    close(later, logits[:, 3:])
    assert cache[0].key.shape == (2, 1, 6, 4)


def test_a_window_has_two_sides_where_later_tokens_are_seen():
    model, lengths = Encoder(**SIZES, window=2), jnp.array([6, 3])
    variables = drawn_like(model, TOKENS)
    _, filters = jax.jit(lambda: capture_filters(model, variables, TOKENS, lengths))()
    distance = abs(np.arange(6)[:, None] - np.arange(6))
    weights = np.asarray(filters["block_0/attention"].weights())
    assert_array_equal(weights[0, 0] > 0, distance < 2)
    assert_array_equal(weights[1, 0] > 0, (distance < 2) & (np.arange(6) < 3))
    with pytest.raises(ValueError, match=r"^window: expected at least 1 token, got 0"):
        jax.eval_shape(Encoder(**SIZES, window=0).init, jax.random.key(0), TOKENS)


@pytest.mark.parametrize(("rate", "of_filters", "drops"), [(0.0, 0.5, True), (0.5, 0.0, False), (0.5, None, True)])
def test_filters_have_a_dropout_of_their_own(rate, of_filters, drops):
    model = Encoder(**SIZES, dropout_rate=rate, filter_dropout_rate=of_filters)
    rngs = {"params": jax.random.key(0), "dropout": jax.random.key(1)}

    def look():
        return capture_filters(model, model.init(rngs, TOKENS), TOKENS, deterministic=False, rngs=rngs)[1]

    assert (jax.eval_shape(look)["block_0/attention"].program.dropout is not None) == drops
