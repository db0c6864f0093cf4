"""Tensors, configs and tokenizers that do not fit one another, or are not built here, are refused in one clear line."""

import numpy as np
import pytest

from jattn.pretrained import load
from tests.pretrained.published import MODELS, write_folder
from tests.pretrained.refusals import bytes_of, check_refusal
from tests.pretrained.test_sources import CONFIG, TENSORS, by_llama_cpp, in_one_file


def changed(change):
    """Makes a writer of a model whose tensors a function has changed."""

    def write(path):
        tensors = dict(TENSORS)
        change(tensors)
        return write_folder(path, CONFIG, tensors)

    return write


def renamed(tensors):
    tensors["model.layers.1.self_attn.query.weight"] = tensors.pop("model.layers.1.self_attn.q_proj.weight")


def not_a_number(tensors):
    tensors["model.layers.1.mlp.up_proj.weight"] = np.where(np.eye(64, 32), np.nan, 0).astype(np.float32)


def transposed(tensors):
    name = "model.layers.2.mlp.up_proj.weight"
    tensors[name] = np.ascontiguousarray(tensors[name].T)


def as_integers(tensors):
    tensors["model.norm.weight"] = np.ones(32, np.int64)


def other_copy(tensors):
    tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"] + 1


def with_config(**change):
    return lambda path: write_folder(path, {**CONFIG, **change}, TENSORS)


def vision_with(**change):
    def write(path):
        config, tensors = MODELS["dinov2 with registers"]()
        del config["intermediate_size"]
        return write_folder(path, config | change, tensors)

    return write


def large_tokenizer(path):
    in_one_file(path)
    (path / "vocab.txt").write_text("\n".join(["[UNK]", *map(chr, range(97, 122)), "##a", *map(str, range(20))]))
    return path


def merges_of_nothing(path):
    bytes_of("vocab.json", b'{"a": 0, "b": 1}')(path)
    (path / "merges.txt").write_text("a b")
    return path


WRONG = {
    "missing": (
        changed(lambda tensors: tensors.pop("model.norm.weight")),
        "norm.weight: expected this tensor of Llama, got none",
    ),
    "surplus": (
        changed(lambda tensors: tensors.update({"model.extra.weight": np.ones(2, np.float32)})),
        "extra.weight: expected only tensors of Llama, got this in model.safetensors",
    ),
    "renamed": (
        changed(renamed),
        "layers.1.self_attn.q_proj.weight: expected this tensor of Llama, got none; "
        "got layers.1.self_attn.query.weight, which is not known",
    ),
    "transposed": (
        changed(transposed),
        "layers.2.mlp.up_proj.weight: expected shape (64, 32) (outputs, inputs), got (32, 64) in model.safetensors",
    ),
    "not a number": (
        changed(not_a_number),
        "layers.1.mlp.up_proj.weight: expected finite numbers as float32, got nan to nan in model.safetensors",
    ),
    "wrong dtype": (
        changed(as_integers),
        "norm.weight: expected float64, float32, float16, bfloat16, got I64 in model.safetensors",
    ),
    "a copy that is none": (
        changed(other_copy),
        "lm_head.weight: expected a copy of embed_tokens.weight, got other numbers in model.safetensors",
    ),
    "a table of integers in gguf": (
        lambda path: by_llama_cpp(
            path, add=lambda writer: writer.add_tensor("rope_freqs.weight", np.ones(4, np.int32))
        ),
        "rope_freqs.weight: expected float64, float32, float16, bfloat16, got I32 in model.gguf",
    ),
    "a huge image": (
        vision_with(image_size=2**30),
        "embeddings.position_embeddings: expected 72057594037927937 along axis 1, as image_size 1073741824 and patch_s",
    ),
    "huge patches": (
        vision_with(image_size=3 * 2**20, patch_size=2**20),
        "embeddings.patch_embeddings.projection.weight: expected 1048576 along axis 3, as patch_size 1048576 of config",
    ),
    "a billion registers": (
        vision_with(num_register_tokens=10**9),
        "embeddings.register_tokens: expected 1000000000 along axis 1, as num_register_tokens 1000000000 of config",
    ),
    "a billion layers": (
        with_config(num_hidden_layers=10**9),
        "config.json: expected num_hidden_layers to be at most 200 with 29 tensors, got 1000000000",
    ),
    "merges of nothing": (merges_of_nothing, "tokenizer: expected merges of two entries into a third, got 'a b'"),
    "a first token that is none": (
        lambda path: by_llama_cpp(path, add=lambda writer: writer.add_add_bos_token(True)),
        "tokenizer: expected tokenizer.ggml.bos_token_id below 40, got None",
    ),
    "no unknown word": (bytes_of("vocab.txt", b"a\nb"), "vocab.txt: expected an entry [UNK], got 2 without it"),
    "a tokenizer of another model": (
        large_tokenizer,
        "tokenizer: expected tokens below the model's vocabulary of 40, got token 46",
    ),
    "an endless hidden layer": (
        vision_with(mlp_ratio=1e308),
        "config.json: expected mlp_ratio to be a number that makes 1 to 2³¹ of a width of 32, got 1e+308",
    ),
    "a word for an end in gguf": (
        lambda path: by_llama_cpp(path, add=lambda writer: writer.add_string("tokenizer.ggml.eos_token_id", "a")),
        "model.gguf: expected eos_token_id to be a token or a list of them, got ['a']",
    ),
    "more words than 32 bits count": (
        with_config(vocab_size=10**12),
        "config.json: expected vocab_size to be an int below 2³¹, got 1000000000000",
    ),
    "words for an end": (
        with_config(eos_token_id="</s>"),
        "config.json: expected eos_token_id to be a token or a list of them, got '</s>'",
    ),
    "another family": (with_config(model_type="t5"), "config.json: expected a model_type among bert, albert, gpt2, "),
    "no size": (with_config(hidden_size=None), "config.json: expected hidden_size to be a positive int, got None"),
    "heads that do not divide": (with_config(num_attention_heads=3), "num_kv_heads: expected a divisor of 3 heads"),
    "other activation": (with_config(hidden_act="mish"), "config.json: expected hidden_act among gelu, "),
    "other scaling": (
        with_config(rope_scaling={"rope_type": "longrope"}),
        "config.json: expected rotary scaling among 'default', 'linear', 'dynamic', 'yarn', 'llama3', got 'longrope'",
    ),
    "partial rotary positions in gguf": (
        lambda path: by_llama_cpp(path, add=lambda writer: writer.add_rope_dimension_count(4)),
        "model.gguf: expected llama.rope.dimension_count = 8, got 4",
    ),
    "values of another size in gguf": (
        lambda path: by_llama_cpp(path, add=lambda writer: writer.add_value_length(4)),
        "model.gguf: expected llama.attention.value_length = 8, got 4",
    ),
    "scaling in gguf": (
        lambda path: by_llama_cpp(path, add=lambda writer: writer.add_string("llama.rope.scaling.type", "longrope")),
        "model.gguf: expected llama.rope.scaling.type = 'linear' or 'none' or 'yarn', got 'longrope'",
    ),
    "yarn without a length": (
        with_config(rope_scaling={"rope_type": "yarn", "factor": 2.0}),
        "config.json: expected original_max_position_embeddings to be a positive int, got None",
    ),
    "a list for a scaling": (
        with_config(rope_scaling={"rope_type": ["yarn"]}),
        "config.json: expected rotary scaling among 'default', 'linear', 'dynamic', 'yarn', 'llama3', got ['yarn']",
    ),
    "a window in gguf": (
        lambda path: by_llama_cpp(path, add=lambda writer: writer.add_sliding_window(3)),
        "model.gguf: expected settings that are known here, got llama.attention.sliding_window = 3",
    ),
    "an unknown kind of layer": (
        with_config(layer_types=["full_attention", "chunked_attention", "full_attention"]),
        "config.json: expected layer_types to be a list of full_attention and sliding_attention, got ['full_",
    ),
    "scaling without a factor": (
        with_config(rope_scaling={"rope_type": "linear"}),
        "config.json: expected factor to be a positive number, got None",
    ),
    "a list for a family": (with_config(model_type=["llama"]), "config.json: expected a model_type among bert, "),
    "a list for an activation": (with_config(hidden_act=["relu"]), "config.json: expected hidden_act among gelu, "),
    "a word for an object": (
        with_config(rope_scaling="linear"),
        "config.json: expected rope_scaling to be an object, got 'linear'",
    ),
    "a word for a truth": (
        with_config(attention_bias="false"),
        "config.json: expected attention_bias to be true or false, got 'false'",
    ),
    "an endless number": (
        with_config(rms_norm_eps=float("inf")),
        "config.json: expected rms_norm_eps to be a positive number, got inf",
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_models_that_do_not_fit_are_refused_in_one_line(case, tmp_path, monkeypatch):
    check_refusal(WRONG[case], tmp_path, monkeypatch)


def test_numbers_too_large_for_a_dtype_are_refused(tmp_path):
    large = write_folder(tmp_path, CONFIG, TENSORS | {"model.norm.weight": np.full(32, 1e6, np.float32)})
    with pytest.raises(ValueError, match=r"^norm.weight: expected finite numbers as float16, got inf to inf in model"):
        load(large, dtype="float16")
