"""Runs side by side: what their final tests say, as a table in CSV and Markdown and as a figure.

Numbers of several seeds are told as their mean, the lowest and the highest. That range needs no assumption, near 100 %
as anywhere; of n seeds it holds the median over all seeds with a probability of 1 - 2^(1 - n): 94 % for five.
"""

import csv
import io
import tomllib
from collections.abc import Iterable, Sequence
from pathlib import Path

from jattn.drawing.files import replacing
from jattn.drawing.plain import percent
from jattn.report.outcomes import MEASURES, SHARES, Outcome, Table, measures_of, value_text
from jattn.report.rows import METRICS, final_test, read_rows


def make_tables(outcomes: Sequence[Outcome]) -> list[Table]:
    """Makes the table of all runs, and one of each measure by length where lengths were tested."""
    keys, several = list(outcomes[0].values), any(len(outcome.seeds) > 1 for outcome in outcomes)
    what = ", mean (lowest to highest)" if several else ""
    lengths = sorted(set().union(*(outcome.lengths for outcome in outcomes)))
    measures = measures_of(outcomes)
    summary = Table("", [*keys, "seeds", "steps", *(MEASURES[name] + what for name in measures)], [])
    for outcome in outcomes:
        counts = ["", ""] if outcome.test is None else [str(len(outcome.seeds)), str(outcome.test["step"])]
        cells = [_cell(outcome, name) for name in measures]
        summary.rows.append([*_values(outcome), *counts, *cells])
    tables = [summary]
    for name in measures if lengths else ():
        rows = [[*_values(one), *(_cell(one, name, length) for length in lengths)] for one in outcomes]
        tables.append(Table(f"{MEASURES[name]} by length{what}", [*keys, *map(str, lengths)], rows))
    return tables


def _values(outcome: Outcome) -> list[str]:
    return [value_text(value) for value in outcome.values.values()]


def _cell(outcome: Outcome, measure: str, length: int | None = None) -> str:
    if outcome.test is None:
        return "failed"
    found = outcome.spread(measure, length)
    if found is None:
        return ""

    def text(number: float) -> str:
        return percent(number) if measure in SHARES else f"{number:.3f}"

    unit = " %" if measure in SHARES else ""
    ends = "" if found.low is None or found.high is None else f" ({text(found.low)} to {text(found.high)})"
    return text(found.mean) + unit + ends


def to_markdown(tables: Iterable[Table]) -> str:
    """Writes tables as Markdown, each under its title."""
    parts = []
    for table in tables:
        lines = [table.header, ["---"] * len(table.header), *table.rows]
        text = "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)
        parts.append(f"{table.title}:\n\n{text}\n" if table.title else f"{text}\n")
    return "\n".join(parts)


def to_csv(outcomes: Sequence[Outcome]) -> str:
    """Writes all numbers as CSV, unrounded: a row for each run, ``_min`` and ``_max`` over its seeds where several."""
    lengths = sorted(set().union(*(outcome.lengths for outcome in outcomes)))
    measures = list(dict.fromkeys([*MEASURES][:3] + measures_of(outcomes)))
    wanted = [(name, None) for name in measures] + [(name, length) for length in lengths for name in measures]
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    names = [name + (f"_at_{length}" if length else "") for name, length in wanted]
    ends = [name + end for name in names for end in ("", "_min", "_max")]
    writer.writerow([*outcomes[0].values, "folder", "status", "seeds", "steps", *ends])
    for outcome in outcomes:
        status = ["failed", "", ""] if outcome.test is None else ["done", len(outcome.seeds), outcome.test["step"]]
        spreads = [outcome.spread(*which) for which in wanted]
        numbers = [
            number for found in spreads for number in ((found.mean, found.low, found.high) if found else [""] * 3)
        ]
        writer.writerow([*_values(outcome), outcome.folder, *status, *numbers])
    return file.getvalue()


def write_comparison(folder: Path, outcomes: Sequence[Outcome]) -> list[Table]:
    """Writes `sweep.csv`, `.md`, `.png` and `.html` into a folder, each in one step; returns the tables."""
    from jattn.drawing.look import save_figure
    from jattn.report.comparison_figure import draw_comparison
    from jattn.report.comparison_page import build_comparison

    tables = make_tables(outcomes)
    with replacing(folder / "sweep.csv") as file:
        file.write(to_csv(outcomes).encode())
    with replacing(folder / "sweep.md") as file:
        file.write(to_markdown(tables).encode())
    with replacing(folder / "sweep.png") as file:
        save_figure(draw_comparison(outcomes), file)
    with replacing(folder / "sweep.html") as file:
        file.write(build_comparison(folder, outcomes, tables).encode())
    return tables


def read_outcomes(folder: Path) -> list[Outcome]:
    """Reads which runs a sweep has from its `sweep.csv`, and what their tests say from their folders.

    Raises:
      ValueError: if the file is no table of a sweep; the message names it.
    """
    path = folder / "sweep.csv"
    header, *lines = list(csv.reader(io.StringIO(path.read_text(encoding="utf-8")))) or [[]]
    if "folder" not in header or not lines or any(len(line) != len(header) for line in lines):
        raise ValueError(f"{path}: expected the table of a sweep, with a column 'folder' and a row for each run")
    keys = header.index("folder")
    outcomes = []
    for line in lines:
        rows, config = read_rows(folder / line[keys] / METRICS), folder / line[keys] / "config.toml"
        test = final_test(rows, tomllib.loads(config.read_text(encoding="utf-8")) if config.is_file() else {})
        outcomes.append(Outcome(dict(zip(header[:keys], line, strict=False)), line[keys], test))
    return outcomes
