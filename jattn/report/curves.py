"""The curves of a run, for the figure and the page alike: which number is drawn where."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from jattn.report.record import RunRecord

Rows = Sequence[Mapping[str, Any]]


@dataclass(frozen=True)
class Curve:
    """Holds one curve.

    Args:
      label: its words in the legend; curves of one label share an entry.
      colour: `ink`, `blue`, `oracle`, `faint` for one of many, or `head-0` to `head-7` to tell several apart.
      dots: whether it is drawn as dots (evaluations) rather than as a line (training).
      steps: the training steps.
      values: one number per step, nan where none was logged.
      layer: the layer whose filter it measures, if it is of one filter.
      head: the head whose filter it measures, if it is of one filter.
      dashed: whether it is a line to compare with.
    """

    label: str
    colour: str
    dots: bool
    steps: list[int]
    values: list[float]
    layer: str | None = None
    head: int | None = None
    dashed: bool = False


@dataclass(frozen=True)
class Panel:
    """Holds the curves that share a vertical axis: its title, scale and upper end (None: as the curves need)."""

    title: str
    scale: Literal["log", "linear"]
    top: float | None
    curves: list[Curve]


def run_panels(record: RunRecord) -> list[Panel]:
    """Returns the panels of a run: loss, accuracy, filter score, entropy; curves of no numbers are left out.

    There is no panel of filters for a model without attention, and none of the filter score without an oracle.
    """
    train, evaluation = record.rows("train"), record.rows("evaluation")
    loss = [_curve(train, "loss", "train", "blue"), _curve(evaluation, "loss", "evaluation", "ink", dots=True)]
    accuracy, of_text = _accuracy(train, evaluation), any("perplexity" in row for row in evaluation)
    panels = [Panel("loss", _loss_scale(loss), None, loss)]
    if of_text:
        panels.append(Panel("bits per byte", "linear", None, _bits(evaluation)))
    # Nobody says all of a long window right.
    panels.append(Panel("accuracy", "linear", 1.0, accuracy[:2] if of_text else accuracy))
    if any(layer.oracle for layer in record.probes.layers):
        panels.append(Panel("filter score: mass on the oracle", "linear", 1.0, _filter_score(train, evaluation)))
    if record.probes.layers:
        panels.append(Panel("entropy of the filters (nats)", "linear", None, _entropy(train)))
    return [Panel(panel.title, panel.scale, panel.top, _drawable(panel.curves)) for panel in panels]


MEASURES = {"exact_accuracy": "exact accuracy", "filter_score": "filter score"}
"""What runs and seeds are compared by over training."""

OF_TEXT = {"bits_per_byte": "bits per byte"}
"""What they are compared by on a text."""

COLOURS = 8
"""How many colours there are to tell curves apart."""


def seed_panels(record: RunRecord) -> list[Panel]:
    """Returns a panel of each measure with a curve for each of several seeds; nothing for a single one."""
    rows = record.rows("evaluation")
    seeds = [replicate["seed"] for replicate in rows[-1].get("replicates", ())] if rows else []
    if len(seeds) < 2:
        return []
    by_seed = {
        f"seed {seed}": [{"step": row["step"], **row["replicates"][index]} for row in rows]
        for index, seed in enumerate(seeds)
    }
    return comparison_panels(by_seed, "seed")


def comparison_panels(evaluations: Mapping[str, Rows], what: str) -> list[Panel]:
    """Returns a panel of each measure with a curve for each of several runs or seeds, by label.

    Args:
      evaluations: label -> rows of evaluations.
      what: what each is: a run or a seed.
    """
    panels = []
    of_text = any("perplexity" in row for rows in evaluations.values() for row in rows)
    for name, title in (OF_TEXT if of_text else MEASURES).items():
        curves = [
            _curve(rows, name, label, f"head-{index % COLOURS}")
            for index, (label, rows) in enumerate(evaluations.items())
        ]
        panels.append(Panel(f"{title} of each {what}", "linear", None if of_text else 1.0, _drawable(curves)))
    return [panel for panel in panels if panel.curves]


def _accuracy(train: Rows, evaluation: Rows) -> list[Curve]:
    return [
        _curve(train, "token_accuracy", "token, train", "blue"),
        _curve(evaluation, "token_accuracy", "token, evaluation", "blue", dots=True),
        _curve(train, "exact_accuracy", "exact, train", "ink"),
        _curve(evaluation, "exact_accuracy", "exact, evaluation", "ink", dots=True),
    ]


def _bits(evaluation: Rows) -> list[Curve]:
    return [_curve(evaluation, "bits_per_byte", "evaluation", "ink", dots=True)]


def _filter_score(train: Rows, evaluation: Rows) -> list[Curve]:
    heads = _head_curves(train, "mass")
    curves = heads if len(heads) > 1 else []
    if heads:
        best = np.fmax.reduce([head.values for head in heads]).tolist()
        curves = [*curves, Curve("best head, train", "oracle", False, heads[0].steps, best)]
        curves += _chance(heads, _head_curves(train, "lift"))
    return [*curves, _curve(evaluation, "filter_score", "evaluation", "oracle", dots=True)]


def _chance(masses: Sequence[Curve], lifts: Sequence[Curve]) -> list[Curve]:
    """Returns the line of chance: the mass of equal weight on every visible key, mass / lift, for any head."""
    if not masses or len(masses) != len(lifts):
        return []
    with np.errstate(divide="ignore", invalid="ignore"):
        values = np.array([curve.values for curve in masses]) / [curve.values for curve in lifts]
    known = np.isfinite(values)
    chance = np.where(known.any(axis=0), np.where(known, values, 0).max(axis=0), math.nan).tolist()
    steps = masses[0].steps
    if steps[0] > 0:
        # It is the same for any weights, also before the first step that was logged.
        steps, chance = [0, *steps], [chance[0], *chance]
    return [Curve("chance", "ink", False, steps, chance, dashed=True)]


def _entropy(train: Rows) -> list[Curve]:
    heads = _head_curves(train, "entropy")
    if len(heads) < 2:
        return [Curve("train", "ink", False, head.steps, head.values, head.layer, head.head) for head in heads]
    mean = np.mean([head.values for head in heads], axis=0).tolist()
    return [*heads, Curve("mean of heads, train", "ink", False, heads[0].steps, mean)]


def _curve(rows: Rows, name: str, label: str, colour: str, *, dots: bool = False) -> Curve:
    return Curve(label, colour, dots, [row["step"] for row in rows], [_number(row.get(name)) for row in rows])


def _head_curves(rows: Rows, measure: str) -> list[Curve]:
    """Returns a curve for each head of each layer that has the measure in any row."""
    steps = [row["step"] for row in rows]
    heads: dict[tuple[str, int], list[float]] = {}
    for index, row in enumerate(rows):
        for layer, measures in row.get("filters", {}).items():
            for head, value in enumerate(measures.get(measure) or []):
                heads.setdefault((layer, head), [math.nan] * len(rows))[index] = _number(value)
    return [Curve("each head", "faint", False, steps, values, *identity) for identity, values in heads.items()]


def _drawable(curves: Iterable[Curve]) -> list[Curve]:
    return [curve for curve in curves if any(map(math.isfinite, curve.values))]


def _loss_scale(curves: Iterable[Curve]) -> Literal["log", "linear"]:
    return "log" if all(value > 0 for curve in curves for value in curve.values if math.isfinite(value)) else "linear"


def _number(value: float | None) -> float:
    return math.nan if value is None else float(value)
