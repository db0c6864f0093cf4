"""What a function or a class takes, as options of a config: their types, ranges, defaults and meaning."""

import dataclasses
import inspect
import re
import sys
import types
import typing
from collections.abc import Callable, Sequence
from typing import Annotated, Any, Literal, get_args, get_origin

from jattn.tasks.options import Option

SCALARS = (bool, int, float, str)
OF_LINEN = ("parent", "name")
"""The fields that every linen module has."""


def _signed(function: Callable[..., Any]) -> Callable[..., Any]:
    """Returns what says what is taken: of a class without fields, such as one of NNX, how it is initialised."""
    is_made = inspect.isclass(function) and not dataclasses.is_dataclass(function)
    return function.__init__ if is_made and inspect.isfunction(function.__init__) else function


def options_of(function: Callable[..., Any], name: str, given: Sequence[str] = ()) -> dict[str, Option]:
    """Returns the parameters of a function, or the fields of a class, that a config can give.

    A parameter has the type of its annotation, ranges included, or else of its default. One that a config cannot hold
    and that has a default is left at that.

    Args:
      function: or class.
      name: what it is called in messages.
      given: the parameters that are given by other means.

    Raises:
      ValueError: if a parameter without a default cannot come from a config.

    Example:
      >>> from typing import Annotated
      >>> from pydantic import Field
      >>> from jattn.training.own.signatures import options_of
      >>> def zigzag(stride: Annotated[int, Field(ge=1)] = 2, symbols=10, table=None):
      ...     '''Reads in zigzag.
      ...
      ...     Args:
      ...       stride: how far it jumps.
      ...     '''
      >>> {key: (option.default, option.help) for key, option in options_of(zigzag, "zigzag").items()}
      {'stride': (2, 'how far it jumps'), 'symbols': (10, 'an option of zigzag')}
    """
    hints, options = _hints(function), {}
    for key, parameter in parameters_of(function).items():
        if key in given:
            continue
        required = parameter.default is inspect.Parameter.empty
        default = None if required else parameter.default
        kind = config_type(hints.get(key))
        if kind is float and hints[key] is not float and type(default) is int:
            kind = int
        kind = kind or _type_of(default)
        fits = default is None or isinstance(default, (*SCALARS, tuple))
        if kind is not None and fits and parameter.kind is not parameter.POSITIONAL_ONLY:
            help = _meaning(function, key) or f"an option of {name}"
            options[key] = Option(default, help, kind=kind, required=required)
        elif required:
            raise ValueError(
                f"{name}: expected a default of its parameter {key!r}, or a type that a config can hold: "
                f"bool, int, float, str, a Literal or a tuple of them; got {_named(hints.get(key))}"
            )
    return options


def parameters_of(function: Callable[..., Any]) -> dict[str, inspect.Parameter]:
    """Returns the parameters that can be given by name, and those that only have a place."""
    left_out = OF_LINEN if _signed(function) is function else ("self",)
    return {
        key: parameter
        for key, parameter in inspect.signature(_signed(function)).parameters.items()
        if parameter.kind not in (parameter.VAR_KEYWORD, parameter.VAR_POSITIONAL)
        and not (inspect.isclass(function) and key in left_out)
    }


def is_nnx(model: Any) -> bool:
    """Says whether something is an NNX module, or a class of them."""
    nnx = sys.modules.get("flax.nnx")
    if nnx is None or not hasattr(nnx, "Module"):
        return False
    return issubclass(model, nnx.Module) if inspect.isclass(model) else isinstance(model, nnx.Module)


def config_type(annotation: Any) -> Any:
    """Returns the type of the values that a config has for an annotation; None where it can have none.

    Example:
      >>> from typing import Literal
      >>> from jattn.training.own.signatures import config_type
      >>> config_type(int | None), config_type(list[float]), config_type(dict)
      (<class 'int'>, tuple[float, ...], None)
    """
    if annotation in SCALARS:
        return annotation
    origin, parts = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        inner = config_type(parts[0])
        return inner and Annotated[(inner, *parts[1:])]
    if origin is Literal:
        return annotation if all(isinstance(part, SCALARS) for part in parts) else None
    if origin in (typing.Union, types.UnionType):
        kinds = [kind for part in parts if (kind := config_type(part)) is not None]
        # A number that may be an array or complex as well is a number.
        return next((kind for kind in (float, int) if kind in kinds), kinds[0] if kinds else None)
    if origin is tuple and parts and parts[-1] is not ...:
        inners = tuple(map(config_type, parts))
        return tuple[inners] if all(inners) else None
    if origin in (tuple, list, Sequence) and parts:
        inner = config_type(parts[0])
        return inner and tuple[inner, ...]
    return None


def _hints(function: Callable[..., Any]) -> dict[str, Any]:
    try:
        return typing.get_type_hints(_signed(function), include_extras=True)
    except Exception:
        # An annotation that cannot be evaluated, such as a name for type checkers alone, is none.
        signature = inspect.signature(_signed(function))
        found = {key: parameter.annotation for key, parameter in signature.parameters.items()}
        return {key: hint for key, hint in found.items() if not isinstance(hint, str)}


def _type_of(default: Any) -> Any:
    if isinstance(default, tuple):
        return config_type(tuple[type(default[0]), ...]) if default else None
    return config_type(type(default))


def _meaning(function: Callable[..., Any], key: str) -> str:
    """Returns what the docstring says of a parameter in a line of its own."""
    found = re.search(rf"^\s*{key}\s*(\([^)]*\))?: *(\S.*?)\.?$", inspect.getdoc(function) or "", flags=re.MULTILINE)
    return found[2] if found else ""


def _named(hint: Any) -> str:
    return "none" if hint is None else getattr(hint, "__name__", str(hint))
