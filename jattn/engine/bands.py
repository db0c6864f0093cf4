"""Bands: masks taken to pieces that a fused kernel knows."""

import dataclasses
import functools
from collections.abc import Iterator
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Int

from jattn.rules import masks
from jattn.rules.mask import Both, Mask
from jattn.rules.overlay import Overlay

FARTHEST = 2**30
"""A distance that is longer than any sequence."""


@dataclasses.dataclass(frozen=True)
class Band:
    """A mask taken to pieces: ``low <= key - query <= high``, lengths, and segments, all of which must allow a key.

    Args:
      low: None is no bound.
      high: likewise.
      lengths: each an int or a `Overlay` array of one per batch entry; keys from the smallest on are forbidden.
      query_lengths: likewise for queries.
      segments: masks that compare ids.
      unread: what else the mask is made of, in words; None is nothing.
    """

    low: int | None = None
    high: int | None = None
    lengths: tuple[Overlay | int, ...] = ()
    query_lengths: tuple[Overlay | int, ...] = ()
    segments: tuple[Any, ...] = ()
    unread: str | None = None

    @property
    def window(self) -> str:
        """The bounds, in words."""
        return f"key - query {'any' if self.low is None else self.low} to {'any' if self.high is None else self.high}"

    def sees(self, num_queries: int, num_keys: int) -> Bool[np.ndarray | Array, "B T"]:
        """Says which queries may attend to a key, segments aside; ``B`` may be 1 for all entries."""
        return self._meet(num_queries, num_keys, self.low, self.high, self.query_lengths, self.lengths)

    def seen(self, num_queries: int, num_keys: int) -> Bool[np.ndarray | Array, "B S"]:
        """Says which keys a query may attend to, segments aside; ``B`` may be 1 for all entries."""
        low, high = (None if bound is None else -bound for bound in (self.high, self.low))
        return self._meet(num_keys, num_queries, low, high, self.lengths, self.query_lengths)

    @staticmethod
    def _meet(num_here: int, num_there: int, low: Any, high: Any, ends_here: Any, ends_there: Any) -> Any:
        here = np.arange(num_here, dtype=np.int32)[None, :]
        first = np.zeros_like(here) if low is None else np.maximum(0, here + low)
        last = np.full_like(here, num_there - 1) if high is None else np.minimum(num_there - 1, here + high)
        within = shortest(ends_here, num_here), shortest(ends_there, num_there)
        return (first <= last) & (here < within[0]) & (first < within[1])


def read_mask(mask: Mask | None) -> Band:
    """Takes a mask to pieces, as far as windows with static offsets, lengths and segments go."""
    band = Band()
    for part in _conjuncts(mask):
        band = _add(band, part)
    return band


def shortest(lengths: tuple[Overlay | int, ...], most: int) -> Int[np.ndarray | Array, "B 1"]:
    """Returns the smallest of lengths per batch entry, in a flat batch, or one for all entries."""
    fixed = np.full((1, 1), max(0, min([most, *(x for x in lengths if isinstance(x, int))])), np.int32)
    laid = (x.array.reshape(-1, 1).astype(jnp.int32) for x in lengths if isinstance(x, Overlay))
    return functools.reduce(jnp.minimum, laid, fixed)


def _conjuncts(mask: Mask | None) -> Iterator[Mask]:
    if isinstance(mask, Both):
        yield from (*_conjuncts(mask.left), *_conjuncts(mask.right))
    elif mask is not None:
        yield mask


def _add(band: Band, part: Mask) -> Band:
    if isinstance(part, masks.Padding):
        queries = () if part.query_lengths is None else (part.query_lengths,)
        band = dataclasses.replace(band, query_lengths=(*band.query_lengths, *queries))
        return dataclasses.replace(band, lengths=(*band.lengths, part.lengths))
    if isinstance(part, masks.Prefix):
        length = part.lengths.number if part.lengths.known else part.lengths.array
        return dataclasses.replace(band, lengths=(*band.lengths, length))
    if isinstance(part, masks.Segments):
        return dataclasses.replace(band, segments=(*band.segments, part))
    if not isinstance(part, masks.Window):
        return dataclasses.replace(band, unread=repr(part))
    if not part.offset.known:
        return dataclasses.replace(band, unread="an offset that is an array")
    if not all(side is None or side.known for side in (part.left, part.right)):
        return dataclasses.replace(band, unread="a width that is an array")
    lows, highs = (
        [side, _near(distance)] for side, distance in zip((band.low, band.high), part.distances, strict=True)
    )
    low = max((x for x in lows if x is not None), default=None)
    return dataclasses.replace(band, low=low, high=min((x for x in highs if x is not None), default=None))


def _near(distance: int | None) -> int | None:
    """Keeps a distance within int32; all that are longer than a sequence mean the same."""
    return None if distance is None else max(-FARTHEST, min(FARTHEST, distance))
