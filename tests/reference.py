"""Attention as plain NumPy float64 loops: the specification that the library is tested against.

Nothing here is fast or clever. Every function handles one query, or loops over all of them.
"""

import numpy as np


def scaled_dot(query, key, head):
    """Scores one query vector against one key vector."""
    return query @ key / np.sqrt(len(query))


def cosine(temperature):
    """Returns the function that scores by the angle between two vectors; a zero vector has cosine zero."""

    def score(query, key, head):
        lengths = np.linalg.norm(query) * np.linalg.norm(key)
        return 0.0 if lengths == 0 else query @ key / lengths / temperature

    return score


def additive(query_kernel, key_kernel, vector):
    """Returns the function that scores by a network of one hidden layer; its arrays are those of every head."""

    def score(query, key, head):
        total = 0.0
        for unit, size in enumerate(vector[head]):
            total += size * np.tanh(query @ query_kernel[head][:, unit] + key @ key_kernel[head][:, unit])
        return total

    return score


def bilinear(matrix):
    """Returns the function that scores by a product with the matrix of a head."""
    return lambda query, key, head: query @ matrix[head] @ key


def negative_squared_distance(scale):
    """Returns the function that scores by nearness; ``scale`` is that of every head."""
    return lambda query, key, head: -scale[head] * sum((query - key) ** 2)


def soft_cap(score, cap):
    """Returns the function that bounds another score; ``cap`` is that of every head."""
    return lambda query, key, head: cap[head] * np.tanh(score(query, key, head) / cap[head])


def softmax(scores, allowed, head=0):
    """Turns one row of scores into weights over the allowed keys; a row without any gets zeros."""
    allowed = allowed & (scores > -np.inf)
    weights = np.zeros(len(scores))
    if allowed.any():
        exponentials = np.exp(scores[allowed] - scores[allowed].max())
        weights[allowed] = exponentials / exponentials.sum()
    return weights


def softmax_plus_one(sink):
    """Returns the softmax over the keys and one more, whose score is that of the head."""

    def normalize(scores, allowed, head=0):
        scores, allowed = np.append(scores, sink[head]), np.append(allowed, True)
        return softmax(scores, allowed)[:-1]

    return normalize


def sigmoid(bias):
    """Returns the function that turns each allowed score into a weight; ``bias`` is that of every head."""

    def normalize(scores, allowed, head=0):
        weights = np.zeros(len(scores))
        for j in range(len(scores)):
            if allowed[j] and scores[j] > -np.inf:
                weights[j] = 1 / (1 + np.exp(-(scores[j] + bias[head])))
        return weights

    return normalize


def entmax(alpha):
    """Returns the alpha-entmax, its threshold found by bisection: 1.5-entmax, or sparsemax where alpha is 2."""

    def normalize(scores, allowed, head=0):
        allowed = allowed & (scores > -np.inf)
        weights = np.zeros(len(scores))
        if allowed.any():
            below = (alpha - 1) * (scores[allowed] - scores[allowed].max())
            low, high = -1.0, 0.0
            for _ in range(100):
                threshold = (low + high) / 2
                total = (np.maximum(below - threshold, 0) ** (1 / (alpha - 1))).sum()
                low, high = (threshold, high) if total > 1 else (low, threshold)
            weights[allowed] = np.maximum(below - threshold, 0) ** (1 / (alpha - 1))
        return weights

    return normalize


def top_k(k):
    """Returns the softmax over the k largest allowed scores; of equal ones the first count as larger."""

    def normalize(scores, allowed, head=0):
        allowed = allowed & (scores > -np.inf)
        ranked = sorted(np.flatnonzero(allowed), key=lambda j: (-scores[j], j))
        return softmax(scores, np.isin(np.arange(len(scores)), ranked[:k]))

    return normalize


def everywhere(entry, head, query, key):
    """Is the mask that forbids nothing."""
    return True


def nowhere(entry, head, query, key):
    """Is the bias that adds nothing."""
    return 0.0


def look_up(array, shape):
    """Returns the rule that reads an array which broadcasts to a filter of the given shape."""
    whole = np.broadcast_to(np.asarray(array), shape)
    return lambda entry, head, query, key: whole[(*entry, head, query, key)]


def attention_filter(query, key, score=scaled_dot, mask=everywhere, bias=nowhere, normalizer=softmax):
    """Computes the filter ``[*batch, N, T, S]`` of a query ``[*batch, T, N, H]`` and a key ``[*batch, S, K, H]``.

    ``mask`` and ``bias`` are rules of (batch entry, head, query index, key index); ``score`` is one of (query vector,
    key vector, head), and ``normalizer`` one of (row of scores, row of the mask, head).
    """
    query, key = np.asarray(query, np.float64), np.asarray(key, np.float64)
    *batch, num_queries, num_heads, _ = query.shape
    num_keys, num_kv_heads = key.shape[-3:-1]
    weights = np.zeros((*batch, num_heads, num_queries, num_keys))
    for entry in np.ndindex(*batch):
        for head in range(num_heads):
            key_head = head // (num_heads // num_kv_heads)
            for i in range(num_queries):
                scores, allowed = np.zeros(num_keys), np.zeros(num_keys, bool)
                for j in range(num_keys):
                    scores[j] = score(query[entry][i, head], key[entry][j, key_head], head)
                    scores[j] += bias(entry, head, i, j)
                    allowed[j] = mask(entry, head, i, j)
                weights[(*entry, head, i)] = normalizer(scores, allowed, head)
    return weights


def average(weights, value):
    """Averages a value ``[*batch, S, K, V]`` with a filter ``[*batch, N, T, S]``; returns ``[*batch, T, N, V]``."""
    weights, value = np.asarray(weights, np.float64), np.asarray(value, np.float64)
    *batch, num_heads, num_queries, num_keys = weights.shape
    num_kv_heads, value_dim = value.shape[-2:]
    out = np.zeros((*batch, num_queries, num_heads, value_dim))
    for entry in np.ndindex(*batch):
        for head in range(num_heads):
            for i in range(num_queries):
                for j in range(num_keys):
                    key_head = head // (num_heads // num_kv_heads)
                    out[entry][i, head] += weights[(*entry, head, i, j)] * value[entry][j, key_head]
    return out


def attend(query, key, value, score=scaled_dot, mask=everywhere, bias=nowhere, normalizer=softmax):
    """Computes attention, ``[*batch, T, N, V]``."""
    return average(attention_filter(query, key, score, mask, bias, normalizer), value)
