"""Run folders for the tests of the report, made by the writers that training uses."""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from jattn.report.record import Example, Layer, Probes, save_probes, save_snapshot

ONE_HEAD = (Layer("block_0/attention", 1, oracle=True),)
CONFIG = '[task]\nname = "reverse"\nlength = 5\n\n[training]\nlearning_rate = 0.003\nsteps = 100\n'

MakeRun = Callable[..., Path]


@pytest.fixture(scope="session")
def make_run(tmp_path_factory: pytest.TempPathFactory) -> MakeRun:
    """Returns a function that writes a run whose filters turn from random ones into the anti-diagonal."""

    def make(
        layers: Sequence[Layer] = ONE_HEAD,
        tokens: Sequence[str] = tuple("30142"),
        steps: Sequence[int] = (0, 50, 100),
        metrics: Sequence[Mapping[str, Any]] | None = None,
    ) -> Path:
        run_dir = tmp_path_factory.mktemp("run")
        rows = list(training_rows(layers, steps)) if metrics is None else metrics
        (run_dir / "config.toml").write_text(CONFIG, encoding="utf-8")
        (run_dir / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        save_probes(run_dir, reversal(layers, tokens))
        for step in steps:
            turned = step / max(*steps, 1)
            save_snapshot(run_dir, step, {layer.name: turning(layer, len(tokens), turned) for layer in layers})
        return run_dir

    return make


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
