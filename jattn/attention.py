"""`attend`: attention for any score, mask, bias and normalizer, at any length, in memory linear in length.

Glossary of shapes: ``T`` query length, ``S`` key length, ``N`` query heads, ``K`` key/value heads (``N`` is a multiple
of ``K``), ``H`` head dim, ``V`` value dim.
"""

import functools
import math
import numbers
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from jattn.biases import BiasLike
from jattn.checks import check_float
from jattn.grids import Grid
from jattn.masks import MaskLike
from jattn.normalizers import NormalizerLike, softmax
from jattn.rows import Edit, RowProgram, finite, map_rows, row_program, taint
from jattn.scores import ScoreLike, scaled_dot

IMPLEMENTATIONS = ("dense", "blocked")
DENSE_WEIGHTS = 2**22
"""Up to this many weights in all, `attend` computes the filter in one block."""
WALKED_BLOCK_WEIGHTS = 2**19
"""About how many weights a block of one head holds; 2 MiB in float32, the size of a CPU core's second-level cache."""
WHOLE_BLOCK_WEIGHTS = 2**26
"""About how many weights a block of all heads holds; 256 MiB in float32, enough to keep an accelerator busy."""


def attend(
    query: Float[Array, "*batch T N H"],
    key: Float[Array, "*batch S K H"],
    value: Float[Array, "*batch S K V"],
    *,
    score: ScoreLike = scaled_dot(),
    bias: BiasLike | None = None,
    mask: MaskLike | None = None,
    normalizer: NormalizerLike = softmax(),
    edit: Edit | None = None,
    dropout_rate: float = 0.0,
    dropout_rng: PRNGKeyArray | None = None,
    implementation: str | None = None,
    block_size: int | None = None,
    precision: Any = None,
) -> Float[Array, "*batch T N V"]:
    """Attends: averages the values of the keys that each query may see, weighted by how well they match.

    ::

        sᵢⱼ = score(qᵢ, kⱼ) + biasᵢⱼ       wᵢ = normalizer(sᵢ, maskᵢ)       outᵢ = Σⱼ wᵢⱼ vⱼ

    The filter ``w`` is computed in blocks of whole rows, and computed again in the backward pass, so nothing of size
    ``T x S`` is ever stored. `attention_filter` describes exactly the ``w`` of the same call.

    Args:
      query: what asks. Leading batch axes are any number, the same for all three.
      key: what is matched. Each key head serves ``N / K`` query heads.
      value: what is averaged; its dim may differ from the head dim.
      score: how a query and a key are compared; an object of `jattn.scores`, or a function.
      bias: floats added to the scores; an array that broadcasts to ``[*batch, N, T, S]``, or of `jattn.biases`.
      mask: True = may attend; an array that broadcasts to ``[*batch, N, T, S]``, or of `jattn.masks`. A query that may
        attend to nothing gets output zero and gradient zero. With a mask, NaN or inf in a key or value reaches
        only the queries that may attend to it (their output is NaN).
      normalizer: how a row of scores becomes a row of weights.
      edit: a function of a block of weights and its `Grid` that returns new weights.
      dropout_rate: the chance of each weight to be dropped; the others are scaled by ``1/(1 - rate)``. Which ones drop
        depends on `dropout_rng` alone, not on how the call is computed.
      dropout_rng: needed where `dropout_rate` is above zero.
      implementation: ``"dense"`` (one block), ``"blocked"``, or None to choose; the result is the same.
      block_size: how many query rows a block holds; the default suits the device.
      precision: as in `jax.lax.dot_general`.

    Returns:
      The averaged values, in the dtype of `value`. Scores, weights and sums are float32 or wider within.

    Raises:
      ValueError: if shapes do not fit one another, or an option is unknown or out of range.
      TypeError: if an argument has the wrong type or dtype.

    Example:
      >>> import jax.numpy as jnp
      >>> from jattn import attend, masks
      >>> query = key = jnp.zeros((3, 1, 2))
      >>> value = jnp.array([0.0, 2.0, 4.0]).reshape(3, 1, 1)
      >>> attend(query, key, value, mask=masks.causal()).ravel().tolist()
      [0.0, 1.0, 2.0]

    Source: Vaswani et al. 2017, section 3.2; Rabe and Staats 2021, "Self-attention does not need O(n²) memory".
    """
    shape = filter_shape(query, key)
    _check_value(key, value)
    _check_dropout(dropout_rate, dropout_rng)
    program = row_program(score, bias, mask, normalizer, edit, precision, shape)
    block_size, walk_heads = plan(shape, implementation, block_size)

    query, key, value = (jnp.swapaxes(x, -3, -2) for x in (query, key, value))
    query_side, key_side = {"query": query}, {"key": key, "value": value}
    if program.mask is not None:
        query_side["query"], query_side["broken"] = finite(query)
        key_side["key"], broken_key = finite(key)
        key_side["value"], broken_value = finite(value)
        key_side["broken"] = broken_key | broken_value
    block = functools.partial(_attend_block, program, dropout_rate, dropout_rng)
    out = map_rows(block, query_side, key_side, shape, block_size, walk_heads)
    return jnp.swapaxes(out, -3, -2).astype(value.dtype)


def filter_shape(query: Float[Array, "*batch T N H"], key: Float[Array, "*batch S K H"]) -> tuple[int, ...]:
    """Returns the shape ``(*batch, N, T, S)`` of the filter of a query and a key, or says why they do not fit."""
    for name, array, axes in (("query", query, "[*batch, T, N, H]"), ("key", key, "[*batch, S, K, H]")):
        check_float(name, array)
        if array.ndim < 3:
            raise ValueError(f"{name}: expected at least 3 axes {axes}, got shape {array.shape}")
    if query.shape[:-3] != key.shape[:-3]:
        raise ValueError(f"key: expected the batch shape of query, {query.shape[:-3]}, got {key.shape[:-3]}")
    if query.shape[-1] != key.shape[-1]:
        raise ValueError(f"key: expected the head dim of query, {query.shape[-1]}, got {key.shape[-1]}")
    num_heads, num_kv_heads = query.shape[-2], key.shape[-2]
    if num_kv_heads == 0 or num_heads == 0 or num_heads % num_kv_heads:
        raise ValueError(f"key: expected a number of heads that divides the {num_heads} of query, got {num_kv_heads}")
    return (*query.shape[:-3], num_heads, query.shape[-3], key.shape[-3])


def plan(shape: tuple[int, ...], implementation: str | None, block_size: int | None) -> tuple[int, bool]:
    """Chooses how a filter of shape ``(*batch, N, T, S)`` is computed: rows per block, and whether heads are walked.

    One head at a time suits a CPU's caches; an accelerator takes all heads at once.
    """
    if implementation is not None and implementation not in IMPLEMENTATIONS:
        raise ValueError(
            f"implementation: expected one of {', '.join(IMPLEMENTATIONS)} or None, got {implementation!r}"
        )
    whole = isinstance(block_size, numbers.Integral) and not isinstance(block_size, bool)
    if block_size is not None and not (whole and block_size >= 1):
        raise ValueError(f"block_size: expected a positive int, got {block_size!r}")
    num_rows, num_keys = shape[-2:]
    if implementation == "dense" and block_size is not None:
        raise ValueError(f"block_size: implementation 'dense' has one block, got block_size {block_size}")
    small = math.prod(shape) <= DENSE_WEIGHTS and block_size is None
    if implementation == "dense" or (implementation is None and small):
        return max(num_rows, 1), False
    walk_heads = jax.default_backend() == "cpu"
    if block_size is None:
        budget, heads = (WALKED_BLOCK_WEIGHTS, 1) if walk_heads else (WHOLE_BLOCK_WEIGHTS, math.prod(shape[:-2]))
        block_size = max(16, budget // max(1, heads * num_keys))
        if not walk_heads:
            # Two blocks at least: the weights of a single one would be kept for the backward pass.
            block_size = min(block_size, -(-num_rows // 2))
    return max(1, min(block_size, num_rows)), walk_heads


def _check_value(key: Array, value: Array) -> None:
    check_float("value", value)
    if value.ndim != key.ndim or value.shape[:-1] != key.shape[:-1]:
        expected = ", ".join(map(str, key.shape[:-1]))
        raise ValueError(
            f"value: expected shape [{expected}, V], alike key in all but the last axis, got {value.shape}"
        )


def _check_dropout(rate: float, rng: PRNGKeyArray | None) -> None:
    if not isinstance(rate, numbers.Real) or isinstance(rate, bool) or not 0 <= rate < 1:
        raise ValueError(f"dropout_rate: expected a number in [0, 1), got {rate!r}")
    if rate > 0 and rng is None:
        raise ValueError(f"dropout_rng: needed for dropout_rate {rate}, got None")


def _attend_block(
    program: RowProgram,
    dropout_rate: float,
    dropout_rng: PRNGKeyArray | None,
    grid: Grid,
    query_side: Any,
    key_side: Any,
) -> Float[Array, "... R V"]:
    weights, allowed = program.weights(query_side["query"], key_side["key"], grid)
    if dropout_rng is not None and dropout_rate > 0:
        weights = jnp.where(_kept(weights.shape, grid, dropout_rate, dropout_rng), weights / (1 - dropout_rate), 0)
    value = key_side["value"]
    out = jnp.einsum(
        "...rs,...sv->...rv",
        weights.astype(value.dtype),
        value,
        precision=program.precision,
        preferred_element_type=weights.dtype,
    )
    if allowed is None:
        return out
    return taint(out, allowed, query_side["broken"], key_side["broken"])


def _kept(shape: tuple[int, ...], grid: Grid, rate: float, rng: PRNGKeyArray) -> Array:
    """Draws which weights stay: a pure function of rng, batch entry, head and query, whatever the block."""

    def row(stream: Array, index: Array) -> Array:
        return jax.random.bernoulli(jax.random.fold_in(jax.random.fold_in(rng, stream), index), 1 - rate, shape[-1:])

    streams = jnp.arange(math.prod(grid.shape[:-2])) if grid.stream is None else grid.stream[None]
    kept = jax.vmap(lambda stream: jax.vmap(lambda index: row(stream, index))(grid.rows))(streams)
    return kept.reshape(shape)
