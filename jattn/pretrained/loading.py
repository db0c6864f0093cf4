"""`load`: a published model as a linen module with its variables, its tokenizer and a card that says what it is."""

import dataclasses
import difflib
import hashlib
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from jattn.linen.architecture import Architecture
from jattn.linen.language import LAYER
from jattn.linen.vision import VisionModel
from jattn.pretrained.bert import ALBERT, BERT
from jattn.pretrained.families import Config, Copy, Family, Weight
from jattn.pretrained.gpt2 import GPT2
from jattn.pretrained.llama import LLAMA
from jattn.pretrained.pictures import read_picture_rules
from jattn.pretrained.sources import opened
from jattn.pretrained.tensors import FLOATS, Checkpoint, Tensor
from jattn.pretrained.tokenizers import read_end_tokens, read_tokenizer
from jattn.pretrained.vision import DINOV2, VIT

FAMILIES: dict[str, Family] = {
    "bert": BERT,
    "albert": ALBERT,
    "gpt2": GPT2,
    "llama": LLAMA,
    "mistral": LLAMA,
    "qwen2": LLAMA,
    "qwen3": LLAMA,
    "vit": VIT,
    "dinov2": DINOV2,
    "dinov2_with_registers": DINOV2,
}
"""The family of each ``model_type`` that a ``config.json`` may name."""

ORDERS = {
    "out_in": " (outputs, inputs)",
    "in_out": " (inputs, outputs)",
    "image": " (outputs, channels, rows, columns)",
}
"""How messages call the axes of a tensor."""

FEW_LAYERS = 200
"""How many layers a model may have whatever the number of its tensors."""

ALIGNMENT = 64
"""At a multiple of how many bytes an array has to begin for JAX to take it over."""
ROWS_AT_ONCE = 4096
"""How many rows of a tensor are read at a time, where its file allows it."""


@dataclasses.dataclass(frozen=True)
class Card:
    """Says what was loaded.

    Args:
      family: its name.
      architecture: its sizes.
      parameters: how many numbers it has.
      dtype: what they are kept as.
      files: the SHA-256 of each file that was read, those of the tokenizer included, by its name.
      end_tokens: which tokens end a text that the model writes, for `jattn.generate`; empty where the files name none.
      code: what code the config names for its model (``auto_map``); it is not read, and never run: the model is the one
        that its ``model_type`` names.
      of_pictures: whether it reads pictures; its architecture's vocabulary is then that of its classes.
    """

    family: str
    architecture: Architecture
    parameters: int
    dtype: str
    files: Mapping[str, str]
    end_tokens: tuple[int, ...] = ()
    code: tuple[str, ...] = ()
    of_pictures: bool = False

    def __str__(self) -> str:
        its = self.architecture
        heads = f"{its.num_layers} layers of {its.num_heads} heads"
        digests = "".join(f"\n  {digest[:16]}  {name}" for name, digest in self.files.items())
        unread = f"\n  not run: {', '.join(self.code)}" if self.code else ""
        known = f"vocabulary {its.vocabulary:,}"
        if self.of_pictures:
            known = "no classes" if its.head == "none" else f"{its.vocabulary:,} classes"
        return (
            f"{self.family}: {self.parameters:,} parameters as {self.dtype}, {heads}, width {its.width}, "
            f"{known}{digests}{unread}"
        )


class Pretrained(NamedTuple):
    """A model whose weights were published.

    Attributes:
      model: the module: a `jattn.linen.language.LanguageModel`, or a `jattn.linen.vision.VisionModel` for images.
      variables: its parameters.
      tokenizer: a `tokenizers.Tokenizer`, or None where the files hold none that is known here; of a model of images
        a `jattn.pretrained.pictures.PictureReader`.
      card: what it is.
    """

    model: Any
    variables: dict[str, Any]
    tokenizer: Any
    card: Card


def load(path: str | Path, *, dtype: Any = jnp.float32, family: Family | None = None) -> Pretrained:
    """Loads a published model: its sizes, its weights and its tokenizer.

    Every tensor of the files is used, or is checked to repeat what is used, or else the model is refused; so are
    missing tensors, and those of another shape or kind. Nothing that a file asks to run is run. Files are mapped into
    memory, so loading takes little more memory than the parameters.

    Args:
      path: a folder as model hubs have it (``config.json``, weights in ``.safetensors`` or ``pytorch_model.bin``, one
        file or several, and those of a tokenizer); one such file of weights; a ``.gguf``; or a wheel or zip that holds
        any of these.
      dtype: what parameters are kept as and computed in; a float dtype.
      family: how to read the files, where their ``model_type`` is none of those known here; see `Family`.

    Returns:
      A `Pretrained`: ``model, variables, tokenizer, card``.

    Raises:
      FileNotFoundError: if there is no such path.
      ValueError: if the files are damaged, of a family that is not built here, or do not fit one another; or if a
        weight is NaN or infinite, in the file or in `dtype`.
      TypeError: if `dtype` is no float dtype, or `family` no family.
      ImportError: if a package that reads such files is not installed; the extra ``pretrained`` has them.

    Example: what a hub calls a checkpoint, here of a tiny model made up on the spot.
      >>> import json, pathlib, tempfile
      >>> import jax.numpy as jnp, numpy as np
      >>> from safetensors.numpy import save_file
      >>> import jattn
      >>> rng, folder = np.random.default_rng(0), pathlib.Path(tempfile.mkdtemp())
      >>> shapes = {"wte.weight": (50, 8), "wpe.weight": (16, 8), "ln_f.weight": (8,), "ln_f.bias": (8,)}
      >>> for name, out in {"attn.c_attn": 24, "attn.c_proj": 8, "mlp.c_fc": 32}.items():
      ...     shapes |= {f"h.0.{name}.weight": (8, out), f"h.0.{name}.bias": (out,)}
      >>> shapes |= {"h.0.mlp.c_proj.weight": (32, 8), "h.0.mlp.c_proj.bias": (8,)}
      >>> shapes |= {f"h.0.{name}.{part}": (8,) for name in ("ln_1", "ln_2") for part in ("weight", "bias")}
      >>> tensors = {name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}
      >>> save_file(tensors, folder / "model.safetensors")
      >>> config = {"model_type": "gpt2", "n_layer": 1, "n_head": 2, "n_embd": 8, "vocab_size": 50, "n_positions": 16}
      >>> _ = (folder / "config.json").write_text(json.dumps(config))
      >>> model, variables, tokenizer, card = jattn.pretrained.load(folder)
      >>> print(card)
      GPT-2: 1,416 parameters as float32, 1 layers of 2 heads, width 8, vocabulary 50
        ...  config.json
        ...  model.safetensors
      >>> model.apply(variables, jnp.array([1, 2, 3])).shape
      (3, 50)
    """
    dtype = np.dtype(dtype)
    if not jnp.issubdtype(dtype, jnp.floating):
        raise TypeError(f"dtype: expected a float dtype, got {dtype.name}")
    if family is not None and not isinstance(family, Family):
        raise TypeError(f"family: expected a Family, got {type(family).__name__}")
    with opened(Path(path)) as found:
        family = _family(found) if family is None else family
        tensors = _renamed(found.tensors, family)
        config = Config(found.config, found.config_file)
        _check_layers(config, len(tensors))
        architecture = family.architecture(config, tensors)
        model = family.make(architecture, config, tensors, dtype)
        weights = family.weights(architecture, tensors)
        _check_names(tensors, weights, architecture, family)
        shapes = _shapes(model)
        _check_shapes(tensors, weights, shapes, architecture)
        # Before the parameters: what reading a vocabulary takes for a moment is not beside them then.
        if isinstance(model, VisionModel):
            tokenizer, more = read_picture_rules(found.vocabulary, model, str(found.config.get("model_type")))
        else:
            tokenizer, more = read_tokenizer(found.vocabulary, architecture.vocabulary)
        parameters = {}
        # The largest first: a parameter is in memory twice for a moment, which costs least while there are few others.
        for name, shape in sorted(shapes.items(), key=lambda item: -math.prod(item[1])):
            array = _filled(shape, weights[name], tensors, dtype)
            parameters[tuple(name.split("/"))] = jax.device_put(array, may_alias=True)
        ends, ending = read_end_tokens(found, architecture.vocabulary)
        more = [*more, *ending]
        files = {file.name: _digest(file) for file in (*found.files, *more)}
    count = sum(math.prod(shape) for shape in shapes.values())
    code = tuple(str(name) for name in config.section("auto_map").values.values())
    card = Card(family.name, architecture, count, dtype.name, files, ends, code, isinstance(model, VisionModel))
    return Pretrained(model, {"params": unflatten_dict(parameters)}, tokenizer, card)


def _shapes(model: Any) -> dict[str, tuple[int, ...]]:
    """Returns the shape of each parameter of a model by its path; nothing is computed."""
    example = jax.ShapeDtypeStruct((1, 1), jnp.int32)
    if isinstance(model, VisionModel):
        example = jax.ShapeDtypeStruct((model.image_size, model.image_size, model.channels), jnp.float32)
    variables: Any = jax.eval_shape(model.init, jax.random.key(0), example)
    leaves: Any = flatten_dict(variables["params"])
    return {"/".join(path): leaf.shape for path, leaf in leaves.items()}


def _family(found: Checkpoint) -> Family:
    kind = found.config.get("model_type")
    if not isinstance(kind, str) or kind not in FAMILIES:
        raise ValueError(f"{found.config_file}: expected a model_type among {', '.join(FAMILIES)}, got {kind!r}")
    return FAMILIES[kind]


def _check_layers(config: Config, tensors: int) -> None:
    """Refuses more layers than there are tensors, before lists of so many are made; a few may share their weights."""
    most = max(tensors, FEW_LAYERS)
    for name in ("num_hidden_layers", "n_layer"):
        if name in config.values and config.size(name) > most:
            raise config.error(name, f"at most {most} with {tensors} tensors", config.get(name))


def _renamed(tensors: Mapping[str, Tensor], family: Family) -> dict[str, Tensor]:
    """Returns the tensors under names without a prefix, and in today's words."""
    renamed: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        for prefix in family.prefixes:
            name = name.removeprefix(prefix)
        for old, new in family.renamed.items():
            name = name.replace(old, new)
        if name in renamed:
            raise ValueError(f"{name}: expected one tensor of that name, got two, with and without a prefix")
        renamed[name] = tensor
    return renamed


def _names(weight: Weight | Copy, layers: int) -> list[str]:
    return [weight.name.format(layer) for layer in range(layers)] if "{}" in weight.name else [weight.name]


def _check_names(
    tensors: Mapping[str, Tensor], weights: Mapping[str, Weight], its: Architecture, family: Family
) -> None:
    """Refuses missing tensors and surplus ones, and copies that differ from what they repeat."""
    needed = dict.fromkeys(name for weight in weights.values() for name in _names(weight, its.num_layers))
    copies = {name: copy for copy in family.copies for name in _names(copy, its.num_layers) if name not in needed}
    missing = [name for name in needed if name not in tensors]
    surplus = [name for name in tensors if name not in needed and name not in copies]
    if missing:
        near = difflib.get_close_matches(missing[0], surplus, 1)
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        hint = f"; got {near[0]}, which is not known" if near else ""
        raise ValueError(f"{missing[0]}{more}: expected this tensor of {family.name}, got none{hint}")
    if surplus:
        more = f" and {len(surplus) - 1} more" if len(surplus) > 1 else ""
        raise ValueError(
            f"{surplus[0]}{more}: expected only tensors of {family.name}, got this in {tensors[surplus[0]].file}"
        )
    for name, copy in copies.items():
        if name in tensors:
            _check_copy(name, tensors[name], copy, tensors, its)


def _check_copy(name: str, tensor: Tensor, copy: Copy, tensors: Mapping[str, Tensor], its: Architecture) -> None:
    try:
        same = tensors[copy.of].numbers(copy.of) if isinstance(copy.of, str) else copy.of(tensor.shape, its)
    except IndexError as error:
        raise ValueError(f"{name}: expected more axes, got shape {tensor.shape} in {tensor.file}") from error
    found = tensor.numbers(name)
    # What is made here was rounded when the file was written; what is copied is equal.
    if not (np.array_equal(found, same) if isinstance(copy.of, str) else np.allclose(found, same, rtol=1e-3)):
        what = copy.of if isinstance(copy.of, str) else "what every such model has there"
        raise ValueError(f"{name}: expected a copy of {what}, got other numbers in {tensor.file}")


def _check_shapes(
    tensors: Mapping[str, Tensor], weights: Mapping[str, Weight], shapes: Mapping[str, Any], its: Architecture
) -> None:
    if weights.keys() != shapes.keys():
        raise AssertionError(f"a family names other parameters than the model has: {weights.keys() ^ shapes.keys()}")
    for path, weight in weights.items():
        shape = shapes[path]
        if "{}" in weight.name and path.startswith(f"{LAYER}/"):
            shape = shape[1:]
        expected = _file_shape(weight, shape)
        for name in _names(weight, its.num_layers):
            tensor = tensors[name]
            if tensor.dtype not in FLOATS:
                raise ValueError(f"{name}: expected {', '.join(FLOATS)}, got {tensor.dtype} in {tensor.file}")
            if tensor.shape != expected:
                order = ORDERS.get(weight.layout, "")
                raise ValueError(f"{name}: expected shape {expected}{order}, got {tensor.shape} in {tensor.file}")


def _file_shape(weight: Weight, shape: tuple[int, ...]) -> tuple[int, ...]:
    """Returns what shape a tensor has, of which a parameter has this one."""
    parts = weight.part[1]
    if weight.layout == "plain":
        return (math.prod(shape) * parts,) if weight.name.endswith("bias") else shape
    if weight.layout == "image":
        rows, columns, channels, outputs = shape
        return outputs, channels, rows, columns
    inputs, outputs = math.prod(shape[: weight.in_axes]), math.prod(shape[weight.in_axes :]) * parts
    return (outputs, inputs) if weight.layout == "out_in" else (inputs, outputs)


def _filled(shape: tuple[int, ...], weight: Weight, tensors: Mapping[str, Tensor], dtype: np.dtype) -> np.ndarray:
    """Reads a parameter, the layers stacked; one tensor is in memory at a time."""
    filled = _aligned(shape, dtype)
    if "{}" not in weight.name:
        _fill(filled, tensors[weight.name], weight.name, weight)
        return filled
    for layer in range(shape[0]):
        name = weight.name.format(layer)
        _fill(filled[layer, ...], tensors[name], name, weight)
    return filled


def _fill(array: np.ndarray, tensor: Tensor, name: str, weight: Weight) -> None:
    """Copies a tensor into an array of the parameter's dtype, in which its numbers have to be finite."""
    as_it_is = weight.layout == "plain" and weight.part == (0, 1) and array.shape == tensor.shape
    with np.errstate(over="ignore"):
        if tensor.read_rows is not None and as_it_is and array.ndim > 0:
            # A table of words is the largest tensor of many models; read so, it is never in memory twice.
            for first in range(0, len(array), ROWS_AT_ONCE):
                end = min(first + ROWS_AT_ONCE, len(array))
                array[first:end] = tensor.numbers(name, (first, end))
        else:
            array[...] = _arranged(tensor, name, weight, array.shape)
    # These two are not finite if any number is not, and need no memory.
    least, most = array.min(), array.max()
    if not (np.isfinite(least) and np.isfinite(most)):
        raise ValueError(f"{name}: expected finite numbers as {array.dtype}, got {least} to {most} in {tensor.file}")


def _aligned(shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    """Makes an array whose place in memory is one that JAX takes over on a CPU without a copy."""
    size = math.prod(shape) * dtype.itemsize
    raw = np.empty(size + ALIGNMENT, np.uint8)
    first = -raw.ctypes.data % ALIGNMENT
    return raw[first : first + size].view(dtype).reshape(shape)


def _arranged(tensor: Tensor, name: str, weight: Weight, shape: tuple[int, ...]) -> np.ndarray:
    array = tensor.numbers(name)
    array = array.T if weight.layout == "out_in" else array
    array = array.transpose(2, 3, 1, 0) if weight.layout == "image" else array
    index, count = weight.part
    if count > 1:
        size = array.shape[-1] // count
        array = array[..., index * size : (index + 1) * size]
    return array.reshape(shape)


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
