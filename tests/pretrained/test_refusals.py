"""Damaged files, strange ones, and those that do not fit one another are refused in one clear line."""

import json
import os
import struct
import zipfile

import numpy as np
import pytest

from jattn.pretrained import load
from tests.pretrained.published import MODELS, write_folder
from tests.pretrained.test_sources import (
    CONFIG,
    TENSORS,
    WRITERS,
    by_llama_cpp,
    by_torch,
    in_a_wheel,
    in_one_file,
    in_two_files,
)
from tests.pretrained.torch_writing import save_torch


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


def truncated(write, part=0.6):
    def damaged(path):
        path = write(path)
        file = path if path.is_file() else next(path.glob("*.bin"))
        os.truncate(file, int(file.stat().st_size * part))
        return path

    return damaged


def without_second_file(path):
    in_two_files(path)
    (path / "model-00002-of-00002.safetensors").unlink()
    return path


def index_of_lists(path):
    in_two_files(path)
    (path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"model.norm.weight": []}}))
    return path


class RunsCode:
    def __reduce__(self):
        return os.system, ("touch it-ran",)


def code_in_a_pickle(path, legacy=False):
    by_torch(path, legacy)
    save_torch(TENSORS, path / "pytorch_model.bin", legacy, {"more": RunsCode()})
    return path


STORAGE = "(S'storage'\nctorch\nFloatStorage\nS'0'\nS'cpu'\nI4\ntQ"
TENSOR = f"ctorch._utils\n_rebuild_tensor_v2\n({STORAGE}I0\n(I4\nt(I1\nttR"
CHANGED_STORAGE = STORAGE + "}S'count'\nI2000000\nsb"
OUTSIDE = {
    "its shape changed": TENSOR + "}S'shape'\n(I2000000\ntsb",
    "its slots changed": TENSOR + "(N}S'shape'\n(I2000000\ntstb",
    "its storage changed": TENSOR.replace(STORAGE, CHANGED_STORAGE),
}


def outside_a_storage(change):
    """Makes a writer of a pickle that changes an object after it was made (the opcode ``b``)."""

    def write(path):
        by_torch(path)
        with zipfile.ZipFile(path / "pytorch_model.bin", "w") as archive:
            archive.writestr("archive/data.pkl", "}S'norm.weight'\n" + OUTSIDE[change] + "s.")
            archive.writestr("archive/data/0", bytes(16))
        return path

    return write


def long_bytes_in_an_older_file(path):
    by_torch(path)
    (path / "pytorch_model.bin").write_bytes(b"\x80\x05\x8e" + struct.pack("<Q", 2**62) + b"abc.")
    return path


def number_in_a_pickle(path):
    by_torch(path)
    save_torch(TENSORS, path / "pytorch_model.bin", more={"epoch": 3})
    return path


def with_config(**change):
    return lambda path: write_folder(path, {**CONFIG, **change}, TENSORS)


def vision_with(**change):
    def write(path):
        config, tensors = MODELS["dinov2 with registers"]()
        del config["intermediate_size"]
        return write_folder(path, config | change, tensors)

    return write


def without_config(path):
    in_one_file(path)
    (path / "config.json").unlink()
    return path


def large_tokenizer(path):
    in_one_file(path)
    (path / "vocab.txt").write_text("\n".join(["[UNK]", *map(chr, range(97, 122)), "##a", *map(str, range(20))]))
    return path


def two_models_in_a_zip(path):
    folder = in_one_file(path)
    with zipfile.ZipFile(path / "two.zip", "w") as archive:
        for place in "ab":
            archive.write(folder / "model.safetensors", f"{place}/model.safetensors")
    return path / "two.zip"


def nothing(path):
    path.mkdir()
    return path


def bytes_of(name, data):
    """Makes a writer of a model in which one file is these bytes."""

    def write(path):
        in_one_file(path)
        (path / name).write_bytes(data)
        return path / name if name.endswith("gguf") else path

    return write


def gguf_header(tensors, settings, rest=bytes(200)):
    return bytes_of("model.gguf", b"GGUF" + struct.pack("<IQQ", 3, tensors, settings) + rest)


LONG_ARRAY = struct.pack("<Q3sIIQ", 3, b"x.y", 9, 4, 2**40)


def pickled(body):
    """Makes a writer of a torch file with this pickle."""

    def write(path):
        by_torch(path)
        with zipfile.ZipFile(path / "pytorch_model.bin", "w") as archive:
            archive.writestr("archive/data.pkl", body)
        return path

    return write


def zip_bomb(path):
    path.mkdir()
    with zipfile.ZipFile(path / "model.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("model.safetensors", bytes(2**26))
        archive.writestr("config.json", json.dumps(CONFIG))
    return path / "model.zip"


def merges_of_nothing(path):
    bytes_of("vocab.json", b'{"a": 0, "b": 1}')(path)
    (path / "merges.txt").write_text("a b")
    return path


CANNOT = "got one that cannot be read: "

WRONG = {
    "a header of 2**60 bytes": (
        bytes_of("model.safetensors", struct.pack("<Q", 2**60) + bytes(64)),
        f"model.safetensors: expected a whole safetensors file, {CANNOT}",
    ),
    "a pointer of Git LFS": (
        bytes_of("model.safetensors", b"version https://git-lfs.github.com/spec/v1"),
        f"model.safetensors: expected a whole safetensors file, {CANNOT}it is a pointer of Git LFS, and `git lfs pull`",
    ),
    "2**60 tensors": (
        gguf_header(2**60, 0),
        f"{CANNOT}expected at most 200 further bytes, got a count of 1,152,921,504,606,846,976",
    ),
    "an array of 2**40 numbers": (
        gguf_header(0, 1, LONG_ARRAY + bytes(64)),
        f"{CANNOT}expected at most 64 further bytes, got a count of 1,099,511,627,776",
    ),
    "a type that is none": (
        gguf_header(0, 1, bytes(8) + b"\x4d" + bytes(30)),
        "expected a known type of value, got 77",
    ),
    "a pickle that asks for memory": (
        pickled(b"\x80\x02K\x01r\xff\xff\xff\x7f."),
        f"{CANNOT}expected at most 2 things kept by now, got number 2147483647",
    ),
    "a pickle of a long array": (
        pickled(b"\x80\x05\x96" + struct.pack("<Q", 2**36) + b"abc."),
        "pytorch_model.bin: expected a whole torch file, got one that cannot be read: expected 68719476736 bytes",
    ),
    "an older pickle of long bytes": (
        long_bytes_in_an_older_file,
        f"{CANNOT}expected 4611686018427387904 bytes in a bytes8, but only 4 remain",
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
    "an endless hidden layer": (
        vision_with(mlp_ratio=1e308),
        "config.json: expected mlp_ratio to be a number that makes 1 to 2³¹ of a width of 32, got 1e+308",
    ),
    "a table of integers in gguf": (
        lambda path: by_llama_cpp(
            path, add=lambda writer: writer.add_tensor("rope_freqs.weight", np.ones(4, np.int32))
        ),
        "rope_freqs.weight: expected float64, float32, float16, bfloat16, got I32 in model.gguf",
    ),
    "a word for an end in gguf": (
        lambda path: by_llama_cpp(path, add=lambda writer: writer.add_string("tokenizer.ggml.eos_token_id", "a")),
        "model.gguf: expected eos_token_id to be a token or a list of them, got ['a']",
    ),
    "a zip bomb": (zip_bomb, f"model.zip: expected a whole zip file, {CANNOT}expected at most 20 times its "),
    "a billion layers": (
        with_config(num_hidden_layers=10**9),
        "config.json: expected num_hidden_layers to be at most 200 with 29 tensors, got 1000000000",
    ),
    "more words than 32 bits count": (
        with_config(vocab_size=10**12),
        "config.json: expected vocab_size to be an int below 2³¹, got 1000000000000",
    ),
    "words for an end": (
        with_config(eos_token_id="</s>"),
        "config.json: expected eos_token_id to be a token or a list of them, got '</s>'",
    ),
    "merges of nothing": (merges_of_nothing, "tokenizer: expected merges of two entries into a third, got 'a b'"),
    "a first token that is none": (
        lambda path: by_llama_cpp(path, add=lambda writer: writer.add_add_bos_token(True)),
        "tokenizer: expected tokenizer.ggml.bos_token_id below 40, got None",
    ),
    "no unknown word": (bytes_of("vocab.txt", b"a\nb"), "vocab.txt: expected an entry [UNK], got 2 without it"),
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
    "half loaded": (
        without_second_file,
        "model.safetensors.index.json: expected the file model-00002-of-00002.safetensors with",
    ),
    "truncated safetensors": (
        truncated(WRITERS["safetensors"]),
        "model.safetensors: expected a whole safetensors file, got one that cannot be read: ",
    ),
    "truncated gguf": (
        truncated(by_llama_cpp),
        "model.gguf: expected a whole GGUF file, got one that cannot be read: ",
    ),
    "truncated torch": (truncated(by_torch), "pytorch_model.bin: expected a whole torch file, got one that "),
    "truncated older torch": (
        truncated(WRITERS["torch before 2020"]),
        "pytorch_model.bin: expected a whole torch file, got one that cannot be read: expected ",
    ),
    "truncated wheel": (truncated(in_a_wheel), "some-1.0-py3-none-any.whl: expected a whole zip file, got one that "),
    "code": (code_in_a_pickle, "it asks to run posix.system; only tensors are read and nothing is run"),
    "code in an older file": (
        lambda path: code_in_a_pickle(path, legacy=True),
        "it asks to run posix.system; only tensors are read and nothing is run",
    ),
    **{
        f"a tensor with {change}": (
            outside_a_storage(change),
            "expected tensors and storages as they were made, got one",
        )
        for change in OUTSIDE
    },
    "a number among tensors": (number_in_a_pickle, "expected tensors by name, got int for 'epoch'"),
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
    "an index of lists": (
        index_of_lists,
        "model.safetensors.index.json: expected model.norm.weight to be the name of a file, got []",
    ),
    "no config": (without_config, "model.safetensors: expected a config.json beside it"),
    "a tokenizer of another model": (
        large_tokenizer,
        "tokenizer: expected tokens below the model's vocabulary of 40, got token 46",
    ),
    "two models": (two_models_in_a_zip, "expected one folder with a model's weights, got a, b"),
    "no model": (
        nothing,
        "expected a model's weights (model*.safetensors, *.safetensors, pytorch_model*.bin, *.gguf), got ",
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_is_wrong_is_said_in_one_line(case, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write, message = WRONG[case]
    with pytest.raises(ValueError) as caught:  # noqa: PT011 (the table has the messages)
        load(write(tmp_path / "model"))
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "it-ran").exists()


def test_numbers_too_large_for_a_dtype_are_refused(tmp_path):
    large = write_folder(tmp_path, CONFIG, TENSORS | {"model.norm.weight": np.full(32, 1e6, np.float32)})
    with pytest.raises(ValueError, match=r"^norm.weight: expected finite numbers as float16, got inf to inf in model"):
        load(large, dtype="float16")


def test_paths_and_dtypes_that_are_none_are_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="expected the folder or a file of a model, got no such path"):
        load(tmp_path / "nowhere")
    with pytest.raises(TypeError, match="dtype: expected a float dtype, got int32"):
        load(tmp_path, dtype="int32")
    (tmp_path / "model.onnx").write_bytes(b"")
    with pytest.raises(ValueError, match=r"model.onnx: expected a folder, .safetensors, .* got another kind"):
        load(tmp_path / "model.onnx")
