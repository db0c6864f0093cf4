"""Vision transformers: ViT (Dosovitskiy et al. 2021) and DINOv2 (Oquab et al. 2023)."""

from collections.abc import Mapping
from typing import Any

from jattn.linen.architecture import Architecture
from jattn.linen.vision import VisionModel
from jattn.pretrained.families import Config, Family, Weight, class_count, linear, norm
from jattn.pretrained.tensors import Tensor


def _architecture(config: Config, tensors: Mapping[str, Tensor]) -> Architecture:
    config.expect("qkv_bias", True)
    config.expect("use_swiglu_ffn", False)
    classes = class_count(tensors, "classifier.weight")
    width = config.size("hidden_size")
    return Architecture(
        vocabulary=max(1, classes),
        num_layers=config.size("num_hidden_layers"),
        num_heads=config.size("num_attention_heads"),
        width=width,
        hidden=config.size("intermediate_size", width * config.size("mlp_ratio", 4)),
        causal=False,
        epsilon=config.number("layer_norm_eps", 1e-12 if config.get("model_type") == "vit" else 1e-6),
        activation=config.activation("hidden_act", "gelu"),
        head="linear" if classes else "none",
        layer_scale=config.get("model_type") == "dinov2",
    )


def _model(its: Architecture, config: Config, tensors: Mapping[str, Tensor], dtype: Any) -> VisionModel:
    return VisionModel(
        its,
        image_size=config.size("image_size"),
        patch_size=config.size("patch_size"),
        channels=config.size("num_channels", 3),
        reads="both" if its.layer_scale else "first",
        mask_token="embeddings.mask_token" in tensors,
        dtype=dtype,
        param_dtype=dtype,
    )


def _weights(its: Architecture, tensors: Mapping[str, Tensor], names: Mapping[str, str]) -> dict[str, Weight]:
    at, patches = "encoder.layer.{}.", "embeddings.patch_embeddings.projection"
    weights = {
        "first": Weight("embeddings.cls_token"),
        "positions": Weight("embeddings.position_embeddings"),
        "patches/kernel": Weight(f"{patches}.weight", "image", in_axes=3),
        "patches/bias": Weight(f"{patches}.bias"),
        **norm("last_norm", "layernorm"),
    }
    if "embeddings.mask_token" in tensors:
        weights["mask"] = Weight("embeddings.mask_token")
    for part in ("query", "key", "value"):
        weights |= linear(f"layer/attention/{part}", f"{at}attention.attention.{part}", True)
    weights |= linear("layer/attention/out", f"{at}attention.output.dense", True, in_axes=2)
    weights |= norm("layer/attention_norm", at + names["first"]) | norm("layer/feed_forward_norm", at + names["second"])
    weights |= linear("layer/feed_forward/hidden", at + names["hidden"], True)
    weights |= linear("layer/feed_forward/out", at + names["out"], True)
    if its.layer_scale:
        weights["layer/attention_scale"] = Weight(f"{at}layer_scale1.lambda1")
        weights["layer/feed_forward_scale"] = Weight(f"{at}layer_scale2.lambda1")
    return weights | (linear("classes", "classifier", True) if its.head == "linear" else {})


VIT_NAMES = {
    "first": "layernorm_before",
    "second": "layernorm_after",
    "hidden": "intermediate.dense",
    "out": "output.dense",
}

DINOV2_NAMES = {"first": "norm1", "second": "norm2", "hidden": "mlp.fc1", "out": "mlp.fc2"}

VIT = Family("ViT", ("vit.",), _architecture, lambda its, tensors: _weights(its, tensors, VIT_NAMES), make=_model)

DINOV2 = Family(
    "DINOv2", ("dinov2.",), _architecture, lambda its, tensors: _weights(its, tensors, DINOV2_NAMES), make=_model
)
