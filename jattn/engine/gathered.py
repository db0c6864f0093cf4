"""Gathered: attention of queries that devices share, to keys and values that every device gets whole.

Each device evaluates whole rows, so whatever makes a row of weights works as it does on one device.
"""

import jax.numpy as jnp
from jax import lax
from jax.sharding import PartitionSpec
from jaxtyping import Array, Float, Int

from jattn.engine.attention import attend_heads_first
from jattn.engine.devices import Split, map_devices
from jattn.engine.plans import Plan
from jattn.engine.rows import RowProgram


def attend_gathered(
    query: Float[Array, "*batch T N H"],
    key: Float[Array, "*batch S K H"],
    value: Float[Array, "*batch S K V"],
    program: RowProgram,
    split: Split,
    plan: Plan,
) -> Float[Array, "*batch T N V"]:
    """Attends; `plan` says how each device computes its rows."""
    dim, dealing = query.ndim - 3, split.queries
    shape = (*query.shape[:-3], query.shape[-2], query.shape[-3], key.shape[-3])

    def part(device: Int[Array, ""], query: Array, keys: tuple[Array, ...], program: RowProgram) -> Array:
        query, key, value = (jnp.swapaxes(x, -3, -2) for x in (query, *keys))
        out, _ = attend_heads_first(query, key, value, program, plan, split.place(shape, device))
        return dealing.gather(jnp.swapaxes(out, -3, -2), dim, split.axis, device)

    sequence = PartitionSpec(*[None] * dim, split.axis)
    out = map_devices(part, split, query, (key, value), program, sequence, whole_keys=True)
    return lax.slice_in_dim(out, 0, query.shape[dim], axis=dim).astype(value.dtype)
