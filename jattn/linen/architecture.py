"""What a published transformer is made of, as numbers and words; `jattn.linen.language` builds it."""

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jattn.rules.positions import RotaryScaling

ACTIVATIONS: dict[str, Callable[[Any], Any]] = {
    "relu": jax.nn.relu,
    "gelu": functools.partial(jax.nn.gelu, approximate=False),
    "gelu_tanh": functools.partial(jax.nn.gelu, approximate=True),
    "silu": jax.nn.silu,
    "tanh": jnp.tanh,
}
"""What a feed-forward layer may apply to its hidden numbers; ``"gelu"`` is exact, ``"gelu_tanh"`` its approximation."""

CHOICES = {
    "order": ("pre", "post"),
    "norm": ("layer", "rms"),
    "activation": tuple(ACTIVATIONS),
    "head": ("none", "tied", "linear", "masked"),
}


SIZES = {
    "vocabulary": 1,
    "num_layers": 1,
    "num_heads": 1,
    "width": 1,
    "hidden": 1,
    "num_kv_heads": 1,
    "head_dim": 1,
    "max_length": 1,
    "embedding_width": 1,
    "token_types": 0,
    "pair_classes": 0,
}
"""The least that each size may be."""

OPTIONAL = ("num_kv_heads", "head_dim", "max_length", "embedding_width", "rotary")
"""What may also be None."""

NUMBERS = ("epsilon", "rotary", "rotary_scaling")
"""What is a positive number."""


@dataclasses.dataclass(frozen=True)
class Architecture:
    """Says what a `jattn.linen.language.LanguageModel` is made of.

    Args:
      vocabulary, num_layers, num_heads, width, hidden: as in `jattn.Decoder`.
      causal: whether a token sees only itself and earlier ones.
      num_kv_heads: how many key/value heads; `num_heads` by default.
      head_dim: dims of a query; ``width / num_heads`` by default.
      order: whether norms come before each step (``"pre"``) or after it (``"post"``).
      norm: ``"layer"`` or ``"rms"`` (Zhang and Sennrich 2019).
      epsilon: what norms add under the root.
      activation: one of `ACTIVATIONS`.
      gated: whether the hidden numbers are ``activation(x W₁) · (x W₂)`` (Shazeer 2020), not ``activation(x W₁)``.
      qkv_bias, out_bias, feed_forward_bias: which projections have a bias.
      qk_norm: whether queries and keys get an RMS norm each.
      rotary: the base of `positions.rotary` in the ``"half"`` layout, or None.
      rotary_scaling: its scaling, as `positions.rotary` takes it.
      max_length: how many learned positions there are; None for none.
      token_types: how many learned vectors tell what part a token is of; 0 for none.
      embedding_width: the width of embeddings that a projection brings to `width` (Lan et al. 2020), or None.
      embedding_norm: whether a norm comes after the sum of embeddings.
      windows: by layer, how many tokens a query sees, its own included; None for all of them.
      shared_layers: whether all layers have the same parameters (Lan et al. 2020).
      head: ``"none"`` returns hidden states; ``"tied"`` logits by the table of embeddings, ``"linear"`` by one of its
        own, ``"masked"`` by the table after a layer, as BERT guesses masked tokens.
      pooler: whether there is BERT's layer that turns the first hidden state into a vector.
      pair_classes: what BERT tells of a pair of texts by that vector: how many logits; 0 for none.
      layer_scale: whether what a step adds is scaled by a learned vector (Touvron et al. 2021).

    Raises:
      ValueError: if sizes do not fit one another, or a word is none of those it may be.
    """

    vocabulary: int
    num_layers: int
    num_heads: int
    width: int
    hidden: int
    causal: bool = True
    num_kv_heads: int | None = None
    head_dim: int | None = None
    order: str = "pre"
    norm: str = "layer"
    epsilon: float = 1e-5
    activation: str = "gelu"
    gated: bool = False
    qkv_bias: bool = True
    out_bias: bool = True
    feed_forward_bias: bool = True
    qk_norm: bool = False
    rotary: float | None = None
    rotary_scaling: float | RotaryScaling = 1.0
    max_length: int | None = None
    token_types: int = 0
    embedding_width: int | None = None
    embedding_norm: bool = False
    windows: tuple[int | None, ...] | None = None
    shared_layers: bool = False
    head: str = "tied"
    pooler: bool = False
    pair_classes: int = 0
    layer_scale: bool = False

    def __post_init__(self) -> None:
        for name, least in SIZES.items():
            size = getattr(self, name)
            if not (name in OPTIONAL and size is None) and not _is_size(size, least):
                expected = "a positive int" if least else "an int of at least 0"
                raise ValueError(f"{name}: expected {expected}, got {size!r}")
        for name in NUMBERS:
            number = getattr(self, name)
            given = not (name in OPTIONAL and number is None) and not isinstance(number, RotaryScaling)
            if given and not _is_positive(number):
                raise ValueError(f"{name}: expected a positive number, got {number!r}")
        for name, known in CHOICES.items():
            if getattr(self, name) not in known:
                raise ValueError(f"{name}: expected one of {', '.join(known)}, got {getattr(self, name)!r}")
        if self.head_dim is None and self.width % self.num_heads:
            raise ValueError(f"num_heads: expected a divisor of the width {self.width}, got {self.num_heads}")
        if self.num_heads % self.kv_heads:
            raise ValueError(f"num_kv_heads: expected a divisor of {self.num_heads} heads, got {self.num_kv_heads}")
        if self.head == "tied" and self.embedding_width not in (None, self.width):
            raise ValueError(
                f"embedding_width: expected the width {self.width} for tied logits, got {self.embedding_width}"
            )
        if self.rotary is not None and isinstance(self.rotary_scaling, RotaryScaling):
            self.rotary_scaling.frequencies(self.rotary, self.query_dim, length=1)  # Which refuses what does not fit.
        if self.windows is not None and len(self.windows) != self.num_layers:
            raise ValueError(f"windows: expected one for each of {self.num_layers} layers, got {len(self.windows)}")
        wrong = [window for window in self.windows or () if window is not None and not _is_size(window, 1)]
        if wrong:
            raise ValueError(f"windows: expected positive ints or None, got {wrong[0]!r}")

    @property
    def kv_heads(self) -> int:
        """How many heads keys and values have."""
        return self.num_heads if self.num_kv_heads is None else self.num_kv_heads

    @property
    def query_dim(self) -> int:
        """How many dims a query has."""
        return self.width // self.num_heads if self.head_dim is None else self.head_dim


def _is_size(size: Any, least: int) -> bool:
    return isinstance(size, int) and not isinstance(size, bool) and size >= least


def _is_positive(number: Any) -> bool:
    return isinstance(number, int | float) and not isinstance(number, bool) and 0 < number < math.inf
