"""Real weights into jattn's models: published files, of which every tensor is used or the file is refused."""

from jattn.pretrained.loading import Card as Card, Pretrained as Pretrained, load as load

__all__ = ["Card", "Pretrained", "load"]
