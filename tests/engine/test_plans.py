"""Plans cover every row, leave out only keys that are forbidden, and cost what the mask lets them."""

import functools
import math

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies
from numpy.testing import assert_array_equal

from jattn import masks
from jattn.engine import plans
from jattn.engine.plans import Plan, blocked_plan, dense_plan

examples = functools.partial(hypothesis.settings, deadline=None, derandomize=True, database=None)

# Masks known by their sizes alone, each with the rule of query and key that it stands for.
offsets = strategies.integers(-12, 12)
sizes = strategies.none() | strategies.integers(0, 12)


def causal(offset):
    return masks.causal(offset), lambda i, j: j <= i + offset


def window(left, right, offset):
    def rule(i, j):
        return (left is None or j >= i + offset - left) & (right is None or j <= i + offset + right)

    return masks.sliding_window(left, right, offset), rule


def chunked(size, offset):
    return masks.chunked(size, offset), lambda i, j: (i + offset) // size == j // size


def prefix(length):
    return masks.prefix(length), lambda i, j: j < length


def of_unknown_data(seed):
    allowed = np.random.default_rng(seed).random((64, 64)) < 0.5
    return masks.as_mask(allowed), lambda i, j: allowed[i, j]


def both(left, right):
    return left[0] & right[0], lambda i, j: left[1](i, j) & right[1](i, j)


def either(left, right):
    return left[0] | right[0], lambda i, j: left[1](i, j) | right[1](i, j)


def negated(one):
    return ~one[0], lambda i, j: np.logical_not(one[1](i, j))


simple = (
    strategies.builds(causal, offsets)
    | strategies.builds(window, sizes, sizes, offsets)
    | strategies.builds(chunked, strategies.integers(1, 9), offsets)
    | strategies.builds(prefix, strategies.integers(-3, 15))
    | strategies.builds(of_unknown_data, strategies.integers(0, 9))
)
trees = strategies.recursive(
    simple,
    lambda part: (
        strategies.builds(both, part, part) | strategies.builds(either, part, part) | strategies.builds(negated, part)
    ),
    max_leaves=6,
)


def allowed_of(rule, num_rows, num_keys):
    """The mask as an array."""
    return np.broadcast_to(rule(*np.indices((num_rows, num_keys))), (num_rows, num_keys))


@examples(max_examples=600)
@hypothesis.given(trees, strategies.integers(1, 20), strategies.lists(strategies.integers(0, 19), min_size=1))
def test_spans_hold_every_allowed_and_every_forbidden_key(tree, num_keys, rows):
    mask, rule = tree
    first = np.array(rows)
    last = np.minimum(19, first + np.arange(len(rows)) % 5)
    allowed = allowed_of(rule, 20, num_keys)
    spans = mask.allowed_span(first, last, num_keys), mask.forbidden_span(first, last, num_keys)
    for (begin, end), is_in in zip(spans, (allowed, ~allowed), strict=True):
        assert np.shape(begin) == np.shape(end) == first.shape
        for block in range(len(rows)):
            outside = (np.arange(num_keys) < begin[block]) | (np.arange(num_keys) >= end[block])
            assert not is_in[first[block] : last[block] + 1, outside].any()


@pytest.mark.parametrize(
    ("mask", "span"),
    [
        (masks.causal(), (0, 8)),
        (masks.causal(3), (0, 11)),
        (~masks.causal(), (5, 20)),
        (masks.sliding_window(2), (2, 8)),
        (masks.sliding_window(2, 1), (2, 9)),
        (masks.sliding_window(None, 1), (0, 9)),
        (masks.sliding_window(2, None), (2, 20)),
        (~masks.sliding_window(2, None), (0, 5)),
        (masks.chunked(4), (4, 8)),
        (masks.chunked(5), (0, 10)),
        (masks.prefix(3), (0, 3)),
        (~masks.prefix(3), (3, 20)),
        (masks.causal() & ~masks.prefix(3), (3, 8)),
        (masks.causal() | masks.prefix(13), (0, 13)),
        (masks.sliding_window(1) | masks.sliding_window(0, offset=6), (3, 14)),
        (masks.causal() & np.ones(20, bool), (0, 8)),
        (masks.causal() | np.ones(20, bool), (0, 20)),
        (masks.causal(np.array(1)), (0, 20)),
        (masks.padding(np.array(3)), (0, 20)),
    ],
    ids=range(19),
)
def test_rows_4_to_7_compute_no_more_keys_than_these(mask, span):
    begin, end = mask.allowed_span(np.array([4]), np.array([7]), 20)
    assert (max(begin[0], 0), min(end[0], 20)) == span


def computed(plan, num_rows, num_keys):
    """How often each weight of one head ends up in the result, checking the plan's own books on the way."""
    count = np.zeros((num_rows, num_keys), int)
    done = 0
    for strip in plan.strips:
        begin, end = strip.rows
        assert begin == done, "strips follow one another"
        done = end
        assert len(strip.first_rows) == len(strip.first_keys) == -(-(end - begin) // strip.block_size)
        assert strip.num_weights == strip.block_size * sum(strip.widths)
        assert max(strip.widths) <= strip.num_keys
        kept = begin
        for first_row, first_key in zip(strip.first_rows, strip.first_keys, strict=True):
            last_row = first_row + strip.block_size
            assert begin <= first_row <= kept < last_row <= end, "blocks lie in their strip and leave no gap"
            assert 0 <= first_key <= first_key + strip.num_keys <= num_keys
            count[kept:last_row, first_key : first_key + strip.num_keys] += 1
            kept = last_row
        assert kept == end
    assert done == num_rows
    return count


@examples(max_examples=400)
@hypothesis.given(
    trees | strategies.none(),
    strategies.integers(1, 64),
    strategies.integers(0, 64),
    strategies.none() | strategies.integers(1, 70),
    strategies.booleans(),
)
def test_every_row_is_computed_once_and_what_is_left_out_is_forbidden(tree, num_rows, num_keys, block_size, walk):
    mask, rule = tree or (None, lambda i, j: True)
    plan = blocked_plan((2, 3, num_rows, num_keys), mask, block_size, walk)
    count = computed(plan, num_rows, num_keys)
    assert np.all(count <= 1)
    assert not allowed_of(rule, num_rows, num_keys)[count == 0].any()
    assert plan.walk_heads == walk
    if block_size is not None:
        assert all(strip.block_size == min(block_size, strip.rows[1] - strip.rows[0]) for strip in plan.strips)


@pytest.mark.parametrize("walk", [True, False])
@pytest.mark.parametrize(("num_rows", "num_keys"), [(4097, 4097), (5000, 300), (129, 9000), (2**15, 2**15 + 1)])
def test_long_rows_are_computed_once_too(num_rows, num_keys, walk):
    for mask in (None, masks.causal(), masks.causal(num_keys - num_rows), masks.sliding_window(100, 7)):
        plan = blocked_plan((num_rows, num_keys), mask, None, walk)
        done = 0
        for strip in plan.strips:
            assert strip.rows[0] == done
            done = strip.rows[1]
            assert all(0 <= key <= num_keys - strip.num_keys for key in strip.first_keys)
            assert strip.first_rows[-1] + strip.block_size == done
            assert all(b - a <= strip.block_size for a, b in zip(strip.first_rows, strip.first_rows[1:], strict=False))
        assert done == num_rows


@pytest.mark.parametrize("num_rows", range(1, 20))
def test_few_rows_of_very_many_keys_have_a_plan(num_rows):
    for walk in (True, False):
        assert_array_equal(computed(blocked_plan((2, num_rows, 9), None, None, walk), num_rows, 9), 1)
        assert weights_of(blocked_plan((8, num_rows, 2**20), masks.causal(2**20), None, walk)) >= num_rows * 2**20


@pytest.mark.parametrize("shape", [(2, 0, 5), (2, 0, 0), (0, 3, 0, 5)])
def test_no_rows_are_one_block(shape):
    for walk in (True, False):
        assert blocked_plan(shape, masks.causal(), None, walk) == dense_plan(shape)


def weights_of(plan: Plan) -> int:
    return sum(strip.num_weights for strip in plan.strips)


def square(length, mask, block_size=None, walk=True, heads=8):
    return blocked_plan((heads, length, length), mask, block_size, walk)


@pytest.mark.parametrize("walk", [True, False])
def test_a_causal_mask_computes_little_more_than_half_of_all_weights(walk):
    for length, share in ((4096, 0.6), (5000, 0.66), (2**14, 0.6)):
        assert 0.5 < weights_of(square(length, masks.causal(), walk=walk)) / length**2 <= share
    assert weights_of(square(4096, ~masks.causal(), walk=walk)) <= 0.6 * 4096**2
    data = masks.causal() & np.ones(4096, bool)
    assert weights_of(square(4096, data, walk=walk)) <= 0.6 * 4096**2
    # Where keys are left out when a block runs, as in test_narrowing, one strip does.
    for mask in (data, masks.causal()):
        plan = blocked_plan((8, 4096, 4096), mask, None, walk, narrow=True)
        assert plan.narrowed == walk
        assert weights_of(plan) <= 0.6 * 4096**2
    assert weights_of(square(4096, masks.causal(np.array(0)), walk=walk)) == 4096**2


@pytest.mark.parametrize("walk", [True, False])
@pytest.mark.parametrize(("left", "right"), [(0, 0), (127, 0), (255, 256), (500, 11)])
def test_a_window_costs_in_proportion_to_its_keys(left, right, walk):
    window = left + right + 1
    for length in (4096, 8192, 2**15):
        plan = square(length, masks.sliding_window(left, right), walk=walk)
        for strip in plan.strips:
            assert strip.num_weights <= (strip.rows[1] - strip.rows[0] + strip.block_size) * strip.num_keys
            assert strip.num_keys <= 1.05 * (window + 3 * strip.block_size)
        assert weights_of(plan) <= 3 * length * max(window, plans.FEWEST_ROWS)


def test_the_cost_of_a_window_is_linear_in_length():
    costs = [weights_of(square(length, masks.sliding_window(256))) for length in (2**12, 2**13, 2**15, 2**17)]
    assert costs[0] <= 2**12 * 600
    for cost, times in zip(costs, (1, 2, 8, 32), strict=True):
        assert cost <= 1.1 * times * costs[0]


def test_chunks_and_prefixes_compute_their_keys_only():
    assert weights_of(square(4096, masks.chunked(256))) <= 2 * 4096 * 256
    assert weights_of(square(4096, masks.prefix(100))) <= 1.2 * 4096 * 100
    assert weights_of(square(4096, masks.causal() | masks.prefix(64))) <= 1.05 * weights_of(
        square(4096, masks.causal())
    )


@pytest.mark.parametrize("walk", [True, False])
def test_however_long_the_rows_few_strips_are_compiled(walk):
    for mask in (None, masks.causal(), masks.sliding_window(64), ~masks.causal(), masks.chunked(1000)):
        for length in (2**12, 2**15, 2**18):
            assert len(square(length, mask, walk=walk).strips) <= 8


@pytest.mark.parametrize("walk", [True, False])
@pytest.mark.parametrize("heads", [1, 8, 128])
def test_blocks_stay_within_memory(heads, walk):
    for mask in (None, masks.causal(), masks.sliding_window(1000, 1000)):
        for length in (4096, 2**15, 2**18):
            plan = square(length, mask, walk=walk, heads=heads)
            together, budget = (1, plans.WALKED_BLOCK_WEIGHTS) if walk else (heads, plans.WHOLE_BLOCK_WEIGHTS)
            for strip in plan.strips:
                block = together * strip.block_size * strip.num_keys
                assert block <= max(budget, together * plans.FEWEST_ROWS * length)


def test_blocks_of_all_heads_are_never_one():
    """The weights of a single block would be kept for the backward pass."""
    for length in (2, 3, 100, 2049):
        plan = blocked_plan((4, length, 7), None, None, walk_heads=False)
        assert sum(len(strip.first_keys) for strip in plan.strips) >= 2
        assert not plan.whole
    assert dense_plan((4, 5, 6)).whole


@pytest.mark.parametrize("block_size", [1, 100, 256, 5000])
def test_a_block_size_is_obeyed(block_size):
    for mask in (None, masks.causal(), masks.sliding_window(10)):
        for strip in square(1000, mask, block_size).strips:
            assert strip.block_size == min(block_size, strip.rows[1] - strip.rows[0])


def test_a_plan_of_one_block_computes_every_weight():
    assert_array_equal(computed(dense_plan((2, 5, 7)), 5, 7), 1)
    assert weights_of(dense_plan((2, 5, 7))) == math.prod((5, 7))
