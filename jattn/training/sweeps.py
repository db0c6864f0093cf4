"""Sweeps: a run of every combination of values of a few keys, in one folder, and what they come to side by side."""

import dataclasses
import hashlib
import itertools
import re
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from jattn.drawing.plain import fitted, in_plain, message
from jattn.report import render
from jattn.report.comparison import write_comparison
from jattn.report.outcomes import Outcome, value_text
from jattn.report.rows import final_test
from jattn.training.announcing import result_words
from jattn.training.config import Config
from jattn.training.interrupts import Interrupts
from jattn.training.jobs import run_jobs
from jattn.training.progress import SweepReporter, clock, sweep_reporter
from jattn.training.reading import ConfigError, Given, check, differences, get_section, in_folder, merge, read_toml
from jattn.training.run_folder import CONFIG, RunFolderError, check_folder, read_config, read_metrics


@dataclass(frozen=True)
class Combination:
    """One run of a sweep: its value of each swept key, by the key's short name, and its config."""

    values: dict[str, Any]
    config: Config

    @property
    def label(self) -> str:
        """What a person calls it."""
        return _label(self.values)


@dataclass(frozen=True)
class Sweep:
    """A sweep: its folder, its runs, each in a folder of its own in there, the keys that some have no use for, and how
    many runs are done at once.
    """

    folder: Path
    combinations: list[Combination]
    left_out: tuple[str, ...] = ()
    jobs: int = 1

    def heading(self, one: Combination) -> str:
        """Numbers one of the runs."""
        return f"[{self.combinations.index(one) + 1}/{len(self.combinations)}]"


def make_sweep(given: Given, swept: Mapping[tuple[str, str], Sequence[Any]], folder: Path) -> Sweep:
    """Makes the runs of a sweep: every combination of the values of each swept (table, key) upon what is given.

    Raises:
      ConfigError: if a combination is wrong, naming it, or two are the same.
    """
    combinations: list[Combination] = []
    mistakes: dict[str, str] = {}
    unused: dict[str, None] = {}
    for chosen in itertools.product(*swept.values()):
        changes: dict[str, Any] = {}
        for (table, key), value in zip(swept, chosen, strict=True):
            changes.setdefault(table, {})[key] = value
        named = {_short(table, key): value for (table, key), value in zip(swept, chosen, strict=True)}
        where = f"--sweep at {_safe(_label(named), 80, ' =,')}"
        try:
            values, left_out = merge(given.values, changes, where, given.places)
            config = check(values, where, places=given.places)
            unused |= dict.fromkeys(left_out)
        except ConfigError as error:
            mistakes.setdefault(str(error).removeprefix(where), where)
            continue
        # As they were understood: 1 for a number is 1.0.
        named = {_short(table, key): getattr(getattr(config, table), key) for table, key in swept}
        name = _safe(",".join(f"{key}={_safe(value_text(value), 40)}" for key, value in named.items()), 200, "=,")
        combinations.append(Combination(named, in_folder(config, folder / name)))
    if mistakes:
        given.check()
        (what, where), *others = mistakes.items()
        line = f"{where}{what}"
        raise ConfigError(fitted(f"{line}; also wrong: ", [at for _, at in others]) if others else line)
    _refuse_equals(combinations)
    return Sweep(folder, combinations, tuple(unused))


def prepare(sweep: Sweep) -> Sweep:
    """Checks, before the first run, that every run can begin or go on; returns the sweep with the folders it takes.

    A combination whose very config has a run in the sweep's folder under another name, as of a sweep over fewer keys,
    goes on there.

    Raises:
      ConfigError: if the devices do not fit a run.
      RunFolderError: if the sweep's folder, or that of a run, holds something else.
    """
    from jattn.training.runs import on_its_devices
    from jattn.training.setup import make_setup

    _refuse_strangers(sweep.folder)
    there = _find_runs(sweep.folder)
    combinations = []
    for one in sweep.combinations:
        own = Path(one.config.run.folder)
        same = [path for path, config in there.items() if not differences(one.config, config)]
        path = own if own in same or not same else same[0]
        one = Combination(one.values, in_folder(one.config, path))
        check_folder(one.config)
        try:
            make_setup(on_its_devices(one.config))
        except ConfigError as error:
            raise ConfigError(f"--sweep at {one.label}: {error}") from None
        combinations.append(one)
    return dataclasses.replace(sweep, combinations=combinations)


def run_sweep(sweep: Sweep, signals: Interrupts, command: str = "") -> list[Outcome]:
    """Does what is left of a sweep, and writes the table and the figure of all runs; prints a line for each run.

    A run whose test is written is skipped. One that fails does not stop the others.

    Args:
      sweep: `prepare`d.
      signals, command: as for `jattn.training.train`.

    Raises: as `jattn.training.train`, except TrainingFailed.
    """
    left = [one for one in sweep.combinations if finished_test(one.config) is None]
    for one in sweep.combinations:
        if one not in left:
            print(message(f"{sweep.heading(one)} {one.label}: done before in {one.config.run.folder}"))
    with sweep_reporter(sum(one.config.training.steps for one in left)) as report:
        if sweep.jobs > 1 and len(left) > 1:
            named = [(f"{sweep.heading(one)} {one.label}", one.config) for one in left]
            run_jobs(named, sweep.jobs, report, signals, command)
        else:
            _run_in_turn(sweep, left, signals, report, command)
    outcomes = []
    for one in sweep.combinations:
        folder = Path(one.config.run.folder)
        test = written_test(folder)
        if test is not None and not (folder / "report.html").exists():
            render(folder)
        outcomes.append(Outcome(one.values, folder.name, test))
    for table in write_comparison(sweep.folder, outcomes):
        print_table(Console(), table.title, table.header, table.rows)
    return outcomes


def _run_in_turn(
    sweep: Sweep, left: Sequence[Combination], signals: Interrupts, report: SweepReporter, command: str
) -> None:
    """Does runs one after the other, in this process."""
    # Late, because mistakes in a sweep are told before anything slow is imported.
    import jax

    from jattn.training.loop import train
    from jattn.training.step import TrainingFailed

    before = 0
    for one in left:
        start = time.monotonic()
        report.begin(sweep.heading(one), before)
        try:
            test = train(one.config, signals=signals, report=report, command=command)
            report.line(f"{sweep.heading(one)} {one.label}: {result_words(test)}, {clock(time.monotonic() - start)}")
        except TrainingFailed as error:
            print(message(f"{one.label}: {error}"), file=sys.stderr)
        before += one.config.training.steps
        report.begin(sweep.heading(one), before)
        # Each run has programs of its own, of which a process can hold only so many.
        jax.clear_caches()


def finished_test(config: Config) -> Mapping[str, Any] | None:
    """Returns the row of metrics of the final test, if the run of this config has got so far; reads only."""
    folder = Path(config.run.folder)
    test = None if config.run.overwrite else written_test(folder)
    # A finished run may be trained on.
    return None if test is None or read_config(folder).training.steps < config.training.steps else test


def written_test(folder: Path) -> Mapping[str, Any] | None:
    """Returns the row of metrics of the final test of the run in a folder, if there is one."""
    rows = read_metrics(folder)
    return final_test(rows, read_toml(folder / CONFIG)) if rows else None


def _refuse_equals(combinations: Sequence[Combination]) -> None:
    seen = []
    for one in combinations:
        if one.values in seen:
            raise ConfigError(f"--sweep: expected values that differ, got {one.label} twice")
        seen.append(one.values)


def _label(values: Mapping[str, Any]) -> str:
    return ", ".join(f"{name}={value_text(value)}" for name, value in values.items())


def _short(table: str, key: str) -> str:
    """Names a key by its last part, if only one table has such a key."""
    tables = [name for name in Config.model_fields if key in get_section(name).model_fields]
    return key if tables in ([table], []) else f"{table}.{key}"


def _safe(text: str, limit: int, also: str = "") -> str:
    """Makes text that any file system takes as a name; where something was changed or left out, a digest follows."""
    clean = re.sub(f"[^A-Za-z0-9._+{also}-]", "-", text)
    if clean == text and len(text) <= limit:
        return text
    return f"{clean[: limit - 9]}-{hashlib.sha256(text.encode('utf-8', 'surrogatepass')).hexdigest()[:8]}"


def _refuse_strangers(folder: Path) -> None:
    if folder.exists() and not folder.is_dir():
        raise RunFolderError(f"run.folder: expected a folder, got a file: {folder}")
    names = [entry.name for entry in folder.iterdir()] if folder.exists() else []
    if CONFIG in names:
        raise RunFolderError(f"{folder}: expected an empty folder or that of a sweep, got that of a run")
    if names and not any("=" in name for name in names):
        raise RunFolderError(
            f"{folder}: expected an empty folder or that of a sweep, got one with {min(names)!r} in it"
        )


def _find_runs(folder: Path) -> dict[Path, Config]:
    """Reads the configs of the runs in a sweep's folder; what cannot be read is told where its folder is asked for."""
    found = {}
    for path in sorted(folder.glob(f"*=*/{CONFIG}")):
        try:
            found[path.parent] = read_config(path.parent)
        except RunFolderError:
            continue
    return found


FILE_WIDTH = 200
"""The columns that a table has at most in a file."""


def print_table(console: Console, title: str, header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Prints a table; where a terminal is too narrow for its words, a line for each row."""
    table = Table(*header, title=title or None, title_justify="left", box=box.MARKDOWN)
    for row in rows:
        table.add_row(*map(in_plain, row))
    if not console.is_terminal:
        # A file has no width that a table must fit in.
        console.width = FILE_WIDTH
    anywhere = console.options.update_width(FILE_WIDTH)
    if console.measure(table, options=anywhere).minimum <= console.width:
        console.print(table)
        return
    if title:
        console.print(in_plain(title), markup=False, highlight=False)
    for row in rows:
        words = ", ".join(f"{name} {text}" for name, text in zip(header, row, strict=True) if text)
        console.print(in_plain(words), markup=False, highlight=False)
