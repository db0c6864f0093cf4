"""Models as NNX modules: tokens in, logits out; the same as those of `jattn.linen.models`, with the same parameters.

Glossary of shapes: ``T`` tokens read, ``D`` width, ``C`` vocabulary. Lengths say how many tokens of each batch entry
are real; ``None`` means all of them.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int

from jattn.decode.cache import KVCache
from jattn.layers.transformers import (
    POSITIONS,
    QUERIES,
    add_places,
    check_caches,
    check_choice,
    empty_caches,
    rotary_options,
    self_mask,
)
from jattn.nnx.layers import Block, LearnedPositions, RelativePositions, TokenEmbedding, dropout
from jattn.nnx.multi_head import Projection, uncast
from jattn.rules import biases, positions as placing
from jattn.rules.biases import Bias
from jattn.rules.normalizers import NormalizerLike, softmax
from jattn.rules.scores import ScoreLike, scaled_dot


class Transformer(nnx.Module):
    """What the models share, each with a ``__call__`` of its own.

    Dropout is off until ``train()``.

    Args:
      vocabulary, num_layers, num_heads, width, hidden, norm, positions, max_length, score, normalizer, dropout_rate,
        dtype, num_kv_heads, window, qk_norm, rotary_base, rotary_scaling, filter_dropout_rate, sequence_axis:
        as in `jattn.Encoder`.
      rngs: of the parameters, and of dropout.

    Raises:
      ValueError: if the heads do not divide the width, or there are no such positions or no such norm.
    """

    bidirectional = True
    """Whether a token sees later ones."""

    embeds_tokens = True
    """Whether tokens are looked up in a table."""

    reads_tokens = False
    """Whether the first block attends to tokens instead of what it transforms."""

    def __init__(
        self,
        vocabulary: int,
        num_layers: int = 1,
        num_heads: int = 1,
        width: int = 32,
        hidden: int = 64,
        norm: str = "pre",
        positions: str = "sinusoidal",
        max_length: int = 512,
        score: ScoreLike = scaled_dot(),
        normalizer: NormalizerLike = softmax(),
        dropout_rate: float = 0.0,
        dtype: Any = jnp.float32,
        num_kv_heads: int | None = None,
        window: int | None = None,
        qk_norm: str | None = None,
        rotary_base: float = 10_000.0,
        rotary_scaling: float = 1.0,
        filter_dropout_rate: float | None = None,
        sequence_axis: str | None = None,
        *,
        rngs: nnx.Rngs,
    ):
        check_choice("positions", positions, POSITIONS)
        self.vocabulary, self.num_layers, self.num_heads = vocabulary, num_layers, num_heads
        self.width, self.positions, self.max_length, self.dtype = width, positions, max_length, dtype
        self.num_kv_heads, self.window = num_kv_heads, window
        if self.embeds_tokens:
            self.embedding = TokenEmbedding(vocabulary, width, dtype, rngs=rngs)
        if positions == "learned":
            self.embedding_positions = LearnedPositions(max_length, width, rngs=rngs)
        block: dict[str, Any] = {
            "hidden": hidden,
            "norm": norm,
            "score": score,
            "normalizer": normalizer,
            "rotary": rotary_options(positions, rotary_base, rotary_scaling),
            "num_kv_heads": num_kv_heads,
            "qk_norm": qk_norm,
            "filter_dropout_rate": filter_dropout_rate,
            "sequence_axis": sequence_axis,
        }
        block |= {"dropout_rate": dropout_rate, "dtype": dtype, "rngs": rngs}
        self.add_stacks(block)
        self.logits = Projection(width, vocabulary, dtype=dtype, rngs=rngs)
        self.dropout = dropout(dropout_rate, rngs)

    def add_stacks(self, block: Mapping[str, Any]) -> None:
        """Makes the stack of blocks, or more than one; `block` are the options of every block."""
        self.add_stack("block", block, self.bidirectional, reads_tokens=self.reads_tokens)

    def add_stack(
        self, name: str, block: Mapping[str, Any], bidirectional: bool, reads_tokens: bool = False, **options: Any
    ) -> None:
        """Makes the blocks ``{name}_0``, ``{name}_1`` ..., the bias of their positions, and the norm after the last."""
        rngs, norm = block["rngs"], nnx.data(None)
        if self.positions == "relative":
            setattr(self, f"{name}_positions", RelativePositions(self.num_heads, bidirectional, rngs=rngs))
        for layer in range(self.num_layers):
            options["reads_tokens"] = reads_tokens and layer == 0
            setattr(self, f"{name}_{layer}", Block(self.num_heads, self.width, **block, **options))
        if block["norm"] == "pre":
            norm = nnx.LayerNorm(self.width, dtype=self.dtype, promote_dtype=uncast, rngs=rngs)
        setattr(self, f"{name}_norm", norm)

    def embed(
        self, tokens: Int[Array, "*batch T"], at: Int[Array, "*batch T"] | None = None, **call: Any
    ) -> Float[Array, "*batch T D"]:
        """Looks the tokens up and adds the vectors of their positions: `at`, or counted from zero."""
        learned = self.embedding_positions if self.positions == "learned" else None
        places = self.places(tokens.shape[-1], learned, at)
        return self.dropout(add_places(self.embedding(tokens), places), **call)

    def places(
        self, length: int, learned: LearnedPositions | None, at: Int[Array, "*batch T"] | None = None
    ) -> Float[Array, "*batch T D"] | None:
        """Makes the vector that is added for each position, or None where positions are given some other way."""
        if learned is not None:
            return learned(length, at)
        if self.positions == "sinusoidal":
            return placing.sinusoidal(jnp.arange(length) if at is None else at, self.width)
        return None

    def bias(self, offset: int | Int[Array, "*batch"] = 0, name: str = "block") -> Bias | None:
        """Makes what self-attention adds to its scores; the first query lies `offset` behind the first key."""
        if self.positions == "alibi":
            return biases.alibi(offset=offset)
        return getattr(self, f"{name}_positions")(offset) if self.positions == "relative" else None

    def blocks(self, name: str = "block") -> list[Block]:
        """Lists the blocks of a stack, the first first."""
        return [getattr(self, f"{name}_{layer}") for layer in range(self.num_layers)]

    def last_norm(self, x: Float[Array, "*batch T D"], name: str = "block") -> Float[Array, "*batch T D"]:
        """Applies the norm after the last block of a stack, if there is one."""
        norm = getattr(self, f"{name}_norm")
        return x if norm is None else norm(x)

    def read_out(self, x: Float[Array, "*batch T D"]) -> Float[Array, "*batch T C"]:
        """Applies the final linear layer: a logit per token of the vocabulary, in float32."""
        return self.logits(x).astype(jnp.float32)


class Encoder(Transformer):
    """Reads all tokens at once; the answer at position ``i`` is read at query ``i``. See `jattn.Encoder`.

    Args:
      queries: ``"tokens"``, or ``"positions"`` for answers that know nothing of a token before attention.
      **others: as in `jattn.Encoder`, and ``rngs``.

    Example:
      >>> import jax.numpy as jnp
      >>> from flax import nnx
      >>> from jattn.nnx import Encoder
      >>> model = Encoder(vocabulary=10, rngs=nnx.Rngs(0))
      >>> model(jnp.zeros((2, 16), int)).shape
      (2, 16, 10)
    """

    def __init__(self, vocabulary: int, *sizes: Any, queries: str = "tokens", rngs: nnx.Rngs, **others: Any):
        check_choice("queries", queries, QUERIES)
        self.queries, self.reads_tokens = queries, queries == "positions"
        super().__init__(vocabulary, *sizes, rngs=rngs, **others)
        if self.reads_tokens and self.positions not in ("sinusoidal", "learned"):
            raise ValueError(f"queries: 'positions' needs sinusoidal or learned positions, got {self.positions!r}")
        if self.reads_tokens and self.positions == "learned":
            self.queries_positions = LearnedPositions(self.max_length, self.width, rngs=rngs)

    def __call__(
        self,
        tokens: Int[Array, "*batch T"],
        lengths: Int[Array, "*batch"] | None = None,
        *,
        deterministic: bool | None = None,
        rngs: nnx.Rngs | nnx.RngStream | None = None,
    ) -> Float[Array, "*batch T C"]:
        """Answers at each position.

        Args:
          tokens: what is read.
          lengths: how many of `tokens` are real.
          deterministic: whether dropout is off; as ``train()`` and ``eval()`` say by default.
          rngs: draws what is dropped instead of the streams that the layers keep.

        Returns:
          Logits, float32.
        """
        call: dict[str, Any] = {"deterministic": deterministic, "rngs": rngs}
        x, attended = self.embed(tokens, **call), None
        if self.reads_tokens:
            learned = self.queries_positions if self.positions == "learned" else None
            places = self.places(tokens.shape[-1], learned)
            x, attended = add_places(jnp.zeros_like(x), places), x
        call |= {"mask": self_mask(self.window, lengths, is_causal=False), "bias": self.bias()}
        for layer, block in enumerate(self.blocks()):
            x = block(x, tokens=attended if layer == 0 else None, **call)
        return self.read_out(self.last_norm(x))


class Decoder(Transformer):
    """Predicts at each position the next token from the tokens up to there. See `jattn.Decoder`.

    With a cache, a call brings only the new tokens, one or many; a batch entry may be further than another.

    Example:
      >>> import jax.numpy as jnp
      >>> from flax import nnx
      >>> from jattn.nnx import Decoder
      >>> model = Decoder(vocabulary=10, rngs=nnx.Rngs(0))
      >>> model(jnp.zeros((2, 16), int)).shape
      (2, 16, 10)
    """

    bidirectional = False

    def __call__(
        self,
        tokens: Int[Array, "*batch T"],
        lengths: Int[Array, "*batch"] | None = None,
        *,
        cache: Sequence[KVCache] | None = None,
        deterministic: bool | None = None,
        rngs: nnx.Rngs | nnx.RngStream | None = None,
    ) -> Any:
        """Predicts the next token after each.

        Args:
          tokens, lengths, cache: as in `jattn.Decoder`.
          deterministic: whether dropout is off; as ``train()`` and ``eval()`` say by default.
          rngs: draws what is dropped instead of the streams that the layers keep.

        Returns:
          Logits ``[*batch, T, C]``; with a cache, the logits and the cache afterwards.

        Raises:
          ValueError: as in `jattn.Decoder`.
        """
        call: dict[str, Any] = {"deterministic": deterministic, "rngs": rngs}
        if cache is None:
            x, bias = self.embed(tokens, **call), self.bias()
            mask = self_mask(self.window, lengths, is_causal=True)
            for block in self.blocks():
                x = block(x, mask=mask, bias=bias, **call)
            return self.read_out(self.last_norm(x))
        check_caches(self, cache, tokens, lengths)
        x, after = self.embed(tokens, cache[0].next_positions(tokens.shape[-1]), **call), []
        bias = self.bias(cache[0].length)
        for block, seen in zip(self.blocks(), cache, strict=True):
            x, seen = block(x, bias=bias, cache=seen, lengths=lengths, **call)
            after.append(seen)
        return self.read_out(self.last_norm(x)), tuple(after)

    def empty_cache(self, batch: Sequence[int], slots: int) -> tuple[KVCache, ...]:
        """Makes a cache that has seen nothing, a `KVCache` per layer; see `jattn.Decoder`."""
        return empty_caches(self, batch, slots)
