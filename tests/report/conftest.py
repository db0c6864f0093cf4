"""Run folders for the tests of the report, made by the writers that training uses."""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from jattn.drawing.bins import oracle_mass, pool_weights
from jattn.report.measures import entropy, hit_rate, oracle_matrix
from jattn.report.record import Example, Layer, Probes, save_probes
from jattn.report.snapshots import Pooled, save_snapshot
from tests.report.browsing import started

ONE_HEAD = (Layer("block_0/attention", 1, oracle=True),)
CONFIG = '[task]\nname = "reverse"\nlength = 5\n\n[training]\nlearning_rate = 0.003\nsteps = 100\n'

MakeRun = Callable[..., Path]


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """Returns a headless browser."""
    yield from started(tmp_path_factory.mktemp("profile"))


@pytest.fixture(scope="session")
def make_run(tmp_path_factory: pytest.TempPathFactory) -> MakeRun:
    """Returns a function that writes a run whose filters turn from random ones into the anti-diagonal."""

    def make(
        layers: Sequence[Layer] = ONE_HEAD,
        tokens: Sequence[str] = tuple("30142"),
        steps: Sequence[int] = (0, 50, 100),
        metrics: Sequence[Mapping[str, Any]] | None = None,
        **more: Any,
    ) -> Path:
        run_dir = tmp_path_factory.mktemp("run")
        rows = list(training_rows(layers, steps)) if metrics is None else metrics
        (run_dir / "config.toml").write_text(CONFIG, encoding="utf-8")
        (run_dir / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        save_probes(run_dir, replace(reversal(layers, tokens), **more))
        for step in steps:
            turned = step / max(*steps, 1)
            filters = {layer.name: turning(layer, len(tokens), turned) for layer in layers}
            save_snapshot(run_dir, step, filters, answers(tokens, turned))
        return run_dir

    return make


@pytest.fixture(scope="session")
def make_pooled_run(make_run: MakeRun) -> MakeRun:
    """Returns a function that writes a run whose examples are longer than the screen, and of different lengths."""

    def make(
        layers: Sequence[Layer] = ONE_HEAD,
        lengths: Sequence[int] = (40, 24),
        bins: int = 16,
        steps: Sequence[int] = (0, 50, 100),
    ) -> Path:
        run_dir = make_run(layers, tokens=[str(place % 10) for place in range(max(lengths))], steps=steps)
        probes = Probes(layers, [reversal(layers, [str(i % 10) for i in range(n)]).examples[0] for n in lengths])
        save_probes(run_dir, probes)
        for step in steps:
            kept = {layer.name: pooled(layer, probes, step / max(*steps, 1), bins) for layer in layers}
            save_snapshot(run_dir, step, kept)
        return run_dir

    return make


def pooled(layer: Layer, probes: Probes, turned: float, bins: int) -> Pooled:
    """Pools the filters that `turning` makes for the length of each example; padding is zero."""
    room = max(len(example.targets) for example in probes.examples)
    maps = np.zeros((len(probes.examples), layer.heads, bins, bins))
    rows = (
        np.zeros((len(probes.examples), layer.heads, room, 8)),
        np.zeros((len(probes.examples), layer.heads, room, 8)),
    )
    measures = []
    for index, example in enumerate(probes.examples):
        count = len(example.targets)
        weights, side = turning(layer, count, turned)[0], min(bins, count)
        maps[index, :, :side, :side] = pool_weights(weights, (side, side))
        rows[1][index, :, :count] = keys = np.argsort(-weights, axis=-1)[..., :8]
        rows[0][index, :, :count] = np.take_along_axis(weights, keys, axis=-1)
        oracle = oracle_matrix(layer, example)
        measures.append((oracle_mass(weights, oracle), hit_rate(weights, oracle), entropy(weights)))
    return Pooled(maps, rows[0], rows[1].astype(int), *np.swapaxes(measures, 0, 1))


def reversal(layers: Sequence[Layer], tokens: Sequence[str]) -> Probes:
    """Returns two examples whose answers are their tokens, reversed; of the second, the last query is not scored."""
    count = len(tokens)
    examples = []
    for shift in range(2):
        sequence = [*tokens[shift:], *tokens[:shift]]
        oracle = [[count - 1 - query] for query in range(count)]
        sequences = {"inputs": sequence, "source": sequence}
        scored = [query + shift < count for query in range(count)]
        examples.append(Example(sequences, sequence[::-1], scored, oracle))
    return Probes(layers, examples)


def answers(tokens: Sequence[str], turned: float) -> np.ndarray:
    """Answers with the right tokens as far as the filters have turned, and with the first of them beyond."""
    targets = [example.targets for example in reversal((), tokens).examples]
    known = round(turned * len(tokens))
    return np.array([[*target[:known], *[target[0]] * (len(tokens) - known)] for target in targets])


def turning(layer: Layer, count: int, turned: float) -> np.ndarray:
    """Mixes random filters with the anti-diagonal (even heads) or the diagonal (odd heads)."""
    random = np.random.default_rng(len(layer.name)).dirichlet(np.ones(count), (2, layer.heads, count))
    end = np.stack([np.eye(count)[:, ::-1] if head % 2 == 0 else np.eye(count) for head in range(layer.heads)])
    return (1 - turned) * random + turned * end


def training_rows(layers: Sequence[Layer], steps: Sequence[int]) -> Iterator[dict[str, Any]]:
    """Yields a row of each kind that a run writes."""
    accuracies = {"token_accuracy": 0.9, "exact_accuracy": 0.75, "filter_score": 0.8}
    for step in steps:
        part = step / max(*steps, 1)
        filters = {
            layer.name: {
                "entropy": [1.6 - part] * layer.heads,
                "mass": [0.2 + 0.7 * part] * layer.heads if layer.oracle else None,
                "hit_rate": [part] * layer.heads if layer.oracle else None,
                "lift": [1 + part] * layer.heads if layer.oracle else None,
            }
            for layer in layers
        }
        yield {"kind": "train", "step": step, "loss": 2.3 - 2 * part, "token_accuracy": part, "filters": filters}
        said = {"source": "3 1 2", "target": "2 1 3", "prediction": "2 1 1"}
        yield {"kind": "evaluation", "step": step, "loss": 2.3 - 2 * part, **accuracies, "examples": [said]}
    by_length = {"8": accuracies, "16": accuracies | {"exact_accuracy": 0.5}}
    yield {"kind": "test", "step": max(steps), "examples": 10_000, **accuracies, "by_length": by_length}
