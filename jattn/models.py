"""Models: tokens in, logits out; small transformers of the three classic kinds.

Glossary of shapes: ``T`` tokens read, ``S`` source tokens, ``D`` width, ``C`` vocabulary. Lengths say how many tokens
of each batch entry are real; ``None`` means all of them.
"""

from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax.core import Tracer
from jaxtyping import Array, Float, Int

from jattn import masks, positions
from jattn.cache import KVCache
from jattn.layers import Block, LearnedPositions, Projection, TokenEmbedding
from jattn.scores import ScoreLike, scaled_dot

POSITIONS = ("sinusoidal", "learned", "rotary", "none")
QUERIES = ("tokens", "positions")


class Transformer(nn.Module):
    """What the three models share: embedding, positions, blocks and the final linear layer.

    Args:
      vocabulary: the number of tokens ``C``.
      num_layers: blocks in a stack.
      num_heads: heads of each attention; must divide `width`.
      width: the length ``D`` of a token's vector.
      hidden: the width inside the feed-forward layers.
      norm: ``"pre"`` or ``"post"``; see `jattn.Block`.
      positions: ``"sinusoidal"``, ``"learned"``, ``"rotary"`` (in self-attention) or ``"none"``.
      max_length: the longest length of learned positions; the others have none.
      score: how queries and keys are compared.
      dropout_rate: of embeddings, weights and feed-forward layers, where not `deterministic`.
      dtype: of the computation; parameters and logits are float32.
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
    dropout_rate: float = 0.0
    dtype: Any = jnp.float32

    def embed(
        self, tokens: Int[Array, "*batch T"], name: str, deterministic: bool, at: Int[Array, "*batch T"] | None = None
    ) -> Float[Array, "*batch T D"]:
        """Looks the tokens up and tells each where it stands: at the positions `at`, or counted from zero."""
        x = TokenEmbedding(self.vocabulary, self.width, self.dtype, name=name)(tokens)
        places = self.places(tokens.shape[-1], name, at)
        x = x if places is None else x + places.astype(x.dtype)
        return nn.Dropout(self.dropout_rate)(x, deterministic=deterministic)

    def places(
        self, length: int, name: str, at: Int[Array, "*batch T"] | None = None
    ) -> Float[Array, "*batch T D"] | None:
        """Makes the vector that is added for each position, or None where positions are told otherwise or not.

        Positions count from zero to `length`, but for those given as `at`. Of learned ones there are `max_length`: what
        is beyond is NaN.
        """
        if self.positions not in POSITIONS:
            raise ValueError(f"positions: expected one of {', '.join(POSITIONS)}, got {self.positions!r}")
        if self.positions == "sinusoidal":
            return positions.sinusoidal(jnp.arange(length) if at is None else at, self.width)
        if self.positions == "learned":
            learned = LearnedPositions(self.max_length, self.width, name=f"{name}_positions")
            return learned(length) if at is None else jnp.take(learned(self.max_length), at, axis=0, mode="fill")
        return None

    def stack(
        self, x: Float[Array, "*batch T D"], name: str = "block", tokens: Array | None = None, **call: Any
    ) -> Float[Array, "*batch T D"]:
        """Passes the vectors through `num_layers` blocks, and a last norm where norms come first.

        `tokens`, where given, is what the first block attends to instead of `x`.
        """
        for layer, block in enumerate(self.blocks(name)):
            x = block(x, tokens=tokens if layer == 0 else None, **call)
        return self.last_norm(x, name)

    def blocks(self, name: str) -> list[Block]:
        """Makes the blocks of a stack."""
        return [
            Block(
                num_heads=self.num_heads,
                hidden=self.hidden,
                norm=self.norm,
                score=self.score,
                rotary=self.positions == "rotary",
                dropout_rate=self.dropout_rate,
                dtype=self.dtype,
                name=f"{name}_{layer}",
            )
            for layer in range(self.num_layers)
        ]

    def last_norm(self, x: Float[Array, "*batch T D"], name: str) -> Float[Array, "*batch T D"]:
        """Applies the norm after the last block of a stack, where norms come first."""
        return nn.LayerNorm(dtype=self.dtype, name=f"{name}_norm")(x) if self.norm == "pre" else x

    def read_out(self, x: Float[Array, "*batch T D"]) -> Float[Array, "*batch T C"]:
        """Applies the final linear layer: a logit per token of the vocabulary, in float32."""
        return Projection((self.vocabulary,), dtype=self.dtype, name="logits")(x).astype(jnp.float32)


class Encoder(Transformer):
    """Reads all tokens at once; the answer at position ``i`` is read at query ``i``.

    A position knows its own token before any attention, and so may answer without looking anywhere. With
    ``queries="positions"`` it starts knowing only where it stands, and the first block attends from there to the
    tokens: whatever an answer says about tokens then came through a filter.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from jattn import Encoder
      >>> model, tokens = Encoder(vocabulary=10), jnp.zeros((2, 16), jnp.int32)
      >>> variables = model.init(jax.random.key(0), tokens)
      >>> model.apply(variables, tokens).shape
      (2, 16, 10)
    """

    queries: str = "tokens"

    @nn.compact
    def __call__(
        self, tokens: Int[Array, "*batch T"], lengths: Int[Array, "*batch"] | None = None, *, deterministic: bool = True
    ) -> Float[Array, "*batch T C"]:
        if self.queries not in QUERIES:
            raise ValueError(f"queries: expected one of {', '.join(QUERIES)}, got {self.queries!r}")
        x, attended = self.embed(tokens, "embedding", deterministic), None
        if self.queries == "positions":
            places = self.places(tokens.shape[-1], "queries")
            if places is None:
                raise ValueError(f"queries: 'positions' needs sinusoidal or learned positions, got {self.positions!r}")
            x, attended = jnp.broadcast_to(places.astype(x.dtype), x.shape), x
        return self.read_out(self.stack(x, tokens=attended, mask=_padding(lengths), deterministic=deterministic))


class Decoder(Transformer):
    """Predicts at each position the next token from the tokens up to there.

    With a cache, a call brings only the new tokens, one or many; a batch entry may be further than another.

    Example: reading three tokens and then one more predicts what reading four predicts.
      >>> import jax, jax.numpy as jnp
      >>> from jattn import Decoder
      >>> model, tokens = Decoder(vocabulary=10), jnp.array([[3, 1, 4, 1]])
      >>> variables = model.init(jax.random.key(0), tokens)
      >>> cache = model.empty_cache(batch=(1,), slots=4)
      >>> _, cache = model.apply(variables, tokens[:, :3], cache=cache)
      >>> logits, cache = model.apply(variables, tokens[:, 3:], cache=cache)
      >>> bool(jnp.allclose(logits, model.apply(variables, tokens)[:, 3:], atol=1e-5))
      True
    """

    @nn.compact
    def __call__(
        self,
        tokens: Int[Array, "*batch T"],
        lengths: Int[Array, "*batch"] | None = None,
        *,
        cache: Sequence[KVCache] | None = None,
        deterministic: bool = True,
    ) -> Any:
        """Predicts the next token after each.

        Args:
          tokens: all tokens; with a cache, those after the ones it has seen.
          lengths: how many of `tokens` are real; with a cache, each batch entry advances by its own.
          cache: one `KVCache` per layer; see `empty_cache`.
          deterministic: whether dropout is off.

        Returns:
          Logits ``[*batch, T, C]``; with a cache, the logits and the cache afterwards.

        Raises:
          ValueError: if the cache does not fit the model or has no room, or there are no such learned positions. Under
            jit, where lengths are not known, logits beyond the last learned position are NaN.
        """
        if cache is None:
            mask = masks.causal() if lengths is None else masks.causal() & masks.padding(lengths)
            x = self.embed(tokens, "embedding", deterministic)
            return self.read_out(self.stack(x, mask=mask, deterministic=deterministic))
        self._check_cache(cache, tokens, lengths)
        x, after = self.embed(tokens, "embedding", deterministic, at=cache[0].next_positions(tokens.shape[-1])), []
        for block, seen in zip(self.blocks("block"), cache, strict=True):
            x, seen = block(x, cache=seen, lengths=lengths, deterministic=deterministic)
            after.append(seen)
        return self.read_out(self.last_norm(x, "block")), tuple(after)

    @nn.nowrap
    def empty_cache(self, batch: Sequence[int], slots: int) -> tuple[KVCache, ...]:
        """Makes a cache that has seen nothing, a `KVCache` per layer.

        Args:
          batch: the batch axes of the tokens to come.
          slots: how many tokens there will be at most.

        Raises:
          ValueError: if `slots` is more than the `max_length` of learned positions.
        """
        if self.positions == "learned" and slots > self.max_length:
            raise ValueError(f"slots: expected at most max_length {self.max_length} for learned positions, got {slots}")
        heads, dtype = (self.num_heads, self.width // self.num_heads), self.dtype or jnp.float32
        return tuple(KVCache.empty(batch, slots, *heads, dtype=dtype) for _ in range(self.num_layers))

    def _check_cache(self, cache: Any, tokens: Array, lengths: Array | None) -> None:
        if not isinstance(cache, Sequence) or not all(isinstance(layer, KVCache) for layer in cache):
            raise TypeError(
                f"cache: expected a KVCache per layer, as empty_cache makes them, got {type(cache).__name__}"
            )
        if len(cache) != self.num_layers:
            raise ValueError(f"cache: expected one for each of {self.num_layers} layers, got {len(cache)}")
        if cache[0].length.shape != tokens.shape[:-1]:
            raise ValueError(f"cache: expected the batch shape {tokens.shape[:-1]}, got {cache[0].length.shape}")
        if self.positions != "learned":
            return
        seen, new = (0 if isinstance(x, Tracer) else x for x in (cache[0].length, lengths))
        most = int(np.max(np.asarray(seen) + np.asarray(tokens.shape[-1] if new is None else new), initial=0))
        if most > self.max_length:
            raise ValueError(
                f"learned positions: expected at most max_length {self.max_length} tokens, got {most} with the cache"
            )


class EncoderDecoder(Transformer):
    """Reads a source with an encoder and predicts the next token with a decoder that attends to it."""

    @nn.compact
    def __call__(
        self,
        source: Int[Array, "*batch S"],
        tokens: Int[Array, "*batch T"],
        source_lengths: Int[Array, "*batch"] | None = None,
        *,
        deterministic: bool = True,
    ) -> Float[Array, "*batch T C"]:
        source_mask = _padding(source_lengths)
        context = self.embed(source, "source_embedding", deterministic)
        context = self.stack(context, "encoder", mask=source_mask, deterministic=deterministic)
        x = self.embed(tokens, "embedding", deterministic)
        x = self.stack(
            x,
            "decoder",
            context=context,
            mask=masks.causal(),
            context_mask=source_mask,
            deterministic=deterministic,
        )
        return self.read_out(x)


def _padding(lengths: Int[Array, "*batch"] | None) -> masks.Mask | None:
    return None if lengths is None else masks.padding(lengths)
