"""Gathered: attention of queries that devices share, to keys and values that every device gets before it begins.

Each device evaluates whole rows, so whatever makes a row of weights works as it does on one device. It gets all keys
and values, or those in reach where a mask lets its rows reach no further than the neighbours.
"""

import dataclasses

import jax.numpy as jnp
from jax import lax
from jax.sharding import PartitionSpec
from jaxtyping import Array, Float, Int

from jattn.engine.attention import attend_heads_first
from jattn.engine.devices import Split, map_devices
from jattn.engine.halos import find_halo
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
    dim, dealing, halo = query.ndim - 3, split.queries, find_halo(plan, split, program)
    shape = (*query.shape[:-3], query.shape[-2], query.shape[-3], key.shape[-3])

    def part(device: Int[Array, ""], query: Array, keys: tuple[Array, ...], program: RowProgram) -> Array:
        place, blocks = split.place(shape, device), plan
        if halo is not None:
            place, blocks = dataclasses.replace(place, first_key=halo.first_key(device)), halo.plan
            keys = tuple(halo.add(x, dim, split.axis) for x in keys)
        query, key, value = (jnp.swapaxes(x, -3, -2) for x in (query, *keys))
        out, _ = attend_heads_first(query, key, value, program, blocks, place)
        return dealing.gather(jnp.swapaxes(out, -3, -2), dim, split.axis, device)

    sequence = PartitionSpec(*[None] * dim, split.axis)
    out = map_devices(part, split, query, (key, value), program, sequence, whole_keys=halo is None)
    return lax.slice_in_dim(out, 0, query.shape[dim], axis=dim).astype(value.dtype)
