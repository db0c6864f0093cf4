"""Masks: which keys a query may attend to. True means *may attend*, everywhere.

A mask is an array that broadcasts to ``[*batch, N, T, S]``, or a `Mask` object, which is evaluated on the index grids
of one block of rows at a time and so never stored whole. Both combine with ``&``, ``|`` and ``~``.

Example:
  >>> from jattn import masks
  >>> masks.draw(masks.causal() & ~masks.from_function(lambda query, key: key == 1), 4, 4)
  '#...\\n#...\\n#.#.\\n#.##'
"""

import abc
import dataclasses
import inspect
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Int

from jattn.checks import check_block, fit_array
from jattn.grids import Grid, whole_grid

MaskLike = Any
"""A `Mask`, or a boolean array that broadcasts to ``[*batch, N, T, S]``."""


def static(**kwargs: Any) -> Any:
    """Declares a dataclass field that belongs to a pytree's structure, not to its leaves."""
    return dataclasses.field(metadata={"static": True}, **kwargs)


class Mask(abc.ABC):
    """Decides, on the index grids of one block, which keys each query may attend to.

    Subclasses are frozen dataclasses registered as pytrees. Combine masks with ``&`` (both allow), ``|`` (either
    allows) and ``~`` (forbid what was allowed); arrays may stand on either side.
    """

    __array_ufunc__ = None  # lets numpy arrays on the left of & and | defer to this class

    @abc.abstractmethod
    def evaluate(self, grid: Grid) -> Bool[Array, "..."]:
        """Computes the mask of one block; the result broadcasts to the block."""

    def fit(self, shape: tuple[int, ...]) -> "Mask":
        """Returns the mask with its arrays fit to a filter of shape ``(*batch, N, T, S)``; see `checks.fit_array`."""
        return self

    def __bool__(self) -> bool:
        raise TypeError("a mask has no truth value: combine masks with &, | and ~")

    def __and__(self, other: MaskLike) -> "Mask":
        return _All(self, as_mask(other))

    def __rand__(self, other: MaskLike) -> "Mask":
        return _All(as_mask(other), self)

    def __or__(self, other: MaskLike) -> "Mask":
        return _Any(self, as_mask(other))

    def __ror__(self, other: MaskLike) -> "Mask":
        return _Any(as_mask(other), self)

    def __invert__(self) -> "Mask":
        return _Not(self)


def causal(offset: int = 0) -> Mask:
    """Lets each query attend to keys that are not later than itself: ``key <= query + offset``.

    Args:
      offset: how many positions the first query lies behind the first key. Zero aligns the first query with the first
        key, as `jax.nn.dot_product_attention` does; ``S - T`` aligns the last with the last.

    Example:
      >>> from jattn import masks
      >>> print(masks.draw(masks.causal(), 3, 3))
      #..
      ##.
      ###
    """
    if isinstance(offset, bool) or not isinstance(offset, int | np.integer):
        raise TypeError(f"causal: offset must be an int, got {offset!r}")
    return _Causal(int(offset))


def padding(lengths: Int[Array, "*batch"], query_lengths: Int[Array, "*batch"] | None = None) -> Mask:
    """Lets queries attend only to the first `lengths` keys of their batch entry.

    Args:
      lengths: how many keys of each batch entry are real; a scalar serves the whole batch.
      query_lengths: how many queries are real, if those beyond should attend to nothing (and so output zero).

    Example:
      >>> import jax.numpy as jnp
      >>> from jattn import masks
      >>> print(masks.draw(masks.padding(jnp.array(2)), 2, 4))
      ##..
      ##..
    """
    lengths = _as_lengths("lengths", lengths)
    return _Padding(lengths, None if query_lengths is None else _as_lengths("query_lengths", query_lengths))


def from_function(function: Callable[..., Bool[Array, "..."]]) -> Mask:
    """Makes a mask of a function of index grids.

    Args:
      function: takes ``(query, key)`` or ``(head, query, key)``, integer arrays that broadcast to a block, and
        returns booleans that broadcast to it too.

    Example:
      >>> from jattn import masks
      >>> print(masks.draw(masks.from_function(lambda query, key: (query - key) % 2 == 0), 3, 4))
      #.#.
      .#.#
      #.#.
    """
    return _FromFunction(function, takes_head(function, "masks.from_function"))


def as_mask(mask: MaskLike) -> Mask:
    """Returns a `Mask` for a mask object or a boolean array; refuses anything else."""
    if isinstance(mask, Mask):
        return mask
    if not isinstance(mask, jax.Array | np.ndarray | np.bool_ | bool):
        raise TypeError(
            f"mask: expected a boolean array or a jattn mask (True = may attend), got {type(mask).__name__}"
        )
    array = jnp.asarray(mask)
    if array.dtype != jnp.bool_:
        raise TypeError(
            f"mask: expected dtype bool (True = may attend), got {array.dtype}; give additive terms as bias"
        )
    return _FromArray(array)


def draw(mask: MaskLike, num_queries: int, num_keys: int) -> str:
    """Draws a mask as text, a line per query: ``#`` may attend, ``.`` may not."""
    shape = (1, num_queries, num_keys)
    mask = as_mask(mask).fit(shape)
    allowed = np.broadcast_to(np.asarray(mask.evaluate(whole_grid(shape))), shape)[0]
    return "\n".join("".join("#" if cell else "." for cell in row) for row in allowed)


def takes_head(function: Callable[..., Any], caller: str) -> bool:
    """Tells whether a function of index grids takes ``(head, query, key)`` rather than ``(query, key)``."""
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


def _as_lengths(name: str, lengths: Any) -> Array:
    expected = f"padding: {name} must be integers, one per batch entry"
    if isinstance(lengths, str) or lengths is None:
        raise TypeError(f"{expected}, got {type(lengths).__name__}")
    array = jnp.asarray(lengths)
    if not jnp.issubdtype(array.dtype, jnp.integer):
        raise TypeError(f"{expected}, got dtype {array.dtype}")
    return array


def _fit_lengths(name: str, lengths: Array, shape: tuple[int, ...]) -> Array:
    batch = shape[:-3]
    if lengths.ndim and lengths.shape != batch:
        raise ValueError(f"mask: padding {name} must be a scalar or have the batch shape {batch}, got {lengths.shape}")
    return jnp.broadcast_to(lengths, batch)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class _Causal(Mask):
    offset: int = static()

    def evaluate(self, grid: Grid) -> Bool[Array, "R S"]:
        return grid.key <= grid.query + self.offset


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class _Padding(Mask):
    lengths: Int[Array, "*batch"]
    query_lengths: Int[Array, "*batch"] | None

    def evaluate(self, grid: Grid) -> Bool[Array, "..."]:
        allowed = grid.key < grid.per_batch(self.lengths)
        if self.query_lengths is not None:
            allowed = allowed & (grid.query < grid.per_batch(self.query_lengths))
        return allowed

    def fit(self, shape: tuple[int, ...]) -> Mask:
        lengths = _fit_lengths("lengths", self.lengths, shape)
        if self.query_lengths is None:
            return _Padding(lengths, None)
        return _Padding(lengths, _fit_lengths("query_lengths", self.query_lengths, shape))


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class _FromArray(Mask):
    array: Bool[Array, "..."]

    def evaluate(self, grid: Grid) -> Bool[Array, "..."]:
        return grid.part(self.array)

    def fit(self, shape: tuple[int, ...]) -> Mask:
        return _FromArray(fit_array("mask", self.array, shape))


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class _FromFunction(Mask):
    function: Callable[..., Bool[Array, "..."]] = static()
    with_head: bool = static()

    def evaluate(self, grid: Grid) -> Bool[Array, "..."]:
        indices = (grid.head, grid.query, grid.key) if self.with_head else (grid.query, grid.key)
        allowed = jnp.asarray(self.function(*indices))
        if allowed.dtype != jnp.bool_:
            raise TypeError(f"mask: the function must return booleans (True = may attend), got dtype {allowed.dtype}")
        check_block("mask", allowed, grid)
        return allowed


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class _All(Mask):
    left: Mask
    right: Mask

    def evaluate(self, grid: Grid) -> Bool[Array, "..."]:
        return self.left.evaluate(grid) & self.right.evaluate(grid)

    def fit(self, shape: tuple[int, ...]) -> Mask:
        return _All(self.left.fit(shape), self.right.fit(shape))


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class _Any(Mask):
    left: Mask
    right: Mask

    def evaluate(self, grid: Grid) -> Bool[Array, "..."]:
        return self.left.evaluate(grid) | self.right.evaluate(grid)

    def fit(self, shape: tuple[int, ...]) -> Mask:
        return _Any(self.left.fit(shape), self.right.fit(shape))


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class _Not(Mask):
    mask: Mask

    def evaluate(self, grid: Grid) -> Bool[Array, "..."]:
        return ~self.mask.evaluate(grid)

    def fit(self, shape: tuple[int, ...]) -> Mask:
        return _Not(self.mask.fit(shape))
