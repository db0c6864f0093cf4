"""What the final tests of runs say, seed by seed: the numbers that tables and figures of a comparison show."""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

MEASURES = {
    "exact_accuracy": "exact accuracy",
    "token_accuracy": "token accuracy",
    "filter_score": "filter score",
    "perplexity": "perplexity",
    "bits_per_byte": "bits per byte",
}
"""What runs are compared by: the names in metrics, and in words."""

SHARES = ("exact_accuracy", "token_accuracy")
"""The measures that are shares of all answers."""


@dataclass(frozen=True)
class Spread:
    """The mean of a number over seeds, the lowest and the highest; of one seed, there is only the mean."""

    mean: float
    low: float | None
    high: float | None


@dataclass(frozen=True)
class Outcome:
    """One run among those compared.

    Args:
      values: what sets it apart: keys and values, the same keys in each run.
      folder: the name of its folder.
      test: the row of metrics of its final test, or None if it failed. ``replicates`` in it holds a row for each seed;
        without them it is one seed's.
    """

    values: Mapping[str, Any]
    folder: str
    test: Mapping[str, Any] | None

    @property
    def seeds(self) -> Sequence[Mapping[str, Any]]:
        """What the test says of each seed."""
        return [] if self.test is None else self.test.get("replicates") or [self.test]

    @property
    def lengths(self) -> set[int]:
        """The lengths tested besides."""
        return {int(length) for seed in self.seeds for length in seed.get("by_length") or {}}

    def spread(self, measure: str, length: int | None = None) -> Spread | None:
        """Returns a measure over the seeds, on sources of one length or of all; None where it was not measured."""
        rows = [seed if length is None else seed["by_length"].get(str(length), {}) for seed in self.seeds]
        values = [row[measure] for row in rows if row.get(measure) is not None]
        if not values:
            return None
        if len(values) == 1:
            return Spread(values[0], None, None)
        low, high = min(values), max(values)
        # Rounding must not push the mean of equal values beyond them.
        return Spread(min(max(statistics.fmean(values), low), high), low, high)


@dataclass(frozen=True)
class Table:
    """A table of texts; `title` is empty, or says what its cells are."""

    title: str
    header: list[str]
    rows: list[list[str]]


def value_text(value: Any) -> str:
    """Writes a value of a key in a word.

    Example:
      >>> [value_text(value) for value in (2, 0.001, True, "cosine", (16, 32), ())]
      ['2', '0.001', 'true', 'cosine', '16+32', 'none']
    """
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list | tuple):
        return "+".join(map(value_text, value)) or "none"
    return str(value)


def measures_of(outcomes: Sequence[Outcome]) -> list[str]:
    """Lists the measures of some runs: those of a text are judged by its bits, not by whole sequences."""
    known = [name for name in MEASURES if name in SHARES or any(one.spread(name) for one in outcomes)]
    return [name for name in known if name != "exact_accuracy" or "perplexity" not in known]
