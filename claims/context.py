"""Self-attention, and attention to another sequence."""

from claims.lab import Lab
from claims.page import Section, number, percent


def examine(lab: Lab) -> Section:
    """Trains reverse in three layouts: who asks, and where the answer lies."""
    options = ("--task.min-length", "12", "--task.max-length", "12", "--training.steps", "800")
    options += (
        "--training.learning-rate",
        "5e-3",
    )
    trials = lab.train(
        "context", "configs/reverse.toml", *options, "--sweep", "task.layout", "encoder", "decoder", "encoder_decoder"
    )
    what = {
        "encoder": ("itself, all of it", "the input itself"),
        "decoder": ("itself, up to here", "the part before the separator"),
        "encoder_decoder": ("another sequence", "the source, by cross-attention"),
    }
    rows, solved = [], []
    for trial in trials:
        layout, outcome = trial.values["layout"], trial.outcome
        solved.append(outcome.spread("exact_accuracy").low > 0.95)
        rows.append(
            [
                layout,
                *what[layout],
                percent(outcome.spread("exact_accuracy")),
                number(outcome.spread("filter_score")),
            ]
        )
    return Section(
        title="Attending to itself, and to another sequence",
        claim="Attention can be self-attention, within one sequence, or other-attention, from one sequence to another.",
        question="The same task, reverse with 12 digits, is put in three ways: read at its own places; predicted "
        "token by token after the source; and by a decoder that attends to an encoder's output. Is it solved each way, "
        "and does the filter that must find the answer find it?",
        verdict="true" if all(solved) else "partly true" if any(solved) else "false",
        answer=[
            "The formula is the same each time; what differs is where queries and keys come from. The filter score is "
            "that of the layers which can hold the answer: of self-attention in the first two, of cross-attention in "
            "the last.",
        ],
        tables=[(["layout", "attends to", "the answer lies in", "sequences right", "filter score"], rows)],
    )
