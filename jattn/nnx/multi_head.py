"""Multi-head attention as an NNX module: projections, dropout, a cache and sowing around `attend`.

Glossary of shapes: ``T`` query length, ``S`` key length, ``N`` query heads, ``K`` key/value heads (``N`` is a multiple
of ``K``), ``H`` head dim.
"""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax.numpy as jnp
from flax import nnx
from flax.core import FrozenDict
from flax.linen.dtypes import promote_dtype
from flax.nnx.nn import dtypes
from jaxtyping import Array, Float, Int

from jattn.decode.cache import KVCache
from jattn.layers.heads import INSTEAD, Heads, check_qk_norm, fill_inputs, head_sizes, place
from jattn.layers.projections import project
from jattn.layers.step_cache import DecodeCache
from jattn.rules.biases import BiasLike
from jattn.rules.edits import EditLike, as_edit
from jattn.rules.learned import learned_by, with_learned
from jattn.rules.mask import MaskLike
from jattn.rules.normalizers import NormalizerLike, as_normalizer, softmax
from jattn.rules.scores import Score, ScoreLike, as_score, scaled_dot

REPLACED = INSTEAD | dict.fromkeys(
    ("qkv_promote_dtype", "out_promote_dtype", "ln_promote_dtype"), "dtype says in what dtype is computed"
)
"""The arguments of flax's layer that replace what jattn computes, and what takes their place."""

NO_METADATA: Mapping[str, Any] = FrozenDict()


class Filter(nnx.Intermediate):
    """The type of variable that attention layers sow their filter as: ``nnx.capture(model, jattn.nnx.Filter)``."""


def uncast(arrays: Any, /, *, dtype: Any = None, inexact: bool = True) -> Any:
    """Leaves a norm its scale and bias in full precision, as linen does; its result is cast all the same."""
    return arrays


class Projection(nnx.LinearGeneral):
    """Multiplies the last axes of the input with a kernel: ``x W + b``.

    Is `flax.nnx.LinearGeneral` over the last axes; for the product see `jattn.layers.projections.project`.
    """

    def __call__(self, inputs: Float[Array, "..."], out_sharding: Any = None) -> Float[Array, "..."]:
        if out_sharding is not None:
            return super().__call__(inputs, out_sharding=out_sharding)
        bias = None if self.bias is None else self.bias[...]
        return project(inputs, self.kernel[...], bias, len(self.axis), self.dtype, self.precision)


class MultiHeadAttention(nnx.Module):
    """Attends with several heads: projects queries, keys and values, attends, and projects the joined heads.

    ::

        outᵢ = Wₒ [head₁; …; headₙ]ᵢ + bₒ        headₙ = attend(W_q xq + b_q, W_k xk + b_k, W_v xv + b_v)

    Stands in for `flax.nnx.MultiHeadAttention`: arguments, parameters, their first values, the cache, sown weights and,
    with the same parameters, the outputs agree. It differs from flax's in this:

    - A call that decodes brings one token or several, each of which attends to all up to its own, also under
      ``is_causal=True`` (flax 0.12.8 then attends to the first key alone).
    - Without `decode`, nothing is decoded; flax wants the argument.
    - A query that may attend to nothing gets the bias of ``out``; flax averages forbidden values.
    - Weights are computed and sown in float32 or wider.
    - `input_positions` are those by which `rotary` rotates.
    - What would replace the computation is refused: `attention_fn`, ``*_dot_general``, ``*_promote_dtype``.

    A score, normalizer or edit with arrays keeps them in the module's state. They are no `nnx.Param`, and so are not
    trained; a call may bring a `score` made of parameters of one's own. What `scores.bilinear`, `scores.additive` and
    `normalizers.learned_sink` leave to the layer are parameters of it.

    Args:
      num_heads: how many query heads share `qkv_features`.
      in_features: the width of the inputs of queries.
      qkv_features: the width of all query heads together; `in_features` by default.
      out_features: the width of the output; `in_features` by default.
      num_kv_heads: how many key/value heads, each serving ``num_heads / num_kv_heads`` query heads.
      in_kv_features: the width of the inputs of keys and values; `in_features` by default.
      dtype: of the computation; by default that of inputs and parameters.
      param_dtype: of the parameters.
      broadcast_dropout: whether all heads and batch entries drop the same weights.
      dropout_rate: the chance of each weight to be dropped, where not `deterministic`.
      deterministic: whether dropout is off; may be given at the call, or by ``train()`` and ``eval()``.
      precision: as in `jax.lax.dot_general`.
      kernel_init, bias_init, out_kernel_init, out_bias_init: initialisers of the projections; of the last, if other.
      use_bias: whether the projections have a bias.
      decode: whether calls bring the next tokens of a sequence; see `init_cache`. May be given at the call.
      normalize_qk: whether a norm without bias comes after the projections of queries and of keys.
      rngs: of the parameters, and of dropout.
      keep_rngs: whether the layer keeps a stream of `rngs` for dropout; without, each call brings its own.
      kernel_metadata, bias_metadata, out_kernel_metadata, out_bias_metadata: of the projections, such as shardings.
      query_ln_scale_metadata, key_ln_scale_metadata: of the norms.
      score, normalizer, rotary, edit, implementation, block_size, relates, qk_norm, qk_epsilon, use_out_bias,
        sequence_axis: as in `jattn.MultiHeadAttention`.
      **replaced: flax's arguments that would replace the computation; None, or flax's own default.

    Raises:
      ValueError: if the heads do not divide the features, or an argument would replace what is computed here.

    Example:
      >>> import jax.numpy as jnp
      >>> from flax import nnx
      >>> import jattn.nnx
      >>> layer = jattn.nnx.MultiHeadAttention(num_heads=2, in_features=8, rotary=True, rngs=nnx.Rngs(0))
      >>> layer(jnp.ones((3, 5, 8)), mask=jattn.masks.causal()).shape
      (3, 5, 8)

    Source: flax 0.12, `flax.nnx.MultiHeadAttention`; Vaswani et al. 2017, section 3.2.2.
    """

    def __init__(
        self,
        num_heads: int,
        in_features: int,
        qkv_features: int | None = None,
        out_features: int | None = None,
        num_kv_heads: int | None = None,
        in_kv_features: int | None = None,
        *,
        dtype: Any = None,
        param_dtype: Any = jnp.float32,
        broadcast_dropout: bool = True,
        dropout_rate: float = 0.0,
        deterministic: bool | None = None,
        precision: Any = None,
        kernel_init: Callable[..., Any] = nnx.initializers.lecun_normal(),
        out_kernel_init: Callable[..., Any] | None = None,
        bias_init: Callable[..., Any] = nnx.initializers.zeros_init(),
        out_bias_init: Callable[..., Any] | None = None,
        use_bias: bool = True,
        decode: bool | None = None,
        normalize_qk: bool = False,
        rngs: nnx.Rngs,
        keep_rngs: bool = True,
        kernel_metadata: Mapping[str, Any] = NO_METADATA,
        out_kernel_metadata: Mapping[str, Any] = NO_METADATA,
        bias_metadata: Mapping[str, Any] = NO_METADATA,
        out_bias_metadata: Mapping[str, Any] = NO_METADATA,
        query_ln_scale_metadata: Mapping[str, Any] = NO_METADATA,
        key_ln_scale_metadata: Mapping[str, Any] = NO_METADATA,
        score: ScoreLike = scaled_dot(),
        normalizer: NormalizerLike = softmax(),
        rotary: bool | Mapping[str, Any] = False,
        edit: EditLike | None = None,
        implementation: str | None = None,
        block_size: int | None = None,
        relates: tuple[str, str] | None = None,
        qk_norm: str = "layer",
        qk_epsilon: float = 1e-6,
        use_out_bias: bool | None = None,
        sequence_axis: str | None = None,
        **replaced: Any,
    ):
        _refuse(replaced)
        self.num_heads, self.in_features = num_heads, in_features
        self.qkv_features = in_features if qkv_features is None else qkv_features
        self.out_features = in_features if out_features is None else out_features
        self.in_kv_features = in_features if in_kv_features is None else in_kv_features
        self.head_dim, self.num_kv_heads = head_sizes(self.qkv_features, num_heads, num_kv_heads)
        self.dtype, self.param_dtype, self.precision = dtype, param_dtype, precision
        self.broadcast_dropout, self.dropout_rate, self.deterministic = broadcast_dropout, dropout_rate, deterministic
        self.decode, self.use_bias, self.normalize_qk = decode, use_bias, normalize_qk
        self.score, self.normalizer = nnx.data(as_score(score)), nnx.data(as_normalizer(normalizer))
        self.edit = nnx.data(None if edit is None else as_edit(edit))
        self.rotary = FrozenDict(rotary) if isinstance(rotary, Mapping) else rotary
        self.implementation, self.block_size, self.relates = implementation, block_size, relates
        self.qk_norm, self.qk_epsilon, self.sequence_axis = check_qk_norm(qk_norm), qk_epsilon, sequence_axis
        shared: dict[str, Any] = {"dtype": dtype, "param_dtype": param_dtype, "precision": precision, "rngs": rngs}
        first = {"kernel_init": kernel_init, "bias_init": bias_init, "use_bias": use_bias}
        first |= {"kernel_metadata": kernel_metadata, "bias_metadata": bias_metadata}
        last = {"kernel_init": out_kernel_init or kernel_init, "bias_init": out_bias_init or bias_init}
        last |= {"kernel_metadata": out_kernel_metadata or kernel_metadata}
        last |= {"bias_metadata": out_bias_metadata or bias_metadata}
        last |= {"use_bias": use_bias if use_out_bias is None else use_out_bias}
        self._make(shared | first, shared | last, query_ln_scale_metadata, key_ln_scale_metadata)
        self.rngs = rngs.dropout.fork() if keep_rngs and dropout_rate > 0 else None
        self.cached_key: nnx.Cache | None = nnx.data(None)
        self.cached_value: nnx.Cache | None = nnx.data(None)
        self.cache_index: nnx.Cache | None = nnx.data(None)

    def __call__(
        self,
        inputs_q: Float[Array, "*batch T D"],
        inputs_k: Float[Array, "*batch S E"] | None = None,
        inputs_v: Float[Array, "*batch S E"] | None = None,
        *,
        mask: MaskLike | None = None,
        bias: BiasLike | None = None,
        deterministic: bool | None = None,
        rngs: nnx.Rngs | nnx.RngStream | None = None,
        sow_weights: bool = False,
        decode: bool | None = None,
        is_causal: bool = False,
        out_sharding: Any = None,
        qkv_sharding: Any = None,
        input_positions: Int[Array, "*batch T"] | None = None,
        cache: KVCache | None = None,
        lengths: Int[Array, "*batch"] | None = None,
        score: ScoreLike | None = None,
    ) -> Any:
        """Attends from `inputs_q` to `inputs_k` and averages `inputs_v`.

        Args:
          inputs_q: what asks.
          inputs_k: what is matched; `inputs_q` by default, which makes it self-attention.
          inputs_v: what is averaged; `inputs_k` by default.
          mask, bias: as in `jattn.MultiHeadAttention`.
          deterministic: whether dropout is off.
          rngs: draws the dropped weights instead of the stream that the layer keeps.
          sow_weights: whether the weights before dropout are sown as ``attention_weights``, whole.
          decode: whether the inputs are the next tokens of the layer's own cache; see `init_cache`.
          is_causal: whether a query sees no later key, in addition to `mask`.
          out_sharding, qkv_sharding: of the outputs of the projections.
          input_positions: by which queries and keys are rotated.
          cache: what was read so far; the inputs are the next tokens, and attend causally. See `KVCache`.
          lengths: with a cache, how many of the tokens of each batch entry are real.
          score: in place of the layer's own, such as one made of an `nnx.Param`.

        Returns:
          The output ``[*batch, T, out]``; with a cache, the output and the cache afterwards.

        Raises:
          ValueError: if inputs do not fit the layer, one another or the cache, or the cache is full; where that is not
            known before the program runs, the output is NaN.
        """
        inputs = fill_inputs(inputs_q, inputs_k, inputs_v)
        kept = self._open_cache() if (self.decode if decode is None else decode) else None
        if kept is not None and cache is not None:
            raise ValueError("cache: expected None for a layer that keeps its own (decode=True), got a KVCache")
        if input_positions is not None and self.rotary is False:
            raise ValueError("input_positions: expected None for a layer without rotary, got an array")
        placing: dict[str, Any] = {
            "mask": mask,
            "bias": bias,
            "rotary": self.rotary,
            "kept": kept,
            "cache": cache,
            "lengths": lengths,
        }
        heads = place(*self._project(*inputs, qkv_sharding), **placing, at=input_positions, is_causal=is_causal)
        if heads.kept is not None:
            self._close_cache(heads.kept)
        score = self.score if score is None else as_score(score)
        attended = self._attend(heads, score, self._dropout(deterministic, rngs), sow_weights)
        out = heads.checked(self.out(attended, out_sharding=out_sharding))
        return out if cache is None else (out, heads.cache)

    def init_cache(self, input_shape: Sequence[int], dtype: Any = jnp.float32) -> None:
        """Makes room to decode: `input_shape` is that of a whole sequence, ``[*batch, T, D]``.

        A call with `decode` then brings the next tokens, one or several, and attends causally to all so far. Mask and
        bias objects see the true positions of the queries; an array holds the rows of the call.

        Example:
          >>> import jax.numpy as jnp
          >>> from flax import nnx
          >>> from jattn.nnx import MultiHeadAttention
          >>> layer, x = MultiHeadAttention(num_heads=2, in_features=8, rngs=nnx.Rngs(0)), jnp.ones((3, 5, 8))
          >>> layer.init_cache((3, 20, 8))
          >>> layer(x, decode=True).shape, int(layer.cache_index[...])
          ((3, 5, 8), 5)
        """
        empty = DecodeCache.empty((*input_shape[:-1], self.num_kv_heads, self.head_dim), dtype)
        self.cached_key, self.cached_value = nnx.Cache(empty.key), nnx.Cache(empty.value)
        self.cache_index = nnx.Cache(empty.index)

    def set_view(
        self,
        deterministic: bool | None = None,
        decode: bool | None = None,
        batch_size: int | Sequence[int] | None = None,
        max_length: int | None = None,
    ) -> None:
        """Sets what `nnx.view` changes.

        Args:
          deterministic: whether dropout is off.
          decode: whether calls bring the next tokens.
          batch_size, max_length: of the cache, which is made if both are given.
        """
        self.deterministic = self.deterministic if deterministic is None else deterministic
        self.decode = self.decode if decode is None else decode
        if batch_size is not None and max_length is not None:
            batch = (batch_size,) if isinstance(batch_size, int) else tuple(batch_size)
            self.init_cache((*batch, max_length, self.in_features), self.dtype or jnp.float32)

    def _make(self, first: dict[str, Any], last: dict[str, Any], query_ln: Any, key_ln: Any) -> None:
        """Makes the projections and norms, in flax's order, on which their first values depend."""
        heads, kv_heads = (self.num_heads, self.head_dim), (self.num_kv_heads, self.head_dim)
        self.query = Projection(self.in_features, heads, **first)
        self.key = Projection(self.in_kv_features, kv_heads, **first)
        self.value = Projection(self.in_kv_features, kv_heads, **first)
        self.query_ln = self._qk_norm(query_ln, first["rngs"])
        self.key_ln = self._qk_norm(key_ln, first["rngs"])
        self.out = Projection(heads, self.out_features, axis=(-2, -1), **last)
        for name, learned in learned_by(self.score, self.normalizer).items():
            drawn = learned.init(last["rngs"].params(), learned.shape(*heads), self.param_dtype)
            setattr(self, name, nnx.Param(drawn))

    def _qk_norm(self, metadata: Mapping[str, Any], rngs: nnx.Rngs) -> Any:
        if not self.normalize_qk:
            return nnx.data(None)
        norm = nnx.RMSNorm if self.qk_norm == "rms" else functools.partial(nnx.LayerNorm, use_bias=False)
        options: dict[str, Any] = {"epsilon": self.qk_epsilon, "dtype": self.dtype, "param_dtype": self.param_dtype}
        options |= {"promote_dtype": uncast}
        return norm(self.head_dim, **options, scale_metadata=metadata, rngs=rngs)

    def _project(self, inputs_q: Array, inputs_k: Array, inputs_v: Array, sharding: Any) -> tuple[Array, Array, Array]:
        named = {"inputs_q": inputs_q, "inputs_k": inputs_k, "inputs_v": inputs_v}
        projections = (self.query, self.key, self.value)
        for (name, inputs), projection in zip(named.items(), projections, strict=True):
            if inputs.shape[-1:] != projection.in_features:
                raise ValueError(f"{name}: expected a last axis of {projection.in_features[0]}, got {inputs.shape}")
        query, key, value = (
            projection(inputs, out_sharding=sharding)
            for inputs, projection in zip(named.values(), projections, strict=True)
        )
        if self.query_ln is not None and self.key_ln is not None:
            query, key = self.query_ln(query), self.key_ln(key)
        query, key, value = promote_dtype(query, key, value, dtype=self.dtype)
        return query, key, value

    def _with_learned(self, rule: Any) -> Any:
        """Returns a score or normalizer with what it leaves to the layer to learn."""
        own = {name: getattr(self, name)[...] for name in learned_by(rule) if hasattr(self, name)}
        return with_learned(rule, own)

    def _open_cache(self) -> DecodeCache:
        if self.cached_key is None or self.cached_value is None or self.cache_index is None:
            raise ValueError("decode: expected a cache, got none; call init_cache first")
        return DecodeCache(self.cached_key[...], self.cached_value[...], self.cache_index[...])

    def _close_cache(self, kept: DecodeCache) -> None:
        for variable, array in (
            (self.cached_key, kept.key),
            (self.cached_value, kept.value),
            (self.cache_index, kept.index),
        ):
            if variable is not None:
                variable.set_value(array)

    def _dropout(self, deterministic: bool | None, rngs: Any) -> dict[str, Any]:
        """Returns the arguments of dropout, none where nothing is dropped."""
        deterministic = self.deterministic if deterministic is None else deterministic
        if self.dropout_rate == 0 or deterministic:
            return {}
        if deterministic is None:
            raise ValueError("deterministic: expected True or False for a layer with dropout, got None")
        rngs = self.rngs if rngs is None else rngs.dropout if isinstance(rngs, nnx.Rngs) else rngs
        if rngs is None:
            raise ValueError(
                "rngs: expected nnx.Rngs or a stream of them for a layer made with keep_rngs=False, got None"
            )
        drop = {"dropout_rate": self.dropout_rate, "broadcast_dropout": self.broadcast_dropout}
        return drop | {"dropout_rng": rngs()}

    def _attend(
        self, heads: Heads, score: Score, dropout: dict[str, Any], sow_weights: bool
    ) -> Float[Array, "*batch T N H"]:
        """Attends, and sows the filter and the weights where they are asked for."""
        program = {"score": self._with_learned(score), "normalizer": self._with_learned(self.normalizer)}
        program |= {"edit": self.edit, **dropout}
        program |= {"block_size": self.block_size, "precision": self.precision, "sequence_axis": self.sequence_axis}
        # Outside of a capture, sowing would leave the filter in the module.
        if any(type(captured) is Filter for captured in getattr(self, "__captures__", ())):
            self.sow(Filter, "filter", heads.filter(self.relates, **program))
        if sow_weights:
            self.sow(nnx.Intermediate, "attention_weights", heads.weights(**program))
        return heads.attend(self.implementation, **program)


def _refuse(replaced: Mapping[str, Any]) -> None:
    for name, given in replaced.items():
        if name not in REPLACED:
            raise TypeError(f"MultiHeadAttention: expected no argument {name!r}, got {given!r}")
        if given is not None and given is not nnx.dot_product_attention and given is not dtypes.promote_dtype:
            raise ValueError(f"{name}: expected None, because {REPLACED[name]}; got {given!r}")
