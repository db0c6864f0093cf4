"""Blocks that leave out keys by the data of their mask: the span holds every allowed key, and nothing else changes."""

import functools

import hypothesis
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import strategies
from numpy.testing import assert_allclose, assert_array_equal

from jattn import attend, masks, scores
from jattn.engine import plans
from jattn.engine.implementations import explain_implementation
from jattn.engine.plans import widths_of
from jattn.rules.grids import Grid
from jattn.rules.mask import as_mask
from tests.sampled import sampled
from tests.variants import BATCH, HEADS, KEYS, MASKS, QUERIES

SHAPE = (*BATCH, HEADS, QUERIES, KEYS)
LENGTH = 640
CAUSAL_DOCUMENTS = masks.causal() & masks.segments(jnp.zeros(LENGTH, jnp.int32))


def grids():
    """Blocks of some rows and some keys of the first and the last head of a filter."""
    for stream in (0, int(np.prod(SHAPE[:-2])) - 1):
        for first, count, begin, width in ((0, QUERIES, 0, KEYS), (1, 2, 2, 4), (QUERIES - 1, 1, 0, KEYS)):
            rows = jnp.arange(first, first + count, dtype=jnp.int32)
            yield Grid(rows, SHAPE, True, jnp.int32(stream), jnp.int32(begin), width)


@sampled("name", [name for name in MASKS if name != "no mask"], keep=5)
def test_the_span_of_a_mask_holds_every_key_that_it_allows(name):
    given = as_mask(MASKS[name].call["mask"])
    for mask in (given.fit(SHAPE), (~given).fit(SHAPE)):
        for grid in grids():
            allowed = np.broadcast_to(mask.evaluate(grid), grid.block_shape)
            begin, end = map(int, mask.span(grid))
            keys = np.asarray(grid.key[0])
            assert not allowed[:, (keys < begin) | (keys >= end)].any()
            assert allowed.all() or not mask.allows_all(grid)


@pytest.mark.parametrize(
    ("mask", "span"),
    [
        (masks.segments(jnp.array([3, 3, 5, 5, 7, 7])), (2, 4)),
        (masks.segments(jnp.array([3, 3, 5, 5, 7, 7])) & masks.causal(-1), (2, 3)),
        (masks.segments(jnp.array([3, 3, 5, 5, 7, 7]), jnp.array([5, 3, 3, 7, 7, 7])), (0, 1)),
        (masks.padding(jnp.array(2)), (0, 2)),
        (masks.padding(jnp.array(5), jnp.array(2)), (0, 0)),
        (masks.causal(jnp.array(1)), (0, 5)),
        (masks.sliding_window(jnp.array(1)), (1, 4)),
        (masks.chunked(2, jnp.array(2)), (4, 6)),
        (masks.chunked(4, jnp.array(2)), (4, 6)),
        (masks.chunked(4, jnp.array(9)), None),
        (masks.chunked(2**30, jnp.array(2**30 - 3)), (0, 6)),
        (masks.chunked(2**31 - 1, jnp.array(-5)), None),
        (masks.causal() | masks.prefix(jnp.array(5)), (0, 5)),
        (masks.segments(jnp.array([3, 3, 5, 5, 7, 7])) | masks.padding(jnp.array(1)), (0, 4)),
        (as_mask(np.arange(6) == 4), (4, 5)),
        (as_mask(np.zeros((6, 6), bool)), None),
    ],
)
def test_the_span_of_the_middle_rows(mask, span):
    mask = mask.fit((1, 6, 6))
    begin, end = map(int, mask.span(Grid(jnp.arange(2, 4, dtype=jnp.int32), (1, 6, 6), True, jnp.int32(0))))
    assert (begin >= end) if span is None else (begin, end) == span


@pytest.mark.parametrize(
    ("mask", "known"),
    [
        (masks.padding(jnp.array(6)), True),
        (masks.padding(jnp.array(5)), False),
        (masks.padding(jnp.array(6), jnp.array(4)), True),
        (masks.padding(jnp.array(6), jnp.array(3)), False),
        (masks.segments(jnp.array([1, 1, 5, 5, 1, 1]), jnp.full(6, 5)), True),
        (masks.segments(jnp.array([3, 3, 5, 4, 7, 7]), jnp.full(6, 5)), False),
        (as_mask(np.arange(6)[:, None] > 1), True),
        (masks.padding(jnp.array(6)) & masks.padding(jnp.array(5)), False),
        (masks.padding(jnp.array(5)) | masks.padding(jnp.array(6)) | masks.causal(), True),
        (masks.padding(jnp.array(6)) & masks.causal(), None),
        (~masks.padding(jnp.array(0)), None),
    ],
)
def test_whether_the_middle_rows_may_attend_to_all_keys(mask, known):
    mask = mask.fit((1, 6, 6))
    allowed = mask.allows_all(Grid(jnp.arange(2, 4, dtype=jnp.int32), (1, 6, 6), True, jnp.int32(0)))
    assert allowed is None if known is None else bool(allowed) == known


def draw(rng, batch=2, heads=2):
    """Queries, keys, values, and ids of documents whose keys may be in no document of a query."""
    sides = rng.standard_normal((3, batch, LENGTH, heads, 4)).astype(np.float32)
    documents = rng.integers(1, 9)
    query_ids, key_ids = np.sort(rng.integers(0, documents, (2, batch, LENGTH), np.int32), axis=-1)
    return *map(jnp.asarray, sides), jnp.asarray(query_ids), jnp.asarray(key_ids if rng.random() < 0.3 else query_ids)


def both(implementation):
    @jax.jit
    def output_and_gradients(query, key, value, query_ids, key_ids):
        def loss(*sides):
            mask = masks.segments(query_ids, key_ids) & masks.causal()
            out = attend(*sides, mask=mask, implementation=implementation, **blocks)
            return jnp.sum(jnp.sin(jnp.where(jnp.isnan(out), 0, out))), out

        return jax.grad(loss, (0, 1, 2), has_aux=True)(query, key, value)

    blocks = {} if implementation == "dense" else {"block_size": 128}
    return output_and_gradients


narrowed, whole = both("blocked"), both("dense")


@hypothesis.settings(max_examples=10, deadline=None, derandomize=True, database=None)
@hypothesis.given(strategies.integers(0, 2**31), strategies.booleans())
def test_leaving_out_keys_changes_nothing(seed, planted):
    rng = np.random.default_rng(seed)
    query, key, value, *ids = draw(rng)
    if planted:
        key = key.at[:, rng.integers(LENGTH)].set(jnp.nan)
        value = value.at[:, rng.integers(LENGTH)].set(jnp.inf)
    found, expected = narrowed(query, key, value, *ids), whole(query, key, value, *ids)
    for ours, theirs in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        assert_array_equal(jnp.isnan(ours), jnp.isnan(theirs))
        assert_allclose(ours, theirs, rtol=1e-5, atol=2e-6)


@pytest.mark.parametrize("planted", [None, "query", "key", "value", "bias", "overflow"])
def test_a_block_without_forbidden_keys_is_computed_as_without_a_mask(planted):
    sides = dict(zip(("query", "key", "value"), draw(np.random.default_rng(1))[:3], strict=True))
    bias = jnp.zeros((LENGTH, LENGTH)).at[7, 3].set(jnp.inf if planted == "bias" else 0)
    bad = {"query": -1e20, "key": 1e20} if planted == "overflow" else dict.fromkeys(sides.keys() & {planted}, jnp.nan)
    for side, number in bad.items():
        sides[side] = sides[side].at[1, 7, 0, 2].set(number)
    for lengths in ((LENGTH, LENGTH), (LENGTH, 300)):
        found, expected = (
            padded(implementation, *sides.values(), jnp.array(lengths), bias) for implementation in PADDED
        )
        for ours, theirs in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
            assert_array_equal(jnp.isnan(ours), jnp.isnan(theirs))
            assert_allclose(ours, theirs, rtol=1e-5, atol=2e-6)


PADDED = ("blocked", "dense")


@functools.partial(jax.jit, static_argnums=0)
def padded(implementation, query, key, value, lengths, bias):
    """The output and the gradients of its finite part."""

    def loss(*sides):
        blocks = {} if implementation == "dense" else {"block_size": 128}
        out = attend(*sides, mask=masks.padding(lengths), bias=bias, implementation=implementation, **blocks)
        return jnp.sum(jnp.sin(jnp.where(jnp.isnan(out), 0, out))), out

    return jax.grad(loss, (0, 1, 2), has_aux=True)(query, key, value)


@pytest.mark.exhaustive
def test_a_batch_of_calls_takes_one_width_that_holds_the_keys_of_all():
    query, key, value, ids, _ = draw(np.random.default_rng(0))
    together = jax.vmap(narrowed)(query[:, None], key[:, None], value[:, None], ids[:, None], ids[:, None])
    found = jax.tree.map(lambda x: x[:, 0], together)
    for ours, theirs in zip(jax.tree.leaves(found), jax.tree.leaves(whole(query, key, value, ids, ids)), strict=True):
        assert_allclose(ours, theirs, rtol=1e-5, atol=2e-6)


def attention_that_notes(widths):
    """Returns attention of equal vectors by a mask, which adds to a list how many keys each block computes."""

    def watched(query, key):
        jax.debug.callback(lambda: widths.append(key.shape[-2]))
        return scores.scaled_dot().evaluate(query, key, None, None)

    query = jnp.ones((LENGTH, 1, 4))
    return lambda mask: attend(query, query, query, mask=mask, score=watched, block_size=128)


@sampled("mask", [masks.causal(), ~masks.causal() & ~masks.prefix(3)], keep=1)
def test_a_block_computes_the_keys_alone_that_its_rows_may_see(mask, monkeypatch):
    monkeypatch.setattr(plans, "NARROWED_ROWS", 128)
    widths = []
    jax.block_until_ready(jax.jit(lambda: attention_that_notes(widths)(mask))())
    jax.effects_barrier()
    assert sorted(widths) == [160, 320, 400, 560, LENGTH]


def test_a_block_computes_the_keys_of_its_own_document_alone():
    widths = []
    ids = jnp.repeat(jnp.arange(5), LENGTH // 5)
    attend_by = attention_that_notes(widths)

    @jax.jit
    def attention(ids, causal=jnp.array(LENGTH)):
        return attend_by(masks.segments(ids) & masks.causal(causal))

    for arguments, expected in (
        ((ids,), [160] * 5),
        ((ids * 0,), [LENGTH] * 5),
        ((ids * 0, jnp.array(0)), [160, 320, 400, 560, LENGTH]),
        ((ids // 3, jnp.array(0)), [160, 320, 400, 160, 320]),
    ):
        widths.clear()
        jax.block_until_ready(attention(*arguments))
        jax.effects_barrier()
        assert sorted(widths) == sorted(expected)
    widths.clear()
    jax.block_until_ready(jax.vmap(attention)(jnp.stack([ids, ids * 0])))
    jax.effects_barrier()
    assert set(widths) == {LENGTH}, "a batch whose entries differ takes the widest, and no other besides"


def test_widths():
    assert widths_of(4096) == tuple(range(512, 4097, 512))
    assert widths_of(640) == tuple(range(160, 641, 80))
    assert widths_of(130) == (128, 130)
    assert widths_of(120) == (120,)


def test_it_is_said_that_data_may_leave_out_more():
    tokens = jax.ShapeDtypeStruct((4, LENGTH, 8, 8), jnp.float32)
    how = explain_implementation(tokens, tokens, tokens, mask=CAUSAL_DOCUMENTS).how
    assert "query rows a block, at most " in how
    assert "at most" not in explain_implementation(tokens, tokens, tokens, mask=masks.causal()).how
