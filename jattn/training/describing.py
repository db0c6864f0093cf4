"""Writes examples as words: decoded answers, and the probes whose filters are kept."""

import jax
import numpy as np

from jattn.report.record import INPUTS, Example, Layer, Probes
from jattn.tasks import Batch
from jattn.tasks.layouts import PAD, VECTOR
from jattn.training.evaluation import Measured
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


def describe_probes(setup: Setup, measured: Measured) -> Probes:
    """Describes the examples whose filters are kept: tokens as text, targets and oracles."""
    text, batch = setup.vocabulary(), jax.device_get(measured.batch)
    role = {"tokens": INPUTS, "source": "source", VECTOR: VECTOR}
    layers, related = [], dict(measured.relates)
    heads = {name: weights.shape[1] for name, weights in measured.weights.items()}
    heads |= {name: fields["map"].shape[1] for name, fields in measured.pooled.items()}
    for name in sorted(heads):
        queries, keys = (role[side] for side in related[name])
        layers.append(Layer(name, heads[name], queries, keys, related[name] == setup.layout.oracle))
    examples = []
    for i in range(batch.targets.shape[0]):
        sequences = {VECTOR: [VECTOR]} if any(layer.queries == VECTOR for layer in layers) else {}
        for name in batch.inputs.keys() & role.keys():
            sequences[role[name]] = _words(setup, batch, name, i)
        count = len(sequences[INPUTS])
        scored, oracle = batch.scored[i, :count], batch.oracle[i, :count]
        targets = [text[token] if asked else "" for token, asked in zip(batch.targets[i, :count], scored, strict=True)]
        examples.append(Example(sequences, targets, scored.tolist(), [np.flatnonzero(row).tolist() for row in oracle]))
    return Probes(layers, examples)


def _words(setup: Setup, batch: Batch, name: str, i: int) -> list[str]:
    """Writes what is real of an input of an example as words."""
    items = np.asarray(batch.inputs[name][i])
    if items.ndim == 2:
        lengths = batch.inputs.get(f"{name}_lengths")
        return setup.task.words(items if lengths is None else items[: lengths[i]])
    words = [setup.vocabulary()[token] for token in items]
    return words[: words.index(PAD)] if PAD in words else words
