"""Rows of metrics: one JSON object per line of `metrics.jsonl`, written and read here alone."""

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

METRICS = "metrics.jsonl"

NUMBERS = {
    "train": ("loss", "token_accuracy", "exact_accuracy", "gradient_norm"),
    "evaluation": ("loss", "token_accuracy", "exact_accuracy", "filter_score"),
    "test": ("token_accuracy", "exact_accuracy", "filter_score"),
}
"""What of a row of each kind is a number, or null where there is none."""

OBJECTS = {"train": ("filters",), "evaluation": (), "test": ("by_length",)}
"""What of a row of each kind is an object."""


def write_row(row: Mapping[str, Any]) -> str:
    """Writes a row as a line; numbers that are not finite, which JSON has none of, become null."""
    return json.dumps(_finite(row), allow_nan=False) + "\n"


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _finite(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(entry) for entry in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def read_row(line: bytes) -> dict[str, Any]:
    """Reads a line.

    Raises:
      ValueError: if it is no row; the message says what was expected.
    """
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        raise ValueError("expected a JSON object") from None
    if not isinstance(row, dict):
        raise ValueError("expected a JSON object")
    step, kind = row.get("step"), row.get("kind")
    if type(step) is not int or step < 0:
        raise ValueError("expected 'step' to be a whole number")
    if not isinstance(kind, str):
        raise ValueError("expected 'kind' to be a text")
    for name in NUMBERS.get(kind, ()):
        number = row.get(name)
        if number is not None and type(number) not in (int, float):
            raise ValueError(f"expected '{name}' to be a number or null")
    for name in OBJECTS.get(kind, ()):
        if not isinstance(row.get(name, {}), dict):
            raise ValueError(f"expected '{name}' to be an object")
    return row


def read_rows(path: Path) -> list[dict[str, Any]]:
    """Reads all rows of a file, none where there is no file; a last line that a crash cut short is left out.

    A last line that is whole but for its end is none that was cut short.

    Raises:
      ValueError: if another line is no row, naming the line and what was expected.
    """
    lines = path.read_bytes().split(b"\n") if path.is_file() else []
    rows = []
    for number, line in enumerate(lines, start=1):
        try:
            rows.append(read_row(line))
        except ValueError as error:
            if number == len(lines):
                break
            got = line[:60].decode("utf-8", "replace")
            raise ValueError(f"{path}, line {number}: {error}, got {got!r}") from None
    return rows


def final_test(rows: Sequence[Mapping[str, Any]], config: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """Returns the row of the final test of a run; None where its training has not ended.

    A test is the last row of a shorter run as well, which has been given more steps since.

    Args:
      rows: of metrics.
      config: the nested values of the run's config.

    Example:
      >>> from jattn.report.rows import final_test
      >>> rows = [{"kind": "test", "step": 40}]
      >>> final_test(rows, {"training": {"steps": 40}}), final_test(rows, {"training": {"steps": 60}})
      ({'kind': 'test', 'step': 40}, None)
    """
    if not rows or rows[-1]["kind"] != "test":
        return None
    training, wanted = config.get("training", {}), config.get("evaluation", {})
    done = rows[-1]["step"] >= training.get("steps", 0)
    if not done and training.get("stop_when_solved", False):
        done = is_solved(rows, wanted["solved_accuracy"], wanted["solved_filter_score"])
    return rows[-1] if done else None


def is_solved(rows: Sequence[Mapping[str, Any]], accuracy: float, filter_score: float) -> bool:
    """Says whether the latest evaluation had this exact accuracy and filter score, or higher, for every seed."""
    latest = next((row for row in reversed(rows) if row["kind"] == "evaluation"), None)
    return latest is not None and all(
        found["exact_accuracy"] >= accuracy and (found["filter_score"] is None or found["filter_score"] >= filter_score)
        for found in latest["replicates"]
    )
