"""Writes examples as words: decoded answers, and the probes whose filters are kept."""

import base64
import io
import math

import jax
import numpy as np
from PIL import Image

from jattn.filters.names import reading_order
from jattn.report.record import INPUTS, Example, Layer, Picture, Probes
from jattn.tasks import Batch
from jattn.tasks.catalogue import description_of
from jattn.tasks.layouts import PAD, VECTOR
from jattn.tasks.pixels import join
from jattn.training.evaluation import Measured, is_judged
from jattn.training.setup import Setup


def decode(setup: Setup, measured: Measured) -> list[dict[str, str]]:
    """Writes the first examples of a batch as text: source, target, prediction."""
    text, batch = setup.vocabulary(), jax.device_get(measured.batch)
    predictions = np.asarray(measured.predictions)
    examples = []
    for i in range(predictions.shape[0]):
        scored = batch.scored[i]
        source = _words(setup, batch, "source" if "source" in batch.inputs else "tokens", i)
        if setup.layout.name == "decoder":
            source = source[: int(np.argmax(scored))]
        target, prediction = (" ".join(text[token] for token in x[i][scored]) for x in (batch.targets, predictions))
        examples.append({"source": " ".join(source), "target": target, "prediction": prediction})
    return examples


def describe_answers(setup: Setup, measured: Measured) -> np.ndarray:
    """Writes what the model answers at each query of the first examples: texts ``[P, T]``, empty where not scored."""
    text, scored, predictions = jax.device_get((setup.vocabulary(), measured.batch.scored, measured.predictions))
    return np.where(scored, np.array(text)[predictions], "")


def describe_probes(setup: Setup, measured: Measured) -> Probes:
    """Describes the examples whose filters are kept: tokens as text, targets, oracles, and which keys are visible."""
    text, batch = setup.vocabulary(), jax.device_get(measured.batch)
    role = {"tokens": INPUTS, "source": "source", VECTOR: VECTOR}
    layers, related = [], dict(measured.relates)
    heads = {name: weights.shape[1] for name, weights in measured.weights.items()}
    heads |= {name: fields["map"].shape[1] for name, fields in measured.pooled.items()}
    for name in reading_order(heads):
        queries, keys = (role[side] for side in related[name])
        layers.append(Layer(name, heads[name], queries, keys, is_judged(setup, related[name])))
    examples = []
    for i in range(batch.targets.shape[0]):
        sequences = {VECTOR: [VECTOR]} if any(layer.queries == VECTOR for layer in layers) else {}
        for name in batch.inputs.keys() & role.keys():
            sequences[role[name]] = _words(setup, batch, name, i)
        count = len(sequences[INPUTS])
        scored, oracle = batch.scored[i, :count], batch.oracle[i, :count]
        targets = [text[token] if asked else "" for token, asked in zip(batch.targets[i, :count], scored, strict=True)]
        answers = [np.flatnonzero(row).tolist() for row in oracle]
        examples.append(Example(sequences, targets, scored.tolist(), answers, _picture(batch, i)))
    about = "" if "task" in setup.own else description_of(setup.config.task.chosen("name").load())
    return Probes(layers, examples, _visible(layers, examples, jax.device_get(measured.visible)), about)


def _visible(
    layers: list[Layer], examples: list[Example], masks: dict[str, np.ndarray]
) -> dict[str, list[list[list[int]]]]:
    """Writes which keys may be attended to as ranges; of layers in which all may, nothing."""
    visible = {}
    for layer in layers:
        if layer.name not in masks:
            continue
        rows = [
            mask[: len(example.sequences[layer.queries]), : len(example.sequences[layer.keys])]
            for mask, example in zip(masks[layer.name], examples, strict=True)
        ]
        if not all(map(np.all, rows)):
            visible[layer.name] = [[_ranges(row) for row in mask] for mask in rows]
    return visible


def _ranges(row: np.ndarray) -> list[int]:
    """Writes the True entries of a row as ranges: ``[start, stop, start, stop, ...]``."""
    return np.flatnonzero(np.diff(row, prepend=False, append=False)).tolist()


def _picture(batch: Batch, i: int) -> Picture | None:
    """Writes the source of an example as a picture, where it is all the patches of one."""
    patches = batch.inputs.get("source")
    if patches is None or patches.ndim < 3:
        return None
    side, length = math.isqrt(patches.shape[1]), batch.inputs.get("source_lengths")
    if side**2 != patches.shape[1] or (length is not None and length[i] < patches.shape[1]):
        return None
    file = io.BytesIO()
    pixels = np.rint(255 * np.clip(join(np.asarray(patches[i])), 0, 1)).astype(np.uint8)
    Image.fromarray(pixels).save(file, "PNG")
    return Picture(base64.b64encode(file.getvalue()).decode(), side, side)


def _words(setup: Setup, batch: Batch, name: str, i: int) -> list[str]:
    """Writes what is real of an input of an example as words."""
    items = np.asarray(batch.inputs[name][i])
    if items.ndim == 2:
        lengths = batch.inputs.get(f"{name}_lengths")
        return setup.task.words(items if lengths is None else items[: lengths[i]])
    words = [setup.vocabulary()[token] for token in items]
    return words[: words.index(PAD)] if PAD in words else words
