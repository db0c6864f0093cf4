"""What parts of one's own must do, tried before a run begins: shapes, types and ranges, and which line is wrong."""

import contextlib
import inspect
import math
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jattn.tasks import Sequence, Task
from jattn.training.own.code import Code, OwnError

EXAMPLES = 16
"""How many examples of a task are looked at."""


@contextlib.contextmanager
def naming_the_line(code: Code) -> Iterator[None]:
    """Says of what code raises in which line it was."""
    try:
        yield
    except OwnError:
        raise
    except Exception as error:
        raise code.raised(error) from error


def check_task(code: Code, task: Task, length: int) -> None:
    """Draws a few examples, and checks the shapes, types and ranges of what makes them.

    Raises:
      OwnError: naming what was expected and what came.
    """
    for name in ("sample", "judged"):
        sample = getattr(task, name)
        if sample is not None:
            with naming_the_line(code):
                _check_sampler(code, name, sample, task, length)


def _check_sampler(code: Code, name: str, sample: Callable[..., Any], task: Task, length: int) -> None:
    rngs = jax.random.split(jax.random.key(0), EXAMPLES)
    made = jax.eval_shape(lambda rng: sample(rng, jnp.int32(length), length), rngs[0])
    if not isinstance(made, Sequence):
        raise code.wrong(f"{name}: expected to return a jattn.tasks.Sequence, got {type(made).__name__}")
    answers = task.target_room(length)
    pictures = task.describe is not None
    wanted: dict[str, tuple[tuple[int, ...], Any, str]] = {
        "source": (
            (length, made.source.shape[-1]) if pictures else (length,),
            np.inexact if pictures else np.integer,
            "",
        ),
        "source_length": ((), np.integer, ""),
        "target": ((answers,), np.integer, ""),
        "target_length": ((), np.integer, ""),
        "alignment": ((answers, length), np.bool_, ", answers and sources"),
        **({} if made.read_at is None else {"read_at": ((answers,), np.integer, "")}),
    }
    for field, (shape, kind, meaning) in wanted.items():
        got = getattr(made, field)
        dtype = getattr(got, "dtype", None)
        if getattr(got, "shape", None) != shape or not np.issubdtype(dtype, kind):
            raise code.wrong(
                f"{name}: expected {field} of shape {shape}{meaning} and type {_KINDS[kind]} in room {length}, "
                f"got {getattr(got, 'shape', got)} and {dtype}"
            )
    drawn = jax.device_get(jax.jit(jax.vmap(lambda rng: sample(rng, jnp.int32(length), length)))(rngs))
    _check_ranges(code, name, drawn, task)


_KINDS = {np.integer: "integer", np.inexact: "float", np.bool_: "bool"}


def _check_ranges(code: Code, name: str, made: Sequence, task: Task) -> None:
    rooms = {"source": made.source.shape[1], "target": made.target.shape[1]}
    for field, room in rooms.items():
        lengths = np.asarray(getattr(made, f"{field}_length"))
        if lengths.min() < 0 or lengths.max() > room:
            raise code.wrong(f"{name}: expected {field}_length from 0 to {room}, got {_outside(lengths, 0, room)}")
        items = np.asarray(getattr(made, field))
        real = items[np.arange(room) < lengths[:, None]]
        if items.ndim == 2 and real.size and (real.min() < 0 or real.max() >= len(task.symbols)):
            raise code.wrong(
                f"{name}: expected {field} tokens from 0 to {len(task.symbols) - 1}, a place in symbols, "
                f"got {_outside(real, 0, len(task.symbols) - 1)}"
            )
        if items.ndim == 3 and not np.all(np.isfinite(real)):
            raise code.wrong(f"{name}: expected finite numbers in {field}, got {real[~np.isfinite(real)][0]}")


def _outside(values: np.ndarray, least: int, most: int) -> int:
    return int(values[(values < least) | (values > most)][0])


def call_of(model: Any) -> inspect.Signature:
    """Returns how a model is called: a linen module, or an NNX module in its functional form."""
    return inspect.signature(getattr(model, "module_class", type(model)).__call__)


def takes(model: Any, argument: str) -> bool:
    """Says whether a model can be called with an argument of some name."""
    parameters = call_of(model).parameters
    return argument in parameters or any(one.kind is one.VAR_KEYWORD for one in parameters.values())


def check_call(code: Code, model: Any, layout: str) -> None:
    """Raises an OwnError unless a model can be called with the inputs of a layout, with lengths and without."""
    inputs, lengths = (
        (("tokens", "source"), "source_lengths") if layout == "encoder_decoder" else (("tokens",), "lengths")
    )
    _, *parameters = call_of(model).parameters.values()
    needed = {one.name for one in parameters if one.default is one.empty and one.kind not in _ANY}
    if not all(takes(model, argument) for argument in (*inputs, lengths)) or not needed <= {*inputs, "deterministic"}:
        shown = (str(one).partition(":")[0] if one.default is one.empty else f"{one.name}=..." for one in parameters)
        raise code.wrong(
            f"expected __call__(self, {', '.join(inputs)}, {lengths}=None), for layout {layout!r}, "
            f"got __call__({', '.join(('self', *shown))})"
        )


_ANY = (inspect.Parameter.VAR_KEYWORD, inspect.Parameter.VAR_POSITIONAL)


def check_schedule(code: Code, schedule: Any, steps: int) -> None:
    """Raises an OwnError unless a schedule is finite at the first, middle and last step, and can be compiled."""
    if not callable(schedule):
        raise code.wrong(f"expected it to return a function of the step, got {type(schedule).__name__}")
    for step in sorted({0, steps // 2, steps - 1}):
        with naming_the_line(code):
            rate: Any = schedule(jnp.int32(step))
        if np.shape(rate) != ():
            got = f"shape {np.shape(rate)}"
        elif not np.issubdtype(np.asarray(rate).dtype, np.number) or np.iscomplexobj(rate):
            got = repr(rate)
        else:
            got = None if math.isfinite(rate) else float(rate)
        if got is not None:
            raise code.wrong(f"expected a finite learning rate at each step, got {got} at step {step}")
    with naming_the_line(code):
        jax.eval_shape(schedule, jax.ShapeDtypeStruct((), jnp.int32))


def check_optimizer(code: Code, optimizer: optax.GradientTransformation, params: Any) -> None:
    """Raises an OwnError unless an optimizer keeps the shapes of parameters and of its own state."""
    with naming_the_line(code):
        state = jax.eval_shape(optimizer.init, params)
        made = jax.eval_shape(lambda params, state: optimizer.update(params, state, params), params, state)
    for what, got, wanted in (("updates", made[0], params), ("a state", made[1], state)):
        shapes = [jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), tree) for tree in (got, wanted)]
        if shapes[0] != shapes[1]:
            raise code.wrong(f"expected update to return {what} of the shapes that it was given, got others")
