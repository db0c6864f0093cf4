"""``jattn tasks FILE.py:NAME``: a task of one's own, its options and examples."""

import sys

from jattn.command.helping import kind_words, value_words
from jattn.drawing.plain import in_plain
from jattn.tasks import draw
from jattn.tasks.catalogue import description_of
from jattn.training.own.checks import check_task
from jattn.training.reading import check, get_section


def show_own_task(name: str, length: int | None, examples: int) -> int:
    """Prints a task of one's own as `show_task` does, ``FILE.py:NAME``, with its options as a config has them."""
    try:
        config = check({"task": {"name": name}}, "tasks")
        task, part = config.task.make(), config.task.chosen("name")
        check_task(part.code, task, task.length if length is None else length)
        drawn = [draw(task, length, seed) for seed in range(examples)]
    except ValueError as error:
        print(in_plain(f"tasks: {str(error).removeprefix('tasks: ')}"), file=sys.stderr)
        return 2
    fields = get_section("task", type(config)).model_fields
    print(f"{name}: {description_of(part.load())}\n\noptions:" + ("" if part.options else " none"))
    for key, option in part.options.items():
        print(f"  {key} {kind_words(fields[key])}, by default {value_words(option.default)}: {option.help}")
    print(f"lengths: {task.shortest} to {task.longest}, by default {task.length}\nlayouts: {', '.join(task.layouts)}")
    for text in drawn:
        print("\n" + "\n".join(f"    {line}" for line in text.split("\n")))
    return 0
