"""The page of a run: one HTML file that needs no other and reaches for none.

The page is `page.html` with the style and the scripts beside it written in, and the run's data as JSON. A content
policy allows exactly that style and that script, by their hashes, and no connection. The scripts write text as text
only, and the policy forbids them to do otherwise.

`jattn.report.packing` says how weights travel. Masses, rates and curves travel as exact numbers.
"""

import base64
import hashlib
import html
import json
import math
import re
from collections.abc import Mapping
from dataclasses import asdict
from importlib import resources
from typing import Any

from jattn.drawing.look import style_variables
from jattn.report.curves import run_panels
from jattn.report.facts import record_lines, result_line
from jattn.report.measures import measure
from jattn.report.packing import choose_contents, pack_answers, pack_rows, pack_weights
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


def build_page(record: RunRecord) -> str:
    """Builds the page: HTML in which nothing but the run's own data, style and script occurs."""
    style = style_variables() + _read("page.css")
    script = "".join(_read(name) for name in SCRIPTS)
    parts = {
        "policy": html.escape(_policy(style, script)),
        "title": html.escape(_title(record) + (": attention filters" if record.probes.layers else "")),
        "kind": "" if record.probes.layers else "without-filter",
        "style": style,
        "data": _embed(page_data(record)),
        "script": script,
    }
    return re.sub(r"\{\{(\w+)\}\}", lambda slot: parts[slot[1]], _read("page.html"))


def page_data(record: RunRecord) -> dict[str, Any]:
    """Returns all that the page shows, as plain lists, texts and numbers."""
    layers, examples = record.probes.layers, record.probes.examples
    contents = choose_contents(record, WEIGHTS_LIMIT)
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
        "weights": [pack_weights(record, layer, contents) for layer in layers],
        "rows": [pack_rows(record, layer, contents) for layer in layers],
        "measures": [[_measures(record, layer, snapshot) for snapshot in contents.snapshots] for layer in layers],
        "panels": [asdict(panel) for panel in run_panels(record)],
        "by_length": record.last("test").get("by_length", {}),
        "seeds": _seeds(record),
        "predictions": [
            {"step": row["step"], "examples": row.get("examples", [])} for row in record.rows("evaluation")
        ],
        "config": _config_text(record.config),
    }


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


def _embed(data: Any) -> str:
    """Writes data as JSON that is safe inside a script element: plain ASCII without <, > and &; nan becomes null."""
    text = json.dumps(_without_nan(data), allow_nan=False, separators=(",", ":"))
    return text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")


def _without_nan(data: Any) -> Any:
    if isinstance(data, float):
        return data if math.isfinite(data) else None
    if isinstance(data, Mapping):
        return {name: _without_nan(value) for name, value in data.items()}
    return [_without_nan(value) for value in data] if isinstance(data, (list, tuple)) else data


def _policy(style: str, script: str) -> str:
    return (
        f"default-src 'none'; style-src {_hash(style)}; script-src {_hash(script)}; img-src data:; "
        "base-uri 'none'; form-action 'none'; require-trusted-types-for 'script'; trusted-types 'none'"
    )


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def _read(name: str) -> str:
    return resources.files("jattn.report").joinpath(name).read_text(encoding="utf-8")
