"""jattn: attention you can see through, in JAX and Flax."""

from jattn import biases, masks, normalizers, positions, scores
from jattn.attention import attend
from jattn.filters import AttentionFilter, attention_filter
from jattn.grids import Grid
from jattn.layers import Block, FeedForward, LearnedPositions, MultiHeadAttention, TokenEmbedding, capture_filters
from jattn.models import Decoder, Encoder, EncoderDecoder

__version__ = "0.1.0"

__all__ = [
    "AttentionFilter",
    "Block",
    "Decoder",
    "Encoder",
    "EncoderDecoder",
    "FeedForward",
    "Grid",
    "LearnedPositions",
    "MultiHeadAttention",
    "TokenEmbedding",
    "attend",
    "attention_filter",
    "biases",
    "capture_filters",
    "masks",
    "normalizers",
    "positions",
    "scores",
]
