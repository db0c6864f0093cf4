"""Families of published models: what a ``config.json`` says of them, and which of their tensors is which parameter.

A new family is a `Family` and one line in `FAMILIES` of `jattn.pretrained.loading`.
"""

import dataclasses
import sys
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from flax import linen as nn

from jattn.linen.architecture import Architecture
from jattn.linen.language import LanguageModel
from jattn.pretrained.tensors import Tensor


@dataclasses.dataclass(frozen=True)
class Weight:
    """Which tensor is a parameter.

    Args:
      name: of the tensor; ``{}`` stands for the number of the layer.
      layout: ``"plain"`` has the parameter's shape, up to how axes are joined; ``"out_in"`` is a matrix with outputs
        first, as torch has it; ``"in_out"`` one with inputs first, as GPT-2 has it;
        ``"image"`` is a convolution of torch, outputs and channels before rows and columns.
      in_axes: how many of the parameter's axes are inputs.
      part: which of so many equal parts of the outputs it is.
    """

    name: str
    layout: str = "plain"
    in_axes: int = 1
    part: tuple[int, int] = (0, 1)


@dataclasses.dataclass(frozen=True)
class Copy:
    """A tensor that is in a file though it says nothing new, and is checked to do so.

    Args:
      of: the tensor that it repeats, or a function of its shape and the architecture that makes it.
      name: a pattern for its name, in which ``{}`` stands for the number of a layer.
    """

    name: str
    of: str | Callable[[tuple[int, ...], Architecture], np.ndarray]


def language_model(its: Architecture, config: "Config", tensors: Mapping[str, Tensor], dtype: Any) -> nn.Module:
    """Makes a model of tokens, which needs no more than its architecture."""
    return LanguageModel(its, dtype=dtype, param_dtype=dtype)


@dataclasses.dataclass(frozen=True)
class Family:
    """A kind of model that many weights are published of.

    Args:
      name: what the card calls it.
      prefixes: what names of tensors may begin with, to be left out.
      architecture: makes the architecture of a config, knowing the tensors by name.
      weights: says which tensor each parameter is, by its path.
      copies: the tensors that may be there besides.
      make: makes the module of an architecture, in a dtype.
      renamed: parts of names that older files have, and what they are called since.
    """

    name: str
    prefixes: tuple[str, ...]
    architecture: Callable[["Config", Mapping[str, Tensor]], Architecture]
    weights: Callable[[Architecture, Mapping[str, Tensor]], dict[str, Weight]]
    copies: tuple[Copy, ...] = ()
    renamed: Mapping[str, str] = dataclasses.field(default_factory=dict)
    make: Callable[[Architecture, "Config", Mapping[str, Tensor], Any], nn.Module] = language_model


class Config:
    """The values of a ``config.json``, or of a file like it, by name; each is checked when it is read.

    Args:
      values: by name.
      file: the name of the file, for messages.
    """

    def __init__(self, values: Mapping[str, Any], file: str = "config.json") -> None:
        self.values, self.file = values, file

    def get(self, name: str, default: Any = None) -> Any:
        """Returns the value of a name; null counts as missing."""
        value = self.values.get(name)
        return default if value is None else value

    def size(self, name: str, default: int | None = None) -> int:
        """Returns a positive int, of at most 32 bits."""
        value = self.get(name, default)
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise self.error(name, "a positive int", value)
        if value >= 2**31:
            raise self.error(name, "an int below 2³¹", value)
        return value

    def number(self, name: str, default: float | None = None) -> float:
        """Returns a positive number."""
        value = self.get(name, default)
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value <= sys.float_info.max:
            raise self.error(name, "a positive number", value)
        return float(value)

    def flag(self, name: str, default: bool) -> bool:
        """Returns true or false."""
        value = self.get(name, default)
        if not isinstance(value, bool):
            raise self.error(name, "true or false", value)
        return value

    def section(self, name: str) -> "Config":
        """Returns the values of an object, which is empty if it is missing."""
        value = self.get(name, {})
        if not isinstance(value, Mapping):
            raise self.error(name, "an object", value)
        return Config(value, self.file)

    def activation(self, name: str, default: str) -> str:
        """Returns the activation under its name here."""
        value = self.get(name, default)
        if not isinstance(value, str) or value not in ACTIVATION_NAMES:
            raise ValueError(f"{self.file}: expected {name} among {', '.join(ACTIVATION_NAMES)}, got {value!r}")
        return ACTIVATION_NAMES[value]

    def expect(self, name: str, *allowed: Any) -> None:
        """Refuses a model that does what is not built here; the first that is allowed is the default."""
        value = self.get(name, allowed[0])
        if value not in allowed:
            raise ValueError(f"{self.file}: expected {name} = {' or '.join(map(repr, allowed))}, got {value!r}")

    def expect_all(self, table: Mapping[str, tuple[Any, ...]]) -> None:
        """Refuses what is not built here, by name what is allowed; the first is the default."""
        for name, allowed in table.items():
            self.expect(name, *allowed)

    def error(self, name: str, expected: str, value: Any) -> ValueError:
        """Makes the error of a value of the wrong kind."""
        return ValueError(f"{self.file}: expected {name} to be {expected}, got {value!r}")


UNBUILT = {
    "quantization_config": (None,),
    "pruned_heads": ({}, []),
    "is_encoder_decoder": (False,),
    "add_cross_attention": (False,),
}
"""What changes the computation in any family and is not built, each with the values at which it changes nothing."""

ACTIVATION_NAMES = {
    "gelu": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "gelu_fast": "gelu_tanh",
    "relu": "relu",
    "silu": "silu",
    "swish": "silu",
    "tanh": "tanh",
}


def linear(path: str, name: str, bias: bool, in_axes: int = 1) -> dict[str, Weight]:
    """Returns the kernel and perhaps the bias of a linear layer of torch."""
    kernel = {f"{path}/kernel": Weight(f"{name}.weight", "out_in", in_axes)}
    return kernel | ({f"{path}/bias": Weight(f"{name}.bias")} if bias else {})


def norm(path: str, name: str, bias: bool = True) -> dict[str, Weight]:
    """Returns the scale and perhaps the bias of a norm."""
    scale = {f"{path}/scale": Weight(f"{name}.weight")}
    return scale | ({f"{path}/bias": Weight(f"{name}.bias")} if bias else {})


def class_count(tensors: Mapping[str, Tensor], name: str) -> int:
    """Returns how many outputs a linear layer of torch has, 0 if there is none."""
    if name not in tensors:
        return 0
    if len(tensors[name].shape) != 2:
        raise ValueError(f"{name}: expected a matrix, got shape {tensors[name].shape} in {tensors[name].file}")
    return tensors[name].shape[0]


def counting(shape: tuple[int, ...], its: Architecture) -> np.ndarray:
    """Makes the table of positions that older files of BERT hold."""
    return np.broadcast_to(np.arange(shape[-1]), shape)


def frequencies(shape: tuple[int, ...], its: Architecture) -> np.ndarray:
    """Makes the table of rotations that older files of Llama hold."""
    return (its.rotary or 10_000.0) ** -(np.arange(shape[-1]) / shape[-1])


def zeros(shape: tuple[int, ...], its: Architecture) -> np.ndarray:
    """Makes the table that says that all tokens are of the first part."""
    return np.zeros(shape)


def causal_mask(shape: tuple[int, ...], its: Architecture) -> np.ndarray:
    """Makes the table of who sees whom that older files of GPT-2 hold."""
    return np.broadcast_to(np.tri(shape[-2], shape[-1]), shape)
