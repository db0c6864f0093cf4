"""Scores: how well a query and a key match, before the normalizer.

A score maps a block of queries ``[..., R, H]`` and the keys ``[..., S, H]`` of the same head to ``[..., R, S]``. It
compares pairs only: what a query and a key score depends on no other query or key. It accumulates in float32 or wider
whatever the inputs.
"""

import abc
import math
from collections.abc import Callable
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float

from jattn.rules.grids import Grid, static
from jattn.rules.parameters import HeadParameter, Parameter, as_head_parameter, as_parameter
from jattn.rules.products import dot
from jattn.rules.rule import Rule, called, rule, write

ScoreLike = Any
"""A `Score`, or any function of (query block ``[..., R, H]``, key ``[..., S, H]``) that returns ``[..., R, S]``.

A function must compare pairs only, for it may be given some of the queries and some of the keys: those that the mask
forbids to every query of a block may be left out.
"""


class Score(Rule):
    """Scores a block of queries against keys, pair by pair. Subclasses are frozen dataclasses registered as pytrees."""

    takes_groups: ClassVar[bool] = False
    """Whether keys may have fewer heads than queries, as `products.dot` takes them; otherwise they are repeated."""

    shows_what_is_broken: ClassVar[bool] = False
    """Whether the score of a query or key with NaN or inf in it is never finite."""

    @abc.abstractmethod
    def evaluate(
        self, query: Float[Array, "... R H"], key: Float[Array, "... S H"], grid: Grid, precision: Any
    ) -> Float[Array, "... R S"]:
        """Computes the scores of one block."""


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
    return ScaledDot(None if scale is None else as_parameter("scaled_dot: scale", scale))


def cosine(temperature: float | Float[Array, "..."] = 0.1) -> Score:
    """Scores by the angle alone: ``scoreᵢⱼ = (qᵢ·kⱼ) / (|qᵢ| |kⱼ| temperature)``.

    Cosines lie in -1..1, so without a temperature well below one a softmax over many keys could never become sharp.
    A zero vector has cosine zero with everything, and a finite gradient.

    Args:
      temperature: a positive number, or an array that broadcasts to ``[*batch, N, T, S]``.

    Example:
      >>> import jax.numpy as jnp, numpy as np
      >>> from jattn import attention_filter, scores
      >>> query, key = jnp.array([[[3.0, 0.0]]]), jnp.array([[[5.0, 0.0]], [[0.0, 1.0]], [[-2.0, 0.0]]])
      >>> print(np.asarray(attention_filter(query, key, score=scores.cosine(1.0)).scores()[0]).round(3))
      [[ 1.  0. -1.]]

    Source: Luo et al. 2018, "Cosine normalization"; Liu et al. 2022, "Swin transformer V2", section 3.2.
    """
    if isinstance(temperature, int | float) and not temperature > 0:
        raise ValueError(f"cosine: temperature must be positive, got {temperature}")
    return Cosine(as_parameter("cosine: temperature", temperature))


def negative_squared_distance(scale: float | Float[Array, "..."] = 1.0) -> Score:
    """Scores by nearness: ``scoreᵢⱼ = -scale · |qᵢ - kⱼ|²``.

    It is computed as ``scale · (2 qᵢ·kⱼ - |qᵢ|² - |kⱼ|²)`` in float32 or wider, and in full float32 unless a precision
    is given. The three terms cancel: the error is about ``10⁻⁷ · scale · (|qᵢ|² + |kⱼ|²)``, so that near vectors far
    from the origin lose their distance, and equal ones may score a little above zero. Subtract from queries and keys a
    point in their midst if that matters.

    Args:
      scale: a number, or an array that broadcasts to ``[*batch, N, T, S]`` (one per head: ``[N, 1, 1]``). With
        ``1/(2σ²)`` the softmax averages the values with Gaussian kernels of width ``σ``.

    Example:
      >>> import jax.numpy as jnp
      >>> from jattn import attention_filter, scores
      >>> query, key = jnp.array([[[1.0, 0.0]]]), jnp.array([[[1.0, 0.0]], [[1.0, 2.0]], [[4.0, 0.0]]])
      >>> attention_filter(query, key, score=scores.negative_squared_distance()).scores().tolist()
      [[[0.0, -4.0, -9.0]]]

    Source: Nadaraya 1964, "On estimating regression", with a Gaussian kernel.
    """
    return NegativeSquaredDistance(as_parameter("negative_squared_distance: scale", scale))


def bilinear(matrix: Float[Array, "*heads H H"]) -> Score:
    """Scores by a learned product: ``scoreᵢⱼ = qᵢᵀ M kⱼ``.

    Args:
      matrix: ``[H, H]``, shared by all heads, or ``[N, H, H]``, one per head.

    Example:
      >>> import jax.numpy as jnp
      >>> from jattn import attention_filter, scores
      >>> query, key = jnp.array([[[1.0, 2.0]]]), jnp.array([[[3.0, 0.0]], [[0.0, 4.0]]])
      >>> swap = jnp.array([[0.0, 1.0], [1.0, 0.0]])
      >>> attention_filter(query, key, score=scores.bilinear(swap)).scores().tolist()
      [[[6.0, 4.0]]]

    Source: Luong et al. 2015, "Effective approaches to attention-based neural machine translation", section 3.1
    ("general").
    """
    parameter = as_head_parameter("bilinear: matrix", matrix, "H", "H")
    if parameter.array.shape[-1] != parameter.array.shape[-2]:
        raise ValueError(f"bilinear: matrix: expected shape [H, H] or [N, H, H], got {parameter.array.shape}")
    return Bilinear(parameter)


def additive(
    query_kernel: Float[Array, "*heads H D"], key_kernel: Float[Array, "*heads H D"], vector: Float[Array, "*heads D"]
) -> Score:
    """Scores by a small network: ``scoreᵢⱼ = vᵀ tanh(W_qᵀ qᵢ + W_kᵀ kⱼ)``.

    Its hidden units are added up one after the other, so that the memory is that of the scores, not ``D`` times that;
    the time grows with ``D`` hyperbolic tangents per score.

    Args:
      query_kernel: ``W_q``, ``[H, D]`` shared by all heads, or ``[N, H, D]``, one per head.
      key_kernel: ``W_k``, likewise.
      vector: ``v``, ``[D]`` or ``[N, D]``.

    Example:
      >>> import jax.numpy as jnp
      >>> from jattn import attention_filter, scores
      >>> query, key = jnp.array([[[0.0, 0.0]]]), jnp.array([[[0.0, 0.0]], [[99.0, 0.0]], [[0.0, -99.0]]])
      >>> score = scores.additive(jnp.eye(2), jnp.eye(2), jnp.array([10.0, 1.0]))
      >>> attention_filter(query, key, score=score).scores().tolist()
      [[[0.0, 10.0, -1.0]]]

    Source: Bahdanau et al. 2015, "Neural machine translation by jointly learning to align and translate", section
    A.1.2.
    """
    parameters = (
        as_head_parameter("additive: query_kernel", query_kernel, "H", "D"),
        as_head_parameter("additive: key_kernel", key_kernel, "H", "D"),
        as_head_parameter("additive: vector", vector, "D"),
    )
    hidden = parameters[0].array.shape[-1]
    for parameter in parameters[1:]:
        if parameter.array.shape[-1] != hidden:
            raise ValueError(
                f"{parameter.name}: expected the {hidden} hidden units of query_kernel, got {parameter.array.shape[-1]}"
            )
    return Additive(*parameters)


def soft_cap(score: ScoreLike, cap: float | Float[Array, "..."]) -> Score:
    """Bounds another score smoothly: ``cap · tanh(scoreᵢⱼ / cap)``.

    Scores well below the cap stay as they are. Minus infinity, which forbids a key, stays too. A bias is added after
    the cap.

    Args:
      score: what is bounded; an object of this module, or a function.
      cap: a positive number, or an array that broadcasts to ``[*batch, N, T, S]``. Gemma 2 takes 50.

    Example:
      >>> import jax.numpy as jnp, numpy as np
      >>> from jattn import attention_filter, scores
      >>> query, key = jnp.array([[[1.0]]]), jnp.array([[[5.0]], [[50.0]], [[-1e4]]])
      >>> capped = scores.soft_cap(scores.scaled_dot(), 50.0)
      >>> print(np.asarray(attention_filter(query, key, score=capped).scores()[0]).round(1))
      [[  5.   38.1 -50. ]]

    Source: Gemma Team 2024, "Gemma 2: improving open language models at a practical size", section 2.
    """
    if isinstance(cap, int | float) and not cap > 0:
        raise ValueError(f"soft_cap: cap must be positive, got {cap}")
    return SoftCap(as_score(score), as_parameter("soft_cap: cap", cap))


def as_score(score: ScoreLike) -> Score:
    """Returns a `Score` for a score object or a function of (query block, key); refuses anything else."""
    if isinstance(score, Score):
        return score
    if not callable(score):
        raise TypeError(f"score: expected a jattn score or a function of (query, key), got {called(score)}")
    return FromFunction(score)


def _wide(x: Array) -> Array:
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))


def _squared_length(x: Float[Array, "... L H"]) -> Float[Array, "... L"]:
    x = _wide(x)
    return jnp.sum(x * x, axis=-1)  # x ** 2 has the derivative 2x, which may overflow


def _finite(x: Float[Array, "... L D"]) -> tuple[Float[Array, "... L D"], Bool[Array, "... L"]]:
    fine = jnp.isfinite(x)
    return jnp.where(fine, x, 0), ~jnp.all(fine, axis=-1)


def _unit(x: Float[Array, "... H"]) -> Float[Array, "... H"]:
    x = _wide(x)
    # Of a vector that is divided by its largest component no square is too large or too small. The direction does not
    # depend on that number, so neither does its gradient. In two steps, because 1/largest may be too small itself.
    largest = lax.stop_gradient(jnp.max(jnp.abs(x), axis=-1, keepdims=True, initial=0))
    root = lax.rsqrt(jnp.where(largest >= jnp.finfo(x.dtype).tiny, largest, 1))
    x = x * root * root
    squared = jnp.sum(x * x, axis=-1, keepdims=True)
    return x * lax.rsqrt(jnp.where(squared > 0, squared, 1))


def _times(scores: Float[Array, "... R S"], factor: Parameter, grid: Grid) -> Float[Array, "... R S"]:
    """Multiplies scores; those at forbidden keys may be infinite without making the factor's gradient NaN."""
    number = factor.part(grid, scores.dtype)
    if factor.array is None:
        return scores * number
    fine = jnp.isfinite(scores)
    return jnp.where(fine, jnp.where(fine, scores, 0) * number, scores * lax.stop_gradient(number))


def _project(x: Float[Array, "... L H"], kernel: HeadParameter, grid: Grid, precision: Any) -> Float[Array, "... L D"]:
    """Multiplies vectors with a matrix per head, ``x W``, accumulating in float32 or wider."""
    matrix = kernel.part(grid)
    if matrix.shape[-2] != x.shape[-1]:
        raise ValueError(
            f"{kernel.name}: expected {x.shape[-1]} rows, one for each component of a vector, got {matrix.shape[-2]}"
        )
    accumulator = jnp.promote_types(jnp.result_type(x, matrix), jnp.float32)
    return jnp.matmul(x, matrix, precision=precision, preferred_element_type=accumulator)


@rule(scaled_dot)
class ScaledDot(Score):
    scale: Parameter | None
    takes_groups = True
    shows_what_is_broken = True

    def evaluate(self, query: Array, key: Array, grid: Grid, precision: Any) -> Array:
        scale = 1 / math.sqrt(max(1, query.shape[-1])) if self.scale is None else self.scale.number
        if scale is not None and (query.dtype.itemsize >= 4 or math.frexp(scale)[0] == 0.5):
            # Queries are fewer than products. In half precision only a power of two would leave them exact.
            return dot(query * jnp.asarray(scale, query.dtype), key, precision)
        products = dot(query, key, precision)
        return products * scale if self.scale is None else _times(products, self.scale, grid)


@rule(cosine)
class Cosine(Score):
    temperature: Parameter
    takes_groups = True
    shows_what_is_broken = True

    def evaluate(self, query: Array, key: Array, grid: Grid, precision: Any) -> Array:
        cosines = dot(_unit(query), _unit(key), precision)
        return cosines / self.temperature.part(grid, cosines.dtype)


@rule(negative_squared_distance)
class NegativeSquaredDistance(Score):
    scale: Parameter

    def evaluate(self, query: Array, key: Array, grid: Grid, precision: Any) -> Array:
        products = dot(query, key, lax.Precision.HIGHEST if precision is None else precision)
        of_query, of_key = _squared_length(query), _squared_length(key)
        nearness = 2 * products - of_query[..., :, None] - of_key[..., None, :]
        return _times(nearness, self.scale, grid)


@rule(bilinear)
class Bilinear(Score):
    matrix: HeadParameter
    takes_groups = True
    shows_what_is_broken = True

    def evaluate(self, query: Array, key: Array, grid: Grid, precision: Any) -> Array:
        return dot(_project(query, self.matrix, grid, precision), key, precision)


@rule(additive)
class Additive(Score):
    query_kernel: HeadParameter
    key_kernel: HeadParameter
    vector: HeadParameter

    def evaluate(self, query: Array, key: Array, grid: Grid, precision: Any) -> Array:
        of_query = _project(query, self.query_kernel, grid, precision)
        of_key = _project(key, self.key_kernel, grid, precision)
        vector = self.vector.part(grid)
        dtype = jnp.result_type(of_query, of_key, vector)

        # Under checkpoint the backward pass keeps no array of scores for each hidden unit.
        @jax.checkpoint
        def unit(of_query: Array, of_key: Array, size: Array) -> Array:
            return size[..., None, None] * jnp.tanh(of_query[..., :, None] + of_key[..., None, :])

        def add_unit(total: Array, inputs: tuple[Array, ...]) -> tuple[Array, None]:
            return total + unit(*inputs), None

        # Of a forbidden key even a projection that overflows must leave no trace in the gradient.
        (of_query, broken_query), (of_key, broken_key) = _finite(of_query), _finite(of_key)
        units = tuple(jnp.moveaxis(x.astype(dtype), -1, 0) for x in (of_query, of_key, vector))
        total = lax.scan(add_unit, jnp.zeros((*of_query.shape[:-1], key.shape[-2]), dtype), units)[0]
        return jnp.where(broken_query[..., :, None] | broken_key[..., None, :], jnp.nan, total)


@rule(soft_cap)
class SoftCap(Score):
    score: Score
    cap: Parameter

    def evaluate(self, query: Array, key: Array, grid: Grid, precision: Any) -> Array:
        scores = self.score.evaluate(query, key, grid, precision)
        cap = self.cap.part(grid, scores.dtype)
        # Selected before and after, so that a non-finite value at a forbidden key does not reach the gradient.
        fine = jnp.isfinite(scores)
        capped = cap * jnp.tanh(jnp.where(fine, scores, 0) / cap)
        return jnp.where(fine, capped, jnp.minimum(scores, cap))


@rule()
class FromFunction(Score):
    function: Callable[..., Any] = static()

    def __repr__(self) -> str:
        return write(self.function)

    def evaluate(self, query: Array, key: Array, grid: Grid, precision: Any) -> Array:
        scores = jnp.asarray(self.function(query, key))
        expected = (*query.shape[:-1], key.shape[-2])
        if scores.shape != expected:
            raise ValueError(
                f"score: the function got query {query.shape} and key {key.shape} and must return shape {expected}, "
                f"got {scores.shape}"
            )
        return scores.astype(jnp.promote_types(scores.dtype, jnp.float32))
