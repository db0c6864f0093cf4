"""The rows of filters that tokens are drawn from: of every layer, the row of one query per batch entry.

Glossary of shapes: ``P`` prompt length, ``S`` columns of a filter.
"""

import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, Int

from jattn.filters.filter import AttentionFilter
from jattn.filters.passes import chosen_rows


def rows_of(
    filters: Mapping[str, AttentionFilter], rows: Int[Array, "*batch"], slots: int
) -> dict[str, Float[Array, "*batch N slots"]]:
    """Computes a row of every filter: the weights of one query of each batch entry.

    Filters of one structure, as those of equal layers are, are computed by one program, layer after layer.

    Args:
      filters: by the name of their layer.
      rows: the index of the query.
      slots: of the cache that the model reads with, which hold position ``p`` in slot ``p``. What a filter has beyond
        these columns are the tokens of a first call, from position zero on, which the slots do not all hold yet.

    Raises:
      ValueError: if a filter has fewer columns than slots.
    """
    if not filters:
        raise ValueError("model: expected one with attention of jattn's, got none in the model")
    for name, filter in filters.items():
        if filter.shape[-1] < slots:
            raise ValueError(f"{name}: expected a filter with a column for each of {slots} slots, got {filter.shape}")
    alike: dict[Any, list[str]] = {}
    for name, filter in filters.items():
        leaves, structure = jax.tree.flatten(filter)
        alike.setdefault((structure, *((leaf.shape, leaf.dtype) for leaf in leaves)), []).append(name)
    found = {}
    for names in alike.values():
        stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *(filters[name] for name in names))
        weights = lax.map(lambda filter: _by_position(_rows(filter, rows), slots), stacked)
        found |= zip(names, weights, strict=True)
    return {name: found[name] for name in filters}


def _rows(filter: AttentionFilter, rows: Int[Array, "*batch"]) -> Float[Array, "*batch N S"]:
    *batch, heads, _, columns = filter.shape
    streams = np.arange(math.prod(batch) * heads, dtype=np.int32)
    weights = chosen_rows(filter, streams, jnp.repeat(rows.reshape(-1), heads), pairs=True)
    return weights.reshape(*batch, heads, columns)


def _by_position(weights: Float[Array, "*batch N S"], slots: int) -> Float[Array, "*batch N slots"]:
    new = weights.shape[-1] - slots
    if not new:
        return weights
    return jnp.pad(weights[..., slots:], [(0, 0)] * (weights.ndim - 1) + [(0, slots - new)])
