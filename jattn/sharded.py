"""Attention and filters of sequences that are split over the devices of a mesh; see docs/scale.md."""

from jattn.engine.sharded import attend, explain_implementation

__all__ = ["attend", "explain_implementation"]
