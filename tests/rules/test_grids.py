import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_array_equal

from jattn.rules.grids import Grid, whole_grid

SHAPE = (2, 3, 4, 5, 6)
"""Two batch axes, four heads, five queries, six keys."""
ROWS = np.array([1, 2, 3])


def of_all_heads(array_shape, adjacent=True):
    """The part that a block of all heads cuts out of an array, broadcast to the block; and the block it should be."""
    array = np.arange(np.prod(array_shape)).reshape(array_shape)
    part = Grid(jnp.asarray(ROWS), SHAPE, adjacent).part(jnp.asarray(array))
    whole = np.broadcast_to(array, SHAPE)
    return np.broadcast_to(part, (2, 3, 4, 3, 6)), whole[..., ROWS, :]


@pytest.mark.parametrize("array_shape", [(), (6,), (5, 1), (5, 6), (4, 1, 1), (3, 1, 1, 6), (2, 1, 4, 5, 1), SHAPE])
@pytest.mark.parametrize("adjacent", [True, False])
def test_a_block_of_all_heads_cuts_its_rows_out_of_an_array(array_shape, adjacent):
    assert_array_equal(*of_all_heads(array_shape, adjacent))


@pytest.mark.parametrize("array_shape", [(), (6,), (5, 1), (5, 6), (4, 1, 1), (3, 1, 1, 6), (2, 1, 4, 5, 1), SHAPE])
def test_a_block_of_one_walked_head_cuts_its_rows_out_of_an_array(array_shape):
    array = np.arange(np.prod(array_shape)).reshape(array_shape)
    parts = jax.vmap(
        lambda stream: jnp.broadcast_to(Grid(jnp.asarray(ROWS), SHAPE, stream=stream).part(jnp.asarray(array)), (3, 6))
    )(jnp.arange(24))
    assert_array_equal(parts, np.broadcast_to(array, SHAPE)[..., ROWS, :].reshape(24, 3, 6))


def test_one_number_per_batch_entry():
    numbers = jnp.arange(6).reshape(2, 3)
    assert Grid(jnp.asarray(ROWS), SHAPE).per_batch(jnp.array(7)).shape == ()
    of_all = Grid(jnp.asarray(ROWS), SHAPE).per_batch(numbers)
    assert_array_equal(np.broadcast_to(of_all, SHAPE)[:, :, 0, 0, 0], numbers)
    of_one = [Grid(jnp.asarray(ROWS), SHAPE, stream=jnp.array(stream)).per_batch(numbers) for stream in range(24)]
    assert_array_equal(np.ravel(of_one), np.repeat(np.arange(6), 4))


def test_indices_of_a_block():
    grid = Grid(jnp.array([4, 0]), SHAPE, adjacent=False)
    assert_array_equal(grid.query, [[4], [0]])
    assert_array_equal(grid.key, [[0, 1, 2, 3, 4, 5]])
    assert_array_equal(grid.head, np.arange(4)[:, None, None])


def test_a_walked_head_knows_which_it_is():
    heads = [int(Grid(jnp.array([0]), SHAPE, stream=jnp.array(stream)).head) for stream in range(24)]
    assert heads == [0, 1, 2, 3] * 6


def test_the_whole_grid_holds_every_row():
    assert_array_equal(whole_grid(SHAPE).rows, range(5))
