"""Compiled once: calls outside of `jax.jit` run the program of an earlier call with the same shapes, dtypes and rules.

Rules are pytrees, so a rule that is written anew in each call is the same rule to `jax.jit` if its static parts are
equal; arrays in it are data. Functions of a user's own compare by identity, as everywhere in JAX.
"""

import functools
from collections.abc import Callable, Iterator
from typing import Any

import jax
from jax.core import Tracer

from jattn.engine.plans import walks_heads
from jattn.rules.ranks import any_rank


def compiled(function: Callable[..., Any], **static: Any) -> Callable[..., Any]:
    """Compiles a function of pytrees, once for every kind of device and every value of the keyword arguments.

    It runs as it is where nothing could be kept: if a static part of an argument cannot be hashed, or a function among
    them has closed over a value that is being traced, which must not outlive its trace.
    """

    @any_rank
    def call(*arguments: Any) -> Any:
        structure = jax.tree.structure(arguments)
        try:
            hash(structure)
        except TypeError:
            return function(*arguments, **static)
        if closes_over_tracers(structure):
            return function(*arguments, **static)
        return _jitted(function, tuple(static.items()), jax.default_backend(), walks_heads())(*arguments)

    return call


@functools.lru_cache(maxsize=256)
def _jitted(function: Callable[..., Any], static: tuple[tuple[str, Any], ...], *context: Any) -> Callable[..., Any]:
    return jax.jit(functools.partial(function, **dict(static)))


def closes_over_tracers(structure: Any) -> bool:
    """Says whether a function in the static parts of a pytree refers to a value that is being traced."""
    return any(isinstance(value, Tracer) for value in _closed_over(structure))


def forget() -> None:
    """Lets go of all programs."""
    _jitted.cache_clear()


def _closed_over(structure: Any) -> Iterator[Any]:
    """Lists what the functions in a pytree's static parts refer to beyond their arguments."""
    found, seen = list(_static_parts(structure)), set()
    while found:
        part = found.pop()
        if id(part) in seen:
            continue
        seen.add(id(part))
        if isinstance(part, functools.partial):
            found += [part.func, *jax.tree.leaves((part.args, part.keywords))]
        elif isinstance(part, tuple | list):
            found += part
        elif callable(part) and not isinstance(part, type):
            found += _cells(part)
        else:
            yield part


def _static_parts(structure: Any) -> Iterator[Any]:
    data = structure.node_data()
    if data is not None:
        yield data[1]
    for child in structure.children():
        yield from _static_parts(child)


def _cells(function: Any) -> list[Any]:
    owner = getattr(function, "__self__", None)
    parts = [
        *(getattr(function, "__defaults__", None) or ()),
        owner,
        *jax.tree.leaves(getattr(owner, "__dict__", None)),
    ]
    for cell in getattr(function, "__closure__", None) or ():
        try:
            parts += jax.tree.leaves(cell.cell_contents)
        except ValueError:  # an empty cell
            continue
    if not hasattr(function, "__code__"):
        parts += jax.tree.leaves(getattr(function, "__dict__", None))
    return parts
