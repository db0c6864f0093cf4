"""One transformer of tokens for the families that weights are published of; `jattn.pretrained` fills it.

All layers are one under flax's ``scan``, so thirty compile like one. Filters and edits are by layer all the same:
``"layer_7/attention"``.

Glossary of shapes: ``T`` tokens, ``D`` width, ``E`` width of embeddings, ``C`` vocabulary.
"""

from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from flax.linen.dtypes import promote_dtype
from jax.core import Tracer
from jaxtyping import Array, Float, Int

from jattn.decode.cache import KVCache
from jattn.linen.architecture import ACTIVATIONS, Architecture
from jattn.linen.multi_head import COLLECTION, EDITS, MultiHeadAttention, Projection
from jattn.rules import masks
from jattn.rules.mask import MaskLike

LAYER = "layer"
"""What the scanned layers are called."""


class LanguageModel(nn.Module):
    """Reads tokens and returns logits, or hidden states where the architecture has no head.

    Args:
      architecture: what it is made of.
      dtype: of the computation; logits are float32.
      param_dtype: of the parameters.

    Example: grouped heads, RMS norms, gated feed-forward layers and rotary positions, as in Llama.
      >>> import jax, jax.numpy as jnp
      >>> import jattn
      >>> from jattn.linen.architecture import Architecture
      >>> from jattn.linen.language import LanguageModel
      >>> sizes = {"vocabulary": 300, "num_layers": 2, "num_heads": 4, "num_kv_heads": 2, "width": 16, "hidden": 32}
      >>> model = LanguageModel(Architecture(**sizes, norm="rms", activation="silu", gated=True, rotary=10_000.0))
      >>> tokens = jnp.array([[3, 1, 4, 1, 5]])
      >>> variables = jax.jit(model.init)(jax.random.key(0), tokens)
      >>> logits, filters = jax.jit(lambda variables: jattn.capture_filters(model, variables, tokens))(variables)
      >>> logits.shape, list(filters)
      ((1, 5, 300), ['layer_0/attention', 'layer_1/attention'])
    """

    architecture: Architecture
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32

    @property
    def scanned_layers(self) -> dict[str, int]:
        """How many layers are scanned, by the name of the module; see `jattn.linen.scanned`."""
        return {LAYER: self.architecture.num_layers}

    @nn.compact
    def __call__(
        self,
        tokens: Int[Array, "*batch T"],
        lengths: Int[Array, "*batch"] | None = None,
        *,
        token_types: Int[Array, "*batch T"] | None = None,
        cache: KVCache | None = None,
        last_only: bool = False,
    ) -> Any:
        """Reads tokens.

        Args:
          tokens: all of them; with a cache, those after the ones it has seen.
          lengths: how many of `tokens` are real; with a cache, each batch entry advances by its own.
          token_types: what part each token is of; all of the first by default.
          cache: what `empty_cache` made or an earlier call returned.
          last_only: whether to read out the last position alone, which spares the logits of all others.

        Returns:
          Logits ``[*batch, T, C]``, or hidden states ``[*batch, T, D]``; with a cache, that and the cache afterwards.

        Raises:
          ValueError, TypeError: if the cache does not fit, or there are no such positions or token types.
        """
        if cache is not None:
            self._check_cache(cache, tokens)
        x, table = self._embed(tokens, token_types, None if cache is None else cache.length[0])
        x, cache = run_layers(self.architecture, self.dtype, self.param_dtype, x, lengths, cache)
        x = x if self.architecture.order == "post" else self._norm("last_norm")(x)
        if self.architecture.pooler and self.is_initializing():
            self._pool(x)
        out = self._read_out(x[..., -1:, :] if last_only else x, table)
        return out if cache is None else (out, cache)

    @nn.compact
    def pooled(
        self,
        tokens: Int[Array, "*batch T"],
        lengths: Int[Array, "*batch"] | None = None,
        *,
        token_types: Int[Array, "*batch T"] | None = None,
    ) -> tuple[Float[Array, "*batch D"], Float[Array, "*batch classes"] | None]:
        """Returns BERT's vector of a text, ``tanh(W h₀ + b)``, and its logits on a pair of texts, or None without.

        Call it as ``model.apply(variables, tokens, method="pooled")``.
        """
        if not self.architecture.pooler:
            raise ValueError("pooled: expected an architecture with a pooler, got one without")
        x, _ = self._embed(tokens, token_types, None)
        return self._pool(run_layers(self.architecture, self.dtype, self.param_dtype, x, lengths)[0])

    @nn.nowrap
    def empty_cache(self, batch: Sequence[int], slots: int) -> KVCache:
        """Makes a cache that has seen nothing: one `KVCache` whose first axis are the layers.

        Args:
          batch: the batch axes of the tokens to come.
          slots: how many tokens there will be at most.

        Raises:
          ValueError: if the model is not causal, or `slots` is more than its learned positions.
        """
        its = self.architecture
        if not its.causal:
            raise ValueError("empty_cache: expected a causal model, got one that reads all tokens at once")
        if its.max_length is not None and slots > its.max_length:
            raise ValueError(f"slots: expected at most {its.max_length} learned positions, got {slots}")
        return KVCache.empty((its.num_layers, *batch), slots, its.kv_heads, its.query_dim, dtype=self.dtype)

    def _embed(self, tokens: Array, token_types: Array | None, start: Array | None) -> tuple[Array, Array]:
        """Returns the sum of the embeddings ``[*batch, T, D]``, and the table of tokens ``[C, E]``."""
        its, width = self.architecture, self.architecture.embedding_width or self.architecture.width
        table = self._table("tokens", its.vocabulary, width)
        x = jnp.take(table, tokens, axis=0)
        if its.max_length is not None:
            x = x + self._positions(tokens.shape[-1], start, width)
        if token_types is not None and not its.token_types:
            raise ValueError("token_types: expected None for a model without them, got an array")
        if its.token_types:
            types = jnp.zeros_like(tokens) if token_types is None else token_types
            x = x + jnp.take(self._table("token_types", its.token_types, width), types, axis=0)
        x = self._norm("embedding_norm")(x) if its.embedding_norm else x
        if its.embedding_width is not None:
            x = Projection((its.width,), dtype=self.dtype, param_dtype=self.param_dtype, name="embedding_projection")(x)
        return x.astype(self.dtype), table

    def _positions(self, length: int, start: Array | None, width: int) -> Float[Array, "... T E"]:
        most = self.architecture.max_length
        assert most is not None
        seen = 0 if start is None or isinstance(start, Tracer) else int(np.max(np.asarray(start), initial=0))
        if seen + length > most:
            raise ValueError(f"tokens: expected at most {most} learned positions, got {seen + length} tokens")
        table = self._table("positions", most, width)
        if start is None:
            return table[:length]
        return jnp.take(table, start[..., None] + jnp.arange(length), axis=0, mode="fill")

    def _pool(self, x: Array) -> tuple[Array, Array | None]:
        its, options = self.architecture, {"dtype": self.dtype, "param_dtype": self.param_dtype}
        vector = jnp.tanh(Projection((its.width,), **options, name="pooler")(x[..., 0, :]))
        if not its.pair_classes:
            return vector, None
        return vector, Projection((its.pair_classes,), **options, name="pair")(vector)

    def _read_out(self, x: Array, table: Array) -> Array:
        its = self.architecture
        if its.head == "none":
            return x
        if its.head == "linear":
            table = self._table("logits", its.vocabulary, its.width)
        if its.head == "masked":
            options = {"dtype": self.dtype, "param_dtype": self.param_dtype}
            x = Projection((its.embedding_width or its.width,), **options, name="guess")(x)
            x = self._norm("guess_norm")(ACTIVATIONS[its.activation](x))
        x, table = promote_dtype(x, table, dtype=self.dtype)
        logits = jnp.einsum("...e,ce->...c", x, table).astype(jnp.float32)
        if its.head == "masked":
            logits = logits + self.param("guess_bias", nn.initializers.zeros, (its.vocabulary,), self.param_dtype)
        return logits

    def _table(self, name: str, rows: int, width: int) -> Float[Array, "rows E"]:
        return self.param(name, nn.initializers.normal(0.02), (rows, width), self.param_dtype)

    def _norm(self, name: str) -> nn.Module:
        return make_norm(self.architecture, self.dtype, self.param_dtype, name)

    def _check_cache(self, cache: Any, tokens: Array) -> None:
        if not isinstance(cache, KVCache):
            raise TypeError(f"cache: expected a KVCache as empty_cache makes it, got {type(cache).__name__}")
        expected = (self.architecture.num_layers, *tokens.shape[:-1])
        if cache.length.shape != expected:
            raise ValueError(f"cache: expected layers and batch of shape {expected}, got {cache.length.shape}")


def run_layers(
    its: Architecture,
    dtype: Any,
    param_dtype: Any,
    x: Array,
    lengths: Array | None = None,
    cache: KVCache | None = None,
) -> tuple[Float[Array, "*batch T D"], KVCache | None]:
    """Passes vectors through all layers, under one scan; called inside a module, to which the layers then belong."""

    def step(layer: Layer, x: Array, each: tuple[Any, Any]) -> tuple[Array, Any]:
        return layer(x, lengths, *each)

    if its.windows is None or len(set(its.windows)) == 1:
        window = None
    else:
        window = jnp.array([2**30 if one is None else one for one in its.windows], jnp.int32)
    axes: dict[Any, Any] = {COLLECTION: 0, EDITS: 0} | ({} if its.shared_layers else {"params": 0})
    scan = nn.scan(
        step,
        variable_axes=axes,
        variable_broadcast="params" if its.shared_layers else False,
        split_rngs={"params": not its.shared_layers},
        length=its.num_layers,
    )
    return scan(Layer(its, dtype, param_dtype, name=LAYER), x, (window, cache))


class Layer(nn.Module):
    """Attends, then transforms each position; both are added to what they got, with a norm before or after."""

    architecture: Architecture
    dtype: Any
    param_dtype: Any

    @nn.compact
    def __call__(
        self, x: Float[Array, "*batch T D"], lengths: Array | None, window: Array | None, cache: KVCache | None
    ) -> tuple[Array, KVCache | None]:
        """Returns the vectors and the cache afterwards; `window` is this layer's, where layers differ in it."""
        its, after = self.architecture, cache
        pre = its.order == "pre"
        norm = make_norm(its, self.dtype, self.param_dtype, "attention_norm")
        y = self._attention()
        mask = self._mask(x.shape[-2], lengths, window, cache)
        change = y(norm(x) if pre else x, mask=mask, cache=cache, lengths=None if cache is None else lengths)
        if cache is not None:
            change, after = change
        change = self._scaled(change, "attention_scale")
        x = x + change if pre else norm(x + change)
        norm = make_norm(its, self.dtype, self.param_dtype, "feed_forward_norm")
        change = FeedForwardLayer(its, self.dtype, self.param_dtype, name="feed_forward")(norm(x) if pre else x)
        change = self._scaled(change, "feed_forward_scale")
        return (x + change if pre else norm(x + change)), after

    def _scaled(self, change: Array, name: str) -> Array:
        if not self.architecture.layer_scale:
            return change
        scale = self.param(name, nn.initializers.ones, change.shape[-1:], self.param_dtype)
        return change * scale.astype(change.dtype)

    def _attention(self) -> MultiHeadAttention:
        its = self.architecture
        rotary = {"base": its.rotary, "layout": "half", "scaling": its.rotary_scaling}
        return MultiHeadAttention(
            num_heads=its.num_heads,
            num_kv_heads=its.kv_heads,
            qkv_features=its.num_heads * its.query_dim,
            use_bias=its.qkv_bias,
            use_out_bias=its.out_bias,
            normalize_qk=its.qk_norm,
            qk_norm="rms",
            qk_epsilon=its.epsilon,
            rotary=False if its.rotary is None else rotary,
            dtype=self.dtype,
            param_dtype=self.param_dtype,
            relates=("tokens", "tokens"),
            name="attention",
        )

    def _mask(self, length: int, lengths: Array | None, window: Array | None, cache: KVCache | None) -> MaskLike | None:
        its = self.architecture
        if its.windows is not None and window is None:
            window = its.windows[0]  # pyright: ignore[reportAssignmentType]
        if cache is not None:
            if window is None:
                return None
            # The slots of such a cache are the positions, for there is one per token.
            distance = cache.next_positions(length)[..., None] - jnp.arange(cache.slots)
            return (distance < window)[..., None, :, :]
        padding = None if lengths is None else masks.padding(lengths)
        if window is not None:
            span = masks.sliding_window(window - 1, 0 if its.causal else window - 1)
        elif its.causal:
            span = masks.causal()
        else:
            return padding
        return span if padding is None else span & padding


class FeedForwardLayer(nn.Module):
    """Transforms each position: ``f(x W₁ + b₁) W₂ + b₂``, or gated ``(f(x W_g + b_g) · (x W₁ + b₁)) W₂ + b₂``."""

    architecture: Architecture
    dtype: Any
    param_dtype: Any

    @nn.compact
    def __call__(self, x: Float[Array, "*batch T D"]) -> Float[Array, "*batch T D"]:
        its = self.architecture
        options = {"use_bias": its.feed_forward_bias, "dtype": self.dtype, "param_dtype": self.param_dtype}
        hidden, activation = Projection((its.hidden,), **options, name="hidden")(x), ACTIVATIONS[its.activation]
        if its.gated:
            hidden = hidden * activation(Projection((its.hidden,), **options, name="gate")(x))
        else:
            hidden = activation(hidden)
        return Projection((its.width,), **options, name="out")(hidden)


def make_norm(architecture: Architecture, dtype: Any, param_dtype: Any, name: str) -> nn.Module:
    """Makes a norm; its variance is that of what is left of the mean, exact where numbers are far from zero."""
    options = {"epsilon": architecture.epsilon, "dtype": dtype, "param_dtype": param_dtype, "name": name}
    return nn.RMSNorm(**options) if architecture.norm == "rms" else nn.LayerNorm(use_fast_variance=False, **options)
