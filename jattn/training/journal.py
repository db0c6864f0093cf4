"""What a run writes while it trains: rows of metrics, snapshots of the filters of its probes, its test."""

import math
import time
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from jattn.report.record import read_probes, save_probes
from jattn.report.rows import is_solved
from jattn.report.snapshots import Pooled, save_snapshot, snapshot_path
from jattn.training.describing import decode, describe_answers, describe_probes
from jattn.training.digests import History
from jattn.training.evaluation import Measured, accuracies, add_up, average, make_measure, of_replicate, summarize
from jattn.training.loggers import Loggers
from jattn.training.processes import from_first, is_first
from jattn.training.profiling import Profiler
from jattn.training.progress import Reporter
from jattn.training.run_folder import RunFolder
from jattn.training.setup import Setup
from jattn.training.step import TrainState

Row = dict[str, Any]
"""A row of metrics: its kind, its step, and what was found."""


class Journal:
    """Looks at a state of training, writes down what it finds, and shows it to a person.

    Args:
      setup: the parts of the run.
      folder: where rows and snapshots go.
      reporter: what shows it.
      rows: what an earlier process wrote before the state that training goes on from.

    Attributes:
      profiler: is told of the steps that are reached.
      flops: how many floating-point operations a step takes; None where that is not known.
    """

    def __init__(self, setup: Setup, folder: RunFolder, reporter: Reporter, rows: list[Row]) -> None:
        self._setup, self._folder, self._reporter, self._rows = setup, folder, reporter, rows
        self.profiler = Profiler(setup.config, folder.path, reporter.line)
        self._loggers = Loggers(setup.config, folder.path, rows)
        self._measure = make_measure(setup, setup.config.task.max_length, setup.config.evaluation.batch_size)
        self.flops: float | None = None
        self._seconds, self._steps = 0.0, 0
        self._probes_are_kept = from_first(lambda: _can_read_probes(folder))

    @property
    def evaluation(self) -> Row | None:
        """The latest evaluation; None before the first."""
        return next((row for row in reversed(self._rows) if row["kind"] == "evaluation"), None)

    @property
    def solved(self) -> bool:
        """Whether the latest evaluation met what the config calls solved, for every seed."""
        wanted = self._setup.config.evaluation
        return is_solved(self._rows, wanted.solved_accuracy, wanted.solved_filter_score)

    def is_done(self, step: int) -> bool:
        """Says whether all steps are taken, or the task is solved where that is enough."""
        training = self._setup.config.training
        return step >= training.steps or (training.stop_when_solved and self.solved)

    @property
    def score(self) -> float:
        """What the best checkpoint has most of: exact accuracy and filter score, or less loss on a text, at the latest
        evaluation.
        """
        latest = self.evaluation
        if latest is not None and "perplexity" in latest:
            return math.nan if latest["loss"] is None else -latest["loss"]
        return 0.0 if latest is None else latest["exact_accuracy"] + (latest["filter_score"] or 0.0)

    @property
    def history(self) -> History:
        """What a checkpoint keeps of the rows so far."""
        return self._folder.history()

    def timed(self, steps: int, function: Callable[[], TrainState]) -> TrainState:
        """Calls a function that takes steps, and counts the time towards the next row."""
        start = time.perf_counter()
        state = jax.block_until_ready(function())
        self._seconds, self._steps = self._seconds + time.perf_counter() - start, self._steps + steps
        return state

    def look(self, state: TrainState, *, log: bool, snapshot: bool) -> None:
        """Looks at the filters of the probes of the first seed.

        Args:
          state: of training.
          log: whether to write a row on them, and on the steps since the last row.
          snapshot: whether to keep them, where those of this step are not kept already.
        """
        path, step = self._folder.path, state.number
        snapshot = snapshot and not from_first(lambda: self._probes_are_kept and snapshot_path(path, step).exists())
        if not log and not snapshot:
            return
        probes = self._setup.first(self._measure(state.params, self._setup.rngs("probes"), 0, pools=snapshot))
        kept = (probes.weights, probes.pooled) if snapshot else ({}, {})
        sums, (weights, pooled), watched = jax.device_get((probes.sums, kept, state.sums))
        if snapshot:
            self._keep(step, probes, weights | {name: Pooled(**fields) for name, fields in pooled.items()})
        if log:
            self._log(step, watched, summarize(add_up([sums]))["filters"])

    def _keep(self, step: int, probes: Measured, filters: dict[str, Any]) -> None:
        path = self._folder.path
        if is_first():
            if not self._probes_are_kept:
                save_probes(path, describe_probes(self._setup, probes))
            save_snapshot(path, step, filters, describe_answers(self._setup, probes))
            self._loggers.filters(step, filters)
        self._probes_are_kept = True

    def _log(self, step: int, watched: dict[str, Any], filters: dict[str, Any]) -> None:
        interval = (step - 1) % self._setup.config.run.log_every + 1
        rate = self._steps / self._seconds if self._seconds else 0.0
        row: Row = {
            "kind": "train",
            "step": step,
            **{name: float(np.mean(total)) / interval for name, total in watched.items()},
            **self._setup.learning_rate(step - 1),
            "steps_per_second": rate,
            "tokens_per_second": rate * self._setup.tokens_per_step,
            **({} if self.flops is None else {"flops_per_second": rate * self.flops}),
            "filters": filters,
        }
        self._append(row)
        self._reporter.row(row)
        self._seconds, self._steps = 0.0, 0

    def evaluate(self, state: TrainState) -> None:
        """Judges the model on examples that are the same at each evaluation, and shows some of its answers."""
        wanted, rngs = self._setup.config.evaluation, self._setup.rngs("evaluation")
        results, measured = self._measure_many(self._measure, state, rngs, wanted.examples)
        loss = float(np.mean([result["loss"] for result in results]))
        row: Row = {"kind": "evaluation", "step": state.number, "loss": loss, **average(results)}
        if self._setup.config.run.log_folds:
            row["filters"] = results[0]["filters"]
        row |= {"replicates": self._by_seed(results), "examples": decode(self._setup, measured)[:3]}
        self._append(row)
        self._reporter.evaluation(row)

    def test(self, state: TrainState) -> Row:
        """Judges the model on fresh examples, and on the test lengths; returns the row, also one written before."""
        if self._rows and self._rows[-1]["kind"] == "test":
            return self._rows[-1]
        wanted, rngs = self._setup.config.evaluation, self._setup.rngs("test")
        results, _ = self._measure_many(self._measure, state, rngs, wanted.test_examples)
        by_length = self._test_lengths(state, rngs) if wanted.test_lengths else {}
        row: Row = {"kind": "test", "step": state.number, "examples": results[0]["examples"], **average(results)}
        row["by_length"] = {length: average(found) for length, found in by_length.items()}
        row["replicates"] = self._by_seed(results)
        for replicate, found in enumerate(row["replicates"]):
            found["by_length"] = {length: accuracies(of_all[replicate]) for length, of_all in by_length.items()}
        self._append(row)
        return row

    def _test_lengths(self, state: TrainState, rngs: Any) -> dict[str, list[Row]]:
        wanted, found = self._setup.config.evaluation, {}
        measure = make_measure(self._setup, max(wanted.test_lengths), wanted.batch_size)
        fold_in = self._setup.each(jax.random.fold_in, (0, None))
        for length in wanted.test_lengths:
            examples = math.ceil(wanted.test_examples / 10)
            found[str(length)], _ = self._measure_many(measure, state, fold_in(rngs, length), examples, length, length)
        return found

    def _measure_many(
        self, measure: Callable[..., Measured], state: TrainState, rngs: Any, examples: int, *lengths: int
    ) -> tuple[list[Row], Measured]:
        """Judges all replicates on as many examples; returns the result of each, and a batch of the first one."""
        size, replicates = self._setup.config.evaluation.batch_size, self._setup.config.training.replicates
        batches = [measure(state.params, rngs, start, *lengths) for start in range(0, examples, size)]
        sums = add_up(jax.device_get([batch.sums for batch in batches]))
        each = [of_replicate(sums, replicate, replicates) for replicate in range(replicates)]
        return [summarize(one) | {"examples": int(one["examples"])} for one in each], self._setup.first(batches[0])

    def _by_seed(self, results: list[Row]) -> list[Row]:
        seeds = np.ravel(self._setup.seeds).tolist()
        return [{"seed": seed, **accuracies(found)} for seed, found in zip(seeds, results, strict=True)]

    def _append(self, row: Row) -> None:
        self._rows.append(row)
        self._folder.append(row)
        self._loggers.row(row)

    def close(self) -> None:
        """Ends what is under way besides: a trace, and what loggers have left to write."""
        self.profiler.close()
        self._loggers.close()


def _can_read_probes(folder: RunFolder) -> bool:
    try:
        read_probes(folder.path / "filters" / "probes.json")
    except (OSError, ValueError):
        return False
    return True


def snapshot_steps(steps: int, count: int) -> list[int]:
    """Lists at most `count` steps to take snapshots at: 0, then evenly spaced on a log scale, then `steps`.

    Example:
      >>> from jattn.training.journal import snapshot_steps
      >>> snapshot_steps(1000, 7)
      [0, 1, 4, 16, 63, 251, 1000]
    """
    spaced = {round(steps ** (i / max(1, count - 2))) for i in range(count - 1)}
    return sorted({0, *spaced, steps})
