"""Names of layers, and their order."""

import re
from collections.abc import Iterable, Mapping
from typing import TypeVar

T = TypeVar("T")


def reading_order(names: Iterable[str]) -> list[str]:
    """Sorts names as a person counts: the second layer before the tenth.

    Example:
      >>> from jattn.filters.names import reading_order
      >>> reading_order(["block_10", "block_2"])
      ['block_2', 'block_10']
    """

    def by_number(name: str) -> list[tuple[int, str]]:
        return [(int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"(\d+)", name)]

    return sorted(names, key=by_number)


def in_order(by_layer: Mapping[str, T]) -> dict[str, T]:
    """Sorts what is known by layer, ``block_2`` before ``block_10``."""
    return {name: by_layer[name] for name in reading_order(by_layer)}
