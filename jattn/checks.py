"""What a caller gets wrong, said in the caller's words: the argument, what was expected, what came."""

from typing import Any

import jax.numpy as jnp
from jaxtyping import Array

from jattn.grids import Grid


def check_float(name: str, array: Any) -> None:
    """Raises `TypeError` unless the argument is an array of floats."""
    if not hasattr(array, "dtype") or not hasattr(array, "shape"):
        raise TypeError(f"{name}: expected an array, got {type(array).__name__}")
    if not jnp.issubdtype(array.dtype, jnp.floating):
        raise TypeError(f"{name}: expected a float dtype, got {array.dtype}")


def fit_array(name: str, array: Array, shape: tuple[int, ...]) -> Array:
    """Gives an array that broadcasts to a filter of shape ``(*batch, N, T, S)`` as many axes as the filter.

    With all of them there, a new leading axis (of a scan, say) is a batch axis of the array as it is of the filter.

    Raises:
      ValueError: if the array does not broadcast.
    """
    sizes = zip(array.shape[::-1], shape[::-1], strict=False)
    if array.ndim > len(shape) or any(size not in (1, whole) for size, whole in sizes):
        raise ValueError(f"{name}: expected a shape that broadcasts to [*batch, N, T, S] = {shape}, got {array.shape}")
    return array.reshape((1,) * (len(shape) - array.ndim) + array.shape)


def check_block(name: str, array: Array, grid: Grid) -> None:
    """Raises `ValueError` unless what a function of index grids returned broadcasts to its block, not the other way."""
    block = grid.block_shape
    sizes = zip(array.shape[::-1], block[::-1], strict=False)
    if array.ndim > len(block) or any(size not in (1, whole) for size, whole in sizes):
        raise ValueError(
            f"{name}: the function must return an array that broadcasts to its index grids, of shape {block}, "
            f"got {array.shape}"
        )
