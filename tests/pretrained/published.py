"""Small models with random weights, in files as they are published."""

import json

import numpy as np

VOCABULARY, WIDTH, HEADS, LAYERS = 40, 32, 4, 3


def drawn(shapes, seed=0):
    """Draws tensors of these shapes: norms around one, others small enough that no layer saturates."""
    rng = np.random.default_rng(seed)
    made = {}
    for name, shape in shapes.items():
        numbers = rng.normal(size=shape).astype(np.float32)
        is_scale = len(shape) == 1 and name.endswith("weight")
        made[name] = 1 + numbers / 4 if is_scale else numbers * (2 / WIDTH**0.5)
    return made


def with_bias(name, outputs, inputs):
    return {f"{name}.weight": (outputs, inputs), f"{name}.bias": (outputs,)}


def with_norm(name, width=WIDTH):
    return {f"{name}.weight": (width,), f"{name}.bias": (width,)}


def embeddings(prefix, width):
    return {
        f"{prefix}embeddings.word_embeddings.weight": (VOCABULARY, width),
        f"{prefix}embeddings.position_embeddings.weight": (16, width),
        f"{prefix}embeddings.token_type_embeddings.weight": (2, width),
        **with_norm(f"{prefix}embeddings.LayerNorm", width),
    }


def encoder_config(kind, **more):
    return {
        "model_type": kind,
        "vocab_size": VOCABULARY,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": HEADS,
        "hidden_size": WIDTH,
        "intermediate_size": 48,
        "hidden_act": "gelu",
        "layer_norm_eps": 1e-12,
        "max_position_embeddings": 16,
        "type_vocab_size": 2,
        **more,
    }


def bert():
    shapes = embeddings("bert.", WIDTH) | with_bias("bert.pooler.dense", WIDTH, WIDTH)
    shapes |= with_bias("cls.seq_relationship", 2, WIDTH) | with_bias("cls.predictions.transform.dense", WIDTH, WIDTH)
    shapes |= with_norm("cls.predictions.transform.LayerNorm") | {"cls.predictions.bias": (VOCABULARY,)}
    for layer in range(LAYERS):
        at = f"bert.encoder.layer.{layer}."
        for part in ("self.query", "self.key", "self.value", "output.dense"):
            shapes |= with_bias(f"{at}attention.{part}", WIDTH, WIDTH)
        shapes |= with_norm(f"{at}attention.output.LayerNorm") | with_norm(f"{at}output.LayerNorm")
        shapes |= with_bias(f"{at}intermediate.dense", 48, WIDTH) | with_bias(f"{at}output.dense", WIDTH, 48)
    tensors = drawn(shapes)
    tensors["cls.predictions.decoder.weight"] = tensors["bert.embeddings.word_embeddings.weight"].copy()
    tensors["bert.embeddings.position_ids"] = np.arange(16)[None]
    return encoder_config("bert"), tensors


def albert():
    shapes = embeddings("albert.", 12) | with_bias("albert.encoder.embedding_hidden_mapping_in", WIDTH, 12)
    shapes |= with_bias("albert.pooler", WIDTH, WIDTH) | with_bias("predictions.dense", 12, WIDTH)
    shapes |= with_norm("predictions.LayerNorm", 12) | {"predictions.bias": (VOCABULARY,)}
    at = "albert.encoder.albert_layer_groups.0.albert_layers.0."
    for part in ("query", "key", "value", "dense"):
        shapes |= with_bias(f"{at}attention.{part}", WIDTH, WIDTH)
    shapes |= with_norm(f"{at}attention.LayerNorm") | with_norm(f"{at}full_layer_layer_norm")
    shapes |= with_bias(f"{at}ffn", 48, WIDTH) | with_bias(f"{at}ffn_output", WIDTH, 48)
    return encoder_config("albert", embedding_size=12), drawn(shapes)


def gpt2():
    shapes = {"transformer.wte.weight": (VOCABULARY, WIDTH), "transformer.wpe.weight": (16, WIDTH)}
    shapes |= with_norm("transformer.ln_f")
    for layer in range(LAYERS):
        at = f"transformer.h.{layer}."
        for name, inputs, outputs in (
            ("attn.c_attn", WIDTH, 3 * WIDTH),
            ("attn.c_proj", WIDTH, WIDTH),
            ("mlp.c_fc", WIDTH, 4 * WIDTH),
            ("mlp.c_proj", 4 * WIDTH, WIDTH),
        ):
            shapes |= {f"{at}{name}.weight": (inputs, outputs), f"{at}{name}.bias": (outputs,)}
        shapes |= with_norm(f"{at}ln_1") | with_norm(f"{at}ln_2")
    tensors = drawn(shapes)
    for layer in range(LAYERS):
        tensors[f"transformer.h.{layer}.attn.bias"] = np.tri(16, dtype=np.float32)[None, None]
        tensors[f"transformer.h.{layer}.attn.masked_bias"] = np.array(-1e4, np.float32)
    config = {"model_type": "gpt2", "n_layer": LAYERS, "n_head": HEADS, "n_embd": WIDTH, "vocab_size": VOCABULARY}
    return config | {"n_positions": 16, "layer_norm_epsilon": 1e-5, "activation_function": "gelu_new"}, tensors


def llama(kind="llama", head_dim=8, kv_heads=2, tied=True, qkv_bias=False, qk_norm=False, **more):
    shapes = {"model.embed_tokens.weight": (VOCABULARY, WIDTH), "model.norm.weight": (WIDTH,)}
    for layer in range(LAYERS):
        at = f"model.layers.{layer}."
        for part, outputs in (("q", HEADS * head_dim), ("k", kv_heads * head_dim), ("v", kv_heads * head_dim)):
            both = with_bias(f"{at}self_attn.{part}_proj", outputs, WIDTH)
            shapes |= both if qkv_bias else dict([*both.items()][:1])
        shapes[f"{at}self_attn.o_proj.weight"] = (WIDTH, HEADS * head_dim)
        shapes |= {f"{at}self_attn.{part}_norm.weight": (head_dim,) for part in "qk" if qk_norm}
        shapes |= {f"{at}{name}.weight": (WIDTH,) for name in ("input_layernorm", "post_attention_layernorm")}
        shapes |= {f"{at}mlp.{name}_proj.weight": (64, WIDTH) for name in ("gate", "up")}
        shapes[f"{at}mlp.down_proj.weight"] = (WIDTH, 64)
    shapes |= {} if tied else {"lm_head.weight": (VOCABULARY, WIDTH)}
    config = {
        "model_type": kind,
        "vocab_size": VOCABULARY,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": HEADS,
        "num_key_value_heads": kv_heads,
        "hidden_size": WIDTH,
        "head_dim": head_dim,
        "intermediate_size": 64,
        "hidden_act": "silu",
        "rms_norm_eps": 1e-5,
        "rope_theta": 10_000.0,
        "tie_word_embeddings": tied,
        **more,
    }
    return config, drawn(shapes)


def image_model(kind, names, classes, more, gated=False):
    at, width = f"{kind}.embeddings.", WIDTH
    shapes = {f"{at}cls_token": (1, 1, width), f"{at}position_embeddings": (1, 10, width)}
    shapes |= {f"{at}patch_embeddings.projection.weight": (width, 3, 4, 4)}
    shapes |= {f"{at}patch_embeddings.projection.bias": (width,)}
    shapes |= with_norm(f"{kind}.layernorm") | with_bias("classifier", 5, classes)
    for layer in range(LAYERS):
        at = f"{kind}.encoder.layer.{layer}."
        for part in ("attention.query", "attention.key", "attention.value", "output.dense"):
            shapes |= with_bias(f"{at}attention.{part}", width, width)
        first, second, hidden, out = (at + name for name in names)
        shapes |= with_norm(first) | with_norm(second)
        if gated:
            shapes |= with_bias(f"{at}mlp.weights_in", 2 * 32, width) | with_bias(f"{at}mlp.weights_out", width, 32)
        else:
            shapes |= with_bias(hidden, 48, width) | with_bias(out, width, 48)
        shapes |= {at + name: (width,) for name in more}
    config = encoder_config(kind, image_size=12, patch_size=4, num_channels=3, layer_norm_eps=1e-6)
    return config | ({"use_swiglu_ffn": True} if gated else {}), drawn(shapes)


def vit():
    names = ["layernorm_before", "layernorm_after", "intermediate.dense", "output.dense"]
    return image_model("vit", names, WIDTH, ())


def dinov2(kind="dinov2", registers=0, gated=False):
    scales = ("layer_scale1.lambda1", "layer_scale2.lambda1")
    config, tensors = image_model(kind, ["norm1", "norm2", "mlp.fc1", "mlp.fc2"], 2 * WIDTH, scales, gated)
    tensors[f"{kind}.embeddings.mask_token"] = np.ones((1, WIDTH), np.float32)
    if registers:
        tensors |= drawn({f"{kind}.embeddings.register_tokens": (1, registers, WIDTH)}, seed=1)
        config["num_register_tokens"] = registers
    return config, tensors


LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 24,
}

LINEAR = {"rope_type": "linear", "factor": 2.0}
DYNAMIC = {"rope_type": "dynamic", "factor": 3.0}
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 8, "beta_fast": 1.0, "beta_slow": 0.1}


MODELS = {
    "bert": bert,
    "albert": albert,
    "gpt2": gpt2,
    "llama": llama,
    "llama 3": lambda: llama(tied=False, rope_scaling=LLAMA3, rope_theta=50.0),
    "llama linear": lambda: llama(rope_scaling=LINEAR),
    "llama dynamic": lambda: llama(rope_scaling=DYNAMIC, rope_theta=50.0, max_position_embeddings=4),
    "llama yarn": lambda: llama(rope_scaling=YARN, rope_theta=50.0, max_position_embeddings=32),
    "mistral": lambda: llama("mistral", sliding_window=3),
    "qwen2": lambda: llama("qwen2", qkv_bias=True, use_sliding_window=True, sliding_window=3, max_window_layers=1),
    "vit": vit,
    "dinov2": dinov2,
    "dinov2 with registers": lambda: dinov2("dinov2_with_registers", registers=2),
    "dinov2 giant": lambda: dinov2(gated=True),
    "qwen3": lambda: llama("qwen3", head_dim=12, kv_heads=1, qk_norm=True),
}
"""Each of the families: its config and its tensors."""


def write_folder(folder, config, tensors, name="model.safetensors"):
    """Writes a model as hubs lay it out."""
    from safetensors.numpy import save_file

    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    save_file(tensors, folder / name)
    return folder
