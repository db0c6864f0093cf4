"""Which cells a picture of a filter has, and how they are computed.

A filter that is larger than the picture is pooled: a cell holds the mean over its queries of the sum over its keys of
the weights, so that a row of cells sums to what rows of the filter sum to. Only what is in the picture is computed.
"""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Bool, Float

from jattn.drawing.bins import bin_starts
from jattn.drawing.view import View
from jattn.engine.compiling import compiled
from jattn.filters.folds import pool
from jattn.filters.passes import chosen_rows, sweep
from jattn.filters.virtual import VirtualMatrix
from jattn.rules.checks import check_integer
from jattn.rules.mask import MaskLike, as_mask

CELLS = 256
"""The most rows, and columns, of cells that `plot` draws."""

HEADS = 16
"""The most heads that are drawn unasked."""

AT_ONCE = 2**24
"""How many weights of a part of a filter are held at a time."""


def make_view(
    filter: VirtualMatrix,
    head: Any,
    entry: Any,
    rows: slice | None = None,
    columns: slice | None = None,
    most: tuple[int, int] = (CELLS, CELLS),
) -> View:
    """Checks what is asked for against the filter."""
    trouble = trouble_with(filter)
    if trouble:
        raise ValueError(f"filter: {trouble}")
    *batch, num_heads, num_queries, num_keys = filter.shape
    given = (0,) * len(batch) if entry is None else entry if isinstance(entry, tuple | list) else (entry,)
    if len(given) != len(batch):
        raise ValueError(f"entry: expected one index for each of the batch axes {tuple(batch)}, got {entry!r}")
    heads = range(min(num_heads, HEADS)) if head is None else head if isinstance(head, Sequence) else (head,)
    if not heads:
        raise ValueError("head: expected at least one head, got none")
    rows_in_view, columns_in_view = _range("rows", rows, num_queries), _range("columns", columns, num_keys)
    return View(
        filter.shape,
        tuple(_index("entry", index, size) for index, size in zip(given, batch, strict=True)),
        tuple(_index("head", index, num_heads) for index in heads),
        rows_in_view,
        columns_in_view,
        (_bins(len(rows_in_view), most[0]), _bins(len(columns_in_view), most[1])),
    )


def _bins(count: int, most: int) -> int:
    """Chooses bins of the same size, except a few: bins of one key and of two would be light and dark stripes."""
    return math.ceil(count / math.ceil(count / most))


def trouble_with(filter: VirtualMatrix) -> str | None:
    """Says why the filter cannot be drawn, if it cannot."""
    leaves = jax.tree.leaves((filter.query, filter.key, filter.program))
    if any(isinstance(leaf, Tracer) for leaf in leaves):
        return "it is being traced, so its weights are not known; return it from the traced function and draw it then"
    if any(isinstance(leaf, jax.ShapeDtypeStruct) for leaf in leaves):
        return "it has shapes only and no weights"
    if any(isinstance(leaf, jax.Array) and leaf.is_deleted() for leaf in leaves):
        return "its arrays have been donated or deleted"
    if any(isinstance(leaf, jax.Array) and not leaf.is_fully_addressable for leaf in leaves):
        return "its arrays lie in part on other hosts; gather them first"
    if math.prod(filter.shape) == 0:
        return f"a filter of shape {filter.shape} holds no weights"
    return None


def _index(name: str, value: Any, size: int) -> int:
    index = check_integer(name, value)
    if not -size <= index < size:
        raise ValueError(f"{name}: expected an index from 0 to {size - 1}, got {value}")
    return index % size


def _range(name: str, part: Any, size: int) -> range:
    if part is None:
        return range(size)
    if not isinstance(part, slice):
        raise TypeError(f"{name}: expected a slice, such as slice(0, {size}), got {part!r}")
    if part.step not in (None, 1):
        raise ValueError(f"{name}: expected a slice of neighbours, got step {part.step}")
    start, stop = (
        default if end is None else check_integer(name, end) for end, default in ((part.start, 0), (part.stop, size))
    )
    start, stop = (end + size if end < 0 else end for end in (start, stop))
    if not 0 <= start < stop <= size:
        raise ValueError(f"{name}: expected a part of 0 to {size} that is not empty, got {part}")
    return range(start, stop)


def compute_cells(filter: VirtualMatrix, view: View) -> Float[np.ndarray, "heads q_bins k_bins"]:
    """Computes the cells in view."""
    *leading, num_queries, num_keys = filter.shape
    if (len(view.rows), len(view.columns)) == (num_queries, num_keys):
        # The quicker way, and the one without the keys that the mask rules out.
        streams = np.ravel_multi_index((*view.entry, np.array(view.heads)), leading).astype(np.int32)
        return np.asarray(compiled(sweep)(filter, {"map": pool(*view.bins).fit(filter.shape)}, streams)["map"])
    return np.stack([_part(filter, (*view.entry, head), view) for head in view.heads])


def compute_hidden(filter: VirtualMatrix, view: View) -> Bool[np.ndarray, "heads q_bins k_bins"] | None:
    """Finds the cells in view all of which the mask rules out; None where there is no mask."""
    return None if filter.program.mask is None else compute_cells(filter.uniform(), view) == 0


def _part(filter: VirtualMatrix, stream: tuple[int, ...], view: View) -> Float[np.ndarray, "q_bins k_bins"]:
    """Pools a part of one head, a few whole rows at a time."""
    starts = bin_starts(view.bins[1], len(view.columns))
    columns = slice(view.columns.start, view.columns.stop)
    head = np.array([np.ravel_multi_index(stream, filter.shape[:-2])], np.int32)
    of_row = np.arange(len(view.rows)) * view.bins[0] // len(view.rows)
    sums, step = np.zeros(view.bins), max(1, AT_ONCE // filter.shape[-1])
    for first in range(0, len(view.rows), step):
        rows = view.rows[first : first + step]
        block = np.asarray(chosen_rows(filter, head, np.array(rows, np.int32), keys=columns))[0]
        np.add.at(sums, of_row[first : first + step], np.add.reduceat(block, starts, axis=-1, dtype=np.float64))
    return (sums / np.bincount(of_row)[:, None]).astype(block.dtype)


def oracle_filter(oracle: MaskLike, filter: VirtualMatrix) -> VirtualMatrix:
    """Makes a filter of the oracle: a weight that is not zero where a key is in it."""
    if isinstance(oracle, jax.Array | np.ndarray) and oracle.dtype != bool:
        oracle = np.asarray(oracle) != 0
    try:
        mask = as_mask(oracle).fit(filter.shape)
    except (TypeError, ValueError) as error:
        raise type(error)(f"oracle: {str(error).removeprefix('mask: ')}") from None
    program = dataclasses.replace(filter.uniform().program, mask=mask)
    query, key = jnp.zeros_like(filter.query), jnp.zeros_like(filter.key)
    return dataclasses.replace(filter, query=query, key=key, program=program)
