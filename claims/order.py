"""Without positions, word order is lost; and each position is transformed alike."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from claims.lab import Lab, Trial, spread
from claims.page import Section, number, percent
from jattn.report.outcomes import Spread

CONFIGS = {"reverse": "configs/reverse.toml", "histogram": "configs/histogram.toml"}


def train(lab: Lab) -> dict[str, dict[str, Trial]]:
    """Trains each task with and without positions."""
    return {
        task: {
            trial.values["positions"]: trial
            for trial in lab.train(f"order_{task}", config, "--sweep", "model.positions", "sinusoidal", "none")
        }
        for task, config in CONFIGS.items()
    }


def examine(lab: Lab) -> Section:
    """Trains a task that is about order and one that is not, with and without positions."""
    trials = train(lab)
    found = {
        (task, kind): trial.outcome.spread("token_accuracy")
        for task, kinds in trials.items()
        for kind, trial in kinds.items()
    }
    rows = [
        [task, kind, percent(trial.outcome.spread("token_accuracy")), percent(trial.outcome.spread("exact_accuracy"))]
        for task, kinds in trials.items()
        for kind, trial in kinds.items()
    ]
    verdict, answer = tell(found)
    return Section(
        title="Without positions, order is lost",
        claim="All tokens enter at once, so positional encoding has to tell the model where each one stands.",
        question="Reverse is about order; histogram, which counts how often each token occurs, is not. What does each "
        "lose without positions?",
        verdict=verdict,
        answer=answer,
        tables=[(["task", "positions", "tokens right", "sequences right"], rows)],
    )


def tell(found: Mapping[tuple[str, str], Spread]) -> tuple[str, list[str]]:
    """Says what the shares of tokens that are right show, by task and kind of positions."""
    lost = found["reverse", "none"].high < 0.5 < 0.99 < found["reverse", "sinusoidal"].low
    kept = found["histogram", "none"].low > found["histogram", "sinusoidal"].low - 0.02
    reverse = (
        f"Without positions, reverse gets {percent(found['reverse', 'none'])} of its tokens right, with them "
        f"{percent(found['reverse', 'sinusoidal'])}."
    )
    if lost:
        reverse += (
            " All queries at equal digits are then the same query, and all places the same to it; better than chance, "
            "one in ten, is only what a bag of digits tells."
        )
    else:
        reverse += " By that, order is not lost: the numbers do not bear the sentence out."
    numbers = (
        f"{percent(found['histogram', 'none'])} without, {percent(found['histogram', 'sinusoidal'])} with positions."
    )
    if kept:
        histogram = f"Histogram loses nothing: {numbers} Order that a task does not ask for need not be told."
    else:
        histogram = f"Histogram, which asks for no order, loses as well: {numbers}"
    return "true" if lost and kept else "partly true" if lost or kept else "false", [reverse, histogram]


def examine_alike(lab: Lab) -> Section:
    """Permutes the input of trained models and compares their outputs."""
    trials = train(lab)
    moved = {(task, kind): moves_along(trial) for task, kinds in trials.items() for kind, trial in kinds.items()}
    alone = {task: says_the_same_alone(kinds["none"]) for task, kinds in trials.items()}
    rows = [[task, kind, f"{found.mean:.1e}", f"{found.high:.1e}"] for (task, kind), found in moved.items()]
    verdict, answer = tell_alike(moved, alone)
    return Section(
        title="Every position is transformed alike",
        claim="Each of the n positions is transformed n separate times, with the same weights.",
        question="If that is so, permuting the input permutes the output and changes nothing else, as long as no "
        "positions are told. By how much do the logits differ from that?",
        verdict=verdict,
        answer=answer,
        tables=[(["task", "positions", "difference, mean over seeds", "highest"], rows)],
    )


def tell_alike(moved: Mapping[tuple[str, str], Spread], alone: Mapping[str, Spread]) -> tuple[str, list[str]]:
    """Says what the differences show: of permuted inputs, by task and kind of positions, and at other places."""
    equal = all(found.high < 1e-3 for (_, kind), found in moved.items() if kind == "none")
    told_apart = all(found.low > 1e-2 for (_, kind), found in moved.items() if kind != "none")
    first = (
        "Without positions the outputs move along with the inputs, up to rounding"
        if equal
        else "Without positions the outputs do not move along with the inputs"
    )
    second = (
        "with them they do not, and must not"
        if told_apart
        else "with them some do as well, as if positions had not been told"
    )
    between = max(found.mean for found in alone.values()) > 1e-3
    return "true" if equal and told_apart else "partly true" if equal or told_apart else "false", [
        f"{first}; {second}. The table tells the greatest difference between the logits of a permuted input and the "
        "permuted logits, over 100 inputs.",
        "Separate, though, is only what happens after the filter: the filter itself brings all positions together. "
        f"Change one token, and the logits of the *other* places move by up to {number(alone['histogram'], 1)} "
        f"(histogram) and {number(alone['reverse'], 1)} (reverse)."
        if between
        else "And separate they are: change one token, and the logits of the other places stay as they are.",
    ]


def moves_along(trial: Trial) -> Spread:
    """Measures how far the logits of a permuted input are from the permuted logits."""
    tokens = trial.batch(100).inputs["tokens"]
    order = jax.random.permutation(jax.random.key(0), tokens.shape[1])

    def measure(params: Any) -> Any:
        logits, permuted = (trial.setup.model.apply({"params": params}, x) for x in (tokens, tokens[:, order]))
        return jnp.max(jnp.abs(permuted - logits[:, order]))

    return spread(trial.for_each_seed(measure))


def says_the_same_alone(trial: Trial) -> Spread:
    """Measures how far logits move at other places when the first token changes."""
    tokens = trial.batch(100).inputs["tokens"]
    other = tokens.at[:, 0].set((tokens[:, 0] + 1) % len(trial.setup.task.symbols))

    def measure(params: Any) -> Any:
        logits, changed = (trial.setup.model.apply({"params": params}, x) for x in (tokens, other))
        return jnp.max(jnp.abs(changed - logits)[:, 1:])

    return spread(trial.for_each_seed(measure))
