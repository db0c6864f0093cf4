"""Ranks: jattn's arrays broadcast from the last axis on, also where a caller forbids it to code of their own."""

import functools
from collections.abc import Callable
from typing import ParamSpec, TypeVar

import jax

P = ParamSpec("P")
Result = TypeVar("Result")


def any_rank(function: Callable[P, Result]) -> Callable[P, Result]:
    """Lets a function run, or be traced, with ``jax_numpy_rank_promotion`` "allow"."""

    @functools.wraps(function)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> Result:
        with jax.numpy_rank_promotion("allow"):
            return function(*args, **kwargs)

    return wrapped
