"""Train short, test long: every aligned task with every kind of position."""

from collections.abc import Mapping, Sequence

from claims.drawing import Line, Panel, draw_panels
from claims.lab import Lab
from claims.page import Section, number, percent
from jattn.report.outcomes import Outcome

TASKS = {
    "copy": (4, 12),
    "reverse": (4, 12),
    "shift": (4, 12),
    "odds_first": (4, 12),
    "sort": (4, 12),
    "permute": (5, 13),
    "selective_copy": (16, 24),
    "needle": (8, 24),
}
"""The lengths trained on."""
LONGER = {"permute": (13, 19, 25), "selective_copy": (24, 36, 48), "needle": (24, 36, 48)}
KINDS = ("sinusoidal", "learned", "rotary", "alibi", "relative", "none")


def examine(lab: Lab) -> Section:
    """Trains all aligned tasks with all kinds of positions and tests them beyond the trained lengths."""
    panels, scores, rows, learned, kept = [], [], [], [], {}
    for task, (shortest, longest) in TASKS.items():
        tested = LONGER.get(task, (12, 18, 24))
        trials = lab.train(f"lengths_{task}", *_arguments(task, shortest, longest, tested))
        found = {trial.values["positions"]: trial.outcome for trial in trials}
        panels.append(Panel(f"{task}: tokens right", "length", _lines(found, "token_accuracy", tested), ticks=tested))
        scores.append(Panel(f"{task}: filter score", "length", _lines(found, "filter_score", tested), ticks=tested))
        right = {kind: [found[kind].spread("token_accuracy", n).mean for n in (longest, tested[-1])] for kind in KINDS}
        best = max(KINDS, key=lambda kind: right[kind][1])
        learned += [task] if max(short for short, _ in right.values()) > 0.95 else []
        kept |= {task: best} if right[best][1] > 0.95 else {}
        rows.append(
            [
                f"{task}, {shortest} to {longest}",
                *(f"{100 * short:.0f} → {100 * long:.0f} %" for short, long in right.values()),
                f"{best}: {percent(found[best].spread('token_accuracy', tested[-1]))}, "
                f"filter score {number(found[best].spread('filter_score', tested[-1]))}",
            ]
        )
    others = (
        " The others are trained too little here to say anything about length: one layer of one head, 500 steps, so "
        "that all of it can be done again."
        if len(learned) < len(TASKS)
        else ""
    )
    return Section(
        title="Train short, test long",
        claim="What attention has learned at some lengths holds at others.",
        question="All aligned tasks, with every kind of position, are trained on short sources and tested on sources "
        "of the longest trained length and of half as much again and twice as much.",
        verdict="true" if len(kept) == len(TASKS) else "partly true" if kept else "false",
        answer=[
            f"Of {len(TASKS)} tasks, {len(learned)} are learned, with some kind of position, to 95 % of the tokens at "
            f"the longest trained length ({', '.join(learned)}); {len(kept)} keep that at twice the length "
            f"({', '.join(kept)}).{others}",
            "A model that has seen no position beyond the twelfth cannot be expected to know what the twentieth means. "
            "What looks for things, wherever they are, holds at any length, best with positions that are told as "
            "distances or not at all; what counts places from the beginning or the end does not.",
        ],
        tables=[(["task, trained at; longest → twice", *KINDS, "best at twice the length"], rows)],
        figures=[
            ("lengths", "Token accuracy by length, for each kind of position", draw_panels(panels, columns=3)),
            ("lengths_filters", "Filter score by length, for each kind of position", draw_panels(scores, columns=3)),
        ],
    )


def _lines(found: Mapping[str, Outcome], measure: str, tested: Sequence[int]) -> list[Line]:
    return [Line(kind, tested, [found[kind].spread(measure, n) for n in tested]) for kind in KINDS]


def _arguments(task: str, shortest: int, longest: int, tested: tuple[int, ...]) -> tuple[str, ...]:
    options = {
        "task.name": task,
        "task.min-length": shortest,
        "task.max-length": longest,
        "training.steps": 500,
        "training.batch-size": 64,
        "training.learning-rate": "5e-3",
        "evaluation.every": 500,
    }
    if task == "selective_copy":
        options["task.items"] = 4
    given = [word for key, value in options.items() for word in (f"--{key}", str(value))]
    given += ["--evaluation.test-lengths", *map(str, tested)]
    return ("configs/reverse.toml", *given, "--sweep", "model.positions", *KINDS)
