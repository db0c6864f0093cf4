"""What is seen in a picture of some heads: which queries and keys, and in how many cells."""

import dataclasses
from typing import Any

from jattn.drawing.bins import cell_words
from jattn.drawing.look import token_label


@dataclasses.dataclass(frozen=True)
class View:
    """Says what is looked at: some heads of one batch entry, a range of queries and of keys, and the bins of each."""

    shape: tuple[int, ...]
    entry: tuple[int, ...]
    heads: tuple[int, ...]
    rows: range
    columns: range
    bins: tuple[int, int]

    @property
    def pooled(self) -> bool:
        return self.bins != (len(self.rows), len(self.columns))

    @property
    def chance(self) -> float:
        """The weight that a cell gets from a query that looks at all keys of the filter alike."""
        return len(self.columns) / self.bins[1] / self.shape[-1]

    @property
    def cell(self) -> str:
        """What a cell holds, in words."""
        return f"each cell {cell_words(self.bins, (len(self.rows), len(self.columns)))}"


def counted(number: int, one: str) -> str:
    return f"{number:,} {one if number == 1 else one.replace('query', 'querie') + 's'}"


def make_labels(view: View, queries: Any, keys: Any) -> tuple[list[str] | None, list[str] | None]:
    """Returns the labels of the rows and columns in view, or None, where there are no labels."""
    num_queries, num_keys = view.shape[-2:]
    if keys is None and num_queries == num_keys:
        keys = queries
    labels = []
    for name, tokens, part, size in (
        ("queries", queries, view.rows, num_queries),
        ("keys", keys, view.columns, num_keys),
    ):
        if tokens is None:
            labels.append(None)
            continue
        if not hasattr(tokens, "__len__") or len(tokens) != size:
            came = f"{len(tokens)} of them" if hasattr(tokens, "__len__") else type(tokens).__name__
            raise ValueError(f"{name}: expected a label for each of {size}, got {came}")
        # A cell of many tokens has no label: its place is named.
        labels.append(None if view.pooled else [token_label(str(tokens[index])) for index in part])
    return labels[0], labels[1]
