"""Cosine or dot product."""

from claims.lab import Lab
from claims.page import Section, number, percent

CONFIGS = {
    "reverse": "configs/reverse.toml",
    "permute": "configs/permute.toml",
}


def examine(lab: Lab) -> Section:
    """Trains tasks with either score."""
    rows, found, sharp = [], {}, {}
    for task, config in CONFIGS.items():
        for trial in lab.train(f"similarity_{task}", config, "--sweep", "model.score", "scaled_dot", "cosine"):
            score = trial.values["score"]
            found[task, score] = trial.outcome.spread("exact_accuracy")
            sharp[task, score] = trial.outcome.spread("filter_score")
            rows.append(
                [
                    task,
                    score,
                    percent(trial.outcome.spread("token_accuracy")),
                    percent(found[task, score]),
                    number(trial.outcome.spread("filter_score")),
                ]
            )
    both = [task for task in CONFIGS if min(found[task, "scaled_dot"].low, found[task, "cosine"].low) > 0.99]
    gaps = {task: found[task, "cosine"].mean - found[task, "scaled_dot"].mean for task in CONFIGS}
    widest = max(gaps, key=lambda task: abs(gaps[task]))
    as_sharp = all(sharp[task, "cosine"].mean > sharp[task, "scaled_dot"].mean - 0.02 for task in CONFIGS)
    scores = "; ".join(
        f"{task} {number(sharp[task, 'cosine'])} instead of {number(sharp[task, 'scaled_dot'])}" for task in CONFIGS
    )
    return Section(
        title="Cosine or dot product",
        claim="The attention filter is the cosine similarity of queries and keys.",
        question="Transformers take the dot product over the root of the width. A cosine is a dot product of vectors "
        "of length one; here it is divided by a temperature of 0.1 before the softmax. Does it work as well?",
        verdict="true" if len(both) == len(CONFIGS) and as_sharp else "partly true" if both else "false",
        answer=[
            f"With every seed of both, {len(both)} of {len(CONFIGS)} tasks are solved to 99 %. The widest gap between "
            f"their means is {100 * gaps[widest]:+.1f} points for cosine, in {widest}. The filter score of cosine: "
            f"{scores}.",
            "A cosine cannot grow: a weight is at most e^20 times another one here, and without the temperature it "
            "would be e^2 = 7.4 times, too little to single out one key of many. That is why a bare cosine makes no "
            "sharp filter.",
        ],
        tables=[(["task", "score", "tokens right", "sequences right", "filter score"], rows)],
    )
