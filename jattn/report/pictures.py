"""A picture that is read, with the weights of a query over its patches: once for each query, bright where they are."""

import base64
import io
from dataclasses import dataclass

import numpy as np
from PIL import Image, UnidentifiedImageError

from jattn.drawing.look import ACCENT
from jattn.report.measures import measure, oracle_matrix
from jattn.report.record import INPUTS, Layer, Picture, RunRecord

VEIL = 0.86
"""How much of a patch without weight is covered by paper."""

MOST = 12
"""The most queries that are shown."""


@dataclass(frozen=True)
class Spots:
    """Names the head whose weights are shown over the picture of the first example."""

    record: RunRecord
    layer: Layer
    head: int
    picture: Picture

    @property
    def count(self) -> int:
        """How many queries are shown."""
        return min(MOST, self.record.counts(self.layer, 0)[0])

    def images(self, snapshot: int, side: int) -> list[np.ndarray]:
        """Draws the picture for each query: uint8 ``[height, width, 3]``, about `side` pixels wide; oracle outlined."""
        weights = np.nan_to_num(self.record.filters(snapshot, self.layer, 0)[self.head])
        oracle = oracle_matrix(self.layer, self.record.probes.examples[0])
        patch = max(1, side // self.picture.columns)
        grid = self.picture.rows, self.picture.columns
        pixels = _pixels(self.picture, patch)
        return [
            _covered(pixels, weights[query].reshape(grid), oracle[query].reshape(grid), patch)
            for query in range(self.count)
        ]

    def labels(self, snapshot: int) -> list[tuple[str, str, bool]]:
        """Returns for each query what it reads, what the model says there, and whether that is right."""
        example = self.record.probes.examples[0]
        answers = self.record.answers[snapshot] if self.record.answers else None
        said = example.targets if answers is None else answers[0]
        return [
            (example.sequences[INPUTS][query], str(said[query]), str(said[query]) == example.targets[query])
            for query in range(self.count)
        ]


def choose_spots(record: RunRecord) -> Spots | None:
    """Chooses the head with the most mass on the oracle among those that look at a picture; None where none does."""
    picture = record.probes.examples[0].picture
    if picture is None:
        return None
    layers = [layer for layer in record.probes.layers if layer.keys == picture.sequence and layer.queries == INPUTS]
    layers = [layer for layer in layers if not record.is_pooled(layer)]
    last = len(record.steps) - 1
    heads = [
        (float(mass), layer, head)
        for layer in layers
        for head, mass in enumerate(np.nan_to_num(measure(record, last, layer, 0)["mass"]))
    ]
    if not heads:
        return None
    _, layer, head = max(heads, key=lambda one: one[0])
    return Spots(record, layer, head, picture)


def _pixels(picture: Picture, patch: int) -> np.ndarray:
    size = picture.columns * patch, picture.rows * patch
    try:
        with Image.open(io.BytesIO(base64.b64decode(picture.png))) as image:
            return np.asarray(image.convert("RGB").resize(size, Image.Resampling.NEAREST), float)
    except (ValueError, OSError, UnidentifiedImageError) as error:
        raise ValueError(f"filters/probes.json: expected a picture as PNG in base64, got {error}") from error


def _covered(pixels: np.ndarray, weights: np.ndarray, oracle: np.ndarray, patch: int) -> np.ndarray:
    """Covers each patch with paper, the less the more weight it has, and outlines those of the oracle."""

    def spread(cells: np.ndarray) -> np.ndarray:
        return cells.repeat(patch, axis=0).repeat(patch, axis=1)

    veil = VEIL * (1 - np.sqrt(np.clip(spread(weights), 0, 1)))[..., None]
    covered = pixels * (1 - veil) + 255 * veil
    width = 2 if patch > 12 else 1
    edge = np.ones((patch, patch), bool)
    edge[width:-width, width:-width] = False
    outline = spread(oracle) & np.tile(edge, oracle.shape)
    covered[outline] = [int(ACCENT[i : i + 2], 16) for i in (1, 3, 5)]
    return covered.round().astype(np.uint8)
