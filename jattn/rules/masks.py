"""Masks: which keys a query may attend to. True means *may attend*, everywhere.

A mask is an array that broadcasts to ``[*batch, N, T, S]``, or a `Mask` object, which is evaluated on the index grids
of one block of rows at a time and so never stored whole. Both combine with ``&``, ``|`` and ``~``.

Example:
  >>> from jattn import masks
  >>> masks.draw(masks.causal() & ~masks.from_function(lambda query, key: key == 1), 4, 4)
  '#...\\n#...\\n#.#.\\n#.##'
"""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any, Self

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Int

from jattn.rules.checks import as_own
from jattn.rules.grids import Grid, whole_grid
from jattn.rules.mask import Mask, MaskLike, Rows, Span, as_mask, from_function as from_function, span_of
from jattn.rules.overlay import Overlay
from jattn.rules.parameters import Integer, as_integer
from jattn.rules.rule import rule, write_call


def causal(offset: int | Int[Array, "*batch"] = 0) -> Mask:
    """Lets each query attend to keys that are not later than itself: ``key <= query + offset``.

    With an int for offset the keys that a block of queries may not see are never computed: half of all.

    Args:
      offset: how many positions the first query lies behind the first key. Zero aligns the first query with the first
        key, as `jax.nn.dot_product_attention` does; ``S - T`` aligns the last with the last. An array holds one for
        each batch entry, and may be traced.

    Example:
      >>> from jattn import masks
      >>> print(masks.draw(masks.causal(), 3, 3))
      #..
      ##.
      ###
    """
    return Window(as_integer("causal: offset", offset), None, as_integer("causal: right", 0))


def sliding_window(
    left: int | Int[Array, "*batch"] | None,
    right: int | Int[Array, "*batch"] | None = 0,
    offset: int | Int[Array, "*batch"] = 0,
) -> Mask:
    """Lets each query attend to its neighbours: ``query + offset - left <= key <= query + offset + right``.

    A window of ``w`` keys costs in proportion to ``T w``, not ``T S``, if all three are ints.

    Args:
      left: how many earlier keys a query sees; None for all of them. An array holds one for each batch entry, and may
        be traced; what is then below 0 follows the formula.
      right: how many later ones; likewise. The default, 0, makes the window causal.
      offset: as in `causal`.

    Example:
      >>> from jattn import masks
      >>> print(masks.draw(masks.sliding_window(1), 4, 4))
      #...
      ##..
      .##.
      ..##

    Source: Child et al. 2019, "Generating long sequences with sparse transformers"; Beltagy et al. 2020, "Longformer".
    """
    return Window(
        as_integer("sliding_window: offset", offset),
        None if left is None else as_integer("sliding_window: left", left, least=0),
        None if right is None else as_integer("sliding_window: right", right, least=0),
    )


def chunked(size: int | Int[Array, "*batch"], offset: int | Int[Array, "*batch"] = 0) -> Mask:
    """Lets each query attend within its own chunk of the sequence: ``⌊(query + offset)/size⌋ = ⌊key/size⌋``.

    Args:
      size: the number of positions in a chunk; an array holds one for each batch entry, and may be traced. Chunks of a
        traced size below 1 hold no key.
      offset: as in `causal`.

    Example:
      >>> from jattn import masks
      >>> print(masks.draw(masks.chunked(2), 4, 4))
      ##..
      ##..
      ..##
      ..##
    """
    return Chunked(as_integer("chunked: offset", offset), as_integer("chunked: size", size, least=1))


def prefix(lengths: int | Int[Array, "*batch"]) -> Mask:
    """Lets every query attend to the first `lengths` keys; ``causal() | prefix(n)`` is the mask of a prefix language
    model, which reads its first ``n`` tokens in both directions.

    Args:
      lengths: an int, or an array with one number per batch entry. With an int, ``prefix(n)`` alone computes the scores
        of ``n`` keys only.

    Example:
      >>> from jattn import masks
      >>> print(masks.draw(masks.causal() | masks.prefix(2), 4, 4))
      ##..
      ##..
      ###.
      ####

    Source: Raffel et al. 2020, "Exploring the limits of transfer learning", section 3.2.1.
    """
    return Prefix(as_integer("prefix: lengths", lengths))


def segments(query_ids: Int[Array, "*batch T"], key_ids: Int[Array, "*batch S"] | None = None) -> Mask:
    """Lets queries attend to the keys of their own segment: ``query_ids[query] = key_ids[key]``.

    So several sequences can be packed into one, and do not see one another.

    Args:
      query_ids: the segment of each query; without batch axes it serves all entries.
      key_ids: the segment of each key; `query_ids` by default, which is right for self-attention.

    Example:
      >>> import jax.numpy as jnp
      >>> from jattn import masks
      >>> print(masks.draw(masks.segments(jnp.array([0, 0, 1, 1])) & masks.causal(), 4, 4))
      #...
      ##..
      ..#.
      ..##
    """
    query_ids = _as_ids("query_ids", query_ids)
    return Segments(query_ids, query_ids if key_ids is None else _as_ids("key_ids", key_ids))


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
    return Padding(lengths, None if query_lengths is None else _as_lengths("query_lengths", query_lengths))


def draw(mask: MaskLike, num_queries: int, num_keys: int) -> str:
    """Draws a mask as text, a line per query: ``#`` may attend, ``.`` may not."""
    shape = (1, num_queries, num_keys)
    mask = as_mask(mask).fit(shape)
    allowed = np.broadcast_to(np.asarray(mask.evaluate(whole_grid(shape))), shape)[0]
    return "\n".join("".join("#" if cell else "." for cell in row) for row in allowed)


def _as_lengths(name: str, lengths: Any) -> Array:
    expected = f"padding: {name} must be integers, one per batch entry"
    if isinstance(lengths, str) or lengths is None:
        raise TypeError(f"{expected}, got {type(lengths).__name__}")
    array = as_own(lengths)
    if not jnp.issubdtype(array.dtype, jnp.integer):
        raise TypeError(f"{expected}, got dtype {array.dtype}")
    return array


def _as_ids(name: str, ids: Any) -> Array:
    expected = f"segments: {name} must be an array of integers [*batch, length]"
    if not hasattr(ids, "dtype") or not hasattr(ids, "shape"):
        raise TypeError(f"{expected}, got {type(ids).__name__}")
    if not jnp.issubdtype(ids.dtype, jnp.integer):
        raise TypeError(f"{expected}, got dtype {ids.dtype}")
    if ids.ndim == 0:
        raise ValueError(f"{expected}, got a scalar")
    return as_own(ids)


@rule()
class Window(Mask):
    offset: Integer
    left: Integer | None
    right: Integer | None

    def __repr__(self) -> str:
        is_causal = self.left is None and self.right is not None and self.right.as_written == 0
        return write_call(causal if is_causal else sliding_window, self.arguments())

    def evaluate(self, grid: Grid) -> Bool[Array, "..."]:
        center = grid.query + self.offset.part(grid)
        allowed = None if self.right is None else grid.key <= center + self.right.part(grid)
        if self.left is None:
            return jnp.broadcast_to(True, (grid.rows.shape[0], grid.width)) if allowed is None else allowed
        near = grid.key >= center - self.left.part(grid)
        return near if allowed is None else near & allowed

    @property
    def distances(self) -> tuple[int | None, int | None]:
        """From a query to the first and the last key it sees, where they are numbers."""
        offset = self.offset.number if self.offset.known else None
        left, right = (None if side is None or not side.known else side.number for side in (self.left, self.right))
        if offset is None:
            return None, None
        return None if left is None else offset - left, None if right is None else offset + right

    def allowed_span(self, first: Rows, last: Rows, num_keys: int) -> Span:
        begin, end = super().allowed_span(first, last, num_keys)
        low, high = self.distances
        return begin if low is None else first + low, end if high is None else last + high + 1

    def forbidden_span(self, first: Rows, last: Rows, num_keys: int) -> Span:
        begin, end = super().forbidden_span(first, last, num_keys)
        low, high = self.distances
        if self.left is None and self.right is None:
            return begin, begin
        if self.left is None and high is not None:
            begin = first + high + 1
        if self.right is None and low is not None:
            end = last + low
        return begin, end

    @property
    def depends_on_data(self) -> bool:
        return not all(part is None or part.known for part in (self.offset, self.left, self.right))

    def span(self, grid: Grid) -> tuple[Int[Array, ""], Int[Array, ""]]:
        begin, end = super().span(grid)
        center = grid.query + self.offset.part(grid)
        if self.left is not None:
            begin = jnp.min(jnp.clip(center - self.left.part(grid), 0, grid.shape[-1]))
        if self.right is not None:
            end = jnp.max(jnp.clip(center + self.right.part(grid), -1, grid.shape[-1] - 1)) + 1
        return begin, end


@rule(chunked)
class Chunked(Mask):
    offset: Integer
    size: Integer

    def evaluate(self, grid: Grid) -> Bool[Array, "..."]:
        size = self.size.part(grid)
        same = (grid.query + self.offset.part(grid)) // size == grid.key // size
        return same if self.size.known else same & (size >= 1)

    def allowed_span(self, first: Rows, last: Rows, num_keys: int) -> Span:
        if not (self.offset.known and self.size.known):
            return super().allowed_span(first, last, num_keys)
        size = self.size.number
        first_chunk, last_chunk = ((row + self.offset.number) // size for row in (first, last))
        return first_chunk * size, (last_chunk + 1) * size

    @property
    def depends_on_data(self) -> bool:
        return self.size.known and not self.offset.known

    def span(self, grid: Grid) -> tuple[Int[Array, ""], Int[Array, ""]]:
        if not self.size.known:
            return super().span(grid)
        size, num_keys = self.size.number, grid.shape[-1]
        chunks = (grid.query + self.offset.part(grid)) // size
        # Chunks that hold no key, and ends beyond the keys, would be too large to multiply.
        inside = num_keys // size
        first, last = jnp.clip(jnp.min(chunks), 0, inside + 1), jnp.clip(jnp.max(chunks), -1, inside)
        begin = jnp.where(first > inside, num_keys, first * min(size, num_keys))
        return begin, jnp.where(last >= inside, num_keys, (last + 1) * min(size, num_keys))


@rule(prefix)
class Prefix(Mask):
    lengths: Integer

    def evaluate(self, grid: Grid) -> Bool[Array, "..."]:
        return grid.key < self.lengths.part(grid)

    def allowed_span(self, first: Rows, last: Rows, num_keys: int) -> Span:
        begin, end = super().allowed_span(first, last, num_keys)
        return begin, np.full_like(end, self.lengths.number) if self.lengths.known else end

    def forbidden_span(self, first: Rows, last: Rows, num_keys: int) -> Span:
        begin, end = super().forbidden_span(first, last, num_keys)
        return np.full_like(begin, self.lengths.number) if self.lengths.known else begin, end

    @property
    def depends_on_data(self) -> bool:
        return not self.lengths.known

    def span(self, grid: Grid) -> tuple[Int[Array, ""], Int[Array, ""]]:
        return super().span(grid)[0], jnp.max(jnp.asarray(self.lengths.part(grid)))


@rule(segments)
class Segments(Mask):
    query_ids: Int[Array, "*batch T"] | Overlay
    key_ids: Int[Array, "*batch S"] | Overlay

    def arguments(self) -> Mapping[str, Any]:
        return {"query_ids": self.query_ids, "key_ids": None if self.key_ids is self.query_ids else self.key_ids}

    def evaluate(self, grid: Grid) -> Bool[Array, "..."]:
        ours, theirs = grid.part(self.query_ids), grid.part(self.key_ids)
        if ours.dtype == theirs.dtype:
            return ours == theirs
        # A common type may not hold both: the same bits of the same sign are the same number.
        bits = f"uint{8 * max(ours.dtype.itemsize, theirs.dtype.itemsize)}"
        return (ours.astype(bits) == theirs.astype(bits)) & ((ours < 0) == (theirs < 0))

    @property
    def depends_on_data(self) -> bool:
        return True

    def span(self, grid: Grid) -> tuple[Int[Array, ""], Int[Array, ""]]:
        ours, theirs = grid.part(self.query_ids), grid.part(self.key_ids)
        if ours.dtype != theirs.dtype:
            return super().span(grid)
        return span_of((theirs >= jnp.min(ours)) & (theirs <= jnp.max(ours)), grid)

    def allows_all(self, grid: Grid) -> Bool[Array, ""] | None:
        # One id in all rows is that of all keys; of different types both may be the same though they look different.
        ours, theirs = grid.part(self.query_ids), grid.part(self.key_ids)
        return jnp.all(ours == jnp.min(ours)) & jnp.all(theirs == jnp.min(ours)) if ours.dtype == theirs.dtype else None

    def fit(self, shape: tuple[int, ...]) -> Self:
        *batch, _, num_queries, num_keys = shape
        laid = []
        for name, ids, sizes in (
            ("query_ids", self.query_ids, (num_queries, 1)),
            ("key_ids", self.key_ids, (1, num_keys)),
        ):
            if isinstance(ids, Overlay):
                return self
            length = math.prod(sizes)
            if ids.shape[-1] != length or ids.shape[:-1] not in ((), tuple(batch)):
                raise ValueError(
                    f"mask: segments {name} must have shape ({length},) or {(*batch, length)}, got {ids.shape}"
                )
            ids = jnp.broadcast_to(ids, (*batch, length))
            laid.append(Overlay(ids.reshape(*batch, 1, *sizes)))
        return dataclasses.replace(self, query_ids=laid[0], key_ids=laid[1])


@rule(padding)
class Padding(Mask):
    lengths: Int[Array, "*batch"] | Overlay
    query_lengths: Int[Array, "*batch"] | Overlay | None

    def evaluate(self, grid: Grid) -> Bool[Array, "..."]:
        allowed = grid.key < grid.part(self.lengths)
        if self.query_lengths is not None:
            allowed = allowed & (grid.query < grid.part(self.query_lengths))
        return allowed

    @property
    def depends_on_data(self) -> bool:
        return True

    def span(self, grid: Grid) -> tuple[Int[Array, ""], Int[Array, ""]]:
        begin, end = super().span(grid)[0], jnp.max(grid.part(self.lengths))
        if self.query_lengths is not None:
            end = jnp.where(jnp.min(grid.query) < jnp.max(grid.part(self.query_lengths)), end, 0)
        return begin, end

    def allows_all(self, grid: Grid) -> Bool[Array, ""] | None:
        reached = jnp.min(grid.part(self.lengths)) >= grid.first_key + grid.width
        if self.query_lengths is not None:
            reached &= jnp.min(grid.part(self.query_lengths)) > jnp.max(grid.query)
        return reached

    def fit(self, shape: tuple[int, ...]) -> Self:
        lengths = Overlay.per_batch("padding: lengths", self.lengths, shape)
        if self.query_lengths is None:
            return dataclasses.replace(self, lengths=lengths)
        query_lengths = Overlay.per_batch("padding: query_lengths", self.query_lengths, shape)
        return dataclasses.replace(self, lengths=lengths, query_lengths=query_lengths)
