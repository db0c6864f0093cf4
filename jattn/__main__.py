"""Small commands: ``python -m jattn report RUN_FOLDER`` and ``python -m jattn tasks``."""

import argparse
import sys
from pathlib import Path


def main(arguments: list[str] | None = None) -> int:
    """Runs one of the commands; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m jattn", description="Small commands around jattn's toy tasks.")
    commands = parser.add_subparsers(required=True)
    report = commands.add_parser("report", help="draw the report of a run again, from the files in its folder")
    report.add_argument("run_folder", type=Path)
    report.set_defaults(command=lambda options: draw_report(options.run_folder))
    tasks = commands.add_parser("tasks", help="list the tasks, each with an example and its oracle")
    tasks.set_defaults(command=lambda options: list_tasks())
    options = parser.parse_args(arguments)
    return options.command(options)


def draw_report(run_folder: Path) -> int:
    """Draws the figures and the page of a run again."""
    from jattn.report import render

    try:
        print(f"see {render(run_folder)}")
    except (OSError, ValueError) as error:
        print(error, file=sys.stderr)
        return 2
    return 0


def list_tasks() -> int:
    """Prints each task with its description, an example, and the oracle drawn: a row per query, ``#`` an answer."""
    import jax
    import jax.numpy as jnp

    from jattn import masks
    from jattn.tasks import TASKS

    length = 6
    for name, make in TASKS.items():
        task = make(10)
        example = task.sample(jax.random.key(0), jnp.int32(length), length)
        source, target = (" ".join(task.symbols[token] for token in x) for x in (example.source, example.target))
        summary = (make.__doc__ or "").split("\n")[0]
        print(f"{name}: {summary}\n\n    {source} -> {target}\n")
        print("\n".join(f"    {line}" for line in masks.draw(example.alignment, length, length).split("\n")) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
