"""Checkpoints through Orbax: the latest few and the best, none lost to a crash, and none taken for whole that is not.

A checkpoint is whole when its digests are there and agree with its files (see `digests`). It is checked before anything
of it is read, and none is deleted before a later one is whole.
"""

import contextlib
import dataclasses
import errno
import functools
import io
import logging
import os
import re
import shutil
import sys
import tempfile
import traceback
import warnings
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp

from jattn.drawing.files import named
from jattn.training.digests import Damaged, Digests, History, check_files, digests_of, read_digests, write_digests
from jattn.training.processes import from_first, is_first, wait_for_all
from jattn.training.step import TrainState

SPECIAL = "[]*?\\:"
"""Characters of a path that Orbax, or what it stores arrays with, takes for something else."""


LEAST_ROOM = 200_000
"""Bytes that a checkpoint takes at most besides its arrays."""


TEMPORARY = ".orbax-checkpoint-tmp"
"""How the names of folders end that Orbax deletes when it begins."""


class CheckpointError(OSError):
    """A checkpoint that cannot be written or read; its text says which, and what is safe."""


class Checkpoints:
    """Saves and restores the `TrainState` of a run.

    Args:
      folder: where they lie; made where missing.
      keep_latest: how many of the latest stay, besides the best by its score; None is for reading alone: nothing is
        made, saved or deleted.
      say: is told, in a line, of each checkpoint that is passed over because it is not whole.
    """

    def __init__(self, folder: Path, keep_latest: int | None, say: Callable[[str], None] = print) -> None:
        self._folder, self._keep_latest, self._say = folder.absolute(), keep_latest, say
        self._whole: dict[int, Digests | None] = {}
        self._pending: tuple[int, float, History] | None = None
        if keep_latest is not None:
            from_first(self._make_folder)
            # Orbax is the first to let all of them compute something together.
            wait_for_all()
        options = ocp.CheckpointManagerOptions(
            create=False,
            # Where a folder cannot be made, threads would wait for it for 20 minutes, and the process for them.
            async_options=ocp.AsyncOptions(create_directories_asynchronously=False),
        )
        with _saying_nothing():
            self._manager = ocp.CheckpointManager(self._plain_path(), options=options)

    def _make_folder(self) -> None:
        self._folder.mkdir(parents=True, exist_ok=True)
        # What a kill left half written or deleted: Orbax would do it in a thread, beside what is deleted here.
        for left in self._folder.glob(f"*{TEMPORARY}*"):
            shutil.rmtree(left, ignore_errors=True)

    def _plain_path(self) -> Path:
        """Returns a path of the folder in which no character is special, through a link where need be."""
        if not any(character in SPECIAL for character in str(self._folder)):
            return self._folder
        made = tempfile.mkdtemp(prefix="jattn-")
        weakref.finalize(self, shutil.rmtree, made, ignore_errors=True)
        link = Path(made) / "checkpoints"
        link.symlink_to(self._folder, target_is_directory=True)
        return link

    def save(self, state: TrainState, score: float, history: History) -> None:
        """Saves a state under its step; a step already saved stays as it is. Returns before the disk is done.

        Args:
          state: of training.
          score: by which the best is found; NaN is below every number.
          history: the rows of metrics that come before it.

        Raises:
          CheckpointError: if it cannot be written, or an earlier one could not be.
        """
        step = state.number
        self.wait()
        if from_first(lambda: self._digests(step) is not None):
            return
        _drop_what_threads_say()
        with self._written(step):
            from_first(lambda: self._make_room(state, step))
            self._reload()
            self._manager.save(step, args=ocp.args.StandardSave(_as_dict(state)))
        self._pending = step, score, history

    def settle(self) -> None:
        """Makes a checkpoint whole that has reached the disk meanwhile; does not wait for one that has not."""
        if self._pending is not None and not self._manager.is_saving_in_progress():
            self.wait()

    def wait(self) -> None:
        """Waits until all that was saved is on the disk and whole, then deletes what need not be kept.

        Raises:
          CheckpointError: if it could not be written.
        """
        if self._pending is None:
            return
        (step, score, history), self._pending = self._pending, None
        with self._written(step):
            # Orbax is finished once the files of all processes are there.
            self._manager.wait_until_finished()
            if not is_first():
                return
            write_digests(self._digests_path(step), digests_of(self._folder / str(step), step, score, history))
        del self._whole[step]
        self.delete_old()

    def delete_old(self) -> None:
        """Deletes what need not be kept, and what a kill left that is not whole; there must be one that is."""
        assert self._keep_latest is not None
        whole = [step for step in self._steps() if self._digests(step) is not None]
        keep = {*whole[: self._keep_latest], self.best_step()}
        for step in self._steps():
            if step not in keep and (step in whole or not self._digests_path(step).exists()):
                self._delete(step)
        self._reload()

    def latest_step(self) -> int | None:
        """Returns the step of the latest checkpoint that is whole, or None where none is."""
        return next((step for step in self._steps() if self._digests(step) is not None), None)

    def best_step(self) -> int | None:
        """Returns the step of the checkpoint with the highest score, the latest where none has a score, or None."""
        known = [(found.score, step) for step in self._steps() if (found := self._digests(step)) is not None]
        scored = [(score, step) for score, step in known if score is not None]
        return max(scored)[1] if scored else self.latest_step()

    def kept(self) -> str:
        """Says in words which checkpoint there is to go back to."""
        with contextlib.suppress(CheckpointError):
            self.wait()
        step = self.latest_step()
        return "there is no checkpoint before it" if step is None else f"the checkpoint of step {step} is kept"

    @contextlib.contextmanager
    def naming_what_is_kept(self) -> Iterator[None]:
        """Adds to an `OSError` of its body which checkpoint there is to go back to."""
        try:
            yield
        except (CheckpointError, BrokenPipeError):
            raise
        except OSError as error:
            what = f"{error.filename}: {error.strerror}" if error.filename else str(error)
            raise OSError(f"{what}; {self.kept()}") from error

    @property
    def any(self) -> bool:
        """Whether any checkpoint was whole once.

        One that a kill left without digests never was, and no second one is begun before the first is whole.
        """
        return any(self._digests_path(step).exists() for step in self._steps()) or len(self._steps()) > 1

    def history(self, step: int) -> History:
        """Returns the rows that belong to a checkpoint that is whole."""
        known = self._digests(step)
        assert known is not None
        return known.history

    def add_history(self, history: History) -> None:
        """Lets the rows that were written after the latest checkpoint, those of the test, belong to it."""
        step = self.latest_step() if is_first() else None
        if step is not None and self.history(step) != history:
            known = self._digests(step)
            assert known is not None
            extended = dataclasses.replace(known, history=history)
            write_digests(self._digests_path(step), extended)
            self._whole[step] = extended

    def restore(self, like: TrainState, step: int) -> TrainState:
        """Restores the state of a checkpoint that is whole, with the shapes, dtypes and devices of `like`."""
        wanted = jax.tree.map(ocp.utils.to_shape_dtype_struct, _as_dict(like))
        with _saying_nothing():
            restored: Any = self._manager.restore(step, args=ocp.args.StandardRestore(wanted))
        return TrainState(**restored)

    def _steps(self) -> list[int]:
        """Lists the steps of all checkpoints, whole or not, the latest first."""
        names = [path.name for path in self._folder.iterdir() if path.is_dir()]
        names += [path.stem.removeprefix("digests_") for path in self._folder.glob("digests_*.json")]
        return sorted({int(name) for name in names if name.isascii() and name.isdecimal()}, reverse=True)

    def _digests_path(self, step: int) -> Path:
        return self._folder / f"digests_{step}.json"

    def _digests(self, step: int) -> Digests | None:
        """Returns the digests of a checkpoint that is whole, or None; says once why it is not."""
        if step not in self._whole:
            self._whole[step] = None
            if step in self._steps():
                try:
                    known = read_digests(self._digests_path(step), step)
                    check_files(self._folder / str(step), known)
                    self._whole[step] = known
                except Damaged as error:
                    self._say(f"the checkpoint of step {step} is not whole and not used: {error}")
        return self._whole[step]

    def _make_room(self, state: TrainState, step: int) -> None:
        needed = LEAST_ROOM + sum(leaf.nbytes for leaf in jax.tree.leaves(state))
        free = shutil.disk_usage(self._folder).free
        if free < needed:
            raise OSError(errno.ENOSPC, f"{os.strerror(errno.ENOSPC)}: {free:,} bytes are left, {needed:,} are needed")
        self._set_aside(step)

    def _set_aside(self, step: int) -> None:
        """Moves what lies in the place of a checkpoint that is to be written; what never was whole is deleted."""
        if not self._digests_path(step).exists():
            self._delete(step)
        elif (self._folder / str(step)).exists():
            aside = Path(tempfile.mkdtemp(prefix=f"damaged_{step}_", dir=self._folder))
            (self._folder / str(step)).rename(aside / str(step))

    def _reload(self) -> None:
        with _saying_nothing():
            self._manager.reload()

    def _delete(self, step: int) -> None:
        # What a kill leaves half deleted has no digests, and a name of what is deleted at the next start.
        self._digests_path(step).unlink(missing_ok=True)
        if (self._folder / str(step)).exists():
            aside = (self._folder / str(step)).rename(self._folder / f"{step}{TEMPORARY}")
            with named(aside):
                shutil.rmtree(aside)

    @contextlib.contextmanager
    def _written(self, step: int) -> Iterator[None]:
        """Makes one error of whatever goes wrong in the body, and drops the tracebacks that threads print with it."""
        printed = io.StringIO()
        try:
            with contextlib.redirect_stderr(printed), _saying_nothing():
                yield
        except Exception as error:
            self._pending = None
            raise CheckpointError(
                f"the checkpoint of step {step} could not be written to {self._folder}: {_reason(error)}; {self.kept()}"
            ) from error
        sys.stderr.write(printed.getvalue())


@contextlib.contextmanager
def _saying_nothing() -> Iterator[None]:
    """Lets Orbax log nothing: what is wrong with a checkpoint is told in a line of its own."""
    logger = logging.getLogger("absl")
    before, logger.disabled = logger.disabled, True
    try:
        yield
    finally:
        logger.disabled = before


@functools.cache
def _drop_what_threads_say() -> None:
    """Drops what threads of Orbax, which nothing stops, print of a checkpoint that fails: it is raised besides."""

    def is_of_others(record: logging.LogRecord) -> bool:
        ended = record.exc_info[1] if record.exc_info else None
        # What the store of arrays raises has no frames, but names the folder that it wrote to.
        frames = [frame.f_globals.get("__name__", "") for frame, _ in traceback.walk_tb(ended and ended.__traceback__)]
        return TEMPORARY not in str(ended) and not any(name.startswith("orbax.") for name in frames)

    logging.getLogger("absl").addFilter(lambda record: "orbax" not in record.pathname)
    logging.getLogger("asyncio").addFilter(is_of_others)
    warnings.filterwarnings("ignore", "coroutine 'async_serialize", RuntimeWarning)
    print_it = sys.unraisablehook

    def unless_it_was_closed(raised: "sys.UnraisableHookArgs") -> None:
        if str(raised.exc_value) != "Event loop is closed":
            print_it(raised)

    sys.unraisablehook = unless_it_was_closed


def _reason(error: Exception) -> str:
    """Says in a few words what went wrong, where it was the system in the system's."""
    number = re.search(r"os_error_code='(\d+)'", str(error))
    if number is not None:
        return os.strerror(int(number[1]))
    return error.strerror if isinstance(error, OSError) and error.strerror else str(error).partition("\n")[0]


def _as_dict(state: TrainState) -> dict[str, Any]:
    return {name: getattr(state, name) for name in ("step", "params", "opt_state", "sums", "broken_step")}
