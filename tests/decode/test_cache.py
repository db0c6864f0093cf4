"""A cache gives what the whole sequence gives, however the tokens arrive."""

import dataclasses
import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from numpy.testing import assert_allclose, assert_array_equal

from jattn import attend, attention_filter, biases, masks, positions
from jattn.decode.cache import KVCache, attend_cached
from tests import reference
from tests.sampled import sampled
from tests.variants import BATCH, HEAD_DIM, KV_HEADS, VALUE_DIM, inputs

LENGTH = 12
QUERY, KEY, VALUE = map(np.asarray, inputs(LENGTH, LENGTH))
close = functools.partial(assert_allclose, rtol=1e-5, atol=1e-6)


@functools.cache
def whole(window=None):
    """The output for the whole sequence, as the reference computes it."""
    return reference.attend(QUERY, KEY, VALUE, mask=lambda entry, head, i, j: j <= i and (not window or j > i - window))


def empty(slots=LENGTH, window=None, batch=BATCH, **options):
    return KVCache.empty(batch, slots, KV_HEADS, HEAD_DIM, VALUE_DIM, window=window, **options)


@functools.partial(jax.jit, static_argnames=("implementation", "block_size"))
def step(cache, query, key, value, lengths=None, **options):
    """Passes some new tokens through; returns their output and the cache afterwards."""
    at = cache.next_positions(query.shape[-3])
    seen, cache = cache.extend(key, value, lengths)
    return attend_cached(query, seen, at, **options), cache


def decode(cache, chunks, arrays=(QUERY, KEY, VALUE), step=step):
    """Passes all tokens through, some at a time; the last of `chunks` is repeated."""
    outputs, start, chunks = [], 0, list(chunks)
    while start < arrays[0].shape[-3]:
        size = chunks.pop(0) if len(chunks) > 1 else chunks[0]
        output, cache = step(cache, *(x[..., start : start + size, :, :] for x in arrays))
        outputs.append(output)
        start += size
    return jnp.concatenate(outputs, axis=-3), cache


@sampled("chunks", [[1], [3], [5], [7, 1], [LENGTH]], ids=str, keep=1)
def test_tokens_in_chunks_give_what_the_whole_sequence_gives(chunks):
    output, cache = decode(empty(), chunks)
    close(output, whole())
    assert_array_equal(cache.length, [LENGTH] * 2)
    assert_array_equal(cache.positions, [range(LENGTH)] * 2)
    assert_array_equal(cache.key, np.swapaxes(KEY, 1, 2))
    assert_array_equal(cache.value, np.swapaxes(VALUE, 1, 2))


@sampled(
    ("slots", "window", "chunks"),
    [
        (4, 4, [1]),
        (6, 4, [3]),
        (5, 3, [3, 1]),
        (1, 1, [1]),
        (20, 20, [LENGTH]),
        (4, 4, [3]),
        (3, 2, [10, 1]),
        (3, 3, [5]),
    ],
    ids=str,
    keep=1,
)
def test_a_ring_of_slots_gives_what_a_sliding_window_gives(slots, window, chunks):
    output, cache = decode(empty(slots, window), chunks)
    close(output, whole(window))
    assert cache.key.shape == (*BATCH, KV_HEADS, slots, HEAD_DIM)
    kept = min(slots, LENGTH)
    assert_array_equal(np.sort(cache.positions)[:, -kept:], [range(LENGTH - kept, LENGTH)] * 2)
    assert_array_equal(cache.positions % slots, np.where(cache.positions < 0, slots - 1, range(slots)))


@pytest.mark.exhaustive
def test_a_ring_goes_on_without_end():
    tokens = jax.random.normal(jax.random.key(1), (300, 1, 4))

    def advance(cache, token):
        return step(cache, token[None], token[None], token[None])[::-1]

    cache, outputs = lax.scan(advance, KVCache.empty((), 5, 1, 4, window=5), tokens)
    window = masks.from_function(lambda query, key: (key <= query) & (key > query - 5))
    close(outputs[:, 0], jax.jit(functools.partial(attend, mask=window))(tokens, tokens, tokens))
    assert sorted(cache.positions.tolist()) == [295, 296, 297, 298, 299]


@sampled(("slots", "window"), [(LENGTH, None), (9, 4), (4, 4)], keep=1)
def test_batch_entries_advance_by_their_own_lengths(slots, window):
    cache, outputs, starts = empty(slots, window), ([], []), np.zeros(2, int)
    for lengths in ([2, 5], [5, 0], [0, 4], [0, 0], [5, 3]):
        real = np.arange(5) < np.array(lengths)[:, None]

        def chunk(x, starts=starts, real=real):
            whole = np.full((2, 5, *x.shape[2:]), np.nan, x.dtype)
            for entry, start in enumerate(starts):
                whole[entry][real[entry]] = x[entry, start : start + real[entry].sum()]
            return whole

        output, cache = step(cache, *map(chunk, (QUERY, KEY, VALUE)), lengths=jnp.array(lengths))
        for entry in range(2):
            outputs[entry].extend(np.asarray(output)[entry][real[entry]])
        starts = starts + lengths
        assert_array_equal(cache.length, starts)
    close(np.array(outputs), whole(window))


@pytest.mark.exhaustive
def test_rotary_positions_go_on_where_each_entry_is():
    @jax.jit
    def rotated(cache, query, key, value, lengths=None):
        at = cache.next_positions(query.shape[-3])
        return step(cache, positions.rotary(query, at), positions.rotary(key, at), value, lengths)

    every = jnp.arange(LENGTH)
    query, key = map(np.asarray, jax.jit(lambda *x: [positions.rotary(side, every) for side in x])(QUERY, KEY))
    expected = reference.attend(query, key, VALUE, mask=lambda entry, head, i, j: j <= i)
    close(decode(empty(), [4, 1], step=rotated)[0], expected, atol=1e-5)
    _, ahead = rotated(empty(), *(x[:, :5] for x in (QUERY, KEY, VALUE)), lengths=jnp.array([5, 2]))
    next_tokens = (np.stack([x[0, 5:7], x[1, 2:4]]) for x in (QUERY, KEY, VALUE))
    output, _ = rotated(ahead, *next_tokens)
    close(output, np.stack([expected[0, 5:7], expected[1, 2:4]]), atol=1e-5)


@pytest.mark.exhaustive
@sampled("batch", [(), (2, 1, 2)], keep=1)
def test_any_batch_axes(batch):
    arrays = [np.asarray(x) for x in inputs(6, 6, batch=batch)]
    expected = reference.attend(*arrays, mask=lambda entry, head, i, j: j <= i)
    close(decode(empty(batch=batch), [4, 1], arrays)[0], expected)


@sampled("options", [{"implementation": "dense"}, {"block_size": 2}], ids=str, keep=1)
def test_rows_in_blocks(options, heads):
    output, _ = decode(empty(8, 4), [5], step=functools.partial(step, **options))
    close(output, whole(4))


def test_the_mask_is_drawn_from_positions():
    cache = KVCache.empty((), 4, 1, 1, window=3)
    tokens = jnp.ones((6, 1, 1))
    _, cache = cache.extend(tokens, tokens)
    assert cache.positions.tolist() == [4, 5, 2, 3]
    drawn = masks.draw(cache.mask(jnp.array([3, 4, 5, 6, 8])), 5, 4)
    assert drawn.split() == ["..##", "#.##", "##.#", "##..", "...."]
    assert masks.draw(KVCache.empty((), 2, 1, 1).mask(jnp.arange(2)), 2, 2).split() == ["..", ".."]


@pytest.mark.exhaustive
def test_a_further_mask_forbids_more():
    cache = empty().append(KEY, VALUE)
    allowed = jnp.asarray(np.random.default_rng(0).random((2, 1, 1, LENGTH)) < 0.5)
    output = attend_cached(QUERY, cache, jnp.broadcast_to(jnp.arange(LENGTH), (2, LENGTH)), mask=allowed)
    allowed = np.asarray(allowed)
    close(
        output, reference.attend(QUERY, KEY, VALUE, mask=lambda entry, head, i, j: j <= i and allowed[*entry, 0, 0, j])
    )


@pytest.mark.exhaustive
def test_the_filter_of_a_cache_is_the_filter_of_the_sequence():
    cache = empty(LENGTH + 3).append(KEY, VALUE)
    mask = cache.mask(jnp.broadcast_to(jnp.arange(LENGTH), (2, LENGTH)))
    weights = attention_filter(QUERY, jnp.swapaxes(cache.key, 1, 2), mask=mask).weights()
    close(weights[..., :LENGTH], attention_filter(QUERY, KEY, mask=masks.causal()).weights())
    assert not weights[..., LENGTH:].any()


@sampled(("slots", "window"), [(LENGTH, None), (8, 4)], keep=1)
def test_what_unwritten_slots_hold_has_no_influence(slots, window):
    @jax.jit
    def output(value, cache):
        return decode(cache, [3], (QUERY[:, :6], KEY[:, :6], value))[0]

    clean = empty(slots, window)
    spoilt = dataclasses.replace(clean, key=clean.key * jnp.nan, value=clean.value + jnp.inf)
    assert_array_equal(output(VALUE[:, :6], clean), output(VALUE[:, :6], spoilt))
    gradient = jax.jit(jax.grad(lambda value, cache: output(value, cache).sum()))
    assert_array_equal(*(gradient(VALUE[:, :6], cache) for cache in (clean, spoilt)))


def test_gradients_flow_through_the_cache():
    def loss(key, value, how):
        return jnp.sum(jnp.sin(how(key, value)))

    def chunked(key, value):
        return decode(empty(), [11, 1], (QUERY, key, value))[0]

    def at_once(key, value):
        return attend(QUERY, key, value, mask=masks.causal())

    gradient = jax.jit(jax.grad(loss, (0, 1)), static_argnums=2)
    jax.tree.map(functools.partial(close, atol=1e-5), *(gradient(KEY, VALUE, how) for how in (chunked, at_once)))


@pytest.mark.exhaustive
def test_the_dtype_of_a_cache_is_its_own():
    output, cache = decode(empty(dtype=jnp.bfloat16), [5])
    assert (cache.key.dtype, cache.value.dtype, cache.positions.dtype) == (jnp.bfloat16, jnp.bfloat16, jnp.int32)
    assert_allclose(np.asarray(output, np.float32), whole(), atol=0.05)


# Programs


def test_the_program_is_the_same_for_every_token():
    traces = []

    @jax.jit
    def advance(cache, query, key, value):
        traces.append(1)
        return step(cache, query, key, value)

    output, cache = decode(empty(), [1], step=advance)
    close(output, whole())
    assert len(traces) == 1
    assert jax.tree.structure(cache) == jax.tree.structure(empty())
    assert [(x.shape, x.dtype) for x in jax.tree.leaves(cache)] == [
        (x.shape, x.dtype) for x in jax.tree.leaves(empty())
    ]


def test_scan_and_vmap_over_caches():
    caches = jax.vmap(lambda _: empty(LENGTH, 4, batch=()))(jnp.arange(2))

    def advance(cache, tokens):
        return jax.vmap(step)(cache, *(x[:, None] for x in tokens))[::-1]

    tokens = tuple(jnp.swapaxes(x, 0, 1) for x in (QUERY, KEY, VALUE))
    _, outputs = lax.scan(advance, caches, tokens)
    close(jnp.swapaxes(outputs[:, :, 0], 0, 1), whole(4))


@pytest.mark.parametrize("window", [None, 1000])
def test_a_loop_writes_in_place(window):
    cache = KVCache.empty((2,), 1024, 2, 16, window=window)

    def body(carry):
        index, cache = carry
        token = jnp.full((2, 1, 2, 16), index, jnp.float32)
        return index + 1, cache.append(token, token)

    def loop(cache):
        return lax.while_loop(lambda carry: carry[0] < 900, body, (0, cache))[1]

    compiled = jax.jit(loop, donate_argnums=0).lower(cache).compile()
    assert not re.findall(r"f32\[2,2,1024,16\]\S* copy\(", compiled.as_text())
    assert compiled.memory_analysis().temp_size_in_bytes < cache.key.nbytes / 4
    cache = compiled(cache)
    assert_array_equal(cache.key[:, :, :900, 3], np.broadcast_to(np.arange(900.0), (2, 2, 900)))


# Bad input


def test_a_full_cache_says_so_and_under_jit_attends_to_nan():
    cache = empty(6).append(KEY[:, :5], VALUE[:, :5])
    for more in (2, 3):
        with pytest.raises(ValueError, match=f"cache: expected room for {5 + more} tokens, got 6 slots and no window"):
            cache.append(KEY[:, :more], VALUE[:, :more])
    cache.append(KEY[:, :3], VALUE[:, :3], lengths=jnp.array([1, 0]))
    full = jax.jit(KVCache.append)(cache, KEY[:, 5:9], VALUE[:, 5:9])
    assert_array_equal(full.key, np.swapaxes(KEY[:, :6], 1, 2))
    assert_array_equal(full.positions, [range(6)] * 2)
    assert_array_equal(full.length, [9, 9])
    with pytest.raises(ValueError, match=r"cache: expected room for 9 tokens, .* with more slots, or with a window"):
        attend_cached(QUERY[:, :1], full, jnp.array([[8], [8]]))

    @jax.jit
    def step(cache, lengths):
        at = cache.next_positions(1)
        return attend_cached(QUERY[:, :1], cache.append(KEY[:, :1], VALUE[:, :1], lengths), at)

    almost = cache.append(KEY[:, :1], VALUE[:, :1], lengths=jnp.array([0, 1]))
    assert_array_equal(np.isnan(step(almost, jnp.array([1, 1]))).all((1, 2, 3)), [False, True])
    assert not np.isnan(step(almost, jnp.array([1, 0]))).any()
    with pytest.raises(ValueError, match="cache: expected room for 7 tokens"):
        jax.eval_shape(KVCache.append, cache, KEY[:, :7], VALUE[:, :7])


SIZES = {"batch": (2,), "slots": 4, "num_kv_heads": 1, "head_dim": 2}
WRONG_SIZES = {
    "no slots": ({"slots": 0}, ValueError, "slots must be at least 1, got 0"),
    "half a slot": ({"slots": 1.5}, TypeError, "slots must be an int.*, got 1.5"),
    "no heads": ({"num_kv_heads": 0}, ValueError, "num_kv_heads must be at least 1, got 0"),
    "head dim": ({"head_dim": True}, TypeError, "head_dim must be an int.*, got True"),
    "value dim": ({"value_dim": -1}, ValueError, "value_dim must be at least 1, got -1"),
    "window": ({"window": 0}, ValueError, "window must be at least 1, got 0"),
    "window of more than the slots": ({"window": 5}, ValueError, "slots: expected at least .* window of 5, got 4"),
    "batch": ({"batch": 2}, TypeError, "batch: expected a tuple of ints, got 2"),
    "dtype": ({"dtype": int}, TypeError, "dtype: expected a float dtype, got"),
}


@pytest.mark.parametrize("name", WRONG_SIZES)
def test_an_empty_cache_says_what_is_wrong(name):
    change, error, text = WRONG_SIZES[name]
    with pytest.raises(error, match=text):
        KVCache.empty(**SIZES | change)


TOKENS = {"key": KEY[:, :3], "value": VALUE[:, :3]}
WRONG_TOKENS = {
    "key, a list": ({"key": [1.0]}, TypeError, "key: expected an array, got list"),
    "key of integers": ({"key": jnp.ones((2, 3, 2, 6), int)}, TypeError, "key: expected a float dtype, got int"),
    "key of one axis": ({"key": jnp.ones(6)}, ValueError, r"key: expected shape \[2, n, 2, 6\] .* got \(6,\)"),
    "key of other heads": ({"key": KEY[:, :3, :1]}, ValueError, r"\[2, n, 2, 6\] for this cache, got \(2, 3, 1, 6\)"),
    "key of another batch": ({"key": KEY[:1, :3]}, ValueError, r"\[2, n, 2, 6\] for this cache, got \(1, 3, 2, 6\)"),
    "value of another dim": ({"value": KEY[:, :3]}, ValueError, r"value: expected .* \[2, 3, 2, 3\] .* \(2, 3, 2, 6\)"),
    "value of other tokens": ({"value": VALUE[:, :2]}, ValueError, "value: expected the 3 tokens of key, got 2"),
    "lengths of floats": ({"lengths": jnp.ones(2)}, TypeError, "lengths: expected integers, .* got dtype float32"),
    "lengths of another batch": (
        {"lengths": jnp.ones(3, int)},
        ValueError,
        r"lengths: expected the batch shape \(2,\), got \(3,\)",
    ),
    "lengths beyond the tokens": ({"lengths": jnp.array([1, 4])}, ValueError, "lengths: expected 0 to 3, .* got 4"),
    "lengths below zero": ({"lengths": jnp.array([-1, 2])}, ValueError, "lengths: expected 0 to 3, .* got -1"),
}


@pytest.mark.parametrize("name", WRONG_TOKENS)
def test_appending_says_what_is_wrong(name):
    change, error, text = WRONG_TOKENS[name]
    for method in (KVCache.append, KVCache.extend):
        with pytest.raises(error, match=text):
            method(empty(), **TOKENS | change)


AT = jnp.broadcast_to(jnp.arange(3), (2, 3))
WRONG_QUERIES = {
    "query, a list": ({"query": [1.0]}, TypeError, "query: expected an array, got list"),
    "query of two axes": ({"query": jnp.ones((3, 6))}, ValueError, "query: expected at least 3 axes"),
    "positions of other queries": ({"query_positions": AT[:, :2]}, ValueError, "query_positions: .* of 3 queries, got"),
    "positions of no batch": ({"query_positions": AT[0]}, ValueError, r"query_positions: .* \[2, n\], got \(3,\)"),
    "positions of floats": (
        {"query_positions": AT * 1.0},
        TypeError,
        "query_positions: expected integers, got .*float32",
    ),
    "more queries than a ring serves": (
        {"cache": empty(5, 4)},
        ValueError,
        "query: expected at most 2 queries at once for a window of 4 in 5 slots, got 3: .*extend",
    ),
    "a mask of other slots": ({"mask": jnp.ones(3, bool)}, ValueError, r"mask: expected .* got \(3,\)"),
    "a mask of positions": ({"mask": masks.causal()}, ValueError, r"mask: expected an array .* got causal\(\)"),
    "a bias of positions": (
        {"bias": biases.from_function(lambda query, key: 0.0 * key)},
        ValueError,
        "bias: expected an array .* got from_function",
    ),
    "a bias that does not know where the queries stand": (
        {"bias": biases.alibi()},
        ValueError,
        r"bias: expected an array .* got alibi\(",
    ),
    "a bias of positions in a ring": (
        {"cache": empty(12, 4), "bias": biases.alibi(offset=jnp.zeros(2, int))},
        ValueError,
        r"bias: expected an array .* got alibi\(",
    ),
}


@pytest.mark.parametrize("name", WRONG_QUERIES)
def test_attending_says_what_is_wrong(name):
    change, error, text = WRONG_QUERIES[name]
    with pytest.raises(error, match=text):
        attend_cached(**{"query": QUERY[:, :3], "cache": empty(), "query_positions": AT} | change)


def test_a_mask_belongs_to_its_queries_and_cache():
    with pytest.raises(ValueError, match=r"mask: expected a cache mask of the batch \(2,\), 12 queries and 12 slots"):
        attend(QUERY, KEY, VALUE, mask=empty().mask(AT))
