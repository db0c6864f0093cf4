"""Positions: attention itself sees a set of tokens, so their order has to be told.

Pure functions; the learned table is a parameter of the layers. Both functions here take any position, so neither has a
longest length.
"""

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from jattn.checks import check_float


def sinusoidal(positions: Int[Array, "*batch T"], width: int) -> Float[Array, "*batch T width"]:
    """Encodes positions as sines and cosines of wavelengths from ``2π`` to ``10000 · 2π``.

    ::

        enc(p, 2i) = sin(p / 10000^(2i/width))       enc(p, 2i+1) = cos(p / 10000^(2i/width))

    Args:
      positions: integers, from 0.
      width: the model's width; must be even.

    Returns:
      The encodings in float32.

    Example:
      >>> import jax.numpy as jnp, numpy as np
      >>> from jattn import positions
      >>> print(np.asarray(positions.sinusoidal(jnp.arange(2), 4)).round(2))
      [[0.   1.   0.   1.  ]
       [0.84 0.54 0.01 1.  ]]

    Source: Vaswani et al. 2017, section 3.5.
    """
    if width < 2 or width % 2:
        raise ValueError(f"sinusoidal: expected an even width of at least 2, got {width}")
    angles = _angles(positions, width, 10_000.0)
    return jnp.stack([jnp.sin(angles), jnp.cos(angles)], axis=-1).reshape(*angles.shape[:-1], width)


def rotary(
    x: Float[Array, "*batch T N H"], positions: Int[Array, "*batch T"], base: float = 10_000.0
) -> Float[Array, "*batch T N H"]:
    """Rotates each pair of neighbouring dims by an angle that grows with the position.

    The pair ``(x₂ᵢ, x₂ᵢ₊₁)`` of position ``p`` is rotated by ``p / base^(2i/H)``, so that the dot product of a rotated
    query and a rotated key depends on the distance between them and not on where they stand.

    Args:
      x: queries or keys; ``H`` must be even.
      positions: integers, from 0; ``[T]`` serves the whole batch.
      base: the longest wavelength over ``2π``.

    Returns:
      The rotated array, in the dtype of `x`; computed in float32 or wider.

    Example:
      >>> import jax.numpy as jnp, numpy as np
      >>> from jattn import positions
      >>> x = jnp.array([1.0, 0.0]).reshape(1, 1, 2)
      >>> print(np.asarray(positions.rotary(x, jnp.array([1]))).round(2))
      [[[0.54 0.84]]]

    Source: Su et al. 2021, "RoFormer", section 3.4.2.
    """
    check_float("rotary", x)
    if x.ndim < 3 or jnp.shape(positions) not in (x.shape[-3:-2], x.shape[:-2]):
        length = x.shape[-3] if x.ndim >= 3 else "T"
        raise ValueError(
            f"rotary: expected x [*batch, T, N, H] and positions of its {length} tokens, [T] or [*batch, T], "
            f"got x {x.shape} and positions {jnp.shape(positions)}"
        )
    head_dim = x.shape[-1]
    if head_dim < 2 or head_dim % 2:
        raise ValueError(f"rotary: expected an even head dim of at least 2, got {head_dim}")
    angles = _angles(positions, head_dim, base)[..., None, :]
    wide = jnp.promote_types(x.dtype, jnp.float32)
    even, odd = x[..., 0::2].astype(wide), x[..., 1::2].astype(wide)
    cos, sin = jnp.cos(angles).astype(wide), jnp.sin(angles).astype(wide)
    rotated = jnp.stack([even * cos - odd * sin, even * sin + odd * cos], axis=-1)
    return rotated.reshape(x.shape).astype(x.dtype)


def _angles(positions: Int[Array, "*batch T"], width: int, base: float) -> Float[Array, "*batch T half"]:
    wavelengths = base ** (jnp.arange(0, width, 2, dtype=jnp.float32) / width)
    return jnp.asarray(positions, jnp.float32)[..., None] / wavelengths
