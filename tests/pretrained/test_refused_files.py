"""Files that are damaged, missing or larger than they can be are refused in one clear line."""

import json
import struct
import zipfile

import pytest

from jattn.pretrained import load
from tests.pretrained.refusals import CANNOT, bytes_of, check_refusal, truncated
from tests.pretrained.test_sources import CONFIG, WRITERS, by_llama_cpp, in_a_wheel, in_one_file, in_two_files


def without_second_file(path):
    in_two_files(path)
    (path / "model-00002-of-00002.safetensors").unlink()
    return path


def index_of_lists(path):
    in_two_files(path)
    (path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"model.norm.weight": []}}))
    return path


def without_config(path):
    in_one_file(path)
    (path / "config.json").unlink()
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


def gguf_header(tensors, settings, rest=bytes(200)):
    return bytes_of("model.gguf", b"GGUF" + struct.pack("<IQQ", 3, tensors, settings) + rest)


LONG_ARRAY = struct.pack("<Q3sIIQ", 3, b"x.y", 9, 4, 2**40)


def zip_bomb(path):
    path.mkdir()
    with zipfile.ZipFile(path / "model.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("model.safetensors", bytes(2**26))
        archive.writestr("config.json", json.dumps(CONFIG))
    return path / "model.zip"


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
    "a zip bomb": (zip_bomb, f"model.zip: expected a whole zip file, {CANNOT}expected at most 20 times its "),
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
    "truncated wheel": (truncated(in_a_wheel), "some-1.0-py3-none-any.whl: expected a whole zip file, got one that "),
    "an index of lists": (
        index_of_lists,
        "model.safetensors.index.json: expected model.norm.weight to be the name of a file, got []",
    ),
    "no config": (without_config, "model.safetensors: expected a config.json beside it"),
    "two models": (two_models_in_a_zip, "expected one folder with a model's weights, got a, b"),
    "no model": (
        nothing,
        "expected a model's weights (model*.safetensors, *.safetensors, pytorch_model*.bin, *.gguf), got ",
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_damaged_files_are_refused_in_one_line(case, tmp_path, monkeypatch):
    check_refusal(WRONG[case], tmp_path, monkeypatch)


def test_paths_and_dtypes_that_are_none_are_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="expected the folder or a file of a model, got no such path"):
        load(tmp_path / "nowhere")
    with pytest.raises(TypeError, match="dtype: expected a float dtype, got int32"):
        load(tmp_path, dtype="int32")
    (tmp_path / "model.onnx").write_bytes(b"")
    with pytest.raises(ValueError, match=r"model.onnx: expected a folder, .safetensors, .* got another kind"):
        load(tmp_path / "model.onnx")
