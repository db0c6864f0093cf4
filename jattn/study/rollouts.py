"""Rollouts: what reaches the positions of the last layer through the filters of all layers."""

import numbers
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from jattn.filters.filter import AttentionFilter
from jattn.filters.names import in_order


def rollout(
    filters: Mapping[str, AttentionFilter] | Sequence[AttentionFilter],
    queries: Sequence[int] | None = None,
    *,
    residual: float = 0.5,
) -> Float[Array, "*batch R T"]:
    """Follows attention back through the layers: how much of each input token reaches some positions of the last.

    ::

        rollout = Āₗ ⋯ Ā₁        Ā = residual · I + (1 - residual) · mean over heads of A

    One row of it is a row vector multiplied with each filter in turn (`AttentionFilter.apply_transposed`), so that no
    ``T x T`` matrix is made: memory is linear in length.

    It describes where weights lead, and ignores what values and feed-forward layers do with it.

    Args:
      filters: of self-attention layers, the first layer first; of a dict, as `capture_filters` returns it, they are
        taken in the order of their names, ``block_2`` before ``block_10``.
      queries: positions after the last layer whose sources are asked for; None for all of them.
      residual: the share that the residual stream keeps in each layer.

    Raises:
      ValueError, TypeError: if filters are not square and alike, or the other arguments are out of range.

    Example: two layers that each look one token back look two tokens back together.
      >>> import jax.numpy as jnp
      >>> from jattn import attention_filter, masks, rollout
      >>> zeros = jnp.zeros((4, 1, 2))
      >>> previous = attention_filter(zeros, zeros, mask=masks.from_function(lambda query, key: key == query - 1))
      >>> rollout([previous, previous], queries=[3], residual=0.5).tolist()
      [[0.0, 0.25, 0.5, 0.25]]

    Source: Abnar and Zuidema 2020, "Quantifying attention flow in transformers", section 3.
    """
    chain = _as_chain(filters)
    shapes = [(*filter.shape[:-3], *filter.shape[-2:]) for filter in chain]
    if any(shape != shapes[0] or shape[-1] != shape[-2] for shape in shapes):
        raise ValueError(f"filters: expected square ones over the same tokens, got {[f.shape for f in chain]}")
    if not isinstance(residual, numbers.Real) or isinstance(residual, bool) or not 0 <= residual <= 1:
        raise ValueError(f"residual: expected a number in [0, 1], got {residual!r}")
    *batch, length = shapes[0][:-1]
    rows = jax.nn.one_hot(_as_positions(queries, length), length, axis=0)
    rows = jnp.broadcast_to(rows, (*batch, *rows.shape))
    for filter in reversed(chain):
        through = jnp.mean(filter.apply_transposed(rows[..., None, :]), axis=-2)
        rows = residual * rows + (1 - residual) * through
    return jnp.swapaxes(rows, -1, -2)


def _as_chain(filters: Any) -> list[AttentionFilter]:
    chain = in_order(filters).values() if isinstance(filters, Mapping) else filters
    if isinstance(chain, AttentionFilter) or not isinstance(chain, Iterable):
        raise TypeError(f"filters: expected a list or a dict of AttentionFilter, got {type(filters).__name__}")
    chain = list(chain)
    wrong = [filter for filter in chain if not isinstance(filter, AttentionFilter)]
    if wrong:
        raise TypeError(f"filters: expected a list or a dict of AttentionFilter, got one {type(wrong[0]).__name__}")
    if not chain:
        raise ValueError("filters: expected at least one, got none")
    return chain


def _as_positions(queries: Any, length: int) -> Int[np.ndarray, " R"]:
    wanted = np.arange(length) if queries is None else np.asarray(queries)
    wanted = wanted.astype(int) if wanted.size == 0 else wanted
    if wanted.ndim != 1 or not np.issubdtype(wanted.dtype, np.integer):
        raise TypeError(f"queries: expected a list of positions or None, got {queries!r}")
    wrong = wanted[(wanted < -length) | (wanted >= length)]
    if len(wrong):
        raise ValueError(f"queries: index {wrong[0]} is out of range for {length} tokens")
    return (wanted % length).astype(np.int32)
