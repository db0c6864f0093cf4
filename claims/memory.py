"""A fixed vector forgets as the input grows; attention does not."""

from claims.drawing import Line, Panel, draw_panels
from claims.lab import Lab, Trial
from claims.page import Section, percent

LENGTHS = (2, 4, 8, 12, 16)
"""All within the lengths that were trained on."""

COPY = (
    "configs/reverse_encoder_decoder.toml",
    *("--task.name", "copy", "--task.min-length", "2", "--task.max-length", "16"),
    *(
        "--training.batch-size",
        "64",
        "--training.steps",
        "1500",
        "--evaluation.test-lengths",
        "2",
        "4",
        "8",
        "12",
        "16",
    ),
    *("--model.num-layers", "1", "--model.width", "32", "--model.hidden", "64", "--training.learning-rate", "5e-3"),
)


def examine(lab: Lab) -> Section:
    """Trains recurrent encoder-decoders and a transformer to copy, and tests them by length."""
    recurrent = lab.train(
        "memory_recurrent", *COPY, "--sweep", "model.kind", "gru", "lstm", "--sweep", "model.attention", "false", "true"
    )
    (transformer,) = lab.train("memory_transformer", *COPY)
    trials = {_name(trial): trial for trial in recurrent} | {"transformer": transformer}
    panels = [
        Panel(
            title,
            "length of the source",
            [
                Line(name, LENGTHS, [trial.outcome.spread(measure, n) for n in LENGTHS])
                for name, trial in trials.items()
            ],
            ticks=LENGTHS,
        )
        for title, measure in (("tokens right", "token_accuracy"), ("whole sequences right", "exact_accuracy"))
    ]
    shortest, longest = LENGTHS[0], LENGTHS[-1]
    fixed = {name: trial for name, trial in trials.items() if "one vector" in name}
    others = {name: trial for name, trial in trials.items() if name not in fixed}
    forgets = all(_at(trial, longest).high < _at(trial, shortest).low - 0.1 for trial in fixed.values())
    remembers = all(_at(trial, longest).low > 0.95 for trial in others.values())
    rows = [
        [name, *(percent(trial.outcome.spread("token_accuracy", length)) for length in (2, 8, 16))]
        for name, trial in trials.items()
    ]
    told = "; ".join(
        f"{name} {percent(_at(trial, shortest))} at {shortest}, {percent(_at(trial, longest))} at {longest}"
        for name, trial in trials.items()
    )
    return Section(
        title="One vector forgets, attention does not",
        claim="An encoder-decoder that squeezes the input into one vector of fixed size forgets as the input grows; "
        "attention, which looks at all positions anew, does not.",
        question="Recurrent encoder-decoders with and without attention, and a transformer, all of width 32, learn to "
        "copy sequences of 2 to 16 digits with the same steps and batches. How many tokens are right, by length? All "
        "lengths tested are lengths that were trained on.",
        verdict="true" if forgets and remembers else "partly true" if forgets or remembers else "false",
        answer=[
            f"Tokens right: {told}.",
            "Tokens are predicted with the right tokens before them. What a fixed vector holds is a question of its "
            "width and of training as well: more of either moves where it begins to forget.",
        ],
        tables=[(["model", *(f"tokens right at {length}" for length in (2, 8, 16))], rows)],
        figures=[("memory", "Accuracy by length of the source", draw_panels(panels))],
    )


def _name(trial: Trial) -> str:
    return f"{trial.values['kind'].upper()}, {'attention' if trial.values['attention'] else 'one vector'}"


def _at(trial: Trial, length: int):
    return trial.outcome.spread("token_accuracy", length)
