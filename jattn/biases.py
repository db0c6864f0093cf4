"""Biases: floats added to the scores before the normalizer.

A bias is an array that broadcasts to ``[*batch, N, T, S]``, or a `Bias` object evaluated on the index grids of one
block of rows at a time.
"""

import abc
import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jattn.checks import check_block, fit_array
from jattn.grids import Grid
from jattn.masks import static, takes_head

BiasLike = Any
"""A `Bias`, or a float array that broadcasts to ``[*batch, N, T, S]``."""


class Bias(abc.ABC):
    """Computes what is added to the scores of one block. Subclasses are frozen dataclasses registered as pytrees."""

    @abc.abstractmethod
    def evaluate(self, grid: Grid) -> Float[Array, "..."]:
        """Computes the bias of one block; the result broadcasts to the block."""

    def fit(self, shape: tuple[int, ...]) -> "Bias":
        """Returns the bias with its arrays fit to a filter of shape ``(*batch, N, T, S)``; see `checks.fit_array`."""
        return self


def from_function(function: Callable[..., Float[Array, "..."]]) -> Bias:
    """Makes a bias of a function of ``(query, key)`` or ``(head, query, key)`` index grids.

    Example:
      >>> import jax.numpy as jnp
      >>> from jattn import attention_filter, biases
      >>> nearest = biases.from_function(lambda query, key: -10.0 * abs(query - key))
      >>> zeros = jnp.zeros((3, 1, 4))
      >>> attention_filter(zeros, zeros, bias=nearest).weights()[0].round(2).tolist()
      [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]]
    """
    return _FromFunction(function, takes_head(function, "biases.from_function"))


def as_bias(bias: BiasLike) -> Bias:
    """Returns a `Bias` for a bias object or a float array; refuses anything else."""
    if isinstance(bias, Bias):
        return bias
    if not isinstance(bias, jax.Array | np.ndarray | float | np.floating):
        raise TypeError(f"bias: expected a float array or a jattn bias, got {type(bias).__name__}")
    array = jnp.asarray(bias)
    if not jnp.issubdtype(array.dtype, jnp.floating):
        hint = "; a boolean array is a mask" if array.dtype == jnp.bool_ else ""
        raise TypeError(f"bias: expected a float dtype, got {array.dtype}{hint}")
    return _FromArray(array)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class _FromArray(Bias):
    array: Float[Array, "..."]

    def evaluate(self, grid: Grid) -> Float[Array, "..."]:
        return grid.part(self.array)

    def fit(self, shape: tuple[int, ...]) -> Bias:
        return _FromArray(fit_array("bias", self.array, shape))


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class _FromFunction(Bias):
    function: Callable[..., Float[Array, "..."]] = static()
    with_head: bool = static()

    def evaluate(self, grid: Grid) -> Float[Array, "..."]:
        indices = (grid.head, grid.query, grid.key) if self.with_head else (grid.query, grid.key)
        bias = jnp.asarray(self.function(*indices))
        if not jnp.issubdtype(bias.dtype, jnp.floating):
            raise TypeError(f"bias: the function must return floats, got dtype {bias.dtype}")
        check_block("bias", bias, grid)
        return bias
