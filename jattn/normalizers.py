"""Normalizers: turn a row of scores into a row of weights.

A normalizer sees whole rows, together with the mask: forbidden keys get weight 0 exactly, and a row that may attend to
nothing gets 0 everywhere.
"""

import abc
import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from jattn.masks import static

NormalizerLike = Any
"""A `Normalizer`, or any function of (scores ``[..., R, S]``, allowed) that returns weights of the same shape."""


class Normalizer(abc.ABC):
    """Maps rows of scores to rows of weights. Subclasses are frozen dataclasses registered as pytrees."""

    @abc.abstractmethod
    def evaluate(self, scores: Float[Array, "... R S"], allowed: Bool[Array, "..."] | None) -> Float[Array, "... R S"]:
        """Computes the weights of one block; `allowed` broadcasts to `scores`, ``None`` allows every key."""


def softmax() -> Normalizer:
    """Normalizes by the softmax: ``wᵢⱼ = exp(sᵢⱼ) / Σⱼ exp(sᵢⱼ)`` over the keys that query ``i`` may attend to.

    A score of minus infinity means the same as a forbidden key.

    Example:
      >>> import jax.numpy as jnp
      >>> from jattn import attention_filter, normalizers
      >>> zeros = jnp.zeros((2, 1, 4))
      >>> mask = jnp.array([[True, True], [False, False]])
      >>> attention_filter(zeros, zeros, mask=mask, normalizer=normalizers.softmax()).weights().tolist()
      [[[0.5, 0.5], [0.0, 0.0]]]

    Source: Bridle 1990, "Training stochastic model recognition algorithms as networks".
    """
    return _Softmax()


def as_normalizer(normalizer: NormalizerLike) -> Normalizer:
    """Returns a `Normalizer` for a normalizer object or a function of (scores, allowed); refuses anything else."""
    if isinstance(normalizer, Normalizer):
        return normalizer
    if not callable(normalizer):
        got = type(normalizer).__name__
        raise TypeError(f"normalizer: expected a jattn normalizer or a function of (scores, allowed), got {got}")
    return _FromFunction(normalizer)


@jax.custom_jvp
def _softmax(scores: Float[Array, "... S"]) -> Float[Array, "... S"]:
    largest = jnp.max(scores, axis=-1, keepdims=True, initial=-jnp.inf)
    exponentials = jnp.exp(scores - jnp.where(largest == -jnp.inf, 0, largest))
    total = jnp.sum(exponentials, axis=-1, keepdims=True)
    return exponentials / jnp.where(total == 0, 1, total)


@_softmax.defjvp
def _softmax_jvp(primals: tuple[Array], tangents: tuple[Array]) -> tuple[Array, Array]:
    weights = _softmax(*primals)
    mean_change = jnp.sum(weights * tangents[0], axis=-1, keepdims=True)
    return weights, weights * (tangents[0] - mean_change)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class _Softmax(Normalizer):
    def evaluate(self, scores: Array, allowed: Array | None) -> Array:
        return _softmax(scores if allowed is None else jnp.where(allowed, scores, -jnp.inf))


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class _FromFunction(Normalizer):
    function: Callable[..., Any] = static()

    def evaluate(self, scores: Array, allowed: Array | None) -> Array:
        everywhere = jnp.broadcast_to(True if allowed is None else allowed, scores.shape)
        weights = jnp.asarray(self.function(scores, everywhere))
        if weights.shape != scores.shape:
            raise ValueError(f"normalizer: the function must return shape {scores.shape}, got {weights.shape}")
        return jnp.where(everywhere, weights, 0).astype(scores.dtype)
