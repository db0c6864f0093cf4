"""Recurrent models to compare attention with: a source read item by item, a target said token by token.

Glossary of shapes: ``T`` tokens read, ``S`` source items, ``P`` pixels of a patch, ``D`` width, ``C`` vocabulary, ``V``
numbers in a state.
"""

import functools
from typing import Any

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float, Int

from jattn.layers.recurrent import CELLS, additive_score, as_states, as_vector, first_states, read_through
from jattn.layers.transformers import check_choice, padding
from jattn.linen.layers import MultiHeadAttention, PatchEmbedding, TokenEmbedding
from jattn.linen.multi_head import Projection


class RecurrentEncoderDecoder(nn.Module):
    """Reads a source into a state of fixed size, and goes on from there to say the target.

    ::

        hⱼ = cell(hⱼ₋₁, sourceⱼ)    s₀ = h_S    sᵢ = cell(sᵢ₋₁, tokenᵢ)    logitsᵢ = W oᵢ + b

    Without attention ``oᵢ = sᵢ``: what the decoder knows of the source is the state that the encoder ends in, of the
    same size for any source. With attention the decoder's states are the queries, and the encoder's are keys and
    values, with additive scores::

        scoreᵢⱼ = vᵀ tanh(W_q sᵢ + W_k hⱼ)        oᵢ = tanh(W_o [attentionᵢ; sᵢ])

    Attention comes after the cell, as Luong et al. have it; in the model of Bahdanau et al. its result goes into the
    next step of the cell, which would let attention see one query at a time. So one call serves all tokens, and its
    filter is captured as ``cross_attention``. With several layers each cell reads the states of the one below, and the
    decoder's cells begin in the states in which the encoder's ended.

    Args:
      vocabulary: the number of tokens ``C``.
      cell: ``"gru"`` or ``"lstm"``.
      attention: whether the decoder attends to the source.
      num_layers: cells on top of one another, in the encoder and in the decoder.
      num_heads: heads of the attention; must divide `width`.
      width: the length ``D`` of a token's vector and of a cell's state.
      dropout_rate: of embeddings, weights and what a cell says to the next layer, where not `deterministic`.
      dtype: of the computation; parameters, states and logits are float32.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from jattn import RecurrentEncoderDecoder
      >>> model, source, tokens = RecurrentEncoderDecoder(vocabulary=10), jnp.ones((2, 7), int), jnp.ones((2, 5), int)
      >>> variables = jax.jit(model.init)(jax.random.key(0), source, tokens)
      >>> jax.jit(model.apply)(variables, source, tokens).shape
      (2, 5, 10)

    Source: the fixed state: Sutskever et al. 2014, "Sequence to sequence learning with neural networks", section 2; Cho
    et al. 2014, "Learning phrase representations using RNN encoder-decoder for statistical machine translation",
    section 2.2. The scores: Bahdanau et al. 2015, "Neural machine translation by jointly learning to align and
    translate", section A.1.2. Attention after the cell: Luong et al. 2015, "Effective approaches to attention-based
    neural machine translation", section 3.1.
    """

    vocabulary: int
    cell: str = "gru"
    attention: bool = True
    num_layers: int = 1
    num_heads: int = 1
    width: int = 32
    dropout_rate: float = 0.0
    dtype: Any = jnp.float32

    def setup(self) -> None:
        check_choice("cell", self.cell, tuple(CELLS))
        self.source_embedding = TokenEmbedding(self.vocabulary, self.width, self.dtype)
        self.patch_embedding = PatchEmbedding(self.width, self.dtype)
        self.embedding = TokenEmbedding(self.vocabulary, self.width, self.dtype)
        self.encoder = [nn.RNN(CELLS[self.cell](self.width, dtype=self.dtype)) for _ in range(self.num_layers)]
        self.decoder = [nn.RNN(CELLS[self.cell](self.width, dtype=self.dtype)) for _ in range(self.num_layers)]
        self.dropout = nn.Dropout(self.dropout_rate)
        self.logits = Projection((self.vocabulary,), dtype=self.dtype)
        if self.attention:
            # MultiHeadAttention says what is wrong with a number of heads.
            heads = max(1, self.num_heads)
            vector = self.param("score", nn.initializers.lecun_normal(), (self.width // heads, heads))
            self.cross_attention = MultiHeadAttention(
                self.num_heads,
                dtype=self.dtype,
                dropout_rate=self.dropout_rate,
                score=additive_score(vector),
                relates=("tokens", "source"),
            )
            self.joined = Projection((self.width,), dtype=self.dtype)

    def __call__(
        self,
        source: Int[Array, "*batch S"] | Float[Array, "*batch S P"],
        tokens: Int[Array, "*batch T"],
        source_lengths: Int[Array, "*batch"] | None = None,
        *,
        deterministic: bool = True,
    ) -> Float[Array, "*batch T C"]:
        """Predicts the next token after each of `tokens`; arguments are those of `jattn.EncoderDecoder`."""
        state, states = self.encode(source, source_lengths, deterministic=deterministic)
        return self.decode(state, states, tokens, source_lengths, deterministic=deterministic)

    def encode(
        self,
        source: Int[Array, "*batch S"] | Float[Array, "*batch S P"],
        source_lengths: Int[Array, "*batch"] | None = None,
        *,
        deterministic: bool = True,
    ) -> tuple[Float[Array, "*batch V"], Float[Array, "*batch S D"] | None]:
        """Reads a source.

        Returns:
          The state in which the encoder ends, that of all its layers in one vector, and what its last cell said at each
          item: None without attention.
        """
        floating = jnp.issubdtype(source.dtype, jnp.floating)
        x = self.patch_embedding(source) if floating else self.source_embedding(source)
        drop = functools.partial(self.dropout, deterministic=deterministic)
        x, carries = read_through(self.encoder, first_states(self._cells(), x), x, source_lengths, drop)
        return as_vector(carries), x if self.attention else None

    def decode(
        self,
        state: Float[Array, "*batch V"],
        states: Float[Array, "*batch S D"] | None,
        tokens: Int[Array, "*batch T"],
        source_lengths: Int[Array, "*batch"] | None = None,
        *,
        deterministic: bool = True,
    ) -> Float[Array, "*batch T C"]:
        """Predicts the next token after each, from what `encode` returned and the tokens up to there."""
        x, drop = self.embedding(tokens), functools.partial(self.dropout, deterministic=deterministic)
        x, _ = read_through(self.decoder, as_states(state, first_states(self._cells(), x)), x, None, drop)
        if self.attention:
            found = self.cross_attention(x, states, mask=padding(source_lengths), deterministic=deterministic)
            x = jnp.tanh(self.joined(jnp.concatenate([found, x], axis=-1)))
        return self.logits(x).astype(jnp.float32)

    def _cells(self) -> list[nn.RNNCellBase]:
        return [rnn.cell for rnn in self.encoder]
