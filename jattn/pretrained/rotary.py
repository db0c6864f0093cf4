"""What a ``config.json`` says of rotary positions for long texts, and the tables that files have of them."""

from collections.abc import Callable, Mapping

import numpy as np

from jattn.linen.architecture import Architecture
from jattn.pretrained.families import Config
from jattn.pretrained.tensors import FLOATS, Tensor
from jattn.rules.rotary_scaling import DynamicNTKScaling, FrequencyFactors, Llama3Scaling, RotaryScaling, YarnScaling

ROTARY_TABLE = "rope_freqs.weight"
"""The tensor of GGUF files with what each frequency is divided by."""

KNOWN = {
    "rope_type",
    "type",
    "rope_theta",
    "partial_rotary_factor",
    "factor",
    "original_max_position_embeddings",
    "low_freq_factor",
    "high_freq_factor",
    "beta_fast",
    "beta_slow",
    "attention_factor",
    "mscale",
    "mscale_all_dim",
    "truncate",
    "finetuned",
}
"""What a config may say of rotary positions; the last is said of how a model was trained, and changes nothing."""

Scaling = float | RotaryScaling


def rotary_values(config: Config) -> Config:
    """Returns what a config says of rotary positions, under its newer name or its older one.

    Raises:
      ValueError: if it says what is not known here, or under the older name what is not under the newer one.
    """
    newer, older = config.section("rope_parameters"), config.section("rope_scaling")
    found = newer if newer.values else older
    unknown = [name for name in found.values if name not in KNOWN]
    if unknown:
        raise ValueError(f"{config.file}: expected rotary positions by {', '.join(sorted(KNOWN))}, got {unknown[0]!r}")
    for name, value in older.values.items():
        if found.values.get(name) != value:
            raise config.error(name, f"the same in rope_scaling and rope_parameters ({value!r})", found.get(name))
    return found


def scaling_of(rotary: Config, config: Config, tensors: Mapping[str, Tensor]) -> Scaling:
    """Returns the scaling of rotary positions.

    Args:
      rotary: what `rotary_values` returned.
      config: that of the model.
      tensors: those of the files; a table of factors is the scaling.

    Raises:
      ValueError: if it is none of those known here, or a number of it is missing or wrong.
    """
    kind = rotary.get("rope_type", rotary.get("type", "default"))
    if not isinstance(kind, str) or kind not in SCALINGS:
        known = ", ".join(map(repr, SCALINGS))
        raise ValueError(f"{rotary.file}: expected rotary scaling among {known}, got {kind!r}")
    scaling = SCALINGS[kind](rotary, config)
    if ROTARY_TABLE not in tensors:
        return scaling
    if scaling != 1.0:
        raise ValueError(f"{ROTARY_TABLE}: expected no table of factors beside the scaling {kind!r}, got one")
    table = tensors[ROTARY_TABLE]
    if table.dtype not in FLOATS:
        raise ValueError(f"{ROTARY_TABLE}: expected {', '.join(FLOATS)}, got {table.dtype} in {table.file}")
    return FrequencyFactors(tuple(map(float, np.ravel(table.numbers(ROTARY_TABLE)))))


def rotary_table(shape: tuple[int, ...], its: Architecture) -> np.ndarray:
    """Makes the table of factors again from the architecture that was made of it."""
    assert isinstance(its.rotary_scaling, FrequencyFactors)
    return np.array(its.rotary_scaling.factors).reshape(shape)


def _trained_length(rotary: Config, config: Config) -> int:
    return rotary.size("original_max_position_embeddings", config.get("max_position_embeddings"))


def _llama3(rotary: Config, config: Config) -> Scaling:
    return Llama3Scaling(
        rotary.number("factor"),
        rotary.number("low_freq_factor"),
        rotary.number("high_freq_factor"),
        rotary.size("original_max_position_embeddings"),
    )


def _dynamic(rotary: Config, config: Config) -> Scaling:
    return DynamicNTKScaling(rotary.number("factor"), config.size("max_position_embeddings"))


def _yarn(rotary: Config, config: Config) -> Scaling:
    length = _trained_length(rotary, config)
    factor = rotary.number("factor", config.size("max_position_embeddings", length) / length)
    attention = None if rotary.get("attention_factor") is None else rotary.number("attention_factor")
    if attention is None and rotary.get("mscale") and rotary.get("mscale_all_dim"):
        above, below = (_strength(factor, rotary.number(name)) for name in ("mscale", "mscale_all_dim"))
        attention = above / below
    return YarnScaling(
        factor,
        length,
        rotary.number("beta_fast", 32.0),
        rotary.number("beta_slow", 1.0),
        attention,
        rotary.flag("truncate", True),
    )


def _strength(factor: float, scale: float) -> float:
    return 1 + 0.1 * scale * float(np.log(max(1.0, factor)))


SCALINGS: dict[str, Callable[[Config, Config], Scaling]] = {
    "default": lambda rotary, config: 1.0,
    "linear": lambda rotary, config: rotary.number("factor"),
    "dynamic": _dynamic,
    "yarn": _yarn,
    "llama3": _llama3,
}
"""How each ``rope_type`` is read."""
