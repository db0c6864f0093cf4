"""Attention and filters of sequences that are split over the devices of a mesh; see docs/scale.md."""

from jattn.engine.sharded import attend, explain_implementation
from jattn.filters.sharded import ShardedFilter, attention_filter

__all__ = ["ShardedFilter", "attend", "attention_filter", "explain_implementation"]
