"""Recurrent models as NNX modules: the same as those of `jattn.linen.recurrent`, with the same parameters.

Glossary of shapes: ``T`` tokens read, ``S`` source items, ``P`` pixels of a patch, ``D`` width, ``C`` vocabulary, ``V``
numbers in a state.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn, nnx
from jaxtyping import Array, Float, Int

from jattn.layers.recurrent import CELLS, additive_score, as_states, as_vector, first_states, read_through
from jattn.layers.transformers import check_choice, padding
from jattn.nnx.layers import PatchEmbedding, TokenEmbedding, dropout, is_patches
from jattn.nnx.multi_head import MultiHeadAttention, Projection


class Recurrence(nnx.Module):
    """Passes a recurrent cell along a sequence: flax's ``linen.RNN`` over a cell whose parameters it keeps.

    The cells of ``flax.nnx`` join parameters that those of ``flax.linen`` keep apart, so a linen one computes here.
    """

    def __init__(self, kind: str, width: int, dtype: Any = None, *, rngs: nnx.Rngs):
        self.kind, self.width, self.dtype = kind, width, dtype
        unbound, x = self.unbound(), jnp.zeros((1, width))
        drawn = unbound.init(rngs.params(), *first_states([unbound], x[None]), x)
        self.cell = nnx.data(jax.tree.map(nnx.Param, drawn["params"]))

    def unbound(self) -> nn.RNNCellBase:
        """Makes the cell without its parameters."""
        return CELLS[self.kind](self.width, dtype=self.dtype)

    def __call__(self, x: Float[Array, "B T D"], **options: Any) -> Any:
        """Reads sequences; options and results are those of `flax.linen.RNN`."""
        parameters = jax.tree.map(lambda leaf: leaf[...], self.cell, is_leaf=lambda leaf: isinstance(leaf, nnx.Param))
        return nn.RNN(self.unbound()).apply({"params": {"cell": parameters}}, x, **options)


class RecurrentEncoderDecoder(nnx.Module):
    """Reads a source into a state of fixed size, and goes on from there to say the target.

    See `jattn.RecurrentEncoderDecoder`. Dropout is off until ``train()``.

    Args:
      vocabulary, cell, attention, num_layers, num_heads, width, dropout_rate, dtype: as there.
      pixels: how many pixel values a patch of the source has; None for a source of tokens.
      rngs: of the parameters, and of dropout.

    Raises:
      ValueError: if there is no such cell, or the heads do not divide the width.

    Example:
      >>> import jax.numpy as jnp
      >>> from flax import nnx
      >>> from jattn.nnx import RecurrentEncoderDecoder
      >>> model = RecurrentEncoderDecoder(vocabulary=10, rngs=nnx.Rngs(0))
      >>> model(source=jnp.ones((2, 7), int), tokens=jnp.ones((2, 5), int)).shape
      (2, 5, 10)
    """

    def __init__(
        self,
        vocabulary: int,
        cell: str = "gru",
        attention: bool = True,
        num_layers: int = 1,
        num_heads: int = 1,
        width: int = 32,
        dropout_rate: float = 0.0,
        dtype: Any = jnp.float32,
        *,
        pixels: int | None = None,
        rngs: nnx.Rngs,
    ):
        check_choice("cell", cell, tuple(CELLS))
        self.attention, self.num_layers, self.pixels = attention, num_layers, pixels
        if pixels is None:
            self.source_embedding = TokenEmbedding(vocabulary, width, dtype, rngs=rngs)
        else:
            self.patch_embedding = PatchEmbedding(pixels, width, dtype, rngs=rngs)
        self.embedding = TokenEmbedding(vocabulary, width, dtype, rngs=rngs)
        for name in ("encoder", "decoder"):
            for layer in range(num_layers):
                setattr(self, f"{name}_{layer}", Recurrence(cell, width, dtype, rngs=rngs))
        self.dropout = dropout(dropout_rate, rngs)
        if attention:
            sizes: dict[str, Any] = {"dtype": dtype, "dropout_rate": dropout_rate, "deterministic": True}
            self.cross_attention = MultiHeadAttention(
                num_heads, width, broadcast_dropout=False, relates=("tokens", "source"), rngs=rngs, **sizes
            )
            shape = (width // num_heads, num_heads)
            self.score = nnx.Param(nnx.initializers.lecun_normal()(rngs.params(), shape, jnp.float32))
            self.joined = Projection(2 * width, width, dtype=dtype, rngs=rngs)
        self.logits = Projection(width, vocabulary, dtype=dtype, rngs=rngs)

    def __call__(
        self,
        source: Int[Array, "*batch S"] | Float[Array, "*batch S P"],
        tokens: Int[Array, "*batch T"],
        source_lengths: Int[Array, "*batch"] | None = None,
        *,
        deterministic: bool | None = None,
        rngs: nnx.Rngs | nnx.RngStream | None = None,
    ) -> Float[Array, "*batch T C"]:
        """Predicts the next token after each of `tokens`; arguments are those of `jattn.nnx.EncoderDecoder`."""
        call: dict[str, Any] = {"deterministic": deterministic, "rngs": rngs}
        state, states = self.encode(source, source_lengths, **call)
        return self.decode(state, states, tokens, source_lengths, **call)

    def encode(
        self,
        source: Int[Array, "*batch S"] | Float[Array, "*batch S P"],
        source_lengths: Int[Array, "*batch"] | None = None,
        **call: Any,
    ) -> tuple[Float[Array, "*batch V"], Float[Array, "*batch S D"] | None]:
        """Reads a source; returns what ``encode`` of `jattn.RecurrentEncoderDecoder` does."""
        x = self.patch_embedding(source) if is_patches(source, self.pixels) else self.source_embedding(source)
        drop = functools.partial(self.dropout, **call)
        x, states = read_through(self._stack("encoder"), self._first(x), x, source_lengths, drop)
        return as_vector(states), x if self.attention else None

    def decode(
        self,
        state: Float[Array, "*batch V"],
        states: Float[Array, "*batch S D"] | None,
        tokens: Int[Array, "*batch T"],
        source_lengths: Int[Array, "*batch"] | None = None,
        **call: Any,
    ) -> Float[Array, "*batch T C"]:
        """Predicts the next token after each, from what `encode` returned and the tokens up to there."""
        x, drop = self.embedding(tokens), functools.partial(self.dropout, **call)
        x, _ = read_through(self._stack("decoder"), as_states(state, self._first(x)), x, None, drop)
        if self.attention:
            score = additive_score(self.score[...])
            found = self.cross_attention(x, states, mask=padding(source_lengths), score=score, **call)
            x = jnp.tanh(self.joined(jnp.concatenate([found, x], axis=-1)))
        return self.logits(x).astype(jnp.float32)

    def _stack(self, name: str) -> list[Recurrence]:
        return [getattr(self, f"{name}_{layer}") for layer in range(self.num_layers)]

    def _first(self, x: Float[Array, "*batch T D"]) -> list[Any]:
        return first_states([rnn.unbound() for rnn in self._stack("encoder")], x)
