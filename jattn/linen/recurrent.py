"""Recurrent models to compare attention with: a source read item by item, a target said token by token.

Glossary of shapes: ``T`` tokens read, ``S`` source items, ``P`` pixels of a patch, ``D`` width, ``C`` vocabulary, ``V``
numbers in a state.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float, Int

from jattn.layers.transformers import padding
from jattn.linen.layers import MultiHeadAttention, PatchEmbedding, TokenEmbedding
from jattn.linen.multi_head import Projection
from jattn.rules import scores

CELLS: dict[str, Callable[..., nn.RNNCellBase]] = {"gru": nn.GRUCell, "lstm": nn.OptimizedLSTMCell}
"""The recurrent cells by name."""


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
        if self.cell not in CELLS:
            raise ValueError(f"cell: expected one of {', '.join(CELLS)}, got {self.cell!r}")
        self.source_embedding = TokenEmbedding(self.vocabulary, self.width, self.dtype)
        self.patch_embedding = PatchEmbedding(self.width, self.dtype)
        self.embedding = TokenEmbedding(self.vocabulary, self.width, self.dtype)
        self.encoder = [nn.RNN(CELLS[self.cell](self.width, dtype=self.dtype)) for _ in range(self.num_layers)]
        self.decoder = [nn.RNN(CELLS[self.cell](self.width, dtype=self.dtype)) for _ in range(self.num_layers)]
        self.dropout = nn.Dropout(self.dropout_rate)
        self.logits = Projection((self.vocabulary,), dtype=self.dtype)
        if self.attention:
            self.cross_attention = MultiHeadAttention(
                self.num_heads,
                dtype=self.dtype,
                dropout_rate=self.dropout_rate,
                score=self._score(),
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
        x, carries = self._read(self.encoder, self._first(x), x, source_lengths, deterministic)
        return jnp.concatenate(jax.tree.leaves(carries), axis=-1), x if self.attention else None

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
        x = self.embedding(tokens)
        first, structure = jax.tree.flatten(self._first(x))
        carries = jax.tree.unflatten(structure, jnp.split(state, len(first), axis=-1))
        x, _ = self._read(self.decoder, carries, x, None, deterministic)
        if self.attention:
            found = self.cross_attention(x, states, mask=padding(source_lengths), deterministic=deterministic)
            x = jnp.tanh(self.joined(jnp.concatenate([found, x], axis=-1)))
        return self.logits(x).astype(jnp.float32)

    def _score(self) -> scores.Score:
        """Makes the additive score of queries and keys that `MultiHeadAttention` has multiplied with a matrix each."""
        # MultiHeadAttention says what is wrong with a number of heads.
        heads = max(1, self.num_heads)
        head_dim = self.width // heads
        vector = self.param("score", nn.initializers.lecun_normal(), (head_dim, heads)).T
        return scores.additive(jnp.eye(head_dim), jnp.eye(head_dim), vector)

    def _first(self, x: Float[Array, "*batch T D"]) -> list[Any]:
        """Makes the states, all zero, in which the cells of a stack begin."""
        return [stack.cell.initialize_carry(jax.random.key(0), (*x.shape[:-2], x.shape[-1])) for stack in self.encoder]

    def _read(
        self,
        stack: list[nn.RNN],
        carries: list[Any],
        x: Float[Array, "*batch T D"],
        lengths: Int[Array, "*batch"] | None,
        deterministic: bool,
    ) -> tuple[Float[Array, "*batch T D"], list[Any]]:
        """Passes vectors through a stack of cells; returns what the last one said, and the states they end in.

        A sequence that is over stays in its last state.
        """
        batch, ends = x.shape[:-2], []
        # nn.RNN knows lengths of one batch axis alone.
        x = self.dropout(x, deterministic=deterministic).reshape(-1, *x.shape[-2:])
        lengths = None if lengths is None else jnp.broadcast_to(jnp.asarray(lengths), batch).reshape(-1)
        for rnn, carry in zip(stack, carries, strict=True):
            carry = jax.tree.map(lambda state: state.reshape(-1, state.shape[-1]), carry)
            end, said = rnn(x, initial_carry=carry, seq_lengths=lengths, return_carry=True)
            if lengths is not None:
                # Of nothing to read, nn.RNN takes the state at the end of the padding.
                end = jax.tree.map(lambda last, first: jnp.where(lengths[:, None] > 0, last, first), end, carry)
            x = self.dropout(said.astype(x.dtype), deterministic=deterministic)
            ends.append(jax.tree.map(lambda state: state.reshape(*batch, -1), end))
        return x.reshape(*batch, *x.shape[-2:]), ends
