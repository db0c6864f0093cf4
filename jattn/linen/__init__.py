"""The flax linen shell: the attention layer, blocks, capture, transformers and recurrent models."""

# Makes modules of linen known to captures, edits and knock-outs, whichever part of the wing is imported.
import jattn.linen.capture as _capture  # noqa: F401
