"""`AttentionFilter`: the filter of an `attend` call as a virtual matrix.

The filter is the same row program that `attend` maps, stopped at the weights. It keeps query, key and the program,
memory linear in length, and computes rows when they are asked for.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Float, Int

from jattn.attention import choose_plan, filter_shape
from jattn.biases import BiasLike
from jattn.grids import Grid
from jattn.masks import MaskLike, as_mask
from jattn.normalizers import NormalizerLike, softmax
from jattn.plans import Plan, check_block_size
from jattn.rows import Edit, RowProgram, clean, row_program, taint
from jattn.scores import ScoreLike, as_score, scaled_dot
from jattn.walk import map_blocks

Fold = Callable[[Float[Array, "... R S"], Grid], Any]
"""Takes a block of weights and its index grids, returns a pytree of arrays ``[..., R, *rest]``: something per row."""


def attention_filter(
    query: Float[Array, "*batch T N H"],
    key: Float[Array, "*batch S K H"],
    *,
    score: ScoreLike = scaled_dot(),
    bias: BiasLike | None = None,
    mask: MaskLike | None = None,
    normalizer: NormalizerLike = softmax(),
    edit: Edit | None = None,
    block_size: int | None = None,
    precision: Any = None,
) -> "AttentionFilter":
    """Describes the filter that `attend` uses when it is called with the same arguments; computes nothing yet.

    Dropout has no part in it: the filter holds the weights before any are dropped.

    Returns:
      An `AttentionFilter` of shape ``[*batch, N, T, S]``.

    Raises:
      ValueError: if shapes do not fit one another.
      TypeError: if an argument has the wrong type or dtype.

    Example:
      >>> import jax.numpy as jnp, numpy as np
      >>> from jattn import attention_filter, masks
      >>> zeros = jnp.zeros((3, 1, 4))
      >>> filter = attention_filter(zeros, zeros, mask=masks.causal())
      >>> filter
      AttentionFilter(shape=(1, 3, 3), dtype=float32)
      >>> print(np.asarray(filter.rows([1, 2])).round(2))
      [[[0.5  0.5  0.  ]
        [0.33 0.33 0.33]]]
    """
    program = row_program(score, bias, mask, normalizer, edit, precision, filter_shape(query, key))
    check_block_size(block_size)
    return AttentionFilter(query, key, program, block_size)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, repr=False)
class AttentionFilter:
    """The weights of an `attend` call as a virtual matrix of shape ``[*batch, N, T, S]``.

    Make one with `attention_filter`, or capture those of a model with `capture_filters`. It is a pytree: it passes
    through jit, vmap, scan and flax's ``sow``. All folds go through the rows in blocks and are differentiable.
    """

    query: Float[Array, "*batch T N H"]
    key: Float[Array, "*batch S K H"]
    program: RowProgram
    block_size: int | None = dataclasses.field(default=None, metadata={"static": True})

    @property
    def shape(self) -> tuple[int, ...]:
        """``(*batch, N, T, S)``."""
        return filter_shape(self.query, self.key)

    @property
    def dtype(self) -> Any:
        """The dtype of the weights: float32, or wider where the query or key is."""
        return jnp.promote_types(jnp.result_type(self.query, self.key), jnp.float32)

    def __repr__(self) -> str:
        return f"AttentionFilter(shape={self.shape}, dtype={np.dtype(self.dtype).name})"

    def weights(self) -> Float[Array, "*batch N T S"]:
        """Computes the whole filter as an array; its size is quadratic in length."""
        return self.fold(lambda weights, grid: weights)

    def rows(self, indices: Int[Array, " R"]) -> Float[Array, "*batch N R S"]:
        """Computes the weights of some queries only.

        Args:
          indices: query indices, in any order; negative ones count from the end.

        Raises:
          ValueError: if `indices` has another rank, or an index known at trace time is out of range.
        """
        num_rows = self.shape[-2]
        index_array = jnp.asarray(indices, jnp.int32 if np.size(indices) == 0 else None)
        if index_array.ndim != 1 or not jnp.issubdtype(index_array.dtype, jnp.integer):
            raise ValueError(
                f"rows: expected a list of query indices, got shape {index_array.shape}, dtype {index_array.dtype}"
            )
        if not isinstance(index_array, Tracer):
            wrong = [int(i) for i in np.asarray(index_array) if not -num_rows <= i < num_rows]
            if wrong:
                raise ValueError(f"rows: query index {wrong[0]} is out of range for {num_rows} queries")
        index_array = jnp.where(index_array < 0, index_array + num_rows, index_array).astype(jnp.int32)
        grid = Grid(index_array, self.shape, adjacent=False)
        query_side, key_side = self._sides()
        query_side = jax.tree.map(lambda x: jnp.take(x, index_array, axis=len(self.shape) - 2), query_side)
        return _weights(self.program, grid, query_side, key_side)

    def scores(self) -> Float[Array, "*batch N T S"]:
        """Computes all scores, bias added, before the mask and the normalizer; quadratic in length."""

        def block(program: RowProgram, grid: Grid, query_side: Any, key_side: Any) -> Array:
            return program.scores(query_side["query"], key_side["key"], grid)[0]

        query, key = (jnp.swapaxes(x, -3, -2) for x in (self.query, self.key))
        return map_blocks(block, self.program, {"query": query}, {"key": key}, self.shape, self._plan())

    def fold(self, function: Fold) -> Any:
        """Computes something per row from the weights, a block of rows at a time.

        Args:
          function: takes a block of weights ``[..., R, S]`` and its `Grid`; returns a pytree of arrays
            ``[..., R, *rest]``.

        Returns:
          The pytree for all rows: arrays ``[*batch, N, T, *rest]``.

        Example: how far each query looks, on average.
          >>> import jax.numpy as jnp
          >>> from jattn import attention_filter, masks
          >>> zeros = jnp.zeros((3, 1, 4))
          >>> filter = attention_filter(zeros, zeros, mask=masks.causal())
          >>> filter.fold(lambda weights, grid: jnp.sum(weights * abs(grid.query - grid.key), axis=-1)).tolist()
          [[0.0, 0.5, 1.0]]
        """
        if not callable(function):
            raise TypeError(f"fold: expected a function of (weights, grid), got {type(function).__name__}")

        def block(program: RowProgram, grid: Grid, query_side: Any, key_side: Any) -> Any:
            weights = _weights(program, grid, query_side, key_side)
            folded = function(weights, grid)
            for array in jax.tree.leaves(folded):
                if jnp.shape(array)[: weights.ndim - 1] != weights.shape[:-1]:
                    raise ValueError(
                        f"fold: the function must return arrays that begin with the rows {weights.shape[:-1]} of the "
                        f"block of weights {weights.shape}, got {jnp.shape(array)}"
                    )
            return folded

        return map_blocks(block, self.program, *self._sides(), self.shape, self._plan())

    def entropy(self) -> Float[Array, "*batch N T"]:
        """Computes each row's entropy, ``-Σⱼ wᵢⱼ ln wᵢⱼ``, in nats: 0 looks at one key, ``ln n`` at ``n`` keys alike.

        A row whose weights do not sum to one is divided by its sum first; a row that may attend to nothing gets 0.
        """

        def entropy(weights: Array, grid: Grid) -> Array:
            total = jnp.sum(weights, axis=-1, keepdims=True)
            shares = weights / jnp.where(total == 0, 1, total)
            return -jnp.sum(shares * jnp.log(jnp.where(shares > 0, shares, 1)), axis=-1)

        return self.fold(entropy)

    def mass(self, keys: MaskLike) -> Float[Array, "*batch N T"]:
        """Computes how much of each row's weight lies on a set of keys, ``Σⱼ wᵢⱼ [j in the set]``.

        Args:
          keys: True = in the set; an array that broadcasts to ``[*batch, N, T, S]``, or a mask object.
        """
        chosen = as_mask(keys).fit(self.shape)
        return self.fold(lambda weights, grid: jnp.sum(jnp.where(chosen.evaluate(grid), weights, 0), axis=-1))

    def argmax(self) -> Int[Array, "*batch N T"]:
        """Computes which key each query attends to most; the first of equals, 0 where it may attend to nothing."""
        if self.shape[-1] == 0:
            return jnp.zeros(self.shape[:-1], jnp.int32)
        return self.fold(lambda weights, grid: jnp.argmax(weights, axis=-1).astype(jnp.int32))

    def uniform(self) -> "AttentionFilter":
        """Describes the filter that looks at every key it may look at alike: the chance level of this one."""
        program = dataclasses.replace(self.program, score=as_score(_no_preference), bias=None, edit=None)
        return dataclasses.replace(self, program=program)

    def _plan(self) -> Plan:
        # A fold gets whole rows: it may ask for keys that the mask rules out.
        return choose_plan(self.shape, self.program, None, self.block_size, whole_rows=True)

    def _sides(self) -> tuple[dict[str, Array], dict[str, Array]]:
        query, key = (jnp.swapaxes(x, -3, -2) for x in (self.query, self.key))
        sides = {"query": query}, {"key": key}
        return sides if self.program.mask is None else clean(*sides)


def _weights(program: RowProgram, grid: Grid, query_side: Any, key_side: Any) -> Array:
    weights, allowed = program.weights(query_side["query"], key_side["key"], grid)
    if allowed is None:
        return weights
    return taint(weights, allowed, query_side["broken"], key_side["broken"])


def _no_preference(query: Float[Array, "... R H"], key: Float[Array, "... S H"]) -> Float[Array, "... R S"]:
    return jnp.zeros((*query.shape[:-1], key.shape[-2]), jnp.float32)
