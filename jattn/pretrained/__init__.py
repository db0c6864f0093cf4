"""Real weights into jattn's models: published files, of which every tensor is used or the file is refused."""

from jattn.pretrained.families import Copy as Copy, Family as Family, Weight as Weight, linear as linear, norm as norm
from jattn.pretrained.loading import Card as Card, Pretrained as Pretrained, load as load

__all__ = ["Card", "Copy", "Family", "Pretrained", "Weight", "linear", "load", "norm"]
