"""Which cells a picture of a filter has, how they are computed, and which ink they get.

A filter that is larger than the picture is pooled: a cell holds the mean over its queries of the sum over its keys of
the weights, so that a row of cells sums to what rows of the filter sum to. Only what is in the picture is computed.
"""

import dataclasses
import math
import operator
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Float

from jattn.drawing.bins import bin_starts, cell_words
from jattn.engine.compiling import compiled
from jattn.filters.folds import pool
from jattn.filters.passes import sweep
from jattn.rules.masks import MaskLike, as_mask

if TYPE_CHECKING:
    from jattn.filters.filter import AttentionFilter

CELLS = 256
"""The most rows, and columns, of cells that `plot` draws."""

HEADS = 16
"""The most heads that are drawn unasked."""

AT_ONCE = 2**24
"""How many weights of a part of a filter are held at a time."""


@dataclasses.dataclass(frozen=True)
class View:
    """Says what is looked at: some heads of one batch entry, a range of queries and of keys, and the bins of each."""

    shape: tuple[int, ...]
    entry: tuple[int, ...]
    heads: tuple[int, ...]
    rows: range
    columns: range
    bins: tuple[int, int]

    @property
    def pooled(self) -> bool:
        return self.bins != (len(self.rows), len(self.columns))

    @property
    def chance(self) -> float:
        """The weight that a cell gets from a query that looks at all keys of the filter alike."""
        return len(self.columns) / self.bins[1] / self.shape[-1]

    @property
    def cell(self) -> str:
        """What a cell holds, in words."""
        return f"each cell {cell_words(self.bins, (len(self.rows), len(self.columns)))}"


def counted(number: int, one: str) -> str:
    return f"{number:,} {one if number == 1 else one.replace('query', 'querie') + 's'}"


def make_view(
    filter: "AttentionFilter",
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
    """Chooses bins of the same size, but for a few: bins of one key and of two would be light and dark stripes."""
    return math.ceil(count / math.ceil(count / most))


def trouble_with(filter: "AttentionFilter") -> str | None:
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


def as_integer(name: str, value: Any) -> int:
    try:
        if not isinstance(value, bool | np.bool_):
            return operator.index(value)
    except TypeError:
        pass
    raise TypeError(f"{name}: expected an int, got {value!r}")


def _index(name: str, value: Any, size: int) -> int:
    index = as_integer(name, value)
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
        default if end is None else as_integer(name, end) for end, default in ((part.start, 0), (part.stop, size))
    )
    start, stop = (end + size if end < 0 else end for end in (start, stop))
    if not 0 <= start < stop <= size:
        raise ValueError(f"{name}: expected a part of 0 to {size} that is not empty, got {part}")
    return range(start, stop)


def compute_cells(filter: "AttentionFilter", view: View) -> Float[np.ndarray, "heads q_bins k_bins"]:
    """Computes the cells in view."""
    *leading, num_queries, num_keys = filter.shape
    if (len(view.rows), len(view.columns)) == (num_queries, num_keys):
        # The quicker way, and the one without the keys that the mask rules out.
        streams = np.ravel_multi_index((*view.entry, np.array(view.heads)), leading).astype(np.int32)
        return np.asarray(compiled(sweep)(filter, {"map": pool(*view.bins).fit(filter.shape)}, streams)["map"])
    return np.stack([_part(filter, (*view.entry, head), view) for head in view.heads])


def _part(filter: "AttentionFilter", stream: tuple[int, ...], view: View) -> Float[np.ndarray, "q_bins k_bins"]:
    """Pools a part of one head, a few whole rows at a time."""
    starts = bin_starts(view.bins[1], len(view.columns))
    columns = slice(view.columns.start, view.columns.stop)
    of_row = np.arange(len(view.rows)) * view.bins[0] // len(view.rows)
    sums, step = np.zeros(view.bins), max(1, AT_ONCE // filter.shape[-1])
    for first in range(0, len(view.rows), step):
        rows = view.rows[first : first + step]
        block = np.asarray(filter.with_limit(math.inf)[(*stream, slice(rows.start, rows.stop), columns)])
        np.add.at(sums, of_row[first : first + step], np.add.reduceat(block, starts, axis=-1, dtype=np.float64))
    return (sums / np.bincount(of_row)[:, None]).astype(block.dtype)


def oracle_filter(oracle: MaskLike, filter: "AttentionFilter") -> "AttentionFilter":
    """Makes a filter of the oracle: a weight that is not zero where a key is in it."""
    if hasattr(oracle, "dtype") and oracle.dtype != bool:
        oracle = np.asarray(oracle) != 0
    try:
        mask = as_mask(oracle).fit(filter.shape)
    except (TypeError, ValueError) as error:
        raise type(error)(f"oracle: {str(error).removeprefix('mask: ')}") from None
    program = dataclasses.replace(filter.uniform().program, mask=mask)
    query, key = jnp.zeros_like(filter.query), jnp.zeros_like(filter.key)
    return dataclasses.replace(filter, query=query, key=key, program=program)


@dataclasses.dataclass(frozen=True)
class Ink:
    """Says which weight is which ink, from 0, white paper, to 1: ``(w / top)^exponent``."""

    exponent: float
    top: float = 1.0

    def __call__(self, weights: Any) -> Any:
        return np.clip(weights / self.top, 0, 1) ** self.exponent

    def __str__(self) -> str:
        power = "" if self.exponent == 1 else f"^{self.exponent:.3g}"
        return f"weight{power}" if self.top == 1 else f"(weight / {self.top:.3g}){power}"


def _by_chance(cells: np.ndarray, chance: float) -> Ink:
    return Ink(min(max(math.log(0.25) / math.log(chance), 0.2), 1.0) if chance < 1 else 1.0)


def _by_largest(cells: np.ndarray, chance: float) -> Ink:
    largest = np.max(cells, initial=0, where=np.isfinite(cells))
    return Ink(1.0, float(largest) if largest > 0 else 1.0)


SCALES: dict[str, Callable[[np.ndarray, float], Ink]] = {
    "chance": _by_chance,
    "linear": lambda cells, chance: Ink(1.0),
    "sqrt": lambda cells, chance: Ink(0.5),
    "max": _by_largest,
}
"""Which weight is which ink. Weight 0 is white on every scale, weights beyond the darkest are as dark as that, and
those that are not numbers have a colour apart.

- ``"chance"``: ``ink = w^p``, the exponent such that chance, what a cell gets from a query that looks at all keys
  alike, has a quarter of the ink: ``p = ln 4 / ln n`` for ``n`` columns of cells in the whole filter, kept between 1
  (``n = 4``) and 1/5 (``n = 1024``). It depends on sizes alone, so pictures can be compared.
- ``"linear"``: ``ink = w``. A filter that looks at many keys is nearly white.
- ``"sqrt"``: ``ink = √w``, as in the maps of a run's report.
- ``"max"``: ``ink = w / largest``, of all weights in the picture. The first query of a causal filter has weight 1 on
  itself, so of the whole of one it is the same as ``"linear"``.
"""


def check_scale(scale: Any) -> None:
    if not isinstance(scale, str) or scale not in SCALES:
        raise ValueError(f"scale: expected one of {', '.join(SCALES)}, got {scale!r}")
