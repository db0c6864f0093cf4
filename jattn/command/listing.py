"""What the command lists and draws besides training: configs, tasks, reports."""

import difflib
import re
import sys
from pathlib import Path

from jattn.drawing.plain import fitted, in_plain, in_width, message


def config_lines() -> list[str]:
    """Lists the configs that come with jattn, each with its task, where that has another name, and what it is about."""
    import tomllib

    from jattn.training.shipped import configs_folder

    texts = {path.stem: path.read_text(encoding="utf-8") for path in sorted(configs_folder().glob("*.toml"))}
    width = max(map(len, texts), default=0)
    tasks = {name: tomllib.loads(text)["task"]["name"] for name, text in texts.items()}
    told = {name: "" if name == task else f"{task}: " for name, task in tasks.items()}
    return [f"  {name:{width}}  {told[name]}{_first_sentence(text)}" for name, text in texts.items()]


def list_configs() -> int:
    """Prints the configs that come with jattn."""
    _print([*(line[2:] for line in config_lines()), "", "jattn train NAME trains one; jattn configs NAME prints it"])
    return 0


def _print(lines: list[str]) -> None:
    """Prints lines, broken to the width of a terminal; a program that reads them gets them whole."""
    print("\n".join(in_width(lines) if sys.stdout.isatty() else lines))


def _first_sentence(text: str) -> str:
    """Returns the first sentence of the comment that a config begins with; one in quotes does not end it."""
    lines = [line.removeprefix("#").strip() for line in text.split("\n\n")[0].split("\n") if line.startswith("#")]
    words = " ".join(line for line in lines[: lines.index("")] if line)
    end = re.search(r"[.?](?= |$)", re.sub('"[^"]*"', lambda quoted: "-" * len(quoted[0]), words))
    return words if end is None else words[: end.end()]


def show_config(name: str) -> int:
    """Prints a config that comes with jattn, as it stands in its file."""
    from jattn.training.shipped import configs_folder, find_config

    path = find_config(Path(name))
    if not path.is_file():
        names = [path.stem for path in configs_folder().glob("*.toml")]
        near = difflib.get_close_matches(name, names, n=1)
        asked = f"did you mean {near[0]}?" if near else "jattn configs lists those there are"
        print(in_plain(f"configs: there is no config {name!r}; {asked}"), file=sys.stderr)
        return 2
    print(path.read_text(encoding="utf-8"), end="")
    return 0


def draw_report(folder: Path) -> int:
    """Draws the figures and the page of a run again, or of a sweep and all its runs."""
    from jattn.report import render_again

    try:
        page = render_again(folder, say=lambda problem: print(in_plain(problem), file=sys.stderr))
        print(in_plain(f"see {page}"))
    except (OSError, ValueError) as error:
        print(message(str(error)), file=sys.stderr)
        return 2
    return 0


def list_tasks() -> int:
    """Prints the tasks by family, each with its first line of description."""
    from jattn.tasks import FAMILIES
    from jattn.tasks.catalogue import FROM_FILES, task_description

    width = max(len(make.__name__) for family in FAMILIES.values() for make in family)
    lines = []
    for family, makes in FAMILIES.items():
        lines.append(f"{family}:")
        for make in makes:
            lines.append(f"  {make.__name__:{width}}  {(make.__doc__ or '').split(chr(10))[0].replace('``', '')}")
    lines.append("from a file of your own:")
    for name in FROM_FILES:
        lines.append(f"  {name:{width}}  {task_description(name).split(chr(10))[0].replace('``', '')}")
    _print([*lines, "", "jattn tasks NAME shows examples of one, with the oracle drawn"])
    return 0


def show_task(name: str, length: int | None, examples: int) -> int:
    """Prints what a task is, its options, and examples: a line per answer, ``#`` where it is found."""
    import inspect

    from jattn.tasks.catalogue import CATALOGUE, FROM_FILES, task_description, task_options

    if name in FROM_FILES:
        print(f"{name}: {task_description(name)}\n\noptions:")
        for key, option in FROM_FILES[name].options.items():
            print(f"  {key}: {option.help} (default {option.default!r})")
        return 0
    if name not in CATALOGUE:
        near = difflib.get_close_matches(name.lower(), CATALOGUE, n=1)
        line = f"tasks: there is no task {name!r}; "
        if name.endswith(".py"):
            line += f"one of your own is written {name}:NAME"
        else:
            line = f"{line}did you mean {near[0]}?" if near else fitted(f"{line}there are ", list(CATALOGUE))
        print(message(line), file=sys.stderr)
        return 2
    from jattn.tasks import draw

    make = CATALOGUE[name].load()
    task, text = make(), inspect.getdoc(make) or ""
    options = ", ".join(f"{key} = {value}" for key, value in task_options(name).items()) or "none"
    try:
        drawn = [draw(task, length, seed) for seed in range(examples)]
    except ValueError as error:
        print(f"tasks: {error}", file=sys.stderr)
        return 2
    print(f"{name}: {task_description(name)}\n".replace("``", ""))
    longest = f"{task.shortest} to {task.longest}"
    meaning = text.partition("Args:\n")[2].split("\n\n")[0].rstrip().replace("``", "")
    print(f"options: {options}" + (f"\n{meaning}" if meaning else ""))
    print(f"lengths: {longest}, by default {task.length}\nlayouts: {', '.join(task.layouts)}")
    for text in drawn:
        print("\n" + "\n".join(f"    {line}" for line in text.split("\n")))
    return 0
