"""JAX, imported when something of it is first used.

A task can so be named, made and asked for its lengths and layouts without JAX, which takes seconds to import: a config
is checked, and its help written, before.

Example:
  >>> from jattn.tasks.late import jnp
  >>> jnp.arange(3).tolist()
  [0, 1, 2]
"""

import importlib
from typing import TYPE_CHECKING, Any


class Late:
    """Stands for a module, and imports it when one of its names is first looked up."""

    def __init__(self, module: str):
        self._module = module

    def __getattr__(self, name: str) -> Any:
        # Copying and unpickling ask for these of an object that has no attributes yet.
        if name == "_module" or name.startswith("__"):
            raise AttributeError(name)
        return getattr(importlib.import_module(self._module), name)

    def __repr__(self) -> str:
        return f"Late({self._module!r})"


if TYPE_CHECKING:
    import jax as jax
    import jax.numpy as jnp
    from jax import lax as lax
else:
    jax, jnp, lax = Late("jax"), Late("jax.numpy"), Late("jax.lax")
