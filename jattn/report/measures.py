"""Measures of the filters of one probe example: what the titles and captions of the report say."""

import numpy as np

from jattn.drawing.bins import mean_over_queries, oracle_mass
from jattn.report.record import Example, Layer, RunRecord
from jattn.report.snapshots import Pooled


def oracle_matrix(layer: Layer, example: Example, bins: tuple[int, int] | None = None) -> np.ndarray:
    """Returns the oracle as a matrix: whether a query is scored and a key holds its answer.

    Args:
      layer: the layer.
      example: the example.
      bins: of a pooled filter, how many rows and columns its map has; a cell is True where any query and key of it are.

    Returns:
      bool ``[queries, keys]``, or ``[*bins]``, all False for a layer that the oracle does not speak of.
    """
    queries, keys = len(example.sequences[layer.queries]), len(example.sequences[layer.keys])
    rows, columns = bins or (queries, keys)
    matrix = np.zeros((rows, columns), bool)
    if layer.oracle:
        for query, (scored, right) in enumerate(zip(example.scored, example.oracle, strict=True)):
            if scored:
                matrix[query * rows // queries, np.array(right, int) * columns // keys] = True
    return matrix


def measure(record: RunRecord, snapshot: int, layer: Layer, example: int) -> dict[str, np.ndarray]:
    """Measures one layer's filters for one example: `mass`, `hit_rate` and `entropy`, each ``[heads]``.

    Those of filters that are kept pooled were measured before the pooling, and are kept with them.
    """
    kept = record.snapshots[snapshot][layer.name]
    if isinstance(kept, Pooled):
        return {name: getattr(kept, name)[example] for name in ("mass", "hit_rate", "entropy")}
    filters, oracle = record.filters(snapshot, layer, example), oracle_matrix(layer, record.probes.examples[example])
    return {"mass": oracle_mass(filters, oracle), "hit_rate": hit_rate(filters, oracle), "entropy": entropy(filters)}


def hit_rate(filters: np.ndarray, oracle: np.ndarray) -> np.ndarray:
    """Counts how often a query's largest weight is on the oracle, as a part of those that have one: ``[heads]``."""
    best = filters.argmax(-1)
    return mean_over_queries(oracle[np.arange(len(oracle)), best].astype(float), oracle)


def entropy(filters: np.ndarray) -> np.ndarray:
    """Averages -Σ_k w[q, k] ln w[q, k] over queries, in nats: ``[heads]``. One key each is 0, all alike ln keys."""
    logarithm = np.log(np.where(filters > 0, filters, 1))
    return -(filters * logarithm).sum(-1).mean(-1)
