"""Files of each kind give the same model."""

import json
import zipfile

import gguf
import jax
import ml_dtypes
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from jattn.pretrained import load
from jattn.rules.positions import FrequencyFactors, YarnScaling
from tests.pretrained.published import MODELS, write_folder
from tests.pretrained.torch_writing import save_torch
from tests.sampled import sampled

CONFIG, TENSORS = MODELS["llama"]()


def in_one_file(path):
    return write_folder(path, CONFIG, TENSORS)


def in_two_files(path):
    names, files = list(TENSORS), ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]
    parts = [names[: len(names) // 2], names[len(names) // 2 :]]
    for file, part in zip(files, parts, strict=True):
        write_folder(path, CONFIG, {name: TENSORS[name] for name in part}, file)
    places = {name: file for file, part in zip(files, parts, strict=True) for name in part}
    (path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": places}))
    return path


def by_torch(path, legacy=False):
    path.mkdir(parents=True)
    (path / "config.json").write_text(json.dumps(CONFIG))
    save_torch(TENSORS, path / "pytorch_model.bin", legacy)
    return path


def in_a_wheel(path):
    folder = in_one_file(path / "package" / "model")
    with zipfile.ZipFile(path / "some-1.0-py3-none-any.whl", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("package/__init__.py", "raise SystemExit")
        archive.writestr("package/pooling/config.json", "{}")
        for file in folder.iterdir():
            archive.write(file, f"package/model/{file.name}")
    return path / "some-1.0-py3-none-any.whl"


def interleaved(array, heads):
    """Puts rows ``i`` and ``i + D/2`` of each head next to each other, as llama.cpp does."""
    rows = array.reshape(heads, 2, -1, array.shape[-1])
    return np.ascontiguousarray(rows.swapaxes(1, 2)).reshape(array.shape)


LAYER_NAMES = {
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}


def by_llama_cpp(path, kind=gguf.GGMLQuantizationType.F32, add=lambda writer: None):
    path.mkdir(parents=True)
    writer = gguf.GGUFWriter(path / "model.gguf", "llama")
    writer.add_block_count(CONFIG["num_hidden_layers"])
    writer.add_head_count(CONFIG["num_attention_heads"])
    writer.add_head_count_kv(CONFIG["num_key_value_heads"])
    writer.add_embedding_length(CONFIG["hidden_size"])
    writer.add_feed_forward_length(CONFIG["intermediate_size"])
    writer.add_layer_norm_rms_eps(CONFIG["rms_norm_eps"])
    writer.add_rope_freq_base(CONFIG["rope_theta"])
    add(writer)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list(["<|end|>", "ab", "Ġ", *"1ab23456789cdefghijklmnopqrstuvwxyzAB"])
    writer.add_token_types([3, *[1] * (CONFIG["vocab_size"] - 1)])
    writer.add_token_merges(["a b"])
    for name, array in TENSORS.items():
        if ".layers." in name:
            _, _, layer, *part, end = name.split(".")
            part = LAYER_NAMES[".".join(part)]
            heads = {"attn_q": 4, "attn_k": 2}.get(part)
            array = array if heads is None else interleaved(array, heads)
            name = f"blk.{layer}.{part}.{end}"
        else:
            name = {"model.embed_tokens.weight": "token_embd.weight", "model.norm.weight": "output_norm.weight"}[name]
        own = kind if array.ndim == 2 else gguf.GGMLQuantizationType.F32
        writer.add_tensor(name, gguf.quants.quantize(array, own), raw_dtype=own)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path / "model.gguf"


def with_old_tables(path, base=10_000.0):
    tables = {f"model.layers.{layer}.self_attn.rotary_emb.inv_freq": layer for layer in range(3)}
    rotations = np.array([base ** (-2 * pair / 8) for pair in range(4)], np.float16)
    return write_folder(path, CONFIG | {"rope_theta": base}, TENSORS | dict.fromkeys(tables, rotations))


WRITERS = {
    "safetensors with old tables": with_old_tables,
    "safetensors": lambda path: in_one_file(path) / "model.safetensors",
    "several safetensors": in_two_files,
    "torch": by_torch,
    "torch before 2020": lambda path: by_torch(path, legacy=True),
    "wheel": in_a_wheel,
    "gguf": by_llama_cpp,
}


@pytest.fixture(scope="module")
def expected(tmp_path_factory):
    return load(in_one_file(tmp_path_factory.mktemp("plain")))


@pytest.mark.parametrize("kind", WRITERS)
def test_every_kind_of_file_gives_the_same_model(kind, expected, tmp_path):
    found = load(WRITERS[kind](tmp_path / "model"))
    assert found.model == expected.model
    jax.tree.map(assert_array_equal, found.variables, expected.variables)


def test_quantised_weights_are_those_that_the_file_rounds_to(expected, tmp_path):
    found = load(by_llama_cpp(tmp_path / "model", gguf.GGMLQuantizationType.Q4_1))
    for name in ("query", "value"):
        exact = expected.variables["params"]["layer"]["attention"][name]["kernel"]
        rounded = found.variables["params"]["layer"]["attention"][name]["kernel"]
        spread = np.ptp(np.asarray(exact), axis=1, keepdims=True)
        assert_allclose(rounded, exact, atol=float(spread.max()) / 30 + 1e-3)
        assert not np.array_equal(rounded, exact)


def test_a_file_may_have_half_the_bits(expected, tmp_path):
    short = {name: array.astype(ml_dtypes.bfloat16) for name, array in TENSORS.items()}
    found = load(write_folder(tmp_path, CONFIG, short))
    rounded = jax.tree.map(lambda x: x.astype("bfloat16").astype("float32"), expected.variables)
    jax.tree.map(assert_array_equal, found.variables, rounded)


@sampled("dtype", ["bfloat16", "float16"], keep=1)
def test_weights_are_kept_as_asked(dtype, expected, tmp_path):
    found = load(in_one_file(tmp_path), dtype=dtype)
    jax.tree.map(lambda x, y: assert_array_equal(x, y.astype(dtype)), found.variables, expected.variables)
    assert found.card.dtype == dtype


def test_a_card_says_what_was_read(expected):
    assert expected.card.family == "Llama"
    assert list(expected.card.files) == ["config.json", "model.safetensors"]
    assert "3 layers of 4 heads, width 32, vocabulary 40" in str(expected.card)
    assert "not run" not in str(expected.card)


def test_a_card_names_code_that_a_config_asks_for_and_that_is_not_run(expected, tmp_path):
    named = CONFIG | {"auto_map": {"AutoModelForCausalLM": "modeling_own.OwnModel"}}
    folder = write_folder(tmp_path, named, TENSORS)
    (folder / "modeling_own.py").write_text("raise SystemExit('it ran')")
    found = load(folder)
    assert str(found.card).endswith("\n  not run: modeling_own.OwnModel")
    assert found.model == expected.model


def yarn(writer):
    writer.add_context_length(64)
    writer.add_string("llama.rope.scaling.type", "yarn")
    writer.add_float32("llama.rope.scaling.factor", 4.0)
    writer.add_uint32("llama.rope.scaling.original_context_length", 16)


SCALED = {
    "linear": (lambda writer: writer.add_float32("llama.rope.scaling.factor", 4.0), 4.0),
    "linear, older": (lambda writer: writer.add_float32("llama.rope.scale_linear", 2.0), 2.0),
    "none": (lambda writer: writer.add_string("llama.rope.scaling.type", "none"), 1.0),
    "yarn": (yarn, YarnScaling(4.0, 16)),
    "a table": (
        lambda writer: writer.add_tensor("rope_freqs.weight", np.array([1, 1, 3.5, 8], np.float32)),
        FrequencyFactors((1.0, 1.0, 3.5, 8.0)),
    ),
}


@pytest.mark.parametrize("kind", SCALED)
def test_a_gguf_file_says_how_rotary_positions_are_scaled(kind, tmp_path):
    add, expected = SCALED[kind]
    assert load(by_llama_cpp(tmp_path / "model", add=add)).model.architecture.rotary_scaling == expected


def test_a_table_of_rotations_is_that_of_the_base_in_the_config(tmp_path):
    assert load(with_old_tables(tmp_path, base=50.0)).model.architecture.rotary == 50.0
