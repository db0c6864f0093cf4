"""What published generators draw, restated in NumPy: the words of one source, and in `mqar` where it is asked."""

import numpy as np


def odds_first(rng, length, num_symbols):
    """google-deepmind/neural_networks_chomsky_hierarchy, tasks/cs/odds_first.py."""
    return [str(token) for token in rng.integers(num_symbols, size=length)]


def selective_copy(rng, length, num_symbols, items):
    """athms/mad-lab, mad/data/instances.py."""
    blanks = np.bincount(rng.integers(items, size=length - 2 * items - 1), minlength=items)
    words = []
    for count in blanks:
        words += ["."] * count + [str(rng.integers(num_symbols))]
    return [*words, ">", *["."] * items]


def induction(rng, length, num_symbols):
    """HazyResearch/safari, src/dataloaders/synthetics.py, with one trigger and one token to copy."""
    words = [str(token) for token in rng.integers(num_symbols, size=length)]
    words[rng.integers(length - 3)] = words[-1] = "=>"
    return words


def associative_recall(rng, length, num_keys, num_values):
    """HazyResearch/safari, src/dataloaders/synthetics.py, with keys of one token and none that did not come."""
    value_of = {chr(ord("a") + key): str(rng.integers(num_values)) for key in range(num_keys)}
    names = list(value_of)
    keys = [names[i] for i in rng.integers(num_keys, size=length // 2 - 1)]
    asked = names[rng.integers(num_keys)]
    if asked not in keys:
        came = sorted(set(keys))
        asked = came[rng.integers(len(came))]
    return [*(word for key in keys for word in (key, value_of[key])), "=>", asked]


def addition(rng, length, base):
    """google-deepmind/neural_networks_chomsky_hierarchy, tasks/cs/binary_addition.py, there with the base 2."""
    size = rng.integers(1, length - 1)

    def digits(size):
        number = rng.integers(1, base**size)
        return [str(number // base**i % base) for i in range(size)]

    return [*digits(size), "+", *digits(length - 1 - size)]


def mqar(rng, length, vocabulary, pairs):
    """HazyResearch/zoology, zoology/data/multiquery_ar.py; also returns the place where each key is asked for."""
    half, slots = vocabulary // 2, (length - 2 * pairs) // 2
    tokens = rng.integers(vocabulary, size=length)
    tokens[: 2 * pairs : 2] = 1 + rng.permutation(half - 1)[:pairs]
    tokens[1 : 2 * pairs : 2] = half + rng.permutation(half)[:pairs]
    weights, places = np.arange(1, slots + 1) ** (0.01 - 1), []
    for pair in range(pairs):
        slot = rng.choice(slots, p=weights / weights.sum())
        weights[slot] = 0
        places.append(2 * pairs + 2 * int(slot))
        tokens[places[-1]] = tokens[2 * pair]
    return [f"k{token}" if token < half else f"v{token - half}" for token in tokens], places
