"""Vision transformers: ViT (Dosovitskiy et al. 2021), DINOv2 (Oquab et al. 2023), and that with registers."""

from collections.abc import Mapping
from typing import Any

from jattn.linen.architecture import Architecture
from jattn.linen.vision import VisionModel
from jattn.pretrained.families import UNBUILT, Config, Family, Weight, class_count, linear, norm
from jattn.pretrained.tensors import Tensor


def _architecture(config: Config, tensors: Mapping[str, Tensor]) -> Architecture:
    config.expect_all(UNBUILT | {"pooler_act": ("tanh",), "is_decoder": (False,)})
    classes = class_count(tensors, "classifier.weight")
    width, kind = config.size("hidden_size"), config.get("model_type")
    hidden = config.size("intermediate_size", _default_hidden(width, config))
    gated = config.flag("use_swiglu_ffn", False)
    return Architecture(
        vocabulary=max(1, classes),
        num_layers=config.size("num_hidden_layers"),
        num_heads=config.size("num_attention_heads"),
        width=width,
        hidden=_gated_size(hidden) if gated else hidden,
        causal=False,
        epsilon=config.number("layer_norm_eps", 1e-12 if kind == "vit" else 1e-6),
        activation="silu" if gated else config.activation("hidden_act", "gelu"),
        gated=gated,
        qkv_bias=config.flag("qkv_bias", True),
        head="linear" if classes else "none",
        pooler="pooler.dense.weight" in tensors,
        layer_scale=kind != "vit",
    )


def _default_hidden(width: int, config: Config) -> int:
    hidden = width * config.number("mlp_ratio", 4)
    if not 1 <= hidden < 2**31:
        raise config.error("mlp_ratio", f"a number that makes 1 to 2³¹ of a width of {width}", config.get("mlp_ratio"))
    return int(hidden)


def _gated_size(hidden: int) -> int:
    """Returns how many hidden numbers are left of so many where a gate takes a third: a multiple of 8."""
    return (int(hidden * 2 / 3) + 7) // 8 * 8


def _model(its: Architecture, config: Config, tensors: Mapping[str, Tensor], dtype: Any) -> VisionModel:
    _check_sizes(config, tensors)
    return VisionModel(
        its,
        image_size=config.size("image_size"),
        patch_size=config.size("patch_size"),
        channels=config.size("num_channels", 3),
        reads="both" if its.layer_scale else "first",
        registers=config.size("num_register_tokens", 4) if REGISTERS in tensors else 0,
        mask_token="embeddings.mask_token" in tensors,
        dtype=dtype,
        param_dtype=dtype,
    )


def _check_sizes(config: Config, tensors: Mapping[str, Tensor]) -> None:
    """Refuses sizes that the tensors have not, before anything is made of these sizes."""
    side, patch = config.size("image_size"), config.size("patch_size")
    sizes = {
        POSITIONS: (1, (side // patch) ** 2 + 1, f"image_size {side} and patch_size {patch}"),
        f"{PATCHES}.weight": (3, patch, f"patch_size {patch}"),
    }
    if REGISTERS in tensors:
        registers = config.size("num_register_tokens", 4)
        sizes[REGISTERS] = 1, registers, f"num_register_tokens {registers}"
    for name, (axis, size, source) in sizes.items():
        if name in tensors and tensors[name].shape[axis : axis + 1] != (size,):
            got = f"{tensors[name].shape} in {tensors[name].file}"
            raise ValueError(f"{name}: expected {size} along axis {axis}, as {source} of {config.file} say, got {got}")


def _weights(its: Architecture, tensors: Mapping[str, Tensor], names: Mapping[str, str]) -> dict[str, Weight]:
    at = "encoder.layer.{}."
    weights = {
        "first": Weight("embeddings.cls_token"),
        "positions": Weight(POSITIONS),
        "patches/kernel": Weight(f"{PATCHES}.weight", "image", in_axes=3),
        "patches/bias": Weight(f"{PATCHES}.bias"),
        **norm("last_norm", "layernorm"),
    }
    if REGISTERS in tensors:
        weights["registers"] = Weight(REGISTERS)
    if its.pooler:
        weights |= linear("pooler", "pooler.dense", True)
    if "embeddings.mask_token" in tensors:
        weights["mask"] = Weight("embeddings.mask_token")
    for part in ("query", "key", "value"):
        weights |= linear(f"layer/attention/{part}", f"{at}attention.attention.{part}", its.qkv_bias)
    weights |= linear("layer/attention/out", f"{at}attention.output.dense", True, in_axes=2)
    weights |= norm("layer/attention_norm", at + names["first"]) | norm("layer/feed_forward_norm", at + names["second"])
    weights |= _gated(at) if its.gated else _plain(at, names)
    if its.layer_scale:
        weights["layer/attention_scale"] = Weight(f"{at}layer_scale1.lambda1")
        weights["layer/feed_forward_scale"] = Weight(f"{at}layer_scale2.lambda1")
    return weights | (linear("classes", "classifier", True) if its.head == "linear" else {})


def _plain(at: str, names: Mapping[str, str]) -> dict[str, Weight]:
    hidden = linear("layer/feed_forward/hidden", at + names["hidden"], True)
    return hidden | linear("layer/feed_forward/out", at + names["out"], True)


def _gated(at: str) -> dict[str, Weight]:
    """Names a gate and the hidden layer as the two halves of one matrix."""
    weights = linear("layer/feed_forward/out", f"{at}mlp.weights_out", True)
    for index, part in enumerate(("gate", "hidden")):
        weights[f"layer/feed_forward/{part}/kernel"] = Weight(f"{at}mlp.weights_in.weight", "out_in", part=(index, 2))
        weights[f"layer/feed_forward/{part}/bias"] = Weight(f"{at}mlp.weights_in.bias", part=(index, 2))
    return weights


REGISTERS, POSITIONS = "embeddings.register_tokens", "embeddings.position_embeddings"
PATCHES = "embeddings.patch_embeddings.projection"

VIT_NAMES = {
    "first": "layernorm_before",
    "second": "layernorm_after",
    "hidden": "intermediate.dense",
    "out": "output.dense",
}

DINOV2_NAMES = {"first": "norm1", "second": "norm2", "hidden": "mlp.fc1", "out": "mlp.fc2"}

VIT = Family("ViT", ("vit.",), _architecture, lambda its, tensors: _weights(its, tensors, VIT_NAMES), make=_model)

DINOV2 = Family(
    "DINOv2",
    ("dinov2.", "dinov2_with_registers."),
    _architecture,
    lambda its, tensors: _weights(its, tensors, DINOV2_NAMES),
    make=_model,
)
