"""Scores: how well a query and a key match, before the normalizer.

A score maps a block of queries ``[..., R, H]`` and the keys ``[..., S, H]`` of the same head to ``[..., R, S]``. It
compares pairs only: what a query and a key score depends on no other query or key. It accumulates in float32 or wider
whatever the inputs.
"""

import abc
import math
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from jattn.rules.functions import as_floats, check_takes, count_indices
from jattn.rules.grids import Grid, static
from jattn.rules.learned import Learned, learned_additive, learned_bilinear
from jattn.rules.meshes import varying_as
from jattn.rules.parameters import HeadParameter, Parameter, as_head_parameter, as_parameter
from jattn.rules.products import dot
from jattn.rules.rule import Rule, rule, write
from jattn.rules.vectors import finite, nan_if_broken, nearness, shrink, unit, wide


class Score(Rule):
    """Scores a block of queries against keys, pair by pair. Subclasses are frozen dataclasses registered as pytrees."""

    wing = "scores"

    takes_groups: ClassVar[bool] = False
    """Whether keys may have fewer heads than queries, as `products.dot` takes them; otherwise they are repeated."""

    is_bilinear: ClassVar[bool] = False
    """Whether a query or key of twice the size has twice the score."""

    shows_nonfinite: ClassVar[bool] = False
    """Whether the score of a query or key with NaN or inf in it is never finite."""

    @abc.abstractmethod
    def evaluate(
        self, query: Float[Array, "... R H"], key: Float[Array, "... S H"], grid: Grid, precision: Any
    ) -> Float[Array, "... R S"]:
        """Computes the scores of one block."""


ScoreLike = Score | Callable[[Array, Array], Any]
"""A `Score`, or any function of (query block ``[..., R, H]``, key ``[..., S, H]``) that returns ``[..., R, S]``.

A function must compare pairs only, for it may be given some of the queries and some of the keys: those that the mask
forbids to every query of a block may be left out.
"""


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

    Differences come before squares, in float32 or wider, so near vectors far from the origin keep their distance. A
    distance that is too large for the dtype counts as the largest there is.

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


def bilinear(matrix: Float[Array, "*heads H H"] | None = None) -> Score:
    """Scores by a learned product: ``scoreᵢⱼ = qᵢᵀ M kⱼ``.

    Args:
      matrix: ``[H, H]``, shared by all heads, or ``[N, H, H]``, one per head. None leaves it to the attention layer:
        the parameter ``bilinear_matrix`` ``[N, H, H]``, at first ``I/√H``, by which it is the scaled dot product.

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
    if matrix is None:
        return Bilinear(learned_bilinear())
    parameter = as_head_parameter("bilinear: matrix", matrix, "H", "H")
    if parameter.array.shape[-1] != parameter.array.shape[-2]:
        raise ValueError(f"bilinear: matrix: expected shape [H, H] or [N, H, H], got {parameter.array.shape}")
    return Bilinear(parameter)


def additive(
    query_kernel: Float[Array, "*heads H D"] | None = None,
    key_kernel: Float[Array, "*heads H D"] | None = None,
    vector: Float[Array, "*heads D"] | None = None,
    *,
    units: int | None = None,
) -> Score:
    """Scores by a small network: ``scoreᵢⱼ = vᵀ tanh(W_qᵀ qᵢ + W_kᵀ kⱼ)``.

    Its hidden units are added up one after the other, so that the memory is that of the scores, not ``D`` times that;
    the time grows with ``D`` hyperbolic tangents per score.

    Args:
      query_kernel: ``W_q``, ``[H, D]`` shared by all heads, or ``[N, H, D]``, one per head.
      key_kernel: ``W_k``, likewise.
      vector: ``v``, ``[D]`` or ``[N, D]``.
      units: ``D``, where all three are None, which leaves them to the attention layer: parameters ``additive_*``, one
        of each per head. The head dim by default.

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
    if query_kernel is None and key_kernel is None and vector is None:
        return Additive(*learned_additive(units))
    if units is not None:
        raise ValueError(f"additive: units: expected None with arrays, which have their own, got {units}")
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


def modified(score: ScoreLike, function: Callable[..., Float[Array, "..."]]) -> Score:
    """Changes another score by a function that knows where each pair stands.

    It is FlexAttention's ``score_mod``. Where a function of indices alone is enough, a bias is added to any score.

    Args:
      score: the score that is changed.
      function: takes ``(score, query, key)``, ``(score, head, query, key)`` or ``(score, batch, head, query, key)``, as
        many as it has parameters without a default: the scores of a block ``[..., R, S]`` and integer arrays that
        broadcast to it. Returns new scores of the same shape.

    Example: pairs of the same parity match twice as well.
      >>> import jax.numpy as jnp
      >>> from jattn import attention_filter, scores
      >>> ones = jnp.ones((2, 1, 4))
      >>> twice = lambda score, query, key: jnp.where((query - key) % 2 == 0, 2 * score, score)
      >>> attention_filter(ones, ones, score=scores.modified(scores.scaled_dot(), twice)).scores().tolist()
      [[[4.0, 2.0], [2.0, 4.0]]]

    Source: Dong et al. 2024, "Flex Attention: a programming model for generating optimized attention kernels",
    section 3.
    """
    return Modified(as_score(score), function, count_indices(function, "modified", "score"))


def as_score(score: ScoreLike) -> Score:
    """Returns a `Score` for a score object or a function of (query block, key); refuses anything else."""
    if isinstance(score, Score):
        return score
    check_takes("score", Score, score, "query", "key")
    return FromFunction(score)


def _times(scores: Float[Array, "... R S"], factor: Parameter, grid: Grid) -> Float[Array, "... R S"]:
    """Multiplies scores; those at forbidden keys may be infinite without making the factor's gradient NaN."""
    number = factor.part(grid, scores.dtype)
    if factor.array is None:
        return scores * number
    fine = jnp.isfinite(scores)
    return jnp.where(fine, jnp.where(fine, scores, 0) * number, scores * lax.stop_gradient(number))


def _project(
    x: Float[Array, "... L H"], kernel: HeadParameter | Learned, grid: Grid, precision: Any
) -> Float[Array, "... L D"]:
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
    is_bilinear = True
    shows_nonfinite = True

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
    shows_nonfinite = True

    def evaluate(self, query: Array, key: Array, grid: Grid, precision: Any) -> Array:
        cosines = dot(unit(query), unit(key), precision)
        return cosines / self.temperature.part(grid, cosines.dtype)


@rule(negative_squared_distance)
class NegativeSquaredDistance(Score):
    scale: Parameter

    def evaluate(self, query: Array, key: Array, grid: Grid, precision: Any) -> Array:
        near = nearness(wide(query), wide(key), lax.Precision.HIGHEST if precision is None else precision)
        # What is too large is cut to what is finite; NaN and inf in a query or key are not hidden by that.
        limit = jnp.finfo(near.dtype).max
        scores = jnp.clip(_times(near, self.scale, grid), -limit, limit)
        return scores + nan_if_broken(query)[..., :, None] + nan_if_broken(key)[..., None, :]


@rule(bilinear)
class Bilinear(Score):
    matrix: HeadParameter | Learned
    takes_groups = True
    is_bilinear = True
    shows_nonfinite = True

    def evaluate(self, query: Array, key: Array, grid: Grid, precision: Any) -> Array:
        return dot(_project(query, self.matrix, grid, precision), key, precision)


@rule(additive)
class Additive(Score):
    query_kernel: HeadParameter | Learned
    key_kernel: HeadParameter | Learned
    vector: HeadParameter | Learned

    def arguments(self) -> Mapping[str, Any]:
        units = self.vector.axes[0][1] if isinstance(self.vector, Learned) else None
        return {**super().arguments(), "units": units}

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
        (of_query, broken_query), (of_key, broken_key) = finite(of_query), finite(of_key)
        units = tuple(jnp.moveaxis(x.astype(dtype), -1, 0) for x in (of_query, of_key, vector))
        start = varying_as(jnp.zeros((*of_query.shape[:-1], key.shape[-2]), dtype), *units)
        total = lax.scan(add_unit, start, units)[0]
        return jnp.where(broken_query[..., :, None] | broken_key[..., None, :], jnp.nan, total)


@rule(soft_cap)
class SoftCap(Score):
    score: Score
    cap: Parameter

    def evaluate(self, query: Array, key: Array, grid: Grid, precision: Any) -> Array:
        if self.score.is_bilinear:
            (query, of_query), (key, of_key) = shrink(query), shrink(key)
            scores = self.score.evaluate(query, key, grid, precision) * of_query[..., :, None]
            # A product that is too large for the dtype has a cap all the same.
            limit = jnp.finfo(scores.dtype).max
            scores = jnp.clip(scores * of_key[..., None, :], -limit, limit)
        else:
            scores = self.score.evaluate(query, key, grid, precision)
        cap = self.cap.part(grid, scores.dtype)
        # Selected before and after, so that a non-finite value at a forbidden key does not reach the gradient.
        fine = jnp.isfinite(scores)
        capped = cap * jnp.tanh(jnp.where(fine, scores, 0) / cap)
        return jnp.where(fine, capped, jnp.minimum(scores, cap))


@rule(modified)
class Modified(Score):
    score: Score
    function: Callable[..., Any] = static()
    count: int = static()

    def evaluate(self, query: Array, key: Array, grid: Grid, precision: Any) -> Array:
        scores = self.score.evaluate(query, key, grid, precision)
        return as_floats("modified", self.function(scores, *grid.indices(self.count)), scores.shape)


@rule()
class FromFunction(Score):
    function: Callable[..., Any] = static()

    def __repr__(self) -> str:
        return write(self.function)

    def evaluate(self, query: Array, key: Array, grid: Grid, precision: Any) -> Array:
        expected, given = (*query.shape[:-1], key.shape[-2]), f" got query {query.shape} and key {key.shape} and"
        scores = as_floats("score", self.function(query, key), expected, given)
        return scores.astype(jnp.promote_types(scores.dtype, jnp.float32))
