"""What a user composes prints as the code that makes it, compares by value and can be pickled."""

import dataclasses
import pickle
import re
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jattn import attention_filter, biases, edits, folds, masks, normalizers, scores
from jattn.rules.grids import static
from jattn.rules.rule import Rule
from jattn.rules.trees import as_pytree
from tests.variants import BIASES, KEYS, MASKS, NORMALIZERS, QUERIES, SCORES, SHAPE, inputs

FACTORIES = {
    name: value
    for module in (normalizers, scores, biases, masks, edits)
    for name, value in vars(module).items()
    if isinstance(value, types.FunctionType)
}
RULES = {
    f"{kind}: {name}": as_rule(variant.call[kind])
    for kind, table, as_rule in (
        ("mask", MASKS, lambda mask: masks.as_mask(True if mask is None else mask)),
        ("bias", BIASES, biases.as_bias),
        ("score", SCORES, scores.as_score),
        ("normalizer", NORMALIZERS, normalizers.as_normalizer),
    )
    for name, variant in table.items()
} | {
    "edit: knock_out": edits.knock_out(),
    "edit: knock_out heads": edits.knock_out([1, 2]),
    "edit: knock_out a share": edits.knock_out(jnp.array([0.0, 0.5, 1.0, 0.0])),
    "edit: forbid": edits.forbid(masks.causal() | masks.prefix(1), heads=[0]),
    "edit: force": edits.force(jnp.ones(KEYS)),
    "edit: force alike": edits.force(masks.prefix(1)),
    "edit: in_turn": edits.in_turn(edits.knock_out([1]), edits.force(masks.prefix(2))),
    "edit: swap": edits.swap(attention_filter(*inputs()[:2])),
    "joined to the right": masks.causal() & (masks.prefix(1) & masks.prefix(2)),
    "all signs": ~(masks.causal(1) & (masks.prefix(3) | ~masks.chunked(2))) | masks.sliding_window(None, None),
    "sum to the right": biases.alibi() + (biases.alibi(offset=1) + biases.alibi(offset=-1)),
    "minus infinity": normalizers.softmax_plus_one(float("-inf")),
}


def halve(weights, grid):
    return weights / 2


def sloped(query, key):
    return -0.1 * abs(query - key)


def is_plain(rule):
    """Says whether a rule holds neither an array nor a function."""
    structure = str(jax.tree.structure(rule))
    return not jax.tree.leaves(rule) and "function" not in structure


@pytest.mark.parametrize("name", RULES)
def test_a_rule_prints_as_the_code_that_makes_it(name):
    rule = RULES[name]
    assert not re.search(r"\b_\w", repr(rule))
    assert not re.search(r"\b_\w", repr(rule.fit(SHAPE)))
    if is_plain(rule):
        assert eval(repr(rule), dict(FACTORIES)) == rule


def test_most_kinds_of_rules_are_made_again():
    """So that the test above is not of nothing."""
    assert sum(map(is_plain, RULES.values())) >= 24


@pytest.mark.parametrize(
    ("rule", "code"),
    [
        (masks.causal() & ~masks.prefix(2), "causal() & ~prefix(2)"),
        (masks.sliding_window(2, 1, offset=3), "sliding_window(2, right=1, offset=3)"),
        (masks.segments(jnp.zeros(5, jnp.int32), jnp.zeros(7, jnp.int32)), "segments(int32[5], key_ids=int32[7])"),
        (masks.causal() & ~masks.as_mask(jnp.ones((5, 7), bool)), "causal() & ~bool[5, 7]"),
        (masks.padding(np.array([1, 2], np.int32)), "padding(int32[2])"),
        (masks.causal(jnp.zeros(2, jnp.int32)), "causal(offset=int32[2])"),
        (scores.soft_cap(scores.cosine(0.5), 5), "soft_cap(cosine(temperature=0.5), 5.0)"),
        (scores.cosine(0.1), "cosine()"),
        (scores.bilinear(jnp.ones((2, 2))), "bilinear(matrix=float32[2, 2])"),
        (biases.alibi(jnp.ones(4)), "alibi(slopes=float32[4])"),
        (biases.relative(jnp.ones((8, 4)), max_distance=5), "relative(float32[8, 4], max_distance=5)"),
        (biases.from_function(sloped), "from_function(sloped)"),
        (normalizers.top_k(8), "top_k(8)"),
        (edits.knock_out([1]), "knock_out(heads=[1])"),
        (edits.in_turn(edits.knock_out(), halve), "in_turn(knock_out(), halve)"),
    ],
)
def test_what_is_printed(rule, code):
    assert repr(rule) == code
    assert repr(masks.segments(jnp.zeros((2, 5), jnp.int32))) == "segments(int32[2, 5])"
    mapped = jax.eval_shape(lambda rule: rule, rule)
    assert repr(mapped) == code


# Two calls of each make equal rules; one call of each, no two.
MADE = {
    "segments": lambda: masks.segments(jnp.array([[0, 1], [1, 1]])),
    "segments of another shape": lambda: masks.segments(jnp.array([0, 1, 1, 1])),
    "segments of other contents": lambda: masks.segments(jnp.array([[0, 1], [1, 2]])),
    "padding": lambda: masks.padding(jnp.array([1, 2])),
    "padding of another dtype": lambda: masks.padding(jnp.array([1, 2], jnp.int16)),
    "prefix": lambda: masks.prefix(jnp.array([1, 2])),
    "as_mask": lambda: masks.as_mask(np.array([True, False])),
    "combination": lambda: masks.causal() & ~jnp.array([True, False]),
    "combination, the other way": lambda: ~jnp.array([True, False]) & masks.causal(),
    "from_function": lambda: biases.from_function(sloped),
    "alibi": lambda: biases.alibi(),
    "alibi with slopes": lambda: biases.alibi(jnp.array([0.5, jnp.nan])),
    "relative": lambda: biases.relative(jnp.ones((8, 2))),
    "bilinear": lambda: scores.bilinear(jnp.ones((2, 2))),
    "additive": lambda: scores.additive(jnp.ones((2, 3)), jnp.ones((2, 3)), jnp.ones(3)),
    "scaled_dot": lambda: scores.scaled_dot(jnp.ones(())),
    "scaled_dot of a number": lambda: scores.scaled_dot(1.0),
    "softmax_plus_one": lambda: normalizers.softmax_plus_one(jnp.ones((2, 1, 1))),
    "knock_out": lambda: edits.knock_out(jnp.ones(2)),
    "force": lambda: edits.force(jnp.ones(3)),
    "in_turn": lambda: edits.in_turn(edits.knock_out([1]), sloped),
}


def test_rules_are_equal_by_value():
    first, second = ([make() for make in MADE.values()] for _ in range(2))
    for i, rule in enumerate(first):
        assert [j for j, other in enumerate(second) if rule == other] == [i]
    assert [hash(rule) for rule in first] == [hash(rule) for rule in second]
    assert len(set(first + second)) == len(MADE)
    assert first[0] != "segments"


@pytest.mark.parametrize("name", MADE)
def test_a_rule_is_the_same_after_pickle(name):
    rule = MADE[name]()
    again = pickle.loads(pickle.dumps(rule))
    assert again == rule
    assert hash(again) == hash(rule)
    assert repr(again).replace(", int32[2, 2]", "") == repr(rule)


def test_a_rule_can_be_a_static_argument():
    traced = []

    def count(x, rule):
        traced.append(rule)
        return x

    counted = jax.jit(count, static_argnums=1)
    for _ in range(2):
        counted(1.0, MADE["segments"]())
    assert len(traced) == 1
    counted(1.0, MADE["segments of other contents"]())
    assert len(traced) == 2


def test_a_rule_whose_array_is_being_traced_is_not_compared():
    def compare(lengths):
        assert masks.padding(lengths) == masks.padding(lengths)

    def look_up(lengths):
        hash(masks.causal() & masks.padding(lengths))

    for function in (compare, look_up):
        with pytest.raises(TypeError, match=r"to compare or to hash, got int32\[2\] that is being traced"):
            jax.jit(function)(jnp.array([1, 2]))


def test_jax_never_looks_at_the_contents_of_a_rule(monkeypatch):
    def refuse(*_):
        raise AssertionError("compared or hashed")

    monkeypatch.setattr(Rule, "__eq__", refuse)
    monkeypatch.setattr(Rule, "__hash__", refuse)
    query, key, _ = inputs(QUERIES, KEYS)
    for mask in (masks.padding(jnp.array([3, 4])), masks.padding(jnp.array([5, 6]))):
        attention_filter(query, key, mask=mask).entropy()
        jax.jit(lambda mask: jax.tree.map(jnp.sum, mask))(mask)


def test_structures_of_two_classes_differ_though_their_fields_are_equal():
    @as_pytree
    @dataclasses.dataclass(frozen=True)
    class One:
        size: int = static(default=1)

    @as_pytree
    @dataclasses.dataclass(frozen=True)
    class Other:
        size: int = static(default=1)

    assert jax.tree.structure(One()) == jax.tree.structure(One())
    assert jax.tree.structure(One()) != jax.tree.structure(Other())
    assert jax.tree.structure(folds.FOLDS["max_score"]()) != jax.tree.structure(folds.FOLDS["effective_keys"]())
