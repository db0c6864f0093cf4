"""Biases: floats added to the scores before the normalizer.

A bias is an array that broadcasts to ``[*batch, N, T, S]``, or a `Bias` object evaluated on the index grids of one
block of rows at a time. Both add up with ``+``.

Glossary of shapes: ``T`` query length, ``S`` key length, ``N`` query heads, ``R`` rows of one block.
"""

import abc
import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Any, Self

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from jattn.rules.checks import as_own, check_float, check_integer
from jattn.rules.functions import count_indices, of_indices
from jattn.rules.grids import Grid, static
from jattn.rules.overlay import Overlay, fit_array
from jattn.rules.parameters import Integer, as_integer
from jattn.rules.rule import Rule, called, is_factory, rule, write, write_joined


class Bias(Rule):
    """Computes what is added to the scores of one block.

    Subclasses are frozen dataclasses registered as pytrees. Add biases up with ``+``; arrays may stand on either side.
    """

    wing = "biases"

    __array_ufunc__ = None  # lets numpy arrays on the left of + defer to this class

    @abc.abstractmethod
    def evaluate(self, grid: Grid) -> Float[Array, "..."]:
        """Computes the bias of one block; the result broadcasts to the block."""

    @property
    def is_placed(self) -> bool:
        """Whether an `offset` that is an array tells where the queries of each batch entry stand among the keys."""
        return False

    def __add__(self, other: "BiasLike") -> "Bias":
        return Sum(self, as_bias(other))

    def __radd__(self, other: "BiasLike") -> "Bias":
        return Sum(as_bias(other), self)


BiasLike = Bias | Float[Array, "..."] | np.ndarray | np.floating | float | Callable[..., Any]
"""A `Bias`, a float array that broadcasts to ``[*batch, N, T, S]``, or a function, as `from_function` takes it."""


def alibi(
    slopes: Float[Array, " N"] | None = None, num_heads: int | None = None, offset: int | Int[Array, "*batch"] = 0
) -> Bias:
    """Penalizes distance, each head at its own rate: ``biasₙᵢⱼ = -slopeₙ · |i + offset - j|``.

    Under a causal mask no key is later than its query, so this is the ``-slope · (i - j)`` of the paper. The absolute
    value keeps far keys penalized where a query may look ahead.

    It has no longest length: beyond the lengths seen in training the penalty goes on growing in a straight line.

    Args:
      slopes: one per head, and may be learned; the default is `alibi_slopes` of as many heads as the filter has.
      num_heads: how many heads the default slopes are for, where the filter must have that many.
      offset: how many positions the first query lies behind the first key, as in `masks.causal`; an int, or an array
        with one number per batch entry.

    Raises:
      ValueError: in the call that uses it, if it has not as many slopes as heads.

    Example:
      >>> import jax.numpy as jnp
      >>> from jattn import attention_filter, biases, masks
      >>> zeros = jnp.zeros((3, 2, 4))
      >>> attention_filter(zeros, zeros, bias=biases.alibi()).scores().tolist()[1]
      [[0.0, -0.00390625, -0.0078125], [-0.00390625, 0.0, -0.00390625], [-0.0078125, -0.00390625, 0.0]]

    Source: Press et al. 2022, "Train short, test long: attention with linear biases", section 3.
    """
    if slopes is not None:
        check_float("alibi: slopes", slopes)
        if slopes.ndim != 1:
            raise ValueError(f"alibi: slopes must have one axis [N], got shape {slopes.shape}")
    if num_heads is not None:
        defaults = alibi_slopes(num_heads)
        slopes = defaults if slopes is None else slopes
        if len(slopes) != num_heads:
            raise ValueError(f"alibi: expected as many slopes as num_heads {num_heads}, got {len(slopes)}")
    return Alibi(None if slopes is None else _wide(slopes)[:, None, None], as_integer("alibi: offset", offset))


def alibi_slopes(num_heads: int) -> Float[Array, " N"]:
    """Returns the slope of each head that `alibi` starts from: a geometric sequence between 1 and ``2⁻⁸``.

    ::

        slopeₙ = 2^(-8 n / N),   n = 1 .. N       where N is a power of two

    For other N it holds the slopes of the largest power of two ``P`` below, then every other slope of ``2 P`` heads,
    beginning with the first: so the authors' code does, and models trained with it expect (the paper, which has powers
    of two only, would continue the formula).

    Example:
      >>> from jattn import biases
      >>> biases.alibi_slopes(6).tolist()
      [0.25, 0.0625, 0.015625, 0.00390625, 0.5, 0.125]

    Source: Press et al. 2022, section 3, and the code published with it.
    """
    num_heads = check_integer("alibi: num_heads", num_heads, 1)
    power = 2 ** int(math.log2(num_heads))
    first = 8 * np.arange(1, power + 1) / power
    between = 4 * np.arange(1, 2 * (num_heads - power), 2) / power
    return jnp.asarray(2.0 ** -np.concatenate([first, between]))


def relative(
    table: Float[Array, "buckets N"],
    bidirectional: bool = True,
    max_distance: int = 128,
    offset: int | Int[Array, "*batch"] = 0,
) -> Bias:
    """Looks up a bias per head and distance: ``biasₙᵢⱼ = table[bucket(j - i - offset), n]``, where near distances
    have a bucket each and far ones share.

    Of a block of neighbouring rows only ``R + S - 1`` distances differ, so that is how many entries are looked up.

    It has no longest length: all distances from `max_distance` on share the last bucket of their direction, so of what
    lies beyond the lengths seen in training a model knows that it is far, and not how far.

    Args:
      table: one row per bucket, a column per head; learned.
      bidirectional: whether keys later than their query have buckets of their own, half of them; otherwise they
        share the bucket of distance 0. Give False under a causal mask.
      max_distance: see `relative_buckets`.
      offset: how many positions the first query lies behind the first key, as in `masks.causal`; an int, or an array
        with one number per batch entry.

    Raises:
      ValueError: in the call that uses it, if the table has not as many columns as the filter has heads.

    Example:
      >>> import jax.numpy as jnp
      >>> from jattn import attention_filter, biases
      >>> table = jnp.array([[0.0], [-1.0], [-2.0], [-3.0]])
      >>> zeros = jnp.zeros((4, 1, 2))
      >>> bias = biases.relative(table, bidirectional=False, max_distance=3)
      >>> attention_filter(zeros, zeros, bias=bias).scores()[0].astype(int).tolist()
      [[0, 0, 0, 0], [-1, 0, 0, 0], [-2, -1, 0, 0], [-3, -2, -1, 0]]

    Source: Raffel et al. 2020, "Exploring the limits of transfer learning with a unified text-to-text transformer",
    section 2.1.
    """
    check_float("relative: table", table)
    if table.ndim != 2:
        raise ValueError(f"relative: table must have two axes [buckets, N], got shape {table.shape}")
    _bucket_edges("relative", table.shape[0], max_distance, bidirectional)
    by_head = _wide(table).T[:, None, :]
    return Relative(by_head, as_integer("relative: offset", offset), int(max_distance), bool(bidirectional))


def relative_buckets(
    distance: Int[Array, "..."], num_buckets: int = 32, max_distance: int = 128, bidirectional: bool = True
) -> Int[Array, "..."]:
    """Sorts distances into buckets: one each for near ones, then ranges that widen with the logarithm.

    With ``n = -distance`` for keys that are not later than their query, ``E = B / 2`` of ``B`` buckets hold one
    distance each, and the others share what lies between ``E`` and ``M = max_distance``::

        bucket(n) = n                                          for n < E
        bucket(n) = E + ⌊(B - E) · ln(n / E) / ln(M / E)⌋      for E ≤ n, at most B - 1

    Later keys, ``distance > 0``, count as ``n = 0``; if bidirectional, ``B`` is half of all buckets, and later keys
    use the other half alike. The edges are computed as integers, so no distance falls beside its bucket by rounding.

    Args:
      distance: key index minus query index.
      num_buckets: how many buckets there are; even if bidirectional.
      max_distance: from which distance on all share the last bucket (of their direction).
      bidirectional: whether later keys have buckets of their own.

    Example:
      >>> import jax.numpy as jnp
      >>> from jattn import biases
      >>> biases.relative_buckets(jnp.array([-1000, -128, -9, -8, -7, -1, 0, 1, 16, 1000])).tolist()
      [15, 15, 8, 8, 7, 1, 0, 17, 26, 31]

    Source: Raffel et al. 2020, section 2.1, and the code published with it.
    """
    edges = _bucket_edges("relative_buckets", num_buckets, max_distance, bidirectional)
    distance = jnp.asarray(distance)
    if not jnp.issubdtype(distance.dtype, jnp.integer):
        raise TypeError(f"relative_buckets: expected distances of an integer dtype, got {distance.dtype}")
    distance = distance.astype(jnp.int32)
    steps = abs(distance) if bidirectional else jnp.maximum(-distance, 0)
    # Not jnp.searchsorted, which cannot be traced in a shard_map.
    buckets = jnp.sum(steps[..., None] >= edges, axis=-1, dtype=jnp.int32)
    return jnp.where(distance > 0, num_buckets // 2, 0) + buckets if bidirectional else buckets


def from_function(function: Callable[..., Float[Array, "..."]]) -> Bias:
    """Makes a bias of a function of index grids.

    Args:
      function: takes ``(query, key)``, ``(head, query, key)`` or ``(batch, head, query, key)``, as many as it has
        parameters without a default: integer arrays that broadcast to a block. Returns floats that broadcast to it.

    Example:
      >>> import jax.numpy as jnp
      >>> from jattn import attention_filter, biases
      >>> nearest = biases.from_function(lambda query, key: -10.0 * abs(query - key))
      >>> zeros = jnp.zeros((3, 1, 4))
      >>> attention_filter(zeros, zeros, bias=nearest).weights()[0].round(2).tolist()
      [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]]
    """
    return FromFunction(function, count_indices(function, "biases.from_function"))


def as_bias(bias: BiasLike) -> Bias:
    """Returns a `Bias` for a bias object, a float array or a function of indices; refuses anything else."""
    if isinstance(bias, Bias):
        return bias
    if not isinstance(bias, jax.Array | np.ndarray | float | np.floating):
        if callable(bias) and not isinstance(bias, Rule | type) and not is_factory(bias):
            return FromFunction(bias, count_indices(bias, "bias"))
        raise TypeError(f"bias: expected a float array or a jattn bias, got {called(bias, Bias)}")
    array = as_own(bias)
    if not jnp.issubdtype(array.dtype, jnp.floating):
        hint = "; a boolean array is a mask" if array.dtype == jnp.bool_ else ""
        raise TypeError(f"bias: expected a float dtype, got {array.dtype}{hint}")
    return FromArray(array)


def _wide(array: Array) -> Array:
    """Makes an array float32 or wider, so that its gradients from several blocks add up in that."""
    return jnp.asarray(array, jnp.promote_types(array.dtype, jnp.float32))


def _bucket_edges(caller: str, num_buckets: int, max_distance: int, bidirectional: bool) -> np.ndarray:
    """Returns the least distance of each bucket of one direction but the first."""
    num_buckets = check_integer(f"{caller}: num_buckets", num_buckets)
    max_distance = check_integer(f"{caller}: max_distance", max_distance)
    if num_buckets < (4 if bidirectional else 2) or (bidirectional and num_buckets % 2):
        least = "an even number of buckets, at least 4," if bidirectional else "at least 2 buckets"
        raise ValueError(f"{caller}: expected {least} for bidirectional={bool(bidirectional)}, got {num_buckets}")
    one_way = num_buckets // 2 if bidirectional else num_buckets
    exact = one_way // 2
    if max_distance <= exact:
        raise ValueError(
            f"{caller}: expected max_distance above {exact}, the distances with a bucket each, got {max_distance}"
        )
    shared = one_way - exact
    powers = exact * (max_distance / exact) ** (np.arange(1, shared) / shared)
    edges = np.ceil(powers * (1 - 1e-12))  # a power that is an integer stays itself
    return np.concatenate([np.arange(1, exact + 1), edges]).astype(np.int32)


def _skew(diagonals: Float[Array, "... 1 D"], num_rows: int) -> Float[Array, "... R S"]:
    """Lays out ``D = R + S - 1`` diagonals, lowest left first: ``out[r, s] = diagonals[s - r + R - 1]``.

    Row ``r`` of one long line cut every ``D`` entries, out of copies that repeat every ``D + 1``, begins one entry
    earlier than the row above; neither this nor its gradient gathers.
    """
    leading, length = diagonals.shape[:-2], diagonals.shape[-1]
    padded = jnp.pad(diagonals, [(0, 0)] * (diagonals.ndim - 1) + [(0, 1)])
    line = jnp.broadcast_to(padded, (*leading, num_rows, length + 1)).reshape(*leading, num_rows * (length + 1))
    cut = line[..., num_rows - 1 : num_rows - 1 + num_rows * length].reshape(*leading, num_rows, length)
    return cut[..., : length - num_rows + 1]


@rule(alibi)
class Alibi(Bias):
    slopes: Float[Array, "... N 1 1"] | None
    offset: Integer

    def arguments(self) -> Mapping[str, Any]:
        slopes = self.slopes
        if isinstance(slopes, jax.Array | np.ndarray | jax.ShapeDtypeStruct):
            slopes = jax.ShapeDtypeStruct(slopes.shape[:-2], slopes.dtype)
        return {"slopes": slopes, "num_heads": None, "offset": self.offset}

    def evaluate(self, grid: Grid) -> Float[Array, "..."]:
        slopes = alibi_slopes(grid.shape[-3])[grid.head] if self.slopes is None else grid.part(self.slopes)
        return -slopes * abs(grid.query - grid.key + self.offset.part(grid)).astype(slopes.dtype)

    def fit(self, shape: tuple[int, ...]) -> Self:
        if self.slopes is None:
            return super().fit(shape)
        if self.slopes.shape[-3] != shape[-3]:
            raise ValueError(
                f"bias: alibi needs a slope for each of the {shape[-3]} heads, got {self.slopes.shape[-3]} slopes"
            )
        return dataclasses.replace(super().fit(shape), slopes=fit_array("bias", self.slopes, shape))

    @property
    def is_placed(self) -> bool:
        return not self.offset.known


@rule(relative)
class Relative(Bias):
    table: Float[Array, "... N 1 buckets"]
    offset: Integer
    max_distance: int = static()
    bidirectional: bool = static()

    def arguments(self) -> Mapping[str, Any]:
        table = self.table
        if isinstance(table, jax.Array | np.ndarray | jax.ShapeDtypeStruct):
            table = jax.ShapeDtypeStruct((*table.shape[:-3], table.shape[-1], table.shape[-3]), table.dtype)
        return {**super().arguments(), "table": table}

    def evaluate(self, grid: Grid) -> Float[Array, "..."]:
        num_rows, num_keys = grid.query.shape[0], grid.key.shape[1]
        if not grid.adjacent or num_rows == 0 or num_keys == 0:
            return self._look_up(grid.key - grid.query, grid)
        first_column = (grid.key[:, :1] - grid.query[::-1]).T
        first_row = grid.key[:, 1:] - grid.query[:1]
        return _skew(self._look_up(jnp.concatenate([first_column, first_row], axis=1), grid), num_rows)

    def fit(self, shape: tuple[int, ...]) -> Self:
        if self.table.shape[-3] != shape[-3]:
            raise ValueError(
                f"bias: relative needs a column of its table for each of the {shape[-3]} heads, "
                f"got {self.table.shape[-3]} columns"
            )
        table = self.table.reshape((1,) * (len(shape) - self.table.ndim) + self.table.shape)
        return dataclasses.replace(self, table=table, offset=self.offset.fit(shape))

    @property
    def is_placed(self) -> bool:
        return not self.offset.known

    def _look_up(self, distance: Int[Array, "X Y"], grid: Grid) -> Float[Array, "... X Y"]:
        by_bucket = grid.one_stream(self.table)
        distance = distance - self.offset.part(grid)
        buckets = relative_buckets(distance, self.table.shape[-1], self.max_distance, self.bidirectional)
        buckets = buckets.reshape((1,) * (by_bucket.ndim - buckets.ndim) + buckets.shape)
        return jnp.take_along_axis(by_bucket, buckets, axis=-1)


@rule()
class FromArray(Bias):
    array: Float[Array, "..."] | Overlay

    def __repr__(self) -> str:
        return write(self.array)

    def evaluate(self, grid: Grid) -> Float[Array, "..."]:
        return grid.part(self.array)

    def fit(self, shape: tuple[int, ...]) -> Self:
        return dataclasses.replace(self, array=Overlay.of("bias", self.array, shape))


@rule(from_function)
class FromFunction(Bias):
    function: Callable[..., Float[Array, "..."]] = static()
    count: int = static()

    def evaluate(self, grid: Grid) -> Float[Array, "..."]:
        bias = of_indices("bias", self.function, self.count, grid)
        if not jnp.issubdtype(bias.dtype, jnp.floating):
            raise TypeError(f"bias: the function must return floats, got dtype {bias.dtype}")
        return bias


@rule()
class Sum(Bias):
    left: Bias
    right: Bias
    binding = 3

    def __repr__(self) -> str:
        return write_joined(self.left, "+", self.right, self.binding)

    def evaluate(self, grid: Grid) -> Float[Array, "..."]:
        return _wide(self.left.evaluate(grid)) + _wide(self.right.evaluate(grid))

    @property
    def is_placed(self) -> bool:
        return self.left.is_placed and self.right.is_placed
