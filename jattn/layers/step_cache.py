"""The cache of a layer that decodes as flax's attention does: three arrays, which the layer keeps among its variables.

`jattn.decode.cache.KVCache` is the freer one, to be handed from call to call.

Glossary of shapes: ``T`` new tokens, ``L`` tokens there is room for, ``N`` query heads, ``K`` key/value heads, ``H``
head dim.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jax.core import Tracer
from jaxtyping import Array, Bool, Float, Int

from jattn.rules.biases import Bias, BiasLike
from jattn.rules.grids import Grid
from jattn.rules.mask import Mask, MaskLike
from jattn.rules.masks import causal
from jattn.rules.rule import rule
from jattn.rules.trees import as_pytree


@as_pytree
@dataclasses.dataclass(frozen=True)
class DecodeCache:
    """The keys and values decoded so far, and how many they are.

    Args:
      key: ``cached_key``, ``[*batch, L, K, H]``.
      value: ``cached_value``, alike.
      index: ``cache_index``, the position of the next token.
    """

    key: Float[Array, "*batch L K H"]
    value: Float[Array, "*batch L K H"]
    index: Int[Array, ""]

    @classmethod
    def empty(cls, shape: tuple[int, ...], dtype: Any, value_shape: tuple[int, ...] | None = None) -> "DecodeCache":
        """Makes a cache that has seen nothing, of keys of such a shape; values have the same one by default."""
        value = jnp.zeros(shape if value_shape is None else value_shape, dtype)
        return cls(jnp.zeros(shape, dtype), value, jnp.array(0, jnp.int32))

    def append(
        self,
        query: Float[Array, "*batch T N H"],
        key: Float[Array, "*batch T K H"],
        value: Float[Array, "*batch T K H"],
    ) -> tuple["DecodeCache", Bool[Array, ""] | bool]:
        """Adds the next keys and values.

        Returns:
          The cache afterwards, and whether there was room for the new ones.

        Raises:
          ValueError: if shapes do not fit the cache, or the cache is known to be full.
        """
        start, kept, new = self.index, self.key.shape, key.shape
        tokens, length = query.shape[-3], kept[-3]
        if not (*kept[:-3], tokens, *kept[-2:]) == new == value.shape or query.shape[:-2] != new[:-2]:
            raise ValueError(
                f"decode: expected as many queries, keys and values, keys of shape {(*kept[:-3], tokens, *kept[-2:])} "
                f"to go into the cache {kept}, got queries {query.shape}, keys {new}, values {value.shape}"
            )
        known = not isinstance(start, Tracer)
        room = length - int(start) if known else length
        if tokens > room:
            raise ValueError(
                f"decode: expected at most {room} tokens, the room left in the cache, got {tokens}; the length given "
                "to init or init_cache is the room of the cache"
            )
        keys, values = (
            jax.lax.dynamic_update_slice_in_dim(array, more.astype(array.dtype), start, axis=-3)
            for array, more in ((self.key, key), (self.value, value))
        )
        return DecodeCache(keys, values, start + tokens), known or start + tokens <= length

    def mask(self, mask: MaskLike | None) -> Mask:
        """Makes the mask of the next queries: causal, and what `mask` allows.

        Args:
          mask: an object of `jattn.masks` is asked at the positions that the queries truly have; an array, also within
            an object, broadcasts to ``[*batch, N, T, L]`` and holds a row for each query of the call.
        """
        start = self.index
        if mask is None:
            return causal(start)
        return causal(start) & (_MaskFrom(mask, start) if isinstance(mask, Mask) else mask)

    def bias(self, bias: BiasLike | None) -> BiasLike | None:
        """Makes the bias of the next queries; objects and arrays mean what they mean for `mask`."""
        return _BiasFrom(bias, self.index) if isinstance(bias, Bias) else bias


@as_pytree
@dataclasses.dataclass(frozen=True)
class _LaterGrid(Grid):
    """A grid whose first query stands at position `start`; arrays are still cut by the rows of the call."""

    start: Int[Array, ""] = dataclasses.field(kw_only=True)

    @property
    def query(self) -> Int[Array, "R 1"]:
        return super().query + self.start


def _later(grid: Grid, start: Int[Array, ""]) -> Grid:
    if start.ndim:
        raise ValueError(
            "filter: stacked decoding layers differ in grid; take one: jax.tree.map(lambda x: x[0], filter)"
        )
    return _LaterGrid(**{field.name: getattr(grid, field.name) for field in dataclasses.fields(grid)}, start=start)


@rule()
class _MaskFrom(Mask):
    """A mask, for queries of which the first stands at position `start`."""

    mask: Mask
    start: Int[Array, ""]

    def __repr__(self) -> str:
        return repr(self.mask)

    def evaluate(self, grid: Grid) -> Bool[Array, "..."]:
        return self.mask.evaluate(_later(grid, self.start))


@rule()
class _BiasFrom(Bias):
    """A bias, for queries of which the first stands at position `start`."""

    bias: Bias
    start: Int[Array, ""]

    def __repr__(self) -> str:
        return repr(self.bias)

    def evaluate(self, grid: Grid) -> Float[Array, "..."]:
        return self.bias.evaluate(_later(grid, self.start))
