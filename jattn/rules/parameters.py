"""Numbers and learned arrays that scores and normalizers are made with."""

import dataclasses
import math
import numbers
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Float, Int

from jattn.rules.checks import as_own, check_float, check_integer
from jattn.rules.grids import Grid, static
from jattn.rules.overlay import Overlay
from jattn.rules.trees import as_pytree


@as_pytree
@dataclasses.dataclass(frozen=True)
class Parameter:
    """A number, which is part of a pytree's structure, or an array, which is a leaf and may be learned.

    Args:
      array: broadcasts to the filter ``[*batch, N, T, S]``.
      name: the argument, as error messages call it.
      number: what there is instead of an array.
    """

    array: Float[Array, "..."] | Overlay | None
    name: str = static()
    number: float | None = static()

    @property
    def as_written(self) -> Array | Overlay | float | None:
        """What a user gave."""
        return self.number if self.array is None else self.array

    def part(self, grid: Grid, dtype: Any) -> Array:
        """Cuts out the block's part, which broadcasts to the block."""
        return jnp.asarray(self.number if self.array is None else grid.part(self.array), dtype)

    def fit(self, shape: tuple[int, ...]) -> "Parameter":
        """Fits an array to a filter of shape ``(*batch, N, T, S)``; see `overlay.fit_array`."""
        return self if self.array is None else dataclasses.replace(self, array=Overlay.of(self.name, self.array, shape))

    def fit_rows(self, shape: tuple[int, ...]) -> "Parameter":
        """Fits an array of one number per row: ``[*batch, N, T, 1]``, or what broadcasts to it."""
        if isinstance(self.array, jax.Array) and self.array.ndim and self.array.shape[-1] != 1:
            expected = (*shape[:-1], 1)
            raise ValueError(
                f"{self.name}: expected a shape that broadcasts to [*batch, N, T, 1] = {expected}, "
                f"got {self.array.shape}"
            )
        return self.fit(shape)


@as_pytree
@dataclasses.dataclass(frozen=True)
class HeadParameter:
    """A learned array of some axes, shared by all heads or with one entry per head.

    Args:
      array: ``[*axes]``, or ``[N, *axes]``, or ``[*batch, N, *axes]``.
      name: the argument, as error messages call it.
      axes: what the last axes are called.
    """

    array: Float[Array, "..."]
    name: str = static()
    axes: tuple[str, ...] = static()

    @property
    def as_written(self) -> Array:
        """What a user gave."""
        return self.array

    def part(self, grid: Grid) -> Array:
        """Cuts out the block's part: ``[*batch, N, *axes]``, of its entries alone, or ``[*axes]`` of one head."""
        return grid.one_stream(self.array)

    def fit(self, shape: tuple[int, ...]) -> "HeadParameter":
        """Gives the array all leading axes of a filter of shape ``(*batch, N, T, S)``; see `overlay.fit_array`."""
        leading, whole = self.array.shape[: -len(self.axes)], shape[:-2]
        sizes = zip(leading[::-1], whole[::-1], strict=False)
        if len(leading) > len(whole) or any(size not in (1, heads) for size, heads in sizes):
            axes = ", ".join(self.axes)
            raise ValueError(
                f"{self.name}: expected shape [{axes}] or [N, {axes}] with N = {whole[-1]}, got {self.array.shape}"
            )
        missing = (1,) * (len(whole) - len(leading))
        return dataclasses.replace(self, array=self.array.reshape(missing + self.array.shape))


@as_pytree
@dataclasses.dataclass(frozen=True)
class Integer:
    """An int, which is part of a pytree's structure, or an array of one per batch entry, which is a leaf.

    Args:
      array: ``[*batch]``, or one for all entries.
      name: the argument, as error messages call it.
      number: what there is instead of an array.
    """

    array: Int[Array, "*batch"] | Overlay | None
    name: str = static()
    number: int = static()

    @property
    def as_written(self) -> Array | Overlay | int:
        """What a user gave."""
        return self.number if self.array is None else self.array

    @property
    def known(self) -> bool:
        """Whether it is a number."""
        return self.array is None

    def part(self, grid: Grid) -> Array | int:
        """Cuts out the block's part, which broadcasts to the block."""
        return self.number if self.array is None else grid.part(self.array)

    def fit(self, shape: tuple[int, ...]) -> "Integer":
        """Fits an array to a filter of shape ``(*batch, N, T, S)``."""
        if self.array is None:
            return self
        return dataclasses.replace(self, array=Overlay.per_batch(self.name, self.array, shape))


def as_parameter(name: str, value: Any, may_be_minus_infinity: bool = False) -> Parameter:
    """Returns a `Parameter` for a finite number or a float array; refuses anything else."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        if not math.isfinite(value) and not (may_be_minus_infinity and value == -math.inf):
            raise ValueError(f"{name} must be a finite number, got {value}")
        return Parameter(None, name, float(value))
    expected = f"{name} must be a real number or a float array"
    if not hasattr(value, "dtype"):
        raise TypeError(f"{expected}, got {type(value).__name__}")
    array = as_own(value)
    if not jnp.issubdtype(array.dtype, jnp.floating):
        raise TypeError(f"{expected}, got dtype {array.dtype}")
    return Parameter(array, name, None)


def as_head_parameter(name: str, value: Any, *axes: str) -> HeadParameter:
    """Returns a `HeadParameter` for a float array with at least the named axes; refuses anything else."""
    check_float(name, value)
    array = as_own(value)
    if array.ndim < len(axes):
        named = ", ".join(axes)
        raise ValueError(f"{name}: expected shape [{named}] or [N, {named}], got {array.shape}")
    return HeadParameter(array, name, axes)


def as_integer(name: str, value: Any, least: int | None = None) -> "Integer":
    """Returns an `Integer` for an int or an array of integers; refuses anything else, and what is known to be less."""
    expected = f"{name} must be an int, or an array of integers with one per batch entry"
    if isinstance(value, numbers.Integral) and not isinstance(value, bool):
        return Integer(None, name, check_integer(name, value, least))
    if not hasattr(value, "dtype"):
        raise TypeError(f"{expected}, got {value!r}")
    if not jnp.issubdtype(value.dtype, jnp.integer):
        raise TypeError(f"{expected}, got dtype {value.dtype}")
    if least is not None and not isinstance(value, Tracer) and np.any(np.asarray(value) < least):
        raise ValueError(f"{name} must be at least {least}, got {np.min(value)}")
    return Integer(as_own(value), name, 0)
