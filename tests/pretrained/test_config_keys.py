"""Every key of a config that changes what a published model computes is used, or refused by its name."""

import numpy as np
import pytest

from jattn.pretrained.families import Config
from jattn.pretrained.loading import FAMILIES
from jattn.pretrained.tensors import Tensor
from tests.pretrained.published import MODELS

ALL = {
    "quantization_config": {"quant_method": "gptq"},
    "pruned_heads": {"0": [1]},
    "is_encoder_decoder": True,
    "add_cross_attention": True,
    "vocab_size": 41,
}

ENCODERS = {
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 40,
    "hidden_act": "relu",
    "layer_norm_eps": 1e-3,
    "is_decoder": True,
}

BERTS = ALL | ENCODERS | {
    "max_position_embeddings": 8,
    "type_vocab_size": 3,
    "position_embedding_type": "relative_key",
    "tie_word_embeddings": False,
}  # fmt: skip

LLAMAS = ALL | {
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 4,
    "head_dim": 16,
    "intermediate_size": 40,
    "hidden_act": "relu",
    "rms_norm_eps": 1e-3,
    "mlp_bias": True,
    "tie_word_embeddings": False,
    "rope_theta": 77.0,
    "rope_scaling": {"rope_type": "linear", "factor": 3.0},
    "rope_parameters": {"rope_type": "yarn", "factor": 3.0, "original_max_position_embeddings": 8},
    "partial_rotary_factor": 0.5,
    "rope_interleaved": True,
    "attention_chunk_size": 8,
    "no_rope_layers": [1, 1, 0],
    "clip_qkv": 8.0,
    "attn_logit_softcapping": 50.0,
    "final_logit_softcapping": 30.0,
    "query_pre_attn_scalar": 256,
    "attention_multiplier": 0.1,
    "embedding_multiplier": 12.0,
    "residual_multiplier": 0.2,
    "logits_scaling": 8.0,
    "logit_scale": 0.1,
}

VISION = {name: value for name, value in (ALL | ENCODERS).items() if name != "vocab_size"} | {
    "image_size": 16,
    "patch_size": 2,
    "num_channels": 1,
    "qkv_bias": False,
    "pooler_act": "relu",
}

WINDOWS = {"sliding_window": 2, "max_window_layers": 2, "use_sliding_window": False}

CHANGES = {
    "bert": BERTS,
    "albert": BERTS | {"embedding_size": 16, "num_hidden_groups": 2, "inner_group_num": 2},
    "gpt2": ALL | {
        "n_embd": 64,
        "n_layer": 2,
        "n_head": 2,
        "n_positions": 8,
        "n_inner": 40,
        "hidden_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "max_position_embeddings": 8,
        "activation_function": "relu",
        "layer_norm_epsilon": 1e-3,
        "scale_attn_weights": False,
        "scale_attn_by_inverse_layer_idx": True,
        "tie_word_embeddings": False,
    },
    "llama": LLAMAS | {"attention_bias": True},
    "mistral": LLAMAS | {"attention_bias": True, "sliding_window": 2},
    "qwen2": LLAMAS | WINDOWS | {"layer_types": ["sliding_attention"] * 3},
    "qwen3": LLAMAS | {"attention_bias": True},
    "vit": VISION,
    "dinov2": VISION | {"use_swiglu_ffn": True},
    "dinov2 with registers": VISION | {"use_swiglu_ffn": True, "num_register_tokens": 3},
}  # fmt: skip

HARMLESS = {
    "_name_or_path": "some/model",
    "architectures": ["Some"],
    "attention_dropout": 0.1,
    "attention_probs_dropout_prob": 0.2,
    "bos_token_id": 7,
    "chunk_size_feed_forward": 8,
    "classifier_dropout": 0.1,
    "dtype": "bfloat16",
    "gradient_checkpointing": True,
    "hidden_dropout_prob": 0.2,
    "id2label": {"0": "a"},
    "initializer_range": 0.5,
    "layerscale_value": 0.1,
    "drop_path_rate": 0.2,
    "pad_token_id": 3,
    "pretraining_tp": 2,
    "reorder_and_upcast_attn": True,
    "torch_dtype": "float16",
    "transformers_version": "4.0",
    "use_cache": False,
}
"""What is said of training, of memory or of words, and changes no result."""


ROTARY = {
    "by layer": (
        {"rope_parameters": {"full_attention": {"rope_type": "default", "rope_theta": 1e6}}},
        r"^config.json: expected rotary positions by attention_factor, .*, got 'full_attention'$",
    ),
    "several sections": (
        {"rope_scaling": {"rope_type": "default", "mrope_section": [2, 1, 1]}},
        r"^config.json: expected rotary positions by attention_factor, .*, got 'mrope_section'$",
    ),
    "two that differ": (
        {
            "rope_scaling": {"rope_type": "linear", "factor": 2.0},
            "rope_parameters": {"rope_type": "linear", "factor": 4.0},
        },
        r"expected factor to be the same in rope_scaling and rope_parameters \(2.0\), got 4.0$",
    ),
}


@pytest.mark.parametrize("case", ROTARY)
def test_what_is_not_known_of_rotary_positions_is_refused_by_name(case):
    change, message = ROTARY[case]
    config, tensors = MODELS["llama"]()
    with pytest.raises(ValueError, match=message):
        read(config | change, tensors)


def read(config, tensors):
    """Returns the module of a config, without its weights."""
    family, held = FAMILIES[config["model_type"]], {}
    for name, array in tensors.items():
        for prefix in family.prefixes:
            name = name.removeprefix(prefix)
        held[name] = Tensor(array.shape, "float32", "model.safetensors", lambda array=array: array)
    its = family.architecture(Config(config), held)
    return family.make(its, Config(config), held, np.dtype(np.float32))


def is_ignored(config, tensors, key, value):
    """Whether a change of a key gives the same model, or is refused without a word of that key."""
    try:
        return read(config | {key: value}, tensors) == read(config, tensors)
    except ValueError as error:
        return key not in str(error) or "\n" in str(error)


@pytest.mark.parametrize("name", CHANGES)
def test_a_key_that_changes_the_computation_is_used_or_refused(name):
    config, tensors = MODELS[name]()
    assert [key for key, value in CHANGES[name].items() if is_ignored(config, tensors, key, value)] == []
    assert read(config | HARMLESS, tensors) == read(config, tensors)
