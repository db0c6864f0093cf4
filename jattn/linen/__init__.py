"""The flax linen shell: the attention layer, blocks, capture, transformers and recurrent models."""
