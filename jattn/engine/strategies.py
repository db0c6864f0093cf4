"""Strategies: how the keys of a sequence that is split over devices reach the queries, and who has which rows."""

import math
from typing import Any

import jax
import numpy as np
from jax.sharding import AbstractMesh, Mesh

from jattn.engine.compiling import closes_over_tracers
from jattn.engine.dealing import Dealing, plan_on_devices, striped
from jattn.engine.devices import Split
from jattn.engine.halos import find_halo
from jattn.engine.plans import DENSE_WEIGHTS, FEWEST_ROWS, Plan, check_block_size, dense_plan
from jattn.engine.ring import plan_route
from jattn.engine.rows import RowProgram
from jattn.rules.overlay import Overlay

STRATEGIES = ("gathered", "ring")
GATHERED_BYTES = 2**30
"""Up to this many bytes of keys and values are gathered on every device where a ring could compute the same."""
RUNS_OF_RING = 8
"""Round a ring, rows that stay meet keys in up to this many runs, of which those that a mask rules out are left out."""
WORTH_MOVING = 0.9
"""Rows are dealt out anew if that leaves less than this part of the work."""


def find_mesh(mesh: Any, axis: str) -> Mesh | AbstractMesh:
    """Returns the mesh of a call, or says why it has none with such an axis."""
    mesh = jax.sharding.get_abstract_mesh() if mesh is None else mesh
    if not isinstance(mesh, Mesh | AbstractMesh):
        raise TypeError(f"mesh: expected a jax.sharding.Mesh, got {type(mesh).__name__}")
    if not mesh.axis_names:
        raise ValueError("mesh: expected a mesh, or a call under jax.set_mesh(mesh), got None")
    if not isinstance(axis, str) or axis not in mesh.axis_names:
        names = ", ".join(map(repr, mesh.axis_names))
        raise ValueError(f"axis: expected an axis of the mesh, one of {names}, got {axis!r}")
    if axis in jax.sharding.get_abstract_mesh().manual_axes:
        raise ValueError(f"axis: expected a call outside of jax.shard_map over {axis!r}, got one inside")
    return mesh


def check_mesh(mesh: Mesh | AbstractMesh) -> None:
    """Raises a ValueError unless the mesh of a call is that of `jax.set_mesh`, if there is one."""
    here = jax.sharding.get_abstract_mesh()
    if here.axis_names and dict(here.shape) != dict(mesh.shape):
        raise ValueError(f"mesh: expected None or that of jax.set_mesh, {dict(here.shape)}, got {dict(mesh.shape)}")


def choose_strategy(strategy: str | None, key: Any, value: Any, program: RowProgram) -> str:
    """Chooses how keys reach queries, or says why what was asked for cannot be done."""
    if strategy not in (None, *STRATEGIES):
        raise ValueError(f"strategy: expected one of {', '.join(STRATEGIES)} or None, got {strategy!r}")
    unmet = ring_needs(program)
    if strategy == "ring" and unmet:
        raise ValueError(f"strategy: 'ring' needs {'; '.join(unmet)}; 'gathered' computes every call")
    if strategy is not None:
        return strategy
    return "ring" if key_bytes(key, value) > GATHERED_BYTES and not unmet else "gathered"


def ring_needs(program: RowProgram) -> list[str]:
    """Lists what a ring would need that a call does not have."""
    reasons = []
    if not program.normalizer.is_softmax:
        reasons.append(f"a softmax, which needs no whole rows, got normalizer {program.normalizer!r}")
    if program.edit is not None:
        reasons.append(f"no edit, which is given whole rows, got {program.edit!r}")
    if program.dropout is not None:
        reasons.append(f"no dropout, got dropout_rate {program.dropout.rate}")
    for name, rule in (("mask", program.mask), ("bias", program.bias), ("score", program.score)):
        leaves = jax.tree.leaves(rule, is_leaf=lambda leaf: isinstance(leaf, Overlay))
        shapes = [leaf.array.shape for leaf in leaves if isinstance(leaf, Overlay)]
        both = [shape for shape in shapes if 1 not in shape[-2:]]
        if both:
            got = f"got {name} with shape {both[0]}; give a rule or a function of indices"
            reasons.append(f"no array with both queries and keys, {got}")
    # Its own backward pass must not close over what is being traced.
    if closes_over_tracers(jax.tree.structure(program)):
        reasons.append("no function that refers to an array that is being traced, got one; give the array to a rule")
    return reasons


def key_bytes(key: Any, value: Any) -> int:
    """Returns how many bytes keys and values have."""
    return sum(math.prod(x.shape) * np.dtype(x.dtype).itemsize for x in (key, value))


def split_gathered(
    mesh: Mesh | AbstractMesh, axis: str, shape: tuple[int, ...], program: RowProgram, block_size: int | None
) -> Split:
    """Splits a call whose keys are gathered: rows stay, unless stripes leave clearly less work."""
    check_block_size(block_size)
    devices = mesh.shape[axis]
    stay, deal = (
        Split(mesh, axis, queries, Dealing(shape[-1], devices))
        for queries in (Dealing(shape[-2], devices), striped(shape[-2], devices))
    )
    if deal.queries.padded != stay.queries.padded:
        return stay
    work = [plan_gathered(split, shape, program, block_size).num_weights for split in (stay, deal)]
    return deal if work[1] < WORTH_MOVING * work[0] else stay


def plan_gathered(
    split: Split, shape: tuple[int, ...], program: RowProgram, block_size: int | None, whole_rows: bool = False
) -> Plan:
    """Plans the rows of each device."""
    part = split.part_shape(shape)
    if math.prod(part) <= DENSE_WEIGHTS and block_size is None:
        return dense_plan(part)
    mask = None if whole_rows or program.needs_whole_rows else program.mask
    walk_heads = split.alone and jax.default_backend() == "cpu"
    return plan_on_devices(part, mask, split.queries, block_size, walk_heads)


def split_ring(
    mesh: Mesh | AbstractMesh, axis: str, shape: tuple[int, ...], program: RowProgram, block_size: int | None
) -> Split:
    """Splits a call whose keys go round: rows stay, unless a zigzag leaves clearly less work."""
    check_block_size(block_size)
    devices = mesh.shape[axis]
    shortest = max(1, min(shape[-2:]) // (devices * FEWEST_ROWS))
    runs = min(RUNS_OF_RING, shortest)
    stay = Split(mesh, axis, *(Dealing(length, devices, runs) for length in shape[-2:]))
    deal = Split(mesh, axis, *(Dealing(length, devices, 2, "zigzag") for length in shape[-2:]))
    work = [plan_route(program.mask, split.queries, split.keys).work.max() for split in (stay, deal)]
    return deal if work[1] < WORTH_MOVING * work[0] else stay


def describe_gathered(
    mesh: Any, axis: str, shape: tuple[int, ...], program: RowProgram, block_size: int | None, size: int
) -> str:
    """Says what each device computes and receives where keys are gathered."""
    split = split_gathered(mesh, axis, shape, program, block_size)
    plan = plan_gathered(split, shape, program, block_size)
    halo = find_halo(plan, split, program)
    part = plan.num_weights / max(1, math.prod(shape[-2:]))
    received = split.keys.padded - split.keys.rows_each if halo is None else halo.before + halo.after
    sent = _megabytes(size / max(1, shape[-1]) * received)
    return f"{_rows(split)}, computes {part:.1%} of all scores and receives {sent}"


def describe_ring(
    mesh: Any, axis: str, shape: tuple[int, ...], program: RowProgram, block_size: int | None, size: int
) -> str:
    """Says what each device computes and receives where keys go round."""
    split = split_ring(mesh, axis, shape, program, block_size)
    route = plan_route(program.mask, split.queries, split.keys)
    most = route.work.max() / max(1, math.prod(shape[-2:]))
    step = size / max(1, shape[-1]) * split.keys.rows_each
    steps = f"{route.right} steps to the right and {route.left} to the left"
    computed = f"computes at most {most:.1%} of all scores"
    return f"{_rows(split)}, {computed} and receives {_megabytes(step)} in each of {steps}"


def why_not(name: str, strategy: str | None, size: int, program: RowProgram) -> str:
    """Says why a strategy was not chosen."""
    if name == "ring" and (reasons := ring_needs(program)):
        return f"needs {'; '.join(reasons)}"
    if strategy is not None:
        return f"{strategy} was asked for"
    relation = "more than" if name == "gathered" else "no more than"
    sizes = f"{size / 1e6:.1f} MB, {relation} the {GATHERED_BYTES / 1e6:.1f} MB that are gathered"
    return f"the keys and values have {sizes}"


def _rows(split: Split) -> str:
    dealing = split.queries
    order = {"contiguous": "", "striped": f", striped in runs of {dealing.run}", "zigzag": ", in a zigzag"}[
        dealing.order
    ]
    return f"each of {dealing.devices} devices has {dealing.rows_each} of {dealing.length} queries{order}"


def _megabytes(size: float) -> str:
    return f"{size / 1e6:.1f} MB of keys and values"
