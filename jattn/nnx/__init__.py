"""The layers and models of jattn as NNX modules, and their filters seen and edited; see docs/nnx.md."""

import flax
import jax

try:
    from flax import nnx as _  # noqa: F401
except Exception as error:
    raise ImportError(
        f"jattn.nnx: expected a flax that can import flax.nnx, got flax {flax.__version__} on jax {jax.__version__} "
        f"({type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}); upgrade flax"
    ) from error

from jattn.nnx.conversion import from_linen as from_linen, to_linen as to_linen
from jattn.nnx.layers import (
    Block as Block,
    FeedForward as FeedForward,
    LearnedPositions as LearnedPositions,
    PatchEmbedding as PatchEmbedding,
    RelativePositions as RelativePositions,
    TokenEmbedding as TokenEmbedding,
)
from jattn.nnx.models import Decoder as Decoder, Encoder as Encoder
from jattn.nnx.multi_head import Filter as Filter, MultiHeadAttention as MultiHeadAttention, Projection as Projection
from jattn.nnx.recurrent import RecurrentEncoderDecoder as RecurrentEncoderDecoder
from jattn.nnx.source_models import EncoderDecoder as EncoderDecoder, PooledEncoder as PooledEncoder
from jattn.nnx.study import (
    apply_with_edits as apply_with_edits,
    capture_filters as capture_filters,
    generate as generate,
    generate_with_filters as generate_with_filters,
    judge as judge,
    knock_out as knock_out,
)
