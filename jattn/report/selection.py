"""What to draw when there is more than fits: which steps, and which heads."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from jattn.report.record import Layer, RunRecord


@dataclass(frozen=True)
class Head:
    """Names one head of one layer, and says whether it is the last of its layer among those drawn."""

    layer: Layer
    head: int
    last: bool

    @property
    def name(self) -> str:
        """The head in words: `block_0/attention, head 0`."""
        return f"{self.layer.name}, head {self.head}"


def choose_snapshots(count: int, limit: int) -> list[int]:
    """Chooses at most `limit` of `count` snapshots, evenly spaced, the first and the last always among them.

    Example:
      >>> choose_snapshots(9, 3), choose_snapshots(2, 3), choose_snapshots(1, 3)
      ([0, 4, 8], [0, 1], [0])
    """
    return np.unique(np.linspace(0, count - 1, min(count, limit)).round().astype(int)).tolist()


def choose_turn(record: RunRecord) -> list[int]:
    """Chooses three snapshots that tell the run: the first, the one halfway in form, and the last.

    Halfway is the snapshot whose filters of the first example are as far from the first's as from the last's, in the
    sum of absolute differences; steps would not do, as filters turn at once and snapshots need not be evenly spaced.
    """
    count = len(record.steps)
    if count < 3:
        return list(range(count))
    layers = record.probes.layers
    flat = [np.concatenate([record.picture(i, layer, 0).ravel() for layer in layers]) for i in range(count)]
    excess = [abs(np.abs(now - flat[0]).sum() - np.abs(now - flat[-1]).sum()) for now in flat[1:-1]]
    return [0, 1 + int(np.argmin(excess)), count - 1]


def choose_heads(record: RunRecord, limit: int) -> list[Head]:
    """Chooses at most `limit` heads in the order of the model, those of layers with an oracle before all others."""
    everything = [(layer, head) for layer in record.probes.layers for head in range(layer.heads)]
    by_oracle = sorted(everything, key=lambda pair: not pair[0].oracle)
    kept = by_oracle[:limit]
    chosen = [pair for pair in everything if pair in kept]
    following: Sequence[tuple[Layer, int] | None] = [*chosen[1:], None]
    return [
        Head(layer, head, after is None or after[0] != layer)
        for (layer, head), after in zip(chosen, following, strict=True)
    ]


def omission(record: RunRecord, shown: int) -> str:
    """Says how many heads are not drawn, or nothing where all are."""
    total = sum(layer.heads for layer in record.probes.layers)
    return f"{shown} of {total} heads" if shown < total else ""
