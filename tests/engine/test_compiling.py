"""Outside of jit, a second call with rules written anew traces and compiles nothing."""

import gc
import weakref

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.core import Tracer

import jattn
from jattn import attend, attention_filter, biases, edits, folds, masks, normalizers, scores
from tests.compilations import counted
from tests.sampled import sampled
from tests.variants import HEAD_DIM, HEADS, KEYS, QUERIES, inputs

LENGTHS = np.array([5, 9])


def banded(query, key):
    return abs(query - key) < 3


def sloped(head, query, key):
    return -0.1 * (1 + head) * abs(query - key)


def halved(weights, grid):
    return weights / 2


def largest(weights, grid):
    return weights.max(-1)


def some_mask():
    return masks.causal(2) & masks.padding(jnp.asarray(LENGTHS)) & ~masks.from_function(banded)


def some_filter():
    query, key, _ = inputs()
    return attention_filter(query, key, mask=some_mask(), bias=biases.from_function(sloped))


def check_second(call):
    """Calls twice; a third time for what the second prepared, such as arrays of a length not seen before."""
    first = jax.block_until_ready(call())
    with counted() as happened:
        second = jax.block_until_ready(call())
    assert happened == []
    jax.tree.map(np.testing.assert_array_equal, first, second)


ATTENDING = {
    "mask": lambda q, k, v: attend(q, k, v, mask=some_mask()),
    "blocks": lambda q, k, v: attend(q, k, v, mask=masks.causal(), block_size=3),
    "bias": lambda q, k, v: attend(q, k, v, bias=biases.alibi(jnp.asarray([0.1, 0.2, 0.3, 0.4])) + biases.alibi()),
    "score": lambda q, k, v: attend(q, k, v, score=scores.soft_cap(scores.cosine(0.3), 2.0)),
    "normalizer": lambda q, k, v: attend(q, k, v, normalizer=normalizers.top_k(3)),
    "edit": lambda q, k, v: attend(q, k, v, edit=edits.in_turn(edits.knock_out([1]), halved)),
    "drop-in": lambda q, k, v: jattn.dot_product_attention(q, k[..., :6], v, key_value_seq_lengths=LENGTHS),
}


@sampled("name", ATTENDING, keep=2)
@pytest.mark.parametrize("way", ["bare", "grad", "vmap"])
def test_attention_is_compiled_once(name, way):
    query, key, value = inputs()

    def call():
        attention = ATTENDING[name]
        if way == "grad":
            # A function made anew: what is kept belongs to the rules, not to the caller.
            return jax.grad(lambda *arrays: jnp.sum(attention(*arrays) ** 2), (0, 1, 2))(query, key, value)
        if way == "vmap":
            return jax.vmap(lambda *arrays: attention(*arrays))(*(x[None] for x in (query, key, value)))
        return attention(query, key, value)

    check_second(call)


ASKING = {
    "weights": lambda: some_filter().weights(),
    "scores": lambda: some_filter().scores(),
    "rows": lambda: some_filter().rows([1, 3]),
    "a row": lambda: some_filter()[..., 3, :],
    "summarize": lambda: some_filter().summarize("entropy", "received", best=folds.top_k(2), map=folds.pool(3, 3)),
    "mass": lambda: some_filter().mass(masks.from_function(banded)),
    "fold": lambda: some_filter().fold(folds.from_function(largest)),
    "apply": lambda: some_filter().apply(jnp.ones((2, KEYS, 1, 3))),
    "apply_transposed": lambda: some_filter().apply_transposed(jnp.ones((2, QUERIES, HEADS, 3))),
    "uniform": lambda: some_filter().uniform().entropy(),
}


@sampled("name", ASKING, keep=4)
def test_what_is_asked_of_a_filter_is_compiled_once(name):
    check_second(ASKING[name])


def test_a_step_of_decoding_is_compiled_once():
    query, key, value = inputs(QUERIES, QUERIES, kv_heads=HEADS)

    def call():
        cache = jattn.KVCache.empty((2,), slots=KEYS, num_kv_heads=HEADS, head_dim=HEAD_DIM)
        cache = cache.append(key, jnp.concatenate([value, value], -1))
        return jattn.attend_cached(query[:, -1:], cache, jnp.full((2, 1), QUERIES - 1))

    check_second(call)


@pytest.mark.exhaustive
def test_generation_is_compiled_once():
    model, prompt = jattn.Decoder(vocabulary=7, width=4), jnp.ones((2, 3), jnp.int32)
    variables = model.init(jax.random.key(0), prompt)
    check_second(lambda: jattn.generate(jattn.Decoder(vocabulary=7, width=4), variables, prompt, max_new_tokens=2))


def test_a_layer_compiles_nothing_when_it_is_applied_again():
    """Flax itself traces an initialiser for each parameter, to check its shape; that compiles nothing."""
    layer, x = jattn.MultiHeadAttention(num_heads=2), jnp.ones((2, 6, 8))

    def call():
        variables = layer.init(jax.random.key(0), x)
        out = layer.apply(variables, x, mask=masks.causal() & masks.padding(np.array([3, 6])))
        return out, jattn.capture_filters(layer, variables, x)[1]["attention"].entropy()

    jax.block_until_ready(call())
    with counted() as happened:
        call()
    assert "compile" not in happened


def test_a_knock_out_is_compiled_once():
    layer, x = jattn.MultiHeadAttention(num_heads=2), jnp.ones((2, 6, 8))
    variables = layer.init(jax.random.key(0), x)

    def call():
        layer, batch = jattn.MultiHeadAttention(num_heads=2), {"inputs": {"inputs_q": x}}
        keys = masks.causal() & masks.padding(np.array([3, 6]))
        lost = jattn.knock_out(layer, variables, batch, loss=mean_square, keys=keys).together.loss
        return lost, jattn.judge(layer, variables, batch, loss=mean_square).loss

    jax.block_until_ready(call())
    with counted() as happened:
        call()
    assert "compile" not in happened


def mean_square(out, batch):
    return jnp.mean(out**2)


def test_a_function_made_anew_is_another_rule():
    """Functions compare by identity, as everywhere in JAX."""
    query, key, value = inputs()

    def call():
        return attend(query, key, value, mask=masks.from_function(lambda query, key: key <= query))

    call()
    with counted() as happened:
        call()
    assert "compile" in happened


@sampled("kind", ["mask", "bias", "normalizer", "edit", "score"], keep=1)
def test_a_function_that_closes_over_what_is_traced_has_its_gradient_and_is_not_kept(kind):
    query, key, value = inputs()

    made = []

    def rules(slope):
        chosen = kinds(slope)
        if isinstance(slope, Tracer):
            made.extend(weakref.ref(leaf) for leaf in [slope])
        return chosen

    def kinds(slope):
        return {
            "mask": {"mask": masks.from_function(lambda query, key: key <= query + 10 * slope)},
            "bias": {"bias": biases.from_function(lambda query, key: -slope * abs(query - key))},
            "normalizer": {"normalizer": lambda scores, allowed: jax.nn.softmax(slope * scores)},
            "edit": {"edit": lambda weights, grid: slope * weights},
            "score": {"score": lambda query, key: slope * query @ jnp.swapaxes(key, -1, -2)},
        }[kind]

    def loss(slope):
        key_per_head, value_per_head = (jnp.repeat(x, 2, axis=-2) for x in (key, value))
        return jnp.sum(attend(query, key_per_head, value_per_head, **rules(slope)) ** 2)

    for slope in (0.5, 0.7):
        found = jax.grad(loss)(slope)
        expected = 0 if kind == "mask" else (loss(slope + 1e-2) - loss(slope - 1e-2)) / 2e-2
        np.testing.assert_allclose(found, expected, rtol=2e-2, atol=1e-3)
    gc.collect()
    assert not [one for one in made if one() is not None]


class Slope:
    """Has a method that takes its number from the object."""

    def __init__(self, slope):
        self.slope = slope

    def bias(self, query, key):
        return -self.slope * abs(query - key)


CLOSING = {
    "mask": lambda slope: {"mask": masks.causal(3) & masks.from_function(lambda query, key: key <= query + 10 * slope)},
    "bias": lambda slope: {"bias": biases.from_function(lambda query, key: -slope * abs(query - key))},
    "bias, a method": lambda slope: {"bias": biases.from_function(Slope(slope).bias)},
    "normalizer": lambda slope: {"normalizer": lambda scores, allowed: jax.nn.softmax(slope * scores)},
    "edit": lambda slope: {"edit": lambda weights, grid: slope * weights},
    "score": lambda slope: {"score": lambda query, key: slope * query @ jnp.swapaxes(key, -1, -2)},
    "soft_cap": lambda slope: {"score": scores.soft_cap(scores.cosine(0.5), slope)},
}


@sampled("way", ["bare", "jit around grad", "grad around jit"], keep=1)
@sampled("num_rows", [1, 5], keep=1)
@sampled("kind", CLOSING, keep=1)
def test_what_a_function_closes_over_has_its_gradient_for_any_number_of_rows(kind, num_rows, way):
    draw = np.random.default_rng(1).standard_normal
    query, key, value = (jnp.asarray(draw((length, 1, 2)), jnp.float32) for length in (num_rows, 4, 4))

    def loss(slope):
        return jnp.sum(attend(query, key, value, **{"mask": masks.causal(3)} | CLOSING[kind](slope)) ** 2)

    found = {
        "bare": jax.grad(loss),
        "jit around grad": jax.jit(jax.grad(loss)),
        "grad around jit": jax.grad(jax.jit(loss)),
    }[way](0.7)
    here = jax.jit(loss)
    expected = 0 if kind == "mask" else (here(0.7 + 1e-2) - here(0.7 - 1e-2)) / 2e-2
    np.testing.assert_allclose(found, expected, rtol=2e-2, atol=1e-3)
