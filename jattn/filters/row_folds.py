"""Folds with a result for each query."""

import dataclasses
import numbers
from collections.abc import Callable
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, Int

from jattn.engine.rows import RowProgram
from jattn.filters.blocks import FilterBlock, Fold
from jattn.filters.largest import largest
from jattn.rules.checks import check_integer
from jattn.rules.functions import place_of
from jattn.rules.grids import Grid, static
from jattn.rules.mask import MaskLike, as_keys, as_mask
from jattn.rules.trees import as_pytree


class TopK(NamedTuple):
    """The largest weights of each row in descending order, and the indices of their keys.

    Attributes:
      weights: ``[*batch, N, T, k]``.
      keys: int32, alike; -1 where there are fewer keys with any weight.
    """

    weights: Float[Array, "*batch N T k"]
    keys: Int[Array, "*batch N T k"]


@as_pytree
@dataclasses.dataclass(frozen=True, repr=False)
class LogNormalizer(Fold[Float[Array, "*batch N T"]]):
    """Asks by what each row was divided: ``ln Σⱼ exp(sᵢⱼ)``, with the sink's score if there is one.

    A natural logarithm, float32 or wider; minus infinity for a row without keys. Only a softmax has it, and an edit or
    dropout, which come after it, do not change it.
    """

    def check(self, program: RowProgram) -> None:
        if not program.normalizer.is_softmax:
            got = type(program.normalizer).__name__.strip("_")
            raise ValueError(f"log_normalizer: expected a filter that is normalized by a softmax, got {got}")

    def evaluate(self, block: FilterBlock) -> Array:
        most, _, total = block.exponentials
        empty = total == 0
        lse = jnp.where(empty, -jnp.inf, most + jnp.log(jnp.where(empty, 1, total)))
        sink = block.program.normalizer.sink_score(block.grid, most.dtype)
        return block.tainted(lse if sink is None else jnp.logaddexp(lse, sink))[..., 0]


@as_pytree
@dataclasses.dataclass(frozen=True, repr=False)
class MaxScore(Fold[Float[Array, "*batch N T"]]):
    """Asks for each row's largest score, bias added; minus infinity for a row without keys.

    Where it grows without bound, training is about to fail; see Dehghani et al. 2023, "Scaling vision transformers to
    22 billion parameters", section 2.
    """

    def evaluate(self, block: FilterBlock) -> Array:
        return block.tainted(jnp.max(block.scores, axis=-1, keepdims=True, initial=-jnp.inf))[..., 0]


@as_pytree
@dataclasses.dataclass(frozen=True, repr=False)
class Entropy(Fold[Float[Array, "*batch N T"]]):
    """Asks for each row's entropy, ``-Σⱼ wᵢⱼ ln wᵢⱼ``, in nats: 0 looks at one key, ``ln n`` at ``n`` keys alike.

    A row whose weights do not sum to one is divided by its sum first; a row that may attend to nothing gets 0.

    Source: for a softmax, ``H = ln Σⱼ exp(sᵢⱼ) - Σⱼ wᵢⱼ sᵢⱼ``, the scores taken from the largest one.
    """

    def evaluate(self, block: FilterBlock) -> Array:
        if block.program.is_plain_softmax:
            # A sink takes the same share of every weight, so that the shares among the keys do not know of it.
            most, exponentials, total = block.exponentials
            # So far below the largest, or at minus infinity, an exponential is zero. A select would be another pass.
            below = jnp.maximum(block.scores - most, 2 * np.log(jnp.finfo(most.dtype).tiny))
            total = jnp.where(total == 0, 1, total)
            return block.tainted(jnp.log(total) - jnp.sum(exponentials * below, axis=-1, keepdims=True) / total)[..., 0]
        total = block.row_sums[..., None]
        shares = block.weights / jnp.where(total == 0, 1, total)
        return -jnp.sum(shares * jnp.log(jnp.where(shares > 0, shares, 1)), axis=-1)


@as_pytree
@dataclasses.dataclass(frozen=True, repr=False)
class EffectiveKeys(Fold[Float[Array, "*batch N T"]]):
    """Asks how many keys each query looks at, in effect: ``exp(entropy)``, and 0 where it may attend to nothing."""

    def evaluate(self, block: FilterBlock) -> Array:
        return jnp.where(block.max == 0, 0, jnp.exp(Entropy().evaluate(block)))


@as_pytree
@dataclasses.dataclass(frozen=True, repr=False)
class Max(Fold[Float[Array, "*batch N T"]]):
    """Asks for each row's largest weight; 0 where a query may attend to nothing."""

    def evaluate(self, block: FilterBlock) -> Array:
        return block.max


@as_pytree
@dataclasses.dataclass(frozen=True, repr=False)
class ArgMax(Fold[Int[Array, "*batch N T"]]):
    """Asks which key each query attends to most; the first of equals, 0 where it may attend to nothing."""

    def evaluate(self, block: FilterBlock) -> Array:
        if block.grid.width == 0:
            return jnp.zeros(block.weights.shape[:-1], jnp.int32)
        found = _largest_of(block, 1)
        return jnp.maximum(found.keys[..., 0], 0)


@as_pytree
@dataclasses.dataclass(frozen=True, repr=False)
class TopKOf(Fold[TopK]):
    """Asks for the `k` largest weights of each row and their keys, a `TopK`; of equals the first.

    Where fewer keys have any weight, the rest of the row is weight 0 and key -1.
    """

    k: int = static()

    def __post_init__(self) -> None:
        check_integer("k", self.k, 1)

    def fit(self, shape: tuple[int, ...]) -> Fold:
        if self.k > shape[-1]:
            raise ValueError(f"top_k: expected k to be at most the {shape[-1]} keys of the filter, got {self.k}")
        return self

    def evaluate(self, block: FilterBlock) -> TopK:
        return _largest_of(block, self.k)


def _largest_of(block: FilterBlock, k: int) -> TopK:
    # The exponentials of a softmax are in the order of its weights, and at hand.
    ordered = block.exponentials[1] if block.program.is_plain_softmax else block.weights
    found, index = largest(lax.stop_gradient(ordered), k)
    index = jnp.minimum(index, block.grid.width - 1)
    weights = block.taken(index)
    weights = jnp.where(found == -jnp.inf, 0, weights)
    keys = jnp.where((weights == 0) | jnp.isnan(weights), -1, block.grid.first_key + index)
    return TopK(weights, keys.astype(jnp.int32))


@as_pytree
@dataclasses.dataclass(frozen=True, repr=False)
class ExpectedDistance(Fold[Float[Array, "*batch N T"]]):
    """Asks how far each query looks on average, ``Σⱼ wᵢⱼ |i + offset - j| / Σⱼ wᵢⱼ``, in positions.

    Args:
      offset: the position of the first query, where it is not that of the first key.
    """

    offset: int = static(default=0)

    def __post_init__(self) -> None:
        if not isinstance(self.offset, numbers.Integral) or isinstance(self.offset, bool):
            raise TypeError(f"offset: expected an int, got {self.offset!r}")

    def evaluate(self, block: FilterBlock) -> Array:
        distance = jnp.abs(block.grid.query + self.offset - block.grid.key).astype(block.weights.dtype)
        total = block.row_sums
        return jnp.sum(block.weights * distance, axis=-1) / jnp.where(total == 0, 1, total)


@as_pytree
@dataclasses.dataclass(frozen=True, repr=False)
class Mass(Fold[Float[Array, "*batch N T"]]):
    """Asks how much of each row's weight lies on a set of keys, ``Σⱼ wᵢⱼ [j in the set]``.

    Args:
      keys: True = in the set; a mask object, or an array that broadcasts to ``[*batch, N, T, S]`` (an oracle
        ``[*batch, T, S]`` needs an axis for heads: ``oracle[..., None, :, :]``).
    """

    keys: MaskLike

    def __post_init__(self) -> None:
        object.__setattr__(self, "keys", as_keys("mass: keys", "booleans (True = in the set)", self.keys))

    def fit(self, shape: tuple[int, ...]) -> Fold:
        try:
            return Mass(as_mask(self.keys).fit(shape))
        except ValueError as error:
            text = str(error).replace("mask:", "mass: keys:", 1)
            raise ValueError(f"{text}; a set that is the same for all heads has an axis of size 1 for them") from None

    def evaluate(self, block: FilterBlock) -> Array:
        return jnp.sum(jnp.where(as_mask(self.keys).evaluate(block.grid), block.weights, 0), axis=-1)


@as_pytree
@dataclasses.dataclass(frozen=True, repr=False)
class SinkMass(Fold[Float[Array, "*batch N T"]]):
    """Asks how much of each row's weight lies on the first `num_keys` keys.

    What the sink of `normalizers.softmax_plus_one` takes is not in it: that is what a row lacks to one.

    Source: Xiao et al. 2023, "Efficient streaming language models with attention sinks", section 3.1.
    """

    num_keys: int = static(default=1)

    def __post_init__(self) -> None:
        check_integer("num_keys", self.num_keys, 1)

    def fit(self, shape: tuple[int, ...]) -> Fold:
        if self.num_keys > shape[-1]:
            raise ValueError(f"sink_mass: expected at most the {shape[-1]} keys of the filter, got {self.num_keys}")
        return self

    def evaluate(self, block: FilterBlock) -> Array:
        if block.grid.width == block.grid.shape[-1]:
            return jnp.sum(block.weights[..., : self.num_keys], axis=-1)
        return jnp.sum(jnp.where(block.grid.key < self.num_keys, block.weights, 0), axis=-1)


@as_pytree
@dataclasses.dataclass(frozen=True, repr=False)
class PerRow(Fold[Any]):
    """Asks what a function of a block of weights returns for each row; see `jattn.folds.from_function`."""

    name: ClassVar[str] = "from_function"

    function: Callable[[Array, Grid], Any] = static()
    whole_rows: bool = static()

    def evaluate(self, block: FilterBlock) -> Any:
        rows, result = block.weights.shape[:-1], self.function(block.weights, block.grid)
        for array in jax.tree.leaves(result):
            if jnp.shape(array)[: len(rows)] != rows:
                raise ValueError(
                    f"fold: the function must return arrays that begin with the rows {rows} of the block of weights "
                    f"{block.weights.shape}, got {jnp.shape(array)}; one result for all rows needs `combine`"
                    f"{place_of(self.function)}"
                )
        return result
