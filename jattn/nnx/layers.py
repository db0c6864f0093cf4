"""The layers around attention as NNX modules: embeddings, positions, feed-forward and the block that joins them.

Glossary of shapes: ``T`` query length, ``S`` key length, ``D`` width of the model.
"""

import functools
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int

from jattn.decode.cache import KVCache
from jattn.layers.projections import look_up
from jattn.layers.transformers import add_step, check_norm, learned_places
from jattn.nnx.multi_head import MultiHeadAttention, Projection, uncast
from jattn.rules import biases
from jattn.rules.biases import Bias, BiasLike
from jattn.rules.mask import MaskLike
from jattn.rules.normalizers import NormalizerLike, softmax
from jattn.rules.scores import ScoreLike, scaled_dot


def table(rows: int, width: int, deviation: float, rngs: nnx.Rngs) -> nnx.Param:
    """Draws a learned table ``[rows, width]``."""
    return nnx.Param(nnx.initializers.normal(deviation)(rngs.params(), (rows, width), jnp.float32))


def dropout(rate: float, rngs: nnx.Rngs) -> nnx.Dropout:
    """Makes dropout that is off until ``train()``; it keeps a stream of rngs only where it needs one."""
    return nnx.Dropout(rate, deterministic=True, rngs=rngs if rate > 0 else None)


def is_patches(source: Array, pixels: int | None) -> bool:
    """Says whether a source is of patches and not of tokens.

    Raises:
      ValueError: if it is not of the kind that a model with so many `pixels` was made for.
    """
    found = jnp.issubdtype(source.dtype, jnp.floating)
    if found != (pixels is not None):
        expected = "tokens, as pixels is None" if pixels is None else f"patches of {pixels} pixels"
        raise ValueError(f"source: expected {expected}, got an array of dtype {source.dtype}")
    return found


class TokenEmbedding(nnx.Module):
    """Looks up a vector per token in a learned table ``[vocabulary, width]``; see `jattn.TokenEmbedding`."""

    def __init__(self, vocabulary: int, width: int, dtype: Any = None, *, rngs: nnx.Rngs):
        self.embedding, self.dtype = table(vocabulary, width, width**-0.5, rngs), dtype

    def __call__(self, tokens: Int[Array, "*batch T"]) -> Float[Array, "*batch T D"]:
        return look_up(self.embedding[...], tokens, self.dtype)


class PatchEmbedding(nnx.Module):
    """Turns each patch of an image, `pixels` values, into a vector of `width` numbers; see `jattn.PatchEmbedding`."""

    def __init__(self, pixels: int, width: int, dtype: Any = None, *, rngs: nnx.Rngs):
        self.linear = Projection(pixels, width, dtype=dtype, rngs=rngs)

    def __call__(self, patches: Float[Array, "*batch S P"]) -> Float[Array, "*batch S D"]:
        return self.linear(patches)


class LearnedPositions(nnx.Module):
    """Looks up a vector per position in a learned table; see `jattn.LearnedPositions`."""

    def __init__(self, max_length: int, width: int, *, rngs: nnx.Rngs):
        self.embedding = table(max_length, width, width**-0.5, rngs)

    def __call__(self, length: int, at: Int[Array, "*batch T"] | None = None) -> Float[Array, "*batch T D"]:
        return learned_places(self.embedding[...], length, at)


class RelativePositions(nnx.Module):
    """Makes the bias that a learned table holds for each distance from query to key; see `jattn.RelativePositions`."""

    def __init__(
        self,
        num_heads: int,
        bidirectional: bool = True,
        num_buckets: int = 32,
        max_distance: int = 128,
        *,
        rngs: nnx.Rngs,
    ):
        self.bidirectional, self.max_distance = bidirectional, max_distance
        self.embedding = table(num_buckets, num_heads, 0.01, rngs)

    def __call__(self, offset: int | Int[Array, "*batch"] = 0) -> Bias:
        return biases.relative(self.embedding[...], self.bidirectional, self.max_distance, offset)


class FeedForward(nnx.Module):
    """Transforms each position on its own: ``relu(x W₁ + b₁) W₂ + b₂``."""

    def __init__(self, width: int, hidden: int, dropout_rate: float = 0.0, dtype: Any = None, *, rngs: nnx.Rngs):
        self.hidden = Projection(width, hidden, dtype=dtype, rngs=rngs)
        self.out = Projection(hidden, width, dtype=dtype, rngs=rngs)
        self.dropout = dropout(dropout_rate, rngs)

    def __call__(
        self, x: Float[Array, "*batch T D"], *, deterministic: bool | None = None, rngs: Any = None
    ) -> Float[Array, "*batch T D"]:
        return self.out(self.dropout(nnx.relu(self.hidden(x)), deterministic=deterministic, rngs=rngs))


class Block(nnx.Module):
    """Attends to itself, then (where it has `context_width`) to another sequence, then transforms each position.

    Each step ``f`` is added to what it got. Post-norm (Vaswani et al. 2017): ``x ← norm(x + f(x))``; pre-norm (Xiong et
    al. 2020): ``x ← x + f(norm(x))``, which wants a last norm after the last block. Dropout is off until ``train()``.

    Args:
      num_heads: heads of each attention.
      width: the length ``D`` of a vector.
      hidden: width inside the feed-forward layer.
      norm: ``"pre"`` or ``"post"``.
      score, normalizer, rotary, dropout_rate, dtype, sequences: as in `jattn.Block`.
      context_width: the width of what cross-attention attends to; without, there is none.
      reads_tokens: whether self-attention can attend to `tokens` of the call instead of ``x``.
      num_kv_heads, qk_norm, filter_dropout_rate, sequence_axis: as in `jattn.Block`.
      rngs: of the parameters, and of dropout.

    Raises:
      ValueError: if the heads do not divide the width, or there is no such norm.

    Example:
      >>> import jax.numpy as jnp
      >>> from flax import nnx
      >>> from jattn.nnx import Block
      >>> Block(num_heads=1, width=32, hidden=64, rngs=nnx.Rngs(0))(jnp.ones((2, 16, 32))).shape
      (2, 16, 32)
    """

    def __init__(
        self,
        num_heads: int,
        width: int,
        hidden: int,
        norm: str = "pre",
        score: ScoreLike = scaled_dot(),
        normalizer: NormalizerLike = softmax(),
        rotary: bool | Mapping[str, Any] = False,
        dropout_rate: float = 0.0,
        dtype: Any = None,
        sequences: tuple[str, str] = ("tokens", "source"),
        context_width: int | None = None,
        reads_tokens: bool = False,
        num_kv_heads: int | None = None,
        qk_norm: str | None = None,
        filter_dropout_rate: float | None = None,
        sequence_axis: str | None = None,
        *,
        rngs: nnx.Rngs,
    ):
        check_norm(norm)
        self.norm = norm
        shared: dict[str, Any] = {
            "num_heads": num_heads,
            "in_features": width,
            "score": score,
            "normalizer": normalizer,
            "rngs": rngs,
        }
        shared |= {"broadcast_dropout": False, "deterministic": True, "dtype": dtype, "num_kv_heads": num_kv_heads}
        shared |= {"dropout_rate": dropout_rate if filter_dropout_rate is None else filter_dropout_rate}
        shared |= {"normalize_qk": qk_norm is not None, "qk_norm": qk_norm or "layer", "sequence_axis": sequence_axis}
        layer_norm = functools.partial(nnx.LayerNorm, width, dtype=dtype, promote_dtype=uncast, rngs=rngs)
        self.attention = MultiHeadAttention(**shared, rotary=rotary, relates=(sequences[0], sequences[0]))
        self.attention_norm = layer_norm()
        self.tokens_norm = layer_norm() if reads_tokens and norm == "pre" else nnx.data(None)
        self.cross_attention = self.cross_attention_norm = nnx.data(None)
        if context_width is not None:
            self.cross_attention = MultiHeadAttention(**shared, in_kv_features=context_width, relates=sequences)
            self.cross_attention_norm = layer_norm()
        self.feed_forward = FeedForward(width, hidden, dropout_rate, dtype, rngs=rngs)
        self.feed_forward_norm = layer_norm()
        self.dropout, self.reads_tokens = dropout(dropout_rate, rngs), reads_tokens

    def __call__(
        self,
        x: Float[Array, "*batch T D"],
        context: Float[Array, "*batch S E"] | None = None,
        *,
        tokens: Float[Array, "*batch T D"] | None = None,
        mask: MaskLike | None = None,
        bias: BiasLike | None = None,
        context_mask: MaskLike | None = None,
        deterministic: bool | None = None,
        rngs: nnx.Rngs | nnx.RngStream | None = None,
        cache: KVCache | None = None,
        lengths: Int[Array, "*batch"] | None = None,
    ) -> Any:
        """Passes vectors through the block.

        Args:
          x, context, tokens, mask, bias, context_mask, cache, lengths: as in `jattn.Block`.
          deterministic: whether dropout is off; as ``train()`` and ``eval()`` say by default.
          rngs: draws what is dropped instead of the streams that the layers keep.

        Returns:
          The vectors afterwards ``[*batch, T, D]``; with a cache, those and the cache afterwards.

        Raises:
          ValueError: if there is context or tokens that the block was not made for.
        """
        call: dict[str, Any] = {"deterministic": deterministic, "rngs": rngs}
        drop, after = functools.partial(self.dropout, **call), cache
        if tokens is not None and not self.reads_tokens:
            raise ValueError("tokens: expected None for a block made without reads_tokens=True, got an array")
        if tokens is not None and self.tokens_norm is not None:
            tokens = self.tokens_norm(tokens)

        def attend_to_self(y: Array) -> Array:
            nonlocal after
            out = self.attention(y, tokens, mask=mask, bias=bias, cache=cache, lengths=lengths, **call)
            if cache is not None:
                out, after = out
            return out

        x = add_step(x, self.norm, attend_to_self, self.attention_norm, drop)
        if context is not None:
            if self.cross_attention is None or self.cross_attention_norm is None:
                raise ValueError("context: expected None for a block made without context_width, got an array")
            cross = functools.partial(self.cross_attention, inputs_k=context, mask=context_mask, **call)
            x = add_step(x, self.norm, cross, self.cross_attention_norm, drop)
        x = add_step(x, self.norm, functools.partial(self.feed_forward, **call), self.feed_forward_norm, drop)
        return x if cache is None else (x, after)
