"""Folds: what can be asked of a filter of any length, computed block by block in one sweep.

A fold looks at one block of rows at a time. What it returns is a number (or an array) per query, or is combined over
the blocks of a head: column sums, a pooled map, a histogram. Folds that are asked together share the sweep, and with it
scores and weights::

    filter.summarize("entropy", best=folds.top_k(8), map=folds.pool(256, 256))

A fold of your own is a function of a block of weights and its `Grid`, and, where it is not one result per query, a
function that combines two of its results; see `from_function`.

Every fold is differentiable where its formula is, so it may be part of a loss. NaN in a query, or in a key that a query
may attend to, makes that row of the filter NaN, and with it what depends on the row.

Glossary of shapes: ``T`` queries, ``S`` keys, ``N`` heads; ``R`` rows and ``W`` keys of one block.
"""

import inspect
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec, get_args

from jaxtyping import Array, Float

from jattn.filters import head_folds, row_folds
from jattn.filters.blocks import Fold, Result
from jattn.filters.row_folds import TopK
from jattn.rules.grids import Grid

__all__ = ["FOLDS", "Fold", "FoldMethods", "TopK", "as_fold", "from_function"]

P = ParamSpec("P")


def from_function(
    function: Callable[[Float[Array, "... R W"], Grid], Any],
    combine: Callable[[Any, Any], Any] | None = None,
    *,
    initial: Any = 0,
    whole_rows: bool = True,
) -> Fold:
    """Asks what a function of a block of weights returns.

    Args:
      function: takes a block of weights ``[..., R, W]`` and its `Grid`. Without `combine` it returns a pytree of arrays
        ``[..., R, *rest]``, a result per row; with it, of any arrays of one shape for all blocks, ``[..., *rest]``,
        where ``...`` are the axes before the rows: ``[*batch, N]``, or none where heads are computed one at a time.
      combine: takes two results and returns one, such as ``jnp.add`` or ``jnp.maximum``; the order in which blocks are
        combined must not matter.
      initial: the total before the first block, which combining must leave as it is: 0 for sums, ``-jnp.inf`` for
        maxima of floats; a number, or a pytree of numbers for a pytree of results.
      whole_rows: whether a block holds all keys. If the function reads key indices from ``grid.key`` and never counts
        columns, False saves the work for keys that the mask rules out, half of it for a causal mask.

    A function is compiled when it is first asked. Define it once, outside of loops: a new one is compiled anew.

    Example: how much weight each head puts on keys of each distance, in bands of 1, 2, 4, ... keys.
      >>> import jax.numpy as jnp, numpy as np
      >>> from jattn import attention_filter, folds, masks
      >>> def band_mass(weights, grid):
      ...     distance = jnp.clip(grid.query - grid.key, 1)
      ...     band = jnp.log2(distance).astype(int)
      ...     in_band = band[..., None] == jnp.arange(3)
      ...     return jnp.einsum("...rw,rwb->...b", weights, in_band)
      >>> zeros = jnp.zeros((8, 1, 4))
      >>> filter = attention_filter(zeros, zeros, mask=masks.causal(-1))
      >>> print(np.asarray(filter.fold(folds.from_function(band_mass, jnp.add, whole_rows=False))).round(2))
      [[2.59 2.69 1.72]]
    """
    if not callable(function):
        raise TypeError(f"fold: expected a function of (weights, grid), got {type(function).__name__}")
    if combine is None:
        return row_folds.PerRow(function, whole_rows)
    if not callable(combine):
        raise TypeError(f"combine: expected a function of two results, got {type(combine).__name__}")
    return head_folds.Combined(function, combine, whole_rows, initial)


def as_fold(fold: Any) -> Fold:
    """Returns a `Fold` for a fold, its name, or a function of (weights, grid); refuses anything else."""
    if isinstance(fold, Fold):
        return fold
    if isinstance(fold, str):
        if fold not in FOLDS:
            raise ValueError(f"fold: expected one of {', '.join(FOLDS)}, or a fold with its arguments, got {fold!r}")
        return FOLDS[fold]()
    if fold in (*_MAKERS.values(), from_function):
        name = getattr(fold, "name", "from_function")
        raise TypeError(f"fold: expected a fold, got the function {name}; call it: folds.{name}(...)")
    return from_function(fold)


def _ask(make: Callable[P, Fold[Result]]) -> Callable[Concatenate[Any, P], Result]:
    """Makes the method of `AttentionFilter` that asks for a fold, with the arguments and the docstring of its class."""

    def method(self: Any, *args: P.args, **kwargs: P.kwargs) -> Result:
        return self.fold(make(*args, **kwargs))

    method.__doc__ = inspect.getdoc(make)
    own = inspect.Parameter("self", inspect.Parameter.POSITIONAL_OR_KEYWORD)
    result = get_args(vars(make)["__orig_bases__"][0])[0]
    arguments = inspect.signature(make).parameters.values()
    method.__signature__ = inspect.Signature([own, *arguments], return_annotation=result)
    method.fold = make
    return method


class FoldMethods:
    """The table of folds: a line makes a class a fold of `jattn.folds` and a method of `AttentionFilter`."""

    log_normalizer = _ask(row_folds.LogNormalizer)
    max_score = _ask(row_folds.MaxScore)
    entropy = _ask(row_folds.Entropy)
    effective_keys = _ask(row_folds.EffectiveKeys)
    max = _ask(row_folds.Max)
    argmax = _ask(row_folds.ArgMax)
    top_k = _ask(row_folds.TopKOf)
    expected_distance = _ask(row_folds.ExpectedDistance)
    mass = _ask(row_folds.Mass)
    sink_mass = _ask(row_folds.SinkMass)
    received = _ask(head_folds.Received)
    pool = _ask(head_folds.Pool)
    histogram = _ask(head_folds.Histogram)


_MAKERS: dict[str, type[Fold]] = {name: method.fold for name, method in vars(FoldMethods).items() if name[0] != "_"}

for _name, _fold in _MAKERS.items():
    _fold.name, FoldMethods.__dict__[_name].__name__ = _name, _name

FOLDS: dict[str, Callable[[], Fold]] = {
    name: fold
    for name, fold in _MAKERS.items()
    if all(argument.default is not argument.empty for argument in inspect.signature(fold).parameters.values())
}
"""The folds that may be asked for by name alone."""

if TYPE_CHECKING:

    def __getattr__(name: str) -> Callable[..., Fold]: ...


globals().update(_MAKERS)
