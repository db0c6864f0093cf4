"""Plans: how a filter is cut into blocks, and which keys of it are never computed.

A plan is made of sizes alone, so it is known when a call is traced. A block holds whole rows, except keys that
the mask always rules out for all rows of the block (`Mask.allowed_span`).
"""

import bisect
import dataclasses
import itertools
import math
from typing import Protocol

import jax
import numpy as np
from jaxtyping import Int

from jattn.rules.checks import check_integer
from jattn.rules.mask import Mask, Rows, Span

DENSE_WEIGHTS = 2**22
"""Up to this many weights in all, `attend` computes the filter in one block."""
WALKED_BLOCK_WEIGHTS = 3 * 2**20
"""About how many weights a block of one head holds; 12 MiB in float32, which a CPU's caches hold between passes."""
ENTRIES_WEIGHTS = 2**19
"""How many weights a block of more than two batch entries holds at most; one alone takes jax 0.10 longer."""
ENTRY_WEIGHTS = 2**21
"""How many weights a block of one batch entry holds at most; larger ones are cut into rows."""
LEAST_BY_ENTRIES = 2**20
"""Up to this many weights in all, a CPU computes them in one block, in the same time."""
WHOLE_BLOCK_WEIGHTS = 2**26
"""About how many weights a block of all heads holds; 256 MiB in float32, enough to keep an accelerator busy."""
FEWEST_ROWS = 128
"""A block has at least this many rows however long they are; matrix products with fewer are slow."""
WEIGHTS_LOST = 80_000
"""Computing a block takes about as long as if it had this many weights more; measured on CPU."""
FEW_ROWS = 4
"""With a mask and up to this many rows, a CPU looks for non-finite values in scores and output, not in the inputs."""
EVEN_KEYS = 16
"""Longer ranges of keys are rounded up to a multiple of this: odd ones can take XLA on CPU four times as long."""
LEAST_NARROWED = 512
"""With fewer keys than this, blocks compute all of theirs."""
NARROWED_ROWS = 512
"""The most rows of a block that leaves out keys when it runs; more rows need more keys together."""
FEWEST_NARROWED = 4
"""How many such blocks there are at least where the mask is known beforehand; else strips take less time."""
SHARES = tuple(eighths / 8 for eighths in range(1, 8))
"""The numbers of keys that are compiled for such a block, besides all of them, as parts of them."""
FEWEST_KEYS = 128
"""Such a block computes no fewer keys; products with fewer are slow."""
MOST_STRIPS = 6
"""Rows are cut into at most this many strips; each one is compiled on its own."""


class Spans(Protocol):
    """What says which keys rows may attend to: a mask, or one as all devices of a mesh see it."""

    def allowed_span(self, first: Rows, last: Rows, num_keys: int) -> Span:
        """Bounds the keys that rows `first` to `last` may attend to."""
        ...


@dataclasses.dataclass(frozen=True)
class Strip:
    """Rows whose blocks are alike: the same number of rows, and the same number of keys.

    Args:
      rows: the first row of the strip, and the one after its last.
      block_size: how many rows a block holds; the last block may begin early and compute rows twice.
      num_keys: how many keys a block holds.
      first_keys: the first key of each block.
      spans: the first key that the mask leaves each block, and the one after the last, where a block leaves out others
        when it runs.
      by_device: the same for each of several devices, where they differ; `first_keys` are those of the first device.
    """

    rows: tuple[int, int]
    block_size: int
    num_keys: int
    first_keys: tuple[int, ...]
    spans: tuple[tuple[int, int], ...] | None = None
    by_device: tuple[tuple[int, ...], ...] | None = None

    @property
    def together(self) -> bool:
        """Whether all blocks hold the same keys, on each device."""
        return all(len(set(first_keys)) == 1 for first_keys in self.by_device or (self.first_keys,))

    @property
    def first_rows(self) -> tuple[int, ...]:
        """The first row of each block."""
        return tuple(_first_rows(*self.rows, self.block_size).tolist())

    @property
    def widths(self) -> tuple[int, ...]:
        """How many keys each block computes at most."""
        if self.spans is None:
            return (self.num_keys,) * len(self.first_keys)
        compiled = widths_of(self.num_keys)
        return tuple(compiled[bisect.bisect_left(compiled, end - begin)] for begin, end in self.spans)

    @property
    def num_weights(self) -> int:
        """How many weights of one head are computed, or may be."""
        return self.block_size * sum(self.widths)

    def once(self) -> "tuple[Strip, ...]":
        """Splits off the rows that do not fill a block, so that no row is computed twice."""
        first, end = self.rows
        if end - first <= self.block_size:
            return (self,)
        count, rest = divmod(end - first, self.block_size)
        if rest == 0:
            return (self,)
        head, tail = ((first, end - rest), self.block_size, slice(count)), ((end - rest, end), rest, slice(count, None))
        return self._some(*head), self._some(*tail)

    def _some(self, rows: tuple[int, int], block_size: int, blocks: slice) -> "Strip":
        by_device = None if self.by_device is None else tuple(keys[blocks] for keys in self.by_device)
        spans = None if self.spans is None else self.spans[blocks]
        return Strip(rows, block_size, self.num_keys, self.first_keys[blocks], spans, by_device)

    def cost(self, heads: int) -> int:
        """How long it takes where a block holds this many heads, up to a factor."""
        return heads * self.num_weights + WEIGHTS_LOST * len(self.first_keys)


@dataclasses.dataclass(frozen=True)
class Plan:
    """How a filter is computed.

    Args:
      strips: from top to bottom.
      walk_heads: whether heads are walked one at a time.
      widths: how many keys a block may compute, where blocks leave out keys when they run; in ascending order.
      entries: how many batch entries are computed at once, with all of their heads, rows and keys, where not all are.
    """

    strips: tuple[Strip, ...]
    walk_heads: bool
    widths: tuple[int, ...] = ()
    entries: int | None = None

    @property
    def narrowed(self) -> bool:
        """Whether blocks leave out keys when they run."""
        return self.widths != ()

    @property
    def whole(self) -> bool:
        """Whether all is one block, of which the backward pass may keep the weights."""
        one = len(self.strips) == 1 and len(self.strips[0].first_keys) == 1
        return one and not self.walk_heads and self.entries is None

    @property
    def num_weights(self) -> int:
        """How many weights of one head are computed."""
        return sum(strip.num_weights for strip in self.strips)

    def once(self) -> "Plan":
        """Plans the same so that no row is computed twice: what blocks do not fill becomes a strip of its own."""
        return dataclasses.replace(self, strips=tuple(part for strip in self.strips for part in strip.once()))


def dense_plan(shape: tuple[int, ...]) -> Plan:
    """Plans one block that holds the whole filter of shape ``(*batch, N, T, S)``."""
    return Plan((Strip((0, shape[-2]), shape[-2], shape[-1], (0,)),), walk_heads=False)


def entries_plan(shape: tuple[int, ...], mask: Spans | None) -> Plan | None:
    """Plans blocks of whole batch entries for a filter of shape ``(B, N, T, S)``, where that takes a CPU less time."""
    weights = math.prod(shape[1:])
    if len(shape) != 4 or shape[-2] <= FEW_ROWS or weights > ENTRY_WEIGHTS or math.prod(shape) <= LEAST_BY_ENTRIES:
        return None
    if shape[0] == 1 or (mask is not None and shape[-1] >= LEAST_NARROWED):
        return None  # Blocks of rows leave out keys.
    sizes = [size for size in range(1, shape[0]) if shape[0] % size == 0]
    at_once = max(2, ENTRIES_WEIGHTS // weights)
    return dataclasses.replace(dense_plan(shape), entries=max(size for size in sizes if size <= at_once))


def blocked_plan(
    shape: tuple[int, ...], mask: Spans | None, block_size: int | None, walk_heads: bool, narrow: bool = False
) -> Plan:
    """Plans blocks of rows for a filter of shape ``(*batch, N, T, S)``.

    Args:
      shape: of the filter.
      mask: rules out keys; None computes them all.
      block_size: rows of each block; None chooses, from the sizes, what takes the least time within the memory that
        the constants of this module allow.
      walk_heads: whether a block holds one head, which suits a CPU's caches, or all of them.
      narrow: whether blocks may leave out keys when they run.
    """
    num_rows, num_keys = shape[-2:]
    if num_rows == 0:
        return dense_plan(shape)
    heads, budget = (1, WALKED_BLOCK_WEIGHTS) if walk_heads else (math.prod(shape[:-2]), WHOLE_BLOCK_WEIGHTS)
    # Blocks of all heads are two at least: the weights of a single one would be kept for the backward pass.
    most_rows = num_rows if walk_heads or block_size is not None else max(1, -(-num_rows // 2))
    narrow = narrow and walk_heads and num_keys >= LEAST_NARROWED and isinstance(mask, Mask)

    def strip(first: int, end: int, narrowed: bool = False) -> Strip:
        if block_size is not None:
            return _make_strip(first, end, min(block_size, end - first), num_keys, mask, narrowed)
        most = min(most_rows, NARROWED_ROWS) if narrowed else most_rows
        sizes = {min(2**power, end - first, most) for power in range(4, max(5, 1 + num_rows.bit_length()))}
        strips = [_make_strip(first, end, size, num_keys, mask, narrowed) for size in sorted(sizes)]
        allowed = [
            strip
            for strip in strips
            if strip.block_size * strip.num_keys * heads <= max(budget, min(FEWEST_ROWS, budget // heads) * num_keys)
        ]
        return min(allowed or strips[:1], key=lambda strip: strip.cost(heads))

    if narrow and isinstance(mask, Mask) and mask.depends_on_data:
        narrowed = strip(0, num_rows, narrowed=True)
        return Plan((narrowed,), walk_heads, widths_of(narrowed.num_keys))
    best = (strip(0, num_rows),)
    for pieces in (2, 4, MOST_STRIPS):
        if mask is None or num_rows // pieces < (block_size or FEWEST_ROWS):
            break
        # Strips begin where their blocks, of some power of two, come out even.
        unit = max(1, min(256, 2 ** ((num_rows // pieces).bit_length() - 2))) if block_size is None else block_size
        edges = [round(piece * num_rows / pieces / unit) * unit for piece in range(pieces)] + [num_rows]
        strips = tuple(strip(first, end) for first, end in itertools.pairwise(edges))
        if sum(strip.cost(heads) for strip in strips) < 0.95 * sum(strip.cost(heads) for strip in best):
            best = strips
    if narrow and len(best) > 1:
        # One strip whose blocks differ in keys takes half the memory of several. Each block copies its keys, which many
        # rows must pay for; with few blocks, there is little to leave out.
        narrowed = strip(0, num_rows, narrowed=True)
        large = narrowed.block_size >= NARROWED_ROWS and len(narrowed.first_keys) >= FEWEST_NARROWED
        if large and narrowed.cost(heads) <= 1.05 * sum(strip.cost(heads) for strip in best):
            return Plan((narrowed,), walk_heads, tuple(sorted(set(narrowed.widths))))
    return Plan(best, walk_heads)


def widths_of(num_keys: int) -> tuple[int, ...]:
    """Lists the numbers of keys that are compiled for a block of at most so many, in ascending order."""
    widths = {math.ceil(share * num_keys / EVEN_KEYS) * EVEN_KEYS for share in SHARES}
    return (*sorted(width for width in widths if FEWEST_KEYS <= width < num_keys), num_keys)


def check_block_size(block_size: int | None) -> None:
    """Raises `TypeError` or `ValueError` unless it is None or a positive int."""
    if block_size is not None:
        check_integer("block_size", block_size, 1, "an int or None")


def walks_heads() -> bool:
    """Says whether heads are walked one at a time: on a CPU that is one device.

    Where there are several devices, heads and batch entries may be sharded over them, and an axis that is walked would
    have to be gathered on all.
    """
    return jax.default_backend() == "cpu" and (jax.device_count() == 1 or _inside_shard_map())


def _inside_shard_map() -> bool:
    mesh = jax.sharding.get_abstract_mesh()
    others = [size for name, size in mesh.shape.items() if name not in mesh.manual_axes]
    return bool(mesh.manual_axes) and math.prod(others) == 1


def _first_rows(first: int, end: int, block_size: int) -> Int[np.ndarray, " blocks"]:
    return np.minimum(np.arange(first, end, block_size), end - block_size)


def _make_strip(
    first: int, end: int, block_size: int, num_keys: int, mask: Spans | None, narrowed: bool = False
) -> Strip:
    first_rows = _first_rows(first, end, block_size)
    if mask is None:
        return Strip((first, end), block_size, num_keys, (0,) * len(first_rows))
    begins, ends = mask.allowed_span(first_rows, first_rows + block_size - 1, num_keys)
    begins, ends = np.clip(begins, 0, num_keys), np.clip(ends, 0, num_keys)
    width = max(1, int((ends - begins).max()))
    if width > EVEN_KEYS:
        width = -(-width // EVEN_KEYS) * EVEN_KEYS
    width = min(num_keys, width)
    first_keys = np.clip(begins, 0, num_keys - width)
    if width == num_keys or (ends.max() - begins.min()) <= 1.05 * width:
        # The same keys for every block: cut out once instead of block by block.
        width = int(min(num_keys, max(width, ends.max() - begins.min())))
        first_keys = np.full_like(first_keys, np.clip(begins.min(), 0, num_keys - width))
    spans = tuple(zip(begins.tolist(), ends.tolist(), strict=True)) if narrowed else None
    return Strip((first, end), block_size, width, tuple(first_keys.tolist()), spans)
