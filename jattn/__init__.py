"""jattn: attention you can see through, in JAX and Flax."""

from jattn.decode.cache import KVCache, attend_cached
from jattn.decode.generation import generate
from jattn.engine.attention import attend
from jattn.engine.drop_in import dot_product_attention
from jattn.engine.implementations import explain_implementation
from jattn.filters import folds
from jattn.filters.filter import AttentionFilter, attention_filter
from jattn.linen.capture import capture_filters
from jattn.linen.layers import (
    Block,
    FeedForward,
    LearnedPositions,
    MultiHeadAttention,
    PatchEmbedding,
    RelativePositions,
    TokenEmbedding,
)
from jattn.linen.models import Decoder, Encoder, EncoderDecoder, PooledEncoder
from jattn.linen.recurrent import RecurrentEncoderDecoder
from jattn.rules import biases, edits, masks, normalizers, patterns, positions, scores
from jattn.rules.grids import Grid
from jattn.study.interventions import apply_with_edits, judge, knock_out
from jattn.study.portraits import HeadPortraits, head_portraits
from jattn.study.rollouts import rollout

__version__ = "0.1.0"

__all__ = [
    "AttentionFilter",
    "Block",
    "Decoder",
    "Encoder",
    "EncoderDecoder",
    "FeedForward",
    "Grid",
    "HeadPortraits",
    "KVCache",
    "LearnedPositions",
    "MultiHeadAttention",
    "PatchEmbedding",
    "PooledEncoder",
    "RecurrentEncoderDecoder",
    "RelativePositions",
    "TokenEmbedding",
    "apply_with_edits",
    "attend",
    "attend_cached",
    "attention_filter",
    "biases",
    "capture_filters",
    "dot_product_attention",
    "edits",
    "explain_implementation",
    "folds",
    "generate",
    "head_portraits",
    "judge",
    "knock_out",
    "masks",
    "normalizers",
    "patterns",
    "positions",
    "rollout",
    "scores",
]
