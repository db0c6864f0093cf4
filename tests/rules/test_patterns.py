"""Patterns: sets of keys as masks."""

import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_array_equal

import jattn
from jattn import masks, patterns
from tests.variants import inputs

TOKENS = np.array([[0, 1, 0, 2, 2, 0, 1, 1, 0], [3, 3, 1, 2, 3, 1, 2, 0, 0]])


def test_patterns_look_as_they_are_described():
    tokens = jnp.array([1, 2, 1, 1])
    drawn = [
        masks.draw(mask, 4, 4).split("\n")
        for mask in (
            patterns.same_token(tokens),
            patterns.duplicate_token(tokens),
            patterns.induction(tokens),
            patterns.previous_token(),
            patterns.next_token(),
            patterns.local_band(1),
            patterns.first_token(),
        )
    ]
    assert drawn == [
        ["#.##", ".#..", "#.##", "#.##"],
        ["..##", "....", "#..#", "#.#."],
        ["....", "....", ".#..", ".#.#"],
        ["....", "#...", ".#..", "..#."],
        [".#..", "..#.", "...#", "...."],
        ["##..", "###.", ".###", "..##"],
        ["#...", "#...", "#...", "#..."],
    ]


def test_knocking_out_a_pattern_leaves_no_weight_on_it():
    query, key, _ = inputs(9, 9)
    chosen = patterns.induction(jnp.asarray(TOKENS))
    filter = jattn.attention_filter(query, key, mask=masks.causal() & ~chosen)
    assert_array_equal(filter.mass(chosen), 0)
    assert (filter.mass(masks.causal()) > 0.999).sum() >= 60


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: patterns.local_band(-1), ValueError, "band must be at least 0, got -1"),
        (lambda: patterns.local_band(None), TypeError, "band must be an int, got None"),
        (lambda: patterns.induction([1, 2]), TypeError, "tokens: expected an array of integers.*got list"),
        (lambda: patterns.same_token(TOKENS, 1.0 * TOKENS), TypeError, "query_tokens: expected an array of integers"),
    ],
)
def test_patterns_refuse_what_they_cannot_be_made_of(make, error, message):
    with pytest.raises(error, match=message):
        make()
