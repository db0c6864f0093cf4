"""What every mask is and does: which keys a query may attend to, and how masks combine. `masks` has the masks."""

import abc
import dataclasses
from collections.abc import Callable
from typing import Any, Self

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Int

from jattn.rules.checks import as_own
from jattn.rules.functions import count_indices, of_indices
from jattn.rules.grids import Grid, static
from jattn.rules.overlay import Overlay
from jattn.rules.rule import Rule, called, is_factory, rule, write, write_joined

IndexFunction = Callable[..., Any]
"""A function of ``(query, key)``, ``(head, query, key)`` or ``(batch, head, query, key)``: see `from_function`."""

Rows = Int[np.ndarray, " blocks"]
"""The first, or the last, row of each of some blocks."""

Span = tuple[Int[np.ndarray, " blocks"], Int[np.ndarray, " blocks"]]
"""For each of some blocks of rows, a range of keys: its first, and the one after its last; empty where they meet."""


class Mask(Rule):
    """Decides, on the index grids of one block, which keys each query may attend to.

    Subclasses are frozen dataclasses registered as pytrees. Combine masks with ``&`` (both allow), ``|`` (either
    allows) and ``~`` (forbid what was allowed); arrays may stand on either side.
    """

    wing = "masks"

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

    @property
    def depends_on_data(self) -> bool:
        """Whether `span` may know more than `allowed_span`."""
        return False

    def span(self, grid: Grid) -> tuple[Int[Array, ""], Int[Array, ""]]:
        """Bounds the keys that the rows of a block may attend to, by data: the first, and the one after the last.

        Keys outside of the span are forbidden to all rows of the block; where there are none, the two may be anything
        with the second no larger than the first.
        """
        return jnp.int32(grid.first_key), jnp.int32(grid.first_key + grid.width)

    def allows_all(self, grid: Grid) -> Bool[Array, ""] | None:
        """Says by data whether all rows of a block may attend to all of its keys; None where that cannot be known."""
        return None

    def __bool__(self) -> bool:
        raise TypeError("a mask has no truth value: combine masks with &, | and ~")

    def __and__(self, other: "MaskLike") -> "Mask":
        return Both(self, as_mask(other))

    def __rand__(self, other: "MaskLike") -> "Mask":
        return Both(as_mask(other), self)

    def __or__(self, other: "MaskLike") -> "Mask":
        return Either(self, as_mask(other))

    def __ror__(self, other: "MaskLike") -> "Mask":
        return Either(as_mask(other), self)

    def __invert__(self) -> "Mask":
        return Not(self)


MaskLike = Mask | Bool[Array, "..."] | np.ndarray | np.bool_ | bool | IndexFunction
"""A `Mask`, a boolean array that broadcasts to ``[*batch, N, T, S]``, or a function, as `from_function` takes it."""


def as_mask(mask: MaskLike) -> Mask:
    """Returns a `Mask` for a mask object, a boolean array or a function of indices; refuses anything else."""
    if isinstance(mask, Mask):
        return mask
    if not isinstance(mask, jax.Array | np.ndarray | np.bool_ | bool):
        if callable(mask) and not isinstance(mask, Rule | type) and not is_factory(mask):
            return FromFunction(mask, count_indices(mask, "mask"))
        got = called(mask, Mask)
        raise TypeError(f"mask: expected a boolean array or a jattn mask (True = may attend), got {got}")
    array = as_own(mask)
    if array.dtype != jnp.bool_:
        raise TypeError(
            f"mask: expected dtype bool (True = may attend), got {array.dtype}; give additive terms as bias"
        )
    return FromArray(array)


def as_keys(name: str, expected: str, keys: MaskLike) -> Mask:
    """Returns what says of each key whether it is in a set as a `Mask`; `expected` is what else may have come."""
    try:
        return as_mask(keys)
    except TypeError as error:
        if callable(keys):
            raise TypeError(str(error).replace("mask", name, 1)) from None
        got = f"dtype {keys.dtype}" if isinstance(keys, jax.Array | np.ndarray) else called(keys, Mask)
        raise TypeError(f"{name}: expected {expected} or a jattn mask, got {got}") from None


def from_function(function: Callable[..., Bool[Array, "..."]]) -> Mask:
    """Makes a mask of a function of index grids.

    Args:
      function: takes ``(query, key)``, ``(head, query, key)`` or ``(batch, head, query, key)``, as many as it has
        parameters without a default: integer arrays that broadcast to a block. Returns booleans that broadcast to it.

    Example:
      >>> from jattn import masks
      >>> print(masks.draw(masks.from_function(lambda query, key: (query - key) % 2 == 0), 3, 4))
      #.#.
      .#.#
      #.#.
    """
    return FromFunction(function, count_indices(function, "masks.from_function"))


def span_of(seen: Bool[Array, "..."], grid: Grid) -> tuple[Int[Array, ""], Int[Array, ""]]:
    """Bounds the keys that are seen, of an array that broadcasts to a block."""
    seen = jnp.any(seen.reshape(-1, seen.shape[-1]), axis=0)
    first, end = grid.first_key, grid.first_key + grid.width
    return jnp.min(jnp.where(seen, grid.key[0], end)), jnp.max(jnp.where(seen, grid.key[0] + 1, first))


def _intersect(left: Any, right: Any, numpy: Any = np) -> Any:
    return numpy.maximum(left[0], right[0]), numpy.minimum(left[1], right[1])


def _hull(left: Any, right: Any, numpy: Any = np) -> Any:
    left_empty, right_empty = left[0] >= left[1], right[0] >= right[1]
    first = numpy.where(left_empty, right[0], numpy.where(right_empty, left[0], numpy.minimum(left[0], right[0])))
    end = numpy.where(left_empty, right[1], numpy.where(right_empty, left[1], numpy.maximum(left[1], right[1])))
    return first, end


@rule()
class FromArray(Mask):
    array: Bool[Array, "..."] | Overlay

    def __repr__(self) -> str:
        return write(self.array)

    def evaluate(self, grid: Grid) -> Bool[Array, "..."]:
        return grid.part(self.array)

    @property
    def depends_on_data(self) -> bool:
        return True

    def span(self, grid: Grid) -> tuple[Int[Array, ""], Int[Array, ""]]:
        return span_of(grid.part(self.array), grid)

    def allows_all(self, grid: Grid) -> Bool[Array, ""] | None:
        return jnp.all(grid.part(self.array))

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

    @property
    def depends_on_data(self) -> bool:
        return self.left.depends_on_data or self.right.depends_on_data

    def span(self, grid: Grid) -> tuple[Int[Array, ""], Int[Array, ""]]:
        return _intersect(self.left.span(grid), self.right.span(grid), jnp)

    def allows_all(self, grid: Grid) -> Bool[Array, ""] | None:
        left, right = self.left.allows_all(grid), self.right.allows_all(grid)
        return None if left is None or right is None else left & right


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

    @property
    def depends_on_data(self) -> bool:
        return self.left.depends_on_data or self.right.depends_on_data

    def span(self, grid: Grid) -> tuple[Int[Array, ""], Int[Array, ""]]:
        return _hull(self.left.span(grid), self.right.span(grid), jnp)

    def allows_all(self, grid: Grid) -> Bool[Array, ""] | None:
        left, right = self.left.allows_all(grid), self.right.allows_all(grid)
        return right if left is None else left if right is None else left | right


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


@rule(from_function)
class FromFunction(Mask):
    function: Callable[..., Bool[Array, "..."]] = static()
    count: int = static()

    def evaluate(self, grid: Grid) -> Bool[Array, "..."]:
        allowed = of_indices("mask", self.function, self.count, grid)
        if allowed.dtype != jnp.bool_:
            raise TypeError(f"mask: the function must return booleans (True = may attend), got dtype {allowed.dtype}")
        return allowed
