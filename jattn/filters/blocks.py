"""What a fold is: a question asked of one block of a filter at a time.

`FilterBlock` is the block as a fold sees it. It computes what is asked for, once, so that folds which share a sweep
share scores, exponentials and sums.

Glossary of shapes: ``R`` rows and ``W`` keys of one block; ``...`` are the axes before the rows, ``[*batch, N]``, or
none where heads are walked one at a time.
"""

import abc
import functools
from typing import Any, ClassVar, Generic, TypeVar

import chex
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Bool, Float, Int

from jattn.engine.averages import divisor_of, exponentials_of
from jattn.engine.rows import RowProgram, sees_broken
from jattn.engine.walk import Side
from jattn.rules.grids import Grid
from jattn.rules.normalizers import forbid

Result = TypeVar("Result")


class FilterBlock:
    """One block of a filter. What is not asked for is not computed.

    Args:
      program: what makes the weights.
      grid: where the block lies.
      query_side, key_side: ``query``, ``key`` and, where a mask forbids anything, which of them are ``broken``.
    """

    def __init__(self, program: RowProgram, grid: Grid, query_side: Side, key_side: Side) -> None:
        self.program, self.grid = program, grid
        self._query_side, self._key_side = query_side, key_side
        self._bin_sums: dict[int, tuple[Any, Array]] = {}

    @functools.cached_property
    def _scores_and_allowed(self) -> tuple[Array, Array | None]:
        return self.program.scores(self._query_side["query"], self._key_side["key"], self.grid)

    @property
    def raw_scores(self) -> Float[Array, "... R W"]:
        """The scores with the bias added, before the mask."""
        return self._scores_and_allowed[0]

    @property
    def allowed(self) -> Bool[Array, "..."] | None:
        """The mask of the block, which broadcasts to it; None allows every key."""
        return self._scores_and_allowed[1]

    @functools.cached_property
    def scores(self) -> Float[Array, "... R W"]:
        """The scores with the bias added, and minus infinity where the mask forbids."""
        return forbid(*self._scores_and_allowed)

    @functools.cached_property
    def exponentials(self) -> tuple[Float[Array, "... R 1"], Float[Array, "... R W"], Float[Array, "... R 1"]]:
        """Each row's largest score, ``exp(s - largest)``, and their sum; what is made of them must be `tainted`."""
        return exponentials_of(self.scores, None)

    @functools.cached_property
    def _scale(self) -> Float[Array, "... R 1"]:
        """Of a plain softmax: what an exponential is multiplied with to be a weight."""
        most, _, total = self.exponentials
        sink = self.program.normalizer.sink_score(self.grid, most.dtype)
        if sink is None:
            return 1 / divisor_of(total)
        # exp(most) / (exp(sink) + total exp(most)), both measured from the larger of the two.
        above = jnp.maximum(most, sink)
        of_row = jnp.exp(most - above)
        return of_row / jnp.where(total == 0, 1, total * of_row + jnp.exp(sink - above))

    @functools.cached_property
    def weights(self) -> Float[Array, "... R W"]:
        """The weights."""
        if self.program.is_plain_softmax:
            return self.tainted(self.exponentials[1] * self._scale)
        weights, _ = self.program.weights(self._query_side["query"], self._key_side["key"], self.grid)
        chex.assert_axis_dimension(weights, -1, self.grid.width)
        return self.tainted(weights)

    @functools.cached_property
    def max(self) -> Float[Array, "... R"]:
        """The largest weight of each row, zero where there is no key."""
        if self.program.is_plain_softmax:
            # The largest exponential is one.
            return self.tainted(jnp.where(self.exponentials[2] == 0, 0, self._scale))[..., 0]
        return jnp.max(self.weights, axis=-1) if self.grid.width else jnp.zeros(self.weights.shape[:-1])

    @functools.cached_property
    def row_sums(self) -> Float[Array, "... R"]:
        """The sum of each row's weights: one for a softmax, but zero where there is nothing to attend to."""
        return jnp.sum(self.weights, axis=-1)

    def bin_sums(self, bins: int) -> tuple[Int[Array, ""] | int, Float[Array, "... B W"]]:
        """Sums the weights over the rows of each bin that the block touches; `bins` hold all rows of the filter.

        Returns:
          The first of these bins, and the sums from there on.
        """
        if bins not in self._bin_sums:
            self._bin_sums[bins] = self._sum_bins(bins)
        return self._bin_sums[bins]

    def taken(self, index: Int[Array, "... R k"]) -> Float[Array, "... R k"]:
        """Takes some weights of each row; `index` counts the keys of the block."""
        if self.program.is_plain_softmax:
            return self.tainted(jnp.take_along_axis(self.exponentials[1], index, axis=-1) * self._scale)
        return jnp.take_along_axis(self.weights, index, axis=-1)

    def _sum_bins(self, bins: int) -> tuple[Int[Array, ""] | int, Float[Array, "... B W"]]:
        num_rows, size = self.grid.shape[-2], self.grid.rows.shape[0]
        if bins == 1:
            return 0, self._sum_rows(1)
        bin_of_row = jnp.asarray(bins_of(num_rows, bins))[self.grid.rows]
        first, rows_of_bin, unit = bin_of_row[0], num_rows // bins, self.grid.row_unit
        if num_rows % bins == 0 and unit % rows_of_bin == 0 == size % rows_of_bin:
            return first, self._sum_rows(size // rows_of_bin)
        if num_rows % bins == 0 and unit % size == 0 == rows_of_bin % size:
            return first, self._sum_rows(1)
        weights, longest = self.weights, min(size, -(-num_rows // bins))

        def one(bin: Array) -> Array:
            start = jnp.minimum(jnp.sum(bin_of_row < bin), size - longest)
            piece = lax.dynamic_slice_in_dim(weights, start, longest, axis=-2)
            member = lax.dynamic_slice_in_dim(bin_of_row, start, longest) == bin
            return jnp.sum(jnp.where(member[:, None], piece, 0), axis=-2)

        touched = min(bins, (size * bins - 1) // num_rows + 2)
        return first, jnp.moveaxis(lax.map(one, first + jnp.arange(touched, dtype=jnp.int32)), 0, -2)

    def _sum_rows(self, parts: int) -> Float[Array, "... B W"]:
        """Sums the weights over the rows of each of so many equal parts of the block."""

        def split(x: Array, axis: int) -> Array:
            axis %= x.ndim
            return x.reshape(*x.shape[:axis], parts, x.shape[axis] // parts, *x.shape[axis + 1 :])

        if not self.program.is_plain_softmax or jax.default_backend() != "cpu":
            return jnp.sum(split(self.weights, -2), axis=-2)
        # On a CPU, a product with the scales reads exponentials once, where weights would be written and read again.
        scale, bad = self._scale[..., 0], self._bad_rows
        scale = scale if bad is None else jnp.where(bad, 0, scale)
        sums = jnp.einsum(
            "...br,...brw->...bw", split(scale, -1), split(self.exponentials[1], -2), precision=lax.Precision.HIGHEST
        )
        if bad is None:
            return sums
        return sums + jnp.where(jnp.any(split(bad, -1), axis=-1, keepdims=True), jnp.nan, 0).astype(sums.dtype)

    @property
    def received(self) -> Float[Array, "... S"]:
        """The weights summed over the rows of the block, for every key of the filter."""
        return self.all_keys(self.bin_sums(1)[1][..., 0, :])

    def all_keys(self, of_block: Float[Array, "... W"]) -> Float[Array, "... S"]:
        """Puts what belongs to the keys of the block among all keys, with zeros for those that it leaves out."""
        if self.grid.width == self.grid.shape[-1]:
            return of_block
        return put(of_block, self.grid.first_key, self.grid.shape[-1] - self.grid.width, axis=-1)

    def tainted(self, rows: Float[Array, "... R X"]) -> Float[Array, "... R X"]:
        """Sets the rows to NaN whose query, or some key that it may attend to, is not finite.

        Set at the end, and not on the way there, a NaN has no gradient that others could share.
        """
        return rows if self._bad_rows is None else jnp.where(self._bad_rows[..., None], jnp.nan, rows)

    @functools.cached_property
    def _bad_rows(self) -> Bool[Array, "... R"] | None:
        if self.allowed is None or "broken" not in self._query_side:
            return None
        shape = self.raw_scores.shape[:-1]
        return sees_broken(shape, self.allowed, self._query_side["broken"], self._key_side["broken"])


def put(part: Array, start: Any, room: int, axis: int) -> Array:
    """Puts an array at a place of one axis, with `room` zeros around it; other axes stay sharded as they are."""
    widths = [(0, 0)] * part.ndim
    widths[axis] = (0, room)
    return lax.dynamic_update_slice_in_dim(jnp.pad(jnp.zeros_like(part), widths), part, start, axis=axis)


def bins_of(size: int, bins: int) -> Int[np.ndarray, " size"]:
    """Tells for each of `size` indices its bin, ``⌊i bins / size⌋``."""
    return (np.arange(size, dtype=np.int64) * bins // size).astype(np.int32)


class Fold(abc.ABC, Generic[Result]):
    """Asks something of a filter. Subclasses are frozen dataclasses registered as pytrees.

    A block may leave out keys that the mask always forbids, unless `whole_rows`: their weights are zero.
    `Grid.key` says which keys it holds.
    """

    name: ClassVar[str] = ""
    """What the fold is called in the table of `jattn.folds`, which sets it."""

    whole_rows: bool = False
    """Whether blocks must hold all keys."""

    def __repr__(self) -> str:
        arguments = ", ".join(f"{name}={value!r}" for name, value in vars(self).items())
        return f"{self.name or type(self).__name__}({arguments})"

    @abc.abstractmethod
    def evaluate(self, block: FilterBlock) -> Any:
        """Returns a pytree of arrays ``[..., R, *rest]``, a result for each row of the block."""

    def fit(self, shape: tuple[int, ...]) -> "Fold":
        """Returns the fold fit to a filter of shape ``(*batch, N, T, S)``, or says why it does not fit."""
        return self

    def check(self, program: RowProgram) -> None:
        """Raises `ValueError` if the weights that a program makes cannot be asked this."""


class HeadFold(Fold[Result]):
    """A fold whose results are combined over the blocks of a head. Every row is in one block only."""

    initial: Any = 0
    """The total before the first block: a number, or a pytree of numbers, one for each array of a result."""

    @abc.abstractmethod
    def evaluate(self, block: FilterBlock) -> Any:
        """Returns a pytree of arrays ``[..., *rest]``, a result for the block."""

    def combine(self, total: Any, more: Any) -> Any:
        """Combines two results; the sum, if a subclass says nothing else."""
        return jax.tree.map(jnp.add, total, more)

    def finish(self, total: Any, shape: tuple[int, ...]) -> Any:
        """Makes the result of the totals ``[*batch, N, *rest]`` of a filter of the given shape."""
        return total
