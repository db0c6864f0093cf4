"""What every fold says of a dense filter, in plain NumPy float64: the specification that folds are tested against."""

import numpy as np


def entropy(weights):
    """Computes each row's entropy after dividing by its sum."""
    out = np.zeros(weights.shape[:-1])
    for row in np.ndindex(*out.shape):
        shares = weights[row][weights[row] > 0]
        shares = shares / shares.sum()
        out[row] = -(shares * np.log(shares)).sum()
    return out


def effective_keys(weights):
    """Counts the keys that each row looks at in effect."""
    return np.where(weights.sum(axis=-1) > 0, np.exp(entropy(weights)), 0)


def largest(weights):
    """Finds each row's largest weight."""
    return weights.max(axis=-1, initial=0)


def argmax(weights):
    """Finds the first key of largest weight, or the first key."""
    return weights.argmax(axis=-1)


def top_k(k):
    """Returns the function that ranks the keys of each row."""

    def ranked(weights):
        keys = np.argsort(-weights, axis=-1, kind="stable")[..., :k]
        found = np.take_along_axis(weights, keys, axis=-1)
        return found, np.where(found == 0, -1, keys)

    return ranked


def expected_distance(offset):
    """Returns the function that averages the distance between query and key."""

    def distance(weights):
        out = np.zeros(weights.shape[:-1])
        for row in np.ndindex(*out.shape):
            total = weights[row].sum()
            for j, weight in enumerate(weights[row]):
                out[row] += 0 if total == 0 else weight * abs(row[-1] + offset - j) / total
        return out

    return distance


def mass(rule):
    """Returns the function that adds up the weights on a set, a rule of (batch entry, head, query, key)."""

    def on_set(weights):
        out = np.zeros(weights.shape[:-1])
        for *entry, n, i, j in np.ndindex(*weights.shape):
            if rule((*entry,), n, i, j):
                out[(*entry, n, i)] += weights[(*entry, n, i, j)]
        return out

    return on_set


def sink_mass(num_keys):
    """Returns the function that adds up the weights on the first keys."""
    return lambda weights: weights[..., :num_keys].sum(axis=-1)


def received(weights):
    """Adds up what each key gets."""
    return weights.sum(axis=-2)


def pool(q_bins, k_bins):
    """Returns the function that averages over bins of queries what lies in bins of keys."""

    def pooled(weights):
        *leading, num_queries, num_keys = weights.shape
        out, sizes = np.zeros((*leading, q_bins, k_bins)), np.zeros(q_bins)
        for i in range(num_queries):
            a = i * q_bins // num_queries
            sizes[a] += 1
            for j in range(num_keys):
                out[..., a, j * k_bins // num_keys] += weights[..., i, j]
        return out / sizes[:, None]

    return pooled


def histogram(edges, rule=lambda entry, head, query, key: True):
    """Returns the function that counts allowed keys by weight, between neighbouring edges; the last is included."""

    def counts(weights):
        *leading, _, _ = weights.shape
        out = np.zeros((*leading, len(edges) - 1))
        for *entry, n, i, j in np.ndindex(*weights.shape):
            if not rule((*entry,), n, i, j):
                continue
            weight = weights[(*entry, n, i, j)]
            for b in range(len(edges) - 1):
                last = b == len(edges) - 2 and weight == edges[-1]
                out[(*entry, n, b)] += edges[b] <= weight < edges[b + 1] or last
        return out

    return counts
