"""Functions of a user's own, of which rules are made: what they are given, and whether what they return fits."""

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Float

from jattn.rules.grids import Grid
from jattn.rules.rule import Rule, called, is_factory, write

INDICES = ("batch", "head", "query", "key")
"""What a function may be given, from the last on: two, three or all of them."""


def count_indices(function: Callable[..., Any], caller: str, *before: str) -> int:
    """Says how many of the `INDICES` a function is given: one for each parameter without a default, at least two.

    So a default is the function's own: ``lambda query, key, window=3: ...`` gets query and key. A builtin that does not
    tell its parameters gets two.

    Args:
      function: what a user gave.
      caller: what error messages call it.
      before: what it is given before the indices.

    Raises:
      TypeError: if it is no function, or cannot be called with two, three or four indices.
    """
    least, most = len(before) + 2, len(before) + len(INDICES)
    count = max(least, count_needed(function, least)) if callable(function) else most + 1
    if count > most or not can_take(function, count):
        *few, all_of_them = (", ".join((*before, *INDICES[-count:])) for count in (2, 3, 4))
        wanted = f"({'), ('.join(few)}) or ({all_of_them})"
        got = write_signature(function) if callable(function) else repr(function)
        raise TypeError(f"{caller}: expected a function of {wanted}, got {got}")
    return count - len(before)


def count_needed(function: Callable[..., Any], untold: int) -> int:
    """Counts the parameters by position that have no default; of a builtin that does not tell, it is `untold`."""
    try:
        parameters = inspect.signature(function).parameters.values()
    except ValueError:
        return untold
    by_position = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return sum(parameter.kind in by_position and parameter.default is parameter.empty for parameter in parameters)


def can_take(function: Callable[..., Any], count: int) -> bool:
    """Says whether a function can be called with this many arguments by position and no others."""
    try:
        inspect.signature(function).bind(*range(count))
    except ValueError:
        return True
    except TypeError:
        return False
    return True


def check_takes(name: str, kind: type[Rule], function: Any, *given: str) -> None:
    """Raises `TypeError` unless a value is a function of a user's own whose parameters without a default are `given`.

    A function with ``*args`` may have fewer. One that would take what it is given for something else may not.
    """
    wanted = f"{name}: expected a jattn {name} or a function of ({', '.join(given)})"
    if not callable(function) or isinstance(function, Rule) or is_factory(function):
        raise TypeError(f"{wanted}, got {called(function, kind)}")
    takes_any = can_take(function, 99)
    if not can_take(function, len(given)) or not (takes_any or count_needed(function, len(given)) == len(given)):
        raise TypeError(f"{wanted}, got {write_signature(function)}")


def write_signature(function: Callable[..., Any]) -> str:
    """Writes a function as its name and parameters."""
    parameters = inspect.signature(function).parameters.values()
    unannotated = [parameter.replace(annotation=parameter.empty) for parameter in parameters]
    return f"{write(function)}{inspect.Signature(unannotated)}"


def place_of(function: Any) -> str:
    """Says where a function of a user's own is defined, as the end of a message; empty where it is in no file."""
    code = getattr(inspect.unwrap(function), "__code__", None)
    path = Path(code.co_filename) if code else None
    return f"; defined in {path.name}, line {code.co_firstlineno}" if code and path and path.is_file() else ""


def of_indices(name: str, function: Callable[..., Any], count: int, grid: Grid) -> Array:
    """Calls a function of the last `count` of the `INDICES` with those of one block.

    A function that is given no ``head`` returns the same for all heads, whether they are computed at once or walked.

    Raises:
      ValueError: unless what it returns broadcasts to the grids, and not the other way.
      TypeError: if it returns no array.
    """
    indices = grid.indices(count)
    array = as_returned(name, function(*indices))
    block = jnp.broadcast_shapes(*(index.shape for index in indices))
    sizes = zip(array.shape[::-1], block[::-1], strict=False)
    if array.ndim > len(block) or any(size not in (1, whole) for size, whole in sizes):
        hint = "; what differs by head takes (head, query, key)" if count == 2 else ""
        raise ValueError(
            f"{name}: the function must return an array that broadcasts to its index grids, of shape {block}, "
            f"got {array.shape}{hint}"
        )
    return array


def as_returned(name: str, returned: Any) -> Array:
    """Returns what a user's function returned as an array; raises `TypeError` if it is none."""
    try:
        return jnp.asarray(returned)
    except (TypeError, ValueError):
        raise TypeError(f"{name}: the function must return an array, got {type(returned).__name__}") from None


def as_floats(name: str, returned: Any, shape: tuple[int, ...], given: str = "") -> Float[Array, "..."]:
    """Returns what a user's function returned as an array of floats of a shape; `given` says what it was given.

    Raises:
      ValueError: if it has another shape.
      TypeError: if it is no array, or not of floats.
    """
    array = as_returned(name, returned)
    if array.shape != shape:
        raise ValueError(f"{name}: the function{given} must return shape {shape}, got {array.shape}")
    if not jnp.issubdtype(array.dtype, jnp.floating):
        raise TypeError(f"{name}: the function must return floats, got dtype {array.dtype}")
    return array
