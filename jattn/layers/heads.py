"""What an attention layer does once its projections are made: positions, what is kept of earlier calls, `attend`.

Glossary of shapes: ``T`` query length, ``S`` key length, ``N`` query heads, ``K`` key/value heads, ``H`` head dim.
"""

import dataclasses
import inspect
import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Bool, Float, Int

from jattn.decode.cache import KVCache, attend_cached
from jattn.engine.attention import attend
from jattn.engine.sharded import attend as sharded_attend
from jattn.engine.strategies import STRATEGIES
from jattn.filters.filter import AttentionFilter, attention_filter
from jattn.filters.sharded import attention_filter as sharded_filter
from jattn.layers.step_cache import DecodeCache
from jattn.rules import positions
from jattn.rules.biases import BiasLike
from jattn.rules.mask import MaskLike
from jattn.rules.masks import causal

QK_NORMS = ("layer", "rms")
"""The norms that may come after the projections of queries and keys."""

INSTEAD = {
    "attention_fn": "score, normalizer and edit say what attention computes",
    "qkv_dot_general": "precision says how products are taken",
    "out_dot_general": "precision says how products are taken",
    "qkv_dot_general_cls": "precision says how products are taken",
    "out_dot_general_cls": "precision says how products are taken",
    "qk_attn_weights_einsum_cls": "score says how queries and keys are compared",
    "attn_weights_value_einsum_cls": "edit says how weights are changed before they meet the values",
}
"""The arguments of flax's layers that replace what jattn computes, and what takes their place."""


def head_sizes(features: int, num_heads: int, num_kv_heads: int | None) -> tuple[int, int]:
    """Returns the head dim and how many key/value heads there are.

    Raises:
      ValueError: if the heads do not divide the features, or the key/value heads not the heads.
    """
    if num_heads < 1 or features % num_heads:
        raise ValueError(f"num_heads: expected a positive divisor of the {features} features, got {num_heads}")
    num_kv_heads = num_heads if num_kv_heads is None else num_kv_heads
    if num_kv_heads < 1 or num_heads % num_kv_heads:
        raise ValueError(f"num_kv_heads: expected a positive divisor of the {num_heads} heads, got {num_kv_heads}")
    return features // num_heads, num_kv_heads


def fill_inputs(inputs_q: Array, inputs_k: Array | None, inputs_v: Array | None) -> tuple[Array, Array, Array]:
    """Returns what queries, keys and values are made of: keys of the queries' inputs by default, values of the keys'.

    Raises:
      ValueError: if there are inputs of values and none of keys.
    """
    if inputs_k is None and inputs_v is not None:
        raise ValueError("inputs_k: expected an array where inputs_v is given, got None")
    inputs_k = inputs_q if inputs_k is None else inputs_k
    return inputs_q, inputs_k, inputs_k if inputs_v is None else inputs_v


def check_qk_norm(name: str) -> str:
    """Returns the name of a norm of queries and keys, or says which there are."""
    if name not in QK_NORMS:
        raise ValueError(f"qk_norm: expected 'layer' or 'rms', got {name!r}")
    return name


def as_booleans(mask: MaskLike | None) -> tuple[MaskLike | None, Bool[Array, ""] | bool]:
    """Reads an array of zeros and ones as booleans, and says whether it held nothing else."""
    if not isinstance(mask, jax.Array | np.ndarray) or mask.dtype == jnp.bool_:
        return mask, True
    if isinstance(mask, Tracer):
        return mask == 1, jnp.all((mask == 0) | (mask == 1))
    with jax.ensure_compile_time_eval():
        if not jnp.all((mask == 0) | (mask == 1)):
            raise TypeError(
                "mask: expected booleans, or zeros and ones (1 = may attend) as flax's mask functions make them, "
                f"got other numbers of dtype {mask.dtype}; give additive terms as bias"
            )
    return mask == 1, True


def rotate(
    x: Float[Array, "*batch T N H"],
    rotary: bool | Mapping[str, Any],
    start: int | Int[Array, "..."] = 0,
    at: Int[Array, "*batch T"] | None = None,
    length: int | None = None,
) -> Float[Array, "*batch T N H"]:
    """Rotates vectors by their positions: `at`, or counted from `start`; `length` is that of the whole text.

    A mapping as `rotary` gives options of `positions.rotary`; False rotates nothing.

    Raises:
      TypeError: if there is no such option.
    """
    if rotary is False:
        return x
    options = {} if rotary is True else rotary
    known = list(inspect.signature(positions.rotary).parameters)[2:]
    if not isinstance(options, Mapping) or not options.keys() <= set(known):
        wrong = dict(options) if isinstance(options, Mapping) else options
        raise TypeError(f"rotary: expected a bool or a mapping of options ({', '.join(known)}), got {wrong!r}")
    given: dict[str, Any] = {"length": length, **options}
    return positions.rotary(x, start + jnp.arange(x.shape[-3]) if at is None else at, **given)


@dataclasses.dataclass(frozen=True)
class Heads:
    """The projected heads of one call, with those of earlier calls; what is attended with.

    Args:
      query, key, value: of the heads; keys and values of a `DecodeCache` are in it.
      mask, bias: as in `attend`.
      valid: whether mask and cache are what they should be; the output is NaN where they are not.
      kept: the `DecodeCache` afterwards, if the layer has one.
      cache: the `KVCache` afterwards, if the call brought one.
      at: the positions of the queries in `cache`.
    """

    query: Float[Array, "*batch T N H"]
    key: Float[Array, "*batch S K H"]
    value: Float[Array, "*batch S K H"]
    mask: MaskLike | None = None
    bias: BiasLike | None = None
    valid: Bool[Array, ""] | bool = True
    kept: DecodeCache | None = None
    cache: KVCache | None = None
    seen: KVCache | None = None
    at: Int[Array, "*batch T"] | None = None

    def attend(
        self, implementation: str | None, sequence_axis: str | None = None, **program: Any
    ) -> Float[Array, "*batch T N H"]:
        """Attends; `program` is what else `attend` takes. With a mesh axis, the implementation is a strategy."""
        program |= {"mask": self.mask, "bias": self.bias}
        if sequence_axis is None:
            program["implementation"] = implementation
        else:
            program |= {"axis": sequence_axis, "strategy": _as_strategy(implementation)}
        if self.seen is not None and self.at is not None:
            return attend_cached(self.query, self.seen, self.at, **program)
        attends = attend if sequence_axis is None else sharded_attend
        return attends(self.query, self.key, self.value, **program)

    def filter(
        self, relates: tuple[str, str] | None = None, sequence_axis: str | None = None, **program: Any
    ) -> AttentionFilter:
        """Returns the filter that `attend` uses with the same program."""
        key, mask = self.key, self.mask
        if self.seen is not None and self.at is not None:
            earlier = self.seen.mask(self.at)
            key, mask = jnp.swapaxes(self.seen.key, -3, -2), earlier if mask is None else earlier & mask
        program |= {"mask": mask, "bias": self.bias}
        if sequence_axis is None:
            filter = attention_filter(self.query, key, **program)
        else:
            filter = sharded_filter(self.query, key, axis=sequence_axis, **program)
        return dataclasses.replace(filter, relates=relates)

    def weights(self, **program: Any) -> Float[Array, "*batch N T S"]:
        """Returns the weights before dropout, whole."""
        return self.filter(**program).without_dropout().with_limit(math.inf).weights()

    def checked(self, out: Float[Array, "..."]) -> Float[Array, "..."]:
        """Returns the output of the layer, or NaN where it means nothing."""
        return out if self.valid is True else jnp.where(self.valid, out, jnp.nan)


def _as_strategy(implementation: str | None) -> str | None:
    """Returns how keys reach the queries of a sequence that is split, or says what there is."""
    if implementation not in (None, *STRATEGIES):
        expected = f"{', '.join(map(repr, STRATEGIES))} or None"
        raise ValueError(f"implementation: expected {expected} with a sequence_axis, got {implementation!r}")
    return implementation


def place(
    query: Float[Array, "*batch T N H"],
    key: Float[Array, "*batch S K H"],
    value: Float[Array, "*batch S K H"],
    *,
    mask: MaskLike | None,
    bias: BiasLike | None,
    rotary: bool | Mapping[str, Any] = False,
    kept: DecodeCache | None = None,
    cache: KVCache | None = None,
    lengths: Int[Array, "*batch"] | None = None,
    at: Int[Array, "*batch T"] | None = None,
    is_causal: bool = False,
) -> Heads:
    """Gives heads their positions, and adds keys and values to those of earlier calls.

    Args:
      query, key, value: as they are projected.
      mask, bias: as the layer takes them.
      rotary: as in `rotate`.
      kept: of a layer that decodes.
      cache: of the call.
      lengths: with a cache, how many of the tokens of each batch entry are real.
      at: the positions by which queries and keys are rotated, instead of those counted from zero or in the cache.
      is_causal: whether a query sees no later key, in addition to `mask`; with any cache it never does.
    """
    mask, valid = as_booleans(mask)
    if is_causal and kept is None and cache is None:
        mask = causal() if mask is None else causal() & mask
    start = 0 if kept is None else kept.index
    start = start if cache is None else cache.length[..., None]
    length = max(query.shape[-3], key.shape[-3])
    length = kept.key.shape[-3] if kept is not None else length if cache is None else cache.slots
    query, key = rotate(query, rotary, start, at, length), rotate(key, rotary, start, at, length)
    if kept is not None:
        mask, bias = kept.mask(mask), kept.bias(bias)
        kept, fits = kept.append(query, key, value)
        return Heads(query, kept.key, kept.value, mask, bias, valid & fits, kept)
    if cache is None:
        return Heads(query, key, value, mask, bias, valid)
    asked = cache.next_positions(query.shape[-3])
    seen, cache = cache.extend(key, value, lengths)
    return Heads(query, key, value, mask, bias, valid, None, cache, seen, asked)
