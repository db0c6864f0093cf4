"""jattn: attention you can see through, in JAX and Flax."""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jattn import sharded as sharded
    from jattn.decode.cache import KVCache as KVCache, attend_cached as attend_cached
    from jattn.decode.generation import generate as generate, generate_with_filters as generate_with_filters
    from jattn.engine.attention import attend as attend
    from jattn.engine.drop_in import dot_product_attention as dot_product_attention
    from jattn.engine.implementations import explain_implementation as explain_implementation
    from jattn.filters import folds as folds
    from jattn.filters.filter import AttentionFilter as AttentionFilter, attention_filter as attention_filter
    from jattn.linen.as_flax import MultiHeadDotProductAttention as MultiHeadDotProductAttention
    from jattn.linen.capture import capture_filters as capture_filters
    from jattn.linen.layers import (
        Block as Block,
        FeedForward as FeedForward,
        LearnedPositions as LearnedPositions,
        MultiHeadAttention as MultiHeadAttention,
        PatchEmbedding as PatchEmbedding,
        RelativePositions as RelativePositions,
        TokenEmbedding as TokenEmbedding,
    )
    from jattn.linen.models import (
        Decoder as Decoder,
        Encoder as Encoder,
        EncoderDecoder as EncoderDecoder,
        PooledEncoder as PooledEncoder,
    )
    from jattn.linen.recurrent import RecurrentEncoderDecoder as RecurrentEncoderDecoder
    from jattn.rules import (
        biases as biases,
        edits as edits,
        masks as masks,
        normalizers as normalizers,
        patterns as patterns,
        positions as positions,
        scores as scores,
    )
    from jattn.rules.grids import Grid as Grid
    from jattn.study.interventions import apply_with_edits as apply_with_edits, judge as judge, knock_out as knock_out
    from jattn.study.portraits import HeadPortraits as HeadPortraits, head_portraits as head_portraits
    from jattn.study.rollouts import rollout as rollout
    from jattn.training.restore import restore as restore

__version__ = "0.1.0"

_WHERE = {
    "AttentionFilter": "jattn.filters.filter:AttentionFilter",
    "Block": "jattn.linen.layers:Block",
    "Decoder": "jattn.linen.models:Decoder",
    "Encoder": "jattn.linen.models:Encoder",
    "EncoderDecoder": "jattn.linen.models:EncoderDecoder",
    "FeedForward": "jattn.linen.layers:FeedForward",
    "Grid": "jattn.rules.grids:Grid",
    "HeadPortraits": "jattn.study.portraits:HeadPortraits",
    "KVCache": "jattn.decode.cache:KVCache",
    "LearnedPositions": "jattn.linen.layers:LearnedPositions",
    "MultiHeadAttention": "jattn.linen.layers:MultiHeadAttention",
    "MultiHeadDotProductAttention": "jattn.linen.as_flax:MultiHeadDotProductAttention",
    "PatchEmbedding": "jattn.linen.layers:PatchEmbedding",
    "PooledEncoder": "jattn.linen.models:PooledEncoder",
    "RecurrentEncoderDecoder": "jattn.linen.recurrent:RecurrentEncoderDecoder",
    "RelativePositions": "jattn.linen.layers:RelativePositions",
    "TokenEmbedding": "jattn.linen.layers:TokenEmbedding",
    "apply_with_edits": "jattn.study.interventions:apply_with_edits",
    "attend": "jattn.engine.attention:attend",
    "attend_cached": "jattn.decode.cache:attend_cached",
    "attention_filter": "jattn.filters.filter:attention_filter",
    "biases": "jattn.rules.biases",
    "capture_filters": "jattn.linen.capture:capture_filters",
    "dot_product_attention": "jattn.engine.drop_in:dot_product_attention",
    "edits": "jattn.rules.edits",
    "explain_implementation": "jattn.engine.implementations:explain_implementation",
    "folds": "jattn.filters.folds",
    "generate": "jattn.decode.generation:generate",
    "generate_with_filters": "jattn.decode.generation:generate_with_filters",
    "head_portraits": "jattn.study.portraits:head_portraits",
    "judge": "jattn.study.interventions:judge",
    "knock_out": "jattn.study.interventions:knock_out",
    "masks": "jattn.rules.masks",
    "normalizers": "jattn.rules.normalizers",
    "patterns": "jattn.rules.patterns",
    "positions": "jattn.rules.positions",
    "restore": "jattn.training.restore:restore",
    "rollout": "jattn.study.rollouts:rollout",
    "scores": "jattn.rules.scores",
    "sharded": "jattn.sharded",
}
"""Where each public name is: a module, or what a module has under that name."""

_WINGS = ("tasks", "study", "nnx", "training", "report", "pretrained")
"""What may be used as ``jattn.tasks`` without an import of its own."""

__all__ = [*_WHERE]  # pyright: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str) -> Any:
    # Late, so that the command can tell a mistake before JAX is imported.
    if name in _WINGS:
        return importlib.import_module(f"{__name__}.{name}")
    if name not in _WHERE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module, _, attribute = _WHERE[name].partition(":")
    value = importlib.import_module(module)
    globals()[name] = value = getattr(value, attribute) if attribute else value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
