"""The patches of a picture as tokens, and blocks of them where there are too many to keep."""

import dataclasses
import math
import numbers
from typing import Any

import numpy as np


@dataclasses.dataclass(frozen=True)
class Patches:
    """A grid of patches, in reading order after `lead` other tokens; or one of blocks of so many patches each way.

    Args:
      all_rows, all_columns: how many patches there are.
      lead: how many tokens come before them.
      block: how many rows and columns of patches are one block.
    """

    all_rows: int
    all_columns: int
    lead: int = 0
    block: int = 1

    @property
    def rows(self) -> int:
        """How many rows of blocks there are."""
        return -(-self.all_rows // self.block)

    @property
    def columns(self) -> int:
        """How many columns of blocks there are."""
        return -(-self.all_columns // self.block)

    @property
    def count(self) -> int:
        """How many tokens and blocks there are."""
        return self.lead + self.rows * self.columns

    @property
    def cell(self) -> str:
        """What a block covers, in words."""
        return "one patch" if self.block == 1 else f"{self.block} x {self.block} patches"

    def _blocks(self) -> np.ndarray:
        """Returns the block of each token."""
        row, column = np.divmod(np.arange(self.all_rows * self.all_columns), self.all_columns)
        blocks = row // self.block * self.columns + column // self.block
        return np.concatenate([np.arange(self.lead), self.lead + blocks])

    def words(self, words: list[str]) -> list[str]:
        """Returns a word for each token and block: that of its first patch."""
        first = np.unique(self._blocks(), return_index=True)[1]
        return [words[place] for place in first]

    def pooled(self, weights: np.ndarray) -> np.ndarray:
        """Returns the weights of blocks ``[heads, blocks, blocks]``: summed over their keys, averaged over queries.

        Example: of four patches in a row, two are a block.
          >>> import numpy as np
          >>> from jattn.study.patches import Patches
          >>> print(Patches(1, 4, block=2).pooled(np.eye(4)[None, ::-1])[0])
          [[0. 1.]
           [1. 0.]]
        """
        if self.block == 1:
            return weights
        belongs = (self._blocks()[:, None] == np.arange(self.count)).astype(weights.dtype)
        return (belongs / belongs.sum(0)).T @ (weights @ belongs)


def finest_fit(patches: Patches, heads: int, most: int) -> Patches:
    """Returns the smallest blocks of which the weights of all heads are at most so many numbers."""
    block = 1
    while heads * (found := dataclasses.replace(patches, block=block)).count ** 2 > most:
        if found.rows * found.columns == 1:
            break
        block += 1
    return found


def check_picture(picture: Any, patches: Any, length: int, other: Any) -> Patches | None:
    """Returns the grid of the patches of a picture, which are the last of so many tokens; None without a picture.

    Raises:
      ValueError: if only one of the two is given, or they do not fit one another or the tokens.
    """
    if picture is None and patches is None:
        return None
    if picture is None or patches is None or other is not None:
        raise ValueError("picture: expected with patches, and without a second text")
    array = np.asarray(picture)
    if array.dtype != np.uint8 or array.ndim not in (2, 3) or array.shape[2:] not in ((), (3,)) or not array.size:
        raise ValueError(f"picture: expected uint8 [Y, X] or [Y, X, 3], got {array.dtype} {list(array.shape)}")
    is_pair = isinstance(patches, tuple | list) and len(patches) == 2
    if not is_pair or not all(map(_is_count, patches)) or math.prod(map(int, patches)) > length:
        raise ValueError(f"patches: expected rows and columns of at most {length} tokens in all, got {patches!r}")
    rows, columns = map(int, patches)
    return Patches(rows, columns, length - rows * columns)


def _is_count(size: Any) -> bool:
    return isinstance(size, numbers.Integral) and not isinstance(size, bool) and int(size) > 0
