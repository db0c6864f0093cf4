"""What transformers compute around their layers: residual steps, positions, caches and masks of padding.

Glossary of shapes: ``T`` tokens read, ``D`` width.
"""

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Float, Int

from jattn.decode.cache import KVCache
from jattn.rules import masks

POSITIONS = ("sinusoidal", "learned", "rotary", "alibi", "relative", "none")
"""How transformers may be given the positions of their tokens."""

QUERIES = ("tokens", "positions")
"""What the first block of an encoder may attend from."""


class DecoderSizes(Protocol):
    """What a decoder says of itself; its caches follow from it."""

    num_layers: Any
    num_heads: Any
    num_kv_heads: Any
    window: Any
    width: Any
    positions: Any
    max_length: Any
    dtype: Any


def check_choice(name: str, value: Any, choices: tuple[str, ...]) -> None:
    """Raises a `ValueError` if a value is none of the choices."""
    if value not in choices:
        raise ValueError(f"{name}: expected one of {', '.join(choices)}, got {value!r}")


def check_norm(norm: Any) -> None:
    """Raises a `ValueError` unless a norm comes first or last."""
    if norm not in ("post", "pre"):
        raise ValueError(f"norm: expected 'post' or 'pre', got {norm!r}")


def add_step(
    x: Float[Array, "*batch T D"],
    order: str,
    step: Callable[[Array], Array],
    norm: Callable[[Array], Array],
    dropout: Callable[[Array], Array],
) -> Float[Array, "*batch T D"]:
    """Adds what a step makes of its input: ``norm(x + f(x))`` in the order ``"post"``, ``x + f(norm(x))`` in ``"pre"``.

    Dropout comes after the step, before the sum.
    """
    change = dropout(step(norm(x)) if order == "pre" else step(x))
    return x + change if order == "pre" else norm(x + change)


def padding(lengths: Int[Array, "*batch"] | None) -> masks.Mask | None:
    """Makes the mask of padding, or None where all is real."""
    return None if lengths is None else masks.padding(lengths)


def self_mask(window: int | None, lengths: Int[Array, "*batch"] | None, is_causal: bool) -> masks.Mask | None:
    """Makes the mask of self-attention: of padding, of a window and of what is later; None where all may be seen.

    Raises:
      ValueError: if the window holds no token.
    """
    if window is not None and window < 1:
        raise ValueError(f"window: expected at least 1 token, got {window}")
    if window is not None:
        span = masks.sliding_window(window - 1, 0 if is_causal else window - 1)
    else:
        span = masks.causal() if is_causal else None
    real = padding(lengths)
    return real if span is None else span if real is None else span & real


def rotary_options(positions: str, base: float, scaling: float) -> bool | dict[str, float]:
    """Returns how self-attention rotates queries and keys; False where positions are given some other way."""
    return {"base": base, "scaling": scaling} if positions == "rotary" else False


def learned_places(
    table: Float[Array, "max_length D"], length: int, at: Int[Array, "*batch T"] | None = None
) -> Float[Array, "*batch T D"]:
    """Takes the rows of positions from a learned table: the first `length`, or those `at`, NaN beyond the last.

    Raises:
      ValueError: if the table is shorter than `length`, where no positions are given.
    """
    if at is not None:
        return jnp.take(table, at, axis=0, mode="fill")
    if length > table.shape[0]:
        raise ValueError(f"learned positions: expected a length of at most max_length {table.shape[0]}, got {length}")
    return table[:length]


def add_places(x: Float[Array, "*batch T D"], places: Float[Array, "*batch T D"] | None) -> Float[Array, "*batch T D"]:
    """Adds a vector per position, if there are any."""
    return x if places is None else x + jnp.broadcast_to(places.astype(x.dtype), x.shape)


def empty_caches(model: DecoderSizes, batch: Sequence[int], slots: int) -> tuple[KVCache, ...]:
    """Makes a cache that has seen nothing, a `KVCache` per layer.

    Raises:
      ValueError: if `slots` is more than the `max_length` of learned positions.
    """
    if model.positions == "learned" and slots > model.max_length:
        raise ValueError(f"slots: expected at most max_length {model.max_length} for learned positions, got {slots}")
    kv_heads = model.num_heads if model.num_kv_heads is None else model.num_kv_heads
    heads, dtype = (kv_heads, model.width // model.num_heads), model.dtype or jnp.float32
    # A window that holds all tokens is none.
    window = None if model.window is None or model.window > slots else model.window
    return tuple(KVCache.empty(batch, slots, *heads, dtype=dtype, window=window) for _ in range(model.num_layers))


def check_caches(model: DecoderSizes, cache: Any, tokens: Array, lengths: Array | None) -> None:
    """Says what is wrong with the caches of a call.

    Raises:
      TypeError: if they are no caches.
      ValueError: if they do not fit the model or the tokens, or are known to hold more than learned positions allow.
    """
    if not isinstance(cache, Sequence) or not all(isinstance(layer, KVCache) for layer in cache):
        raise TypeError(f"cache: expected a KVCache per layer, as empty_cache makes them, got {type(cache).__name__}")
    if len(cache) != model.num_layers:
        raise ValueError(f"cache: expected one for each of {model.num_layers} layers, got {len(cache)}")
    if cache[0].length.shape != tokens.shape[:-1]:
        raise ValueError(f"cache: expected the batch shape {tokens.shape[:-1]}, got {cache[0].length.shape}")
    if model.positions != "learned":
        return
    seen, new = (0 if isinstance(x, Tracer) else x for x in (cache[0].length, lengths))
    most = int(np.max(np.asarray(seen) + np.asarray(tokens.shape[-1] if new is None else new), initial=0))
    if most > model.max_length:
        raise ValueError(
            f"learned positions: expected at most max_length {model.max_length} tokens, got {most} with the cache"
        )
