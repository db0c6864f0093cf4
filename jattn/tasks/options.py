"""A task by its name in a config and the options that it takes there."""

import inspect
from typing import Any

from jattn.tasks import TASKS, Task


def task_options(name: str) -> dict[str, Any]:
    """Returns the options of a task and their defaults; ``num_symbols`` is the option ``symbols``, and so on.

    Example:
      >>> from jattn.tasks.options import task_options
      >>> task_options("shift")
      {'symbols': 10, 'by': 1}
    """
    return {_option(key): parameter.default for key, parameter in inspect.signature(TASKS[name]).parameters.items()}


def make_task(name: str, options: dict[str, Any]) -> Task:
    """Makes the task of a name with options as a config tells them.

    Raises:
      ValueError: if the task has no such option, or an option has a value that cannot work; the text begins with the
        option's name.
    """
    parameters = {_option(key): key for key in inspect.signature(TASKS[name]).parameters}
    for key in options:
        if key not in parameters:
            takes = f"it has {', '.join(parameters)}" if parameters else "it has none"
            raise ValueError(f"{key}: task {name!r} has no such option; {takes}")
    try:
        return TASKS[name](**{parameters[key]: value for key, value in options.items()})
    except ValueError as error:
        parameter, _, problem = str(error).partition(":")
        raise ValueError(f"{_option(parameter)}:{problem}") from None


def _option(parameter: str) -> str:
    return parameter.removeprefix("num_")
