"""Functions of a user's own as masks, biases, scores, normalizers and edits: what they are given, what is refused."""

import functools
import inspect
import operator

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from jattn import attend, attention_filter, biases, edits, masks, normalizers, scores
from jattn.rules.biases import as_bias
from jattn.rules.functions import count_indices
from jattn.rules.grids import whole_grid
from jattn.rules.mask import as_mask
from tests.sampled import sampled

BATCH, HEADS, QUERIES, KEYS = 2, 3, 5, 5
QUERY_INDEX, KEY_INDEX = np.arange(QUERIES)[:, None], np.arange(KEYS)[None, :]


def near(query, key, window=2):
    return abs(query - key) < window


class Near:
    window = 2

    def __call__(self, query, key, scale=1):
        return abs(query - key) < self.window * scale

    def of_head(self, head, query, key):
        return abs(query - key) < head + 1

    @staticmethod
    def fixed(query, key, /):
        return abs(query - key) < 2

    @classmethod
    def of_class(cls, query, key):
        return abs(query - key) < cls.window


def any_number(*indices):
    query, key = indices
    return near(query, key)


def of_batch(batch, head, query, key, window=1):
    return abs(query - key) < window + batch + head


def by_keyword(query, key, *, window=2):
    return abs(query - key) < window


def needs_window(query, key, *, window):
    return abs(query - key) < window


NEAR = abs(QUERY_INDEX - KEY_INDEX)
OF_HEAD = np.arange(HEADS)[:, None, None] + 1 > NEAR
OF_BATCH = 1 + np.arange(BATCH)[:, None, None, None] + np.arange(HEADS)[:, None, None] > NEAR

FUNCTIONS = {
    "a default": (near, NEAR < 2),
    "a lambda with a default": (lambda query, key, w=2: abs(query - key) < w, NEAR < 2),
    "a callable object": (Near(), NEAR < 2),
    "a bound method": (Near().of_head, OF_HEAD),
    "a static method": (Near.fixed, NEAR < 2),
    "a class method": (Near.of_class, NEAR < 2),
    "a partial by keyword": (functools.partial(near, window=2), NEAR < 2),
    "a partial by position": (functools.partial(of_batch, 0), OF_BATCH[0]),
    "a partial of what a function needs": (functools.partial(needs_window, window=2), NEAR < 2),
    "a builtin": (operator.ge, QUERY_INDEX >= KEY_INDEX),
    "a jnp function": (jnp.greater_equal, QUERY_INDEX >= KEY_INDEX),
    "a jitted function": (jax.jit(near), NEAR < 2),
    "any number": (any_number, NEAR < 2),
    "any number besides three": (lambda head, query, key, *others: abs(query - key) < head + 1, OF_HEAD),
    "all defaults": (lambda query=0, key=0: abs(query - key) < 2, NEAR < 2),
    "keyword only": (by_keyword, NEAR < 2),
    "the head": (lambda head, query, key: abs(query - key) < head + 1, OF_HEAD),
    "the batch entry": (of_batch, OF_BATCH),
}
"""A name: a function, and the mask it makes."""


SHAPE = (BATCH, HEADS, QUERIES, KEYS)


def evaluated(rule):
    return np.broadcast_to(rule.fit(SHAPE).evaluate(whole_grid(SHAPE)), SHAPE)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_function_gets_an_index_for_each_parameter_without_a_default(name):
    function, expected = FUNCTIONS[name]
    assert as_mask(function) == masks.from_function(function)
    assert_array_equal(evaluated(as_mask(function)), np.broadcast_to(expected, SHAPE))
    as_floats = functools.wraps(function)(lambda *indices: 1.0 * function(*indices))
    assert_array_equal(evaluated(as_bias(as_floats)), np.broadcast_to(expected, SHAPE))


def test_a_builtin_that_does_not_tell_its_parameters_gets_query_and_key():
    with pytest.raises(ValueError, match="no signature found"):
        inspect.signature(max)
    assert count_indices(max, "here") == 2
    assert_array_equal(evaluated(as_mask(np.greater)), np.broadcast_to(QUERY_INDEX > KEY_INDEX, SHAPE))


@sampled(
    ("batch", "implementation"),
    [(batch, implementation) for batch in ((), (2,), (2, 1, 3)) for implementation in ("dense", "blocked")],
    keep=[((2, 1, 3), "dense"), ((2, 1, 3), "blocked")],
)
def test_batch_entries_are_counted_with_the_last_axis_fastest(batch, implementation, heads):
    ones = jnp.ones((*batch, 4, 2, 3))
    entry = np.arange(int(np.prod(batch))).reshape(*batch, 1, 1, 1)

    def mask(batch, head, query, key):
        return key <= batch + head

    out = attend(
        ones,
        ones,
        jnp.broadcast_to(jnp.arange(4.0)[:, None, None], ones.shape),
        mask=mask,
        implementation=implementation,
        block_size=2 if implementation == "blocked" else None,
    )
    expected = np.minimum(entry + np.arange(2)[:, None], 3) / 2
    assert_allclose(out, np.broadcast_to(expected, out.shape), rtol=1e-6)


def rotated(score, batch, head, query, key):
    return jnp.where((query + key + batch) % 2 == 0, score, -score) * (1 + head)


@pytest.mark.parametrize("implementation", ["dense", "blocked"])
def test_a_modified_score_knows_batch_head_query_and_key(implementation, heads):
    rng = np.random.default_rng(0)
    query, key = (jnp.asarray(rng.standard_normal((BATCH, QUERIES, HEADS, 4)), jnp.float32) for _ in range(2))
    products = np.einsum("btnh,bsnh->bnts", *(np.asarray(x, np.float64) for x in (query, key)))
    entry, head = np.arange(BATCH)[:, None, None, None], np.arange(HEADS)[:, None, None]
    sign = np.where((QUERY_INDEX + KEY_INDEX + entry) % 2 == 0, 1, -1)
    score = scores.modified(scores.scaled_dot(1.0), rotated)
    filter = attention_filter(query, key, score=score, block_size=2 if implementation == "blocked" else None)
    assert_allclose(filter.scores(), products * sign * (1 + head), atol=1e-5)
    assert repr(score) == "modified(scaled_dot(scale=1.0), rotated)"
    assert scores.modified(scores.scaled_dot(1.0), rotated) == score
    few = scores.modified(lambda query, key: query @ jnp.swapaxes(key, -1, -2), lambda score, query, key: score + key)
    assert_allclose(attention_filter(query, key, score=few).scores(), products + KEY_INDEX, atol=1e-5)
    graded = scores.modified(scores.scaled_dot(1.0), lambda score, head, query, key, by=2: score + by * head)
    assert_allclose(attention_filter(query, key, score=graded).scores(), products + 2 * head, atol=1e-5)


REFUSED = {
    "one parameter": ({"mask": lambda key: key > 0}, r"expected a function of \(query, key\), .* got <lambda>\(key\)"),
    "five": ({"bias": lambda a, b, c, d, e: 0.0}, r"got <lambda>\(a, b, c, d, e\)"),
    "a keyword it needs": ({"mask": needs_window}, r"got needs_window\(query, key, \*, window\)"),
    "no parameters": ({"bias": lambda: 0.0}, r"got <lambda>\(\)"),
    "no array": ({"mask": lambda query, key: "all"}, "mask: the function must return an array, got str"),
    "nothing": ({"bias": lambda query, key: None}, "bias: the function must return an array, got NoneType"),
    "integers for a mask": ({"mask": lambda query, key: query - key}, "must return booleans .* got dtype int32"),
    "booleans for a bias": (
        {"bias": lambda query, key: query > key},
        "bias: the function must return floats, got dtype bool",
    ),
    "another shape": ({"bias": lambda query, key: jnp.zeros(7)}, r"of shape \(5, 5\), got \(7,\)"),
    "a mask that was not called": (
        {"mask": masks.causal},
        r"the function causal itself; call it: masks.causal\(\)",
    ),
    "a window that was not called": ({"mask": masks.sliding_window}, r"call it: masks.sliding_window\(...\)"),
    "a mask by name": ({"mask": "causal"}, r"mask: .* got 'causal'; did you mean masks.causal\(\)\?"),
    "a mask by half its name": ({"mask": "window"}, r"got 'window'; did you mean masks.sliding_window\(...\)\?"),
    "a name of nothing": ({"mask": "qqq"}, r"got 'qqq'$"),
    "a bias by name": ({"bias": "alibi"}, r"bias: .* got 'alibi'; did you mean biases.alibi\(\)\?"),
    "a bias that was not called": ({"bias": biases.alibi}, r"call it: biases.alibi\(\)"),
    "a score by name": ({"score": "cosine"}, r"score: .* got 'cosine'; did you mean scores.cosine\(\)\?"),
    "a score that was not called": ({"score": scores.cosine}, r"call it: scores.cosine\(\)"),
    "a normalizer by name": ({"normalizer": "softmax"}, r"did you mean normalizers.softmax\(\)\?"),
    "a normalizer that was not called": ({"normalizer": normalizers.softmax}, r"call it: normalizers.softmax\(\)"),
    "an edit by name": ({"edit": "knock_out"}, r"did you mean edits.knock_out\(\)\?"),
    "an edit that was not called": ({"edit": edits.force}, r"call it: edits.force\(...\)"),
    "a mask for a bias": ({"bias": masks.causal()}, r"bias: .* got causal\(\)"),
    "a bias for a mask": ({"mask": biases.alibi()}, r"mask: .* got alibi\(\)"),
    "a normalizer for a score": ({"score": normalizers.softmax()}, r"score: .* got softmax\(\)"),
    "the softmax of jax": (
        {"normalizer": jax.nn.softmax},
        r"normalizer: expected a jattn normalizer or a function of \(scores, allowed\), got softmax\(x, axis=-1",
    ),
    "scores of integers": (
        {"score": lambda q, k: jnp.zeros((*q.shape[:-1], k.shape[-2]), int)},
        "score: .* floats, got dtype int",
    ),
    "scores of another shape": ({"score": lambda q, k: q}, r"score: the function got .* must return shape \(.*5, 5\)"),
    "scores of three": ({"score": lambda q, k, v: q}, r"a function of \(query, key\), got <lambda>\(q, k, v\)"),
    "weights of another shape": (
        {"normalizer": lambda s, allowed: s[..., :1]},
        "normalizer: the function must return shape",
    ),
    "weights of booleans": (
        {"normalizer": lambda s, allowed: s > 0},
        "normalizer: the function must return floats, got",
    ),
    "no weights": (
        {"normalizer": lambda s, allowed: None},
        "normalizer: the function must return an array, got NoneType",
    ),
    "edited to integers": (
        {"edit": lambda weights, grid: jnp.ones_like(weights, int)},
        "edit: .* floats, got dtype int",
    ),
    "edited to another shape": (
        {"edit": lambda weights, grid: weights[..., :1]},
        "edit: the function must return shape",
    ),
    "an edit of one": ({"edit": lambda weights: weights}, r"a function of \(weights, grid\), got <lambda>\(weights\)"),
    "a modified score of integers": (
        {"score": scores.modified(scores.scaled_dot(), lambda score, q, k: q + k + 0 * score.astype(int))},
        "modified: the function must return floats",
    ),
}
"""A name: arguments of `attend`, and the error."""


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_no_such_function_is_refused_in_words(name):
    arguments, message = REFUSED[name]
    zeros = jnp.zeros((BATCH, QUERIES, HEADS, 4))
    for call in (
        lambda: attend(zeros, zeros, zeros, **arguments),
        lambda: attention_filter(zeros, zeros, **arguments).weights(),
    ):
        with pytest.raises((TypeError, ValueError), match=message):
            call()


def test_a_set_of_keys_that_is_no_such_function_is_named_as_what_it_is():
    filter = attention_filter(jnp.zeros((3, 1, 4)), jnp.zeros((3, 1, 4)))
    assert_allclose(filter.mass(lambda query, key: key == 0), np.full((1, 3), 1 / 3), rtol=1e-6)
    with pytest.raises(TypeError, match=r"^mass: keys: expected a function of \(query, key\), .* got <lambda>\(key\)"):
        filter.mass(lambda key: key == 0)
    with pytest.raises(TypeError, match=r"^mass: keys: .* got the function causal itself; call it: masks.causal\(\)"):
        filter.mass(masks.causal)
    with pytest.raises(TypeError, match=r"^forbid: keys: expected a function of \(query, key\)"):
        edits.forbid(lambda: True)


@pytest.mark.parametrize("function", [lambda score: score, lambda s, b, h, q, k, more: s, "soft_cap"])
def test_what_cannot_modify_a_score_is_refused(function):
    with pytest.raises(TypeError, match=r"modified: expected a function of \(score, query, key\)"):
        scores.modified(scores.scaled_dot(), function)
