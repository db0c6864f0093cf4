"""BERT (Devlin et al. 2019) and ALBERT (Lan et al. 2020): encoders with norms after each step."""

from collections.abc import Mapping

from jattn.linen.architecture import Architecture
from jattn.pretrained.families import UNBUILT, Config, Copy, Family, Weight, class_count, counting, linear, norm, zeros
from jattn.pretrained.tensors import Tensor


def _architecture(config: Config, tensors: Mapping[str, Tensor], head: str, pooler: str, pair: str) -> Architecture:
    config.expect_all(UNBUILT | {"position_embedding_type": ("absolute",), "is_decoder": (False,)})
    masked = any(name.startswith(head) for name in tensors)
    if masked:
        config.expect("tie_word_embeddings", True)
    classes = class_count(tensors, f"{pair}.weight")
    return Architecture(
        vocabulary=config.size("vocab_size"),
        num_layers=config.size("num_hidden_layers"),
        num_heads=config.size("num_attention_heads"),
        width=config.size("hidden_size"),
        hidden=config.size("intermediate_size"),
        causal=False,
        order="post",
        epsilon=config.number("layer_norm_eps", 1e-12),
        activation=config.activation("hidden_act", "gelu_new" if config.get("model_type") == "albert" else "gelu"),
        max_length=config.size("max_position_embeddings", 512),
        token_types=config.size("type_vocab_size", 2),
        embedding_norm=True,
        head="masked" if masked else "none",
        pooler=f"{pooler}.weight" in tensors or bool(classes),
        pair_classes=classes,
    )


def _embeddings() -> dict[str, Weight]:
    return {
        "tokens": Weight("embeddings.word_embeddings.weight"),
        "positions": Weight("embeddings.position_embeddings.weight"),
        "token_types": Weight("embeddings.token_type_embeddings.weight"),
        **norm("embedding_norm", "embeddings.LayerNorm"),
    }


def _bert(config: Config, tensors: Mapping[str, Tensor]) -> Architecture:
    return _architecture(config, tensors, "cls.predictions.", "pooler.dense", "cls.seq_relationship")


def _bert_weights(its: Architecture, tensors: Mapping[str, Tensor]) -> dict[str, Weight]:
    layer = "encoder.layer.{}."
    weights = _embeddings()
    for part in ("query", "key", "value"):
        weights |= linear(f"layer/attention/{part}", f"{layer}attention.self.{part}", True)
    weights |= linear("layer/attention/out", f"{layer}attention.output.dense", True, in_axes=2)
    weights |= norm("layer/attention_norm", f"{layer}attention.output.LayerNorm")
    weights |= linear("layer/feed_forward/hidden", f"{layer}intermediate.dense", True)
    weights |= linear("layer/feed_forward/out", f"{layer}output.dense", True)
    weights |= norm("layer/feed_forward_norm", f"{layer}output.LayerNorm")
    if its.head == "masked":
        weights |= linear("guess", "cls.predictions.transform.dense", True)
        weights |= norm("guess_norm", "cls.predictions.transform.LayerNorm")
        weights["guess_bias"] = Weight("cls.predictions.bias")
    if its.pooler:
        weights |= linear("pooler", "pooler.dense", True)
    if its.pair_classes:
        weights |= linear("pair", "cls.seq_relationship", True)
    return weights


BERT = Family(
    "BERT",
    ("bert.",),
    _bert,
    _bert_weights,
    (
        Copy("embeddings.position_ids", counting),
        Copy("embeddings.token_type_ids", zeros),
        Copy("cls.predictions.decoder.weight", "embeddings.word_embeddings.weight"),
        Copy("cls.predictions.decoder.bias", "cls.predictions.bias"),
    ),
    {"LayerNorm.gamma": "LayerNorm.weight", "LayerNorm.beta": "LayerNorm.bias"},
)


def _albert(config: Config, tensors: Mapping[str, Tensor]) -> Architecture:
    config.expect("num_hidden_groups", 1)
    config.expect("inner_group_num", 1)
    its = _architecture(config, tensors, "predictions.", "pooler", "sop_classifier.classifier")
    fields = {name: getattr(its, name) for name in its.__dataclass_fields__}
    return Architecture(**fields | {"embedding_width": config.size("embedding_size", 128), "shared_layers": True})


def _albert_weights(its: Architecture, tensors: Mapping[str, Tensor]) -> dict[str, Weight]:
    layer = "encoder.albert_layer_groups.0.albert_layers.0."
    weights = _embeddings() | linear("embedding_projection", "encoder.embedding_hidden_mapping_in", True)
    for part in ("query", "key", "value"):
        weights |= linear(f"layer/attention/{part}", f"{layer}attention.{part}", True)
    weights |= linear("layer/attention/out", f"{layer}attention.dense", True, in_axes=2)
    weights |= norm("layer/attention_norm", f"{layer}attention.LayerNorm")
    weights |= linear("layer/feed_forward/hidden", f"{layer}ffn", True)
    weights |= linear("layer/feed_forward/out", f"{layer}ffn_output", True)
    weights |= norm("layer/feed_forward_norm", f"{layer}full_layer_layer_norm")
    if its.head == "masked":
        weights |= linear("guess", "predictions.dense", True) | norm("guess_norm", "predictions.LayerNorm")
        weights["guess_bias"] = Weight("predictions.bias")
    if its.pooler:
        weights |= linear("pooler", "pooler", True)
    if its.pair_classes:
        weights |= linear("pair", "sop_classifier.classifier", True)
    return weights


ALBERT = Family(
    "ALBERT",
    ("albert.",),
    _albert,
    _albert_weights,
    (
        Copy("embeddings.position_ids", counting),
        Copy("embeddings.token_type_ids", zeros),
        Copy("predictions.decoder.weight", "embeddings.word_embeddings.weight"),
        Copy("predictions.decoder.bias", "predictions.bias"),
    ),
)
