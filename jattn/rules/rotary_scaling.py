"""How the frequencies of rotary positions are changed for texts that are longer than those of training.

Each is a frozen dataclass that `jattn.positions.rotary` takes as `scaling`. In the formulas ``θᵢ = base^(-2i/D)`` is
the frequency of pair ``i`` of ``D`` dims, in radians per position, and ``θ'ᵢ`` what takes its place.
"""

import dataclasses
import math
import numbers

import numpy as np


def unscaled(base: float, dims: int) -> np.ndarray:
    """Returns the frequencies ``base^(-2i/D)``, one for each pair of dims."""
    return base ** (-np.arange(0, dims, 2) / dims)


@dataclasses.dataclass(frozen=True)
class RotaryScaling:
    """A rule that changes the frequencies of `jattn.positions.rotary`; those below are its kinds."""

    @property
    def strength(self) -> float:
        """What rotated vectors are multiplied by."""
        return 1.0

    def frequencies(self, base: float, dims: int, length: int) -> np.ndarray:
        """Returns radians per position, one for each pair of dims; `length` is that of the whole text."""
        raise NotImplementedError


@dataclasses.dataclass(frozen=True)
class Llama3Scaling(RotaryScaling):
    """Stretches slow rotations of `rotary` and leaves fast ones alone, so that near tokens stay as they were trained.

    ::

        θ' = θ (s + (1 - s) / factor)       s = clip((length θ / 2π - low) / (high - low), 0, 1)

    Args:
      factor: what the slowest frequencies are divided by.
      low, high: frequencies of fewer turns than `low` within the length are divided by `factor`, those of more than
        `high` turns are kept.
      length: how long the texts were before the stretching.

    Source: Llama team 2024, "The Llama 3 herd of models", whose published code has this rule.
    """

    factor: float = 8.0
    low: float = 1.0
    high: float = 4.0
    length: int = 8192

    def __post_init__(self) -> None:
        _check_positive(self, self.factor, self.low, self.high, self.length)
        if self.low >= self.high:
            raise ValueError(f"scaling: expected positive finite numbers with low < high, got {self}")

    def __call__(self, frequencies: np.ndarray) -> np.ndarray:
        """Returns the frequencies, radians per position, after the stretching."""
        kept = np.clip((self.length * frequencies / (2 * np.pi) - self.low) / (self.high - self.low), 0, 1)
        return frequencies * (kept + (1 - kept) / self.factor)

    def frequencies(self, base: float, dims: int, length: int) -> np.ndarray:
        """Returns radians per position, one for each pair of dims."""
        return self(unscaled(base, dims))


@dataclasses.dataclass(frozen=True)
class YarnScaling(RotaryScaling):
    """Divides slow rotations by `factor`, keeps fast ones, goes from one to the other pair by pair (YaRN).

    ::

        θ'ᵢ = θᵢ (1 - rᵢ + rᵢ / factor)     rᵢ = clip((i - c(fast)) / (c(slow) - c(fast)), 0, 1)
        c(n) = D log(length / (2π n)) / (2 log base), the pair that turns n times within the length

    ``c(fast)`` is rounded down and ``c(slow)`` up, and both are kept within 0 and ``D - 1``. Rotated queries and keys
    are multiplied by `strength`, and so scores by its square.

    Args:
      factor: what slow frequencies are divided by.
      length: how long the texts were before the stretching.
      fast, slow: pairs of more turns than `fast` within the length are kept, those of fewer than `slow` are divided.
      attention: the `strength`; ``0.1 log(factor) + 1`` by default, for a factor above 1.
      whole_pairs: whether ``c`` is rounded.

    Example:
      >>> from jattn import positions
      >>> scaling = positions.YarnScaling(factor=4.0, length=64)
      >>> print(scaling.frequencies(100.0, 8, length=256).round(3), round(scaling.strength, 3))
      [1.    0.237 0.05  0.008] 1.139

    Source: Peng et al. 2023, "YaRN: efficient context window extension of large language models", sections 3.2 to 3.4.
    """

    factor: float
    length: int
    fast: float = 32.0
    slow: float = 1.0
    attention: float | None = None
    whole_pairs: bool = True

    def __post_init__(self) -> None:
        given = () if self.attention is None else (self.attention,)
        _check_positive(self, self.factor, self.length, self.fast, self.slow, *given)
        if self.slow >= self.fast:
            raise ValueError(f"scaling: expected slow < fast, got {self}")

    @property
    def strength(self) -> float:
        """What rotated vectors are multiplied by."""
        return 1 + 0.1 * math.log(max(1.0, self.factor)) if self.attention is None else self.attention

    def frequencies(self, base: float, dims: int, length: int) -> np.ndarray:
        """Returns radians per position, one for each pair of dims."""
        if base == 1:
            raise ValueError("scaling: expected a base other than 1 for YaRN, got 1")
        first, last = (dims * math.log(self.length / (2 * math.pi * n)) / (2 * math.log(base)) for n in self._turns)
        if self.whole_pairs:
            first, last = math.floor(first), math.ceil(last)
        first, last = max(first, 0), min(last, dims - 1)
        # The published code parts the two where they fall together.
        slowness = np.clip((np.arange(dims // 2) - first) / (last - first or 0.001), 0, 1)
        return unscaled(base, dims) * (1 - slowness + slowness / self.factor)

    @property
    def _turns(self) -> tuple[float, float]:
        return self.fast, self.slow


@dataclasses.dataclass(frozen=True)
class DynamicNTKScaling(RotaryScaling):
    """Raises the base with the length ``T`` of the text, once that is above the length of training (dynamic NTK).

    ::

        θ'ᵢ = base'^(-2i/D)     base' = base (factor · max(T, length) / length - (factor - 1))^(D / (D - 2))

    All tokens of a text are turned alike, so frequencies go by the length of the whole text; in a layer with a cache,
    that is the room of the cache.

    Args:
      factor: how fast the base grows.
      length: how long the texts of training were.

    Example: up to the length of training nothing changes.
      >>> from jattn import positions
      >>> scaling = positions.DynamicNTKScaling(factor=2.0, length=64)
      >>> for length in (64, 128):
      ...     print(scaling.frequencies(100.0, 8, length).round(3))
      [1.    0.316 0.1   0.032]
      [1.    0.219 0.048 0.011]

    Source: Peng et al. 2023, "YaRN", sections 3.1 and 3.3; the rule with `factor` is that of published configs.
    """

    factor: float
    length: int

    def __post_init__(self) -> None:
        _check_positive(self, self.factor, self.length)

    def frequencies(self, base: float, dims: int, length: int) -> np.ndarray:
        """Returns radians per position, one for each pair of dims."""
        if dims < 4:
            raise ValueError(f"scaling: expected at least 4 rotated dims for dynamic NTK, got {dims}")
        growth = self.factor * max(length, self.length) / self.length - (self.factor - 1)
        return unscaled(base * growth ** (dims / (dims - 2)), dims)


@dataclasses.dataclass(frozen=True)
class FrequencyFactors(RotaryScaling):
    """Divides each frequency by a number of its own: ``θ'ᵢ = θᵢ / factorsᵢ``; GGUF files have such tables.

    Args:
      factors: one for each pair of dims.
    """

    factors: tuple[float, ...]

    def __post_init__(self) -> None:
        _check_positive(self, *self.factors)

    def frequencies(self, base: float, dims: int, length: int) -> np.ndarray:
        """Returns radians per position, one for each pair of dims."""
        if len(self.factors) != dims // 2:
            raise ValueError(f"scaling: expected {dims // 2} factors, one per pair of dims, got {len(self.factors)}")
        return unscaled(base, dims) / np.array(self.factors)


def _check_positive(scaling: RotaryScaling, *given: float) -> None:
    for number in given:
        if isinstance(number, bool) or not isinstance(number, numbers.Real) or not 0 < number < math.inf:
            raise ValueError(f"scaling: expected positive finite numbers, got {scaling}")
