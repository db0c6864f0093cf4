"""What every mask is and does: which keys a query may attend to, and how masks combine. `masks` has the masks."""

import abc
import dataclasses
from typing import Any, Self

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Int

from jattn.rules.grids import Grid
from jattn.rules.overlay import Overlay
from jattn.rules.rule import Rule, called, rule, write, write_joined

MaskLike = Any
"""A `Mask`, or a boolean array that broadcasts to ``[*batch, N, T, S]``."""

Rows = Int[np.ndarray, " blocks"]
"""The first, or the last, row of each of some blocks."""

Span = tuple[Int[np.ndarray, " blocks"], Int[np.ndarray, " blocks"]]
"""For each of some blocks of rows, a range of keys: its first, and the one after its last; empty where they meet."""


class Mask(Rule):
    """Decides, on the index grids of one block, which keys each query may attend to.

    Subclasses are frozen dataclasses registered as pytrees. Combine masks with ``&`` (both allow), ``|`` (either
    allows) and ``~`` (forbid what was allowed); arrays may stand on either side.
    """

    __array_ufunc__ = None  # lets numpy arrays on the left of & and | defer to this class

    @abc.abstractmethod
    def evaluate(self, grid: Grid) -> Bool[Array, "..."]:
        """Computes the mask of one block; the result broadcasts to the block."""

    def allowed_span(self, first: Rows, last: Rows, num_keys: int) -> Span:
        """Bounds the keys that rows `first` to `last` may attend to, as far as is known without any data.

        Keys outside of the span are forbidden to all these rows, and `attend` never computes their scores.
        """
        return np.zeros_like(first), np.full_like(last, num_keys)

    def forbidden_span(self, first: Rows, last: Rows, num_keys: int) -> Span:
        """Bounds the keys that are forbidden to some of the rows; all of them may attend to every key outside of it."""
        return np.zeros_like(first), np.full_like(last, num_keys)

    def __bool__(self) -> bool:
        raise TypeError("a mask has no truth value: combine masks with &, | and ~")

    def __and__(self, other: MaskLike) -> "Mask":
        return Both(self, as_mask(other))

    def __rand__(self, other: MaskLike) -> "Mask":
        return Both(as_mask(other), self)

    def __or__(self, other: MaskLike) -> "Mask":
        return Either(self, as_mask(other))

    def __ror__(self, other: MaskLike) -> "Mask":
        return Either(as_mask(other), self)

    def __invert__(self) -> "Mask":
        return Not(self)


def as_mask(mask: MaskLike) -> Mask:
    """Returns a `Mask` for a mask object or a boolean array; refuses anything else."""
    if isinstance(mask, Mask):
        return mask
    if not isinstance(mask, jax.Array | np.ndarray | np.bool_ | bool):
        raise TypeError(f"mask: expected a boolean array or a jattn mask (True = may attend), got {called(mask)}")
    array = jnp.asarray(mask)
    if array.dtype != jnp.bool_:
        raise TypeError(
            f"mask: expected dtype bool (True = may attend), got {array.dtype}; give additive terms as bias"
        )
    return FromArray(array)


def _intersect(left: Span, right: Span) -> Span:
    return np.maximum(left[0], right[0]), np.minimum(left[1], right[1])


def _hull(left: Span, right: Span) -> Span:
    left_empty, right_empty = left[0] >= left[1], right[0] >= right[1]
    first = np.where(left_empty, right[0], np.where(right_empty, left[0], np.minimum(left[0], right[0])))
    end = np.where(left_empty, right[1], np.where(right_empty, left[1], np.maximum(left[1], right[1])))
    return first, end


@rule()
class FromArray(Mask):
    array: Bool[Array, "..."] | Overlay

    def __repr__(self) -> str:
        return write(self.array)

    def evaluate(self, grid: Grid) -> Bool[Array, "..."]:
        return grid.part(self.array)

    def fit(self, shape: tuple[int, ...]) -> Self:
        return dataclasses.replace(self, array=Overlay.of("mask", self.array, shape))


@rule()
class Both(Mask):
    left: Mask
    right: Mask
    binding = 2

    def __repr__(self) -> str:
        return write_joined(self.left, "&", self.right, self.binding)

    def evaluate(self, grid: Grid) -> Bool[Array, "..."]:
        return self.left.evaluate(grid) & self.right.evaluate(grid)

    def allowed_span(self, first: Rows, last: Rows, num_keys: int) -> Span:
        return _intersect(*(mask.allowed_span(first, last, num_keys) for mask in (self.left, self.right)))

    def forbidden_span(self, first: Rows, last: Rows, num_keys: int) -> Span:
        return _hull(*(mask.forbidden_span(first, last, num_keys) for mask in (self.left, self.right)))


@rule()
class Either(Mask):
    left: Mask
    right: Mask
    binding = 1

    def __repr__(self) -> str:
        return write_joined(self.left, "|", self.right, self.binding)

    def evaluate(self, grid: Grid) -> Bool[Array, "..."]:
        return self.left.evaluate(grid) | self.right.evaluate(grid)

    def allowed_span(self, first: Rows, last: Rows, num_keys: int) -> Span:
        return _hull(*(mask.allowed_span(first, last, num_keys) for mask in (self.left, self.right)))

    def forbidden_span(self, first: Rows, last: Rows, num_keys: int) -> Span:
        return _intersect(*(mask.forbidden_span(first, last, num_keys) for mask in (self.left, self.right)))


@rule()
class Not(Mask):
    mask: Mask
    binding = 4

    def __repr__(self) -> str:
        return f"~{self.mask!r}" if self.mask.binding >= self.binding else f"~({self.mask!r})"

    def evaluate(self, grid: Grid) -> Bool[Array, "..."]:
        return ~self.mask.evaluate(grid)

    def allowed_span(self, first: Rows, last: Rows, num_keys: int) -> Span:
        return self.mask.forbidden_span(first, last, num_keys)

    def forbidden_span(self, first: Rows, last: Rows, num_keys: int) -> Span:
        return self.mask.allowed_span(first, last, num_keys)
