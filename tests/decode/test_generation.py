"""Generation is the repeated full forward pass, at the price of one token each."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from jattn import Decoder, Encoder, capture_filters, scores
from jattn.decode.generation import generate, generate_with_filters, sample, truncate
from tests.sampled import sampled
from tests.variants import drawn_like

SIZES = {"vocabulary": 9, "num_heads": 2, "width": 8, "hidden": 12, "num_layers": 1}
PROMPT = jnp.array([[1, 0, 4, 2, 6], [5, 5, 1, 0, 0], [3, 0, 0, 0, 0]])
LENGTHS = jnp.array([5, 3, 1])
MODEL = Decoder(**SIZES)
VARIABLES = drawn_like(MODEL, PROMPT)


def slowly(model, variables, prompt, steps):
    """Continues one prompt greedily: the whole sequence through the model for each token."""
    tokens, apply = list(prompt), jax.jit(model.apply)
    for _ in range(steps):
        padded = np.array(tokens + [0] * (10 - len(tokens)))
        tokens.append(int(jnp.argmax(apply(variables, padded)[len(tokens) - 1])))
    return tokens[len(prompt) :]


@functools.cache
def expected(model=MODEL, steps=6):
    variables = drawn_like(model, PROMPT)
    return [slowly(model, variables, row[:n].tolist(), steps) for row, n in zip(PROMPT, LENGTHS, strict=True)]


@pytest.mark.exhaustive
@pytest.mark.parametrize(
    "options", [{"num_layers": 2}, {"positions": "rotary"}, {"positions": "learned", "max_length": 10}], ids=str
)
def test_greedy_generation_repeats_the_argmax_of_the_whole_forward_pass(options):
    model = Decoder(**SIZES | options)
    tokens = generate(model, drawn_like(model, PROMPT), PROMPT, lengths=LENGTHS, max_new_tokens=6)
    assert tokens.dtype == jnp.int32
    assert_array_equal(tokens, expected(model))


@pytest.mark.exhaustive
def test_a_prompt_is_continued_alike_alone_in_a_batch_and_without_batch():
    for prompt, length, tokens in list(zip(PROMPT, LENGTHS, expected(), strict=True))[::2]:
        assert_array_equal(generate(MODEL, VARIABLES, prompt[:length], max_new_tokens=6), tokens)
    tokens = generate(MODEL, VARIABLES, PROMPT[:, None], lengths=LENGTHS[:, None], max_new_tokens=6)
    assert_array_equal(tokens[:, 0], expected())


@pytest.mark.exhaustive
def test_what_follows_a_prompt_in_its_row_has_no_influence():
    other = jnp.where(jnp.arange(5) < LENGTHS[:, None], PROMPT, 8)
    assert_array_equal(generate(MODEL, VARIABLES, other, lengths=LENGTHS, max_new_tokens=6), expected())


def test_an_entry_ends_with_the_end_token_and_the_others_go_on():
    ends = {row[2] for row in expected()} | {row[0] for row in expected()}
    for end in ends:
        tokens = generate(MODEL, VARIABLES, PROMPT, lengths=LENGTHS, max_new_tokens=6, end_token=end)
        for row, whole in zip(tokens.tolist(), expected(), strict=True):
            stop = whole.index(end) + 1 if end in whole else 6
            assert row == whole[:stop] + [end] * (6 - stop)
    first, *_ = several = sorted(ends)
    for kind in (list, tuple, np.array, jnp.array):
        tokens = generate(MODEL, VARIABLES, PROMPT, lengths=LENGTHS, max_new_tokens=6, end_token=kind(several))
        for row, whole in zip(tokens.tolist(), expected(), strict=True):
            stop = next((place for place, token in enumerate(whole, 1) if token in ends), 6)
            assert row == whole[:stop] + [first] * (6 - stop)
    none = generate(MODEL, VARIABLES, PROMPT, lengths=LENGTHS, max_new_tokens=6, end_token=())
    assert_array_equal(none, expected())


@sampled(
    "options",
    [
        {"num_layers": 2, "window": 2, "num_kv_heads": 1},
        {"positions": "rotary", "window": 3},
        {"positions": "relative"},
    ],
    ids=str,
    keep=1,
)
def test_rows_of_drawn_tokens_are_those_of_a_pass_over_the_whole_text(options):
    model = Decoder(**SIZES | options)
    variables, look = drawn_like(model, PROMPT), jax.jit(functools.partial(capture_filters, model))
    tokens, rows = generate_with_filters(model, variables, PROMPT, lengths=LENGTHS, max_new_tokens=6)
    assert list(rows) == [f"block_{layer}/attention" for layer in range(model.num_layers)]
    for entry, (prompt, length) in enumerate(zip(PROMPT, LENGTHS, strict=True)):
        whole = jnp.zeros(10, int).at[: length + 5].set(jnp.append(prompt[:length], tokens[entry, :5]))
        logits, filters = look(variables, whole)
        assert_array_equal(tokens[entry], jnp.argmax(logits[length - 1 : length + 5], -1))
        for name, filter in filters.items():
            assert_allclose(rows[name][entry], filter.weights()[:, length - 1 : length + 5], atol=1e-6)


@pytest.mark.exhaustive
def test_an_entry_that_has_ended_has_rows_of_zeros_and_a_model_without_filters_is_refused():
    end = expected()[0][1]
    options = {"lengths": LENGTHS[:1], "max_new_tokens": 6, "temperature": 0.5, "top_k": 1, "rng": jax.random.key(0)}
    tokens, rows = generate_with_filters(MODEL, VARIABLES, PROMPT[:1], end_token=end, **options)
    assert_array_equal(tokens, generate(MODEL, VARIABLES, PROMPT[:1], end_token=end, **options))
    drawn = expected()[0].index(end) + 1
    sums = rows["block_0/attention"].sum(-1)[0]
    assert_allclose(sums, np.broadcast_to(np.arange(6) < drawn, sums.shape), atol=1e-6)

    class NoFilters(Decoder):
        def apply(self, *args, mutable=False, **kwargs):
            out = super().apply(*args, **kwargs)
            return out if mutable is False else (out, {})

    with pytest.raises(ValueError, match="model: expected one with attention of jattn's, got none in the model"):
        generate_with_filters(NoFilters(**SIZES), VARIABLES, PROMPT[:1], **options)


class Counting(Decoder):
    """Counts how often it is traced, and while running how often it is called."""

    def __call__(self, tokens, lengths=None, *, cache=None, deterministic=True):
        TRACES.append(tokens.shape)
        jax.debug.callback(lambda: CALLS.append(1))
        return super().__call__(tokens, lengths, cache=cache, deterministic=deterministic)


TRACES, CALLS = [], []


def counted(**options):
    """Generates, and returns the tokens, the number of traces and the number of calls."""
    TRACES.clear()
    CALLS.clear()
    model = Counting(**SIZES)
    tokens = generate(model, VARIABLES, **{"prompt": PROMPT, "lengths": LENGTHS, "max_new_tokens": 6} | options)
    jax.block_until_ready(tokens)
    jax.effects_barrier()
    return tokens, len(TRACES), len(CALLS)


def test_the_loop_is_compiled_once_and_stops_when_all_have_ended():
    tokens, traces, calls = counted()
    assert traces > 0
    assert calls == 6
    assert_array_equal(tokens, expected())
    assert counted(prompt=PROMPT[::-1], lengths=LENGTHS[::-1])[1:] == (0, 6)
    end = expected()[0][1]
    first = {"prompt": PROMPT[:1], "lengths": LENGTHS[:1], "end_token": end}
    assert counted(**first)[2] == expected()[0].index(end) + 1
    warm = {"temperature": 1.0, "top_p": 0.9, "top_k": 4, "rng": jax.random.key(0)}
    assert counted(**warm)[1] > 0
    assert counted(**warm | {"temperature": 0.5, "top_p": 0.2, "rng": jax.random.key(1)})[1] == 0


@pytest.mark.exhaustive
def test_a_model_that_holds_an_array_is_compiled_each_time():
    model = Decoder(**SIZES, score=scores.scaled_dot(jnp.array(0.5)))
    tokens = generate(model, VARIABLES, PROMPT[:1], max_new_tokens=3)
    assert_array_equal(tokens[0], slowly(model, VARIABLES, PROMPT[0].tolist(), 3))


@pytest.mark.exhaustive
def test_generation_under_jit():
    options = {"max_new_tokens": 6, "end_token": 8}
    run = jax.jit(lambda prompt, lengths: generate(MODEL, VARIABLES, prompt, lengths=lengths, **options))
    assert_array_equal(run(PROMPT, LENGTHS), generate(MODEL, VARIABLES, PROMPT, lengths=LENGTHS, **options))


@pytest.mark.exhaustive
def test_drawn_tokens_are_a_function_of_rng_and_step():
    draw = functools.partial(generate, MODEL, VARIABLES, PROMPT, lengths=LENGTHS, temperature=3.0)
    tokens = draw(max_new_tokens=6, rng=jax.random.key(1))
    assert_array_equal(draw(max_new_tokens=6, rng=jax.random.key(1)), tokens)
    assert_array_equal(draw(max_new_tokens=4, rng=jax.random.key(1)), tokens[:, :4])
    assert np.any(draw(max_new_tokens=6, rng=jax.random.key(2)) != tokens)
    assert_array_equal(draw(max_new_tokens=6, rng=jax.random.key(1), top_k=1), expected())
    assert_array_equal(draw(max_new_tokens=6, rng=jax.random.key(1), top_p=1e-6), expected())


# Choosing a token

SHARES = np.array([0.2, 0.4, 0.3, 0.1])
LOGITS = jnp.log(jnp.asarray(SHARES, jnp.float32))
TRUNCATIONS = {
    "nothing": ({}, [0, 1, 2, 3]),
    "top 1": ({"top_k": 1}, [1]),
    "top 2": ({"top_k": 2}, [1, 2]),
    "more than there are": ({"top_k": 9}, [0, 1, 2, 3]),
    "less than the best": ({"top_p": 0.01}, [1]),
    "a bit more than the best": ({"top_p": 0.41}, [1, 2]),
    "a bit less than two": ({"top_p": 0.69}, [1, 2]),
    "a bit more than two": ({"top_p": 0.71}, [0, 1, 2]),
    "nearly everything": ({"top_p": 0.95}, [0, 1, 2, 3]),
    "everything": ({"top_p": 1.0}, [0, 1, 2, 3]),
    "the shares of what top_k leaves": ({"top_k": 2, "top_p": 0.56}, [1]),
    "the same, a bit more": ({"top_k": 2, "top_p": 0.58}, [1, 2]),
}


@sampled("name", TRUNCATIONS, keep=3)
def test_which_tokens_stay(name):
    options, stay = TRUNCATIONS[name]
    here = jax.jit(functools.partial(truncate, **options))
    kept = here(LOGITS)
    assert_array_equal(np.flatnonzero(kept > -jnp.inf), stay)
    assert_array_equal(np.asarray(kept)[stay], np.asarray(LOGITS)[stay])
    batch = np.stack([LOGITS, LOGITS[::-1]])[:, None]
    assert_array_equal(here(batch), np.stack([kept, kept[::-1]])[:, None])


@pytest.mark.exhaustive
def test_of_equals_the_first_stay():
    equals = jnp.array([1.0, 2.0, 1.0, 1.0, -jnp.inf])
    for top_k in range(1, 5):
        assert_array_equal(np.flatnonzero(truncate(equals, top_k) > -jnp.inf), sorted([1, 0, 2, 3][:top_k]))
    assert_array_equal(truncate(jnp.array([-0.0, 0.0, -0.0]), 1) > -jnp.inf, [True, False, False])
    assert_array_equal(truncate(jnp.zeros(4, jnp.bfloat16), 2) > -jnp.inf, [True, True, False, False])
    assert_array_equal(truncate(jnp.zeros(4), top_p=0.5) > -jnp.inf, [True, True, False, False])


def test_one_token_stays_whatever_a_traced_top_p_is():
    draws = jnp.array([[0.1, 3.0, 2.0], [5.0, 5.0, 4.0]])
    for top_p in (0.0, -1.0, np.nan):
        kept = jax.jit(lambda top_p: truncate(draws, top_p=top_p))(top_p) > -jnp.inf
        assert_array_equal(kept, [[False, True, False], [True, False, False]])


def test_the_smallest_set_with_enough_mass():
    draws = np.random.default_rng(0).standard_normal((20, 5)).astype(np.float32)
    kept = np.asarray(truncate(jnp.asarray(draws), top_p=0.7)) > -np.inf
    for row, stays in zip(draws.astype(np.float64), kept, strict=True):
        shares = np.exp(row) / np.exp(row).sum()
        enough = [
            chosen
            for size in range(1, 6)
            for chosen in itertools.combinations(range(5), size)
            if shares[list(chosen)].sum() >= 0.7
        ]
        best = min(enough, key=lambda chosen: (len(chosen), -shares[list(chosen)].sum()))
        assert_array_equal(np.flatnonzero(stays), best)


@sampled(
    ("options", "weights"),
    [
        ({}, SHARES),
        ({"temperature": 0.5}, SHARES**2),
        ({"temperature": 2.0}, SHARES**0.5),
        ({"top_k": 3}, [0.2, 0.4, 0.3, 0]),
        ({"top_p": 0.5}, [0, 0.4, 0.3, 0]),
        ({"temperature": 0.5, "top_p": 0.6}, [0, 0.16, 0.09, 0]),
        ({"temperature": 0.5, "top_k": 3, "top_p": 0.85}, [0, 0.16, 0.09, 0]),
    ],
    ids=str,
    keep=3,
)
def test_tokens_are_drawn_by_their_shares(options, weights):
    tokens = sample(jnp.broadcast_to(LOGITS, (4000, 4)), jax.random.key(3), **options)
    assert tokens.dtype == jnp.int32
    assert_allclose(np.bincount(tokens, minlength=4) / 4000, weights / np.sum(weights), atol=0.03)


@pytest.mark.exhaustive
def test_a_truncation_that_leaves_all_changes_no_draw():
    logits = jax.random.normal(jax.random.key(0), (50, 7))
    tokens = sample(logits, jax.random.key(1))
    assert_array_equal(sample(logits, jax.random.key(1), top_k=7, top_p=1.0), tokens)


@pytest.mark.exhaustive
def test_the_likeliest_token_wins_at_temperature_zero_and_near():
    logits = jax.random.normal(jax.random.key(0), (50, 7)).at[:, 2].set(-jnp.inf)
    best = jnp.argmax(logits, axis=-1)
    assert_array_equal(sample(logits, temperature=0.0), best)
    for options in ({"temperature": 1e-38}, {"temperature": 1e-3}, {"top_k": 1}, {"top_p": 1e-9}):
        assert_array_equal(sample(logits, jax.random.key(1), **options), best)
    traced = jax.jit(lambda temperature: sample(logits, jax.random.key(1), temperature))
    assert_array_equal(traced(0.0), best)
    assert_array_equal(traced(1.0), sample(logits, jax.random.key(1)))


# Bad input

WRONG_CHOICES = {
    "no rng": ({"rng": None}, ValueError, "rng: needed for temperature 0.7, got None"),
    "a negative temperature": ({"temperature": -0.1}, ValueError, "temperature: expected a finite .* got -0.1"),
    "no temperature": ({"temperature": float("nan")}, ValueError, "temperature: expected a finite .* got nan"),
    "endless temperature": ({"temperature": float("inf")}, ValueError, "temperature: expected a finite .* got inf"),
    "temperature, a string": ({"temperature": "warm"}, TypeError, "temperature: expected a number, got 'warm'"),
    "temperature, a list": ({"temperature": jnp.ones(2)}, TypeError, "temperature: expected a number, got"),
    "top 0": ({"top_k": 0}, ValueError, "top_k must be at least 1, got 0"),
    "top half": ({"top_k": 0.5}, TypeError, "top_k must be an int.*, got 0.5"),
    "no mass": ({"top_p": 0.0}, ValueError, "top_p: expected a number above 0 and up to 1, got 0.0"),
    "too much mass": ({"top_p": 1.1}, ValueError, "top_p: expected a number above 0 and up to 1, got 1.1"),
    "mass, a string": ({"top_p": "0.9"}, ValueError, "top_p: expected a number above 0 and up to 1, got '0.9'"),
}


@pytest.mark.parametrize("name", WRONG_CHOICES)
def test_choosing_says_what_is_wrong(name):
    change, error, text = WRONG_CHOICES[name]
    options = {"rng": jax.random.key(0), "temperature": 0.7} | change
    with pytest.raises(error, match=text):
        sample(LOGITS, **options)
    with pytest.raises(error, match=text):
        generate(MODEL, VARIABLES, PROMPT, max_new_tokens=2, **options)


@pytest.mark.parametrize(
    ("logits", "error", "text"),
    [
        ([1.0], TypeError, "logits: expected an array, got list"),
        (jnp.ones(3, int), TypeError, "logits: expected a float dtype, got int"),
        (jnp.ones(()), ValueError, r"logits: expected shape \[\*batch, C\] with at least one token, got \(\)"),
        (jnp.ones((2, 0)), ValueError, r"with at least one token, got \(2, 0\)"),
    ],
)
def test_logits_that_are_none(logits, error, text):
    for choose in (sample, truncate):
        with pytest.raises(error, match=text):
            choose(logits, temperature=0.0) if choose is sample else choose(logits)


WRONG_CALLS = {
    "no model": ({"model": None}, TypeError, "model: expected a module with apply and empty_cache, .* got None"),
    "an encoder": ({"model": Encoder(**SIZES)}, TypeError, "model: expected a module with apply and empty_cache"),
    "prompt, a list": ({"prompt": [1, 2]}, TypeError, "prompt: expected an array, got list"),
    "prompt of floats": ({"prompt": jnp.ones((1, 2))}, TypeError, "prompt: expected integer tokens, got dtype float32"),
    "prompt without tokens": ({"prompt": PROMPT[:, :0]}, ValueError, r"prompt: .* at least one token, got \(3, 0\)"),
    "lengths of floats": ({"lengths": jnp.ones(3)}, TypeError, "lengths: expected integers, .* dtype float32"),
    "lengths of another batch": (
        {"lengths": jnp.ones(2, int)},
        ValueError,
        r"lengths: .* \(3,\) of prompt, got \(2,\)",
    ),
    "an empty prompt": ({"lengths": jnp.array([1, 0, 2])}, ValueError, "lengths: expected 1 to 5, .* got 0"),
    "a length beyond": ({"lengths": jnp.array([1, 6, 2])}, ValueError, "lengths: expected 1 to 5, .* got 6"),
    "no new tokens": ({"max_new_tokens": 0}, ValueError, "max_new_tokens must be at least 1, got 0"),
    "half a token": ({"max_new_tokens": 1.5}, TypeError, "max_new_tokens must be an int.*, got 1.5"),
    "a huge end token": ({"end_token": [1, 2**31]}, ValueError, "end_token: expected tokens below 2³¹, got 2147483648"),
    "a word": ({"end_token": "a"}, TypeError, "end_token must be an int, got 'a'"),
    "end token": ({"end_token": -1}, ValueError, "end_token must be at least 0, got -1"),
    "too few positions": (
        {"model": Decoder(**SIZES, positions="learned", max_length=7)},
        ValueError,
        "slots: expected at most max_length 7 for learned positions, got 8",
    ),
}


@pytest.mark.parametrize("name", WRONG_CALLS)
def test_generating_says_what_is_wrong(name):
    change, error, text = WRONG_CALLS[name]
    with pytest.raises(error, match=text):
        generate(**{"model": MODEL, "variables": VARIABLES, "prompt": PROMPT, "max_new_tokens": 4} | change)
