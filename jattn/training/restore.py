"""A state of training out of its run folder: to go on training, or for experiments afterwards."""

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import optax
from jax.sharding import PartitionSpec

from jattn.report.rows import final_test
from jattn.tasks import Task
from jattn.training.checkpoints import Checkpoints
from jattn.training.config import MeshConfig
from jattn.training.processes import from_first
from jattn.training.restored import Restored
from jattn.training.run_folder import CONFIG, RunFolder, RunFolderError, read_config, refuse_other_parts
from jattn.training.runs import in_float32
from jattn.training.setup import Setup, make_setup
from jattn.training.step import TrainState, initial_state


def resume(
    setup: Setup, folder: RunFolder, checkpoints: Checkpoints, say: Callable[[str], None]
) -> tuple[TrainState, list[dict[str, Any]]]:
    """Goes back to the latest checkpoint that is whole, if there is any; returns its state and the rows before it."""
    state, step = initial_state(setup), from_first(lambda: _begin(folder, checkpoints))
    if step is not None:
        state = checkpoints.restore(state, step)
        rows = from_first(lambda: folder.rewind(step, checkpoints.history(step), say))
        tested = rows != [] and rows[-1]["kind"] == "test"
        done = final_test(rows, setup.config.model_dump()) is not None
        say(f"{'already done' if done else 'trained on' if tested else 'resumed'} at step {step}")
        return state, rows
    if folder.history().size:
        say("there is no checkpoint: training starts anew at step 0")
    return state, from_first(lambda: folder.rewind(-1, None, say))


def _begin(folder: RunFolder, checkpoints: Checkpoints) -> int | None:
    """Returns the step to go on from, None for a run that begins, and deletes what need not be kept."""
    step = checkpoints.latest_step()
    if step is not None:
        checkpoints.delete_old()
    elif checkpoints.any:
        raise RunFolderError(f"{folder.path}: no checkpoint is whole; --run.overwrite deletes the run and starts anew")
    return step


@in_float32()
def restore(
    folder: Path | str,
    best: bool = False,
    *,
    task: Task | None = None,
    model: Any = None,
    optimizer: optax.GradientTransformation | None = None,
) -> Restored:
    """Reads the model of a run: its parts, and the parameters of its latest checkpoint or of its best.

    Nothing in the folder is written or held, so that a run under way is not disturbed. ``setup.model`` is the model,
    ``setup.apply(params, batch)`` its logits, ``setup.training_batch(rng, indices)`` makes examples, and
    ``setup.judging_batch(rng, indices)`` those of evaluation. All of it is on one device, however many the run took:
    ``setup.config.mesh.data`` is 1.

    Args:
      folder: the run folder.
      best: whether to take the checkpoint with the highest sum of exact accuracy and filter score, rather than the
        latest. Both were judged at the evaluation before it.
      task, model, optimizer: the own ones that the run was given; see `jattn.training.train`.

    Returns:
      ``setup, params``: the parts of the run, and its parameters; of a run of several seeds, each array has a first
      axis of them, for ``setup.each``. As one thing it answers in words: ``restore(folder).predict("3 1 4")``.

    Raises:
      FileNotFoundError: if there is no run in the folder, or no checkpoint yet.
      RunFolderError: if its config cannot be read, it is a run of another task or model, or no checkpoint is whole.

    Warns:
      UserWarning: of a checkpoint that is damaged; one that is whole is taken in its place.

    Example:
      >>> from jattn.training.restore import restore
      >>> restore("runs/never_made")
      Traceback (most recent call last):
      FileNotFoundError: runs/never_made: expected the folder of a run, there is no config.toml in it
    """
    folder = Path(folder)
    if not (folder / CONFIG).is_file():
        raise FileNotFoundError(f"{folder}: expected the folder of a run, there is no {CONFIG} in it")
    config = read_config(folder)
    one_device = config.model_copy(update={"mesh": MeshConfig(data=1)})
    setup = make_setup(one_device, task, model, optimizer)
    refuse_other_parts(folder, setup.own)
    # Orbax expects the folder to be there.
    there = (folder / "checkpoints").is_dir()
    checkpoints = Checkpoints(folder / "checkpoints", keep_latest=None, say=warnings.warn) if there else None
    step = checkpoints and (checkpoints.best_step() if best else checkpoints.latest_step())
    if checkpoints is None or step is None:
        if checkpoints is not None and checkpoints.any:
            raise RunFolderError(f"{folder}: no checkpoint is whole")
        raise FileNotFoundError(f"{folder}: expected a checkpoint of the run, there is none yet")
    place = jax.NamedSharding(setup.mesh, PartitionSpec())
    shapes = jax.eval_shape(lambda: initial_state(setup))
    like = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place), shapes)
    return Restored(setup, checkpoints.restore(like, step).params)
