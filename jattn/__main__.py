"""Small commands: ``python -m jattn report RUN_FOLDER`` and ``python -m jattn tasks [NAME]``."""

import argparse
import difflib
import sys
from pathlib import Path

from jattn.drawing.plain import in_plain


def main(arguments: list[str] | None = None) -> int:
    """Runs one of the commands; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m jattn", description="Small commands around jattn's toy tasks.")
    commands = parser.add_subparsers(required=True)
    report = commands.add_parser("report", help="draw the report of a run again, from the files in its folder")
    report.add_argument("run_folder", type=Path)
    report.set_defaults(command=lambda options: draw_report(options.run_folder))
    tasks = commands.add_parser("tasks", help="list the tasks, or show examples of one with the oracle drawn")
    tasks.add_argument("name", nargs="?", help="the task to show")
    tasks.add_argument("--length", type=int, help="how long sources may be; by default what suits the task")
    tasks.add_argument("--examples", type=int, default=3, help="how many to show")
    tasks.set_defaults(
        command=lambda options: (
            list_tasks() if options.name is None else show_task(options.name, options.length, options.examples)
        )
    )
    options = parser.parse_args(arguments)
    return options.command(options)


def draw_report(run_folder: Path) -> int:
    """Draws the figures and the page of a run again."""
    from jattn.report import render

    try:
        page = render(run_folder, say=lambda problem: print(in_plain(problem), file=sys.stderr))
        print(in_plain(f"see {page}"))
    except (OSError, ValueError) as error:
        print(in_plain(str(error)), file=sys.stderr)
        return 2
    return 0


def list_tasks() -> int:
    """Prints the tasks by family, each with its first line of description."""
    from jattn.tasks import FAMILIES

    width = max(len(make.__name__) for family in FAMILIES.values() for make in family)
    for family, makes in FAMILIES.items():
        print(f"{family}:")
        for make in makes:
            print(f"  {make.__name__:{width}}  {(make.__doc__ or '').split(chr(10))[0].replace('``', '')}")
    print("\npython -m jattn tasks NAME shows examples of one, with the oracle drawn")
    return 0


def show_task(name: str, length: int | None, examples: int) -> int:
    """Prints what a task is, its options, and examples: a line per answer, ``#`` where it is found."""
    import inspect

    from jattn.tasks import TASKS, draw
    from jattn.tasks.catalogue import task_options

    if name not in TASKS:
        near = difflib.get_close_matches(name.lower(), TASKS, n=1)
        hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(TASKS)}"
        print(f"tasks: there is no task {name!r}; {hint}", file=sys.stderr)
        return 2
    task, text = TASKS[name](), inspect.getdoc(TASKS[name]) or ""
    options = ", ".join(f"{key} = {value}" for key, value in task_options(name).items()) or "none"
    try:
        drawn = [draw(task, length, seed) for seed in range(examples)]
    except ValueError as error:
        print(f"tasks: {error}", file=sys.stderr)
        return 2
    print(f"{name}: {text.split(chr(10) + 'Args:')[0].split(chr(10) + 'Example')[0].strip()}\n")
    longest = f"{task.shortest} to {task.longest}"
    print(f"options: {options}\nlengths: {longest}, by default {task.length}\nlayouts: {', '.join(task.layouts)}")
    for text in drawn:
        print("\n" + "\n".join(f"    {line}" for line in text.split("\n")))
    return 0


if __name__ == "__main__":
    sys.exit(main())
