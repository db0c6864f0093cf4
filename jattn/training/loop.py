"""The training loop: config, setup, steps, log, evaluate, snapshot, save, test, report."""

from collections.abc import Callable
from contextlib import closing, nullcontext
from typing import Any

import jax.numpy as jnp
import optax

from jattn.report import render
from jattn.tasks import Task
from jattn.training.announcing import device_line, first_line
from jattn.training.beginning import begin
from jattn.training.checkpoints import Checkpoints
from jattn.training.config import Config
from jattn.training.interrupts import Interrupts
from jattn.training.journal import Journal, snapshot_steps
from jattn.training.loggers import check_loggers
from jattn.training.processes import agreed, check_joined, is_first, leave_at_exit, wait_for_first
from jattn.training.progress import Reporter, reporter
from jattn.training.provenance import recorded
from jattn.training.restore import resume
from jattn.training.run_folder import open_folder
from jattn.training.runs import alone, in_float32, on_its_devices
from jattn.training.setup import Setup, make_setup
from jattn.training.step import TrainChunk, TrainState, check_finite


@in_float32()
def train(
    config: Config,
    *,
    task: Task | None = None,
    model: Any = None,
    optimizer: optax.GradientTransformation | None = None,
    signals: Interrupts | None = None,
    report: Reporter | None = None,
    command: str = "",
) -> dict[str, Any]:
    """Trains, tests and draws a run, or resumes it where it was cut off; returns the row of metrics of its test.

    Args:
      config: of the run; its folder is held until the end.
      task: an own task in place of ``config.task``'s; layout and lengths are still the config's.
      model: an own linen module in place of ``config.model``'s, or an NNX module, which stays as it is: training
        begins with its parameters, for every seed. It is called as ``model(**batch.inputs, deterministic=...)`` and
        returns logits over the task's symbols and the layout's special tokens.
      optimizer: an own optimizer in place of ``config.training``'s; rows of metrics then have no learning rate.
      signals: of `jattn.training.interrupts.interrupts`, in whose time this runs; None handles no signals.
      report: of `jattn.training.progress`, which shows the run and was shown what is asked for; None makes one.
      command: what was asked for on the command line, for the record of the run.

    Raises:
      ConfigError: if the devices do not fit the batch sizes.
      RunFolderError: if the folder cannot be used, or holds a run of another config, task or model.
      TrainingFailed: at a loss that is not finite; the last good checkpoint is kept.
      Stopped: after saving, when a signal came.

    Example:
      >>> import tempfile, optax
      >>> from jattn.training import train
      >>> from jattn.training.reading import check
      >>> small = {"training": {"steps": 2, "batch_size": 4}, "evaluation": {"examples": 4, "test_examples": 4}}
      >>> small |= {"mesh": {"data": 1}, "run": {"folder": tempfile.mkdtemp()}}
      >>> train(check(small, "example"), optimizer=optax.sgd(0.1))["step"]    # doctest: +ELLIPSIS
      reverse, ...
      2
    """
    signals = Interrupts() if signals is None else signals
    check_joined(config)
    config = alone(config)
    check_loggers(config)
    with reporter(config.training.steps) if report is None else nullcontext(report) as report:
        if report.announces:
            report.line(first_line(config, task, model))
        setup = make_setup(on_its_devices(config), task, model, optimizer)
        # The folder belongs to this process until the run ends.
        with closing(open_folder(config, setup.own)) as folder:
            report.device(device_line(setup))
            checkpoints = Checkpoints(folder.path / "checkpoints", config.run.keep_checkpoints, report.line)
            report.doing("compiling")
            state, rows = resume(setup, folder, checkpoints, report.line)
            with checkpoints.naming_what_is_kept(), closing(Journal(setup, folder, report, rows)) as journal:
                finished = rows[-1:] != [] and rows[-1]["kind"] == "test" and journal.is_done(state.number)
                with recorded(setup, folder.path, state, command, finished) as note_time:
                    state, train_chunk = begin(setup, state, journal, report)
                    # From here a signal waits until the state is saved.
                    with signals.waiting():
                        state = take_steps(setup, state, train_chunk, journal, checkpoints, signals, note_time)
                        checkpoints.wait()
                        wait_for_first()
                    # Fresh examples, never seen in training or evaluation, have the last word.
                    report.doing("testing")
                    result = journal.test(state)
                    checkpoints.add_history(journal.history)
        # The pictures and the page are made from the files in the folder alone.
        with checkpoints.naming_what_is_kept():
            report.doing("drawing")
            if is_first():
                render(folder.path, say=report.line)
    leave_at_exit()
    return result


def take_steps(
    setup: Setup,
    state: TrainState,
    train_chunk: TrainChunk,
    journal: Journal,
    checkpoints: Checkpoints,
    signals: Interrupts,
    note_time: Callable[[], None],
) -> TrainState:
    """Trains until nothing is left to train, or until a signal came; in the end all is saved."""
    config, steps = setup.config, setup.config.training.steps
    snapshots = snapshot_steps(steps, config.run.snapshots)
    every = (config.run.log_every, config.evaluation.every, config.run.checkpoint_every)
    step = state.number
    done, stopping = journal.is_done(step), agreed(signals)
    journal.profiler.reached(step)
    while not done and not stopping:
        # One compiled loop on the devices, up to the next step at which there is something to do here.
        until = signals.saved_by = min(
            steps, *(s for s in (*snapshots, *config.run.profile) if s > step), *((step // n + 1) * n for n in every)
        )
        state = journal.timed(until - step, lambda state=state, until=until: train_chunk(state, jnp.int32(until)))
        checkpoints.settle()
        check_finite(state, setup.seeds, checkpoints.kept)
        step, last = until, until == steps
        journal.profiler.reached(step)
        journal.look(state, log=last or step % config.run.log_every == 0, snapshot=step in snapshots)
        if last or step % config.evaluation.every == 0:
            journal.evaluate(state)
        # Asked once: a signal that comes after the question is for the next turn to save.
        done, stopping = journal.is_done(step), agreed(signals)
        if done or stopping or step % config.run.checkpoint_every == 0:
            checkpoints.save(state, journal.score, journal.history)
            note_time()
    if done:
        journal.look(state, log=False, snapshot=True)
    return state
