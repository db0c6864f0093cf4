"""Checkpoints through Orbax: the latest few and the best, written so that none is lost to a crash."""

from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from orbax.checkpoint.checkpoint_managers import preservation_policy as keep

from jattn.training.step import TrainState


class Checkpoints:
    """Saves and restores the `TrainState` of a run.

    Args:
      folder: where they lie; made where missing.
      keep_latest: how many of the latest stay, besides the best by ``score``; None is for reading alone: nothing is
        made, saved or deleted.
    """

    def __init__(self, folder: Path, keep_latest: int | None) -> None:
        best = keep.BestN(get_metric_fn=lambda metrics: metrics["score"], n=1, keep_checkpoints_without_metrics=False)
        options = ocp.CheckpointManagerOptions(
            preservation_policy=keep.AnyPreservationPolicy([keep.LatestN(keep_latest), best]),
            best_fn=lambda metrics: metrics["score"],
            create=keep_latest is not None,
            cleanup_tmp_directories=keep_latest is not None,
        )
        self._manager = ocp.CheckpointManager(folder.absolute(), options=options)

    def save(self, state: TrainState, score: float) -> None:
        """Saves a state under its step; a step already saved stays as it is. Returns before the disk is done."""
        step = int(np.max(state.step))
        if step not in self._manager.all_steps():
            self._manager.save(step, args=ocp.args.StandardSave(_as_dict(state)), metrics={"score": score})

    def latest_step(self) -> int | None:
        """Returns the step of the latest checkpoint, or None where there is none."""
        return self._manager.latest_step()

    def best_step(self) -> int | None:
        """Returns the step of the checkpoint with the highest score, the latest where no score is kept, or None."""
        step = self._manager.best_step()
        return self.latest_step() if step is None else step

    def restore(self, like: TrainState, step: int | None = None) -> TrainState:
        """Restores a state, the latest by default, with the shapes, dtypes and devices of `like`."""
        wanted = jax.tree.map(ocp.utils.to_shape_dtype_struct, _as_dict(like))
        restored: Any = self._manager.restore(
            self.latest_step() if step is None else step, args=ocp.args.StandardRestore(wanted)
        )
        return TrainState(**restored)

    def wait(self) -> None:
        """Waits until all that was saved is on the disk."""
        self._manager.wait_until_finished()


def _as_dict(state: TrainState) -> dict[str, Any]:
    return {name: getattr(state, name) for name in ("step", "params", "opt_state", "sums", "broken_step")}
