"""The page of a sweep: a table that links to the page of each run, and the curves of all runs drawn together."""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from jattn.drawing.pages import build_html
from jattn.report.curves import comparison_panels
from jattn.report.outcomes import Outcome, Table, value_text
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
        "note": "Curves are means over seeds." if several else "",
        "tables": [asdict(table) for table in tables],
        "links": [f"{one.folder}/report.html" for one in outcomes],
        "steps": [max((row["step"] for each in rows for row in each), default=0)],
        "panels": [asdict(panel) for panel in panels],
    }
    return build_html("report", "comparison.html", "page.css", SCRIPTS, data, title=f"{data['title']}: a sweep")


def _evaluations(folder: Path) -> list[dict]:
    by_step = {row["step"]: row for row in read_rows(folder / METRICS) if row["kind"] == "evaluation"}
    return [by_step[step] for step in sorted(by_step)]
