"""Runs of the command in processes of their own, which are forked with all imported and can be made to fail anywhere.

What fails are calls of the C library: `faults.c` is loaded below Python and all native code.
"""

import ctypes
import dataclasses
import fnmatch
import functools
import hashlib
import json
import multiprocessing
import multiprocessing.forkserver
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from jattn.command.main import main
from jattn.command.options import config_from_arguments
from jattn.report import animation, figures, page, render  # noqa: F401
from jattn.training import beginning, journal, loop, restore
from jattn.training.checkpoints import Checkpoints
from jattn.training.loop import train
from jattn.training.runs import configure_jax, on_its_devices
from jattn.training.setup import Setup
from jattn.training.step import TrainState

WENT_ON = r"(?:resumed|already done) at step (\d+)"
"""What a run says that goes on, or has nothing left to do."""

FATES = {"fail": 1, "die before": 2, "die after": 3, "die halfway": 4, "signal": 5}
CONFIG = """
[task]
min_length = 2
max_length = 3
symbols = 4
[model]
width = 4
hidden = 4
[training]
steps = 12
batch_size = 4
[evaluation]
every = 4
examples = 4
batch_size = 4
test_examples = 4
[run]
log_every = 2
checkpoint_every = 3
keep_checkpoints = 2
snapshots = 3
probes = 2
[mesh]
data = 1
"""


@dataclasses.dataclass(frozen=True)
class Fault:
    """Says which call on a file of the run folder fails, or kills the process.

    Attributes:
      call: a pattern of its name: open (to read), create, write, sync, cut, rename, mkdir, unlink.
      path: a pattern of the file's path in the folder.
      number: how many such calls there are, this one with them.
      fate: one of `FATES`; "die halfway" writes half of the bytes first.
      error: of a call that fails, its `errno`; or the number of the signal that comes in it.
      lasting: whether all that write after it fail too; or whether the signal comes in the next such call, too.
    """

    call: str = "*"
    path: str = "*"
    number: int = 1
    fate: str = "die before"
    error: int = 0
    lasting: bool = False


@dataclasses.dataclass(frozen=True)
class Ended:
    """How a command ended.

    Attributes:
      status: of the process; negative is a signal.
      out, err: what it printed.
      states: by step, of each checkpoint that is whole, the digests of the parameters and of all arrays.
      finite: whether all numbers of all these are finite.
      restored: the digest of the parameters that `restore` returns afterwards, or its error in words.
    """

    status: int | None
    out: str
    err: str
    states: dict[int, list[str]] = dataclasses.field(default_factory=dict)
    finite: bool = True
    restored: str | None = None


@dataclasses.dataclass(frozen=True)
class Command:
    """The command for a run folder.

    Attributes:
      folder: of the run.
      options: besides those of the config.
      fault: what is to fail.
      report: whether to draw it, which takes most of the time of a run.
      config: the text of the file.
      calls: a file in which to list all calls on files of the folder, or None.
      restores: whether to read the run with `restore` afterwards.
      parts: makes own parts for `train`.
    """

    folder: Path
    options: tuple[str, ...] = ()
    fault: Fault | None = None
    report: bool = False
    config: str = CONFIG
    calls: Path | None = None
    restores: bool = False
    parts: Callable[[], dict[str, Any]] = dict

    @property
    def arguments(self) -> list[str]:
        path = self.folder.parent / f"{self.folder.name}.toml"
        path.write_text(self.config)
        return [str(path), "--run.folder", str(self.folder), *self.options]


def run(*commands: Command, limit: float = 600) -> list[Ended]:
    """Does commands one after the other in one process; returns how each ended, up to one that killed it."""
    with Started(*commands) as started:
        return started.finish(limit)


class Started:
    """A process that does commands, for as long as it is open."""

    def __init__(self, *commands: Command) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="jattn-tests-")
        self.process = context().Process(target=perform, args=(commands, Path(self._folder.name)))
        self.process.start()

    def __enter__(self) -> "Started":
        return self

    def __exit__(self, *raised: object) -> None:
        self.process.kill()
        self.process.join()
        self._folder.cleanup()

    def finish(self, limit: float = 600) -> list[Ended]:
        """Waits for the process to end."""
        self.process.join(limit)
        assert self.process.exitcode is not None, f"the command still runs after {limit} s"
        ended = []
        for folder in sorted(Path(self._folder.name).iterdir()):
            out, err = ((folder / name).read_text(errors="replace") for name in ("out", "err"))
            found = {"status": self.process.exitcode, "states": {}}
            if (folder / "end").exists():
                found = json.loads((folder / "end").read_text())
            found["states"] = {int(step): digests for step, digests in found["states"].items()}
            ended.append(Ended(out=out, err=err, **found))
        return ended


@functools.cache
def context() -> multiprocessing.context.ForkServerContext:
    """Starts the process that others are forked from: it has imported all, and JAX has not yet seen a device."""
    compiler = shutil.which("cc")
    if compiler is None:
        (pytest.fail if os.environ.get("JATTN_REQUIRE_TOOLS") == "1" else pytest.skip)("no C compiler")
    forking = multiprocessing.get_context("forkserver")
    forking.set_forkserver_preload([__name__])
    with tempfile.TemporaryDirectory(prefix="jattn-tests-") as folder, pytest.MonkeyPatch.context() as patched:
        library = Path(folder) / "faults.so"
        source = Path(__file__).with_name("faults.c")
        subprocess.run([compiler, "-shared", "-fPIC", "-O1", "-o", library, source, "-ldl"], check=True)
        patched.setenv("LD_PRELOAD", str(library))
        multiprocessing.forkserver.ensure_running()
        forking.Process(target=int).start()
    return forking


def perform(commands: tuple[Command, ...], results: Path) -> None:
    """Does commands in this process, and writes down what they print and how they end."""
    keep_programs()
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    # What is looked at after a command that never came to its devices must not choose others for the next.
    configure_jax([config_from_arguments(commands[0].arguments)])
    for number, command in enumerate(commands):
        folder = results / f"{number:04}"
        folder.mkdir()
        for stream, name in ((sys.stdout, "out"), (sys.stderr, "err")):
            file = os.open(folder / name, os.O_CREAT | os.O_WRONLY | os.O_APPEND)
            os.dup2(file, stream.fileno())
            os.close(file)
            stream.reconfigure(line_buffering=True)
        parts = command.parts()
        try:
            loop.train = functools.partial(train, **parts)
            loop.render = render if command.report else (lambda *folder, say: None)
            arm(str(command.folder), command.fault, command.calls)
            status = main(command.arguments)
        except BaseException:
            traceback.print_exc()
            status = 1
        arm("")
        config = on_its_devices(config_from_arguments(command.arguments))
        setup = loop.make_setup(config, *(parts.get(name) for name in ("task", "model", "optimizer")))
        states = saved_states(command.folder, setup)
        end = {
            "status": status,
            "states": {step: [digest_of(state.params), digest_of(state)] for step, state in states.items()},
            "finite": all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(jax.device_get(states))),
        }
        end["restored"] = restored_params(command.folder) if command.restores else None
        (folder / "end").write_text(json.dumps(end))


def fits(fault: Fault, listed: str) -> bool:
    """Says whether a fault may come in a call that was listed."""
    call, path = listed.split(" ", 1)
    return fnmatch.fnmatchcase(call, fault.call) and fnmatch.fnmatchcase(path, fault.path)


def arm(folder: str, fault: Fault | None = None, calls: Path | None = None) -> None:
    """Says to `faults.c` what is to fail in the next command."""
    fault = Fault(number=0) if fault is None else fault
    listed = -1 if calls is None else os.open(calls, os.O_CREAT | os.O_WRONLY | os.O_APPEND)
    where = folder.encode(), fault.call.encode(), fault.path.encode(), ctypes.c_long(fault.number)
    ctypes.CDLL(None).arm_faults(*where, FATES[fault.fate], fault.error, int(fault.lasting), listed)


def keep_programs() -> None:
    """Lets all runs of this process that have the same config share what they trace and compile."""
    setups, states, make_setup, initial_state = {}, {}, loop.make_setup, restore.initial_state

    def same_setup(config, *parts):
        told = config.model_dump_json(exclude={"run": {"folder"}}), parts
        if told not in setups:
            setups[told] = make_setup(config, *parts)
        return setups[told]

    def same_state(setup):
        if id(setup) not in states:
            made = initial_state(setup)
            states[id(setup)] = jax.device_get(made), jax.tree.map(lambda x: x.sharding, made)
        return jax.device_put(*states[id(setup)])

    def same(make):
        made = {}

        def kept(setup, *options):
            if (id(setup), *options) not in made:
                made[(id(setup), *options)] = make(setup, *options)
            return made[(id(setup), *options)]

        return kept

    loop.make_setup = restore.make_setup = same_setup
    restore.initial_state = same_state
    beginning.make_train_chunk = same(beginning.make_train_chunk)
    journal.make_measure = same(journal.make_measure)


def saved_states(folder: Path, setup: Setup) -> dict[int, TrainState]:
    """Returns the state of each checkpoint that is whole, by step."""
    if not (folder / "checkpoints").is_dir():
        return {}
    checkpoints, found = Checkpoints(folder / "checkpoints", None, say=str), {}
    while (step := checkpoints.latest_step()) is not None:
        found[step] = checkpoints.restore(restore.initial_state(setup), step)
        checkpoints._whole[step] = None
    return found


def restored_params(folder: Path) -> str:
    """Returns the digest of the parameters that `restore` returns, or its error in words."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return digest_of(restore.restore(folder)[1])
    except Exception as error:
        return f"{type(error).__name__}: {error}"


def digest_of(arrays) -> str:
    """Returns a digest of all arrays of a pytree."""
    digest = hashlib.sha256()
    for leaf in jax.tree.leaves(jax.device_get(arrays)):
        digest.update(leaf.tobytes())
    return digest.hexdigest()


def rows(folder: Path) -> list[dict]:
    """Reads the rows of metrics, without what the clock decides."""
    found = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in row.items() if not key.endswith("per_second")} for row in found]


def names(folder: Path) -> set[str]:
    """Lists the files of a run folder; what Orbax names at random, and steps of checkpoints, are left out of names."""
    files = (path.relative_to(folder).as_posix() for path in folder.rglob("*") if not path.is_dir())
    return {re.sub(r"[0-9a-f]{32}|(?<=checkpoints/)\d+(?=/)|(?<=digests_)\d+", "?", name) for name in files}


def newest(folder: Path) -> int | None:
    """Returns the step of the newest checkpoint that has digests."""
    steps = [int(path.stem.removeprefix("digests_")) for path in (folder / "checkpoints").glob("digests_*.json")]
    return max((step for step in steps if (folder / "checkpoints" / str(step)).is_dir()), default=None)


def wait_for(condition, started: Started, limit: float = 60) -> None:
    """Waits until a condition holds while a process runs."""
    deadline = time.monotonic() + limit
    while not condition():
        assert started.process.is_alive(), started.finish()
        assert time.monotonic() < deadline
        time.sleep(0.005)
