"""Models: tokens in, logits out; small transformers of the classic kinds.

Glossary of shapes: ``T`` tokens read, ``S`` source items, ``P`` pixels of a patch, ``D`` width, ``C`` vocabulary.
Lengths say how many tokens of each batch entry are real; ``None`` means all of them.
"""

from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float, Int

from jattn.decode.cache import KVCache
from jattn.layers.transformers import QUERIES, check_caches, check_choice, empty_caches, padding, self_mask
from jattn.linen.layers import FeedForward, MultiHeadAttention
from jattn.linen.transformer import Transformer
from jattn.rules import positions


class Encoder(Transformer):
    """Reads all tokens at once; the answer at position ``i`` is read at query ``i``.

    A position knows its own token before any attention, and so may answer without looking anywhere. With
    ``queries="positions"`` it starts knowing only where it stands, and the first block attends from there to the
    tokens: whatever an answer says about tokens then came through a filter.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from jattn import Encoder
      >>> model, tokens = Encoder(vocabulary=10), jnp.zeros((2, 16), jnp.int32)
      >>> variables = jax.jit(model.init)(jax.random.key(0), tokens)
      >>> jax.jit(model.apply)(variables, tokens).shape
      (2, 16, 10)
    """

    queries: str = "tokens"

    @nn.compact
    def __call__(
        self, tokens: Int[Array, "*batch T"], lengths: Int[Array, "*batch"] | None = None, *, deterministic: bool = True
    ) -> Float[Array, "*batch T C"]:
        check_choice("queries", self.queries, QUERIES)
        x, attended = self.embed(tokens, "embedding", deterministic), None
        if self.queries == "positions":
            places = self.places(tokens.shape[-1], "queries")
            if places is None:
                raise ValueError(f"queries: 'positions' needs sinusoidal or learned positions, got {self.positions!r}")
            x, attended = jnp.broadcast_to(places.astype(x.dtype), x.shape), x
        mask = self_mask(self.window, lengths, is_causal=False)
        told = {"bias": self.bias("block"), "mask": mask, "deterministic": deterministic}
        return self.read_out(self.stack(x, tokens=attended, **told))


class Decoder(Transformer):
    """Predicts at each position the next token from the tokens up to there.

    With a cache, a call brings only the new tokens, one or many; a batch entry may be further than another.

    Example: reading two tokens and then two more predicts what reading four predicts.
      >>> import jax, jax.numpy as jnp
      >>> from jattn import Decoder
      >>> model, tokens = Decoder(vocabulary=10), jnp.array([[3, 1, 4, 1]])
      >>> variables = jax.jit(model.init)(jax.random.key(0), tokens)
      >>> cache = model.empty_cache(batch=(1,), slots=4)
      >>> read = jax.jit(model.apply)
      >>> _, cache = read(variables, tokens[:, :2], cache=cache)
      >>> logits, cache = read(variables, tokens[:, 2:], cache=cache)
      >>> bool(jnp.allclose(logits, read(variables, tokens)[:, 2:], atol=1e-5))
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
            mask = self_mask(self.window, lengths, is_causal=True)
            x, bias = self.embed(tokens, "embedding", deterministic), self.bias("block", bidirectional=False)
            return self.read_out(self.stack(x, mask=mask, bias=bias, deterministic=deterministic))
        check_caches(self, cache, tokens, lengths)
        x, after = self.embed(tokens, "embedding", deterministic, at=cache[0].next_positions(tokens.shape[-1])), []
        bias = self.bias("block", bidirectional=False, offset=cache[0].length)
        for block, seen in zip(self.blocks("block"), cache, strict=True):
            x, seen = block(x, bias=bias, cache=seen, lengths=lengths, deterministic=deterministic)
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
        return empty_caches(self, batch, slots)


class EncoderDecoder(Transformer):
    """Reads a source with an encoder and predicts the next token with a decoder that attends to it.

    Example: an image of six patches of four pixels each, and a caption.
      >>> import jax, jax.numpy as jnp
      >>> from jattn import EncoderDecoder
      >>> model, image, caption = EncoderDecoder(vocabulary=10), jnp.ones((6, 4)), jnp.array([9, 2, 5])
      >>> variables = jax.jit(model.init)(jax.random.key(0), image, caption)
      >>> jax.jit(model.apply)(variables, image, caption).shape
      (3, 10)
    """

    @nn.compact
    def __call__(
        self,
        source: Int[Array, "*batch S"] | Float[Array, "*batch S P"],
        tokens: Int[Array, "*batch T"],
        source_lengths: Int[Array, "*batch"] | None = None,
        *,
        deterministic: bool = True,
    ) -> Float[Array, "*batch T C"]:
        """Predicts the next token after each.

        Args:
          source: tokens; or patches of an image, ``P`` pixel values each, in reading order.
          tokens: the target so far.
          source_lengths: how many items of `source` are real.
          deterministic: whether dropout is off.

        Returns:
          Logits, float32.
        """
        context = self.read(source, source_lengths, deterministic)
        x = self.embed(tokens, "embedding", deterministic)
        x = self.stack(
            x,
            "decoder",
            context=context,
            mask=self_mask(self.window, None, is_causal=True),
            bias=self.bias("decoder", bidirectional=False),
            context_mask=padding(source_lengths),
            deterministic=deterministic,
        )
        return self.read_out(x)


class PooledEncoder(Transformer):
    """Reads a source into one vector, and answers from that vector alone.

    A learned query attends to the encoded source with `num_heads` heads; what they take, joined and projected, is the
    vector ``v``. The answer at place ``i`` knows the vector and the place, no token of the target and no other answer::

        zᵢ = v + placeᵢ        logitsᵢ = W (zᵢ + feed_forward(norm(zᵢ))) + b

    where a place is a learned vector if positions are learned, else a sinusoidal one. So all that is ever said about
    a source went through the filter ``pooling``, one row per head, and through the vector.

    Example: the vector of a sentence, for a probe.
      >>> import jax, jax.numpy as jnp
      >>> from jattn import PooledEncoder
      >>> model, sentences, answers = PooledEncoder(vocabulary=10), jnp.ones((2, 7), int), jnp.zeros((2, 3), int)
      >>> variables = jax.jit(model.init)(jax.random.key(0), sentences, answers)
      >>> apply = jax.jit(model.apply, static_argnames="method")
      >>> apply(variables, sentences, answers).shape
      (2, 3, 10)
      >>> apply(variables, sentences, method="vector").shape
      (2, 32)

    Source: Lin et al. 2017, "A structured self-attentive sentence embedding", section 2.1, over a transformer in place
    of a recurrent network and with `score` in place of an additive one; a learned query that is projected as any other
    is from Lee et al. 2019, "Set transformer", section 3.2.
    """

    def __call__(
        self,
        source: Int[Array, "*batch S"] | Float[Array, "*batch S P"],
        tokens: Int[Array, "*batch T"],
        source_lengths: Int[Array, "*batch"] | None = None,
        *,
        deterministic: bool = True,
    ) -> Float[Array, "*batch T C"]:
        """Answers at as many places as there are `tokens`, which are not read otherwise."""
        return self._pass(source, tokens.shape[-1], source_lengths, deterministic)[1]

    def vector(
        self,
        source: Int[Array, "*batch S"] | Float[Array, "*batch S P"],
        source_lengths: Int[Array, "*batch"] | None = None,
        *,
        deterministic: bool = True,
    ) -> Float[Array, "*batch D"]:
        """Reads a source into its vector; call it as ``model.apply(variables, source, method="vector")``."""
        return self._pass(source, 0, source_lengths, deterministic)[0]

    @nn.compact
    def _pass(self, source: Array, places: int, lengths: Array | None, deterministic: bool) -> tuple[Array, Array]:
        """Returns the vector and the logits at as many places."""
        context = self.read(source, lengths, deterministic)
        query = self.param("query", nn.initializers.normal(self.width**-0.5), (1, self.width))
        pooling = MultiHeadAttention(
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
            relates=("vector", "source"),
            name="pooling",
        )
        vector = pooling(jnp.broadcast_to(query, (*context.shape[:-2], 1, self.width)), context, mask=padding(lengths))
        told = self.places(places, "embedding")
        told = positions.sinusoidal(jnp.arange(places), self.width) if told is None else told
        x = vector + told.astype(vector.dtype)
        answer = FeedForward(self.hidden, self.dropout_rate, self.dtype, name="answer")
        x = x + answer(nn.LayerNorm(dtype=self.dtype, name="answer_norm")(x), deterministic=deterministic)
        return vector[..., 0, :], self.read_out(x)
