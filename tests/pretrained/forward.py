"""The published families in plain NumPy float64: from tensors under their published names to logits."""

import math

import numpy as np


def erf(x):
    return np.vectorize(math.erf)(x)


ACTIVATIONS = {
    "gelu": lambda x: x * (1 + erf(x / math.sqrt(2))) / 2,
    "gelu_new": lambda x: x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))) / 2,
    "silu": lambda x: x / (1 + np.exp(-x)),
}


def layer_norm(x, weight, bias, epsilon):
    rest = x - x.mean(-1, keepdims=True)
    return rest / np.sqrt((rest**2).mean(-1, keepdims=True) + epsilon) * weight + bias


def rms_norm(x, weight, epsilon):
    return x / np.sqrt((x**2).mean(-1, keepdims=True) + epsilon) * weight


def attend(query, key, value, heads, kv_heads, allowed):
    """Attends with heads side by side in the columns of a matrix; returns the joined heads and all weights."""
    dim, out, filters = query.shape[-1] // heads, [], []
    for head in range(heads):
        shared = head * kv_heads // heads
        q = query[:, head * dim : (head + 1) * dim]
        k, v = (x[:, shared * dim : (shared + 1) * dim] for x in (key, value))
        scores = np.where(allowed, q @ k.T / math.sqrt(dim), -np.inf)
        weights = np.exp(scores - scores.max(-1, keepdims=True))
        weights /= weights.sum(-1, keepdims=True)
        filters.append(weights)
        out.append(weights @ v)
    return np.concatenate(out, -1), np.array(filters)


class Numbers:
    """Tensors by name, as float64, with a prefix before each name."""

    def __init__(self, tensors, prefix=""):
        self.tensors, self.prefix = tensors, prefix

    def __getitem__(self, name):
        return np.asarray(self.tensors[self.prefix + name], np.float64)

    def linear(self, name, x):
        bias = self[f"{name}.bias"] if f"{self.prefix}{name}.bias" in self.tensors else 0
        return x @ self[f"{name}.weight"].T + bias

    def norm(self, name, x, epsilon):
        return layer_norm(x, self[f"{name}.weight"], self[f"{name}.bias"], epsilon)


def bert(config, tensors, tokens):
    return _encoder(config, Numbers(tensors, "bert."), tensors, tokens, albert=False)


def albert(config, tensors, tokens):
    return _encoder(config, Numbers(tensors, "albert."), tensors, tokens, albert=True)


def _encoder(config, own, tensors, tokens, albert):
    epsilon, heads = config["layer_norm_eps"], config["num_attention_heads"]
    activation, filters = ACTIVATIONS[config["hidden_act"]], []
    table = own["embeddings.word_embeddings.weight"]
    x = table[tokens] + own["embeddings.position_embeddings.weight"][: len(tokens)]
    x = own.norm("embeddings.LayerNorm", x + own["embeddings.token_type_embeddings.weight"][0], epsilon)
    x = own.linear("encoder.embedding_hidden_mapping_in", x) if albert else x
    for layer in range(config["num_hidden_layers"]):
        if albert:
            at = "encoder.albert_layer_groups.0.albert_layers.0."
            names = ["attention.", "attention.dense", "attention.LayerNorm", "ffn", "ffn_output"]
            names += ["full_layer_layer_norm"]
        else:
            at = f"encoder.layer.{layer}."
            names = ["attention.self.", "attention.output.dense", "attention.output.LayerNorm", "intermediate.dense"]
            names += ["output.dense", "output.LayerNorm"]
        projections, out, first_norm, hidden, second, last_norm = (at + name for name in names)
        parts = (own.linear(projections + part, x) for part in ("query", "key", "value"))
        attended, weights = attend(*parts, heads, heads, np.ones((len(x), len(x)), bool))
        filters.append(weights)
        x = own.norm(first_norm, x + own.linear(out, attended), epsilon)
        x = own.norm(last_norm, x + own.linear(second, activation(own.linear(hidden, x))), epsilon)
    if albert:
        head, dense, norm, bias = Numbers(tensors), "predictions.dense", "predictions.LayerNorm", "predictions.bias"
    else:
        head, at = Numbers(tensors), "cls.predictions.transform."
        dense, norm, bias = at + "dense", at + "LayerNorm", "cls.predictions.bias"
    if bias not in tensors:
        return x, filters
    guess = head.norm(norm, activation(head.linear(dense, x)), epsilon)
    return guess @ table.T + head[bias], filters


def gpt2(config, tensors, tokens):
    own, heads, epsilon = Numbers(tensors, "transformer."), config["n_head"], config["layer_norm_epsilon"]
    x, filters = own["wte.weight"][tokens] + own["wpe.weight"][: len(tokens)], []

    def conv(name, x):
        return x @ own[f"{name}.weight"] + own[f"{name}.bias"]

    for layer in range(config["n_layer"]):
        at = f"h.{layer}."
        parts = np.split(conv(at + "attn.c_attn", own.norm(at + "ln_1", x, epsilon)), 3, -1)
        attended, weights = attend(*parts, heads, heads, np.tri(len(x), dtype=bool))
        filters.append(weights)
        x = x + conv(at + "attn.c_proj", attended)
        hidden = ACTIVATIONS["gelu_new"](conv(at + "mlp.c_fc", own.norm(at + "ln_2", x, epsilon)))
        x = x + conv(at + "mlp.c_proj", hidden)
    return own.norm("ln_f", x, epsilon) @ own["wte.weight"].T, filters


def frequencies(config, dim, length):
    """Radians per position of each pair, and what rotated vectors are multiplied by, as the config's scaling has it."""
    scaling, base = config.get("rope_scaling") or {"rope_type": "default"}, config["rope_theta"]
    kind, factor = scaling["rope_type"], scaling.get("factor", 1.0)
    trained = scaling.get("original_max_position_embeddings", config.get("max_position_embeddings"))
    if kind == "dynamic":
        longest = max(length, trained)
        base = base * (factor * longest / trained - (factor - 1)) ** (dim / (dim - 2))
    found = [base ** (-2 * pair / dim) for pair in range(dim // 2)]
    if kind == "linear":
        found = [theta / factor for theta in found]
    if kind == "llama3":
        found = [_llama3(theta, scaling) for theta in found]
    if kind == "yarn":
        found = [_yarn(pair, theta, dim, base, trained, scaling) for pair, theta in enumerate(found)]
    strength = scaling.get("attention_factor", 0.1 * math.log(factor) + 1) if kind == "yarn" else 1.0
    return np.array(found), strength


def _llama3(theta, scaling):
    length, factor = scaling["original_max_position_embeddings"], scaling["factor"]
    low, high = scaling["low_freq_factor"], scaling["high_freq_factor"]
    wavelength = 2 * math.pi / theta
    if wavelength > length / low:
        return theta / factor
    if wavelength > length / high:
        smooth = (length / wavelength - low) / (high - low)
        return (1 - smooth) * theta / factor + smooth * theta
    return theta


def _yarn(pair, theta, dim, base, trained, scaling):
    """Keeps a pair that turns `beta_fast` times in the trained length, divides one that turns `beta_slow` times."""
    turning = [
        dim * math.log(trained / (2 * math.pi * turns)) / (2 * math.log(base))
        for turns in (scaling.get("beta_fast", 32), scaling.get("beta_slow", 1))
    ]
    if scaling.get("truncate", True):
        turning = [math.floor(turning[0]), math.ceil(turning[1])]
    first, last = max(turning[0], 0), min(turning[1], dim - 1)
    if pair <= first:
        return theta
    if pair >= last:
        return theta / scaling["factor"]
    divided = (pair - first) / (last - first)
    return theta * (1 - divided) + theta / scaling["factor"] * divided


def rotate(x, heads, theta, strength=1.0):
    """Turns dim ``i`` of each head with dim ``i + D/2``, and stretches both."""
    length, dim = len(x), x.shape[-1] // heads
    angles = np.arange(length)[:, None, None] * theta
    first, second = np.split(x.reshape(length, heads, dim), 2, -1)
    turned = [first * np.cos(angles) - second * np.sin(angles), second * np.cos(angles) + first * np.sin(angles)]
    return strength * np.concatenate(turned, -1).reshape(length, heads * dim)


def llama(config, tensors, tokens):
    own, heads, kv_heads = Numbers(tensors, "model."), config["num_attention_heads"], config["num_key_value_heads"]
    epsilon, dim, filters = config["rms_norm_eps"], config["head_dim"], []
    x, turning, length = own["embed_tokens.weight"][tokens], frequencies(config, dim, len(tokens)), len(tokens)
    distance = np.arange(length)[:, None] - np.arange(length)
    for layer in range(config["num_hidden_layers"]):
        at, allowed = f"layers.{layer}.", distance >= 0
        if layer >= config.get("max_window_layers", 0) and config.get("sliding_window"):
            allowed = allowed & (distance < config["sliding_window"])
        y = rms_norm(x, own[at + "input_layernorm.weight"], epsilon)
        query, key, value = (own.linear(f"{at}self_attn.{part}_proj", y) for part in "qkv")
        if f"model.{at}self_attn.q_norm.weight" in tensors:
            query, key = (
                rms_norm(part.reshape(length, -1, dim), own[f"{at}self_attn.{name}_norm.weight"], epsilon).reshape(
                    length, -1
                )
                for part, name in ((query, "q"), (key, "k"))
            )
        parts = rotate(query, heads, *turning), rotate(key, kv_heads, *turning), value
        attended, weights = attend(*parts, heads, kv_heads, allowed)
        filters.append(weights)
        x = x + own.linear(at + "self_attn.o_proj", attended)
        y = rms_norm(x, own[at + "post_attention_layernorm.weight"], epsilon)
        gate = ACTIVATIONS["silu"](own.linear(at + "mlp.gate_proj", y))
        x = x + own.linear(at + "mlp.down_proj", gate * own.linear(at + "mlp.up_proj", y))
    x = rms_norm(x, own["norm.weight"], epsilon)
    table = tensors.get("lm_head.weight", tensors["model.embed_tokens.weight"])
    return x @ np.asarray(table, np.float64).T, filters


def vit(config, tensors, image):
    names = ["layernorm_before", "layernorm_after", "intermediate.dense", "output.dense"]
    x, filters = _image(config, Numbers(tensors, "vit."), image, names)
    return (Numbers(tensors).linear("classifier", x[0]) if "classifier.weight" in tensors else x), filters


def dinov2(config, tensors, image):
    own = Numbers(tensors, config["model_type"] + ".")
    x, filters = _image(config, own, image, ["norm1", "norm2", "mlp.fc1", "mlp.fc2"])
    patches = x[1 + config.get("num_register_tokens", 0) :]
    return Numbers(tensors).linear("classifier", np.concatenate([x[0], patches.mean(0)])), filters


def _image(config, own, image, names):
    size, heads, epsilon = config["patch_size"], config["num_attention_heads"], config["layer_norm_eps"]
    side, filters = config["image_size"] // size, []
    kernel = own["embeddings.patch_embeddings.projection.weight"]
    rows = [own["embeddings.cls_token"][0, 0]]
    for y in range(side):
        for x in range(side):
            patch = image[y * size : (y + 1) * size, x * size : (x + 1) * size]
            rows.append(np.einsum("oczx,zxc->o", kernel, patch) + own["embeddings.patch_embeddings.projection.bias"])
    x = np.array(rows) + own["embeddings.position_embeddings"][0]
    if f"{own.prefix}embeddings.register_tokens" in own.tensors:
        x = np.concatenate([x[:1], own["embeddings.register_tokens"][0], x[1:]])
    for layer in range(config["num_hidden_layers"]):
        at = f"encoder.layer.{layer}."
        first_norm, second_norm, hidden, out = (at + name for name in names)
        y = own.norm(first_norm, x, epsilon)
        parts = (own.linear(f"{at}attention.attention.{part}", y) for part in ("query", "key", "value"))
        attended, weights = attend(*parts, heads, heads, np.ones((len(x), len(x)), bool))
        filters.append(weights)
        scales = [1, 1]
        if f"{own.prefix}{at}layer_scale1.lambda1" in own.tensors:
            scales = [own[f"{at}layer_scale{step}.lambda1"] for step in (1, 2)]
        x = x + scales[0] * own.linear(at + "attention.output.dense", attended)
        y = own.norm(second_norm, x, epsilon)
        if config.get("use_swiglu_ffn"):
            gate, rest = np.split(own.linear(at + "mlp.weights_in", y), 2, -1)
            x = x + scales[1] * own.linear(at + "mlp.weights_out", ACTIVATIONS["silu"](gate) * rest)
        else:
            x = x + scales[1] * own.linear(out, ACTIVATIONS[config["hidden_act"]](own.linear(hidden, y)))
    return own.norm("layernorm", x, epsilon), filters
