"""Indexing: which rows of a filter an index in NumPy's manner asks for, so that no others are computed.

An index is read by NumPy itself, on arrays of row numbers that take no memory of size ``T x S``.
"""

import dataclasses
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
      keys: what is kept of each row.
      shape: the shape of the result.
      arrange: makes the result of the table of rows, ``[rows of all heads, kept keys]``.
    """

    streams: Int[np.ndarray, " M"]
    rows: Int[np.ndarray, " R"]
    outer: bool
    keys: slice
    shape: tuple[int, ...]
    arrange: Callable[[Array], Array]


def select(index: Any, shape: tuple[int, ...]) -> Selection:
    """Reads an index of a filter of shape ``(*batch, N, T, S)``: ints, slices, ``...``, None, lists, integer or boolean
    arrays, as NumPy takes them.

    Raises:
      IndexError: if the index does not fit the shape.
      TypeError: if it is traced, or nothing that NumPy takes.

    Example:
      >>> from jattn.indexing import select
      >>> selection = select((..., 3, slice(100, 110), slice(None)), (2, 8, 4096, 4096))
      >>> selection.streams.tolist(), selection.rows.tolist()
      ([3, 11], [100, 101, 102, 103, 104, 105, 106, 107, 108, 109])
    """
    parts = _as_parts(index, shape)
    ids = np.arange(np.prod(shape[:-1], dtype=np.int64)).reshape(shape[:-1])
    last = parts[-1] if _count(parts) == len(shape) else slice(None)
    if not isinstance(last, slice):
        # Row and key of every cell of the result, for NumPy's rules about several arrays in one index.
        of_cells = np.broadcast_to(ids[..., None], shape), np.broadcast_to(np.arange(shape[-1]), shape)
        row_of, key_of = (np.asarray(_look_up(x, parts, shape)) for x in of_cells)
        needed, place = np.unique(row_of, return_inverse=True)
        place = place.reshape(row_of.shape)
        return _selection(needed, slice(None), row_of.shape, shape, lambda table: table[place, key_of])
    row_of = np.asarray(_look_up(ids, parts[:-1] if _count(parts) == len(shape) else parts, shape))
    needed, place = np.unique(row_of, return_inverse=True)
    result = (*row_of.shape, len(range(*last.indices(shape[-1]))))
    in_order = np.array_equal(row_of.ravel(), needed)
    arrange = (lambda table: table) if in_order else (lambda table: table[place.ravel()])
    return _selection(needed, last, result, shape, lambda table: arrange(table).reshape(result))


def _selection(needed: Any, keys: slice, result: tuple[int, ...], shape: tuple[int, ...], arrange: Any) -> Selection:
    num_rows = max(1, shape[-2])
    streams, rows = np.unique(needed // num_rows), np.unique(needed % num_rows)
    outer = len(streams) * len(rows) == len(needed)
    if not outer:
        streams, rows = needed // num_rows, needed % num_rows
    return Selection(streams.astype(np.int32), rows.astype(np.int32), outer, keys, result, arrange)


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
    if isinstance(part, list | tuple | jax.Array):
        part = np.asarray(part, dtype=int if np.size(part) == 0 else None)
    return part


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
