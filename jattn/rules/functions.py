"""Functions of index grids, of which a user makes masks and biases."""

import inspect
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array

from jattn.rules.grids import Grid


def takes_head(function: Callable[..., Any], caller: str) -> bool:
    """Says whether a function of index grids takes ``(head, query, key)`` rather than ``(query, key)``."""
    try:
        inspect.signature(function).bind(None, None, None)
        return True
    except TypeError:
        pass
    try:
        inspect.signature(function).bind(None, None)
        return False
    except TypeError:
        raise TypeError(
            f"{caller}: expected a function of (query, key) or (head, query, key), got {function!r}"
        ) from None


def of_indices(name: str, function: Callable[..., Any], with_head: bool, grid: Grid) -> Array:
    """Calls a function of ``(query, key)`` or ``(head, query, key)`` with the indices of one block.

    A function that is given no ``head`` returns the same for all heads, whether they are computed at once or walked.

    Raises:
      ValueError: unless what it returns broadcasts to the grids, and not the other way.
    """
    indices = (grid.head, grid.query, grid.key) if with_head else (grid.query, grid.key)
    array = jnp.asarray(function(*indices))
    block = jnp.broadcast_shapes(*(index.shape for index in indices))
    sizes = zip(array.shape[::-1], block[::-1], strict=False)
    if array.ndim > len(block) or any(size not in (1, whole) for size, whole in sizes):
        hint = "; what differs by head takes (head, query, key)" if not with_head else ""
        raise ValueError(
            f"{name}: the function must return an array that broadcasts to its index grids, of shape {block}, "
            f"got {array.shape}{hint}"
        )
    return array
