"""Dealing: which positions of a sequence each device of a mesh axis works on, and how arrays get there and back.

A causal mask leaves the first queries of a sequence little to do and the last ones much. So neighbours are dealt out:

    contiguous     0 0 0 0 1 1 1 1      as the arrays come
    striped        0 1 0 1 0 1 0 1      every device has rows from everywhere
    zigzag         0 1 1 0              each device has one piece from the front and one from the back

Here two devices; a digit is a run of neighbours.
"""

import dataclasses
from typing import Any, Literal

import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Int

from jattn.engine.plans import FEWEST_ROWS, Plan, Strip, blocked_plan
from jattn.rules.mask import Mask, Rows, Span

Order = Literal["contiguous", "striped", "zigzag"]
RUNS = 16
"""Striped rows come in about this many runs on each device, if these are long enough."""


@dataclasses.dataclass(frozen=True)
class Dealing:
    """Deals out the positions of a sequence to devices, in runs of neighbours.

    Args:
      length: how many positions there are; what does not fill the last runs is padded.
      devices: how many devices there are.
      runs: how many runs each device has: a multiple of `devices` where striped, two in zigzag.
      order: how runs are dealt out.

    Example:
      >>> Dealing(8, 2, 2, "zigzag").rows(np.arange(2)[:, None]).tolist()
      [[0, 1, 6, 7], [2, 3, 4, 5]]
    """

    length: int
    devices: int
    runs: int = 1
    order: Order = "contiguous"

    @property
    def run(self) -> int:
        """How many positions a run has."""
        return -(-self.length // (self.devices * self.runs))

    @property
    def rows_each(self) -> int:
        """How many positions a device has, padding among them."""
        return self.run * self.runs

    @property
    def padded(self) -> int:
        """How many positions all devices have."""
        return self.rows_each * self.devices

    def row(self, device: Any, local: Any) -> Any:
        """Returns the index of a position by its place on a device; padding has the index of the last position."""
        index = self.start(device, local // self.run) + local % self.run
        return (np if isinstance(index, np.ndarray) else jnp).minimum(index, self.length - 1)

    def start(self, device: Any, run: Any) -> Any:
        """Returns the index at which a run of a device starts; a run of padding starts at `length` or after it."""
        if self.order == "zigzag":
            return (device + run * (2 * self.devices - 1 - 2 * device)) * self.run
        if self.order == "striped":
            return (run * self.devices + device) * self.run
        return (device * self.runs + run) * self.run

    def rows(self, device: Any) -> Any:
        """Returns the index of each position that a device has."""
        kind = np if isinstance(device, np.ndarray) else jnp
        return self.row(device, kind.arange(self.rows_each, dtype=np.int32))

    def deal(self, x: Array, dim: int, axis: str, device: Int[Array, ""]) -> Array:
        """Moves an axis of an array from contiguous to how it is dealt, inside `jax.shard_map`: each position once."""
        before, after, n = x.shape[:dim], x.shape[dim + 1 :], self.devices
        if self.order == "striped":
            x = jnp.moveaxis(x.reshape(*before, self.runs // n, n, self.run, *after), dim + 1, dim)
            return lax.all_to_all(x, axis, dim, dim, tiled=True).reshape(*before, self.rows_each, *after)
        if self.order == "zigzag":
            pieces = jnp.split(x, 2, axis=dim)
            even, odd = (lax.ppermute(piece, axis, self._moves(k)) for k, piece in enumerate(pieces))
            return jnp.concatenate(_swap_odd(device, even, odd), axis=dim)
        return x

    def gather(self, x: Array, dim: int, axis: str, device: Int[Array, ""]) -> Array:
        """Moves an axis of an array back: the inverse of `deal`."""
        before, after, n = x.shape[:dim], x.shape[dim + 1 :], self.devices
        if self.order == "striped":
            x = lax.all_to_all(x.reshape(*before, n, self.runs // n, self.run, *after), axis, dim, dim, tiled=True)
            return jnp.moveaxis(x, dim, dim + 1).reshape(*before, self.rows_each, *after)
        if self.order == "zigzag":
            pieces = _swap_odd(device, *jnp.split(x, 2, axis=dim))
            back = [[(there, here) for here, there in self._moves(k)] for k in range(2)]
            return jnp.concatenate([lax.ppermute(*move) for move in zip(pieces, (axis, axis), back, strict=True)], dim)
        return x

    def _moves(self, half: int) -> list[tuple[int, int]]:
        """Says where one half of what each device has contiguously belongs in zigzag."""
        runs = [2 * device + half for device in range(self.devices)]
        return [(device, min(run, 2 * self.devices - 1 - run)) for device, run in enumerate(runs)]


def _swap_odd(device: Int[Array, ""], even: Array, odd: Array) -> tuple[Array, Array]:
    """Swaps two arrays on devices of odd index: there the first run of a zigzag is an odd one."""
    return jnp.where(device % 2 == 0, even, odd), jnp.where(device % 2 == 0, odd, even)


@dataclasses.dataclass(frozen=True)
class SpansOfDevices:
    """A mask as the rows of all devices see it: spans that start with the first device and are wide enough for all."""

    mask: Mask
    dealing: Dealing

    def of_each(self, first: Rows, last: Rows, num_keys: int) -> tuple[np.ndarray, np.ndarray]:
        """Bounds the keys of some blocks of rows on each device: two arrays ``[devices, blocks]``."""
        device = np.arange(self.dealing.devices)[:, None]
        first_row, last_row = (self.dealing.row(device, x[None]).ravel() for x in (first, last))
        spans = self.mask.allowed_span(first_row, last_row, num_keys)
        begins, ends = (np.clip(x, 0, num_keys).reshape(-1, first.size) for x in spans)
        return begins, np.maximum(begins, ends)

    def allowed_span(self, first: Rows, last: Rows, num_keys: int) -> Span:
        """As `Mask.allowed_span`, of blocks of rows as devices have them."""
        begins, ends = self.of_each(first, last, num_keys)
        begin = begins.min(axis=0)
        return begin, begin + (ends - begins).max(axis=0)


def plan_on_devices(
    shape: tuple[int, ...], mask: Mask | None, dealing: Dealing, block_size: int | None, walk_heads: bool
) -> Plan:
    """Plans blocks of the rows that each device has; all devices compute the same number of scores.

    Args:
      shape: ``(*batch, N, R, S)`` of the part of the filter with the `R` rows of one device.
      mask, block_size, walk_heads: as in `blocked_plan`; rows of the mask are those of the whole filter.
      dealing: of the queries.
    """
    if mask is None:
        return blocked_plan(shape, None, block_size, walk_heads)
    spans = SpansOfDevices(mask, dealing)
    plan = blocked_plan(shape, spans, block_size, walk_heads)
    return dataclasses.replace(plan, strips=tuple(_by_device(strip, spans, shape[-1]) for strip in plan.strips))


def _by_device(strip: Strip, spans: SpansOfDevices, num_keys: int) -> Strip:
    first_rows = np.array(strip.first_rows)
    begins, ends = spans.of_each(first_rows, first_rows + strip.block_size - 1, num_keys)
    # A block without keys must not decide where those of the others begin.
    begins = np.where(begins < ends, begins, num_keys)
    first, end = begins.min(axis=1, keepdims=True), ends.max(axis=1, keepdims=True)
    if strip.together and (end - first <= strip.num_keys).all():
        begins = np.broadcast_to(first, begins.shape)
    keys = np.clip(begins, 0, num_keys - strip.num_keys)
    by_device = None if (keys == keys[:1]).all() else tuple(tuple(of_one) for of_one in keys.tolist())
    return dataclasses.replace(strip, first_keys=tuple(keys[0].tolist()), by_device=by_device)


def striped(length: int, devices: int) -> Dealing:
    """Deals out a sequence in stripes: about `RUNS` runs on each device, of at least `FEWEST_ROWS` rows."""
    most = max(1, length // (devices * devices * FEWEST_ROWS))
    return Dealing(length, devices, devices * min(most, -(-RUNS // devices)), "striped")
