"""jattn: attention you can see through, in JAX and Flax."""

from jattn import biases, edits, folds, masks, normalizers, patterns, positions, scores
from jattn.attention import attend
from jattn.cache import KVCache, attend_cached
from jattn.drop_in import dot_product_attention
from jattn.filters import AttentionFilter, attention_filter
from jattn.generation import generate
from jattn.grids import Grid
from jattn.implementations import explain_implementation
from jattn.interventions import apply_with_edits, judge, knock_out
from jattn.layers import (
    Block,
    FeedForward,
    LearnedPositions,
    MultiHeadAttention,
    PatchEmbedding,
    RelativePositions,
    TokenEmbedding,
    capture_filters,
)
from jattn.models import Decoder, Encoder, EncoderDecoder, PooledEncoder
from jattn.portraits import HeadPortraits, head_portraits
from jattn.recurrent import RecurrentEncoderDecoder
from jattn.rollouts import rollout

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
