"""A GGUF file in the words of a model hub: its tensors by their names there, and its numbers as a ``config.json``.

Quantised weights are turned into float32 when they are read, one tensor at a time. For Llama, whose queries and keys
llama.cpp keeps with the two halves of each head interleaved, they are put back into the order of the published weights.
"""

import re
from pathlib import Path
from typing import Any

import numpy as np

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


def read_gguf(path: Path) -> Checkpoint:
    """Reads a GGUF file of a Llama-like model; the file is mapped into memory.

    Raises:
      ValueError: if the file is damaged, or of another architecture.
    """
    gguf = reader("gguf")
    with whole(path, "GGUF"):
        file = gguf.GGUFReader(path)
        told = {name: field.contents() for name, field in file.fields.items()}
        raw = {tensor.name: tensor for tensor in file.tensors}
        file.fields.clear()  # Every token is an array of its own there: a third of a small model's weights.
    kind = told.get("general.architecture")
    if kind not in ARCHITECTURES:
        raise ValueError(f"{path.name}: expected an architecture among {', '.join(ARCHITECTURES)}, got {kind!r}")
    config = _config(path, kind, told, tied="output.weight" not in raw)
    tensors = {}
    for name, tensor in raw.items():
        hub = _hub_name(name)
        heads = {"q_proj": config["num_attention_heads"], "k_proj": config["num_key_value_heads"]}
        turned = heads.get(hub.split(".")[-2]) if kind == "llama" and ".self_attn." in hub else None
        shape = tuple(int(size) for size in reversed(tensor.shape))

        def read(tensor: Any = tensor, shape: tuple[int, ...] = shape, turned: int | None = turned) -> np.ndarray:
            array = _as_floats(gguf, tensor, shape)
            return array if turned is None else _halves(array, turned)

        tensors[hub] = Tensor(shape, "float32", path.name, read)
    return Checkpoint(tensors, config, (path,), told)


def _as_floats(gguf: Any, tensor: Any, shape: tuple[int, ...]) -> np.ndarray:
    """Turns a tensor into float32 some rows at a time, for the steps on the way take several times its size."""
    array = np.empty(shape, np.float32)
    length = len(array)
    step = ROWS if array.ndim > 1 else length
    for first in range(0, length, step):
        piece = slice(first, first + step)
        array[piece] = gguf.quants.dequantize(tensor.data[piece], tensor.tensor_type).reshape(array[piece].shape)
    return array


def _hub_name(name: str) -> str:
    found = re.fullmatch(r"blk\.(\d+)\.(\w+)\.(weight|bias)", name)
    if found is None:
        return NAMES.get(name, name)
    return f"model.layers.{found[1]}.{LAYER_NAMES.get(found[2], found[2])}.{found[3]}"


def _config(path: Path, kind: str, told: dict[str, Any], tied: bool) -> dict[str, Any]:
    def asked(name: str, default: Any = None) -> Any:
        if f"{kind}.{name}" not in told and default is None:
            raise ValueError(f"{path.name}: expected the number {kind}.{name}, got none")
        value = told.get(f"{kind}.{name}", default)
        # The file has float32; what was meant is the shortest number that rounds to it.
        return float(str(np.float32(value))) if isinstance(value, float) else value

    heads, width = asked("attention.head_count"), asked("embedding_length")
    head_dim = asked("attention.key_length", asked("rope.dimension_count", width // heads))
    scaling = told.get(f"{kind}.rope.scaling.type", "none")
    if scaling != "none":
        raise ValueError(f"{path.name}: expected rotary positions without scaling, got {scaling!r}")
    return {
        "model_type": kind,
        "vocab_size": len(told["tokenizer.ggml.tokens"]) if "tokenizer.ggml.tokens" in told else asked("vocab_size"),
        "num_hidden_layers": asked("block_count"),
        "num_attention_heads": heads,
        "num_key_value_heads": asked("attention.head_count_kv", heads),
        "hidden_size": width,
        "intermediate_size": asked("feed_forward_length"),
        "head_dim": head_dim,
        "rms_norm_eps": asked("attention.layer_norm_rms_epsilon"),
        "rope_theta": asked("rope.freq_base", 10_000.0),
        "hidden_act": "silu",
        "tie_word_embeddings": tied,
    }


def _halves(array: np.ndarray, heads: int) -> np.ndarray:
    """Puts pairs of neighbours ``2i, 2i+1`` back to ``i, i + D/2`` in each head's rows."""
    pairs = array.reshape(heads, -1, 2, *array.shape[1:])
    return np.swapaxes(pairs, 1, 2).reshape(array.shape)
