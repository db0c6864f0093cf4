"""`dot_product_attention`: the signature and the layout of `jax.nn.dot_product_attention`, computed by `attend`.

Glossary of shapes: ``B`` batch, ``T`` query length, ``S`` key length, ``N`` query heads, ``K`` key/value heads (``N``
is a multiple of ``K``), ``H`` head dim, ``V`` value dim.
"""

import functools
import numbers
import operator
from typing import Any, Literal, overload

import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Bool, Float, Int

from jattn.engine.attention import attend, attend_by_rows, choose_plan, filter_shape
from jattn.engine.compiling import compiled
from jattn.engine.rows import row_program
from jattn.rules import masks
from jattn.rules.checks import check_float
from jattn.rules.mask import Mask
from jattn.rules.normalizers import softmax
from jattn.rules.scores import Score, scaled_dot


@overload
def dot_product_attention(
    query: ArrayLike,
    key: ArrayLike,
    value: ArrayLike,
    bias: ArrayLike | None = None,
    mask: ArrayLike | None = None,
    *,
    scale: float | None = None,
    is_causal: bool = False,
    query_seq_lengths: ArrayLike | None = None,
    key_value_seq_lengths: ArrayLike | None = None,
    local_window_size: int | tuple[int, int] | None = None,
    implementation: Literal["xla", "cudnn"] | None = None,
    return_residual: Literal[False] = False,
) -> Array: ...


@overload
def dot_product_attention(
    query: ArrayLike,
    key: ArrayLike,
    value: ArrayLike,
    bias: ArrayLike | None = None,
    mask: ArrayLike | None = None,
    *,
    scale: float | None = None,
    is_causal: bool = False,
    query_seq_lengths: ArrayLike | None = None,
    key_value_seq_lengths: ArrayLike | None = None,
    local_window_size: int | tuple[int, int] | None = None,
    implementation: Literal["xla", "cudnn"] | None = None,
    return_residual: Literal[True],
) -> tuple[Array, Array]: ...


def dot_product_attention(
    query: Float[ArrayLike, "*B T N H"],
    key: Float[ArrayLike, "*B S K H"],
    value: Float[ArrayLike, "*B S K V"],
    bias: Float[ArrayLike, "..."] | None = None,
    mask: Bool[ArrayLike, "..."] | None = None,
    *,
    scale: float | None = None,
    is_causal: bool = False,
    query_seq_lengths: Int[ArrayLike, " B"] | None = None,
    key_value_seq_lengths: Int[ArrayLike, " B"] | None = None,
    local_window_size: int | tuple[int, int] | None = None,
    implementation: Literal["xla", "cudnn"] | None = None,
    return_residual: bool = False,
) -> Float[Array, "*B T N V"] | tuple[Float[Array, "*B T N V"], Float[Array, "*B T N"]]:
    """Attends as `jax.nn.dot_product_attention` does, in memory linear in length.

    ::

        out = softmax(scale · Q Kᵀ + bias) V       residual = ln Σⱼ exp(scale · qᵢ·kⱼ + biasᵢⱼ)

    Keys that `is_causal` or `local_window_size` forbid to a block of queries are never computed.

    It differs from JAX in this:

    - A query that may attend to nothing gets output 0, residual minus infinity and gradient 0; JAX averages the values
      that it forbids.
    - The residual is float32 or wider and has a gradient; JAX rounds it to the dtype of the key and stops its gradient.
    - A bias of minus infinity forbids, and NaN in what is forbidden reaches nothing.
    - The value dim may differ from the head dim, and dtypes from one another; the output has the dtype of `value`.
    - Lengths may have any integer dtype, and be scalars; a bias of integers is refused.

    Args:
      query: what asks, with one batch axis or none, as `key` and `value`.
      key: what is matched. Each key head serves ``N / K`` query heads.
      value: what is averaged.
      bias: added to the scores; broadcasts to ``[B, N, T, S]``.
      mask: True = may attend; broadcasts to ``[B, N, T, S]``.
      scale: of the scores; ``1/√H`` by default.
      is_causal: whether a query may attend to no key later than itself, counting both from the first.
      query_seq_lengths: how many queries of each batch entry are real; the others output 0.
      key_value_seq_lengths: how many keys of each batch entry are real.
      local_window_size: how many keys before and after its own position a query may attend to; an int means as many on
        both sides.
      implementation: ``"cudnn"`` insists on that kernel, ``"xla"`` on none; None leaves the choice to `attend`.
      return_residual: whether to return the residual, too; cuDNN does not serve it.

    Returns:
      The output, or the output and the residual.

    Raises:
      ValueError: if shapes do not fit one another, or an option is unknown or out of range.
      TypeError: if an argument has the wrong type or dtype.

    Example:
      >>> import jax.numpy as jnp
      >>> from jattn.engine.drop_in import dot_product_attention
      >>> query = key = jnp.zeros((3, 1, 2))
      >>> value = jnp.array([[0.0, 2.0], [2.0, 4.0], [4.0, 6.0]])[:, None]
      >>> dot_product_attention(query, key, value, is_causal=True)[:, 0].tolist()
      [[0.0, 2.0], [1.0, 3.0], [2.0, 4.0]]

    Source: Vaswani et al. 2017, section 3.2.1; Dao 2023, "FlashAttention-2", section 3.1, for the residual.
    """
    if implementation not in ("xla", "cudnn", None):
        raise ValueError(f"implementation: expected 'xla', 'cudnn' or None, got {implementation!r}")
    for name, array in (("query", query), ("key", key), ("value", value)):
        _check_axes(name, array)
    axes = jnp.shape(query)[:-1]
    query, key, value = (_with_batch(x) for x in (query, key, value))
    shape = filter_shape(query, key)
    if key.shape[0] != query.shape[0]:
        raise ValueError(f"key: expected the batch shape of query, {query.shape[:1]}, got {key.shape[:1]}")
    if value.shape[:-1] != key.shape[:-1]:
        raise ValueError(f"value: expected the shape of key, {key.shape}, in all but the last axis, got {value.shape}")
    bias = None if bias is None else jnp.asarray(bias)
    allowed = _join(mask, is_causal, query_seq_lengths, key_value_seq_lengths, local_window_size, shape)
    if return_residual and implementation == "cudnn":
        raise ValueError("return_residual: expected implementation 'xla' or None with it, got 'cudnn'")
    score, out_shape = scaled_dot(scale), (*axes, value.shape[-1])
    if implementation != "xla" and not return_residual:
        out = attend(query, key, value, score=score, bias=bias, mask=allowed, implementation=implementation)
        return out.reshape(out_shape)
    out, residual = _attend_without_kernels(query, key, value, score, bias, allowed, shape)
    return (out.reshape(out_shape), residual.reshape(axes)) if return_residual else out.reshape(out_shape)


def _attend_without_kernels(
    query: Array, key: Array, value: Array, score: Score, bias: Array | None, mask: Mask | None, shape: tuple[int, ...]
) -> tuple[Float[Array, "B T N V"], Float[Array, "B T N"]]:
    """Attends in one block or in several; also returns the log-normalizer."""
    program = row_program(score, bias, mask, softmax(), None, None, shape)
    plan = choose_plan(shape, program, None, None, narrow=True, by_entries=True)
    return compiled(attend_by_rows, plan=plan)(query, key, value, program)


def _check_axes(name: str, array: Any) -> None:
    check_float(name, array)
    if array.ndim not in (3, 4):
        raise ValueError(f"{name}: expected 3 axes [length, heads, dim], or 4 with a batch, got shape {array.shape}")


def _with_batch(array: Any) -> Float[Array, "B L N H"]:
    return jnp.asarray(array if array.ndim == 4 else array[None])


def _join(
    mask: Any, is_causal: bool, query_lengths: Any, lengths: Any, window: Any, shape: tuple[int, ...]
) -> Mask | None:
    """Joins all that forbids keys into one mask."""
    parts = [masks.causal()] if is_causal else []
    if window is not None:
        parts.append(masks.sliding_window(*_window_sizes(window)))
    if query_lengths is not None or lengths is not None:
        lengths = shape[-1] if lengths is None else _lengths("key_value_seq_lengths", lengths, shape)
        if query_lengths is not None:
            query_lengths = _lengths("query_seq_lengths", query_lengths, shape)
        parts.append(masks.padding(lengths, query_lengths))
    if mask is not None:
        parts.append(masks.as_mask(mask))
    return functools.reduce(operator.and_, parts) if parts else None


def _lengths(name: str, lengths: Any, shape: tuple[int, ...]) -> Int[Array, "..."]:
    if not hasattr(lengths, "dtype") and not isinstance(lengths, int | list | tuple):
        raise TypeError(f"{name}: expected integers, got {type(lengths).__name__}")
    array = jnp.asarray(lengths)
    if not jnp.issubdtype(array.dtype, jnp.integer):
        raise TypeError(f"{name}: expected integers, got dtype {array.dtype}")
    if array.shape not in ((), shape[:1]):
        raise ValueError(f"{name}: expected one length per batch entry, shape {shape[:1]}, got {array.shape}")
    return array


def _window_sizes(window: Any) -> tuple[int, int]:
    sizes = tuple(window) if isinstance(window, tuple | list) else (window, window)
    if len(sizes) != 2 or any(isinstance(size, bool) or not isinstance(size, numbers.Integral) for size in sizes):
        raise TypeError(f"local_window_size: expected an int or a tuple of two, got {window!r}")
    if min(sizes) < 0:
        raise ValueError(f"local_window_size: expected at least 0, got {window!r}")
    return sizes
