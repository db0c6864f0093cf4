"""A GGUF file in the words of a model hub: its tensors by their names there, and its numbers as a ``config.json``.

Quantised weights are turned into float32 when they are read, one tensor at a time. For Llama, whose queries and keys
llama.cpp keeps with the two halves of each head interleaved, they are put back into the order of the published weights.
"""

import math
import re
from pathlib import Path
from typing import Any

import numpy as np

from jattn.pretrained.families import Config
from jattn.pretrained.gguf_header import RawTensor, read_header
from jattn.pretrained.tensors import Checkpoint, Tensor, reader, whole

NAMES = {
    "token_embd.weight": "model.embed_tokens.weight",
    "output_norm.weight": "model.norm.weight",
    "output.weight": "lm_head.weight",
}

LAYER_NAMES = {
    "attn_norm": "input_layernorm",
    "ffn_norm": "post_attention_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "attn_q_norm": "self_attn.q_norm",
    "attn_k_norm": "self_attn.k_norm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}

ROWS = 1024
"""How many rows of a matrix are turned into float32 at a time."""

ARCHITECTURES = ("llama", "qwen2", "qwen3")

SETTINGS = (
    "vocab_size",
    "context_length",
    "block_count",
    "embedding_length",
    "feed_forward_length",
    "attention.head_count",
    "attention.head_count_kv",
    "attention.key_length",
    "attention.value_length",
    "attention.layer_norm_rms_epsilon",
    "rope.dimension_count",
    "rope.freq_base",
    "rope.scaling.type",
    "rope.scaling.factor",
    "rope.scaling.original_context_length",
    "rope.scaling.finetuned",
    "rope.scaling.yarn_beta_fast",
    "rope.scaling.yarn_beta_slow",
    "rope.scale_linear",
)
"""What a file may say of its architecture, each under the name of that."""

NEUTRAL = {
    "rope.scaling.attn_factor": 1.0,
    "rope.scaling.yarn_attn_factor": 1.0,
    "rope.scaling.yarn_ext_factor": 1.0,
    "attention.causal": True,
    "expert_count": 0,
}
"""What a file may say besides, and the one value at which it changes nothing."""


END_TOKENS = ("tokenizer.ggml.eos_token_id", "tokenizer.ggml.eot_token_id")
"""What a file calls the tokens that end a text, or a turn of it."""


def read_gguf(path: Path) -> Checkpoint:
    """Reads a GGUF file of a Llama-like model; the file is mapped into memory.

    Raises:
      ValueError: if the file is damaged, or of another architecture.
    """
    gguf = reader("gguf")
    with whole(path, "GGUF"):
        metadata, raw = read_header(path)
    kind = metadata.get("general.architecture")
    if kind not in ARCHITECTURES:
        raise ValueError(f"{path.name}: expected an architecture among {', '.join(ARCHITECTURES)}, got {kind!r}")
    config = _config(path, kind, metadata, tied="output.weight" not in raw)
    tensors = {}
    for name, tensor in raw.items():
        hub = _hub_name(name)
        heads = {"q_proj": config["num_attention_heads"], "k_proj": config["num_key_value_heads"]}
        turned = heads.get(hub.split(".")[-2]) if kind == "llama" and ".self_attn." in hub else None

        def read(tensor: RawTensor = tensor, turned: int | None = turned) -> np.ndarray:
            array = _as_floats(gguf, tensor)
            return array if turned is None else _halves(array, turned)

        if hub in tensors:
            raise ValueError(f"{path.name}: expected one tensor {hub}, got two under that name and {name}")
        tensors[hub] = Tensor(tensor.shape, _dtype(tensor), path.name, read)
    return Checkpoint(tensors, config, (path,), metadata, path.name)


def _dtype(tensor: RawTensor) -> str:
    """Returns what a tensor is read as; integers that are no quantised floats stay what they are."""
    name = tensor.kind.name
    return name if re.fullmatch(r"I\d+", name) else "float32"


def _as_floats(gguf: Any, tensor: RawTensor) -> np.ndarray:
    """Turns a tensor into float32 some rows at a time, for the steps on the way take several times its size."""
    rows = len(tensor.data)
    array = np.empty((rows, math.prod(tensor.shape) // rows), np.float32)
    for first in range(0, rows, ROWS):
        piece = slice(first, first + ROWS)
        array[piece] = gguf.quants.dequantize(np.asarray(tensor.data[piece]), tensor.kind)
    return array.reshape(tensor.shape)


def _hub_name(name: str) -> str:
    found = re.fullmatch(r"blk\.(\d+)\.(\w+)\.(weight|bias)", name)
    if found is None:
        return NAMES.get(name, name)
    return f"model.layers.{found[1]}.{LAYER_NAMES.get(found[2], found[2])}.{found[3]}"


def _config(path: Path, kind: str, metadata: dict[str, Any], tied: bool) -> dict[str, Any]:
    config = Config(metadata, path.name)
    _check_settings(config, kind)
    heads, width = config.size(f"{kind}.attention.head_count"), config.size(f"{kind}.embedding_length")
    head_dim = config.size(f"{kind}.attention.key_length", max(1, width // heads))
    for name in ("attention.value_length", "rope.dimension_count"):
        config.expect(f"{kind}.{name}", head_dim)
    tokens = metadata.get("tokenizer.ggml.tokens")
    return {
        "model_type": kind,
        "vocab_size": config.size(f"{kind}.vocab_size") if tokens is None else len(tokens),
        "num_hidden_layers": config.size(f"{kind}.block_count"),
        "num_attention_heads": heads,
        "num_key_value_heads": config.size(f"{kind}.attention.head_count_kv", heads),
        "hidden_size": width,
        "intermediate_size": config.size(f"{kind}.feed_forward_length"),
        "head_dim": head_dim,
        "rms_norm_eps": _shortest(config.number(f"{kind}.attention.layer_norm_rms_epsilon")),
        "rope_theta": _shortest(config.number(f"{kind}.rope.freq_base", 10_000.0)),
        "rope_scaling": _rotary_scaling(config, kind),
        "hidden_act": "silu",
        "tie_word_embeddings": tied,
        "eos_token_id": [metadata[name] for name in END_TOKENS if name in metadata],
    }


def _check_settings(config: Config, kind: str) -> None:
    """Refuses settings that are not known here, for each of them may change what the model computes."""
    for name in config.values:
        setting = name.removeprefix(f"{kind}.")
        if setting != name and setting not in (*SETTINGS, *NEUTRAL):
            raise ValueError(f"{config.file}: expected settings that are known here, got {name} = {config.get(name)!r}")
    for setting, value in NEUTRAL.items():
        config.expect(f"{kind}.{setting}", value)


def _rotary_scaling(config: Config, kind: str) -> dict[str, Any]:
    """Returns the scaling of rotary positions in the words of a ``config.json``."""
    at = f"{kind}.rope.scaling."
    factor = config.number(f"{at}factor", config.number(f"{kind}.rope.scale_linear", 1.0))
    scaling = config.get(f"{at}type", "linear")
    config.expect(f"{at}type", "linear", "none", "yarn")
    if scaling == "none" or (scaling == "linear" and factor == 1):
        return {}
    if scaling == "linear":
        return {"rope_type": scaling, "factor": _shortest(factor)}
    found = {"rope_type": scaling, "factor": _shortest(factor)}
    found["original_max_position_embeddings"] = config.size(
        f"{at}original_context_length", config.get(f"{kind}.context_length")
    )
    for name, published in {"yarn_beta_fast": "beta_fast", "yarn_beta_slow": "beta_slow"}.items():
        if f"{at}{name}" in config.values:
            found[published] = _shortest(config.number(f"{at}{name}"))
    return found


def _shortest(value: float) -> float:
    """Returns the shortest number that rounds to the file's float32, which is the one that was meant."""
    return float(str(np.float32(value)))


def _halves(array: np.ndarray, heads: int) -> np.ndarray:
    """Puts pairs of neighbours ``2i, 2i+1`` back to ``i, i + D/2`` in each head's rows."""
    pairs = array.reshape(heads, -1, 2, *array.shape[1:])
    return np.swapaxes(pairs, 1, 2).reshape(array.shape)
