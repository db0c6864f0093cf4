import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from jattn import attend, attention_filter, edits, masks, normalizers
from jattn.rules.grids import whole_grid
from tests import reference
from tests.sampled import sampled
from tests.variants import BIASES, HEADS, KEYS, MASKS, QUERIES, SCORES, SHAPE, Variant, array_mask, inputs, join, rng

close = functools.partial(assert_allclose, rtol=2e-5, atol=2e-6)

QUERY, KEY, VALUE = inputs()
SOME = array_mask(QUERIES, KEYS)
"""Has an empty row."""
MASK = Variant(
    {"mask": masks.sliding_window(3, 1) & SOME.call["mask"]},
    {"mask": lambda entry, head, i, j: i - 3 <= j <= i + 1 and SOME.rules["mask"](entry, head, i, j)},
)
"""Without an edit its blocks of three rows would leave keys out."""
SIGMOID = Variant({"normalizer": normalizers.sigmoid()}, {"normalizer": reference.sigmoid(np.zeros(HEADS))})
CALLS = {"softmax": join(MASK, BIASES["array"]), "sigmoid": join(MASK, BIASES["array"], SIGMOID)}

OTHER_QUERY, OTHER_KEY, _ = inputs(kv_heads=1, seed=8)
OTHER = join(SCORES["scaled_dot, scale by head"], BIASES["array of heads"], MASKS["padding of queries"])
"""What is swapped in: its own scores, heads, arrays and empty rows."""


@functools.cache
def weights_of(name):
    """Computes the weights that a call has without an edit."""
    return reference.attention_filter(QUERY, KEY, **CALLS[name].rules)


@functools.cache
def other_weights():
    """Computes the weights that are swapped in."""
    return reference.attention_filter(OTHER_QUERY, OTHER_KEY, **OTHER.rules)


def other_filter(**call):
    """Makes the filter that is swapped in."""
    return attention_filter(OTHER_QUERY, OTHER_KEY, **OTHER.call, **call)


# Every edit, restated on the whole array of weights

CHOSEN = rng(11).random((*SHAPE[:-3], 1, QUERIES, KEYS)) < 0.3
CHOSEN[0, 0, 2], CHOSEN[1, 0, 3] = True, False
PUT = rng(12).random((HEADS, 1, KEYS)).astype(np.float32)
PUT_ALL = rng(13).random(SHAPE).astype(np.float32)
SHARES = np.array([0.0, 0.3, 1.0, 0.75], np.float32)
SHARES_OF_ROWS = rng(14).random((2, 1, QUERIES, 1)).astype(np.float32)
EARLIER = np.tri(QUERIES, KEYS, dtype=bool)


def forbidden(weights, keys):
    """Takes some keys away, and gives the others of a row as much as it had."""
    rest = np.where(keys, 0, weights)
    for row in np.ndindex(rest.shape[:-1]):
        if rest[row].sum() > 0:
            rest[row] *= weights[row].sum() / rest[row].sum()
    return rest


def alike(keys):
    """Shares each row among some keys."""
    chosen = np.broadcast_to(keys, SHAPE).astype(float)
    return chosen / np.maximum(chosen.sum(axis=-1, keepdims=True), 1)


def shared(weights, edited, shares):
    """Mixes weights and edited ones."""
    shares = shares[:, None, None] if shares.ndim == 1 else shares
    return (1 - shares) * weights + shares * edited


def of_heads(weights, edited, heads):
    """Puts the edited weights of some heads in place."""
    out = np.array(weights)
    out[:, heads] = edited[:, heads]
    return out


def doubled(weights, grid):
    """Doubles the weights of even keys, in head 1 of odd queries."""
    return jnp.where((grid.key % 2 == 0) & (grid.head == 1) & (grid.query % 2 == 1), 2 * weights, weights)


def doubled_weights(weights):
    """Restates `doubled`."""
    out = np.array(weights)
    out[:, 1, 1::2, ::2] *= 2
    return out


EDITS = {
    "knock_out": (edits.knock_out(), np.zeros_like),
    "knock_out, heads": (edits.knock_out([1, -1]), lambda w: of_heads(w, 0 * w, [1, 3])),
    "knock_out, no head": (edits.knock_out([]), lambda w: w),
    "knock_out, shares": (edits.knock_out(jnp.asarray(SHARES)), lambda w: shared(w, 0, SHARES)),
    "forbid, mask object": (edits.forbid(masks.causal()), lambda w: forbidden(w, EARLIER)),
    "forbid, array, heads": (
        edits.forbid(CHOSEN, np.array([0, 2])),
        lambda w: of_heads(w, forbidden(w, CHOSEN), [0, 2]),
    ),
    "forbid, array of keys, shares of rows": (
        edits.forbid(jnp.arange(KEYS) < 4, SHARES_OF_ROWS),
        lambda w: shared(w, forbidden(w, np.arange(KEYS) < 4), SHARES_OF_ROWS),
    ),
    "force, array by head": (edits.force(PUT), lambda w: np.broadcast_to(PUT, SHAPE)),
    "force, array, shares": (edits.force(jnp.asarray(PUT_ALL), SHARES), lambda w: shared(w, PUT_ALL, SHARES)),
    "force, booleans": (edits.force(CHOSEN), lambda w: alike(CHOSEN)),
    "force, mask object, heads": (edits.force(masks.causal(), [2]), lambda w: of_heads(w, alike(EARLIER), [2])),
    "swap, heads": (edits.swap(other_filter(), [0, 3]), lambda w: of_heads(w, other_weights(), [0, 3])),
    "function": (doubled, doubled_weights),
    "in turn": (
        edits.in_turn(edits.swap(other_filter(), [1]), edits.in_turn(doubled), edits.forbid(CHOSEN)),
        lambda w: forbidden(doubled_weights(of_heads(w, other_weights(), [1])), CHOSEN),
    ),
    "in turn, none": (edits.in_turn(), lambda w: w),
}


def test_the_weights_of_every_edit_are_restated():
    """Rows of sigmoids do not sum to one."""

    @jax.jit
    def weights(query, key):
        call = CALLS["sigmoid"].call
        return {edit: attention_filter(query, key, edit=made, **call).weights() for edit, (made, _) in EDITS.items()}

    for edit, found in weights(QUERY, KEY).items():
        close(found, EDITS[edit][1](weights_of("sigmoid")), err_msg=edit)


@sampled("heads", ["walked", "at once"], keep=1, indirect=True)
def test_attention_with_an_edit_is_its_weights_times_the_values(heads):
    names = [name for name in EDITS if "," in name or name == "in turn"]

    @jax.jit
    def outputs(query, key, value):
        call = CALLS["softmax"].call | {"block_size": 3}
        return {name: attend(query, key, value, edit=EDITS[name][0], **call) for name in names}

    for edit, found in outputs(QUERY, KEY, VALUE).items():
        expected = EDITS[edit][1](weights_of("softmax"))
        close(found, reference.average(expected, VALUE), err_msg=edit, atol=1e-5)


ASKED_FOR = {
    "all": (lambda filter: filter.weights(), lambda w: w),
    "rows": (lambda filter: filter.rows(jnp.array([5, 0, -1, 5])), lambda w: w[..., [5, 0, -1, 5], :]),
    "rows of a head": (lambda filter: filter[..., 3, 2:5, 1::3], lambda w: w[..., 3, 2:5, 1::3]),
    "pairs": (lambda filter: filter[:, [0, 3, 1], [6, 0, 2]], lambda w: w[:, [0, 3, 1], [6, 0, 2]]),
}


@pytest.mark.exhaustive
@sampled("heads", ["walked", "at once"], keep=1, indirect=True)
def test_parts_of_edited_filters_are_slices_of_their_weights(heads):
    edit = edits.in_turn(edits.swap(other_filter(), [1]), edits.force(PUT_ALL, SHARES), edits.forbid(CHOSEN, [0, 2]))
    weights = shared(of_heads(weights_of("softmax"), other_weights(), [1]), PUT_ALL, SHARES)
    weights = of_heads(weights, forbidden(weights, CHOSEN), [0, 2])

    @jax.jit
    def parts(query, key):
        filter = attention_filter(query, key, edit=edit, block_size=3, **CALLS["softmax"].call)
        return {part: ask(filter) for part, (ask, _) in ASKED_FOR.items()}

    for part, found in parts(QUERY, KEY).items():
        close(found, ASKED_FOR[part][1](weights), err_msg=part, rtol=2e-4)


# Which heads


def test_an_array_of_heads_may_differ_from_call_to_call_without_compiling_anew():
    traced = []

    @jax.jit
    def compute(shares):
        traced.append(shares)
        call = CALLS["softmax"].call | {"block_size": 3}
        return attention_filter(QUERY, KEY, edit=edits.forbid(CHOSEN, shares), **call).weights()

    weights = weights_of("softmax")
    for shares in (SHARES, 1 - SHARES, np.zeros(HEADS, np.float32)):
        close(compute(shares), shared(weights, forbidden(weights, CHOSEN), shares))
    assert len(traced) == 1


def test_shares_of_zero_and_one_are_exactly_none_and_all():
    other, weights = jnp.asarray(other_weights(), jnp.float32), jnp.asarray(weights_of("softmax"), jnp.float32)
    for make in (functools.partial(edits.forbid, CHOSEN), functools.partial(edits.force, other), edits.knock_out):
        by_share, by_index, of_all = (
            make(heads=heads).fit(SHAPE)(weights, whole_grid(SHAPE))
            for heads in (jnp.array([1.0, 0, 0, 1]), [0, 3], None)
        )
        assert_array_equal(by_share, by_index)
        assert_array_equal(by_share, of_heads(weights, of_all, [0, 3]))


@pytest.mark.exhaustive
def test_gradients_of_shares_are_those_of_finite_differences():
    """At exactly 0 and 1, too."""
    with jax.enable_x64(True):
        query, key, value = inputs(4, 5, dtype=np.float64)
        other, target = inputs(4, 5, dtype=np.float64, seed=3)[0], jnp.asarray(rng(4).standard_normal((2, 4, HEADS, 3)))
        keys = masks.from_function(lambda query, key: (query + key) % 3 == 0)

        @jax.jit
        @jax.value_and_grad
        def loss(shares):
            edit = edits.in_turn(
                edits.swap(attention_filter(other, key), shares["swap"]),
                edits.forbid(keys, shares["forbid"]),
                edits.knock_out(shares["knock_out"]),
            )
            return jnp.sum(target * attend(query, key, value, mask=masks.causal(2), edit=edit, block_size=3))

        at = {
            "swap": jnp.array([[0.0], [1], [0], [0.5]]),
            "forbid": jnp.array([1.0, 0.4, 0, 1]),
            "knock_out": jnp.array([0.0, 1, 0.4, 0]),
        }
        gradients = loss(at)[1]
        for name, shares in at.items():
            for index in np.ndindex(shares.shape):
                above, below = (loss(at | {name: shares.at[index].add(step)})[0] for step in (1e-5, -1e-5))
                close(gradients[name][index], (above - below) / 2e-5, rtol=1e-6, atol=1e-9)
        assert np.all(gradients["swap"] != 0)
        # Behind a knock-out of all of head 1 nothing is left to be forbidden.
        assert_array_equal(gradients["forbid"] == 0, [False, True, False, False])
        assert np.all(gradients["knock_out"] != 0)


# Forbidding


@pytest.mark.exhaustive
def test_forbidding_keys_of_a_softmax_is_masking_them():
    mask, bias = CALLS["softmax"].call["mask"], CALLS["softmax"].call["bias"]
    target = jnp.asarray(rng(4).standard_normal((2, QUERIES, HEADS, VALUE.shape[-1])), jnp.float32)

    def loss(query, key, value, bias, **call):
        out = attend(query, key, value, bias=bias, block_size=3, **call)
        return jnp.sum(target * out), out

    @jax.jit
    def both(*arrays):
        derivative = functools.partial(jax.grad, argnums=(0, 1, 2, 3), has_aux=True)
        forbidding = derivative(functools.partial(loss, mask=mask, edit=edits.forbid(CHOSEN)))
        return forbidding(*arrays), derivative(functools.partial(loss, mask=mask & ~CHOSEN))(*arrays)

    forbidding, masking = both(QUERY, KEY, VALUE, bias)
    jax.tree.map(functools.partial(close, atol=1e-5, rtol=1e-4), forbidding, masking)


def test_forbidding_almost_all_of_a_row_is_masking():
    """Weights of 1e-13, 1e-26 and 1e-37 are left, the squares of which are zero in float32."""
    zeros, first = jnp.zeros((4, 1, 2)), jnp.arange(4) == 0

    @jax.jit
    def look(scores):
        def weights(scores, **call):
            weights = attention_filter(zeros, zeros, bias=scores, **call).weights()[0, 0]
            return weights, weights

        derivative = functools.partial(jax.jacobian, has_aux=True)
        forbidding = derivative(functools.partial(weights, edit=edits.forbid(first)))
        return forbidding(scores), derivative(functools.partial(weights, mask=~first))(scores)

    for ahead in (30, 60, 85):
        forbidding, masking = look(jnp.array([ahead, 0.0, 1, -1]))
        jax.tree.map(functools.partial(close, atol=1e-5), forbidding, masking)


def test_rows_that_lose_all_their_keys_are_zero_and_have_no_gradient():
    @jax.jit
    @functools.partial(jax.value_and_grad, has_aux=True)
    def look(query):
        weights = attention_filter(query, KEY, mask=masks.causal(), edit=edits.forbid(masks.prefix(3))).weights()
        return jnp.sum(jnp.sin(weights)), weights

    (_, weights), gradient = look(QUERY)
    assert_array_equal(weights[:, :, :3], 0)
    close(weights[:, :, 3:].sum(axis=-1), np.ones((2, HEADS, QUERIES - 3)))
    assert_array_equal(gradient[:, :3], 0)
    assert np.isfinite(gradient).all()
    assert np.any(gradient[:, 4:] != 0)


# Swapping

OTHERS = {
    "another number of key heads, arrays": ({"kv_heads": 4}, OTHER),
    "additive, sigmoid": ({}, join(SCORES["additive by head"], MASKS["array"], SIGMOID)),
    "bilinear, segments": ({"kv_heads": 1}, join(SCORES["bilinear by head"], MASKS["segments"])),
    "cosine, alibi, later by entry": (
        {"kv_heads": 4},
        join(SCORES["cosine, temperature by head"], BIASES["alibi, later"], MASKS["causal, later by entry"]),
    ),
}


@sampled("heads", ["walked", "at once"], keep=1, indirect=True)
def test_swapping_in_another_filter_gives_its_weights(heads):
    sides = {name: inputs(seed=9, **sizes)[:2] for name, (sizes, _) in OTHERS.items()}

    @jax.jit
    def swapped(query, key, sides):
        call = CALLS["softmax"].call | {"block_size": 3}
        others = {name: attention_filter(*sides[name], **other.call) for name, (_, other) in OTHERS.items()}
        return {
            name: attention_filter(query, key, edit=edits.swap(other), **call).weights()
            for name, other in others.items()
        }

    for name, found in swapped(QUERY, KEY, sides).items():
        expected = reference.attention_filter(*sides[name], **OTHERS[name][1].rules)
        close(found, expected, err_msg=name, rtol=1e-4, atol=1e-5)


@pytest.mark.exhaustive
@sampled("heads", ["walked", "at once"], keep=1, indirect=True)
def test_swapping_a_filter_with_itself_changes_nothing(heads):
    filter = attention_filter(QUERY, KEY, edit=edits.force(PUT, SHARES), block_size=3, **CALLS["softmax"].call)

    @jax.jit
    def swapped(filter):
        return attention_filter(filter.query, filter.key, edit=edits.swap(filter), block_size=3).weights()

    weights = shared(weights_of("softmax"), PUT, SHARES)
    close(filter.weights(), weights)
    close(swapped(filter), weights)


@pytest.mark.exhaustive
@sampled("heads", ["walked", "at once"], keep=1, indirect=True)
def test_filters_of_half_precision_may_be_swapped(heads):
    half, full = inputs(dtype=jnp.bfloat16), inputs(seed=9)

    @jax.jit
    def swap(here, there):
        other = attention_filter(*there[:2], mask=masks.causal())
        call = {"edit": edits.swap(other), "block_size": 3}
        return attention_filter(*here[:2], **call).weights(), attend(*here, **call)

    for here, there in [(half, full), (full, half)]:
        dtype = here[0].dtype
        weights, out = swap(here, there)
        assert (weights.dtype, out.dtype) == (jnp.float32, dtype)
        query, key = (np.asarray(x.astype(jnp.float32)) for x in there[:2])
        expected = reference.attention_filter(query, key, mask=lambda entry, head, i, j: j <= i)
        close(weights, expected, rtol=1e-4, atol=1e-5)
        expected = reference.average(expected, here[2].astype(jnp.float32))
        assert_allclose(out.astype(jnp.float32), expected, atol=max(1e-5, 4 * jnp.finfo(dtype).eps), rtol=0)


@pytest.mark.exhaustive
def test_gradients_reach_the_filter_that_is_swapped_in():
    """All of them, and none the filter whose place it takes; arrays of masks and biases are cut to blocks."""
    mask = OTHER.call["mask"] & SOME.call["mask"]
    target = jnp.asarray(rng(4).standard_normal((2, QUERIES, HEADS, VALUE.shape[-1])), jnp.float32)

    def swapped(query, other_query, other_key, bias):
        other = attention_filter(other_query, other_key, mask=mask, bias=bias)
        call = CALLS["softmax"].call | {"edit": edits.swap(other)}
        return jnp.sum(target * attend(query, KEY, VALUE, block_size=3, **call))

    def direct(other_query, other_key, bias):
        weights = attention_filter(other_query, other_key, mask=mask, bias=bias).weights()
        return jnp.sum(target * jnp.einsum("bnts,bsnv->btnv", weights, jnp.repeat(VALUE, 2, axis=-2)))

    arrays = OTHER_QUERY, OTHER_KEY, OTHER.call["bias"]
    of_query, *gradients = jax.jit(jax.grad(swapped, argnums=(0, 1, 2, 3)))(QUERY, *arrays)
    assert_array_equal(of_query, 0)
    expected = jax.jit(jax.grad(direct, argnums=(0, 1, 2)))(*arrays)
    jax.tree.map(functools.partial(close, atol=1e-5, rtol=1e-4), tuple(gradients), expected)


@pytest.mark.exhaustive
@sampled("heads", ["walked", "at once"], keep=1, indirect=True)
def test_a_filter_with_dropout_is_swapped_in_with_what_it_dropped(heads):
    other = other_filter(dropout_rate=0.5, dropout_rng=jax.random.key(0))

    @jax.jit
    def look(other):
        edited = attention_filter(QUERY, KEY, edit=edits.swap(other), block_size=3)
        return edited.weights(), edited.without_dropout().rows([2]), other.weights()

    weights, rows, expected = look(other)
    close(weights, expected)
    close(rows, expected[..., 2:3, :])
    seen, dropped = other_weights() > 0, weights == 0
    assert 0.3 < (dropped & seen).sum() / seen.sum() < 0.7
    close(weights[~dropped], 2 * other_weights()[~dropped])


@pytest.mark.exhaustive
def test_what_padding_holds_does_not_come_with_a_swapped_filter():
    """Nor do keys that the filter may not see which takes its place."""
    dirty = OTHER_KEY.at[0, 6:].set(jnp.nan)
    mask = masks.padding(jnp.array([6, 9]))

    @jax.jit
    @functools.partial(jax.value_and_grad, has_aux=True)
    def look(query, other_key):
        other = attention_filter(query, other_key, mask=mask)
        weights = attention_filter(QUERY, KEY, edit=edits.swap(other), block_size=3).weights()
        return jnp.sum(jnp.sin(weights)), weights

    (_, found), gradient = look(OTHER_QUERY, dirty)
    (_, expected), expected_gradient = look(OTHER_QUERY, OTHER_KEY)
    close(found, expected)
    close(gradient, expected_gradient)


@pytest.mark.exhaustive
def test_stacked_filters_with_edits_are_the_filters_one_by_one():
    edit = edits.in_turn(edits.swap(other_filter(), [0, 1]), edits.forbid(CHOSEN, jnp.asarray(SHARES)))

    @jax.jit
    def stack(query):
        filters = jax.lax.scan(lambda carry, x: (carry, attention_filter(x, KEY, edit=edit)), None, query)[1]
        return filters, filters.weights()

    filters, weights = stack(jnp.stack([QUERY, -QUERY]))
    assert filters.shape == (2, *SHAPE)
    for index, query in enumerate([QUERY, -QUERY]):
        expected = of_heads(reference.attention_filter(query, KEY), other_weights(), [0, 1])
        close(weights[index], shared(expected, forbidden(expected, CHOSEN), SHARES))
    close(jax.tree.map(lambda x: x[1], filters)[0, 1], weights[1, 0, 1])


@pytest.mark.exhaustive
def test_no_array_of_queries_by_keys_is_stored_for_edits(optimized):
    length = 2048
    x = jax.ShapeDtypeStruct((length, 2, 8), jnp.float32)

    def loss(query, key, value, other):
        swap = edits.swap(attention_filter(other, other, mask=masks.causal()))
        alike = edits.force(masks.sliding_window(3), jnp.array([0.0, 0.5]))
        edit = edits.in_turn(swap, edits.forbid(masks.segments(jnp.arange(length) // 7)), alike, edits.knock_out([1]))
        return jnp.sum(attend(query, key, value, mask=masks.causal(), edit=edit))

    compiled = jax.jit(jax.grad(loss, argnums=(0, 1, 2, 3))).lower(x, x, x, x).compile()
    assert "2048,2048" not in compiled.as_text()
    assert compiled.memory_analysis().temp_size_in_bytes < 4 * length * length * 4


# Bad input

WRONG = {
    "heads, out of range": (lambda: edits.knock_out([0, 4]), ValueError, "heads: head index 4 .* for 4 heads"),
    "heads, below": (lambda: edits.knock_out([-5]), ValueError, "heads: head index -5 is out of range for 4 heads"),
    "heads, an int": (lambda: edits.knock_out(1), TypeError, "heads: expected a list of head indices, .* got 1"),
    "heads, floats": (lambda: edits.knock_out([0.5]), TypeError, r"heads: expected a list .* got \[0.5\]"),
    "heads, booleans": (lambda: edits.knock_out([True]), TypeError, r"heads: expected a list .* got \[True\]"),
    "heads, array of booleans": (lambda: edits.knock_out(np.ones(4, bool)), TypeError, "heads: expected a list .* got"),
    "heads, text": (lambda: edits.knock_out("01"), TypeError, "heads: expected a list .* got '01'"),
    "shares, too many": (lambda: edits.knock_out(jnp.ones(5)), ValueError, "heads: .* each of 4 heads, got 5"),
    "shares, of keys": (
        lambda: edits.knock_out(jnp.ones((QUERIES, KEYS))),
        ValueError,
        r"heads: expected a shape that broadcasts to .* = \(2, 4, 7, 1\), got \(7, 9\)",
    ),
    "forbid, a list": (lambda: edits.forbid([True]), TypeError, "forbid: keys: expected booleans or .* got list"),
    "forbid, floats": (lambda: edits.forbid(jnp.ones(9)), TypeError, "forbid: keys: expected .* got dtype float32"),
    "forbid, too many": (
        lambda: edits.forbid(jnp.ones(8, bool)),
        ValueError,
        r"forbid: keys: expected a shape that broadcasts to .* \(2, 4, 7, 9\), got \(8,\)",
    ),
    "force, ints": (lambda: edits.force(jnp.ones(9, int)), TypeError, "force: weights: expected .* got dtype int32"),
    "force, a number": (lambda: edits.force(1.0), TypeError, "force: weights: expected a float array, .* got float"),
    "force, a filter": (lambda: edits.force(other_filter()), TypeError, "force: weights: .* got AttentionFilter"),
    "force, too many": (
        lambda: edits.force(jnp.ones((3, 1, 9))),
        ValueError,
        r"force: weights: expected a shape that broadcasts to .* \(2, 4, 7, 9\), got \(3, 1, 9\)",
    ),
    "force, too many booleans": (
        lambda: edits.force(np.ones(8, bool)),
        ValueError,
        r"force: weights: expected a shape that broadcasts to .* \(2, 4, 7, 9\), got \(8,\)",
    ),
    "swap, an array": (lambda: edits.swap(QUERY), TypeError, "swap: expected an AttentionFilter, got"),
    "swap, other sizes": (
        lambda: edits.swap(attention_filter(QUERY[:, 1:], KEY)),
        ValueError,
        r"swap: expected a filter of shape \(2, 4, 7, 9\), got \(2, 4, 6, 9\)",
    ),
    "in_turn, a filter": (
        lambda: edits.in_turn(other_filter()),
        TypeError,
        r"edit: expected a jattn edit or a function .* got",
    ),
    "in_turn, later": (
        lambda: edits.in_turn(edits.knock_out(), edits.knock_out([7])),
        ValueError,
        "heads: head index 7 is out of range for 4 heads",
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_edits_say_what_is_wrong(name):
    make, error, text = WRONG[name]
    with pytest.raises(error, match=text):
        attention_filter(QUERY, KEY, edit=make())


def test_indices_of_heads_must_be_known():
    with pytest.raises(
        TypeError, match="heads: expected a list of head indices, or a float array of one per head, got"
    ):
        jax.eval_shape(edits.knock_out, jax.ShapeDtypeStruct((2,), jnp.int32))


def test_a_share_of_nothing_lets_no_nan_through():
    bad = attention_filter(jnp.full((3, 2, 4), np.nan), jnp.ones((3, 2, 4)))
    zeros = jnp.zeros((3, 2, 4))
    weights = attention_filter(zeros, zeros, edit=edits.swap(bad, jnp.array([0.0, 1.0]))).weights()
    assert np.isfinite(weights[0]).all()
    assert np.isnan(weights[1]).all()
