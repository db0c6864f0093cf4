"""Figures of the five uses: where a head looks from each answer."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from claims.lab import Trial
from jattn import AttentionFilter, capture_filters
from jattn.drawing.heat_maps import paint_cells
from jattn.drawing.ink import LINEAR
from jattn.drawing.look import ACCENT, FAINT, GREY, INK
from jattn.tasks.pixels import join


def look(trial: Trial, examples: int = 64) -> tuple[Any, dict[str, AttentionFilter]]:
    """Returns a batch, and the filters of the first seed's model on it."""
    batch = trial.batch(examples)
    _, filters = jax.jit(lambda params: capture_filters(trial.setup.model, {"params": params}, **batch.inputs))(
        trial.params_of(0)
    )
    return batch, filters


def best_head(trial: Trial, batch: Any, filters: dict[str, AttentionFilter]) -> np.ndarray:
    """Returns the weights ``[examples, T, S]`` of the head with the most mass on the oracle."""
    judged = batch.scored & jnp.any(batch.oracle, axis=-1)
    best, most = None, -1.0
    for filter in filters.values():
        if filter.relates != trial.setup.layout.oracle:
            continue
        mass = jnp.where(judged[:, None], filter.mass(batch.oracle[:, None]), 0).sum((0, 2)) / judged.sum()
        head = int(jnp.argmax(mass))
        if float(mass[head]) > most:
            best, most = np.asarray(filter.weights()[:, head]), float(mass[head])
    assert best is not None
    return best


def source_words(trial: Trial, batch: Any, example: int) -> list[str]:
    """Writes the source of an example as words."""
    name = "source" if "source" in batch.inputs else "tokens"
    lengths = batch.inputs.get(f"{name}_lengths" if name == "source" else "lengths")
    items = np.asarray(batch.inputs[name][example])
    text = trial.setup.vocabulary()
    words = [text[item] for item in items]
    return words if lengths is None else words[: int(lengths[example])]


def draw_texts(trials: dict[str, Trial]) -> Figure:
    """Draws, for one example of each, a row per answer and a column per word: ink for weight, outlined the oracle."""
    shown = []
    for use, trial in trials.items():
        batch, filters = look(trial)
        weights, words = best_head(trial, batch, filters)[0], source_words(trial, batch, 0)
        scored = np.flatnonzero(batch.scored[0])
        answers = [trial.setup.vocabulary()[int(batch.targets[0, row])] for row in scored]
        shown.append((use, answers, words, weights[scored][:, : len(words)], np.asarray(batch.oracle[0])[scored]))
    longest, cell = max(len(words) for _, _, words, _, _ in shown), 0.27
    heights = [cell * len(answers) + 1.25 for _, answers, *_ in shown]
    width, height = 1.5 + cell * longest + 0.2, sum(heights)
    figure, top = Figure((width, height), facecolor="white"), height
    for (use, answers, words, weights, oracle), tall in zip(shown, heights, strict=True):
        bottom, box = top - tall + 0.85, (cell * len(words), cell * len(answers))
        axes = figure.add_axes((1.5 / width, bottom / height, box[0] / width, box[1] / height))
        _draw_rows(axes, weights, oracle, answers, words)
        axes.set_title(use, fontsize=10, weight="bold", color=INK, loc="left")
        top -= tall
    return figure


def draw_pooling(trial: Trial) -> Figure:
    """Draws the filter that pools a sentence, a row per head."""
    batch, filters = look(trial)
    (filter,) = (filter for name, filter in filters.items() if name.split("/")[-1] == "pooling")
    words = source_words(trial, batch, 0)
    weights = np.asarray(filter.weights()[0, :, 0, : len(words)])
    cell, heads = 0.42, [f"head {head}" for head in range(len(weights))]
    width, height = 1.2 + cell * len(words) + 0.2, 1.5 + cell * len(heads)
    figure = Figure((width, height), facecolor="white")
    axes = figure.add_axes((1.2 / width, 0.95 / height, cell * len(words) / width, cell * len(heads) / height))
    _draw_rows(axes, weights, np.zeros(weights.shape, bool), heads, words)
    return figure


def draw_picture(trial: Trial) -> Figure:
    """Draws a picture, and over it where the best head looks from each word of its caption."""
    batch, filters = look(trial)
    weights, pixels = best_head(trial, batch, filters)[0], join(np.asarray(batch.inputs["source"][0]))
    words = [trial.setup.vocabulary()[int(word)] for word in batch.targets[0]]
    figure = Figure((1.55 * (len(words) + 1), 1.95), facecolor="white")
    grid = figure.subplots(1, len(words) + 1)
    figure.subplots_adjust(0.01, 0.02, 0.99, 0.84, wspace=0.06)
    side = round(weights.shape[1] ** 0.5)
    for place, axes in enumerate(grid):
        axes.imshow(pixels, extent=(0, side, side, 0), interpolation="nearest")
        axes.set(xticks=[], yticks=[])
        axes.spines[:].set(color=FAINT)
        if place == 0:
            axes.set_title("the picture", fontsize=9, color=GREY)
            continue
        shade = np.zeros((side, side, 4))
        shade[..., :3], shade[..., 3] = 1, 0.85 * (1 - weights[place - 1].reshape(side, side))
        axes.imshow(shade, extent=(0, side, side, 0), interpolation="nearest")
        axes.set_title(words[place - 1], fontsize=10, weight="bold", color=INK)
    return figure


def _draw_rows(
    axes: Axes, weights: np.ndarray, oracle: np.ndarray, rows: Sequence[str], columns: Sequence[str]
) -> None:
    paint_cells(axes, weights, LINEAR)
    axes.set_xticks(range(len(columns)), columns, rotation=90, fontsize=8, color=GREY, parse_math=False)
    axes.set_yticks(range(len(rows)), rows, fontsize=8, color=INK, parse_math=False)
    axes.tick_params(length=0)
    axes.spines[:].set(color=FAINT)
    for row, column in zip(*np.nonzero(oracle[:, : len(columns)]), strict=True):
        axes.add_patch(_outline(row, column))


def _outline(row: int, column: int) -> Any:
    return Rectangle((column - 0.46, row - 0.46), 0.92, 0.92, fill=False, edgecolor=ACCENT, linewidth=1.1)
