"""Recurrent models against NumPy float64 loops, and what they may and may not know."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from jattn import RecurrentEncoderDecoder, apply_with_edits, capture_filters, edits
from tests import reference
from tests.sampled import sampled
from tests.variants import drawn_like

SIZES = {"vocabulary": 7, "num_heads": 2, "width": 8}
TOKENS = jnp.array([[1, 0, 4, 2, 6, 3], [5, 5, 1, 3, 2, 0]])
SOURCE = jnp.array([[3, 1, 6, 0], [2, 2, 5, 4]])
LENGTHS = jnp.array([3, 4])
KINDS = [{"cell": cell, "attention": attention} for cell in ("gru", "lstm") for attention in (False, True)]
GRU, WITH_ATTENTION, _, LSTM_WITH_ATTENTION = KINDS
close = functools.partial(assert_allclose, rtol=1e-4, atol=1e-5)


@functools.cache
def _made(**options):
    model = RecurrentEncoderDecoder(**SIZES | options)
    variables = drawn_like(model, SOURCE, TOKENS)
    return model, variables, jax.jit(functools.partial(model.apply, variables), static_argnames="method")


def made(options):
    """Makes a small model of random parameters, and returns it, its variables and its application under jit."""
    return _made(**options)


# The same in loops


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def gru(cell, state, x):
    """One step of a GRU: the state afterwards is what it says."""
    linear = functools.partial(dense, cell)
    reset, keep = sigmoid(linear("ir", x) + linear("hr", state)), sigmoid(linear("iz", x) + linear("hz", state))
    new = np.tanh(linear("in", x) + reset * linear("hn", state))
    return (1 - keep) * new + keep * state


def lstm(cell, state, x):
    """One step of an LSTM, whose state is its memory and what it said last, one after the other."""
    memory, said = np.split(state, 2)
    gates = {gate: dense(cell, f"i{gate}", x) + dense(cell, f"h{gate}", said) for gate in "ifgo"}
    memory = sigmoid(gates["f"]) * memory + sigmoid(gates["i"]) * np.tanh(gates["g"])
    return np.concatenate([memory, sigmoid(gates["o"]) * np.tanh(memory)])


def dense(parameters, name, x):
    return x @ parameters[name]["kernel"] + parameters[name].get("bias", 0)


def restated(parameters, cell, source, tokens, attention):
    """Reads one source and predicts after each token of one target; returns the logits, and the filter if any."""
    step, size = {"gru": (gru, 8), "lstm": (lstm, 16)}[cell]
    state, states, said = np.zeros(size), [], []
    for item in source:
        state = step(parameters["encoder_0"]["cell"], state, parameters["source_embedding"]["embedding"][item])
        states.append(state[-8:])
    for token in tokens:
        state = step(parameters["decoder_0"]["cell"], state, parameters["embedding"]["embedding"][token])
        said.append(state[-8:])
    said, states = np.array(said), np.array(states)
    if not attention:
        return dense(parameters, "logits", said), None
    of = parameters["cross_attention"]
    heads = {
        side: np.einsum("td,dnh->tnh", x, of[side]["kernel"]) + of[side]["bias"]
        for side, x in (("query", said), ("key", states), ("value", states))
    }
    network = reference.additive(*[np.stack([np.eye(4)] * 2)] * 2, parameters["score"].T)
    weights = reference.attention_filter(heads["query"], heads["key"], score=network)
    found = reference.average(weights, heads["value"]).reshape(len(tokens), 8)
    found = found @ of["out"]["kernel"].reshape(8, 8) + of["out"]["bias"]
    joined = np.tanh(dense(parameters, "joined", np.concatenate([found, said], axis=-1)))
    return dense(parameters, "logits", joined), weights


@sampled("kind", KINDS, ids=str, keep=1)
def test_the_model_is_that_of_loops_over_real_items(kind):
    model, variables, _ = made(kind)
    capture = jax.jit(functools.partial(capture_filters, model, variables, allow_none=True))
    logits, filters = capture(SOURCE, TOKENS, LENGTHS)
    parameters = jax.tree.map(lambda x: np.asarray(x, np.float64), variables["params"])
    assert list(filters) == ["cross_attention"] * kind["attention"]
    for entry, length in enumerate(LENGTHS):
        expected, weights = restated(parameters, kind["cell"], SOURCE[entry, :length], TOKENS[entry], kind["attention"])
        close(logits[entry], expected)
        if kind["attention"]:
            found = filters["cross_attention"].weights()[entry]
            close(found[..., :length], weights)
            assert not found[..., length:].any()


# What comes from where


@sampled("kind", [GRU, LSTM_WITH_ATTENTION], ids=str, keep=1)
def test_logits_and_parameters_are_float32_in_half_precision_too(kind):
    _, variables, apply = made(kind | {"dtype": jnp.bfloat16})
    logits = apply(SOURCE, TOKENS)
    assert (logits.shape, logits.dtype) == ((2, 6, 7), jnp.float32)
    assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {jnp.dtype(jnp.float32)}
    expected = made(kind)[2](SOURCE, TOKENS)
    assert_allclose(logits, expected, atol=0.1)
    assert np.any(logits != expected)


@sampled("kind", KINDS, ids=str, keep=1)
def test_padding_has_no_influence(kind):
    _, _, apply = made(kind)
    real = jnp.arange(4) < LENGTHS[:, None]
    logits = [apply(jnp.where(real, SOURCE, token), TOKENS, LENGTHS) for token in (0, 6)]
    assert_array_equal(*logits)
    close(logits[0][0], apply(SOURCE[:1, :3], TOKENS[:1])[0])
    assert np.any(apply(SOURCE, TOKENS)[0] != logits[0][0])


@sampled("kind", KINDS, ids=str, keep=1)
def test_a_prediction_depends_on_exactly_the_tokens_up_to_its_own(kind):
    model, variables, _ = made(kind)

    def logits(table):
        changed = {"params": variables["params"] | {"embedding": {"embedding": table}}}
        return model.apply(changed, jnp.arange(4), jnp.arange(5))

    jacobian = jax.jit(jax.jacrev(logits))(variables["params"]["embedding"]["embedding"])
    assert_array_equal(np.abs(jacobian).max(axis=(1, 3))[:, :5] > 0, np.tri(5, dtype=bool))


@pytest.mark.exhaustive
@sampled(("cell", "size"), [("gru", 16), ("lstm", 32)], keep=1)
def test_without_attention_a_state_of_fixed_size_is_all_the_decoder_gets(cell, size):
    model, variables, apply = made({"cell": cell, "attention": False, "num_layers": 2})
    long = jnp.concatenate([SOURCE, SOURCE], axis=-1)
    for source in (SOURCE, long):
        state, states = apply(source, method="encode")
        assert (state.shape, states) == ((2, size), None)
        close(apply(state, None, TOKENS, method="decode"), apply(source, TOKENS))
    assert (
        jax.eval_shape(functools.partial(capture_filters, model, allow_none=True), variables, SOURCE, TOKENS)[1] == {}
    )


@pytest.mark.exhaustive
def test_with_attention_the_decoder_also_gets_the_states_on_the_way():
    _, _, apply = made(WITH_ATTENTION)
    state, states = apply(SOURCE, method="encode")
    assert states.shape == (2, 4, 8)
    close(apply(state, states, TOKENS, method="decode"), apply(SOURCE, TOKENS))
    assert np.all(np.abs(apply(state, states[::-1], TOKENS, method="decode") - apply(SOURCE, TOKENS)).max(-1) > 1e-4)


@pytest.mark.exhaustive
def test_what_attention_finds_counts():
    model, variables, apply = made(WITH_ATTENTION)
    knocked = apply_with_edits(model, variables, SOURCE, TOKENS, edits={"cross_attention": edits.knock_out()})
    assert np.all(np.abs(knocked - apply(SOURCE, TOKENS)).max(-1) > 1e-4)


@pytest.mark.exhaustive
@sampled("kind", KINDS, ids=str, keep=1)
def test_every_parameter_is_used(kind):
    model, variables, _ = made(kind)

    def loss(variables):
        return jnp.sum(jnp.sin(model.apply(variables, SOURCE, TOKENS)))

    gradients, _ = jax.tree_util.tree_flatten_with_path(jax.jit(jax.grad(loss))(variables))
    assert [jax.tree_util.keystr(path) for path, gradient in gradients if np.abs(gradient).max() < 1e-6] == []


@pytest.mark.exhaustive
def test_a_source_may_be_patches_of_an_image():
    model = RecurrentEncoderDecoder(**SIZES | WITH_ATTENTION)
    image = jax.random.uniform(jax.random.key(0), (2, 4, 5))
    variables = drawn_like(model, image, TOKENS)
    embedding = variables["params"]["patch_embedding"]["linear"]
    assert embedding["kernel"].shape == (5, 8)
    assert "source_embedding" not in variables["params"]
    apply = jax.jit(model.apply)
    assert apply(variables, image, TOKENS).shape == (2, 6, 7)
    # Tokens whose vectors are those of the patches are read alike.
    vectors = (image @ embedding["kernel"] + embedding["bias"]).reshape(8, 8)
    as_tokens = {"params": variables["params"] | {"source_embedding": {"embedding": vectors[:7]}}}
    close(apply(as_tokens, jnp.arange(3)[None], TOKENS[:1]), apply(variables, image[:1, :3], TOKENS[:1]))


# Transformations


@pytest.mark.exhaustive
@sampled("kind", [GRU, LSTM_WITH_ATTENTION], ids=str, keep=1)
def test_models_are_mapped_over_parameters(kind):
    model, variables, apply = made(kind)
    both = jax.tree.map(lambda x: jnp.stack([0.5 * x, x]), variables)
    mapped = jax.jit(jax.vmap(model.apply, in_axes=(0, None, None, None)))(both, SOURCE, TOKENS, LENGTHS)
    close(mapped[1], apply(SOURCE, TOKENS, LENGTHS))
    assert np.abs(mapped[0] - mapped[1]).max() > 1e-2


@pytest.mark.exhaustive
def test_any_batch_axes():
    _, _, apply = made(WITH_ATTENTION)
    expected = apply(SOURCE, TOKENS, LENGTHS)
    close(apply(SOURCE[:, None], TOKENS[:, None], LENGTHS[:, None]), expected[:, None])
    close(apply(SOURCE[0], TOKENS[0], LENGTHS[0]), expected[0])


@sampled("kind", [GRU, LSTM_WITH_ATTENTION], ids=str, keep=1)
def test_models_lower_for_every_platform(kind):
    model, variables, _ = made(kind | {"dtype": jnp.bfloat16})

    def loss(variables, source, tokens, lengths):
        return jnp.mean(model.apply(variables, source, tokens, lengths))

    lowered = jax.export.export(jax.jit(jax.value_and_grad(loss)), platforms=("cpu", "cuda", "tpu"))
    assert lowered(variables, SOURCE, TOKENS, LENGTHS).platforms == ("cpu", "cuda", "tpu")


@pytest.mark.exhaustive
def test_dropout_is_a_function_of_its_rng():
    _, variables, apply = made(WITH_ATTENTION)
    model = RecurrentEncoderDecoder(**SIZES | WITH_ATTENTION, dropout_rate=0.3)
    noisy = jax.jit(lambda rng: model.apply(variables, SOURCE, TOKENS, deterministic=False, rngs={"dropout": rng}))
    first, second, again = (noisy(jax.random.key(seed)) for seed in (1, 2, 1))
    assert_array_equal(first, again)
    assert np.any(first != second)
    assert_array_equal(jax.jit(model.apply)(variables, SOURCE, TOKENS), apply(SOURCE, TOKENS))


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"cell": "rnn"}, "cell: expected one of gru, lstm, got 'rnn'"),
        ({"num_heads": 3}, "num_heads: expected a positive divisor of the 8 features, got 3"),
        ({"num_heads": 0}, "num_heads: expected a positive divisor of the 8 features, got 0"),
    ],
)
def test_a_recurrent_model_says_what_is_wrong(options, text):
    with pytest.raises(ValueError, match=text):
        jax.eval_shape(RecurrentEncoderDecoder(**SIZES | options).init, jax.random.key(0), SOURCE, TOKENS)
