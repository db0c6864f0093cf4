"""What the page holds of the filters of a run, and how it travels.

- Weights travel as one byte each: level n of 0 to 254 stands for weight n / 254, so what the page shows is within 0.002
  of the weight, and 255 stands for what is not a finite number. Where there are many, those of all steps but the last
  are rounded to 1/32 first.
- Cells of a pooled map alike, but level n stands for weight (n / 254)²: small weights are told apart.
- Rows on demand are the largest weights of every query, two bytes each, n of 0 to 65,534 for weight n / 65,534 and
  65,535 for what is not a finite number, and their keys, two bytes each or four.
- Answers of the model travel as indices into the list of different ones, two bytes each.

All of it is deflated, of weights the differences from one snapshot to the next, and written in base64.
"""

import base64
import math
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from jattn.drawing.ink import LINEAR, ROOTED
from jattn.drawing.look import weight_levels
from jattn.report.record import Layer, RunRecord
from jattn.report.selection import choose_snapshots
from jattn.report.snapshots import Pooled

TOP_LEVEL, TOP_ROW_LEVEL, NO_ANSWER = 254, 65_534, 65_535
COARSE = 32
FINE_CELLS = 200_000
"""The most cells of pictures that a page holds as fine as one byte allows; of more, only those of the last step are."""


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


def raw_size(record: RunRecord, contents: Contents) -> int:
    """Counts the bytes of what a page holds before it is deflated."""
    cells = sum(math.prod(_shape(record, layer)) for layer in record.probes.layers) * len(contents.snapshots)
    rows = sum(_row_bytes(record, snapshot) for snapshot in contents.row_snapshots)
    return cells + rows * contents.row_examples


def text_size(packed: Mapping[str, Sequence[Mapping[str, Any] | None]]) -> int:
    """Counts the bytes of packed weights and rows in the page."""
    each = (value for parts in packed.values() for part in parts if part for value in part.values())
    return sum(len(value) for value in each if isinstance(value, str))


def pack_weights(record: RunRecord, layer: Layer, contents: Contents) -> dict[str, Any]:
    """Packs the pictures of a layer, ``[snapshots, examples, heads, rows, columns]``; what is padding is anything."""
    weights = np.zeros((len(contents.snapshots), *_shape(record, layer)), np.float32)
    for index, snapshot in enumerate(contents.snapshots):
        for example in range(len(record.probes.examples)):
            picture = record.picture(snapshot, layer, example)
            weights[index, example, :, : picture.shape[1], : picture.shape[2]] = picture
    ink = (ROOTED if record.is_pooled(layer) else LINEAR)(weights)
    coarse = [_is_many(record, contents) and index < len(weights) - 1 for index in range(len(weights))]
    ink[coarse] = np.rint(ink[coarse] * COARSE) / COARSE
    levels = weight_levels(ink, TOP_LEVEL)
    changes = np.diff(levels, axis=0, prepend=np.zeros_like(levels[:1]))
    return {"shape": levels.shape, "packed": deflated(changes), "coarse": coarse}


def _is_many(record: RunRecord, contents: Contents) -> bool:
    cells = sum(math.prod(_shape(record, layer)) for layer in record.probes.layers)
    return cells * len(contents.snapshots) > FINE_CELLS


def pack_answers(record: RunRecord, contents: Contents) -> dict[str, Any] | None:
    """Packs what the model answered, ``[snapshots, examples, queries]``; None where no snapshot says."""
    kept = [record.answers[snapshot] if record.answers else None for snapshot in contents.snapshots]
    known = [answers for answers in kept if answers is not None]
    if not known:
        return None
    texts = sorted({str(text) for answers in known for text in np.unique(answers)})
    place = {text: index for index, text in enumerate(texts)}
    shape = (len(kept), known[0].shape[0], max(answers.shape[1] for answers in known))
    indices = np.full(shape, NO_ANSWER, "<u2")
    for snapshot, answers in enumerate(kept):
        if answers is not None:
            found = [[place[str(text)] for text in row] for row in answers]
            indices[snapshot, :, : answers.shape[1]] = found
    return {"texts": texts, "shape": shape, "packed": deflated(indices)}


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
        "levels": deflated(np.where(np.isfinite(weights), levels, TOP_ROW_LEVEL + 1).astype("<u2")),
        "keys": deflated(keys.astype(f"<u{_key_bytes(rows[0])}")),
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


def deflated(array: np.ndarray) -> str:
    """Writes the bytes of an array in base64, deflated."""
    return base64.b64encode(zlib.compress(array.tobytes(), 9)).decode()
