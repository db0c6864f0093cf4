"""What a caller gets wrong, said in the caller's words: the argument, what was expected, what came."""

import functools
import operator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

ArrayOrShape = Array | jax.ShapeDtypeStruct
"""An array, or the shape and dtype of one."""


def check_float(name: str, array: Any) -> None:
    """Raises `TypeError` unless the argument is an array of floats."""
    if not isinstance(array, jax.Array | np.ndarray | np.generic | jax.ShapeDtypeStruct):
        hint = f"; jnp.from_dlpack({name.rpartition(' ')[2]}) converts it" if hasattr(array, "__dlpack__") else ""
        raise TypeError(f"{name}: expected an array, got {type(array).__name__}{hint}")
    if not jnp.issubdtype(array.dtype, jnp.floating):
        raise TypeError(f"{name}: expected a float dtype, got {array.dtype}")
    if array.dtype.itemsize < 2:
        raise TypeError(f"{name}: expected floats of 16 bits or more, got {array.dtype}; convert them first")


def as_own(array: Any) -> Array:
    """Returns an array that stays what it is; of others than JAX's a copy, whose memory JAX might share else."""
    return jnp.asarray(array) if isinstance(array, jax.Array) else jnp.array(array)


def check_integer(name: str, number: Any, least: int | None = None, expected: str = "an int") -> int:
    """Returns an integer, which may be an array without axes, as an int.

    Raises:
      TypeError: if it is none; a boolean and a float are none.
      ValueError: if it is below `least`.
    """
    try:
        whole = None if isinstance(number, bool | np.bool_) else operator.index(number)
    except TypeError:
        whole = None
    if whole is None:
        raise TypeError(f"{name} must be {expected}, got {number!r}")
    if least is not None and whole < least:
        raise ValueError(f"{name} must be at least {least}, got {number}")
    return whole


def check_precision(precision: Any) -> None:
    """Raises `ValueError` unless matrix products can be computed with this precision."""
    if precision is None:
        return
    matrix = jax.ShapeDtypeStruct((1, 1), jnp.float32)
    try:
        jax.eval_shape(functools.partial(jnp.matmul, precision=precision), matrix, matrix)
    except (TypeError, ValueError):
        raise ValueError(
            "precision: expected None, 'default', 'high', 'highest' or what else jax.lax.dot_general takes, "
            f"got {precision!r}"
        ) from None
