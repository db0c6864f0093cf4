"""`AttentionFilter`: the filter of an `attend` call as a virtual matrix.

The filter is the same row program that `attend` maps, stopped at the weights. It keeps query, key and the program,
memory linear in length, and computes rows when they are asked for.
"""

import dataclasses
import functools
import math
import numbers
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Float, Int, PRNGKeyArray

from jattn.engine.attention import filter_shape, repeat_batch
from jattn.engine.compiling import compiled
from jattn.engine.dropout import as_dropout
from jattn.engine.plans import check_block_size
from jattn.engine.rows import row_program
from jattn.filters import folds, images, plots
from jattn.filters.indexing import select
from jattn.filters.passes import chosen_rows, multiply, multiply_transposed, one_block, sweep
from jattn.filters.virtual import VirtualMatrix
from jattn.rules.biases import BiasLike
from jattn.rules.checks import as_own
from jattn.rules.edits import EditLike
from jattn.rules.grids import Grid, fixed_sizes
from jattn.rules.mask import MaskLike
from jattn.rules.normalizers import NormalizerLike, softmax
from jattn.rules.scores import ScoreLike, scaled_dot
from jattn.rules.trees import as_pytree


def attention_filter(
    query: Float[Array, "*batch T N H"],
    key: Float[Array, "*batch S K H"],
    *,
    score: ScoreLike = scaled_dot(),
    bias: BiasLike | None = None,
    mask: MaskLike | None = None,
    normalizer: NormalizerLike = softmax(),
    edit: EditLike | None = None,
    dropout_rate: float = 0.0,
    dropout_rng: PRNGKeyArray | None = None,
    broadcast_dropout: bool = False,
    block_size: int | None = None,
    precision: Any = None,
) -> "AttentionFilter":
    """Describes the filter that `attend` uses when it is called with the same arguments; computes nothing yet.

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
      >>> print(np.asarray(filter[0, 1:]).round(2))
      [[0.5  0.5  0.  ]
       [0.33 0.33 0.33]]
    """
    dropout = as_dropout(dropout_rate, dropout_rng, broadcast_dropout)
    program = row_program(score, bias, mask, normalizer, edit, precision, filter_shape(query, key), dropout)
    check_block_size(block_size)
    query, key = as_own(query), as_own(key)
    return AttentionFilter(query, repeat_batch(query, key)[0], program, block_size)


@as_pytree
@dataclasses.dataclass(frozen=True, repr=False, eq=False)
class AttentionFilter(VirtualMatrix, folds.FoldMethods):
    """The weights of an `attend` call as a virtual matrix of shape ``[*batch, N, T, S]``.

    Make one with `attention_filter`, or capture those of a model with `capture_filters`. It is a pytree: it passes
    through jit, vmap, scan and flax's ``sow``. What is asked of it is computed from query and key in blocks of rows, is
    exact, and is differentiable.

    ``filter[..., 3, 100:110, :]`` computes just those rows; `weights`, `rows` and `block` are the same by name. Each of
    the questions of `jattn.folds` is a method (`entropy`, `top_k`, `pool`, ...); `summarize` asks several in one sweep.
    """

    _sweep = staticmethod(sweep)

    def __repr__(self) -> str:
        if not all(hasattr(side, "shape") and hasattr(side, "dtype") for side in (self.query, self.key)):
            return f"AttentionFilter(query={self.query!r}, key={self.key!r})"  # as tree.map may leave it
        return f"AttentionFilter(shape={self.shape}, dtype={np.dtype(self.dtype).name})"

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, index: Any) -> Float[Array, "..."]:
        """Computes the part of the filter that an index in NumPy's manner asks for, and no rows besides.

        Raises:
          IndexError: if the index does not fit the shape.
          TypeError: if it is traced, or nothing that NumPy takes, or the filter has symbolic sizes.
          ValueError: if the result is larger than `limit_gb`.
        """
        if fixed_sizes(self.shape) != self.shape:
            raise TypeError(
                f"index: expected a filter of known sizes, got {self.shape}; ask for weights, rows or a fold"
            )
        wanted = select(index, self.shape, functools.partial(self._check_size, "index"))
        table = chosen_rows(self, wanted.streams, wanted.rows, pairs=not wanted.outer, keys=wanted.keys)
        return wanted.arrange(table.reshape(math.prod(table.shape[:-1]), table.shape[-1]))

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return np.asarray(self.weights(), dtype)

    def weights(self) -> Float[Array, "*batch N T S"]:
        """Computes the whole filter as an array.

        Raises:
          ValueError: if the array is larger than `limit_gb`.
        """
        self._check_size("weights", self.shape)
        return self.fold(_whole)

    def rows(self, indices: Int[Array, " R"]) -> Float[Array, "*batch N R S"]:
        """Computes the weights of some queries only, of all heads.

        Args:
          indices: query indices, in any order; negative ones count from the end; they may be traced. Traced ones that
            are out of range give NaN.

        Raises:
          ValueError: if `indices` has another rank, or an index known at trace time is out of range.
        """
        return self._some_rows("rows", indices, slice(None))

    def block(self, rows: slice | Int[Array, " R"], keys: slice) -> Float[Array, "*batch N R W"]:
        """Computes the weights between some queries and some keys, of all heads.

        Args:
          rows: a slice, or query indices as in `rows`.
          keys: a slice.

        Raises:
          ValueError, TypeError: if either is nothing of that kind, or out of range.
        """
        if isinstance(rows, slice):
            rows = jnp.arange(*rows.indices(self.shape[-2]), dtype=jnp.int32)
        if not isinstance(keys, slice):
            raise TypeError(f"keys: expected a slice, got {type(keys).__name__}; `filter[...]` takes lists of keys")
        return self._some_rows("rows", rows, keys)

    def scores(self, indices: Int[Array, " R"] | None = None) -> Float[Array, "*batch N R S"]:
        """Computes scores, bias added, before the mask and the normalizer.

        Args:
          indices: query indices as in `rows`; None for all of them.

        Raises:
          ValueError: as `rows` and `weights` do.
        """
        indices = jnp.arange(self.shape[-2], dtype=jnp.int32) if indices is None else indices
        return self._some_rows("scores", indices, slice(None), scores=True)

    def apply(self, x: Float[Array, "*batch S K V"]) -> Float[Array, "*batch T N V"]:
        """Multiplies the filter with any values, ``Σⱼ wᵢⱼ xⱼ``: what `attend` returns for them.

        Args:
          x: values for each key head, for each query head ``[*batch, S, N, V]``, or for all heads
            ``[*batch, S, 1, V]``.

        Raises:
          ValueError, TypeError: if `x` does not fit.
        """
        self._check_values("x", x, self.shape[-1], {self.key.shape[-2], self.shape[-3], 1})
        return compiled(multiply)(self, x)

    def apply_transposed(self, y: Float[Array, "*batch T N V"]) -> Float[Array, "*batch S N V"]:
        """Multiplies the transposed filter with something per query, ``Σᵢ wᵢⱼ yᵢ``: what each key gets back.

        Args:
          y: for each query head, or for all heads ``[*batch, T, 1, V]``.

        Raises:
          ValueError, TypeError: if `y` does not fit.
        """
        self._check_values("y", y, self.shape[-2], {self.shape[-3], 1})
        return compiled(multiply_transposed)(self, y)

    def evaluate(self, grid: Grid) -> Float[Array, "... R S"]:
        """Computes the block of whole rows that lies on a grid; what `jattn.edits.swap` asks for."""
        return one_block(self, grid)

    def plot(self, axes: Any = None, **options: Any) -> Any:
        """Draws heads of the filter, pooled if it is larger than the picture; see `jattn.filters.plots.plot`."""
        return plots.plot(self, axes, **options)

    def save_map(self, path: Any, size: Any = 1024, **options: Any) -> Any:
        """Writes one head of the filter as an image, at any length; see `jattn.filters.images.save_map`."""
        return images.save_map(self, path, size, **options)

    def _repr_html_(self) -> str:
        return images.as_html(self)

    def __treescope_repr__(self, path: str | None, subtree_renderer: Any) -> Any:
        return images.treescope_repr(self, path, subtree_renderer)

    def fold(self, fold: Any, *, heads: Sequence[int] | None = None) -> Any:
        """Asks one question of the filter, a block of rows at a time.

        Args:
          fold: a fold of `jattn.folds`, its name, or a function that takes a block of weights ``[..., R, S]`` and its
            `Grid` and returns a pytree of arrays ``[..., R, *rest]``.
          heads: as in `summarize`.

        Returns:
          Of a function, the pytree for all rows: arrays ``[*batch, N, T, *rest]``.

        Example: how far each query looks, on average.
          >>> import jax.numpy as jnp
          >>> from jattn import attention_filter, masks
          >>> zeros = jnp.zeros((3, 1, 4))
          >>> filter = attention_filter(zeros, zeros, mask=masks.causal())
          >>> filter.fold(lambda weights, grid: jnp.sum(weights * abs(grid.query - grid.key), axis=-1)).tolist()
          [[0.0, 0.5, 1.0]]
        """
        return self.summarize(heads=heads, fold=fold)["fold"]

    def summarize(self, *names: str, heads: Sequence[int] | None = None, **asked: Any) -> dict[str, Any]:
        """Asks several questions in one sweep over the filter, which costs little more than one of them.

        Args:
          *names: folds that need no arguments, by name: ``"entropy"``, ``"max"``, ``"received"`` and the others of
            `jattn.folds.FOLDS`.
          heads: of which heads; the others are not computed, and the axis ``N`` of results holds these alone. None for
            all.
          **asked: other folds, under names of your choice.

        Returns:
          The result of each fold by its name.

        Raises:
          ValueError, TypeError: if there is no such fold, or one does not fit the filter.

        Example:
          >>> import jax, jax.numpy as jnp
          >>> from jattn import attention_filter, folds
          >>> query, key = jax.random.normal(jax.random.key(0), (2, 1000, 8, 64))
          >>> filter = attention_filter(query, key)
          >>> seen = filter.summarize("entropy", "received", best=folds.top_k(3), map=folds.pool(10, 10))
          >>> seen["entropy"].shape, seen["received"].shape, seen["best"].keys.shape, seen["map"].shape
          ((8, 1000), (8, 1000), (8, 1000, 3), (8, 10, 10))
        """
        for name in names:
            if not isinstance(name, str):
                raise TypeError(f"summarize: expected names of folds, and other folds as name=fold, got {name!r}")
        if len({*names, *asked}) < len(names) + len(asked):
            raise ValueError(f"summarize: expected different names, got {[*names, *asked]}")
        wanted = {name: folds.as_fold(fold).fit(self.shape) for name, fold in ({n: n for n in names} | asked).items()}
        for fold in wanted.values():
            fold.check(self.program)
        streams, batch = self._streams(heads), self.shape[:-3]
        if streams is not None and 0 in self.shape[:-1]:
            found = compiled(self._sweep)(self, wanted)
            found = jax.tree.map(lambda x: jnp.take(x, np.asarray(heads, int), axis=len(batch)), found)
        else:
            found = compiled(self._sweep)(self, wanted, streams) if wanted else {}
            if heads is not None:
                found = jax.tree.map(lambda x: x.reshape(*batch, len(heads), *x.shape[1:]), found)
        return {name: found[name] for name in wanted}  # jit sorts names

    def _streams(self, heads: Sequence[int] | None) -> Int[np.ndarray, " M"] | None:
        if heads is None:
            return None
        *batch, num_heads, _, _ = self.shape
        heads = heads.tolist() if isinstance(heads, np.ndarray | jax.Array) else heads
        if not isinstance(heads, Sequence) or not all(
            isinstance(head, numbers.Integral) and not isinstance(head, bool) for head in heads
        ):
            raise TypeError(f"heads: expected a list of head indices, got {heads!r}")
        wrong = [head for head in heads if not -num_heads <= head < num_heads]
        if wrong:
            raise ValueError(f"heads: head index {wrong[0]} is out of range for {num_heads} heads")
        of_each = np.array([head % num_heads for head in heads], np.int32)
        return (np.arange(math.prod(batch), dtype=np.int32)[:, None] * num_heads + of_each).ravel()

    def _some_rows(self, name: str, indices: Any, keys: slice, scores: bool = False) -> Array:
        rows = _as_row_indices(name, indices, self.shape[-2])
        width = self.shape[-1] if keys == slice(None) else len(range(*keys.indices(self.shape[-1])))
        self._check_size(name, (*self.shape[:-2], rows.shape[0], width))
        return chosen_rows(self, None, rows, keys=keys, scores=scores)

    def _check_size(self, name: str, shape: tuple[int, ...]) -> None:
        size = math.prod(fixed_sizes(shape)) * np.dtype(self.dtype).itemsize / 1e9
        if size > self.limit_gb:
            raise ValueError(
                f"{name}: expected an array of at most {self.limit_gb:g} GB, got {shape} = {size:,.1f} GB; ask for "
                f"rows or a fold of the filter (pool, top_k, ...), or raise the limit: "
                f"filter.with_limit({math.ceil(size)})"
            )

    def _check_values(self, name: str, array: Any, length: int, heads: set[int]) -> None:
        batch = self.shape[:-3]
        if not hasattr(array, "dtype") or not jnp.issubdtype(array.dtype, jnp.floating):
            raise TypeError(f"{name}: expected a float array, got {getattr(array, 'dtype', type(array).__name__)}")
        if array.shape[:-2] != (*batch, length) or array.shape[-2] not in heads:
            several = " or ".join(map(str, sorted(heads)))
            axes = ", ".join(map(str, (*batch, length)))
            raise ValueError(f"{name}: expected shape [{axes}, {several} heads, V], got {array.shape}")


def _whole(weights: Float[Array, "... R S"], grid: Grid) -> Float[Array, "... R S"]:
    return weights


def _as_row_indices(name: str, indices: Any, num_rows: int) -> Int[Array, " R"]:
    try:
        array = jnp.asarray(None if isinstance(indices, str) else indices, jnp.int32 if np.size(indices) == 0 else None)
    except (TypeError, ValueError):
        raise TypeError(f"{name}: expected a list of query indices, got {indices!r}") from None
    if array.ndim != 1 or not jnp.issubdtype(array.dtype, jnp.integer):
        raise ValueError(f"{name}: expected a list of query indices, got shape {array.shape}, dtype {array.dtype}")
    if not isinstance(array, Tracer) and isinstance(num_rows, int):
        wrong = [int(i) for i in np.asarray(array) if not -num_rows <= i < num_rows]
        if wrong:
            raise ValueError(f"{name}: query index {wrong[0]} is out of range for {num_rows} queries")
    return jnp.where(array < 0, array + num_rows, array).astype(jnp.int32)
