"""Llama (Touvron et al. 2023) and those built like it: SmolLM2, Mistral, Qwen2 and Qwen3."""

from collections.abc import Mapping

from jattn.linen.architecture import Architecture
from jattn.pretrained.families import UNBUILT, Config, Copy, Family, Weight, frequencies, linear, norm
from jattn.pretrained.rotary import ROTARY_TABLE, rotary_table, rotary_values, scaling_of
from jattn.pretrained.tensors import Tensor

WINDOW, FULL_LAYERS = 4096, 28
"""What Mistral and Qwen mean where a config has no ``sliding_window`` or ``max_window_layers``."""

LLAMA_UNBUILT = {
    "partial_rotary_factor": (1.0,),
    "rope_interleaved": (False,),
    "attention_chunk_size": (None,),
    "no_rope_layers": (None, []),
    "clip_qkv": (None,),
    "attn_logit_softcapping": (None,),
    "final_logit_softcapping": (None,),
    "query_pre_attn_scalar": (None,),
    "attention_multiplier": (None,),
    "embedding_multiplier": (1.0,),
    "residual_multiplier": (1.0,),
    "logits_scaling": (1.0,),
    "logit_scale": (None, 1.0),
}
"""What models built like Llama have besides, each with the values at which it changes nothing."""


def _architecture(config: Config, tensors: Mapping[str, Tensor]) -> Architecture:
    config.expect_all(UNBUILT | LLAMA_UNBUILT)
    kind = config.get("model_type")
    bias = kind == "qwen2" or config.flag("attention_bias", False)
    heads = config.size("num_attention_heads")
    rotary = rotary_values(config)
    rotary.expect("partial_rotary_factor", 1.0)
    return Architecture(
        vocabulary=config.size("vocab_size"),
        num_layers=config.size("num_hidden_layers"),
        num_heads=heads,
        num_kv_heads=config.size("num_key_value_heads", heads),
        head_dim=config.size("head_dim", max(1, config.size("hidden_size") // heads)),
        width=config.size("hidden_size"),
        hidden=config.size("intermediate_size"),
        norm="rms",
        epsilon=config.number("rms_norm_eps", 1e-6),
        activation=config.activation("hidden_act", "silu"),
        gated=True,
        qkv_bias=bias,
        out_bias=bias and kind != "qwen2",
        feed_forward_bias=config.flag("mlp_bias", False),
        qk_norm=kind == "qwen3",
        rotary=rotary.number("rope_theta", config.number("rope_theta", 10_000.0)),
        rotary_scaling=scaling_of(rotary, config, tensors),
        windows=_windows(config),
        head="tied" if config.flag("tie_word_embeddings", False) else "linear",
    )


def _windows(config: Config) -> tuple[int | None, ...] | None:
    """Returns the window of each layer: in Mistral all have it, in Qwen the later ones, if any."""
    layers, kind = config.size("num_hidden_layers"), config.get("model_type")
    kinds = _layer_types(config)
    # Null means no window, and a missing key the published default.
    if config.values.get("sliding_window", WINDOW) is None or not config.flag("use_sliding_window", kind == "mistral"):
        return None
    window = config.size("sliding_window", WINDOW)
    if kinds is None:
        first = 0
        # Zero is allowed there: all layers have the window.
        if kind in ("qwen2", "qwen3") and config.get("max_window_layers") != 0:
            first = config.size("max_window_layers", FULL_LAYERS)
        kinds = ["sliding_attention" if layer >= first else "full_attention" for layer in range(layers)]
    windows = tuple(window if kind == "sliding_attention" else None for kind in kinds)
    return windows if any(windows) else None


def _layer_types(config: Config) -> list[str] | None:
    known, kinds = ("full_attention", "sliding_attention"), config.get("layer_types")
    if kinds is not None and not (isinstance(kinds, list) and all(kind in known for kind in kinds)):
        raise config.error("layer_types", f"a list of {' and '.join(known)}", kinds)
    return kinds


def _weights(its: Architecture, tensors: Mapping[str, Tensor]) -> dict[str, Weight]:
    layer = "layers.{}."
    weights = {"tokens": Weight("embed_tokens.weight"), **norm("last_norm", "norm", bias=False)}
    for part, name in {"query": "q_proj", "key": "k_proj", "value": "v_proj"}.items():
        weights |= linear(f"layer/attention/{part}", f"{layer}self_attn.{name}", its.qkv_bias)
    weights |= linear("layer/attention/out", f"{layer}self_attn.o_proj", its.out_bias, in_axes=2)
    if its.qk_norm:
        weights |= norm("layer/attention/query_ln", f"{layer}self_attn.q_norm", bias=False)
        weights |= norm("layer/attention/key_ln", f"{layer}self_attn.k_norm", bias=False)
    weights |= norm("layer/attention_norm", f"{layer}input_layernorm", bias=False)
    weights |= norm("layer/feed_forward_norm", f"{layer}post_attention_layernorm", bias=False)
    for part, name in {"gate": "gate_proj", "hidden": "up_proj", "out": "down_proj"}.items():
        weights |= linear(f"layer/feed_forward/{part}", f"{layer}mlp.{name}", its.feed_forward_bias)
    return weights | ({"logits": Weight("lm_head.weight")} if its.head == "linear" else {})


LLAMA = Family(
    "Llama",
    ("model.",),
    _architecture,
    _weights,
    (
        Copy("lm_head.weight", "embed_tokens.weight"),
        Copy("layers.{}.self_attn.rotary_emb.inv_freq", frequencies),
        Copy(ROTARY_TABLE, rotary_table),
    ),
)
