"""Pytrees: dataclasses whose structures tell their classes apart."""

import dataclasses
from typing import Any, TypeVar

import jax

Class = TypeVar("Class", bound=type)


def as_pytree(cls: Class) -> Class:
    """Makes a dataclass a pytree: fields that are `static` belong to its structure, the others are its children.

    Structures of two classes differ. Those of `jax.tree_util.register_dataclass` are equal if the fields are, as jax
    0.10 to 0.12 compare no classes, and then `jax.jit` may run the program of another rule.
    """
    fields = [field for field in dataclasses.fields(cls) if field.init]
    names = [field.name for field in fields if not field.metadata.get("static", False)]
    static_names = [field.name for field in fields if field.name not in names]

    def flatten(x: Any) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
        return tuple(getattr(x, name) for name in names), tuple(getattr(x, name) for name in static_names)

    def flatten_with_keys(x: Any) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
        children, structure = flatten(x)
        return tuple(zip(map(jax.tree_util.GetAttrKey, names), children, strict=True)), structure

    def unflatten(structure: tuple[Any, ...], children: Any) -> Any:
        return cls(**dict(zip(names, children, strict=True)), **dict(zip(static_names, structure, strict=True)))

    jax.tree_util.register_pytree_with_keys(cls, flatten_with_keys, unflatten, flatten)
    return cls
