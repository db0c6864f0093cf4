"""The linen shell: parameters, dropout and sowing around the pure functions.

Glossary of shapes: ``T`` query length, ``S`` key length, ``N`` heads, ``H`` head dim, ``D`` width of the model.
"""

import functools
import math
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax.linen.dtypes import promote_dtype
from jaxtyping import Array, Float, Int

from jattn import positions
from jattn.attention import attend
from jattn.biases import BiasLike
from jattn.filters import AttentionFilter, attention_filter
from jattn.masks import MaskLike
from jattn.scores import ScoreLike, scaled_dot

COLLECTION = "filters"
"""The flax collection into which attention layers sow their filters."""

ONE_HOT_VOCABULARY = 256
"""Up to this many tokens the look-up is a matrix product, whose gradient is one too; a gather's is a slow scatter."""


class MultiHeadAttention(nn.Module):
    """Attends with several heads: projects queries, keys and values, attends, and projects the joined heads.

    The parameter tree is that of `flax.linen.MultiHeadDotProductAttention` (``query``, ``key``, ``value``, ``out``),
    and with the same parameters the outputs agree. If the collection ``"filters"`` is mutable, the layer sows its
    `AttentionFilter` there under the name ``filter``; see `capture_filters`.

    Args:
      num_heads: how many heads share `qkv_features`.
      qkv_features: the width of all heads together; that of the queries by default.
      out_features: the width of the output; that of the queries by default.
      score: how a query and a key are compared; an object of `jattn.scores`, or a function.
      rotary: whether queries and keys are rotated by their positions.
      dropout_rate: the chance of each weight to be dropped, where not `deterministic`; takes the rng ``dropout``.
      deterministic: whether dropout is off; may be given at the call instead.
      use_bias: whether the projections have a bias.
      dtype: of the computation; by default that of inputs and parameters.
      param_dtype: of the parameters.
      kernel_init, bias_init: initialisers of the projections.
      precision: as in `jax.lax.dot_general`.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> import jattn
      >>> layer, x = jattn.MultiHeadAttention(num_heads=2), jnp.ones((3, 5, 8))
      >>> variables = layer.init(jax.random.key(0), x)
      >>> layer.apply(variables, x, mask=jattn.masks.causal()).shape
      (3, 5, 8)

    Source: Vaswani et al. 2017, section 3.2.2.
    """

    num_heads: int
    qkv_features: int | None = None
    out_features: int | None = None
    score: ScoreLike = scaled_dot()
    rotary: bool = False
    dropout_rate: float = 0.0
    deterministic: bool | None = None
    use_bias: bool = True
    dtype: Any = None
    param_dtype: Any = jnp.float32
    kernel_init: Callable[..., Any] = nn.initializers.lecun_normal()
    bias_init: Callable[..., Any] = nn.initializers.zeros_init()
    precision: Any = None

    @nn.compact
    def __call__(
        self,
        inputs_q: Float[Array, "*batch T D"],
        inputs_k: Float[Array, "*batch S E"] | None = None,
        inputs_v: Float[Array, "*batch S F"] | None = None,
        *,
        mask: MaskLike | None = None,
        bias: BiasLike | None = None,
        deterministic: bool | None = None,
    ) -> Float[Array, "*batch T out"]:
        """Attends from `inputs_q` to `inputs_k` and averages `inputs_v`.

        Args:
          inputs_q: what asks.
          inputs_k: what is matched; `inputs_q` by default, which makes it self-attention.
          inputs_v: what is averaged; `inputs_k` by default.
          mask: True = may attend; as in `attend`.
          bias: added to the scores; as in `attend`.
          deterministic: whether dropout is off.

        Raises:
          ValueError: if the heads do not divide the features, or inputs do not fit one another.
        """
        if inputs_k is None and inputs_v is not None:
            raise ValueError("inputs_k: expected an array where inputs_v is given, got None")
        inputs_k = inputs_q if inputs_k is None else inputs_k
        inputs_v = inputs_k if inputs_v is None else inputs_v
        features = self.qkv_features or inputs_q.shape[-1]
        if self.num_heads < 1 or features % self.num_heads:
            raise ValueError(f"num_heads: expected a positive divisor of the {features} features, got {self.num_heads}")

        heads = (self.num_heads, features // self.num_heads)
        project = functools.partial(
            Projection,
            use_bias=self.use_bias,
            dtype=self.dtype,
            param_dtype=self.param_dtype,
            kernel_init=self.kernel_init,
            bias_init=self.bias_init,
            precision=self.precision,
        )
        query = project(heads, name="query")(inputs_q)
        key = project(heads, name="key")(inputs_k)
        value = project(heads, name="value")(inputs_v)
        if self.rotary:
            query = positions.rotary(query, jnp.arange(query.shape[-3]))
            key = positions.rotary(key, jnp.arange(key.shape[-3]))

        options = {"score": self.score, "bias": bias, "mask": mask, "precision": self.precision}
        if self.is_mutable_collection(COLLECTION) and not self.is_initializing():
            self.sow(COLLECTION, "filter", attention_filter(query, key, **options))
        dropout = self.dropout_rate > 0 and not nn.merge_param("deterministic", self.deterministic, deterministic)
        if dropout:
            options |= {"dropout_rate": self.dropout_rate, "dropout_rng": self.make_rng("dropout")}
        attended = attend(query, key, value, **options)
        return project((self.out_features or inputs_q.shape[-1],), in_axes=2, name="out")(attended)


class Projection(nn.Module):
    """Multiplies the last axes of the input with a kernel: ``x W + b``.

    The parameters are those of `flax.linen.DenseGeneral`, shapes and first values alike; the product is taken between
    matrices, a row per token, because XLA on CPU is several times slower at the weight gradient of anything else.

    Args:
      features: the axes of the output that take the place of the last `in_axes` axes of the input.
      in_axes: how many axes of the input are multiplied.
      use_bias, dtype, param_dtype, kernel_init, bias_init, precision: as in `flax.linen.DenseGeneral`.
    """

    features: tuple[int, ...]
    in_axes: int = 1
    use_bias: bool = True
    dtype: Any = None
    param_dtype: Any = jnp.float32
    kernel_init: Callable[..., Any] = nn.initializers.lecun_normal()
    bias_init: Callable[..., Any] = nn.initializers.zeros_init()
    precision: Any = None

    @nn.compact
    def __call__(self, x: Float[Array, "..."]) -> Float[Array, "..."]:
        leading, inputs = x.shape[: -self.in_axes], x.shape[-self.in_axes :]
        flat = (math.prod(inputs), math.prod(self.features))

        def kernel_init(rng: Array, shape: tuple[int, ...], dtype: Any) -> Array:
            return self.kernel_init(rng, flat, dtype).reshape(shape)

        def bias_init(rng: Array, shape: tuple[int, ...], dtype: Any) -> Array:
            return self.bias_init(rng, flat[1:], dtype).reshape(shape)

        kernel = self.param("kernel", kernel_init, inputs + self.features, self.param_dtype).reshape(flat)
        bias = self.param("bias", bias_init, self.features, self.param_dtype).ravel() if self.use_bias else None
        x, kernel, bias = promote_dtype(x.reshape(math.prod(leading), flat[0]), kernel, bias, dtype=self.dtype)
        out = jnp.matmul(x, kernel, precision=self.precision)
        out = out if bias is None else out + bias
        return out.reshape(leading + self.features)


class TokenEmbedding(nn.Module):
    """Looks up a vector per token in a learned table ``[vocabulary, width]``.

    Tokens outside the vocabulary are not checked for: their vectors are meaningless.
    """

    vocabulary: int
    width: int
    dtype: Any = None

    @nn.compact
    def __call__(self, tokens: Int[Array, "*batch T"]) -> Float[Array, "*batch T D"]:
        initializer = nn.initializers.normal(self.width**-0.5)
        table = self.param("embedding", initializer, (self.vocabulary, self.width))
        (table,) = promote_dtype(table, dtype=self.dtype)
        if self.vocabulary > ONE_HOT_VOCABULARY:
            return jnp.take(table, tokens, axis=0)
        chosen = jax.nn.one_hot(tokens.ravel(), self.vocabulary, dtype=table.dtype)
        rows = jnp.matmul(chosen, table, precision=jax.lax.Precision.HIGHEST)
        return rows.reshape(*tokens.shape, self.width)


class LearnedPositions(nn.Module):
    """Looks up a vector per position in a learned table; there is none beyond `max_length`."""

    max_length: int
    width: int

    @nn.compact
    def __call__(self, length: int) -> Float[Array, "T D"]:
        if length > self.max_length:
            raise ValueError(
                f"learned positions: expected a length of at most max_length {self.max_length}, got {length}"
            )
        table = self.param("embedding", nn.initializers.normal(self.width**-0.5), (self.max_length, self.width))
        return table[:length]


class FeedForward(nn.Module):
    """Transforms each position on its own: ``relu(x W₁ + b₁) W₂ + b₂``."""

    hidden: int
    dropout_rate: float = 0.0
    dtype: Any = None

    @nn.compact
    def __call__(self, x: Float[Array, "*batch T D"], *, deterministic: bool = True) -> Float[Array, "*batch T D"]:
        hidden = nn.relu(Projection((self.hidden,), dtype=self.dtype, name="hidden")(x))
        hidden = nn.Dropout(self.dropout_rate)(hidden, deterministic=deterministic)
        return Projection((x.shape[-1],), dtype=self.dtype, name="out")(hidden)


class Block(nn.Module):
    """Attends to itself, then (where `context` is given) to another sequence, then transforms each position.

    Each step ``f`` is added to what it got. Post-norm (Vaswani et al. 2017): ``x ← norm(x + f(x))``; pre-norm (Xiong et
    al. 2020): ``x ← x + f(norm(x))``, which wants a last norm after the last block.

    Args:
      num_heads: heads of each attention.
      hidden: width inside the feed-forward layer.
      norm: ``"pre"`` or ``"post"``.
      score: how queries and keys are compared.
      rotary: whether self-attention rotates queries and keys by their positions.
      dropout_rate: of each step's output, of weights and inside the feed-forward layer, where not `deterministic`.
      dtype: of the computation.
    """

    num_heads: int
    hidden: int
    norm: str = "pre"
    score: ScoreLike = scaled_dot()
    rotary: bool = False
    dropout_rate: float = 0.0
    dtype: Any = None

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "*batch T D"],
        context: Float[Array, "*batch S D"] | None = None,
        *,
        tokens: Float[Array, "*batch T D"] | None = None,
        mask: MaskLike | None = None,
        context_mask: MaskLike | None = None,
        deterministic: bool = True,
    ) -> Float[Array, "*batch T D"]:
        """Passes vectors through the block.

        Args:
          x: a vector per position.
          context: what cross-attention attends to; None leaves that step out.
          tokens: what self-attention attends to instead of `x`, for a stream that knows only its positions yet.
          mask: of self-attention; True = may attend.
          context_mask: of cross-attention.
          deterministic: whether dropout is off.
        """
        if self.norm not in ("post", "pre"):
            raise ValueError(f"norm: expected 'post' or 'pre', got {self.norm!r}")

        def add(x: Array, name: str, step: Callable[[Array], Array]) -> Array:
            norm = nn.LayerNorm(dtype=self.dtype, name=f"{name}_norm")
            change = step(norm(x)) if self.norm == "pre" else step(x)
            change = nn.Dropout(self.dropout_rate)(change, deterministic=deterministic)
            return x + change if self.norm == "pre" else norm(x + change)

        attention = functools.partial(
            MultiHeadAttention,
            num_heads=self.num_heads,
            score=self.score,
            dropout_rate=self.dropout_rate,
            deterministic=deterministic,
            dtype=self.dtype,
        )
        if tokens is not None and self.norm == "pre":
            tokens = nn.LayerNorm(dtype=self.dtype, name="tokens_norm")(tokens)
        x = add(x, "attention", lambda y: attention(rotary=self.rotary, name="attention")(y, tokens, mask=mask))
        if context is not None:
            x = add(x, "cross_attention", lambda y: attention(name="cross_attention")(y, context, mask=context_mask))
        feed_forward = FeedForward(self.hidden, self.dropout_rate, self.dtype, name="feed_forward")
        return add(x, "feed_forward", lambda y: feed_forward(y, deterministic=deterministic))


def capture_filters(
    module: nn.Module, variables: Mapping[str, Any], *args: Any, **kwargs: Any
) -> tuple[Any, dict[str, AttentionFilter]]:
    """Applies a flax module and returns, besides its output, the filter of every attention in it.

    Args:
      module: any linen module that contains `jattn.MultiHeadAttention` layers.
      variables: its variables.
      *args, **kwargs: what ``module.apply`` takes further.

    Returns:
      The module's output, and the filters by path (``"block_0/attention"``); a layer that was called more than once
      has its later calls under ``"path#1"``, ``"path#2"``.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> import jattn
      >>> layer, x = jattn.MultiHeadAttention(num_heads=2), jnp.ones((5, 8))
      >>> variables = layer.init(jax.random.key(0), x)
      >>> output, filters = jattn.capture_filters(layer, variables, x)
      >>> filters
      {'attention': AttentionFilter(shape=(2, 5, 5), dtype=float32)}
    """
    output, sown = module.apply(variables, *args, mutable=[COLLECTION], **kwargs)
    filters: dict[str, AttentionFilter] = {}
    entries, _ = jax.tree_util.tree_flatten_with_path(
        sown.get(COLLECTION, {}), is_leaf=lambda node: isinstance(node, AttentionFilter)
    )
    for path, entry in entries:
        *names, call = (getattr(part, "key", getattr(part, "idx", None)) for part in path)
        name = "/".join(map(str, names[:-1])) or "attention"
        filters[name if call == 0 else f"{name}#{call}"] = entry
    return output, filters
