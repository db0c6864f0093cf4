"""The attention layer under flax's name and with all of flax's arguments, so that swapping an import is enough."""

from collections.abc import Callable
from typing import Any

from flax import linen as nn
from jaxtyping import Array, Float

from jattn.layers.heads import INSTEAD
from jattn.linen.multi_head import MultiHeadAttention


class MultiHeadDotProductAttention(MultiHeadAttention):
    """Is `MultiHeadAttention` under the name, the arguments and the defaults of flax's layer.

    A model whose layers have automatic names keeps them (``MultiHeadDotProductAttention_0``), and so its saved
    parameters, when this takes the place of `flax.linen.MultiHeadDotProductAttention`.

    Args:
      broadcast_dropout: as in flax, all heads and batch entries drop the same weights by default.
      force_fp32_for_softmax: changes nothing; the softmax is always computed in float32 or wider.
      attention_fn: None, or flax's own `dot_product_attention`, which `attend` stands in for.
      qkv_dot_general, out_dot_general, qkv_dot_general_cls, out_dot_general_cls, qk_attn_weights_einsum_cls,
        attn_weights_value_einsum_cls: None; they would replace what is computed here.
      **others: as in `MultiHeadAttention`.

    Raises:
      ValueError: where an argument would replace what is computed here; the message names what to give instead.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from flax import linen as nn
      >>> from jattn import MultiHeadDotProductAttention
      >>> class Model(nn.Module):
      ...     attention: type[nn.Module]
      ...
      ...     @nn.compact
      ...     def __call__(self, x):
      ...         return self.attention(num_heads=2)(x)
      >>> variables = jax.jit(Model(nn.MultiHeadDotProductAttention).init)(jax.random.key(0), jnp.ones((5, 8)))
      >>> Model(MultiHeadDotProductAttention).apply(variables, jnp.ones((5, 8))).shape
      (5, 8)

    Source: flax 0.12, `flax.linen.MultiHeadDotProductAttention`.
    """

    broadcast_dropout: bool = True
    attention_fn: Callable[..., Any] | None = None
    force_fp32_for_softmax: bool = True
    qkv_dot_general: Any = None
    out_dot_general: Any = None
    qkv_dot_general_cls: Any = None
    out_dot_general_cls: Any = None
    qk_attn_weights_einsum_cls: Any = None
    attn_weights_value_einsum_cls: Any = None

    def __post_init__(self) -> None:
        for name, instead in INSTEAD.items():
            given = getattr(self, name)
            if given is not None and given is not nn.dot_product_attention:
                raise ValueError(f"{name}: expected None, because {instead}; got {given!r}")
        super().__post_init__()

    @nn.compact
    def __call__(
        self,
        inputs_q: Float[Array, "*batch T D"],
        inputs_k: Float[Array, "*batch S E"] | None = None,
        inputs_v: Float[Array, "*batch S F"] | None = None,
        *,
        inputs_kv: Float[Array, "*batch S E"] | None = None,
        **call: Any,
    ) -> Any:
        """Attends as `MultiHeadAttention` does.

        Args:
          inputs_q: what asks.
          inputs_k: what is matched.
          inputs_v: what is averaged.
          inputs_kv: flax's older name for both of them.
          **call: as in `MultiHeadAttention`.

        Returns:
          As `MultiHeadAttention`.

        Raises:
          ValueError: where `inputs_kv` comes with `inputs_k` or `inputs_v`, and as `MultiHeadAttention`.
        """
        if inputs_kv is not None:
            if inputs_k is not None or inputs_v is not None:
                raise ValueError("inputs_kv: expected None where inputs_k or inputs_v is given, got an array")
            inputs_k = inputs_kv
        return super().__call__(inputs_q, inputs_k, inputs_v, **call)
