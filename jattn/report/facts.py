"""A run in sentences and facts: how well it does, and what made it."""

import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from jattn.drawing.plain import percent
from jattn.report.outcomes import value_text
from jattn.report.record import RunRecord


def result_line(record: RunRecord) -> str:
    """Says how well the model does, on the test or else on the last evaluation, and where its best head looks.

    Such as `After 500 steps, 100.00 % of 10,000 fresh sequences are exactly right, 100.00 % of their tokens are right,
    the filter score is 0.969. Head 0 of block_0/attention puts 97 % of its weight on the right keys (chance: 6 %).`
    """
    test, evaluation = record.last("test"), record.last("evaluation")
    row = test or evaluation
    if not row:
        return "The run has begun; nothing is evaluated yet."
    kind = "held-out sequences" if _share_held_out(record) else "fresh sequences"
    what = f"{test['examples']:,} {kind}" if "examples" in test else kind
    exact, tokens, score = (row.get(name) for name in ("exact_accuracy", "token_accuracy", "filter_score"))
    words = []
    if row.get("perplexity") is not None and row.get("bits_per_byte") is not None:
        words.append(f"the perplexity of {what} is {row['perplexity']:.3f}, {row['bits_per_byte']:.3f} bits per byte")
    elif exact is not None:
        words.append(f"{_percent(exact)} of {what} are exactly right")
    if tokens is not None:
        words.append(f"{_percent(tokens)} of their tokens are right")
    if score is not None:
        words.append(f"the filter score is {score:.3f}")
    seeds = len(row.get("replicates", ()))
    whose = f", on average over {seeds} seeds; the filters below are of the first" if seeds > 1 else ""
    sentence = f"After {row['step']:,} steps, {', '.join(words) or 'no accuracy is known'}{whose}."
    return " ".join(filter(None, [sentence, _best_head(record) or _without_oracle(record)]))


def _share_held_out(record: RunRecord) -> bool:
    """Says whether examples come from a file, part of which is held out; each may be drawn several times."""
    task = record.config.get("task")
    return isinstance(task, Mapping) and bool(task.get("sha256") and task.get("test_share"))


def _without_oracle(record: RunRecord) -> str:
    """Says that filters have no score, where there are some and no oracle speaks of any."""
    layers = record.probes.layers
    told = any(layer.oracle for layer in layers)
    return "There is no oracle: filters are shown, not scored." if layers and not told else ""


def _best_head(record: RunRecord) -> str:
    """Says which head has the most mass on the oracle, and what chance would have; nothing without an oracle."""
    found = []
    for layer, measures in record.last("train").get("filters", {}).items():
        lifts = measures.get("lift") or []
        for head, mass in enumerate(measures.get("mass") or []):
            if mass is not None and math.isfinite(mass):
                found.append((mass, layer, head, lifts[head] if head < len(lifts) else None))
    if not found:
        return ""
    mass, layer, head, lift = max(found, key=lambda one: one[0])
    chance = f" (chance: {_share(mass / lift)})" if lift else ""
    return f"Head {head} of {layer} puts {_share(mass)} of its weight on the right keys{chance}."


def _share(part: float) -> str:
    """Writes a part of one in whole percent; one below a percent with one digit."""
    return f"{100 * part:.0f} %" if part >= 0.01 else f"{100 * part:.1g} %"


def _percent(part: float) -> str:
    return f"{percent(part)} %" if math.isfinite(part) else "an unknown part"


def record_lines(record: RunRecord) -> list[tuple[str, str]]:
    """Returns what made the run, each with its title: what `provenance.json` holds, and the speed of the rows."""
    known = record.provenance
    if not known:
        return [("record", "was not kept with this run")]
    sessions: Sequence[Mapping[str, Any]] = known["sessions"]
    latest = sessions[-1] if sessions else {}
    differences = "\n".join(f"{key} = {value_text(value)}" for key, value in known.get("differences", {}).items())
    lines = [
        ("command", known.get("command") or "none: the run was made by a program"),
        ("differs from defaults", differences or "in nothing"),
        ("code", _code(known.get("code"))),
        ("seeds", ", ".join(map(str, known.get("seeds", ())))),
        ("parameters", f"{known.get('parameters', 0):,}"),
        ("device", latest.get("ran_on") or f"{latest.get('devices', '?')} {latest.get('device', 'unknown')}"),
        ("speed", _speed(record)),
        ("wall time", _wall_time(sessions)),
        ("date", ", ".join(_moment(session) for session in sessions)),
        ("versions", _versions(latest)),
    ]
    return [(title, words) for title, words in lines if words]


def _code(digests: Any) -> str:
    """Lists files of a person's own, of each the first digits of its digest."""
    known = digests if isinstance(digests, Mapping) else {}
    return "; ".join(f"{file}, SHA-256 {str(digest)[:16]}" for file, digest in known.items())


def _moment(session: Mapping[str, Any]) -> str:
    return str(session.get("started", "unknown")).replace("T", " ").replace("+00:00", " UTC")


def _speed(record: RunRecord) -> str:
    rates = [row["steps_per_second"] for row in record.rows("train") if row.get("steps_per_second")]
    return f"{statistics.median(rates):,.1f} steps/s, the median of the logged intervals" if rates else ""


def _wall_time(sessions: Sequence[Mapping[str, Any]]) -> str:
    seconds = [session["seconds"] for session in sessions if session.get("seconds") is not None]
    if not seconds:
        return ""
    times = f"{sum(seconds):,.1f} s of training, evaluation and test, compilation included"
    # A session that found no checkpoint began anew.
    resumed = sum(session.get("from_step", 0) > 0 for session in sessions)
    how_often = {0: "", 1: "; the run was resumed once"}
    return times + how_often.get(resumed, f"; the run was resumed {resumed} times")


def _versions(session: Mapping[str, Any]) -> str:
    packages = [f"{name} {version}" for name, version in session.get("packages", {}).items()]
    return ", ".join([*packages, f"Python {session.get('python', '?')}", str(session.get("platform", ""))])
