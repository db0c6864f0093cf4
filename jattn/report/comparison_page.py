"""The page of a sweep: a table that links to the page of each run, and the curves of all runs drawn together."""

import contextlib
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from jattn.drawing.pages import build_html
from jattn.drawing.plain import percent
from jattn.report.curves import comparison_panels
from jattn.report.outcomes import Outcome, Table, measures_of, value_text
from jattn.report.record import read_probes
from jattn.report.rows import METRICS, read_rows

SCRIPTS = ("parts_base.js", "page_terms.js", "page_curves.js", "comparison.js")


def build_comparison(folder: Path, outcomes: Sequence[Outcome], tables: Sequence[Table]) -> str:
    """Builds the page of a sweep: HTML that needs no other file but links to the pages of its runs.

    Args:
      folder: of the sweep, with a folder for each run.
      outcomes: the runs.
      tables: of `jattn.report.comparison.make_tables`; the first has a row for each run.
    """
    labels = [", ".join(f"{key}={value_text(value)}" for key, value in one.values.items()) for one in outcomes]
    rows = [_evaluations(folder / one.folder) for one in outcomes]
    several = any(len(one.seeds) > 1 for one in outcomes)
    panels = comparison_panels(dict(zip(labels, rows, strict=True)), "run")
    data = {
        "title": folder.resolve().name,
        "result": result_words(outcomes),
        "task": _task(folder, outcomes),
        "note": "Curves are means over seeds." if several else "",
        "tables": [asdict(table) for table in tables],
        "links": [
            {"address": _page_of(folder, one), "label": label} for one, label in zip(outcomes, labels, strict=True)
        ],
        "swept": len(outcomes[0].values) if outcomes else 0,
        "steps": [max((row["step"] for each in rows for row in each), default=0)],
        "panels": [asdict(panel) for panel in panels],
    }
    return build_html("report", "comparison.html", "page.css", SCRIPTS, data, title=f"{data['title']}: a sweep")


def _page_of(folder: Path, one: Outcome) -> str:
    """Returns where the page of a run is; nothing where a run failed and has none."""
    address = f"{one.folder}/report.html"
    return address if (folder / address).exists() else ""


def result_words(outcomes: Sequence[Outcome]) -> str:
    """Says in a sentence how well the runs of a sweep do, from the lowest to the highest.

    Such as `4 runs: from 98.20 % to 100.00 % of the sequences of their tests are exactly right, and the filter score is
    from 0.828 to 0.958.`
    """
    done = [one for one in outcomes if one.test is not None]
    failed = f", {len(outcomes) - len(done)} of which failed" if len(done) < len(outcomes) else ""
    said = []
    for measure in measures_of(done):
        means = [found.mean for one in done if (found := one.spread(measure))]
        if means and measure in SENTENCES:
            text, sentence = SENTENCES[measure]
            ends = list(dict.fromkeys([text(min(means)), text(max(means))]))
            said.append(sentence.format(f"from {ends[0]} to {ends[1]}" if len(ends) > 1 else ends[0]))
    told = ", and ".join(said)
    return f"{len(outcomes)} run{'s' * (len(outcomes) > 1)}{failed}" + (f": {told}." if told else ".")


def _percent(part: float) -> str:
    return f"{percent(part)} %"


SENTENCES = {
    "exact_accuracy": (_percent, "{} of the sequences of their tests are exactly right"),
    "filter_score": ("{:.3f}".format, "the filter score is {}"),
    "bits_per_byte": ("{:.3f}".format, "the loss of their tests is {} bits per byte"),
}
"""How measures are said: the number, and the sentence that it stands in."""


def _task(folder: Path, outcomes: Sequence[Outcome]) -> str:
    """Returns what the task is in words, if the runs have kept it and it is the same in all of them."""
    told = set()
    for one in outcomes:
        with contextlib.suppress(OSError, ValueError):
            told.add(read_probes(folder / one.folder / "filters" / "probes.json").task)
    return told.pop() if len(told) == 1 else ""


def _evaluations(folder: Path) -> list[dict]:
    by_step = {row["step"]: row for row in read_rows(folder / METRICS) if row["kind"] == "evaluation"}
    return [by_step[step] for step in sorted(by_step)]
