"""Weights lie in 0..1 and say what matters: how much of a filter can go."""

from collections.abc import Collection, Mapping
from typing import Any

import jax.numpy as jnp

from claims.drawing import Line, Panel, draw_panels
from claims.lab import Lab, Trial, spread
from claims.meaning import REVERSE
from claims.order import train
from claims.page import Section, number, percent
from jattn import capture_filters, judge
from jattn.report.outcomes import Spread

CONFIGS = {
    "permute": "configs/permute.toml",
    "most_frequent": "configs/most_frequent.toml",
}
KEPT = (0, 1, 2, 3, 4, 6, 8, 12, 16)


def examine(lab: Lab) -> Section:
    """Drops the smallest weights of trained filters, and trains with normalizers that drop them."""
    trials = {"reverse": lab.train("reverse", *REVERSE)[0]}
    trials["histogram"] = train(lab)["histogram"]["sinusoidal"]
    trials |= {task: lab.train(f"focus_{task}", path)[0] for task, path in CONFIGS.items()}
    kept = {task: keep_largest(trial) for task, trial in trials.items()}
    spare, rows = {}, []
    for task, trial in trials.items():
        whole, size = kept[task][-1].mean, trial.setup.config.task.max_length
        enough = min(size, next(k for k, found in zip(KEPT, kept[task], strict=True) if found.mean > whole - 0.01))
        spare[task] = 1 - enough / size
        rows.append(
            [
                task,
                percent(kept[task][-1]),
                number(largest(trial)),
                f"{enough} of {size}",
                percent(kept[task][KEPT.index(1)]),
                percent(kept[task][0]),
            ]
        )
    sparse = lab.train(
        "normalizers", "configs/reverse.toml", "--sweep", "model.normalizer", "softmax", "entmax15", "sparsemax"
    )
    zeros = [
        [
            trial.values["normalizer"],
            percent(share_of_zeros(trial)),
            percent(trial.outcome.spread("exact_accuracy")),
            number(trial.outcome.spread("filter_score")),
        ]
        for trial in sparse
    ]
    figure = draw_panels(
        [
            Panel(
                "tokens right with the largest weights of each row only",
                "weights kept of each row",
                [Line(task, KEPT, kept[task]) for task in trials],
                ticks=KEPT,
            )
        ]
    )
    sharp = [task for task in trials if spare[task] >= 0.75]
    return Section(
        title="Weights say what matters",
        claim="Squeezed into 0..1, the weights of a filter tell what to attend to: those near 1 matter, those near 0 "
        "can be ignored.",
        question="From each row of every filter of a trained model, all but the largest weights are dropped, and the "
        "rest scaled to their sum. How many can go before a point of token accuracy is lost?",
        verdict="true" if len(sharp) == len(trials) else "partly true" if sharp else "false",
        answer=[
            tell(spare, sharp),
            "A softmax never says 0. Normalizers that do (trained anew, on reverse) leave out most keys by themselves:",
        ],
        tables=[
            (["normalizer", "weights that are 0", "sequences right", "filter score"], zeros),
            (
                ["task", "tokens right", "largest weight of a row", "weights needed", "with one weight", "with none"],
                rows,
            ),
        ],
        figures=[("focus", "Token accuracy by number of weights kept", figure)],
    )


def tell(spare: Mapping[str, float], sharp: Collection[str]) -> str:
    """Says which share of the weights can go, by task; in the sharp ones nearly all."""
    numbers = "; ".join(f"{task}: {100 * share:.0f} % can go" for task, share in spare.items())
    if len(sharp) == len(spare):
        return f"Nearly all can go in each of these tasks. {numbers}. One weight is enough."
    if not sharp:
        return f"In none of these tasks can nearly all go. {numbers}."
    return (
        f"It depends on the task. {numbers}. Where the answer stands in one place, one weight is enough. Where tokens "
        "are counted, small weights are the count: there, none is idle, however near 0 it is."
    )


def keep_largest(trial: Trial) -> list[Spread]:
    """Measures token accuracy with the `KEPT` largest weights of each row, in all layers at once."""
    batch = trial.batch(200)
    _, filters = capture_filters(trial.setup.model, {"params": trial.params_of(0)}, **batch.inputs)

    def measure(params: Any) -> Any:
        def with_largest(count: Any) -> Any:
            edit = {name: lambda weights, grid: _largest(weights, count) for name in filters}
            return judge(trial.setup.model, {"params": params}, batch, edits=edit).token_accuracy

        return jnp.stack([with_largest(count) for count in KEPT])

    return [spread(of_count) for of_count in trial.for_each_seed(measure).T]


def _largest(weights: Any, count: int) -> Any:
    rank = jnp.sum(weights[..., None, :] > weights[..., :, None], axis=-1)
    left = jnp.where(rank < count, weights, 0)
    return left / jnp.maximum(jnp.sum(left, axis=-1, keepdims=True), 1e-9)


def largest(trial: Trial) -> Spread:
    """Measures the largest weight of a row, a mean over rows, heads and layers."""
    return _over_filters(trial, lambda filter: jnp.mean(filter.max()))


def share_of_zeros(trial: Trial) -> Spread:
    """Measures which share of all weights is exactly zero."""
    return _over_filters(trial, lambda filter: jnp.mean(filter.weights() == 0))


def _over_filters(trial: Trial, measure: Any) -> Spread:
    batch = trial.batch(200)

    def of_seed(params: Any) -> Any:
        _, filters = capture_filters(trial.setup.model, {"params": params}, **batch.inputs)
        return jnp.mean(jnp.stack([measure(filter) for filter in filters.values()]))

    return spread(trial.for_each_seed(of_seed))
