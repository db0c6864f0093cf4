"""Index grids: where one block of a filter lies in the whole.

A filter of shape ``[*batch, N, T, S]`` is computed in blocks of whole rows. Masks, biases and edits are evaluated
on the `Grid` of one block, so that nothing of size ``T x S`` has to exist for them either.

A block may leave out keys that its mask rules out for all its rows, so a mask, bias or edit reads `Grid.key` and never
counts columns.

Glossary of shapes: ``T`` query length, ``S`` key length, ``N`` query heads, ``R`` rows and ``W`` keys of one block.
"""

import dataclasses
import math
from typing import Any

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Int

from jattn.rules.overlay import Overlay
from jattn.rules.trees import as_pytree


def static(**kwargs: Any) -> Any:
    """Declares a dataclass field that belongs to a pytree's structure, not to its leaves."""
    return dataclasses.field(metadata={"static": True}, **kwargs)


@as_pytree
@dataclasses.dataclass(frozen=True)
class Grid:
    """Says which rows, keys, heads and batch entries of a filter a block holds.

    A block has the shape ``[*batch, N, R, W]`` where all heads are computed at once, ``[E, N, R, W]`` where those of
    some batch entries are, and ``[R, W]`` where heads are walked one at a time; `batch`, `head`, `query` and `key`
    broadcast to it in each case.

    Args:
      rows: the query index of each row of the block.
      shape: the shape ``(*batch, N, T, S)`` of the whole filter.
      adjacent: whether `rows` are neighbours in ascending order, which makes slices of gathers.
      stream: where heads are walked, the index of this one among all of ``batch x N``; otherwise ``None``.
      first_key: the index of the block's first key.
      num_keys: how many keys the block holds; ``None`` for all of them.
      row_unit: where `rows` are neighbours, a number that the first is known to be a multiple of; of 0 only 0 is one.
      first_entry: the index of the block's first batch entry.
      num_entries: how many entries, of a single batch axis, the block holds; ``None`` for all of them.

    Example:
      >>> import jax.numpy as jnp
      >>> grid = whole_grid((2, 3, 3))
      >>> (grid.query >= grid.key).astype(int).tolist()
      [[1, 0, 0], [1, 1, 0], [1, 1, 1]]
      >>> grid.head.shape
      (2, 1, 1)
    """

    rows: Int[Array, " R"]
    shape: tuple[int, ...] = static()
    adjacent: bool = static(default=True)
    stream: Int[Array, ""] | None = None
    first_key: Int[Array, ""] | int = 0
    num_keys: int | None = static(default=None)
    row_unit: int = static(default=1)
    first_entry: Int[Array, ""] | int = 0
    num_entries: int | None = static(default=None)

    @property
    def width(self) -> int:
        """How many keys the block holds."""
        return self.shape[-1] if self.num_keys is None else self.num_keys

    @property
    def query(self) -> Int[Array, "R 1"]:
        """The query index of each row, as a column."""
        return self.rows[:, None]

    @property
    def key(self) -> Int[Array, "1 W"]:
        """The key index of each column, as a row."""
        return (self.first_key + jnp.arange(self.width, dtype=jnp.int32))[None, :]

    @property
    def batch(self) -> Int[Array, "..."]:
        """The index of the batch entry: ``[*batch, 1, 1, 1]`` for all heads at once, ``[E, 1, 1, 1]`` of some entries.

        For one walked head it is a scalar.

        Several batch axes count as one, the last of them fastest; without any, there is a single entry 0.
        """
        if self.stream is None:
            entries = self._leading[:-1]
            return self.first_entry + jnp.arange(math.prod(entries), dtype=jnp.int32).reshape(*entries, 1, 1, 1)
        return self.stream // self.shape[-3]

    @property
    def head(self) -> Int[Array, "..."]:
        """The head index: ``[N, 1, 1]`` for all heads at once, a scalar for one walked head."""
        if self.stream is None:
            return jnp.arange(self.shape[-3], dtype=jnp.int32)[:, None, None]
        return self.stream % self.shape[-3]

    def indices(self, count: int) -> tuple[Int[Array, "..."], ...]:
        """Returns the last `count` of the indices batch, head, query and key."""
        return (self.batch, self.head, self.query, self.key)[-count:]

    @property
    def block_shape(self) -> tuple[int, ...]:
        """``(*batch, N, R, W)`` for all heads at once, ``(E, N, R, W)`` of some entries, ``(R, W)`` for one head."""
        leading = self._leading if self.stream is None else ()
        return (*leading, self.rows.shape[0], self.width)

    @property
    def streams(self) -> Int[Array, " M"]:
        """The index among all of ``batch x N`` of each head that the block holds."""
        if self.stream is not None:
            return self.stream[None]
        return self.first_entry * self.shape[-3] + jnp.arange(math.prod(self._leading), dtype=jnp.int32)

    @property
    def _leading(self) -> tuple[int, ...]:
        return self.shape[:-2] if self.num_entries is None else (self.num_entries, self.shape[-3])

    def part(self, array: Array | Overlay) -> Array:
        """Cuts this block's part out of an array that broadcasts to the whole filter.

        Args:
          array: anything that broadcasts to ``[*batch, N, T, S]``.

        Returns:
          An array that broadcasts to the block.
        """
        if isinstance(array, Overlay):
            return self.take_keys(array.array) if array.cut else self.part(array.array)
        array = array.reshape((1,) * (len(self.shape) - array.ndim) + array.shape)
        if array.shape[-2] != 1:
            array = self.take_rows(array)
        return self.take_keys(self.one_stream(array))

    def per_batch(self, array: Array) -> Array:
        """Shapes one number per batch entry, ``[*batch]`` or a scalar, so that it broadcasts to the block."""
        if array.ndim == 0:
            return array
        return self.one_stream(array.reshape(*array.shape, 1, 1, 1))

    def take_rows(self, array: Array) -> Array:
        """Takes this block's rows along the axis before the last of an array of ``T`` rows."""
        if self.adjacent:
            return lax.dynamic_slice_in_dim(array, self.rows[0], self.rows.shape[0], axis=-2)
        return jnp.take(array, self.rows, axis=-2)

    def take_keys(self, array: Array) -> Array:
        """Takes this block's keys along the last axis of an array of ``S`` keys, or of one for all."""
        if self.num_keys is None or array.shape[-1] == 1:
            return array
        return lax.dynamic_slice_in_dim(array, self.first_key, self.num_keys, axis=-1)

    def one_stream(self, array: Array) -> Array:
        """Picks the part of the walked head, or of the block's entries, of an array ``[*batch, N, ...]``."""
        if self.stream is None:
            if self.num_entries is None or array.shape[0] == 1:
                return array
            return lax.dynamic_slice_in_dim(array, self.first_entry, self.num_entries, axis=0)
        leading = self.shape[:-2]
        stride = math.prod(leading)
        for size in leading:
            stride //= size
            index = (self.stream // stride) % size if array.shape[0] != 1 else 0
            array = lax.dynamic_index_in_dim(array, index, axis=0, keepdims=False)
        return array


@as_pytree
@dataclasses.dataclass(frozen=True)
class Place:
    """Says where the queries and keys that one device has lie in a filter that several devices share.

    Args:
      rows: the query index of each query that is there.
      shape: the shape ``(*batch, N, T, S)`` of the whole filter.
      device: the index of the device along its mesh axis.
      first_key: the index of the first key that is there.
      run: `rows` come in runs of this many neighbours.
    """

    rows: Int[Array, " R"]
    shape: tuple[int, ...] = static()
    device: Int[Array, ""] | int = 0
    first_key: Int[Array, ""] | int = 0
    run: int = static(default=1)

    def grid(
        self,
        first_rows: tuple[int, ...],
        size: int,
        num_keys: int,
        first_row: Int[Array, ""] | int = 0,
        first_key: Int[Array, ""] | int = 0,
        stream: Int[Array, ""] | None = None,
    ) -> Grid:
        """Makes the grid of the block of `size` rows from `first_row` on, which is one of `first_rows`."""
        adjacent = all(first // self.run == (first + size - 1) // self.run for first in first_rows)
        rows = lax.dynamic_slice_in_dim(self.rows, first_row, size)
        return Grid(rows, self.shape, adjacent, stream, self.first_key + first_key, num_keys)


def fixed_sizes(shape: tuple[Any, ...]) -> tuple[int, ...]:
    """Returns a shape with 1 for sizes that are symbolic, as they are while a function is exported for all of them."""
    return tuple(size if isinstance(size, int) else 1 for size in shape)


def whole_grid(shape: tuple[int, ...]) -> Grid:
    """Makes the grid of a whole filter of shape ``(*batch, N, T, S)``: one block that holds every row."""
    return Grid(rows=jnp.arange(shape[-2], dtype=jnp.int32), shape=shape, row_unit=0)
