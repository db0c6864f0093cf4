"""Scores: how well a query and a key match, before the normalizer.

A score maps a block of queries ``[..., R, H]`` and all keys ``[..., S, H]`` of the same head to ``[..., R, S]``. It
accumulates in float32 or wider whatever the inputs.
"""

import abc
import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jattn.checks import fit_array
from jattn.grids import Grid
from jattn.masks import static

ScoreLike = Any
"""A `Score`, or any function of (query block ``[..., R, H]``, key ``[..., S, H]``) that returns ``[..., R, S]``."""


class Score(abc.ABC):
    """Scores a block of queries against all keys. Subclasses are frozen dataclasses registered as pytrees."""

    @abc.abstractmethod
    def evaluate(
        self, query: Float[Array, "... R H"], key: Float[Array, "... S H"], grid: Grid, precision: Any
    ) -> Float[Array, "... R S"]:
        """Computes the scores of one block."""

    def fit(self, shape: tuple[int, ...]) -> "Score":
        """Returns the score with its arrays fit to a filter of shape ``(*batch, N, T, S)``; see `checks.fit_array`."""
        return self


def scaled_dot(scale: float | Float[Array, "..."] | None = None) -> Score:
    """Scores by the scaled dot product: ``scoreᵢⱼ = scale · qᵢ·kⱼ``.

    Args:
      scale: a number, or an array that broadcasts to ``[*batch, N, T, S]`` (one per head: ``[N, 1, 1]``). The default
        is ``1/√H``, which keeps the variance of the scores at one for unit-variance queries and keys.

    Example:
      >>> import jax.numpy as jnp
      >>> from jattn import attention_filter, scores
      >>> query, key = jnp.array([[[2.0, 0.0]]]), jnp.array([[[1.0, 0.0]], [[0.0, 1.0]]])
      >>> attention_filter(query, key, score=scores.scaled_dot(1.0)).scores().tolist()
      [[[2.0, 0.0]]]

    Source: Vaswani et al. 2017, "Attention is all you need", section 3.2.1.
    """
    return _ScaledDot(None if scale is None else _as_parameter("scaled_dot: scale", scale))


def cosine(temperature: float | Float[Array, "..."] = 0.1) -> Score:
    """Scores by the angle alone: ``scoreᵢⱼ = (qᵢ·kⱼ) / (|qᵢ| |kⱼ| temperature)``.

    Cosines lie in -1..1, so without a temperature well below one a softmax over many keys could never become sharp.
    A zero vector has cosine zero with everything, and a finite gradient.

    Args:
      temperature: a positive number, or an array that broadcasts to ``[*batch, N, T, S]``.

    Example:
      >>> import jax.numpy as jnp
      >>> from jattn import attention_filter, scores
      >>> query, key = jnp.array([[[3.0, 0.0]]]), jnp.array([[[5.0, 0.0]], [[0.0, 1.0]], [[-2.0, 0.0]]])
      >>> attention_filter(query, key, score=scores.cosine(1.0)).scores().tolist()
      [[[1.0, 0.0, -1.0]]]

    Source: Luo et al. 2018, "Cosine normalization"; Liu et al. 2022, "Swin transformer V2", section 3.2.
    """
    if isinstance(temperature, int | float) and not temperature > 0:
        raise ValueError(f"cosine: temperature must be positive, got {temperature}")
    return _Cosine(_as_parameter("cosine: temperature", temperature))


def as_score(score: ScoreLike) -> Score:
    """Returns a `Score` for a score object or a function of (query block, key); refuses anything else."""
    if isinstance(score, Score):
        return score
    if not callable(score):
        raise TypeError(f"score: expected a jattn score or a function of (query, key), got {type(score).__name__}")
    return _FromFunction(score)


def dot(query: Float[Array, "... R H"], key: Float[Array, "... S H"], precision: Any = None) -> Float[Array, "... R S"]:
    """Multiplies each query with each key, ``q kᵀ``, accumulating in float32 or wider."""
    accumulator = jnp.promote_types(jnp.result_type(query, key), jnp.float32)
    return jnp.einsum("...rh,...sh->...rs", query, key, precision=precision, preferred_element_type=accumulator)


def _as_parameter(name: str, value: Any) -> "_Parameter":
    if isinstance(value, int | float) and not isinstance(value, bool):
        return _Parameter(None, name, float(value))
    expected = f"{name} must be a real number or a float array"
    if not hasattr(value, "dtype"):
        raise TypeError(f"{expected}, got {type(value).__name__}")
    array = jnp.asarray(value)
    if not jnp.issubdtype(array.dtype, jnp.floating):
        raise TypeError(f"{expected}, got dtype {array.dtype}")
    return _Parameter(array, name, None)


def _unit(x: Float[Array, "... H"]) -> Float[Array, "... H"]:
    x = x.astype(jnp.promote_types(x.dtype, jnp.float32))
    squared = jnp.sum(x * x, axis=-1, keepdims=True)
    return x * jax.lax.rsqrt(jnp.where(squared > jnp.finfo(x.dtype).tiny, squared, 1))


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class _Parameter:
    """A number, which is part of a pytree's structure, or an array, which is a leaf and may be learned."""

    array: Float[Array, "..."] | None
    name: str = static()
    number: float | None = static()

    def part(self, grid: Grid, dtype: Any) -> Array:
        return jnp.asarray(self.number if self.array is None else grid.part(self.array), dtype)

    def fit(self, shape: tuple[int, ...]) -> "_Parameter":
        return self if self.array is None else dataclasses.replace(self, array=fit_array(self.name, self.array, shape))


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class _ScaledDot(Score):
    scale: _Parameter | None

    def evaluate(self, query: Array, key: Array, grid: Grid, precision: Any) -> Array:
        products = dot(query, key, precision)
        if self.scale is None:
            return products * jnp.asarray(1 / np.sqrt(max(1, query.shape[-1])), products.dtype)
        return products * self.scale.part(grid, products.dtype)

    def fit(self, shape: tuple[int, ...]) -> Score:
        return self if self.scale is None else _ScaledDot(self.scale.fit(shape))


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class _Cosine(Score):
    temperature: _Parameter

    def evaluate(self, query: Array, key: Array, grid: Grid, precision: Any) -> Array:
        cosines = dot(_unit(query), _unit(key), precision)
        return cosines / self.temperature.part(grid, cosines.dtype)

    def fit(self, shape: tuple[int, ...]) -> Score:
        return _Cosine(self.temperature.fit(shape))


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class _FromFunction(Score):
    function: Callable[..., Any] = static()

    def evaluate(self, query: Array, key: Array, grid: Grid, precision: Any) -> Array:
        scores = jnp.asarray(self.function(query, key))
        expected = (*query.shape[:-1], key.shape[-2])
        if scores.shape != expected:
            raise ValueError(
                f"score: the function got query {query.shape} and key {key.shape} and must return shape {expected}, "
                f"got {scores.shape}"
            )
        return scores.astype(jnp.promote_types(scores.dtype, jnp.float32))
