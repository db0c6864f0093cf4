"""One head or several."""

from claims.lab import Lab
from claims.page import Section, number, percent
from jattn.report.comparison_figure import draw_comparison
from jattn.report.outcomes import Outcome

CONFIGS = {
    "reverse": "configs/reverse.toml",
    "odds_first": "configs/odds_first.toml",
    "histogram": "configs/histogram.toml",
}


def examine(lab: Lab) -> Section:
    """Trains tasks with one, two and four heads of the same width together."""
    outcomes, rows = [], []
    for task, config in CONFIGS.items():
        for trial in lab.train(f"heads_{task}", config, "--sweep", "model.num-heads", "1", "2", "4"):
            outcomes.append(Outcome({**trial.values, "task": task}, trial.folder.name, trial.test))
            rows.append(
                [
                    task,
                    str(trial.values["num_heads"]),
                    percent(trial.outcome.spread("token_accuracy")),
                    percent(trial.outcome.spread("exact_accuracy")),
                    number(trial.outcome.spread("filter_score")),
                ]
            )
    gains = {task: _gain(outcomes, task) for task in CONFIGS}
    helped = [task for task, gain in gains.items() if gain > 0.02]
    hurt = [task for task, gain in gains.items() if gain < -0.02]
    same = [task for task in CONFIGS if task not in helped and task not in hurt]
    answer = []
    if helped:
        answer.append(f"More heads helped with {_list(helped)}: the best of two and four beats one head.")
    if same:
        answer.append(f"They made no difference to how many sequences are right in {_list(same)}.")
    if hurt:
        answer.append(f"One head was best in {_list(hurt)}: with the width shared, each of several heads is narrower.")
    return Section(
        title="One head or several",
        claim="Several heads attend to several things at once, which is better than one head.",
        question="The width stays the same: two heads have half the width each. What do accuracy and the best head's "
        "filter score do?",
        verdict="false" if not helped else "true" if not same and not hurt else "partly true",
        answer=answer,
        tables=[(["task", "heads", "tokens right", "sequences right", "filter score"], rows)],
        figures=[("heads", "Accuracy and filter score by number of heads", draw_comparison(outcomes))],
    )


def _gain(outcomes: list[Outcome], task: str) -> float:
    found = {
        one.values["num_heads"]: one.spread("exact_accuracy").mean for one in outcomes if one.values["task"] == task
    }
    return max(found[2], found[4]) - found[1]


def _list(names: list[str]) -> str:
    return ", ".join(names[:-1]) + (" and " if len(names) > 1 else "") + names[-1]
