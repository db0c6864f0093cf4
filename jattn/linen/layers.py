"""The layers around attention: embeddings, positions, feed-forward and the block that joins them.

Glossary of shapes: ``T`` query length, ``S`` key length, ``N`` heads, ``H`` head dim, ``D`` width of the model.
"""

import functools
from collections.abc import Callable, Mapping
from typing import Any

from flax import linen as nn
from jaxtyping import Array, Float, Int

from jattn.decode.cache import KVCache
from jattn.layers.projections import look_up
from jattn.layers.transformers import add_step, check_norm, learned_places
from jattn.linen.multi_head import MultiHeadAttention, Projection
from jattn.rules import biases
from jattn.rules.biases import Bias, BiasLike
from jattn.rules.mask import MaskLike
from jattn.rules.normalizers import NormalizerLike, softmax
from jattn.rules.scores import ScoreLike, scaled_dot


class TokenEmbedding(nn.Module):
    """Looks up a vector per token in a learned table ``[vocabulary, width]``.

    Tokens outside the vocabulary are not checked for: their vectors are meaningless.
    """

    vocabulary: int
    width: int
    dtype: Any = None

    @nn.compact
    def __call__(self, tokens: Int[Array, "*batch T"]) -> Float[Array, "*batch T D"]:
        initializer = nn.initializers.normal(self.width**-0.5)
        table = self.param("embedding", initializer, (self.vocabulary, self.width))
        return look_up(table, tokens, self.dtype)


class PatchEmbedding(nn.Module):
    """Turns each patch of an image into a vector: ``x W + b`` of its ``P`` pixel values.

    Args:
      width: the length ``D`` of a vector.
      dtype: of the computation.

    Source: Dosovitskiy et al. 2021, "An image is worth 16x16 words: transformers for image recognition at scale",
    section 3.1.
    """

    width: int
    dtype: Any = None

    @nn.compact
    def __call__(self, patches: Float[Array, "*batch S P"]) -> Float[Array, "*batch S D"]:
        return Projection((self.width,), dtype=self.dtype, name="linear")(patches)


class LearnedPositions(nn.Module):
    """Looks up a vector per position in a learned table; there is none beyond `max_length`."""

    max_length: int
    width: int

    @nn.compact
    def __call__(self, length: int, at: Int[Array, "*batch T"] | None = None) -> Float[Array, "*batch T D"]:
        table = self.param("embedding", nn.initializers.normal(self.width**-0.5), (self.max_length, self.width))
        return learned_places(table, length, at)


class RelativePositions(nn.Module):
    """Makes the bias that a learned table holds for each distance from query to key, in buckets; `biases.relative`.

    Args:
      num_heads: how many heads have a column of the table each.
      bidirectional: whether keys later than their query have buckets of their own; False under a causal mask.
      num_buckets: how many buckets there are.
      max_distance: from which distance on all share the last bucket of their direction.

    Source: Raffel et al. 2020, "Exploring the limits of transfer learning with a unified text-to-text transformer",
    section 2.1.
    """

    num_heads: int
    bidirectional: bool = True
    num_buckets: int = 32
    max_distance: int = 128

    @nn.compact
    def __call__(self, offset: int | Int[Array, "*batch"] = 0) -> Bias:
        """Makes the bias; `offset` says how many positions the first query lies behind the first key."""
        table = self.param("embedding", nn.initializers.normal(), (self.num_buckets, self.num_heads))
        return biases.relative(table, self.bidirectional, self.max_distance, offset)


class FeedForward(nn.Module):
    """Transforms each position on its own: ``relu(x W₁ + b₁) W₂ + b₂``."""

    hidden: int
    dropout_rate: float = 0.0
    dtype: Any = None

    @nn.compact
    def __call__(self, x: Float[Array, "*batch T D"], *, deterministic: bool = True) -> Float[Array, "*batch T D"]:
        hidden = nn.relu(Projection((self.hidden,), dtype=self.dtype, name="hidden")(x))
        hidden = nn.Dropout(self.dropout_rate)(hidden, deterministic=deterministic)
        return Projection((x.shape[-1],), dtype=self.dtype, name="out")(hidden)


class Block(nn.Module):
    """Attends to itself, then (where `context` is given) to another sequence, then transforms each position.

    Each step ``f`` is added to what it got. Post-norm (Vaswani et al. 2017): ``x ← norm(x + f(x))``; pre-norm (Xiong et
    al. 2020): ``x ← x + f(norm(x))``, which wants a last norm after the last block.

    Args:
      num_heads: heads of each attention.
      hidden: width inside the feed-forward layer.
      norm: ``"pre"`` or ``"post"``.
      score: how queries and keys are compared.
      normalizer: what makes weights of scores.
      rotary: whether self-attention rotates queries and keys by their positions, or with which options.
      dropout_rate: of each step's output, of weights and inside the feed-forward layer, where not `deterministic`.
      dtype: of the computation.
      sequences: the names of what ``x`` and `context` are made of; attention says them of its filters.
      num_kv_heads: key/value heads of each attention; `num_heads` by default.
      qk_norm: the norm of queries and keys, ``"layer"`` or ``"rms"``; None for none.
      filter_dropout_rate: of weights; `dropout_rate` by default.
      sequence_axis: the mesh axis over which positions are split; as in `jattn.MultiHeadAttention`.
    """

    num_heads: int
    hidden: int
    norm: str = "pre"
    score: ScoreLike = scaled_dot()
    normalizer: NormalizerLike = softmax()
    rotary: bool | Mapping[str, Any] = False
    dropout_rate: float = 0.0
    dtype: Any = None
    sequences: tuple[str, str] = ("tokens", "source")
    num_kv_heads: int | None = None
    qk_norm: str | None = None
    filter_dropout_rate: float | None = None
    sequence_axis: str | None = None

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "*batch T D"],
        context: Float[Array, "*batch S D"] | None = None,
        *,
        tokens: Float[Array, "*batch T D"] | None = None,
        mask: MaskLike | None = None,
        bias: BiasLike | None = None,
        context_mask: MaskLike | None = None,
        deterministic: bool = True,
        cache: KVCache | None = None,
        lengths: Int[Array, "*batch"] | None = None,
    ) -> Any:
        """Passes vectors through the block.

        Args:
          x: a vector per position.
          context: what cross-attention attends to; None leaves that step out.
          tokens: what self-attention attends to instead of `x`, for a stream that knows only its positions yet.
          mask: of self-attention; True = may attend.
          bias: of self-attention; added to the scores.
          context_mask: of cross-attention.
          deterministic: whether dropout is off.
          cache: of self-attention, which is causal then; `x` are the next tokens.
          lengths: with a cache, how many of the tokens of each batch entry are real.

        Returns:
          The vectors afterwards ``[*batch, T, D]``; with a cache, those and the cache afterwards.
        """
        check_norm(self.norm)

        def add(x: Array, name: str, step: Callable[[Array], Array]) -> Array:
            norm = nn.LayerNorm(dtype=self.dtype, name=f"{name}_norm")
            dropout = functools.partial(nn.Dropout(self.dropout_rate), deterministic=deterministic)
            return add_step(x, self.norm, step, norm, dropout)

        attention = functools.partial(
            MultiHeadAttention,
            num_heads=self.num_heads,
            num_kv_heads=self.num_kv_heads,
            normalize_qk=self.qk_norm is not None,
            qk_norm=self.qk_norm or "layer",
            score=self.score,
            normalizer=self.normalizer,
            dropout_rate=self.dropout_rate if self.filter_dropout_rate is None else self.filter_dropout_rate,
            deterministic=deterministic,
            dtype=self.dtype,
            sequence_axis=self.sequence_axis,
        )
        if tokens is not None and self.norm == "pre":
            tokens = nn.LayerNorm(dtype=self.dtype, name="tokens_norm")(tokens)
        after = cache

        def attend_to_self(y: Array) -> Array:
            nonlocal after
            own, _ = self.sequences
            layer = attention(rotary=self.rotary, relates=(own, own), name="attention")
            if cache is None:
                return layer(y, tokens, mask=mask, bias=bias)
            y, after = layer(y, tokens, mask=mask, bias=bias, cache=cache, lengths=lengths)
            return y

        x = add(x, "attention", attend_to_self)
        if context is not None:
            cross_attention = attention(relates=self.sequences, name="cross_attention")
            x = add(x, "cross_attention", lambda y: cross_attention(y, context, mask=context_mask))
        feed_forward = FeedForward(self.hidden, self.dropout_rate, self.dtype, name="feed_forward")
        x = add(x, "feed_forward", lambda y: feed_forward(y, deterministic=deterministic))
        return x if cache is None else (x, after)
