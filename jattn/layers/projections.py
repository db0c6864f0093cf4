"""The linear layers of a transformer as functions of their parameters, and the look-up of tokens in a table."""

import math
from typing import Any

import jax
import jax.numpy as jnp
from flax.linen.dtypes import promote_dtype
from jaxtyping import Array, Float, Int

from jattn.rules.meshes import may_split

ONE_HOT_VOCABULARY = 256
"""Up to this many tokens the look-up is a matrix product, whose gradient is one too; a gather's is a slow scatter."""


def project(
    x: Float[Array, "..."],
    kernel: Float[Array, "..."],
    bias: Float[Array, "..."] | None,
    in_axes: int = 1,
    dtype: Any = None,
    precision: Any = None,
) -> Float[Array, "..."]:
    """Multiplies the last `in_axes` axes of the input with a kernel: ``x W + b``.

    The product is taken between matrices, a row per token, because XLA on CPU is several times slower at the weight
    gradient of anything else. Where the compiler may split arrays over a mesh, batch and positions stay axes of their
    own: split over both, they could not be one.

    Args:
      x: ``[*leading, *inputs]``.
      kernel: ``[*inputs, *features]``.
      bias: ``[*features]``, or None.
      in_axes: how many axes ``inputs`` are.
      dtype: of the computation; by default that of input and parameters.
      precision: as in `jax.lax.dot_general`.

    Returns:
      ``[*leading, *features]``.
    """
    leading, inputs, features = x.shape[:-in_axes], x.shape[-in_axes:], kernel.shape[in_axes:]
    flat = (math.prod(inputs), math.prod(features))
    rows = leading if may_split() else (math.prod(leading),)
    kernel, bias = kernel.reshape(flat), None if bias is None else bias.reshape(*[1] * len(rows), -1)
    x, kernel, bias = promote_dtype(x.reshape(*rows, flat[0]), kernel, bias, dtype=dtype)
    out = jnp.matmul(x, kernel, precision=precision)
    out = out if bias is None else out + bias
    return out.reshape(leading + features)


def look_up(
    table: Float[Array, "C D"], tokens: Int[Array, "*batch T"], dtype: Any = None
) -> Float[Array, "*batch T D"]:
    """Takes the row of each token from a table; tokens outside of it get meaningless rows."""
    (table,) = promote_dtype(table, dtype=dtype)
    if table.shape[0] > ONE_HOT_VOCABULARY:
        return jnp.take(table, tokens, axis=0)
    chosen = jax.nn.one_hot(tokens if may_split() else tokens.ravel(), table.shape[0], dtype=table.dtype)
    rows = jnp.matmul(chosen, table, precision=jax.lax.Precision.HIGHEST)
    return rows.reshape(*tokens.shape, table.shape[1])
