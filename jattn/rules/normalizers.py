"""Normalizers: turn a row of scores into a row of weights.

A normalizer sees whole rows, together with the mask: forbidden keys get weight 0 exactly, and a row that may attend to
nothing gets 0 everywhere. A score of minus infinity means the same as a forbidden key. The normalizers here give the
same weights when forbidden keys are left out of the row.
"""

import abc
import dataclasses
from collections.abc import Callable
from typing import Any, ClassVar, Self

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from jattn.rules import learned, row_weights
from jattn.rules.checks import check_integer
from jattn.rules.functions import as_floats, check_takes
from jattn.rules.grids import Grid, static
from jattn.rules.parameters import Parameter, as_parameter
from jattn.rules.rule import Rule, rule, write


class Normalizer(Rule):
    """Maps rows of scores to rows of weights. Subclasses are frozen dataclasses registered as pytrees."""

    wing = "normalizers"

    needs_whole_rows: ClassVar[bool] = True
    """Whether the weights may change when forbidden keys are left out of the row."""

    is_softmax: ClassVar[bool] = False
    """Whether the weights are ``exp(s - log Σ exp(s))``, the sum over the allowed keys and a sink."""

    @abc.abstractmethod
    def evaluate(
        self, scores: Float[Array, "... R S"], allowed: Bool[Array, "..."] | None, grid: Grid
    ) -> Float[Array, "... R S"]:
        """Computes the weights of one block.

        `allowed` broadcasts to `scores`, ``None`` allows every key; `grid` says which rows and heads these are.
        """

    def sink_score(self, grid: Grid, dtype: Any) -> Float[Array, "..."] | None:
        """Of a softmax: the score of what holds no value, which broadcasts to ``[..., R, 1]``; None is no sink."""
        return None


NormalizerLike = Normalizer | Callable[[Array, Array], Any]
"""A `Normalizer`, or any function of (scores ``[..., R, S]``, allowed) that returns weights of the same shape.

A function always gets whole rows.
"""


def softmax() -> Normalizer:
    """Normalizes by the softmax: ``wᵢⱼ = exp(sᵢⱼ) / Σⱼ exp(sᵢⱼ)`` over the keys that query ``i`` may attend to.

    Example:
      >>> import jax.numpy as jnp
      >>> from jattn import attention_filter, normalizers
      >>> zeros = jnp.zeros((2, 1, 4))
      >>> mask = jnp.array([[True, True], [False, False]])
      >>> attention_filter(zeros, zeros, mask=mask, normalizer=normalizers.softmax()).weights().tolist()
      [[[0.5, 0.5], [0.0, 0.0]]]

    Source: Bridle 1990, "Training stochastic model recognition algorithms as networks".
    """
    return Softmax()


def softmax_plus_one(sink: float | Float[Array, "..."] = 0.0) -> Normalizer:
    """Normalizes by a softmax that may look away: ``wᵢⱼ = exp(sᵢⱼ) / (exp(sink) + Σⱼ exp(sᵢⱼ))``.

    It is the softmax over the keys and one more, the sink, which holds no value: a row sums to less than one.

    Args:
      sink: the score of the sink; a number, or a float array, which may be learned, of one number per row: it
        broadcasts to ``[*batch, N, T, 1]`` (one per head: ``[N, 1, 1]``). Minus infinity is no sink.

    Example:
      >>> import jax.numpy as jnp
      >>> from jattn import attention_filter, normalizers
      >>> zeros = jnp.zeros((1, 2, 4))
      >>> attention_filter(zeros, zeros, normalizer=normalizers.softmax_plus_one()).weights().tolist()
      [[[0.5]], [[0.5]]]
      >>> sink = jnp.log(jnp.array([1.0, 3.0])).reshape(2, 1, 1)
      >>> attention_filter(zeros, zeros, normalizer=normalizers.softmax_plus_one(sink)).weights().round(2).tolist()
      [[[0.5]], [[0.25]]]

    Source: Miller 2023, "Attention is off by one"; with a learned sink, OpenAI 2025, "gpt-oss-120b & gpt-oss-20b model
    card", section 2.
    """
    return SoftmaxPlusOne(_below_infinity("softmax_plus_one: sink", sink))


def learned_sink() -> Normalizer:
    """Normalizes by a softmax with a sink that the attention layer learns: ``exp(sᵢⱼ) / (exp(sink) + Σⱼ exp(sᵢⱼ))``.

    It is `softmax_plus_one` in `jattn.MultiHeadAttention`, which has the parameter ``sink`` ``[N]``, one number per
    head, at first 0. A call of `attend`, which has no parameters, refuses it.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> import jattn
      >>> layer = jattn.MultiHeadAttention(num_heads=2, normalizer=jattn.normalizers.learned_sink())
      >>> layer.init(jax.random.key(0), jnp.ones((5, 8)))["params"]["sink"].tolist()
      [0.0, 0.0]

    Source: OpenAI 2025, "gpt-oss-120b & gpt-oss-20b model card", section 2.
    """
    return SoftmaxPlusOne(learned.learned_sink())


def sigmoid(bias: float | Float[Array, "..."] = 0.0) -> Normalizer:
    """Normalizes each score on its own: ``wᵢⱼ = 1 / (1 + exp(-(sᵢⱼ + bias)))``.

    Keys do not compete, and a row sums to anything between 0 and the number of its keys. At the start of training the
    bias should be ``-ln S`` for ``S`` keys, so that a row of scores near zero sums to about one; the paper finds no
    stable training without it.

    Args:
      bias: a number, or a float array of one number per row: it broadcasts to ``[*batch, N, T, 1]``. What differs
        by key is the ``bias`` of `attend`.

    Example:
      >>> import jax.numpy as jnp
      >>> from jattn import attention_filter, normalizers
      >>> zeros = jnp.zeros((3, 1, 4))
      >>> attention_filter(zeros, zeros, normalizer=normalizers.sigmoid()).weights()[0, 0].tolist()
      [0.5, 0.5, 0.5]
      >>> attention_filter(zeros, zeros, normalizer=normalizers.sigmoid(-jnp.log(3.0))).weights()[0, 0].tolist()
      [0.25, 0.25, 0.25]

    Source: Ramapuram et al. 2024, "Theory, analysis, and best practices for sigmoid self-attention", section 2.
    """
    return Sigmoid(_below_infinity("sigmoid: bias", bias))


def sparsemax() -> Normalizer:
    """Normalizes by the nearest point of the simplex: ``wᵢⱼ = max(sᵢⱼ - τᵢ, 0)`` with ``τᵢ`` such that ``Σⱼ wᵢⱼ = 1``.

    Keys whose score lies more than one below the row's largest get weight 0 exactly, and no gradient.

    Example:
      >>> import jax.numpy as jnp
      >>> from jattn import attention_filter, normalizers
      >>> query, key = jnp.array([[[1.0]]]), jnp.array([1.0, 0.5, -1.0]).reshape(3, 1, 1)
      >>> attention_filter(query, key, normalizer=normalizers.sparsemax()).weights().tolist()
      [[[0.75, 0.25, 0.0]]]

    Source: Martins and Astudillo 2016, "From softmax to sparsemax", section 2.
    """
    return Sparsemax()


def entmax15() -> Normalizer:
    """Normalizes halfway between softmax and sparsemax: ``wᵢⱼ = max(sᵢⱼ/2 - τᵢ, 0)²`` with ``Σⱼ wᵢⱼ = 1``.

    It is the 1.5-entmax. Keys whose score lies more than two below the row's largest get weight 0 exactly.

    Example:
      >>> import jax.numpy as jnp, numpy as np
      >>> from jattn import attention_filter, normalizers
      >>> query, key = jnp.array([[[1.0]]]), jnp.array([1.2, 0.8, -1.0]).reshape(3, 1, 1)
      >>> filter = attention_filter(query, key, normalizer=normalizers.entmax15())
      >>> print(np.asarray(filter.weights()).round(2))
      [[[0.64 0.36 0.  ]]]

    Source: Peters et al. 2019, "Sparse sequence-to-sequence models", section 3.
    """
    return Entmax15()


def top_k(k: int) -> Normalizer:
    """Normalizes by the softmax over the ``k`` largest scores that a query may see; all other keys get weight 0.

    Of equal scores the first keys count as larger. A row with fewer than ``k`` keys to see gets its softmax.

    Args:
      k: at least 1.

    Example:
      >>> import jax.numpy as jnp
      >>> from jattn import attention_filter, normalizers
      >>> query, key = jnp.array([[[1.0]]]), jnp.array([0.0, 5.0, -1.0, 5.0, 5.0]).reshape(5, 1, 1)
      >>> attention_filter(query, key, normalizer=normalizers.top_k(2)).weights().tolist()
      [[[0.0, 0.5, 0.0, 0.5, 0.0]]]

    Source: Gupta et al. 2021, "Memory-efficient transformers via top-k attention", section 3.
    """
    return TopK(check_integer("top_k: k", k, 1))


def as_normalizer(normalizer: NormalizerLike) -> Normalizer:
    """Returns a `Normalizer` for a normalizer object or a function of (scores, allowed); refuses anything else."""
    if isinstance(normalizer, Normalizer):
        return normalizer
    check_takes("normalizer", Normalizer, normalizer, "scores", "allowed")
    return FromFunction(normalizer)


def _below_infinity(name: str, value: Any) -> Parameter:
    if isinstance(value, int | float) and not value < np.inf:
        raise ValueError(f"{name} must be a number below infinity, got {value}")
    return as_parameter(name, value, may_be_minus_infinity=True)


def forbid(scores: Float[Array, "... R S"], allowed: Bool[Array, "..."] | None) -> Float[Array, "... R S"]:
    return scores if allowed is None else jnp.where(allowed, scores, -jnp.inf)


@rule(softmax)
class Softmax(Normalizer):
    needs_whole_rows = False
    is_softmax = True

    def evaluate(self, scores: Array, allowed: Array | None, grid: Grid) -> Array:
        return row_weights.softmax(forbid(scores, allowed))


@rule(softmax_plus_one)
class SoftmaxPlusOne(Normalizer):
    sink: Parameter | learned.Learned
    needs_whole_rows = False
    is_softmax = True

    def __repr__(self) -> str:
        return "learned_sink()" if isinstance(self.sink, learned.Learned) else super().__repr__()

    def sink_score(self, grid: Grid, dtype: Any) -> Array:
        return self.sink.part(grid, dtype)

    def evaluate(self, scores: Array, allowed: Array | None, grid: Grid) -> Array:
        sink = jnp.broadcast_to(self.sink_score(grid, scores.dtype), (*scores.shape[:-1], 1))
        return row_weights.softmax_and_sink(forbid(scores, allowed), sink)[0]

    def fit(self, shape: tuple[int, ...]) -> Self:
        return dataclasses.replace(self, sink=self.sink.fit_rows(shape))


@rule(sigmoid)
class Sigmoid(Normalizer):
    bias: Parameter
    needs_whole_rows = False

    def evaluate(self, scores: Array, allowed: Array | None, grid: Grid) -> Array:
        return jax.nn.sigmoid(forbid(scores, allowed) + self.bias.part(grid, scores.dtype))

    def fit(self, shape: tuple[int, ...]) -> Self:
        return dataclasses.replace(self, bias=self.bias.fit_rows(shape))


@rule(sparsemax)
class Sparsemax(Normalizer):
    needs_whole_rows = False

    def evaluate(self, scores: Array, allowed: Array | None, grid: Grid) -> Array:
        return row_weights.sparsemax(forbid(scores, allowed))


@rule(entmax15)
class Entmax15(Normalizer):
    needs_whole_rows = False

    def evaluate(self, scores: Array, allowed: Array | None, grid: Grid) -> Array:
        return row_weights.entmax15_root(forbid(scores, allowed)) ** 2


@rule(top_k)
class TopK(Normalizer):
    k: int = static()
    needs_whole_rows = False

    def evaluate(self, scores: Array, allowed: Array | None, grid: Grid) -> Array:
        scores = forbid(scores, allowed)
        if self.k < scores.shape[-1]:
            scores = jnp.where(row_weights.among_largest(scores, self.k), scores, -jnp.inf)
        return row_weights.softmax(scores)


@rule()
class FromFunction(Normalizer):
    function: Callable[..., Any] = static()

    def __repr__(self) -> str:
        return write(self.function)

    def evaluate(self, scores: Array, allowed: Array | None, grid: Grid) -> Array:
        everywhere = jnp.broadcast_to(True if allowed is None else allowed, scores.shape)
        weights = as_floats("normalizer", self.function(scores, everywhere), scores.shape)
        return jnp.where(everywhere, weights, 0).astype(scores.dtype)
