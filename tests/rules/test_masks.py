import textwrap

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_array_equal

from jattn import attention_filter, masks

DRAWN = {
    "causal": (
        masks.causal(),
        """
        #....
        ##...
        ###..
        ####.""",
    ),
    "causal, offset": (
        masks.causal(1),
        """
        ##...
        ###..
        ####.
        #####""",
    ),
    "causal, negative offset": (
        masks.causal(-2),
        """
        .....
        .....
        #....
        ##...""",
    ),
    "causal, numpy offset": (
        masks.causal(np.int64(3)),
        """
        ####.
        #####
        #####
        #####""",
    ),
    "causal, offset of an array": (
        masks.causal(jnp.array(2)),
        """
        ###..
        ####.
        #####
        #####""",
    ),
    "window": (
        masks.sliding_window(1),
        """
        #....
        ##...
        .##..
        ..##.""",
    ),
    "window of one": (
        masks.sliding_window(0),
        """
        #....
        .#...
        ..#..
        ...#.""",
    ),
    "window, both sides": (
        masks.sliding_window(1, 2),
        """
        ###..
        ####.
        .####
        ..###""",
    ),
    "window, all earlier": (
        masks.sliding_window(None, 1),
        """
        ##...
        ###..
        ####.
        #####""",
    ),
    "window, all later": (
        masks.sliding_window(1, None),
        """
        #####
        #####
        .####
        ..###""",
    ),
    "window, all": (
        masks.sliding_window(None, None),
        """
        #####
        #####
        #####
        #####""",
    ),
    "window, offset": (
        masks.sliding_window(1, offset=2),
        """
        .##..
        ..##.
        ...##
        ....#""",
    ),
    "window, negative offset": (
        masks.sliding_window(1, 1, -2),
        """
        .....
        #....
        ##...
        ###..""",
    ),
    "window, array offset": (
        masks.sliding_window(np.int64(0), offset=jnp.array(-1)),
        """
        .....
        #....
        .#...
        ..#..""",
    ),
    "chunked": (
        masks.chunked(2),
        """
        ##...
        ##...
        ..##.
        ..##.""",
    ),
    "chunked, larger than all": (
        masks.chunked(9),
        """
        #####
        #####
        #####
        #####""",
    ),
    "chunked, offset": (
        masks.chunked(3, 1),
        """
        ###..
        ###..
        ...##
        ...##""",
    ),
    "chunked, negative offset": (
        masks.chunked(2, offset=-1),
        """
        .....
        ##...
        ##...
        ..##.""",
    ),
    "prefix": (
        masks.prefix(2),
        """
        ##...
        ##...
        ##...
        ##...""",
    ),
    "prefix of nothing": (
        masks.prefix(0),
        """
        .....
        .....
        .....
        .....""",
    ),
    "prefix, longer than all": (
        masks.prefix(9),
        """
        #####
        #####
        #####
        #####""",
    ),
    "prefix, an array": (
        masks.prefix(jnp.array(3)),
        """
        ###..
        ###..
        ###..
        ###..""",
    ),
    "prefix or causal": (
        masks.causal() | masks.prefix(3),
        """
        ###..
        ###..
        ###..
        ####.""",
    ),
    "segments": (
        masks.segments(jnp.array([0, 0, 7, 3]), np.array([0, 7, 7, 0, 0])),
        """
        #..##
        #..##
        .##..
        .....""",
    ),
    "not a window": (
        ~masks.sliding_window(1),
        """
        .####
        ..###
        #..##
        ##..#""",
    ),
    "a window of chunks": (
        masks.sliding_window(1, 1) & ~masks.chunked(2) | masks.prefix(1),
        """
        #....
        #.#..
        ##...
        #...#""",
    ),
    "padding": (
        masks.padding(jnp.array(2)),
        """
        ##...
        ##...
        ##...
        ##...""",
    ),
    "padding of queries": (
        masks.padding(3, 2),
        """
        ###..
        ###..
        .....
        .....""",
    ),
    "function": (
        masks.from_function(lambda query, key: abs(query - key) < 2),
        """
        ##...
        ###..
        .###.
        ..###""",
    ),
    "function of heads": (
        masks.from_function(lambda head, query, key: (query == key) | (head > 0)),
        """
        #....
        .#...
        ..#..
        ...#.""",
    ),
    "function with a default": (
        masks.from_function(lambda query, key, *, step=2: (query - key) % step == 0),
        """
        #.#.#
        .#.#.
        #.#.#
        .#.#.""",
    ),
    "array": (
        np.eye(4, 5, 1, bool),
        """
        .#...
        ..#..
        ...#.
        ....#""",
    ),
    "array of keys": (
        jnp.array([True, False, True, False, True]),
        """
        #.#.#
        #.#.#
        #.#.#
        #.#.#""",
    ),
    "and, not": (
        masks.causal() & ~masks.padding(jnp.array(1)),
        """
        .....
        .#...
        .##..
        .###.""",
    ),
    "or": (
        masks.causal() | masks.from_function(lambda query, key: key == 4),
        """
        #...#
        ##..#
        ###.#
        #####""",
    ),
    "both negated": (
        ~(masks.causal() | masks.padding(jnp.array(3))),
        """
        ...##
        ...##
        ...##
        ....#""",
    ),
    "a number": (
        True & masks.causal() & np.bool_(True),
        """
        #....
        ##...
        ###..
        ####.""",
    ),
}


@pytest.mark.parametrize("name", DRAWN)
def test_masks_look_as_drawn(name):
    mask, drawn = DRAWN[name]
    assert masks.draw(mask, 4, 5) == textwrap.dedent(drawn).strip()


ARRAY = np.array([[1, 0, 1], [0, 1, 1], [1, 1, 1]], bool)
CAUSAL = np.tri(3, dtype=bool)


@pytest.mark.parametrize("kind", [np.asarray, jnp.asarray, masks.as_mask])
def test_arrays_may_stand_on_either_side(kind):
    array = kind(ARRAY)
    for mask, expected in [
        (array & masks.causal(), ARRAY & CAUSAL),
        (masks.causal() & array, ARRAY & CAUSAL),
        (array | masks.causal(), ARRAY | CAUSAL),
        (masks.causal() | array, ARRAY | CAUSAL),
        (~masks.causal() & array, ARRAY & ~CAUSAL),
        (array | ~masks.causal(), ARRAY | ~CAUSAL),
    ]:
        assert isinstance(mask, masks.Mask)
        assert masks.draw(mask, 3, 3) == masks.draw(expected, 3, 3)


def test_masks_compose_as_booleans_do():
    a, b, c = masks.causal(), masks.as_mask(ARRAY), masks.padding(jnp.array(2))
    for left, right in [
        (~(a & b), ~a | ~b),
        (~(a | b), ~a & ~b),
        (a & (b | c), (a & b) | (a & c)),
        (~~a, a),
        ((a & b) & c, a & (b & c)),
    ]:
        assert masks.draw(left, 3, 3) == masks.draw(right, 3, 3)


def test_a_mask_is_a_pytree_of_its_arrays():
    mask = masks.causal() & ~masks.padding(jnp.array(2)) & ARRAY
    assert len(jax.tree.leaves(mask)) == 2
    drawn = masks.draw(mask, 3, 3)
    assert masks.draw(jax.tree.unflatten(*jax.tree.flatten(mask)[::-1]), 3, 3) == drawn
    assert masks.draw(jax.jit(lambda mask: mask)(mask), 3, 3) == drawn


def test_numbers_are_structure_and_arrays_are_leaves():
    """A number says at trace time which keys are never computed; an array may be traced."""
    for number, array in [
        (masks.causal(3), masks.causal(jnp.array(3))),
        (masks.sliding_window(1, 2, 3), masks.sliding_window(1, 2, jnp.array(3))),
        (masks.chunked(2, 3), masks.chunked(2, jnp.array(3))),
        (masks.prefix(3), masks.prefix(jnp.array(3))),
    ]:
        assert jax.tree.leaves(number) == []
        assert [int(leaf) for leaf in jax.tree.leaves(array)] == [3]
        assert masks.draw(number, 4, 5) == masks.draw(array, 4, 5)
        assert masks.draw(number, 4, 5) == masks.draw(~~jax.jit(lambda mask: mask)(array), 4, 5)


def test_the_causal_mask_of_packed_sequences_is_a_block_for_each():
    ids = jnp.array([0, 0, 0, 1, 1, 2])
    expected = np.zeros((6, 6), bool)
    for first, end in [(0, 3), (3, 5), (5, 6)]:
        expected[first:end, first:end] = np.tri(end - first)
    assert masks.draw(masks.segments(ids) & masks.causal(), 6, 6) == masks.draw(expected, 6, 6)


IDS_OF_TWO_TYPES = {
    "one byte": (np.array([-1, 0, 127], np.int8), np.array([255, 0, 127], np.uint8), [False, True, True]),
    "four bytes": (np.array([2**32 - 1, 2**31, 3], np.uint32), np.array([-1, -(2**31), 3]), [False, False, True]),
    "one and two": (np.array([-1, -128, 5], np.int8), np.array([-1, -128, 5], np.int16), [True, True, True]),
    "one and four": (np.array([-1, 7, 0], np.int32), np.array([255, 7, 0], np.uint8), [False, True, True]),
}


@pytest.mark.parametrize("name", IDS_OF_TWO_TYPES)
def test_segments_of_different_types_are_compared_by_value(name):
    query_ids, key_ids, same = IDS_OF_TWO_TYPES[name]
    with jax.numpy_dtype_promotion("strict"):
        mask = masks.segments(query_ids, jnp.asarray(key_ids, key_ids.dtype if key_ids.itemsize < 8 else np.int32))
        drawn = masks.draw(mask, 3, 3).split("\n")
    assert [drawn[place][place] == "#" for place in range(3)] == same


def test_lengths_may_be_traced():
    query = jnp.zeros((3, 2, 1, 4))
    weights = jax.jit(lambda lengths: attention_filter(query, query, mask=masks.padding(lengths)).weights())
    assert_array_equal(weights(jnp.array([0, 1, 2]))[:, 0, 0], [[0, 0], [1, 0], [0.5, 0.5]])


def test_a_mask_has_no_truth_value():
    """``causal() and padding(...)`` would silently be one of the two."""
    with pytest.raises(TypeError, match="&"):
        bool(masks.causal())


def test_widths_and_sizes_that_only_the_device_knows_may_be_below_what_is_refused():
    @jax.jit
    def allowed(number):
        rules = masks.chunked(number), masks.sliding_window(number, 2)
        return [attention_filter(*jnp.zeros((2, 3, 1, 1)), mask=rule).weights()[0] > 0 for rule in rules]

    positions = np.arange(3)
    distance = positions - positions[:, None]
    for number in (-2, -1, 0):
        chunks, window = allowed(number)
        assert not np.any(chunks)
        assert_array_equal(window, (-number <= distance) & (distance <= 2))
    assert_array_equal(allowed(2)[0], positions[:, None] // 2 == positions // 2)
