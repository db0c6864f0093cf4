"""``jattn explain``: what attention will do for a shape."""

from argparse import Namespace
from typing import Any

import jax
import jax.numpy as jnp

from jattn.engine.implementations import explain_implementation
from jattn.rules import masks


def explain(options: Namespace) -> str:
    """Says which implementation `attend` takes on this machine for a shape, why not the others, and what it saves."""
    queries, keys = options.length, options.keys or options.length
    shapes: Any = (
        jax.ShapeDtypeStruct((options.batch, length, options.heads, options.head_dim), jnp.dtype(options.dtype))
        for length in (queries, keys)
    )
    query, key = shapes
    mask = masks.causal() if options.causal else None
    if options.window is not None:
        mask = masks.sliding_window(options.window)
    explanation = explain_implementation(query, key, key, mask=mask)
    size = 4 * options.batch * options.heads * queries * keys
    device = jax.devices()[0].device_kind
    return f"{explanation}\non {device}; the filter as a float32 array would take {_bytes(size)}"


def _bytes(size: float) -> str:
    for unit in ("bytes", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.3g} {unit}"
        size /= 1000
    return f"{size:.3g} TB"
