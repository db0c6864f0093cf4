"""What heads do, in any model: portraits, knock-outs, patching, rollouts."""

from jattn.study.seeing import see as see

__all__ = ["see"]
