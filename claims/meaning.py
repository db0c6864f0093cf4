"""Filters begin as noise and become meaningful."""

from collections.abc import Mapping, Sequence
from typing import Any

import jax.numpy as jnp

from claims.drawing import Line, Panel, draw_panels
from claims.lab import Lab, Trial, spread
from claims.page import Section, number, percent
from jattn import capture_filters, edits, judge
from jattn.report.outcomes import Spread
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
    verdict, answer = tell(keys, scores, right[-1], before, after, judged)
    return Section(
        title="Filters become meaningful",
        claim="The scores of the attention filter begin as random numbers and become meaningful with training.",
        question="A model of one layer and one head learns to say 16 digits backwards; the answer for place i is at "
        "place 15 − i and nowhere else. Does its filter go there, and does the model need it to?",
        verdict=verdict,
        answer=answer,
        figures=[("meaning", "Filter score and accuracy over training steps", figure)],
    )


def tell(
    keys: int, scores: Sequence[Spread], right: Spread, before: Spread, after: Spread, judged: Mapping[str, Spread]
) -> tuple[str, list[str]]:
    """Says what the numbers show.

    Args:
      keys: how many there are.
      scores: the filter score at each evaluation.
      right: whole sequences right at the end.
      before, after: over how many keys a query spreads its weight, untrained and trained.
      judged: token accuracy with keys taken away.
    """
    found, needed = scores[-1].low > 0.9, judged["oracle"].high < 0.1 < judged["another"].low
    random, uniform = before.low < 0.9 * keys, before.mean > 0.7 * keys
    spreads = (
        f"A query spreads its weight over as many keys as {number(before, 1)} equal ones, of {keys}; after training, "
    )
    spreads += f"over {number(after, 1)}."
    needs = "And the model needs what it found" if needed else "The model does not stand or fall with that key"
    answer = [
        f"The weight on the right key, of the best head, goes from {number(scores[0])} to {number(scores[-1])}; "
        f"looking at all keys alike would give {1 / keys:.2f}. Whole sequences right: {percent(right)}.",
        f"*Random* is not what an untrained filter looks like: it is close to *uniform*. {spreads}"
        if uniform
        else spreads,
        f"{needs}: with the weight on the right key taken away it gets {percent(judged['oracle'])} of the digits "
        f"right; with the weight on the key beside it taken away, {percent(judged['another'])}; untouched, "
        f"{percent(judged['untouched'])}.",
    ]
    meaningful = found and needed
    return "true" if meaningful and random else "partly true" if meaningful else "false", answer


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
