"""Models of a source as NNX modules: the same as those of `jattn.linen.models`, with the same parameters.

Glossary of shapes: ``T`` tokens read, ``S`` source items, ``P`` pixels of a patch, ``D`` width, ``C`` vocabulary.
Lengths say how many items of each batch entry are real; ``None`` means all of them.
"""

from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int

from jattn.layers.transformers import add_places, padding, self_mask
from jattn.nnx.layers import FeedForward, LearnedPositions, PatchEmbedding, TokenEmbedding, is_patches, table
from jattn.nnx.models import Transformer
from jattn.nnx.multi_head import MultiHeadAttention, uncast
from jattn.rules import positions as placing


class SourceReader(Transformer):
    """What models of a source share: the embedding of the source, and its encoder."""

    bidirectional = False

    def __init__(self, vocabulary: int, *sizes: Any, pixels: int | None = None, rngs: nnx.Rngs, **others: Any):
        self.pixels = pixels
        super().__init__(vocabulary, *sizes, rngs=rngs, **others)

    def add_stacks(self, block: Mapping[str, Any]) -> None:
        """Makes what embeds the source, and the encoder."""
        rngs = block["rngs"]
        if self.pixels is None:
            self.source_embedding = TokenEmbedding(self.vocabulary, self.width, self.dtype, rngs=rngs)
        else:
            self.patch_embedding = PatchEmbedding(self.pixels, self.width, self.dtype, rngs=rngs)
        if self.positions == "learned":
            self.source_embedding_positions = LearnedPositions(self.max_length, self.width, rngs=rngs)
        self.add_stack("encoder", block, bidirectional=True, sequences=("source", "source"))

    def read(
        self,
        source: Int[Array, "*batch S"] | Float[Array, "*batch S P"],
        lengths: Int[Array, "*batch"] | None,
        **call: Any,
    ) -> Float[Array, "*batch S D"]:
        """Embeds a source and passes it through the encoder."""
        x = self.patch_embedding(source) if is_patches(source, self.pixels) else self.source_embedding(source)
        learned = self.source_embedding_positions if self.positions == "learned" else None
        x = self.dropout(add_places(x, self.places(x.shape[-2], learned)), **call)
        call |= {"mask": self_mask(self.window, lengths, is_causal=False), "bias": self.bias(name="encoder")}
        for block in self.blocks("encoder"):
            x = block(x, **call)
        return self.last_norm(x, "encoder")


class EncoderDecoder(SourceReader):
    """Reads a source with an encoder and predicts the next token with a decoder that attends to it.

    See `jattn.EncoderDecoder`.

    Args:
      pixels: how many pixel values a patch of the source has; None for a source of tokens.
      **others: as in `jattn.EncoderDecoder`, and ``rngs``.

    Example: an image of six patches of four pixels each, and a caption.
      >>> import jax.numpy as jnp
      >>> from flax import nnx
      >>> from jattn.nnx import EncoderDecoder
      >>> model = EncoderDecoder(vocabulary=10, pixels=4, rngs=nnx.Rngs(0))
      >>> model(source=jnp.ones((6, 4)), tokens=jnp.array([9, 2, 5])).shape
      (3, 10)
    """

    def add_stacks(self, block: Mapping[str, Any]) -> None:
        """Makes what embeds the source, the encoder, and the decoder."""
        super().add_stacks(block)
        self.add_stack("decoder", block, bidirectional=False, context_width=self.width)

    def __call__(
        self,
        source: Int[Array, "*batch S"] | Float[Array, "*batch S P"],
        tokens: Int[Array, "*batch T"],
        source_lengths: Int[Array, "*batch"] | None = None,
        *,
        deterministic: bool | None = None,
        rngs: nnx.Rngs | nnx.RngStream | None = None,
    ) -> Float[Array, "*batch T C"]:
        """Predicts the next token after each.

        Args:
          source: tokens; or patches of an image, `pixels` values each, in reading order.
          tokens: the target so far.
          source_lengths: how many items of `source` are real.
          deterministic: whether dropout is off; as ``train()`` and ``eval()`` say by default.
          rngs: draws what is dropped instead of the streams that the layers keep.

        Returns:
          Logits, float32.

        Raises:
          ValueError: if the source is not of the kind that the model was made for.
        """
        call: dict[str, Any] = {"deterministic": deterministic, "rngs": rngs}
        context, x = self.read(source, source_lengths, **call), self.embed(tokens, **call)
        call |= {"mask": self_mask(self.window, None, is_causal=True), "bias": self.bias(name="decoder")}
        for block in self.blocks("decoder"):
            x = block(x, context, context_mask=padding(source_lengths), **call)
        return self.read_out(self.last_norm(x, "decoder"))


class PooledEncoder(SourceReader):
    """Reads a source into one vector, and answers from that vector alone. See `jattn.PooledEncoder`.

    Args:
      pixels: how many pixel values a patch of the source has; None for a source of tokens.
      **others: as in `jattn.PooledEncoder`, and ``rngs``.

    Example: the vector of a sentence, for a probe.
      >>> import jax.numpy as jnp
      >>> from flax import nnx
      >>> from jattn.nnx import PooledEncoder
      >>> model, sentences = PooledEncoder(vocabulary=10, rngs=nnx.Rngs(0)), jnp.ones((2, 7), int)
      >>> model(source=sentences, tokens=jnp.zeros((2, 3), int)).shape, model.vector(sentences).shape
      ((2, 3, 10), (2, 32))
    """

    embeds_tokens = False

    def add_stacks(self, block: Mapping[str, Any]) -> None:
        """Makes what embeds the source, the encoder, the pooling, and the layers of the answer."""
        super().add_stacks(block)
        rngs, dtype, rate, qk_norm = block["rngs"], self.dtype, block["dropout_rate"], block["qk_norm"]
        self.query = table(1, self.width, self.width**-0.5, rngs)
        self.pooling = MultiHeadAttention(
            self.num_heads,
            self.width,
            num_kv_heads=self.num_kv_heads,
            normalize_qk=qk_norm is not None,
            qk_norm=qk_norm or "layer",
            score=block["score"],
            normalizer=block["normalizer"],
            dropout_rate=rate if block["filter_dropout_rate"] is None else block["filter_dropout_rate"],
            broadcast_dropout=False,
            deterministic=True,
            dtype=dtype,
            sequence_axis=block["sequence_axis"],
            relates=("vector", "source"),
            rngs=rngs,
        )
        self.answer_norm = nnx.LayerNorm(self.width, dtype=dtype, promote_dtype=uncast, rngs=rngs)
        self.answer = FeedForward(self.width, block["hidden"], rate, dtype, rngs=rngs)

    def __call__(
        self,
        source: Int[Array, "*batch S"] | Float[Array, "*batch S P"],
        tokens: Int[Array, "*batch T"],
        source_lengths: Int[Array, "*batch"] | None = None,
        *,
        deterministic: bool | None = None,
        rngs: nnx.Rngs | nnx.RngStream | None = None,
    ) -> Float[Array, "*batch T C"]:
        """Answers at as many places as there are `tokens`, which are not read otherwise.

        The other arguments are those of `jattn.nnx.EncoderDecoder`.
        """
        call: dict[str, Any] = {"deterministic": deterministic, "rngs": rngs}
        vector, places = self.vector(source, source_lengths, **call), tokens.shape[-1]
        if self.positions == "learned":
            told = self.embedding_positions(places)
        else:
            told = placing.sinusoidal(jnp.arange(places), self.width)
        x = vector[..., None, :] + told.astype(vector.dtype)
        return self.read_out(x + self.answer(self.answer_norm(x), **call))

    def vector(
        self,
        source: Int[Array, "*batch S"] | Float[Array, "*batch S P"],
        source_lengths: Int[Array, "*batch"] | None = None,
        **call: Any,
    ) -> Float[Array, "*batch D"]:
        """Reads a source into its vector."""
        context = self.read(source, source_lengths, **call)
        query = jnp.broadcast_to(self.query[...], (*context.shape[:-2], 1, self.width))
        return self.pooling(query, context, mask=padding(source_lengths), **call)[..., 0, :]
