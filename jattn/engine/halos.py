"""Halos: the keys around a device's own, where a mask lets its rows reach no further than its neighbours.

Every device then gets the last keys of the device before it and the first of the one after it, in place of all::

    device        0        1        2
    keys       0 1 2 3  4 5 6 7  8 9 ...
    halo of 1      2 3           8          before = 2, after = 1
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Int

from jattn.engine.dealing import Dealing, SpansOfDevices
from jattn.engine.devices import Split
from jattn.engine.plans import Plan, Strip
from jattn.engine.rows import RowProgram
from jattn.rules.mask import Mask
from jattn.rules.overlay import Overlay


@dataclasses.dataclass(frozen=True)
class Halo:
    """The keys that a device has, with those around its own.

    Blocks are as wide on every device, so that some also hold keys that the mask rules out. These are not sent: zeros
    take their place.

    Args:
      keys: who has which keys; contiguous.
      before, after: how many keys a device gets from the one before it, and from the one after it.
      zeros: how many zeros are added before all these, and after them.
      plan: blocks of the device's rows, with first keys counted from the first of the zeros.
    """

    keys: Dealing
    before: int
    after: int
    zeros: tuple[int, int]
    plan: Plan

    @property
    def length(self) -> int:
        """How many keys a device has in all."""
        return self.before + self.keys.rows_each + self.after + sum(self.zeros)

    def first_key(self, device: Array) -> Array:
        """Returns the index of the first key that is there; on the first device it may be negative."""
        return device * self.keys.rows_each - self.before - self.zeros[0]

    def add(self, x: Array, dim: int, axis: str) -> Array:
        """Adds what is around its own keys to what a device has of an array, in `jax.shard_map`."""
        each, neighbours = self.keys.rows_each, [(device, device + 1) for device in range(self.keys.devices - 1)]
        parts = [x]
        if self.before:
            last = lax.slice_in_dim(x, each - self.before, each, axis=dim)
            parts = [lax.ppermute(last, axis, neighbours), *parts]
        if self.after:
            first = lax.slice_in_dim(x, 0, self.after, axis=dim)
            parts = [*parts, lax.ppermute(first, axis, [(there, here) for here, there in neighbours])]
        widths = [(0, 0)] * x.ndim
        widths[dim] = self.zeros
        return jnp.pad(jnp.concatenate(parts, axis=dim), widths)


def find_halo(plan: Plan, split: Split, program: RowProgram) -> Halo | None:
    """Returns the halo of a plan, or None if rows reach further than the neighbours of their device.

    None as well where that is as much as all keys, where blocks hold all keys, as the only one of a plan does, and
    where the program has an array with a number for each key.
    """
    leaves = jax.tree.leaves(program, is_leaf=lambda leaf: isinstance(leaf, Overlay))
    by_key = any(isinstance(leaf, Overlay) and leaf.array.shape[-1] != 1 for leaf in leaves)
    all_keys = plan.whole or any(strip.num_keys == split.keys.length for strip in plan.strips)
    if program.mask is None or by_key or all_keys:
        return None
    each = split.keys.rows_each
    reaches = [_reach(strip, split, program.mask) for strip in plan.strips]
    before, after = (max(0, *reach) for reach in zip(*reaches, strict=True))
    if max(before, after) > each or before + after >= each * (split.devices - 1):
        return None
    first = [_first_keys(strip, split) for strip in plan.strips]
    lead = max(0, *(-int(x.min()) - before for x in first))
    ends = (int(x.max()) + strip.num_keys for x, strip in zip(first, plan.strips, strict=True))
    zeros = lead, max(0, *(end - each - after for end in ends))
    strips = (_counted_from(*x, before + lead) for x in zip(plan.strips, first, strict=True))
    return Halo(split.keys, before, after, zeros, dataclasses.replace(plan, strips=tuple(strips)))


def _reach(strip: Strip, split: Split, mask: Mask) -> tuple[int, int]:
    """Returns how far before a device's own keys the mask lets rows of a strip reach, and how far after them."""
    first_rows = np.array(strip.first_rows)
    spans = SpansOfDevices(mask, split.queries)
    begins, ends = spans.of_each(first_rows, first_rows + strip.block_size - 1, split.keys.length)
    own = split.keys.rows_each * np.arange(split.devices)[:, None]
    there = begins < ends
    reach = np.where(there, own - begins, 0), np.where(there, ends - own - split.keys.rows_each, 0)
    return int(reach[0].max()), int(reach[1].max())


def _first_keys(strip: Strip, split: Split) -> Int[np.ndarray, "devices blocks"]:
    """Returns the first key of each block on each device, counted from the first of the device's own."""
    first_keys = np.array(strip.by_device or (strip.first_keys,) * split.devices)
    return first_keys - split.keys.rows_each * np.arange(split.devices)[:, None]


def _counted_from(strip: Strip, first_keys: Int[np.ndarray, "devices blocks"], place: int) -> Strip:
    first_keys = first_keys + place
    by_device = None if (first_keys == first_keys[:1]).all() else tuple(map(tuple, first_keys.tolist()))
    return dataclasses.replace(strip, first_keys=tuple(first_keys[0].tolist()), by_device=by_device)
