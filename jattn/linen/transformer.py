"""What all transformers share: embeddings, positions, stacks of blocks and the final linear layer.

Glossary of shapes: ``T`` tokens read, ``S`` source items, ``P`` pixels of a patch, ``D`` width, ``C`` vocabulary.
"""

from typing import Any

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float, Int

from jattn.layers.transformers import POSITIONS, add_places, check_choice, rotary_options, self_mask
from jattn.linen.layers import Block, LearnedPositions, PatchEmbedding, Projection, RelativePositions, TokenEmbedding
from jattn.rules import biases, positions
from jattn.rules.biases import Bias
from jattn.rules.normalizers import NormalizerLike, softmax
from jattn.rules.scores import ScoreLike, scaled_dot


class Transformer(nn.Module):
    """What the models of `jattn.linen.models` share, each with a ``__call__`` of its own.

    Args:
      vocabulary: the number of tokens ``C``.
      num_layers: blocks in a stack.
      num_heads: heads of each attention; must divide `width`.
      width: the length ``D`` of a token's vector.
      hidden: the width inside the feed-forward layers.
      norm: ``"pre"`` or ``"post"``; see `jattn.Block`.
      positions: ``"sinusoidal"`` or ``"learned"``, a vector added per position; in self-attention alone ``"rotary"``,
        ``"alibi"`` (`biases.alibi`, which tells how far a key is, not on which side) or ``"relative"`` (the learned
        buckets of T5, `biases.relative`, one table for all layers of a stack); or ``"none"``.
      max_length: the longest length of learned positions; the others have none.
      score: how queries and keys are compared.
      normalizer: what makes weights of scores.
      dropout_rate: of embeddings, weights and feed-forward layers, where not `deterministic`.
      dtype: of the computation; parameters and logits are float32.
      num_kv_heads: how many key/value heads, each serving as many query heads; `num_heads` by default.
      window: how many tokens back a query of self-attention sees, its own included, and as many ahead where it sees
        later ones; None for all.
      qk_norm: the norm of queries and keys, ``"layer"`` or ``"rms"``; None for none.
      rotary_base, rotary_scaling: of rotary positions, as `positions.rotary` takes them.
      filter_dropout_rate: of weights alone; `dropout_rate` by default.
      sequence_axis: the mesh axis over which positions are split, under `jax.set_mesh`; as in
        `jattn.MultiHeadAttention`.
    """

    vocabulary: int
    num_layers: int = 1
    num_heads: int = 1
    width: int = 32
    hidden: int = 64
    norm: str = "pre"
    positions: str = "sinusoidal"
    max_length: int = 512
    score: ScoreLike = scaled_dot()
    normalizer: NormalizerLike = softmax()
    dropout_rate: float = 0.0
    dtype: Any = jnp.float32
    num_kv_heads: int | None = None
    window: int | None = None
    qk_norm: str | None = None
    rotary_base: float = 10_000.0
    rotary_scaling: float = 1.0
    filter_dropout_rate: float | None = None
    sequence_axis: str | None = None

    def embed(
        self, tokens: Int[Array, "*batch T"], name: str, deterministic: bool, at: Int[Array, "*batch T"] | None = None
    ) -> Float[Array, "*batch T D"]:
        """Looks the tokens up and tells each where it stands: at the positions `at`, or counted from zero."""
        x = TokenEmbedding(self.vocabulary, self.width, self.dtype, name=name)(tokens)
        return self.placed(x, name, deterministic, at)

    def embed_source(
        self, source: Int[Array, "*batch S"] | Float[Array, "*batch S P"], deterministic: bool
    ) -> Float[Array, "*batch S D"]:
        """Embeds a source of tokens or, where it is floating, of the patches of an image in reading order."""
        if not jnp.issubdtype(source.dtype, jnp.floating):
            return self.embed(source, "source_embedding", deterministic)
        x = PatchEmbedding(self.width, self.dtype, name="patch_embedding")(source)
        return self.placed(x, "source_embedding", deterministic)

    def placed(
        self, x: Float[Array, "*batch T D"], name: str, deterministic: bool, at: Int[Array, "*batch T"] | None = None
    ) -> Float[Array, "*batch T D"]:
        """Tells each vector where it stands, and drops some of it all."""
        x = add_places(x, self.places(x.shape[-2], name, at))
        return nn.Dropout(self.dropout_rate)(x, deterministic=deterministic)

    def places(
        self, length: int, name: str, at: Int[Array, "*batch T"] | None = None
    ) -> Float[Array, "*batch T D"] | None:
        """Makes the vector that is added for each position, or None where positions are given some other way.

        Positions count from zero to `length`, except those given as `at`. Of learned ones there are `max_length`: what
        is beyond is NaN.
        """
        check_choice("positions", self.positions, POSITIONS)
        if self.positions == "sinusoidal":
            return positions.sinusoidal(jnp.arange(length) if at is None else at, self.width)
        if self.positions == "learned":
            return LearnedPositions(self.max_length, self.width, name=f"{name}_positions")(length, at)
        return None

    def bias(self, name: str, bidirectional: bool = True, offset: int | Int[Array, "*batch"] = 0) -> Bias | None:
        """Makes what self-attention in a stack adds to its scores, or None where positions are given some other way.

        `offset` says how many positions the first query lies behind the first key.
        """
        if self.positions == "alibi":
            return biases.alibi(offset=offset)
        if self.positions == "relative":
            return RelativePositions(self.num_heads, bidirectional, name=f"{name}_positions")(offset)
        return None

    def stack(
        self,
        x: Float[Array, "*batch T D"],
        name: str = "block",
        tokens: Array | None = None,
        sequence: str = "tokens",
        **call: Any,
    ) -> Float[Array, "*batch T D"]:
        """Passes the vectors through `num_layers` blocks, and a last norm where norms come first.

        `tokens`, where given, is what the first block attends to instead of `x`; `sequence` names what `x` is made of.
        """
        for layer, block in enumerate(self.blocks(name, sequence)):
            x = block(x, tokens=tokens if layer == 0 else None, **call)
        return self.last_norm(x, name)

    def blocks(self, name: str, sequence: str = "tokens") -> list[Block]:
        """Makes the blocks of a stack that reads a sequence."""
        return [
            Block(
                num_heads=self.num_heads,
                hidden=self.hidden,
                norm=self.norm,
                score=self.score,
                normalizer=self.normalizer,
                rotary=rotary_options(self.positions, self.rotary_base, self.rotary_scaling),
                num_kv_heads=self.num_kv_heads,
                qk_norm=self.qk_norm,
                filter_dropout_rate=self.filter_dropout_rate,
                dropout_rate=self.dropout_rate,
                dtype=self.dtype,
                sequences=(sequence, "source"),
                sequence_axis=self.sequence_axis,
                name=f"{name}_{layer}",
            )
            for layer in range(self.num_layers)
        ]

    def read(
        self,
        source: Int[Array, "*batch S"] | Float[Array, "*batch S P"],
        lengths: Int[Array, "*batch"] | None,
        deterministic: bool,
    ) -> Float[Array, "*batch S D"]:
        """Embeds a source and passes it through a stack that sees all of it, or a window of it."""
        x = self.embed_source(source, deterministic)
        call = {
            "mask": self_mask(self.window, lengths, is_causal=False),
            "bias": self.bias("encoder"),
            "deterministic": deterministic,
        }
        return self.stack(x, "encoder", sequence="source", **call)

    def last_norm(self, x: Float[Array, "*batch T D"], name: str) -> Float[Array, "*batch T D"]:
        """Applies the norm after the last block of a stack, where norms come first."""
        return nn.LayerNorm(dtype=self.dtype, name=f"{name}_norm")(x) if self.norm == "pre" else x

    def read_out(self, x: Float[Array, "*batch T D"]) -> Float[Array, "*batch T C"]:
        """Applies the final linear layer: a logit per token of the vocabulary, in float32."""
        return Projection((self.vocabulary,), dtype=self.dtype, name="logits")(x).astype(jnp.float32)
