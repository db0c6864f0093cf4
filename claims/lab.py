"""The lab: trains what a claim asks for, several seeds at once, and remembers what is done."""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Float

from jattn.command.options import config_from_arguments
from jattn.command.sweeps import sweep_from_arguments
from jattn.report.outcomes import Outcome, Spread
from jattn.tasks import Batch, make_batch
from jattn.training.interrupts import Interrupts
from jattn.training.loop import train
from jattn.training.restore import restore
from jattn.training.run_folder import read_metrics
from jattn.training.setup import Setup
from jattn.training.sweeps import finished_test, prepare, run_sweep


@dataclasses.dataclass(frozen=True)
class Trial:
    """One config, trained with several seeds at once.

    Attributes:
      values: what sets it apart from the others of its sweep.
      folder: its run folder.
      test: the row of metrics of its final test.
    """

    values: Mapping[str, Any]
    folder: Path
    test: Mapping[str, Any]

    @property
    def outcome(self) -> Outcome:
        """Its results as a comparison takes them."""
        return Outcome(self.values, self.folder.name, self.test)

    def evaluations(self) -> list[dict[str, Any]]:
        """Reads the rows of its evaluations, in order of steps."""
        return [row for row in read_metrics(self.folder) if row["kind"] == "evaluation"]

    @functools.cached_property
    def restored(self) -> tuple[Setup, Any]:
        """What was trained: its parts, and the parameters with an axis of seeds."""
        return restore(self.folder)

    @property
    def setup(self) -> Setup:
        """Its task, layout and model."""
        return self.restored[0]

    @property
    def params(self) -> Any:
        """The parameters of all seeds, along a first axis."""
        return self.restored[1]

    def params_of(self, seed: int) -> Any:
        """Returns the parameters of one seed."""
        return jax.tree.map(lambda x: x[seed], self.params)

    def batch(self, examples: int, length: int | None = None) -> Batch:
        """Makes examples that are neither of training nor of the test."""
        task = self.setup.config.task
        shortest, longest = (task.min_length, task.max_length) if length is None else (length, length)
        rng = jax.random.fold_in(self.setup.rng("test"), 2**31 - 1)
        held_out = self.setup.task.as_judged()
        return make_batch(held_out, self.setup.layout, rng, jnp.arange(examples), (shortest, longest), longest)

    def for_each_seed(self, function: Callable[[Any], Any], params: Any = None) -> Any:
        """Maps a function of parameters over the seeds, compiled once; by default, of what was trained."""
        return jax.device_get(jax.jit(lambda all_seeds: jax.lax.map(function, all_seeds))(params or self.params))


class Lab:
    """Does experiments in a folder; what is done there is not done again.

    Args:
      folder: where run folders lie.
      seeds: how many seeds each config is trained with.
      signals: as for `jattn.training.train`.
    """

    def __init__(self, folder: Path, seeds: int, signals: Interrupts) -> None:
        self.folder, self.seeds, self.signals = folder, seeds, signals
        self.commands: list[str] = []

    def train(self, name: str, *arguments: str) -> list[Trial]:
        """Trains a config, or each of a sweep; returns a trial for each.

        Args:
          name: of the folder.
          *arguments: what ``train.py`` takes; the number of seeds and the folder are added.
        """
        self.commands.append(_command(arguments, self.seeds))
        path = self.folder / name
        arguments = (*arguments, "--training.replicates", str(self.seeds), "--run.folder", str(path))
        sweep = sweep_from_arguments(arguments)
        if sweep is None:
            config = config_from_arguments(arguments)
            return [Trial({}, path, finished_test(config) or train(config, signals=self.signals))]
        sweep = prepare(sweep)
        outcomes = run_sweep(sweep, self.signals)
        trials = []
        for outcome in outcomes:
            if outcome.test is None:
                raise RuntimeError(f"{path / outcome.folder}: the run failed; a claim needs them all")
            trials.append(Trial(outcome.values, path / outcome.folder, outcome.test))
        return trials


def _command(arguments: tuple[str, ...], seeds: int) -> str:
    return " ".join(["python train.py", *arguments, "--training.replicates", str(seeds)])


def spread(values: Sequence[float] | Float[Any, " seeds"]) -> Spread:
    """Returns mean, lowest and highest of a number over seeds."""
    numbers = [float(value) for value in values]
    return Spread(sum(numbers) / len(numbers), min(numbers), max(numbers))
