"""The loop on the host: chunks of compiled steps, and at their ends metrics, snapshots, evaluations, checkpoints."""

import math
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jattn.report.record import INPUTS, Example, Layer, Probes, save_probes
from jattn.report.snapshots import Pooled, save_snapshot, snapshot_path
from jattn.tasks import Batch
from jattn.tasks.layouts import PAD, VECTOR
from jattn.training.checkpoints import Checkpoints
from jattn.training.config import Config
from jattn.training.evaluation import ACCURACIES, Measured, add_up, average, make_measure, of_replicate, summarize
from jattn.training.interrupts import Interrupts
from jattn.training.progress import Reporter
from jattn.training.run_folder import RunFolder
from jattn.training.setup import Setup
from jattn.training.step import initial_state, make_train_chunk


class TrainingFailed(RuntimeError):
    """A run that cannot go on; its text says why, and what is kept."""


def snapshot_steps(steps: int, count: int) -> list[int]:
    """Lists at most `count` steps to take snapshots at: 0, then evenly spaced on a log scale, then `steps`.

    Example:
      >>> from jattn.training.loop import snapshot_steps
      >>> snapshot_steps(1000, 7)
      [0, 1, 4, 16, 63, 251, 1000]
    """
    spaced = {round(steps ** (i / max(1, count - 2))) for i in range(count - 1)}
    return sorted({0, *spaced, steps})


class Run:
    """One training run: its parts, its state and its folder.

    Args:
      setup: the parts.
      folder: where it is written; an earlier run found there is resumed from its latest checkpoint.
      reporter: what tells a person about it.
      interrupts: signals that ask it to stop.
    """

    def __init__(self, setup: Setup, folder: RunFolder, reporter: Reporter, interrupts: Interrupts) -> None:
        self.setup, self.folder, self.reporter, self.interrupts = setup, folder, reporter, interrupts
        self.config: Config = setup.config
        self.train_chunk = make_train_chunk(setup)
        self.learning_rate = jax.jit(setup.schedule)
        self.measure = make_measure(setup, setup.config.task.max_length, setup.config.evaluation.batch_size)
        self.checkpoints = Checkpoints(folder.path / "checkpoints", setup.config.run.keep_checkpoints)
        self.state = initial_state(setup)
        self.seconds, self.timed_steps = 0.0, 0
        step = self.checkpoints.latest_step()
        if step is not None:
            self.state = self.checkpoints.restore(self.state)
        self.rows = folder.rewind(-1 if step is None else step)

    @property
    def step(self) -> int:
        """How many steps were taken."""
        return int(np.max(jax.device_get(self.state.step)))

    @property
    def solved(self) -> bool:
        """Whether the latest evaluation met what the config calls solved, for every seed."""
        evaluations = [row for row in self.rows if row["kind"] == "evaluation"]
        wanted = self.config.evaluation
        return bool(evaluations) and all(
            found["exact_accuracy"] >= wanted.solved_accuracy
            and (found["filter_score"] is None or found["filter_score"] >= wanted.solved_filter_score)
            for found in evaluations[-1]["replicates"]
        )

    @property
    def done(self) -> bool:
        """Whether there is nothing left to train."""
        return self.step >= self.config.training.steps or (self.config.training.stop_when_solved and self.solved)

    def train(self) -> None:
        """Trains until done, or until a signal came; in the end all is saved.

        Raises:
          TrainingFailed: at a loss that is not finite; the last good checkpoint is kept.
        """
        config, steps = self.config, self.config.training.steps
        snapshots = set(snapshot_steps(steps, config.run.snapshots))
        intervals = (config.run.log_every, config.evaluation.every, config.run.checkpoint_every)
        if self.step == 0:
            self._look(snapshot=True)
            self._evaluate()
        stopping = self.interrupts.received
        while not self.done and not stopping:
            later = [step for step in snapshots if step > self.step]
            self._advance(min(steps, *later, *((self.step // every + 1) * every for every in intervals)))
            step, last = self.step, self.step == steps
            if last or step % config.run.log_every == 0:
                self._log(self._look(snapshot=step in snapshots))
            elif step in snapshots:
                self._look(snapshot=True)
            if last or step % config.evaluation.every == 0:
                self._evaluate()
            # Asked once: a signal that comes after the question is for the next turn to save.
            stopping = self.interrupts.received
            if self.done or stopping or step % config.run.checkpoint_every == 0:
                self.checkpoints.save(self.state, self._score())
        if self.done and not snapshot_path(self.folder.path, self.step).exists():
            self._look(snapshot=True)

    def test(self) -> dict[str, Any]:
        """Judges the trained model on fresh examples, and on the test lengths; returns the row of metrics."""
        if self.rows and self.rows[-1]["kind"] == "test":
            return self.rows[-1]
        wanted, rngs = self.config.evaluation, self.setup.rngs("test")
        results, _ = self._measure_many(self.measure, rngs, wanted.test_examples)
        by_length = {}
        if wanted.test_lengths:
            room = max(wanted.test_lengths)
            measure = make_measure(self.setup, room, wanted.batch_size)
            fold_in = self.setup.each(jax.random.fold_in, (0, None))
            for length in wanted.test_lengths:
                examples = math.ceil(wanted.test_examples / 10)
                by_length[str(length)], _ = self._measure_many(measure, fold_in(rngs, length), examples, length, length)
        row = {"kind": "test", "step": self.step, "examples": results[0]["examples"], **average(results)}
        row["by_length"] = {length: average(found) for length, found in by_length.items()}
        row["replicates"] = self._each(results)
        for replicate, found in enumerate(row["replicates"]):
            found["by_length"] = {length: _accuracies(of_all[replicate]) for length, of_all in by_length.items()}
        self._append(row)
        return self.rows[-1]

    def _advance(self, until: int) -> None:
        before, start = self.step, time.perf_counter()
        self.state = self.train_chunk(self.state, jnp.int32(until))
        broken_steps = np.ravel(jax.device_get(self.state.broken_step))
        if np.any(broken_steps >= 0):
            kept, which = self.checkpoints.latest_step(), int(np.argmax(broken_steps))
            of_seed = f" of seed {np.ravel(self.setup.seeds)[which]}" if len(broken_steps) > 1 else ""
            raise TrainingFailed(
                f"the loss{of_seed} is not finite at step {broken_steps[which]}; "
                + (f"the checkpoint of step {kept} is kept" if kept is not None else "there is no checkpoint before it")
                + "; a lower training.learning_rate or training.clip_norm may help"
            )
        self.seconds += time.perf_counter() - start
        self.timed_steps += self.step - before

    def _look(self, snapshot: bool) -> dict[str, Any]:
        """Looks at the probes of the first seed: returns what their filters are like, and keeps those of a few."""
        found = self.measure(self.state.params, self.setup.rngs("probes"), 0, pools=snapshot)
        measured = of_replicate(found, 0, self.config.training.replicates)
        kept = (measured.weights, measured.pooled) if snapshot else ({}, {})
        sums, (weights, pooled), watched = jax.device_get((measured.sums, kept, self.state.sums))
        if snapshot:
            if self.step == 0:
                save_probes(self.folder.path, describe_probes(self.setup, measured))
            maps = {name: Pooled(**fields) for name, fields in pooled.items()}
            save_snapshot(self.folder.path, self.step, weights | maps)
        return summarize(add_up([sums])) | {"watched": watched}

    def _log(self, look: dict[str, Any]) -> None:
        interval = (self.step - 1) % self.config.run.log_every + 1
        rate = self.timed_steps / self.seconds if self.seconds else 0.0
        longest = self.config.task.max_length
        positions = self.setup.layout.num_positions(longest, self.setup.task.target_room(longest))
        tokens = self.config.training.batch_size * positions * self.config.training.replicates
        row = {
            "kind": "train",
            "step": self.step,
            **{name: float(np.mean(total)) / interval for name, total in look["watched"].items()},
            "learning_rate": float(self.learning_rate(self.step - 1)),
            "steps_per_second": rate,
            "tokens_per_second": rate * tokens,
            "filters": look["filters"],
        }
        self._append(row)
        self.reporter.row(row)
        self.seconds, self.timed_steps = 0.0, 0

    def _evaluate(self) -> None:
        results, measured = self._measure_many(
            self.measure, self.setup.rngs("evaluation"), self.config.evaluation.examples
        )
        loss = float(np.mean([result["loss"] for result in results]))
        row = {"kind": "evaluation", "step": self.step, "loss": loss, **average(results)}
        self._append(row | {"replicates": self._each(results), "examples": decode(self.setup, measured)[:3]})
        self.reporter.evaluation(self.rows[-1])

    def _measure_many(
        self, measure: Any, rngs: Any, examples: int, *lengths: int
    ) -> tuple[list[dict[str, Any]], Measured]:
        """Judges all replicates on as many examples; returns the result of each, and a batch of the first one."""
        size, replicates = self.config.evaluation.batch_size, self.config.training.replicates
        batches = [measure(self.state.params, rngs, start, *lengths) for start in range(0, examples, size)]
        sums = add_up(jax.device_get([batch.sums for batch in batches]))
        each = [of_replicate(sums, replicate, replicates) for replicate in range(replicates)]
        results = [summarize(found) | {"examples": int(found["examples"])} for found in each]
        return results, of_replicate(batches[0], 0, replicates)

    def _each(self, results: list[dict[str, Any]]) -> list[dict[str, Any]]:
        seeds = np.ravel(self.setup.seeds).tolist()
        return [{"seed": seed, **_accuracies(found)} for seed, found in zip(seeds, results, strict=True)]

    def _score(self) -> float:
        evaluations = [row for row in self.rows if row["kind"] == "evaluation"]
        return evaluations[-1]["exact_accuracy"] + (evaluations[-1]["filter_score"] or 0.0) if evaluations else 0.0

    def _append(self, row: dict[str, Any]) -> None:
        self.rows.append(row)
        self.folder.append(row)


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


def _accuracies(result: dict[str, Any]) -> dict[str, Any]:
    return {name: result[name] for name in ACCURACIES}
