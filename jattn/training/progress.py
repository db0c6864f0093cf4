"""What a person sees while training: a line with the time left on a terminal, plain lines elsewhere."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from rich.console import Console, ConsoleOptions
from rich.live import Live
from rich.text import Text

from jattn.drawing.plain import LONGEST, in_plain, percent, shortened


class Status:
    """The last line on a terminal: what is done, how far it is, how fast, and the time left."""

    def __init__(self, total: float) -> None:
        self._what, self._since = "starting ...", time.monotonic()
        self._total, self._first, self._done, self._rate = total, 0.0, 0.0, ""

    def doing(self, what: str) -> None:
        """Says what is done from now on, whose end is not known; its seconds are shown."""
        self._what, self._since = f"{what} ...", time.monotonic()

    def training(self, done: float) -> None:
        """Says that steps are taken from now on, or again."""
        self._what, self._since, self._first, self._done = "training", time.monotonic(), done, done

    def label(self, what: str) -> None:
        """Says what is done from now on, of what is measured on."""
        self._what = what

    def reached(self, done: float, rate: str = "") -> None:
        """Says how far training is."""
        self._done, self._rate = done, rate

    def words(self, width: int) -> str:
        """Writes the line; where there is too little room the time left is the last to go."""
        seconds = time.monotonic() - self._since
        if self._what.endswith("..."):
            return f"{self._what} {seconds:.0f} s"[:width]
        taken = self._done - self._first
        left = "" if taken <= 0 else f"{clock(seconds / taken * max(0.0, self._total - self._done))} left"
        # In the order in which they are given up, from the last to the first.
        parts = {"left": left, "done": f"{self._done:.0f}/{self._total:.0f}", "rate": self._rate, "what": self._what}
        room = width
        for name, part in parts.items():
            fits = len(part) <= room or name == "left"
            parts[name] = part[:width] if fits else ""
            room -= len(parts[name]) + 2 if parts[name] else 0
        bar = _bar(self._done / self._total, min(40, room)) if room >= 8 else ""
        return "  ".join(filter(None, (parts["what"], bar, parts["done"], parts["rate"], parts["left"])))

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[Text]:
        yield Text(self.words(options.max_width), no_wrap=True, overflow="crop")


def clock(seconds: float) -> str:
    """Writes a time as 0:07, 12:40 or 3:00:00."""
    minutes, second = divmod(round(seconds), 60)
    hours, minute = divmod(minutes, 60)
    return f"{hours}:{minute:02}:{second:02}" if hours else f"{minute}:{second:02}"


def _bar(share: float, width: int) -> str:
    full = round(max(0.0, min(1.0, share)) * width)
    return "━" * full + "╌" * (width - full)


class Reporter:
    """Prints lines, and shows how far training is.

    Args:
      console: to print to.
      status: the last line on it, or None where there is no terminal.
      announces: whether it is still to be said what is trained.
    """

    def __init__(self, console: Console, status: Status | None, announces: bool = True) -> None:
        self._console, self._status, self._examples = console, status, []
        self.announces, self._compiling_since = announces, 0.0

    def line(self, text: str = "") -> None:
        """Prints a line, as it is but for what a terminal would obey."""
        self._console.print(in_plain(text), markup=False, highlight=False, soft_wrap=True)

    def doing(self, what: str) -> None:
        """Shows what goes on before and after the steps, where there is a last line to show it on."""
        if self._status is not None:
            self._status.doing(what)

    def compiling(self) -> None:
        """Shows that programs are compiled."""
        self._compiling_since = time.monotonic()
        self.doing("compiling")
        if self._status is None:
            self.line("compiling ...")

    def training(self, step: int, parameters: int) -> None:
        """Shows from now on that steps are taken, after `step` of them, of a model of so many parameters."""
        seconds = time.monotonic() - self._compiling_since
        self.line(f"compiled in {seconds:.1f} s; {parameters:,} parameters")
        if self._status is not None:
            self._status.training(step)

    def device(self, text: str) -> None:
        """Says what the run runs on."""
        self.line(text)

    def row(self, row: dict[str, Any]) -> None:
        """Shows a row of training metrics: on the last line, where there is one."""
        if self._status is not None:
            self._status.reached(row["step"], f"{row['steps_per_second']:.0f} steps/s")

    def evaluation(self, row: dict[str, Any]) -> None:
        """Prints an evaluation: a line of numbers, and those decoded examples whose answer has changed."""
        score = "" if row["filter_score"] is None else f"   filter score {row['filter_score']:.3f}"
        seeds = len(row["replicates"])
        mean = f"   (means of {seeds} seeds)" if seeds > 1 else ""
        if "perplexity" in row:
            how = f"perplexity {row['perplexity']:.3f}   bits per byte {row['bits_per_byte']:.3f}"
        else:
            how = f"sequences {percent(row['exact_accuracy']):>7}%"
        self.line(
            f"step {row['step']:>6}   loss {row['loss']:.4f}   tokens {percent(row['token_accuracy']):>7}%   "
            f"{how}{score}{mean}"
        )
        width = self._console.width if self._console.is_terminal else LONGEST
        for example in row["examples"]:
            # All of a text that a model should go on with is hardly ever right.
            if example not in self._examples and "perplexity" not in row:
                self.line(in_width(example, width))
        self._examples = row["examples"]


class SweepReporter(Reporter):
    """Shows the runs of a sweep on one line that counts the steps of all; on what they run is said once."""

    _heading, _before, _told = "", 0, False

    def begin(self, heading: str, before: int) -> None:
        """Shows another run from now on, before which the others have taken so many steps."""
        self._heading, self._before = heading, before
        self.doing("starting")

    def doing(self, what: str) -> None:
        if self._status is not None:
            self._status.label(f"{self._heading} {what}")

    def device(self, text: str) -> None:
        if not self._told:
            self.line(text)
        self._told = True

    def compiling(self) -> None:
        self.doing("compiling")

    def training(self, step: int, parameters: int) -> None:
        self.doing("training")

    def row(self, row: dict[str, Any]) -> None:
        self.reached(row["step"])

    def reached(self, step: int) -> None:
        """Shows how far the run is."""
        if self._status is not None:
            self._status.reached(self._before + step)

    def evaluation(self, row: dict[str, Any]) -> None:
        pass


def in_width(example: dict[str, str], width: int) -> str:
    """Writes a decoded example in a line of at most so many columns: each of its texts loses its middle."""
    right = "right" if example["prediction"] == example["target"] else "wrong"
    source, prediction = in_plain(example["source"]), in_plain(example["prediction"])
    room = width - len(f"     ->    {right}")
    if len(source) + len(prediction) > room:
        half = max(room // 2, 1)
        source = shortened(source, max(half, room - len(prediction)))
        prediction = shortened(prediction, max(half, room - len(source)))
    return f"    {source} -> {prediction}   {right}"[:width]


@contextmanager
def reporter(steps: int, announces: bool = True) -> Iterator[Reporter]:
    """Opens a `Reporter` for a run of at most `steps` steps."""
    with _console_and_status(steps) as (console, status):
        yield Reporter(console, status, announces)


@contextmanager
def sweep_reporter(steps: int) -> Iterator[SweepReporter]:
    """Opens a reporter for the runs of a sweep, of at most `steps` steps together."""
    with _console_and_status(steps) as (console, status):
        if status is not None:
            status.training(0)
        yield SweepReporter(console, status, announces=False)


@contextmanager
def _console_and_status(steps: int) -> Iterator[tuple[Console, Status | None]]:
    console = Console()
    if console.is_jupyter:
        # In a notebook a display of each line is too much, and a last line that moves cannot be had.
        console = Console(force_jupyter=False, force_terminal=False)
    if not console.is_terminal or console.is_dumb_terminal:
        yield console, None
        return
    status = Status(max(steps, 1))
    with Live(status, console=console, refresh_per_second=5, transient=True):
        yield console, status
