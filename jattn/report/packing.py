"""What the page holds of the filters of a run, and how it travels.

- Weights travel as one byte each: level n of 0 to 254 stands for weight n / 254, so what the page shows is within 0.002
  of the weight, and 255 stands for what is not a finite number.
- Cells of a pooled map alike, but level n stands for weight (n / 254)²: small weights are told apart.
- Rows on demand are the largest weights of every query, two bytes each, n of 0 to 65,534 for weight n / 65,534 and
  65,535 for what is not a finite number, and their keys, two bytes each or four.
"""

import base64
import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from jattn.drawing.ink import LINEAR, ROOTED
from jattn.drawing.look import weight_levels
from jattn.report.record import Layer, RunRecord
from jattn.report.selection import choose_snapshots
from jattn.report.snapshots import Pooled

TOP_LEVEL, TOP_ROW_LEVEL = 254, 65_534


@dataclass(frozen=True)
class Contents:
    """Says what a page holds.

    Args:
      snapshots: of which snapshots of the run it holds the pictures.
      row_snapshots: of which of these it holds rows on demand too; empty where no filter is pooled.
      row_examples: for how many of the examples.
    """

    snapshots: list[int]
    row_snapshots: list[int]
    row_examples: int


def choose_contents(record: RunRecord, limit: int) -> Contents:
    """Chooses what fits: all pictures before any rows, of both the last snapshot before all others.

    Args:
      record: the run.
      limit: how many bytes there may be. Two snapshots, and the last one's rows for one example, are held in any case.
    """
    examples, count = len(record.probes.examples), len(record.steps)
    cells = sum(math.prod(_shape(record, layer)) for layer in record.probes.layers)
    snapshots = choose_snapshots(count, max(2, limit // max(1, cells)))
    sizes = {snapshot: size for snapshot in snapshots if (size := _row_bytes(record, snapshot))}
    if not sizes:
        return Contents(snapshots, [], 0)
    fitting = max(1, (limit - cells * len(snapshots)) // max(sizes.values()))
    kept = choose_snapshots(len(sizes), fitting // examples) if fitting >= 2 * examples else [len(sizes) - 1]
    return Contents(snapshots, [list(sizes)[index] for index in kept], min(fitting, examples))


def pack_weights(record: RunRecord, layer: Layer, contents: Contents) -> dict[str, Any]:
    """Packs the pictures of a layer, ``[snapshots, examples, heads, rows, columns]``; what is padding is anything."""
    weights = np.zeros((len(contents.snapshots), *_shape(record, layer)), np.float32)
    for index, snapshot in enumerate(contents.snapshots):
        for example in range(len(record.probes.examples)):
            picture = record.picture(snapshot, layer, example)
            weights[index, example, :, : picture.shape[1], : picture.shape[2]] = picture
    levels = weight_levels((ROOTED if record.is_pooled(layer) else LINEAR)(weights), TOP_LEVEL)
    return {"shape": levels.shape, "levels": _text(levels)}


def pack_rows(record: RunRecord, layer: Layer, contents: Contents) -> dict[str, Any] | None:
    """Packs the rows on demand of a layer, ``[snapshots, examples, heads, queries, k]``; None where it has none.

    `snapshots` are indices into those that the page holds.
    """
    kept = [record.snapshots[snapshot][layer.name] for snapshot in contents.row_snapshots]
    rows = [each for each in kept if isinstance(each, Pooled)]
    if not rows:
        return None
    weights = np.stack([each.top_weights[: contents.row_examples] for each in rows]).astype(np.float32)
    keys = np.stack([each.top_keys[: contents.row_examples] for each in rows])
    levels = np.rint(np.clip(np.nan_to_num(weights), 0, 1) * TOP_ROW_LEVEL)
    return {
        "snapshots": [contents.snapshots.index(snapshot) for snapshot in contents.row_snapshots],
        "shape": keys.shape,
        "levels": _text(np.where(np.isfinite(weights), levels, TOP_ROW_LEVEL + 1).astype("<u2")),
        "keys": _text(keys.astype(f"<u{_key_bytes(rows[0])}")),
        "key_bytes": _key_bytes(rows[0]),
    }


def _shape(record: RunRecord, layer: Layer) -> tuple[int, ...]:
    """Returns the shape of a layer's pictures at one snapshot, padding included."""
    kept = [snapshot[layer.name] for snapshot in record.snapshots]
    maps = [each.map.shape for each in kept if isinstance(each, Pooled)]
    return next(iter(maps or [each.shape for each in kept if not isinstance(each, Pooled)]))


def _row_bytes(record: RunRecord, snapshot: int) -> int:
    """Counts the bytes of one example's rows on demand in all pooled layers; none where a layer of them has none."""
    kept = [record.snapshots[snapshot][layer.name] for layer in record.probes.layers if record.is_pooled(layer)]
    rows = [each for each in kept if isinstance(each, Pooled)]
    return sum(each.top_keys[0].size * (2 + _key_bytes(each)) for each in rows) if len(rows) == len(kept) else 0


def _key_bytes(pooled: Pooled) -> int:
    return 2 if pooled.top_keys.dtype.itemsize <= 2 else 4


def _text(array: np.ndarray) -> str:
    return base64.b64encode(array.tobytes()).decode()
