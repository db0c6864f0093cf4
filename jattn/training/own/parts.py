"""Code of one's own in place of an entry of a table: what it takes becomes keys of the config."""

import dataclasses
import functools
import inspect
from collections.abc import Callable, Mapping
from typing import Annotated, Any

from jattn.tasks.options import Option
from jattn.training.own.code import Code, OwnError
from jattn.training.own.signatures import is_nnx, options_of, parameters_of
from jattn.training.sections import Section
from jattn.training.tables import LAYOUTS, Kind

RATE = ("learning_rate", "schedule", "warmup_steps")
"""The keys of a schedule, of which an optimizer that takes no learning rate has no use."""


LOGGER_METHODS = ("log", "close")
"""What a logger can do; see `jattn.training.loggers.Logger`."""


@dataclasses.dataclass(frozen=True)
class OwnPart(Kind):
    """What a name of code in a config stands for.

    Attributes:
      code: the thing that is named.
      parameters: all that it takes; empty for a thing that is ready.
      recorded: whether its file is a person's own.
      of_run: whether the run is another one with other code; a logger only hands on what was written.
    """

    code: Code = dataclasses.field(kw_only=True)
    parameters: tuple[str, ...] = ()
    recorded: bool = True
    of_run: bool = True

    def load(self) -> Any:
        """Returns the thing that is named."""
        return self.code.made

    def maker(self, layout: str) -> Any:
        """Returns the same, whatever the layout."""
        return self.code.made

    def make(self, expected: type | tuple[type, ...], **arguments: Any) -> Any:
        """Calls it with those of the arguments that it takes.

        Raises:
          OwnError: if it raises, naming the line, or returns something else than what is expected.
        """
        made, given = self.code.made, {key: value for key, value in arguments.items() if key in self.parameters}
        return _checked(self.code, expected, lambda: made(**given) if _is_function(made) else made)

    def make_task(self, options: Mapping[str, Any]) -> Any:
        """Makes the task, once for the same options."""
        return _make_task(self.code, tuple(options.items()))


def task_part(code: Code, section: type[Section]) -> OwnPart:
    """Reads what a task, or a function that makes one, takes; no key of every task may be among it."""
    from jattn.tasks.sequences import Task

    if isinstance(code.made, Task):
        return OwnPart(code=code)
    _expect_function(code, "a jattn.tasks.Task, or a function that makes one")
    options = _options(code, section)
    for key in options:
        if key in section.model_fields:
            raise code.wrong(f"its parameter {key!r} has the name of a key of every task; rename it")
    return OwnPart(options=options, code=code, parameters=tuple(options))


def model_part(code: Code, section: type[Section]) -> OwnPart:
    """Reads the fields of a linen module, or the parameters of an NNX module or of a function that makes one.

    Those that are keys of every model keep their meaning and range; a default of one's own takes the place of theirs.
    """
    _expect_function(code, "a linen or NNX module class, or a function that makes a module")
    passed = ("vocabulary", "dtype", "layout", "score", "normalizer", "rngs")
    parameters = _parameters(code)
    if "kind" in parameters:
        raise code.wrong("its field 'kind' has the name of the key that names it; rename it")
    options = {}
    shared = section.model_fields
    for key, option in _options(code, section, given=(*passed, *shared)).items():
        options[key] = option
    for key in parameters:
        if key in shared and key not in passed:
            default, field = parameters[key].default, shared[key]
            default = field.default if default is inspect.Parameter.empty else default
            kind = Annotated[(field.annotation, *field.metadata)] if field.metadata else field.annotation
            options[key] = Option(default, field.description or "", kind=kind)
    uses = tuple(key for key in ("score", "normalizer") if key in parameters)
    return OwnPart(
        options=options, uses=uses, models=dict.fromkeys(LAYOUTS, ""), code=code, parameters=tuple(parameters)
    )


def optimizer_part(code: Code, section: type[Section], recorded: bool = True) -> OwnPart:
    """Reads what an optimizer takes: a schedule as `learning_rate`, keys of every training, and options of its own."""
    import optax

    if isinstance(code.made, optax.GradientTransformation):
        return OwnPart(code=code, recorded=recorded)
    _expect_function(code, "an optax.GradientTransformation, or a function that makes one")
    parameters = tuple(_parameters(code))
    uses = RATE if "learning_rate" in parameters else ()
    options = _options(code, section, given=tuple(section.model_fields))
    return OwnPart(options=options, uses=uses, code=code, parameters=parameters, recorded=recorded)


def schedule_part(code: Code, section: type[Section]) -> OwnPart:
    """Reads what a schedule takes: the `peak`, `steps` or other keys of every training, and options of its own."""
    _expect_function(code, "a function of peak and steps that returns a function of the step")
    options = _options(code, section, given=("peak", *section.model_fields))
    return OwnPart(options=options, code=code, parameters=tuple(_parameters(code)))


def logger_part(code: Code) -> OwnPart:
    """Checks that a logger is made of a folder, a config and what is kept of it, and has the methods of one."""
    _expect_function(code, "a class of loggers")
    taken = list(_parameters(code))
    lacks = [name for name in LOGGER_METHODS if inspect.isclass(code.made) and not hasattr(code.made, name)]
    if len(taken) != 3 or lacks:
        got = f"one without {' and '.join(lacks)}" if lacks else f"({', '.join(taken)})"
        raise code.wrong(
            f"expected a class made of (folder, config, state), with log(step, numbers, pictures) and "
            f"close(), got {got}"
        )
    return OwnPart(code=code, parameters=tuple(taken), of_run=False)


def _is_function(made: Any) -> bool:
    return callable(made) and (inspect.isclass(made) or not (hasattr(made, "init") or is_nnx(made)))


def _expect_function(code: Code, expected: str) -> None:
    if not _is_function(code.made):
        raise code.wrong(f"expected {expected}, got {_named(code.made)}")


def _parameters(code: Code) -> dict[str, inspect.Parameter]:
    try:
        return parameters_of(code.made)
    except (TypeError, ValueError) as error:
        raise code.wrong(f"expected a signature that can be read, got: {error}") from None


def _options(code: Code, section: type[Section], given: tuple[str, ...] = ()) -> dict[str, Option]:
    _parameters(code)
    try:
        options = options_of(code.made, code.name, given)
    except ValueError as error:
        raise code.wrong(str(error).removeprefix(f"{code.name}: ")) from None
    for key in options:
        # A key of a config is an attribute of its section, which has others.
        if key.startswith("_") or hasattr(section, key):
            raise code.wrong(f"its parameter {key!r} has a name that no key of a config can have; rename it")
    return options


@functools.lru_cache(maxsize=64)
def _make_task(code: Code, options: tuple[tuple[str, Any], ...]) -> Any:
    from jattn.tasks.sequences import Task

    if isinstance(code.made, Task):
        return code.made
    try:
        return _checked(code, Task, lambda: code.made(**dict(options)))
    except OwnError as error:
        cause = error.__cause__
        # What it says of one of its options is a mistake in the config.
        if isinstance(cause, ValueError) and str(cause).partition(":")[0] in dict(options):
            raise OwnError(str(cause)) from cause
        raise OwnError(f"name: {error}") from cause


def _checked(code: Code, expected: Any, make: Callable[[], Any]) -> Any:
    """Returns what code makes."""
    try:
        made = make()
    except Exception as error:
        raise code.raised(error) from error
    kinds = expected if isinstance(expected, tuple) else (expected,)
    if not isinstance(made, kinds):
        raise code.wrong(f"expected it to return {_article(kinds[0].__name__)}, got {_named(made)}")
    return made


def _article(name: str) -> str:
    return f"{'an' if name[0] in 'AEIOUaeiou' else 'a'} {name}"


def _named(made: Any) -> str:
    return "None" if made is None else _article(type(made).__name__)
