"""The page of a run: one HTML file that needs no other and reaches for none.

The page is `page.html` with the style and the scripts beside it written in, and the run's data as JSON; see
`jattn.drawing.pages`.

`jattn.report.packing` says how weights travel. Masses, rates and curves travel as exact numbers.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from jattn.drawing.pages import build_html
from jattn.report.curves import run_panels, seed_panels
from jattn.report.facts import record_lines, result_line
from jattn.report.measures import measure
from jattn.report.packing import Contents, choose_contents, pack_answers, pack_rows, pack_weights, raw_size, text_size
from jattn.report.record import Layer, RunRecord

PARTS = ("parts_base.js", "parts_matrix.js", "parts_lines.js", "parts_words.js")
"""The scripts that draw a filter of anything; `parts_matrix.js` says what a filter is."""

SCRIPTS = (
    *PARTS,
    "page_data.js",
    "page_terms.js",
    "page_rows.js",
    "page_curves.js",
    "page_tables.js",
    "page_example.js",
    "page_copy.js",
    "page_address.js",
    "page_focus.js",
    "page_keys.js",
    "page.js",
    "page_controls.js",
)
WEIGHTS_LIMIT = 16_000_000
"""The most bytes of weights that a page holds. Of longer runs it shows rows on demand of fewer snapshots and examples,
and then fewer snapshots, evenly spaced; the last one always, with the rows of at least one example."""

TEXT_LIMIT = 2_400_000
"""The most bytes that these weights take in the page, once they are deflated and written in base64."""


def build_page(record: RunRecord) -> str:
    """Builds the page: HTML in which nothing but the run's own data, style and script occurs."""
    title = _title(record) + (": attention filters" if record.probes.layers else "")
    kind = "" if record.probes.layers else "without-filter"
    return build_html("report", "page.html", "page.css", SCRIPTS, page_data(record), title=title, kind=kind)


def page_data(record: RunRecord) -> dict[str, Any]:
    """Returns all that the page shows, as plain lists, texts and numbers."""
    layers, examples = record.probes.layers, record.probes.examples
    contents, packed = _pack(record)
    pooling = [[record.pooling([layer], example) for example in range(len(examples))] for layer in layers]
    return {
        "title": _title(record),
        "folder": record.name,
        "result": result_line(record),
        "task": record.probes.task,
        "record": record_lines(record),
        "steps": [record.steps[snapshot] for snapshot in contents.snapshots],
        "snapshots_taken": len(record.steps),
        "layers": [asdict(layer) | {"pooled": record.is_pooled(layer)} for layer in layers],
        "examples": [asdict(example) for example in examples],
        "pooling": pooling,
        "visible": record.probes.visible,
        "answers": pack_answers(record, contents),
        **packed,
        "measures": [[_measures(record, layer, snapshot) for snapshot in contents.snapshots] for layer in layers],
        "panels": [asdict(panel) for panel in (*run_panels(record), *seed_panels(record))],
        "by_length": record.last("test").get("by_length", {}),
        "seeds": _seeds(record),
        "predictions": [
            {"step": row["step"], "examples": row.get("examples", [])} for row in record.rows("evaluation")
        ],
        "config": _config_text(record.config),
    }


def _pack(record: RunRecord) -> tuple[Contents, dict[str, Any]]:
    """Packs as much of the filters as fits, before and after it is deflated."""
    limit = WEIGHTS_LIMIT
    while True:
        contents = choose_contents(record, limit)
        packed = {
            "weights": [pack_weights(record, layer, contents) for layer in record.probes.layers],
            "rows": [pack_rows(record, layer, contents) for layer in record.probes.layers],
        }
        size, least = text_size(packed), choose_contents(record, 0)
        if size <= TEXT_LIMIT or contents == least:
            return contents, packed
        limit = int(0.9 * min(limit, raw_size(record, contents)) * TEXT_LIMIT / size)


def _seeds(record: RunRecord) -> list[dict[str, Any]]:
    """Returns what the test, else the last evaluation, says of each seed."""
    row = record.last("test") or record.last("evaluation")
    return [dict(seed) for seed in row.get("replicates", ())]


def _title(record: RunRecord) -> str:
    task = record.config.get("task", {})
    return str(task.get("name", record.name)) if isinstance(task, dict) else record.name


def _config_text(config: Mapping[str, Any]) -> str:
    """Writes the config as its file has it: plain keys, then a title and the keys of each table."""
    tables = {title: value for title, value in config.items() if isinstance(value, dict)}
    plain = {key: value for key, value in config.items() if key not in tables}
    blocks = [_key_lines(plain), *(f"[{title}]\n{_key_lines(table)}" for title, table in tables.items())]
    return "\n\n".join(block for block in blocks if block)


def _key_lines(table: Mapping[str, Any]) -> str:
    return "\n".join(f"{key} = {json.dumps(value, ensure_ascii=False, default=str)}" for key, value in table.items())


def _measures(record: RunRecord, layer: Layer, snapshot: int) -> list[dict[str, list[float]]]:
    """Measures a layer's filters at one snapshot: for each example, a number per head."""
    measures = (measure(record, snapshot, layer, example) for example in range(len(record.probes.examples)))
    return [{name: values.astype(float).round(5).tolist() for name, values in numbers.items()} for numbers in measures]
