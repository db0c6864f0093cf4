"""Measures of the filters of one probe example: what the titles and captions of the report say."""

import numpy as np

from jattn.report.record import Example, Layer


def oracle_matrix(layer: Layer, example: Example) -> np.ndarray:
    """Returns the oracle as a matrix: whether a query is scored and a key holds its answer.

    Returns:
      bool ``[queries, keys]``, all False for a layer that the oracle does not speak of.
    """
    matrix = np.zeros((len(example.sequences[layer.queries]), len(example.sequences[layer.keys])), bool)
    if layer.oracle:
        for query, keys in enumerate(example.oracle):
            matrix[query, list(keys)] = example.scored[query]
    return matrix


def oracle_mass(filters: np.ndarray, oracle: np.ndarray) -> np.ndarray:
    """Averages the weight on the oracle's keys, over the queries that have any: mean_q Σ_{k in oracle(q)} w[q, k].

    Args:
      filters: ``[heads, queries, keys]``.
      oracle: bool ``[queries, keys]``.

    Returns:
      ``[heads]``, nan where the oracle is empty.
    """
    return _mean_over_queries(np.where(oracle, filters, 0).sum(-1), oracle)


def hit_rate(filters: np.ndarray, oracle: np.ndarray) -> np.ndarray:
    """Counts how often a query's largest weight is on the oracle, as a part of those that have one: ``[heads]``."""
    best = filters.argmax(-1)
    return _mean_over_queries(oracle[np.arange(len(oracle)), best].astype(float), oracle)


def entropy(filters: np.ndarray) -> np.ndarray:
    """Averages -Σ_k w[q, k] ln w[q, k] over queries, in nats: ``[heads]``. One key each is 0, all alike ln keys."""
    logarithm = np.log(np.where(filters > 0, filters, 1))
    return -(filters * logarithm).sum(-1).mean(-1)


def _mean_over_queries(values: np.ndarray, oracle: np.ndarray) -> np.ndarray:
    known = oracle.any(-1)
    return values[:, known].mean(-1) if known.any() else np.full(len(values), np.nan)
