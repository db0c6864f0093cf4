"""Patterns: sets of keys that attention heads are known to look at, as masks.

They are masks like those of `jattn.masks`, so they combine with ``&``, ``|`` and ``~``, and serve wherever a set of
keys is asked for: as a mask, to knock out what a head looks at, or for the weight that a filter puts on them.

Query ``i`` stands at position ``i + offset`` of the keys' sequence.

Example:
  >>> import jax.numpy as jnp
  >>> from jattn import masks, patterns
  >>> masks.draw(patterns.induction(jnp.array([3, 1, 4, 3, 1])), 5, 5).split()
  ['.....', '.....', '.....', '.#...', '..#..']
"""

from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Int

from jattn.rules import masks
from jattn.rules.checks import as_own, check_integer
from jattn.rules.mask import Mask

PATTERNS = (
    "itself",
    "previous token",
    "next token",
    "local band",
    "first token",
    "same token",
    "duplicate token",
    "induction",
)
"""The names of the patterns, the most specific first."""


def itself(offset: int = 0) -> Mask:
    """Holds the key at the query's own position: ``j = i + offset``."""
    return masks.sliding_window(0, 0, offset)


def previous_token(offset: int = 0) -> Mask:
    """Holds the key before the query: ``j = i + offset - 1``.

    Source: Voita et al. 2019, "Analyzing multi-head self-attention", section 5.1.
    """
    return masks.sliding_window(0, 0, offset - 1)


def next_token(offset: int = 0) -> Mask:
    """Holds the key after the query: ``j = i + offset + 1``.

    Source: Clark et al. 2019, "What does BERT look at?", section 3.1.
    """
    return masks.sliding_window(0, 0, offset + 1)


def local_band(band: int, offset: int = 0) -> Mask:
    """Holds the keys around the query, itself included: ``|i + offset - j| ≤ band``."""
    band = check_integer("band", band, 0)
    return masks.sliding_window(band, band, offset)


def first_token() -> Mask:
    """Holds the first key, to which heads look that have nothing to look at: ``j = 0``.

    Source: Xiao et al. 2023, "Efficient streaming language models with attention sinks", section 3.1.
    """
    return masks.prefix(1)


def same_token(tokens: Int[Array, "*batch S"], query_tokens: Int[Array, "*batch T"] | None = None) -> Mask:
    """Holds the keys whose token is the query's, itself included: ``tokens[j] = query_tokens[i]``.

    Args:
      tokens: the tokens of the keys.
      query_tokens: those of the queries; the same by default.
    """
    return masks.segments(*_both(tokens, query_tokens))


def duplicate_token(
    tokens: Int[Array, "*batch S"], query_tokens: Int[Array, "*batch T"] | None = None, offset: int = 0
) -> Mask:
    """Holds the other keys whose token is the query's: ``tokens[j] = query_tokens[i]`` and ``j ≠ i + offset``.

    Args:
      tokens, query_tokens: as in `same_token`.
      offset: the position of the first query in the keys' sequence.

    Source: Wang et al. 2022, "Interpretability in the wild".
    """
    return same_token(tokens, query_tokens) & ~itself(offset)


def induction(
    tokens: Int[Array, "*batch S"], query_tokens: Int[Array, "*batch T"] | None = None, offset: int | None = 0
) -> Mask:
    """Holds the keys right after an earlier occurrence of the query's token.

    ::

        tokens[j - 1] = query_tokens[i]  and  j - 1 < i + offset

    So a head may read there what came next the last time.

    Args:
      tokens, query_tokens: as in `same_token`.
      offset: the position of the first query in the keys' sequence; None where the queries are another sequence, and
        any occurrence counts.

    Source: Olsson et al. 2022, "In-context learning and induction heads", which calls it prefix matching.
    """
    query_tokens, tokens = _both(tokens, query_tokens)
    before = jnp.concatenate([tokens[..., :1], tokens[..., :-1]], axis=-1)
    follows = masks.segments(query_tokens, before) & ~masks.prefix(1)
    return follows if offset is None else follows & masks.causal(offset)


def pattern_sets(
    shape: tuple[int, ...], tokens: Any, query_tokens: Any, offset: int | None, band: int
) -> dict[str, Mask]:
    """Makes the patterns that can be told for a filter of shape ``(*batch, N, T, S)``; see `head_portraits`."""
    num_queries, num_keys = shape[-2:]
    if offset is None:
        offset = 0 if num_queries == num_keys and query_tokens is None else None
    else:
        offset = check_integer("offset", offset, expected="an int or None")
    around = local_band(band, offset or 0)
    sets = {"first token": first_token()}
    if offset is not None:
        sets |= {"itself": itself(offset), "previous token": previous_token(offset), "next token": next_token(offset)}
        sets["local band"] = around
    if tokens is not None:
        tokens, query_tokens = _fit_tokens(shape, tokens, query_tokens, offset)
        sets["same token"] = same_token(tokens, query_tokens)
        if offset is not None:
            sets["duplicate token"] = duplicate_token(tokens, query_tokens, offset)
        sets["induction"] = induction(tokens, query_tokens, offset)
    elif query_tokens is not None:
        raise ValueError("query_tokens: expected tokens as well, which are those of the keys, got none")
    return {name: keys.fit(shape) for name, keys in sets.items()}


def _fit_tokens(shape: tuple[int, ...], tokens: Any, query_tokens: Any, offset: int | None) -> tuple[Array, Array]:
    *batch, _, num_queries, num_keys = shape
    tokens = _check_tokens("tokens", tokens, batch, num_keys)
    if query_tokens is not None:
        return tokens, _check_tokens("query_tokens", query_tokens, batch, num_queries)
    if offset is None:
        raise ValueError(
            f"tokens: {num_queries} queries and {num_keys} keys need query_tokens, where they are two sequences, or "
            "offset, the position of the first query, where they are one"
        )
    if not 0 <= offset <= num_keys - num_queries:
        raise ValueError(
            f"offset: expected 0 to {num_keys - num_queries} for {num_queries} queries among {num_keys} tokens, or "
            f"query_tokens, got {offset}"
        )
    return tokens, tokens[..., offset : offset + num_queries]


def _check_tokens(name: str, tokens: Any, batch: list[int], length: int) -> Array:
    array = as_tokens(name, tokens)
    if array.shape not in ((length,), (*batch, length)):
        shapes = " or ".join(map(str, dict.fromkeys([(length,), (*batch, length)])))
        raise ValueError(f"{name}: expected shape {shapes}, got {array.shape}")
    return array


def _both(tokens: Any, query_tokens: Any) -> tuple[Array, Array]:
    key_tokens = as_tokens("tokens", tokens)
    return key_tokens if query_tokens is None else as_tokens("query_tokens", query_tokens), key_tokens


def as_tokens(name: str, tokens: Any) -> Int[Array, "*batch length"]:
    """Returns an array of tokens as a JAX array; refuses anything else."""
    expected = f"{name}: expected an array of integers [*batch, length]"
    if not hasattr(tokens, "dtype") or not hasattr(tokens, "shape"):
        raise TypeError(f"{expected}, got {type(tokens).__name__}")
    if not jnp.issubdtype(tokens.dtype, jnp.integer):
        raise TypeError(f"{expected}, got dtype {tokens.dtype}")
    if tokens.ndim == 0:
        raise ValueError(f"{expected}, got a scalar")
    return as_own(tokens)
