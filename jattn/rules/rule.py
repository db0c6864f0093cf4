"""Rules: the objects that a user composes (scores, masks, biases, normalizers, edits), and what all of them can do.

A rule is a frozen dataclass and a pytree: its arrays are leaves, which may be traced, mapped and differentiated, and
everything else is part of the structure, which `jax.jit` compiles for.

Printed, a rule is the code that makes it. Numbers equal to a factory's default are left out; an array is shown by dtype
and shape, and a function by name.

Two rules are equal, and have the same hash, if they are of one kind, their static parts are equal, and their arrays
agree in dtype, shape and every bit (so NaN equals itself). Functions compare by identity, as everywhere in JAX. An
array that is being traced has no contents yet: to compare or to hash a rule that holds one raises `TypeError`.
`jax.jit` and its kin never ask for either: to them the arrays of a rule are data.

Example:
  >>> import jax.numpy as jnp
  >>> from jattn import masks, scores
  >>> masks.causal() & ~masks.prefix(2)
  causal() & ~prefix(2)
  >>> scores.soft_cap(scores.cosine(temperature=0.5), 5.0)
  soft_cap(cosine(temperature=0.5), 5.0)
  >>> masks.segments(jnp.array([[0, 0, 1], [0, 1, 1]]))
  segments(int32[2, 3])
  >>> masks.segments(jnp.array([0, 1])) == masks.segments(jnp.array([0, 1]))
  True
"""

import abc
import dataclasses
import difflib
import inspect
import math
import sys
from collections.abc import Callable, Hashable, Mapping
from typing import Any, ClassVar, Self, TypeVar, dataclass_transform

import jax
import numpy as np
from jax.core import Tracer

from jattn.rules.grids import static
from jattn.rules.trees import as_pytree

Class = TypeVar("Class", bound=type)

TIGHTEST = 9
"""How tightly a name or a call holds together; see `Rule.binding`."""


class Rule(abc.ABC):  # noqa: B024
    """What scores, masks, biases, normalizers and edits have in common; see the top of this file."""

    wing: ClassVar[str] = ""
    """The module of `jattn` whose functions make rules of this kind, such as ``masks``."""

    factory: ClassVar[Callable[..., Any] | None] = None
    """The function whose call makes such a rule; `rule` sets it."""

    binding: ClassVar[int] = TIGHTEST
    """How tightly the code of the rule holds together: ``|`` 1, ``&`` 2, ``+`` 3, ``~`` 4, calls and names 9."""

    def fit(self, shape: tuple[int, ...]) -> Self:
        """Returns the rule with its arrays fit to a filter of shape ``(*batch, N, T, S)``, or says why they do not."""
        fields = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}  # pyright: ignore[reportArgumentType]
        fitted = {name: value.fit(shape) for name, value in fields.items() if hasattr(value, "fit")}
        return dataclasses.replace(self, **fitted) if fitted else self  # pyright: ignore[reportArgumentType]

    def arguments(self) -> Mapping[str, Any]:
        """Returns the arguments of the factory; the fields of the same names by default."""
        return {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}  # pyright: ignore[reportArgumentType]

    def __repr__(self) -> str:
        arguments = self.arguments()
        factory = type(self).factory
        if factory is None:
            return f"{type(self).__name__}({', '.join(map(write, arguments.values()))})"
        return write_call(factory, arguments)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Rule) or type(self) is not type(other):
            return NotImplemented
        return self is other or _identity(self) == _identity(other)

    def __hash__(self) -> int:
        return hash((type(self), _identity(self)))


@dataclass_transform(frozen_default=True, eq_default=False, field_specifiers=(static,))
def rule(factory: Callable[..., Any] | None = None) -> Callable[[Class], Class]:
    """Decorates a subclass of `Rule`: makes it a frozen dataclass and a pytree.

    Args:
      factory: the function whose call makes the rule, and as which it is printed. Its parameters are named like the
        fields; where they are not, the class defines `Rule.arguments`.
    """

    def decorate(cls: Class) -> Class:
        cls = dataclasses.dataclass(frozen=True, eq=False, repr=False)(cls)
        if factory is not None:
            cls.factory = staticmethod(factory)
        return as_pytree(cls)

    return decorate


def write_call(factory: Callable[..., Any], arguments: Mapping[str, Any]) -> str:
    """Writes the call of a factory, without the arguments that equal its defaults."""
    words = []
    for name, parameter in inspect.signature(factory).parameters.items():
        word, default = write(arguments[name]), parameter.default
        if default is parameter.empty:
            words.append(word)
        elif word != write(default):
            words.append(f"{name}={word}")
    return f"{factory.__name__}({', '.join(words)})"


def write(value: Any) -> str:
    """Writes an argument as code, an array as dtype and shape, a function as its name."""
    if isinstance(value, Rule):
        return repr(value)
    if hasattr(value, "as_written"):
        return write(value.as_written)
    if isinstance(value, float):
        return repr(value) if math.isfinite(value) else f"float('{value}')"
    if hasattr(value, "dtype") and hasattr(value, "shape"):
        return f"{np.dtype(value.dtype).name}[{', '.join(map(str, value.shape))}]"
    if callable(value):
        return getattr(value, "__name__", None) or type(value).__name__.lstrip("_")
    return repr(value)


def called(value: Any, kind: type[Rule] | None = None) -> str:
    """Says in an error message what came instead of a rule of a kind, and what may have been meant.

    A rule is shown as code, anything else by its type. A function of jattn that makes rules is to be called, and so is
    the one whose name came as a string.
    """
    if isinstance(value, Rule):
        return repr(value)
    if is_factory(value):
        return f"the function {value.__name__} itself; call it: {_sample_call(value)}"
    if isinstance(value, str) and kind is not None:
        # Whoever has not imported the module cannot have meant its functions.
        here = getattr(sys.modules.get(f"jattn.rules.{kind.wing}"), "__dict__", {})
        factories = {name: made for name, made in here.items() if _makes(made, kind)}
        close = difflib.get_close_matches(value, factories, n=1)
        return f"{value!r}" + (f"; did you mean {_sample_call(factories[close[0]])}?" if close else "")
    return type(value).__name__


def is_factory(value: Any) -> bool:
    """Says whether a function is one of jattn's that make rules."""
    return inspect.isfunction(value) and value.__module__.startswith("jattn.") and _makes(value, Rule)


def _makes(function: Any, kind: type[Rule]) -> bool:
    made = inspect.isfunction(function) and function.__annotations__.get("return")
    return isinstance(made, type) and issubclass(made, kind) and not function.__name__.startswith("as_")


def _sample_call(factory: Callable[..., Any]) -> str:
    parameters = inspect.signature(factory).parameters.values()
    needed = any(parameter.default is parameter.empty for parameter in parameters)
    return f"{factory.__module__.rpartition('.')[2]}.{factory.__name__}({'...' if needed else ''})"


def write_joined(left: Rule, sign: str, right: Rule, binding: int) -> str:
    """Writes two rules joined by an operator, with the parentheses that make them join in this order."""
    before = repr(left) if left.binding >= binding else f"({left!r})"
    after = repr(right) if right.binding > binding else f"({right!r})"
    return f"{before} {sign} {after}"


def _identity(rule: Rule) -> tuple[Hashable, ...]:
    leaves, structure = jax.tree.flatten(rule)
    return structure, *map(_contents, leaves)


def _contents(leaf: Any) -> Hashable:
    if isinstance(leaf, Tracer):
        raise TypeError(
            f"rule: expected arrays with contents to compare or to hash, got {write(leaf)} that is being traced; "
            "give the rule as an argument of the traced function, not as a static one"
        )
    if isinstance(leaf, jax.Array | np.ndarray):
        array = np.asarray(leaf)
        return str(array.dtype), array.shape, array.tobytes()
    return leaf
