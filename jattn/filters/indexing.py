"""Indexing: which rows of a filter an index in NumPy's manner asks for, so that no others are computed.

An index is read by NumPy itself, on arrays of row numbers that take no memory of size ``T x S``.
"""

import dataclasses
import numbers
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Int


@dataclasses.dataclass(frozen=True)
class Selection:
    """The rows that an index asks for, and how the result is made of them.

    Attributes:
      streams: heads, each an index among all of ``batch x N``.
      rows: query indices. With `outer`, every one of them is asked of every head; else they go with `streams` in pairs.
      outer: see `rows`.
      keys: what is kept of every row; or, of rows in pairs with heads, one key of each.
      shape: the shape of the result.
      arrange: makes the result of the table of rows, ``[rows of all heads, kept keys]``.
    """

    streams: Int[np.ndarray, " M"]
    rows: Int[np.ndarray, " R"]
    outer: bool
    keys: slice | Int[np.ndarray, " M"]
    shape: tuple[int, ...]
    arrange: Callable[[Array], Array]


def select(index: Any, shape: tuple[int, ...], check: Callable[[tuple[int, ...]], None]) -> Selection:
    """Reads an index of a filter of shape ``(*batch, N, T, S)``: ints, slices, ``...``, None, lists, integer or boolean
    arrays, as NumPy takes them.

    Args:
      index: what stands in the brackets.
      shape: of the filter.
      check: is called with the shape of the result, or one as large, before anything of that size is made.

    Raises:
      IndexError: if the index does not fit the shape.
      TypeError: if it is traced, or nothing that NumPy takes.

    Example:
      >>> from jattn.filters.indexing import select
      >>> selection = select((..., 3, slice(100, 110), slice(None)), (2, 8, 4096, 4096), check=print)
      (2, 10, 4096)
      >>> selection.streams.tolist(), selection.rows.tolist()
      ([3, 11], [100, 101, 102, 103, 104, 105, 106, 107, 108, 109])
    """
    parts = _as_parts(index, shape)
    ids = np.arange(np.prod(shape[:-1], dtype=np.int64)).reshape(shape[:-1])
    names_key = _count(parts) == len(shape)
    last, before = (parts[-1], parts[:-1]) if names_key else (slice(None), parts)
    alone = not any(isinstance(part, np.ndarray) for part in before)
    if not isinstance(last, slice) and not (_is_int(last) and alone):
        check((_size(parts, shape),))
        return _cells(ids, parts, shape)
    row_of = np.asarray(_look_up(ids, before, shape))
    if isinstance(last, slice):
        keys, result = last, (*row_of.shape, len(range(*last.indices(shape[-1]))))
    else:
        if not -shape[-1] <= last < shape[-1]:
            words = f"index {last} is out of bounds for axis {len(shape) - 1} with size {shape[-1]}"
            raise IndexError(f"index of a filter of shape {shape}: {words}")
        keys, result = slice(last % shape[-1], last % shape[-1] + 1), row_of.shape
    check(result)
    needed, place = np.unique(row_of, return_inverse=True)
    in_order = np.array_equal(row_of.ravel(), needed)
    arrange = (lambda table: table) if in_order else (lambda table: table[place.ravel()])
    streams, rows, outer = _split(needed, shape)
    return Selection(streams, rows, outer, keys, result, lambda table: arrange(table).reshape(result))


def _cells(ids: np.ndarray, parts: tuple[Any, ...], shape: tuple[int, ...]) -> Selection:
    """Selects cell by cell, by NumPy's rules about several arrays in one index."""
    everywhere = np.broadcast_to(ids[..., None], shape), np.broadcast_to(np.arange(shape[-1]), shape)
    row_of, key_of = (np.asarray(_look_up(x, parts, shape)) for x in everywhere)
    needed, place = np.unique(row_of, return_inverse=True)
    kept, column = np.unique(key_of, return_inverse=True)
    if len(needed) * len(kept) > 4 * row_of.size:
        # Few keys of each row, and others of each, such as a diagonal.
        num_rows, keys = max(1, shape[-2]), key_of.ravel().astype(np.int32)
        streams, rows = (x.astype(np.int32) for x in (row_of.ravel() // num_rows, row_of.ravel() % num_rows))
        return Selection(streams, rows, False, keys, row_of.shape, lambda table: table.reshape(row_of.shape))
    first, end = (int(kept[0]), int(kept[-1]) + 1) if len(kept) else (0, 0)
    place, column = place.reshape(row_of.shape), kept[column].reshape(row_of.shape) - first
    streams, rows, outer = _split(needed, shape)
    return Selection(streams, rows, outer, slice(first, end), row_of.shape, lambda table: table[place, column])


def _split(needed: Any, shape: tuple[int, ...]) -> tuple[Any, Any, bool]:
    """Splits numbers of rows into heads and queries; every query of every head, if these are all, or else pairs."""
    num_rows = max(1, shape[-2])
    streams, rows = np.unique(needed // num_rows), np.unique(needed % num_rows)
    outer = len(streams) * len(rows) == len(needed)
    if not outer:
        streams, rows = needed // num_rows, needed % num_rows
    return streams.astype(np.int32), rows.astype(np.int32), outer


def _size(parts: tuple[Any, ...], shape: tuple[int, ...]) -> int:
    """Counts the cells of a result, without making anything of its size."""
    axis, size, shapes = 0, 1, []
    for part in parts:
        if isinstance(part, slice):
            size *= len(range(*part.indices(shape[axis])))
        if isinstance(part, np.ndarray):
            shapes.append((int(part.sum()),) if part.dtype == np.bool_ else part.shape)
        axis += 0 if part is None else _count((part,))
    try:
        return size * int(np.prod(np.broadcast_shapes(*shapes), dtype=np.int64))
    except ValueError as error:
        raise IndexError(f"index of a filter of shape {shape}: {error}") from None


def _is_int(part: Any) -> bool:
    return isinstance(part, numbers.Integral) and not isinstance(part, bool)


def _as_parts(index: Any, shape: tuple[int, ...]) -> tuple[Any, ...]:
    """Returns an index for each axis up to the last one named, none of them ``...``."""
    parts = tuple(_as_part(part) for part in (index if isinstance(index, tuple) else (index,)))
    dots = [i for i, part in enumerate(parts) if part is Ellipsis]
    if len(dots) > 1:
        raise IndexError("index: expected at most one '...', got several")
    if _count(parts) > len(shape):
        raise IndexError(f"index: expected at most {len(shape)} indices for a filter of shape {shape}, got {index!r}")
    if not dots:
        return parts
    missing = max(0, len(shape) - _count(parts))
    return (*parts[: dots[0]], *[slice(None)] * missing, *parts[dots[0] + 1 :])


def _as_part(part: Any) -> Any:
    if part is None or part is Ellipsis or isinstance(part, slice):
        return part
    if isinstance(part, Tracer):
        raise TypeError("index: expected what is known when a program is traced; `rows` takes traced query indices")
    if isinstance(part, list | tuple | range | jax.Array):
        part = np.asarray(part, dtype=int if np.size(part) == 0 else None)
    return int(part) if isinstance(part, np.ndarray) and part.ndim == 0 and part.dtype.kind in "iu" else part


def _count(parts: tuple[Any, ...]) -> int:
    """Counts the axes that the parts of an index speak of."""
    sizes = (np.ndim(part) if getattr(part, "dtype", None) == np.bool_ else 1 for part in parts)
    return sum(size for size, part in zip(sizes, parts, strict=True) if part is not None and part is not Ellipsis)


def _look_up(array: np.ndarray, parts: tuple[Any, ...], shape: tuple[int, ...]) -> Any:
    try:
        return array[parts]
    except IndexError as error:
        message = str(error)
        kind = TypeError if "only integers" in message or "must be of integer" in message else IndexError
        raise kind(f"index of a filter of shape {shape}: {message}") from None
