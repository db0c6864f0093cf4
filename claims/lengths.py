"""Train short, test long: every aligned task with every kind of position."""

from claims.drawing import Line, Panel, draw_panels
from claims.lab import Lab
from claims.page import Section, percent

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
    panels, rows, best, reached = [], [], {}, 0
    for task, (shortest, longest) in TASKS.items():
        tested = LONGER.get(task, (12, 18, 24))
        trials = lab.train(f"lengths_{task}", *_arguments(task, shortest, longest, tested))
        found = {trial.values["positions"]: trial.outcome for trial in trials}
        lines = [Line(kind, tested, [found[kind].spread("token_accuracy", n) for n in tested]) for kind in KINDS]
        panels.append(Panel(f"{task}: tokens right", "length", lines, ticks=tested))
        at_end = {kind: found[kind].spread("token_accuracy", tested[-1]) for kind in KINDS}
        best[task] = max(at_end, key=lambda kind: at_end[kind].mean)
        reached += at_end[best[task]].mean > 0.95
        rows.append([f"{task}, {shortest} to {longest}, tested at {tested[-1]}", *(percent(at_end[k]) for k in KINDS)])
    return Section(
        title="Train short, test long",
        claim="What attention has learned at some lengths holds at others.",
        question="All aligned tasks, with every kind of position, are trained on short sources and tested on sources "
        "twice as long as the longest.",
        verdict="true" if reached == len(TASKS) else "partly true" if reached else "false",
        answer=[
            f"Of {len(TASKS)} tasks, {reached} keep 95 % of their tokens right at twice the length with some kind of "
            "position. The best kind: " + ", ".join(f"{task} {kind}" for task, kind in best.items()) + ".",
            "A model that has seen no position beyond the twelfth cannot be expected to know what the twentieth means: "
            "positions told as a distance, or not at all, have the better chance, where the task is about distances or "
            "not about places.",
        ],
        tables=[(["task", *KINDS], rows)],
        figures=[("lengths", "Token accuracy by length, for each kind of position", draw_panels(panels, columns=3))],
    )


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
