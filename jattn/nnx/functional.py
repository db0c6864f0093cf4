"""An NNX module as functions of its parameters, so that what trains a linen module trains it as well."""

import dataclasses
import inspect
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import PRNGKeyArray

from jattn.nnx.conversion import from_linen, to_linen
from jattn.nnx.study import Inspected

SCALARS = (bool, int, float, str, type(None))

MODES = ("deterministic", "use_running_average")
"""What ``train()`` and ``eval()`` set, by which a module is not another one."""


@dataclasses.dataclass(frozen=True)
class Functional(Inspected):
    """An NNX module with the methods of a linen one: ``init`` draws its parameters, ``apply`` calls it with them.

    The module is made anew in each traced call, and given the parameters; what else it keeps is made, not learned.
    Parameters have the names of `jattn.nnx.to_linen`.

    Args:
      make: makes the module, drawing from `nnx.Rngs`.
      module_class: what it makes, whose ``__call__`` says how the module is called.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from flax import nnx
      >>> from jattn.nnx.functional import Functional
      >>> model = Functional(lambda rngs: nnx.Linear(2, 3, rngs=rngs), nnx.Linear)
      >>> variables = model.init(jax.random.key(0))
      >>> model.apply(variables, jnp.ones((5, 2))).shape
      (5, 3)
    """

    make: Callable[[nnx.Rngs], nnx.Module]
    module_class: type

    def init(self, rng: PRNGKeyArray, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """Draws the parameters; they do not depend on the inputs.

        Raises:
          ValueError: if the module keeps statistics of batches or a cache, which a call changes.
        """
        model = self.make(nnx.Rngs(rng))
        for path, variable in nnx.iter_graph(model):
            if isinstance(variable, nnx.BatchStat | nnx.Cache):
                name = "/".join(map(str, path))
                raise ValueError(
                    f"{type(model).__name__}: expected no variables that a call changes, "
                    f"got the {type(variable).__name__} {name}"
                )
        return {"params": to_linen(model)["params"]}

    def whole(self, variables: Any) -> Any:
        """Makes the module with these parameters, its dropout off."""
        model = from_linen(self.make(nnx.Rngs(0)), {"params": variables["params"]})
        model.eval()
        return model

    def apply(
        self,
        variables: Any,
        *args: Any,
        deterministic: bool = True,
        rngs: Mapping[str, PRNGKeyArray] | None = None,
        capture_intermediates: bool = False,
        mutable: Any = False,
        **kwargs: Any,
    ) -> Any:
        """Calls the module as ``apply`` of a linen module does.

        Args:
          variables: ``{"params": ...}``.
          *args, **kwargs: what the module is called with.
          deterministic: whether dropout is off; the module hears it by ``train()`` and ``eval()``, and as an argument
            if it takes one of that name.
          rngs: keys by the names of random streams, such as ``dropout``.
          capture_intermediates, mutable: ask for what each method returns besides, as a nested dict.
        """
        if takes(self.module_class, "deterministic"):
            kwargs["deterministic"] = deterministic
        if deterministic and not capture_intermediates:
            return super().apply(variables, *args, **kwargs)
        model = self._edited(variables)
        if not deterministic:
            model.train()
        reseed(model, rngs or {})
        if not capture_intermediates:
            return model(*args, **kwargs)
        output, kept = nnx.capture(model, nnx.Intermediate, method_outputs=nnx.Intermediate)(*args, **kwargs)
        return output, {"intermediates": nnx.to_pure_dict(kept)}

    def changed_by(self, variables: Any, *args: Any, rngs: Mapping[str, PRNGKeyArray], **kwargs: Any) -> dict[str, Any]:
        """Says of each variable that a call in training writes to, by its name, whether its value is another one.

        Parameters and random streams are left out, and what a module sows; so is a variable that no call writes to.
        """
        if takes(self.module_class, "deterministic"):
            kwargs["deterministic"] = False
        model = self._edited(variables)
        model.train()
        reseed(model, rngs)
        before = [(path, one, one.get_value()) for path, one in nnx.iter_graph(model) if _is_kept(one)]
        model(*args, **kwargs)
        # A transformation such as nnx.scan writes all variables of a module, also as they were.
        return {
            "/".join(map(str, path)): _differ(value, one.get_value())
            for path, one, value in before
            if one.get_value() is not value
        }

    def capture(self, variables: Any, *args: Any, **kwargs: Any) -> Any:
        """Captures the filters of a call, its dropout off as in `apply`."""
        if takes(self.module_class, "deterministic"):
            kwargs.setdefault("deterministic", True)
        return super().capture(variables, *args, **kwargs)


def functional(module: nnx.Module) -> Functional:
    """Makes an NNX module functional: `init` gives the parameters that it has, whatever the rng."""
    graphdef, state = nnx.split(module)
    return Functional(lambda rngs: nnx.merge(graphdef, state, copy=True), type(module))


def takes(module_class: type, argument: str) -> bool:
    """Says whether modules of a class are called with an argument of that name."""
    return argument in inspect.signature(module_class.__call__).parameters


def reseed(module: nnx.Module, rngs: Mapping[str, PRNGKeyArray]) -> None:
    """Gives each random stream of these names a key of its own, and sets its count to zero.

    A stream of layers that were stacked by `nnx.vmap` has a key for each of them.
    """
    streams = [value for _, value in nnx.iter_graph(module) if isinstance(value, nnx.RngStream)]
    for place, stream in enumerate(streams):
        tag = stream.key.tag
        rng = rngs.get(tag, rngs.get("dropout") if tag == "default" else None)
        if rng is not None:
            key, shape = jax.random.fold_in(rng, place), stream.key.get_value().shape
            stream.key.set_value(jax.random.split(key, shape) if shape else key)
            stream.count.set_value(jnp.zeros_like(stream.count.get_value()))


def words_of(module: nnx.Module) -> str:
    """Describes an NNX module in one line: its class, the scalars of its modules, the shapes of its parameters."""
    parts = []
    for path, node in nnx.iter_modules(module):
        scalars = {
            key: value
            for key, value in sorted(vars(node).items())
            if _is_plain(value) and not key.startswith("_") and key not in MODES
        }
        said = ", ".join(f"{key} = {value!r}" for key, value in scalars.items())
        parts.append(f"{'/'.join(map(str, path)) or type(module).__name__}: {type(node).__name__}({said})")
    shapes = jax.tree.map(lambda leaf: tuple(leaf.shape), to_linen(module)["params"])
    return "; ".join([*sorted(parts), f"params = {shapes}"])


def _is_kept(node: Any) -> bool:
    return isinstance(node, nnx.Variable) and not isinstance(node, nnx.Param | nnx.RngState | nnx.Intermediate)


def _differ(one: Any, other: Any) -> Any:
    ours, theirs = (jax.tree.map(jnp.asarray, value) for value in (one, other))
    if jax.tree.map(jnp.shape, ours) != jax.tree.map(jnp.shape, theirs):
        return True
    differing = jax.tree.map(lambda a, b: jnp.any((a != b) & ~((a != a) & (b != b))), ours, theirs)
    return jax.tree.reduce(jnp.logical_or, differing, False)


def _is_plain(value: Any) -> bool:
    # Rules print as the code that makes them.
    is_rule = dataclasses.is_dataclass(value) and not isinstance(value, type) and "jattn" in type(value).__module__
    return isinstance(value, SCALARS) or is_rule
