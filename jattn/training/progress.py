"""What a person sees while training: a bar with the time left on a terminal, plain lines elsewhere."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from jattn.drawing.plain import in_plain


class Reporter:
    """Prints lines, and shows how far training is."""

    def __init__(self, console: Console, progress: Progress | None, steps: int) -> None:
        self._console, self._progress = console, progress
        self._bar = progress.add_task("training", total=steps, rate="") if progress else None

    def line(self, text: str = "") -> None:
        """Prints a line, as it is but for what a terminal would obey."""
        self._console.print(in_plain(text), markup=False, highlight=False, soft_wrap=True)

    def row(self, row: dict[str, Any]) -> None:
        """Shows a row of training metrics: on the bar, where there is one."""
        if self._progress is not None and self._bar is not None:
            self._progress.update(self._bar, completed=row["step"], rate=f"{row['steps_per_second']:.0f} steps/s")

    def evaluation(self, row: dict[str, Any]) -> None:
        """Prints an evaluation: a line of numbers, and decoded examples."""
        score = "" if row["filter_score"] is None else f"   filter score {row['filter_score']:.3f}"
        seeds = len(row["replicates"])
        mean = f"   (means of {seeds} seeds)" if seeds > 1 else ""
        self.line(
            f"step {row['step']:>6}   loss {row['loss']:.4f}   tokens {row['token_accuracy']:8.2%}   "
            f"sequences {row['exact_accuracy']:8.2%}{score}{mean}"
        )
        for example in row["examples"]:
            right = "right" if example["prediction"] == example["target"] else "wrong"
            self.line(f"    {example['source']} -> {example['prediction']}   {right}")


@contextmanager
def reporter(steps: int) -> Iterator[Reporter]:
    """Opens a `Reporter` for a run of at most `steps` steps."""
    console = Console()
    if not console.is_terminal:
        yield Reporter(console, None, steps)
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console) as progress:
        yield Reporter(console, progress, steps)
