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


def test_lengths_may_be_traced():
    query = jnp.zeros((3, 2, 1, 4))
    weights = jax.jit(lambda lengths: attention_filter(query, query, mask=masks.padding(lengths)).weights())
    assert_array_equal(weights(jnp.array([0, 1, 2]))[:, 0, 0], [[0, 0], [1, 0], [0.5, 0.5]])


def test_a_mask_has_no_truth_value():
    """``causal() and padding(...)`` would silently be one of the two."""
    with pytest.raises(TypeError, match="&"):
        bool(masks.causal())
