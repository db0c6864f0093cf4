"""Multi-head attention as a linen layer: projections, positions, a cache and sowing around `attend`.

Glossary of shapes: ``T`` query length, ``S`` key length, ``N`` query heads, ``K`` key/value heads (``N`` is a multiple
of ``K``), ``H`` head dim.
"""

import math
from collections.abc import Callable, Mapping
from typing import Any

import chex
import jax.numpy as jnp
from flax import linen as nn
from flax.core import meta
from flax.linen.dtypes import promote_dtype
from jaxtyping import Array, Float, Int, PRNGKeyArray

from jattn.decode.cache import KVCache
from jattn.layers.heads import Heads, check_qk_norm, fill_inputs, head_sizes, place
from jattn.layers.projections import project
from jattn.layers.step_cache import DecodeCache
from jattn.rules.biases import BiasLike
from jattn.rules.edits import EditLike, in_turn
from jattn.rules.learned import learned_by, with_learned
from jattn.rules.mask import MaskLike
from jattn.rules.normalizers import NormalizerLike, softmax
from jattn.rules.scores import ScoreLike, scaled_dot

COLLECTION = "filters"
"""The flax collection into which attention layers sow their filters."""

EDITS = "edits"
"""The flax collection from which attention layers read an edit of their filter, under the name ``edit``."""


class MultiHeadAttention(nn.Module):
    """Attends with several heads: projects queries, keys and values, attends, and projects the joined heads.

    ::

        outᵢ = Wₒ [head₁; …; headₙ]ᵢ + bₒ        headₙ = attend(W_q xq + b_q, W_k xk + b_k, W_v xv + b_v)

    Stands in for `flax.linen.MultiHeadAttention`: parameters, their first values, the cache, sown weights and, with the
    same parameters, the outputs agree. It differs where flax averages forbidden values (a query that may attend to
    nothing gets the bias of ``out``), or sows weights in the dtype of the computation (here float32 or wider); each
    weight is drawn for dropout unless `broadcast_dropout` is given, and complex inputs are refused.
    `MultiHeadDotProductAttention` takes all of flax's arguments.

    If the collection ``"filters"`` is mutable, the layer sows its `AttentionFilter` there; see `capture_filters`. If
    the variables hold the collection ``"edits"``, its ``edit`` comes after that of the layer; see `apply_with_edits`.

    Args:
      num_heads: how many query heads share `qkv_features`.
      dtype: of the computation; by default that of inputs and parameters.
      param_dtype: of the parameters.
      qkv_features: the width of all query heads together; that of the queries by default.
      out_features: the width of the output; that of the queries by default.
      broadcast_dropout: whether all heads and batch entries drop the same weights.
      dropout_rate: the chance of each weight to be dropped, where not `deterministic`; takes the rng ``dropout``.
      deterministic: whether dropout is off; may be given at the call instead.
      precision: as in `jax.lax.dot_general`.
      kernel_init, bias_init: initialisers of the projections.
      out_kernel_init, out_bias_init: those of the last projection, if they are others.
      use_bias: whether the projections have a bias.
      decode: whether each call brings the next tokens of a sequence, one or several, and attends causally to all
        so far. `init` sets the length of the cache and the batch; a call then updates the collection ``cache``.
        Mask and bias objects see the true positions of the queries; an array holds the rows of the call.
      normalize_qk: whether a norm without bias comes after the projections of queries and of keys.
      qk_norm: which one: ``"layer"``, or ``"rms"`` (Zhang and Sennrich 2019), with `qk_epsilon` under the root.
      use_out_bias: whether the last projection has a bias; as `use_bias` by default.
      num_kv_heads: how many key/value heads, each serving ``num_heads / num_kv_heads`` query heads; `num_heads` by
        default.
      score, normalizer, edit, implementation, block_size: as in `attend`. Arrays that `scores.bilinear`,
        `scores.additive` and `normalizers.learned_sink` leave out are parameters of the layer.
      rotary: whether queries and keys are rotated by their positions; a mapping gives options of `positions.rotary`.
      relates: the names of the sequences that queries and keys come from, such as ``("tokens", "source")``, for those
        who see the filter: it is `AttentionFilter.relates`.
      sequence_axis: the mesh axis over which positions are split, under `jax.set_mesh`; the filter is then a
        `jattn.sharded.ShardedFilter`, and `implementation` a strategy of `jattn.sharded.attend`.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> import jattn
      >>> layer, x = jattn.MultiHeadAttention(num_heads=2, rotary={"base": 500.0}), jnp.ones((3, 5, 8))
      >>> variables = layer.init(jax.random.key(0), x)
      >>> layer.apply(variables, x, mask=jattn.masks.causal()).shape
      (3, 5, 8)

    Source: Vaswani et al. 2017, section 3.2.2; `normalize_qk`: Dehghani et al. 2023, "Scaling vision transformers to 22
    billion parameters", section 2; `num_kv_heads`: Ainslie et al. 2023, "GQA", section 2.2.
    """

    num_heads: int
    dtype: Any = None
    param_dtype: Any = jnp.float32
    qkv_features: int | None = None
    out_features: int | None = None
    broadcast_dropout: bool = False
    dropout_rate: float = 0.0
    deterministic: bool | None = None
    precision: Any = None
    kernel_init: Callable[..., Any] = nn.initializers.lecun_normal()
    out_kernel_init: Callable[..., Any] | None = None
    bias_init: Callable[..., Any] = nn.initializers.zeros_init()
    out_bias_init: Callable[..., Any] | None = None
    use_bias: bool = True
    decode: bool = False
    normalize_qk: bool = False
    num_kv_heads: int | None = None
    score: ScoreLike = scaled_dot()
    normalizer: NormalizerLike = softmax()
    rotary: bool | Mapping[str, Any] = False
    edit: EditLike | None = None
    implementation: str | None = None
    block_size: int | None = None
    relates: tuple[str, str] | None = None
    qk_norm: str = "layer"
    qk_epsilon: float = 1e-6
    use_out_bias: bool | None = None
    sequence_axis: str | None = None

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
        dropout_rng: PRNGKeyArray | None = None,
        sow_weights: bool = False,
        cache: KVCache | None = None,
        lengths: Int[Array, "*batch"] | None = None,
    ) -> Any:
        """Attends from `inputs_q` to `inputs_k` and averages `inputs_v`.

        Args:
          inputs_q: what asks.
          inputs_k: what is matched; `inputs_q` by default, which makes it self-attention.
          inputs_v: what is averaged; `inputs_k` by default.
          mask: True = may attend; as in `attend`, or zeros and ones as flax's mask functions make them. Other
            numbers are refused; where they are not known before the program runs, the output is NaN.
          bias: added to the scores; as in `attend`.
          deterministic: whether dropout is off.
          dropout_rng: draws the dropped weights instead of the module's rng ``dropout``.
          sow_weights: whether the weights before dropout are sown as ``attention_weights`` in ``intermediates``, whole.
          cache: what was read so far; the inputs are the next tokens, and attend causally. See `KVCache`.
          lengths: with a cache, how many of the tokens of each batch entry are real.

        Returns:
          The output ``[*batch, T, out]``; with a cache, the output and the cache afterwards.

        Raises:
          ValueError: if the heads do not divide the features, inputs do not fit one another or the cache, or the cache
            is full; where that is not known before the program runs, the output is NaN.
        """
        inputs_q, inputs_k, inputs_v = fill_inputs(inputs_q, inputs_k, inputs_v)
        query, key, value = self._project(inputs_q, inputs_k, inputs_v)
        kept = self._open_cache(key, value)
        if cache is not None and self.decode:
            raise ValueError("cache: expected None for a layer that keeps its own (decode=True), got a KVCache")
        options = {"mask": mask, "bias": bias, "rotary": self.rotary, "kept": kept, "cache": cache, "lengths": lengths}
        heads = place(query, key, value, **options)
        if heads.kept is not None:
            self._close_cache(heads.kept)
        attended = self._attend(heads, deterministic, dropout_rng, sow_weights)
        out = self._projection(
            (self.out_features or inputs_q.shape[-1],),
            in_axes=2,
            kernel_init=self.out_kernel_init or self.kernel_init,
            bias_init=self.out_bias_init or self.bias_init,
            use_bias=self.use_bias if self.use_out_bias is None else self.use_out_bias,
            name="out",
        )(attended)
        out = heads.checked(out)
        return out if cache is None else (out, heads.cache)

    def _projection(self, features: tuple[int, ...], **options: Any) -> "Projection":
        shared = {"kernel_init": self.kernel_init, "bias_init": self.bias_init, "precision": self.precision}
        shared |= {"dtype": self.dtype, "param_dtype": self.param_dtype, "use_bias": self.use_bias}
        return Projection(features, **(shared | options))

    def _qk_norm(self, name: str) -> nn.Module:
        shared = {"epsilon": self.qk_epsilon, "dtype": self.dtype, "param_dtype": self.param_dtype, "name": name}
        return nn.RMSNorm(**shared) if check_qk_norm(self.qk_norm) == "rms" else nn.LayerNorm(use_bias=False, **shared)

    def _project(self, inputs_q: Array, inputs_k: Array, inputs_v: Array) -> tuple[Array, Array, Array]:
        features = self.qkv_features or inputs_q.shape[-1]
        head_dim, num_kv_heads = head_sizes(features, self.num_heads, self.num_kv_heads)
        query = self._projection((self.num_heads, head_dim), name="query")(inputs_q)
        key = self._projection((num_kv_heads, head_dim), name="key")(inputs_k)
        value = self._projection((num_kv_heads, head_dim), name="value")(inputs_v)
        if self.normalize_qk:
            query, key = self._qk_norm("query_ln")(query), self._qk_norm("key_ln")(key)
        query, key, value = promote_dtype(query, key, value, dtype=self.dtype)
        chex.assert_shape(query, (*inputs_q.shape[:-1], self.num_heads, head_dim))
        chex.assert_shape(key, (*inputs_k.shape[:-1], num_kv_heads, head_dim))
        chex.assert_shape(value, (*inputs_v.shape[:-1], num_kv_heads, head_dim))
        return query, key, value

    def _open_cache(self, key: Array, value: Array) -> DecodeCache | None:
        """Opens the variables of the cache; None where nothing is decoded, or the cache is only being made."""
        if not self.decode:
            return None
        exists = self.has_variable("cache", "cached_key")
        kept = DecodeCache(
            self.variable("cache", "cached_key", jnp.zeros, key.shape, key.dtype).value,
            self.variable("cache", "cached_value", jnp.zeros, value.shape, value.dtype).value,
            self.variable("cache", "cache_index", lambda: jnp.array(0, jnp.int32)).value,
        )
        return kept if exists else None

    def _close_cache(self, kept: DecodeCache) -> None:
        for name, array in {"cached_key": kept.key, "cached_value": kept.value, "cache_index": kept.index}.items():
            self.put_variable("cache", name, array)

    def _with_learned(self, rule: Any, heads: Heads) -> Any:
        """Returns a score or normalizer with what it leaves to the layer to learn."""
        shapes = {name: (one, one.shape(*heads.query.shape[-2:])) for name, one in learned_by(rule).items()}
        own = {name: self.param(name, one.init, shape, self.param_dtype) for name, (one, shape) in shapes.items()}
        return with_learned(rule, own)

    def _attend(
        self, heads: Heads, deterministic: bool | None, dropout_rng: PRNGKeyArray | None, sow_weights: bool
    ) -> Float[Array, "*batch T N H"]:
        """Attends, and sows the filter and the weights where they can be sown."""
        edit = self.edit
        if self.has_variable(EDITS, "edit"):
            asked = self.get_variable(EDITS, "edit")
            edit = asked if edit is None else in_turn(edit, asked)
        program = {"score": self._with_learned(self.score, heads), "edit": edit}
        program |= {"normalizer": self._with_learned(self.normalizer, heads)}
        program |= {"block_size": self.block_size, "precision": self.precision, "sequence_axis": self.sequence_axis}
        if self.dropout_rate != 0 and not nn.merge_param("deterministic", self.deterministic, deterministic):
            program |= {"dropout_rate": self.dropout_rate, "broadcast_dropout": self.broadcast_dropout}
            program |= {"dropout_rng": self.make_rng("dropout") if dropout_rng is None else dropout_rng}
        if self.is_mutable_collection(COLLECTION) and not self.is_initializing():
            self.sow(COLLECTION, "filter", heads.filter(self.relates, **program))
        if sow_weights and self.is_mutable_collection("intermediates"):
            self.sow("intermediates", "attention_weights", heads.weights(**program))
        return heads.attend(self.implementation, **program)


class Projection(nn.Module):
    """Multiplies the last axes of the input with a kernel: ``x W + b``.

    The parameters are those of `flax.linen.DenseGeneral`, shapes and first values alike; for the product see
    `jattn.layers.projections.project`.

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
        inputs = x.shape[-self.in_axes :]
        flat = (math.prod(inputs), math.prod(self.features))
        kernel_init, bias_init = _flat(self.kernel_init, flat), _flat(self.bias_init, flat[1:])
        kernel = self.param("kernel", kernel_init, inputs + self.features, self.param_dtype)
        bias = self.param("bias", bias_init, self.features, self.param_dtype) if self.use_bias else None
        return project(x, kernel, bias, self.in_axes, self.dtype, self.precision)


def _flat(initializer: Callable[..., Any], flat: tuple[int, ...]) -> Callable[..., Any]:
    """Makes an initialiser draw a matrix, which shows it the fan-in, and reshape it; in its box, if it has one."""

    def init(rng: Array, shape: tuple[int, ...], dtype: Any) -> Any:
        drawn = initializer(rng, flat, dtype)
        return meta.replace_boxed(drawn, meta.unbox(drawn).reshape(shape))

    return init
