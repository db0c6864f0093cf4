"""Positions: attention itself sees a set of tokens, so their order has to be told.

Pure functions; the learned table is a parameter of the layers, and biases that tell positions are in `jattn.biases`.
What each kind does beyond the lengths seen in training:

- `sinusoidal` and `rotary` are defined for any position, but a model has not learned to read the combinations of angles
  that far positions bring and does worse there; `rotary` can squeeze a longer text into the trained range (`scaling`);
- `biases.alibi` goes on in a straight line, which is what it was made for;
- `biases.relative` gives all far distances the same bias, that of the last bucket;
- a learned table has no entry: `LearnedPositions` raises.

The error of a sine or cosine does not grow with the position as that of a float32 product ``p · θ`` would (0.04 at
position 10⁶): it stays below 4·10⁻⁷ up to position 10⁶, and below 5·10⁻⁵ for any int32.
"""

import math
import numbers
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, Int

from jattn.rules.checks import check_float, check_integer
from jattn.rules.ranks import any_rank
from jattn.rules.rotary_scaling import (
    DynamicNTKScaling as DynamicNTKScaling,
    FrequencyFactors as FrequencyFactors,
    Llama3Scaling as Llama3Scaling,
    RotaryScaling as RotaryScaling,
    YarnScaling as YarnScaling,
    unscaled,
)

LAYOUTS = ("interleaved", "half")


@any_rank
def sinusoidal(positions: Int[Array, "*batch T"], width: int) -> Float[Array, "*batch T width"]:
    """Encodes positions as sines and cosines of wavelengths from ``2π`` to ``10000 · 2π``.

    ::

        enc(p, 2i) = sin(p / 10000^(2i/width))       enc(p, 2i+1) = cos(p / 10000^(2i/width))

    It takes any position; a model does worse on those beyond the lengths that it was trained on.

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
    width = check_integer("sinusoidal: width", width)
    if width < 2 or width % 2:
        raise ValueError(f"sinusoidal: expected an even width of at least 2, got {width}")
    angles = _angles(_as_positions("sinusoidal", positions), 10_000.0 ** (-np.arange(0, width, 2) / width), jnp.float32)
    return jnp.stack([jnp.sin(angles), jnp.cos(angles)], axis=-1).reshape(*angles.shape[:-1], width)


@any_rank
def rotary(
    x: Float[Array, "*batch T N H"],
    positions: Int[Array, "*batch T"],
    base: float = 10_000.0,
    *,
    layout: str = "interleaved",
    dims: int | None = None,
    scaling: float | RotaryScaling = 1.0,
    length: int | None = None,
) -> Float[Array, "*batch T N H"]:
    """Rotates pairs of dims by an angle that grows with the position.

    Pair ``i`` of ``D = dims`` dims at position ``p`` is rotated by the angle ``φ``, so that the dot product of a
    rotated query and a rotated key depends on the distance between them and not on where they stand::

        φ = p / scaling / base^(2i/D)       (x, y) ← (x cos φ - y sin φ, x sin φ + y cos φ)

    It takes any position; a model does worse at distances beyond the lengths that it was trained on. With `scaling` a
    text that is so many times longer has the angles of the trained range; a `RotaryScaling` treats fast and slow
    rotations differently, and may multiply what is rotated by its `strength`.

    Args:
      x: queries or keys.
      positions: integers, from 0; ``[T]`` serves the whole batch.
      base: the longest wavelength over ``2π``.
      layout: which dims are pair ``i``: ``"interleaved"``, the neighbours ``2i, 2i+1``, as in the paper; or ``"half"``,
        ``i, i + D/2``, as in GPT-NeoX and Llama. The same up to the order of the dims.
      dims: how many dims, from the first, are rotated; the others stay. The default is all, ``H``. Must be even.
      scaling: what positions are divided by; or one of `Llama3Scaling`, `YarnScaling`, `DynamicNTKScaling` and
        `FrequencyFactors`.
      length: how many tokens the whole text has, which `DynamicNTKScaling` goes by; by default ``T``.

    Returns:
      The rotated array, in the dtype of `x`; computed in float32 or wider.

    Example:
      >>> import jax.numpy as jnp, numpy as np
      >>> from jattn import positions
      >>> x = jnp.array([1.0, 0.0]).reshape(1, 1, 2)
      >>> print(np.asarray(positions.rotary(x, jnp.array([1]))).round(2))
      [[[0.54 0.84]]]

    Source: Su et al. 2021, "RoFormer", section 3.4.2; for `scaling`, Chen et al. 2023, "Extending context window of
    large language models via positional interpolation", section 2.3.
    """
    check_float("rotary", x)
    positions = _as_positions("rotary", positions)
    if x.ndim < 3 or positions.shape not in (x.shape[-3:-2], x.shape[:-2]):
        count = x.shape[-3] if x.ndim >= 3 else "T"
        raise ValueError(
            f"rotary: expected x [*batch, T, N, H] and positions of its {count} tokens, [T] or [*batch, T], "
            f"got x {x.shape} and positions {positions.shape}"
        )
    if layout not in LAYOUTS:
        raise ValueError(f"rotary: expected layout {' or '.join(map(repr, LAYOUTS))}, got {layout!r}")
    dims = _check_dims(x.shape[-1], dims)
    for name, number in (("base", base), ("scaling", 1.0 if isinstance(scaling, RotaryScaling) else scaling)):
        if isinstance(number, bool) or not isinstance(number, numbers.Real):
            raise TypeError(f"rotary: {name} must be a real number, got {number!r}")
        if not 0 < number < math.inf:
            raise ValueError(f"rotary: {name} must be positive and finite, got {number}")
    wide = jnp.promote_types(x.dtype, jnp.float32)
    length = x.shape[-3] if length is None else check_integer("rotary: length", length, 1)
    frequencies, strength = _frequencies(float(base), dims, scaling, length)
    angles = _angles(positions, frequencies, wide)[..., None, :]
    cos, sin = strength * jnp.cos(angles), strength * jnp.sin(angles)
    turned, axis = x[..., :dims].astype(wide), -1 if layout == "interleaved" else -2
    pairs = turned.reshape(*x.shape[:-1], *((dims // 2, 2) if axis == -1 else (2, dims // 2)))
    first, second = (lax.index_in_dim(pairs, which, axis, keepdims=False) for which in (0, 1))
    rotated = jnp.stack([first * cos - second * sin, first * sin + second * cos], axis)
    return jnp.concatenate([rotated.reshape(turned.shape).astype(x.dtype), x[..., dims:]], axis=-1)


def _as_positions(caller: str, positions: Any) -> Int[Array, "..."]:
    if isinstance(positions, str) or positions is None:
        raise TypeError(f"{caller}: positions must be integers, got {type(positions).__name__}")
    array = jnp.asarray(positions)
    if not jnp.issubdtype(array.dtype, jnp.integer):
        raise TypeError(f"{caller}: positions must be integers, got dtype {array.dtype}")
    if array.ndim == 0:
        raise ValueError(f"{caller}: positions must have an axis, such as jnp.arange({positions}), got a scalar")
    return array.astype(jnp.int32)


def _check_dims(head_dim: int, dims: int | None) -> int:
    if dims is None:
        if head_dim < 2 or head_dim % 2:
            raise ValueError(f"rotary: expected an even head dim of at least 2, got {head_dim}")
        return head_dim
    dims = check_integer("rotary: dims", dims)
    if not 2 <= dims <= head_dim or dims % 2:
        raise ValueError(f"rotary: expected even dims from 2 to the head dim {head_dim}, got {dims}")
    return dims


def _frequencies(base: float, dims: int, scaling: float | RotaryScaling, length: int) -> tuple[np.ndarray, float]:
    """Returns radians per position for each pair of dims, and what the rotated vectors are multiplied by."""
    if isinstance(scaling, RotaryScaling):
        return scaling.frequencies(base, dims, length), scaling.strength
    return unscaled(base, dims) / float(scaling), 1.0


def _angles(positions: Int[Array, "*batch T"], frequencies: np.ndarray, dtype: Any) -> Float[Array, "*batch T half"]:
    """Multiplies positions with frequencies (radians per position), up to whole turns.

    In float32 the error of the product would grow with the position. So turns are counted as integers that wrap around:
    units of ``2⁻³²`` turns, and a second digit of 16 bits for what a position multiplies into view.
    """
    if dtype == jnp.float64:
        return positions[..., None].astype(dtype) * frequencies
    digits, rest = np.divmod(frequencies / (2 * np.pi) % 1 * 2.0**32, 1)
    coarse, fine = jnp.asarray(digits.astype(np.uint32)), jnp.asarray(np.round(rest * 2.0**16).astype(np.uint32))
    column = positions[..., None]
    high, low = (column >> 16).astype(jnp.uint32), (column & 0xFFFF).astype(jnp.uint32)
    turns = column.astype(jnp.uint32) * coarse + high * fine + ((low * fine) >> 16)
    return turns.astype(jnp.int32).astype(dtype) * np.float32(2 * np.pi / 2.0**32)
