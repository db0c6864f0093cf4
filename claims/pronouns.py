"""*It* finds its antecedent, and flips with one word."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from claims.lab import Lab, Trial, spread
from claims.page import Section, number, percent
from jattn import capture_filters
from jattn.drawing.look import ACCENT, GREY, INK, RAMP
from jattn.report.outcomes import Spread
from jattn.tasks.answers import is_correct
from jattn.tasks.minimal_pairs import minimal_pairs

AT_THE_END = ("configs/pronoun.toml",)
AT_IT = (
    "configs/pronoun.toml",
    *("--task.layout", "encoder", "--task.read-at", "it", "--model.num-layers", "2", "--model.positions", "sinusoidal"),
    *("--training.steps", "800", "--training.learning-rate", "3e-3"),
)
SENTENCE = "the animal did not cross the street because it was too"


def examine(lab: Lab) -> Section:
    """Trains models to say what *it* is, and tests them on pairs of sentences of events that were held out."""
    (end,), (at_it,) = lab.train("pronoun", *AT_THE_END), lab.train("pronoun_at_it", *AT_IT)
    rows, found = [], {}
    for name, trial in (("at the last word, one layer", end), ("at *it*, two layers", at_it)):
        found[name] = flips(trial), trial.outcome.spread("filter_score")
        accuracy = trial.outcome.spread("exact_accuracy")
        rows.append([name, percent(accuracy), percent(found[name][0]), number(found[name][1])])
    verdict, answer = tell(*found.values())
    return Section(
        title="What *it* is",
        claim="In “the animal didn't cross the street because it was too tired”, attention links *it* to *animal*; "
        "with *wide* for *tired*, to *street*.",
        question="Models are trained on sentences about four fifths of all events and tested on pairs about the rest, "
        "which differ in the last word alone. Are they right on both of a pair, and does a head look at the noun?",
        verdict=verdict,
        answer=[*answer, "The sentence of the figure is itself about an event that was held out."],
        tables=[(["asked", "sentences right", "both of a held-out pair right", "filter score"], rows)],
        figures=[("pronoun", "Where the last word looks, with tired and with wide", draw_pair(end))],
    )


def tell(end: tuple[Spread, Spread], at_it: tuple[Spread, Spread]) -> tuple[str, list[str]]:
    """Says what the numbers show: the share of pairs both of which are right, and the filter score, in two places."""
    (ends, sharp), (its, spread_out) = end, at_it
    there = ends.low >= 0.95 and sharp.low > 0.9
    solved, linked = its.low >= 0.95, spread_out.low > 0.9
    joint = "; but" if solved and not linked else ", and"
    by_it = (
        f"Asked at *it*, a model needs two layers, since *it* comes before the word that decides. It is right on both "
        f"of {percent(its)} of the pairs{joint} the best of its heads has {number(spread_out)} of its weight on the "
        "noun."
    )
    if solved and not linked:
        by_it += (
            " What *it* needs of both nouns has gone through other words by then: the answer is found, and the picture "
            "of one line from *it* to the noun is not what the model does."
        )
    answer = [
        f"Asked at the last word, a model of one layer and one head is right on both of {percent(ends)} of the "
        f"held-out pairs, and its head puts {number(sharp)} of its weight on the noun meant.",
        by_it,
    ]
    return "true" if there and solved and linked else "partly true" if there else "false", answer


def flips(trial: Trial, pairs: int = 1000) -> Spread:
    """Measures the share of held-out pairs on both of which a model is right."""
    rng = jax.random.key(1)
    made = minimal_pairs(trial.setup.layout, rng, jnp.arange(pairs), "test", trial.setup.config.task.read_at)

    def measure(params: Any) -> Any:
        right = (jnp.all(is_correct(trial.setup.apply(params, batch), batch), axis=-1) for batch in made)
        return jnp.mean(jnp.logical_and(*right))

    return spread(trial.for_each_seed(measure))


def draw_pair(trial: Trial) -> Figure:
    """Draws where the last word looks in the two sentences, in the first seed's model."""
    figure = Figure((6.6, 3.7), facecolor="white")
    grid = figure.subplots(1, 2)
    figure.subplots_adjust(0.0, 0.02, 1, 0.9, wspace=0.02)
    for axes, last in zip(grid, ("tired", "wide"), strict=True):
        words = [*SENTENCE.split(), last]
        weights, answer = read(trial, words)
        _draw_lines(axes, words, weights, answer)
    return figure


def read(trial: Trial, words: list[str]) -> tuple[np.ndarray, str]:
    """Lets the first seed's model read a sentence; returns where its last word looks, and the answer."""
    symbols = trial.setup.task.symbols
    tokens = jnp.array([[symbols.index(word) for word in words]])
    logits, filters = capture_filters(trial.setup.model, {"params": trial.params_of(0)}, tokens)
    (filter,) = filters.values()
    return np.asarray(filter[0, 0, -1]), trial.setup.vocabulary()[int(jnp.argmax(logits[0, -1]))]


def _draw_lines(axes: Axes, words: list[str], weights: np.ndarray, answer: str) -> None:
    """Draws the words twice, and a line from the last one to each: the more weight, the more ink."""
    count = len(words)
    axes.set(xlim=(0, 1), ylim=(count - 0.5, -0.6))
    axes.axis("off")
    axes.set_title(f"too {words[-1]}: it is the {answer}", fontsize=10.5, color=INK, weight="bold")
    for place, word in enumerate(words):
        strong = word == answer
        left = {"color": ACCENT if strong else INK, "weight": "bold" if strong else "normal", "ha": "right"}
        axes.text(0.36, place, word, fontsize=9.5, va="center", **left)
        colour = INK if place == count - 1 else GREY
        axes.text(0.66, place, word, fontsize=9.5, va="center", color=colour)
        if weights[place] > 0.005:
            line = {"color": RAMP[-2], "alpha": min(1.0, float(weights[place])), "linewidth": 1 + 4 * weights[place]}
            axes.plot([0.38, 0.64], [place, count - 1], solid_capstyle="round", **line)
