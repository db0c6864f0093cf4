"""GPT-2 (Radford et al. 2019): a decoder with learned positions and norms before each step."""

from collections.abc import Mapping

import numpy as np

from jattn.linen.architecture import Architecture
from jattn.pretrained.families import UNBUILT, Config, Copy, Family, Weight, causal_mask, norm
from jattn.pretrained.tensors import Tensor

GPT2_UNBUILT = {
    "scale_attn_weights": (True,),
    "scale_attn_by_inverse_layer_idx": (False,),
    "tie_word_embeddings": (True,),
}

OLDER_NAMES = {
    "hidden_size": "n_embd",
    "num_hidden_layers": "n_layer",
    "num_attention_heads": "n_head",
    "max_position_embeddings": "n_positions",
}
"""The sizes that a config may have under two names, of which the second is read here."""


def _architecture(config: Config, tensors: Mapping[str, Tensor]) -> Architecture:
    config.expect_all(UNBUILT | GPT2_UNBUILT)
    for name, older in OLDER_NAMES.items():
        if config.get(older) is not None:
            config.expect(name, config.get(older))
    width = config.size("n_embd")
    return Architecture(
        vocabulary=config.size("vocab_size"),
        num_layers=config.size("n_layer"),
        num_heads=config.size("n_head"),
        width=width,
        hidden=config.size("n_inner", 4 * width),
        epsilon=config.number("layer_norm_epsilon", 1e-5),
        activation=config.activation("activation_function", "gelu_new"),
        max_length=config.size("n_positions", 1024),
    )


def _linear(path: str, name: str, in_axes: int = 1, part: tuple[int, int] = (0, 1)) -> dict[str, Weight]:
    kernel = Weight(f"h.{{}}.{name}.weight", "in_out", in_axes, part)
    return {f"layer/{path}/kernel": kernel, f"layer/{path}/bias": Weight(f"h.{{}}.{name}.bias", part=part)}


def _weights(its: Architecture, tensors: Mapping[str, Tensor]) -> dict[str, Weight]:
    weights = {"tokens": Weight("wte.weight"), "positions": Weight("wpe.weight"), **norm("last_norm", "ln_f")}
    for index, part in enumerate(("query", "key", "value")):
        weights |= _linear(f"attention/{part}", "attn.c_attn", part=(index, 3))
    weights |= _linear("attention/out", "attn.c_proj", in_axes=2)
    weights |= norm("layer/attention_norm", "h.{}.ln_1") | norm("layer/feed_forward_norm", "h.{}.ln_2")
    return weights | _linear("feed_forward/hidden", "mlp.c_fc") | _linear("feed_forward/out", "mlp.c_proj")


GPT2 = Family(
    "GPT-2",
    ("transformer.",),
    _architecture,
    _weights,
    (
        Copy("h.{}.attn.bias", causal_mask),
        Copy("h.{}.attn.masked_bias", lambda shape, its: np.full(shape, -1e4)),
        Copy("lm_head.weight", "wte.weight"),
    ),
)
