"""The report of a run: figures, an animation and a page, drawn from the files in its folder and nothing else."""

import warnings
from collections.abc import Callable
from pathlib import Path

from jattn.drawing.files import replacing
from jattn.report.record import Example, Layer, Probes, RunRecord, read_record, save_probes
from jattn.report.snapshots import Pooled, save_snapshot

__all__ = [
    "Example",
    "Layer",
    "Pooled",
    "Probes",
    "RunRecord",
    "read_record",
    "render",
    "render_again",
    "save_probes",
    "save_snapshot",
]


def render_again(folder: Path | str, say: Callable[[str], None] = warnings.warn) -> Path:
    """Draws the report of a run again, or of a sweep: that of each of its runs, and its comparison.

    Args:
      folder: of a run, or of a sweep.
      say: is told of what cannot be drawn and is left out.

    Returns:
      The path of the page.

    Raises:
      FileNotFoundError, ValueError: as `render` does, or `jattn.report.comparison.read_outcomes`.
    """
    from jattn.report.comparison import read_outcomes, write_comparison

    folder = Path(folder)
    if (folder / "config.toml").exists() or not (folder / "sweep.csv").is_file():
        return render(folder, say)
    outcomes = read_outcomes(folder)
    for outcome in outcomes:
        try:
            render(folder / outcome.folder, say)
        except (OSError, ValueError) as error:
            say(f"{error}; this run is left as it is")
    write_comparison(folder, outcomes)
    return folder / "sweep.html"


def render(run_dir: Path | str, say: Callable[[str], None] = warnings.warn) -> Path:
    """Draws the report of a run into its folder, whether the run is finished or under way.

    Writes `report.html`, `figures/curves.png` and, of a model with attention, `figures/filters.png` and
    `figures/filters.gif`, each in one step.

    Args:
      run_dir: the run's folder; `jattn.report.record` says what it must hold.
      say: is told of each snapshot that cannot be read and is left out.

    Returns:
      The path of the page.

    Raises:
      FileNotFoundError: a file is missing that the report needs; the message names it.
      ValueError: a file does not hold what it should; the message names it.
    """
    from jattn.drawing.look import save_figure
    from jattn.report import animation, figures, page

    folder, record = Path(run_dir), read_record(run_dir)
    for problem in record.problems:
        say(problem)
    with replacing(folder / "figures" / "curves.png") as file:
        save_figure(figures.draw_curves(record), file)
    if record.probes.layers:
        with replacing(folder / "figures" / "filters.png") as file:
            save_figure(figures.draw_filters(record), file)
        with replacing(folder / "figures" / "filters.gif") as file:
            animation.save_frames(animation.draw_frames(record), file)
    with replacing(folder / "report.html") as file:
        file.write(page.build_page(record).encode())
    return folder / "report.html"
