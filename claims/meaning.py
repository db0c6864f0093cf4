"""Filters begin as noise and become meaningful."""

from typing import Any

import jax.numpy as jnp

from claims.drawing import Line, Panel, draw_panels
from claims.lab import Lab, Trial, spread
from claims.page import Section, number, percent
from jattn import capture_filters, edits, judge
from jattn.training.step import initial_state

LAYER = "block_0/attention"

REVERSE = ("configs/reverse.toml", "--evaluation.every", "20", "--evaluation.examples", "400")
"""Evaluated often, so that the turn is seen."""


def examine(lab: Lab) -> Section:
    """Watches the filter of a model that learns to reverse, and takes from it what it found."""
    (trial,) = lab.train("reverse", *REVERSE)
    rows, keys = trial.evaluations(), trial.setup.config.task.max_length
    scores = [spread([one["filter_score"] for one in row["replicates"]]) for row in rows]
    right = [spread([one["exact_accuracy"] for one in row["replicates"]]) for row in rows]
    before, after = effective_keys(trial, initial_state(trial.setup).params), effective_keys(trial, trial.params)
    judged = knocked_out(trial)
    steps = [row["step"] for row in rows]
    figure = draw_panels(
        [
            Panel(
                "filter score",
                "training step",
                [Line("filter score", steps, scores)],
                level=(f"looking at all {keys} keys alike", 1 / keys),
            ),
            Panel("whole sequences right", "training step", [Line("filter score", steps, right)]),
        ]
    )
    meaningful = scores[-1].low > 0.9 and judged["oracle"].high < 0.1 < judged["another"].low
    random = before.low < 0.9 * keys
    return Section(
        title="Filters become meaningful",
        claim="The scores of the attention filter begin as random numbers and become meaningful with training.",
        question="A model of one layer and one head learns to say 16 digits backwards; the answer for place i is at "
        "place 15 − i and nowhere else. Does its filter go there, and does the model need it to?",
        verdict="true" if meaningful and random else "partly true" if meaningful else "false",
        answer=[
            f"The weight on the right key, of the best head, goes from {number(scores[0])} to {number(scores[-1])}; "
            f"looking at all keys alike would give {1 / keys:.2f}. Whole sequences right: {percent(right[-1])}.",
            f"*Random* is not what an untrained filter looks like: it is close to *uniform*. A query spreads its "
            f"weight over as many keys as {number(before, 1)} equal ones, of {keys}; after training, over "
            f"{number(after, 1)}.",
            f"And the model needs what it found: with the weight on the right key taken away it gets "
            f"{percent(judged['oracle'])} of the digits right; with the weight on the key beside it taken away, "
            f"{percent(judged['another'])}; untouched, {percent(judged['untouched'])}.",
        ],
        figures=[("meaning", "Filter score and accuracy over training steps", figure)],
    )


def effective_keys(trial: Trial, params: Any) -> Any:
    """Measures over how many keys a query spreads its weight: e to the entropy, a mean over queries, for each seed."""
    batch = trial.batch(200)

    def measure(one: Any) -> Any:
        _, filters = capture_filters(trial.setup.model, {"params": one}, **batch.inputs)
        return jnp.mean(filters[LAYER].effective_keys())

    return spread(trial.for_each_seed(measure, params=params))


def knocked_out(trial: Trial) -> dict[str, Any]:
    """Measures token accuracy with the oracle's keys forbidden, with their neighbours forbidden, and as it is."""
    batch = trial.batch(400)
    cases = {"untouched": None, "oracle": batch.oracle, "another": jnp.roll(batch.oracle, 1, axis=-1)}

    def measure(one: Any) -> Any:
        variables, model = {"params": one}, trial.setup.model
        changed = {name: None if keys is None else {LAYER: edits.forbid(keys[:, None])} for name, keys in cases.items()}
        return {name: judge(model, variables, batch, edits=edit).token_accuracy for name, edit in changed.items()}

    return {name: spread(values) for name, values in trial.for_each_seed(measure).items()}
