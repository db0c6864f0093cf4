"""What a sequence split over devices costs each of them, from the compiled programs; prints a Markdown table.

    python benchmarks/scale.py
    python benchmarks/scale.py --length 1048576 --mask window
    python benchmarks/scale.py --length 1048576 --mask window --heads 1 --table filter

In the table of attention nothing is computed: programs of one device and of `jattn.sharded.attend` over simulated CPU
devices are compiled, and asked for their temporaries, the bytes besides arguments and results, and for the bytes that a
device receives. The work is that of the plan: products of a query with a key, of the device with the most over the
mean.

The table of the filter is computed: the entropy of each row and a 256 x 256 pooled map, in a process of one device and
in one of several simulated devices. Memory is the most that the process ever held, Python, JAX and all its devices
included, as the operating system counts it, and the temporaries of one device. The results are compared.
"""

import dataclasses
import functools
import json
import resource
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import tyro
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

import jattn
from jattn import folds, masks, sharded

MIB = 2**20
BINS = 256


@dataclasses.dataclass(frozen=True)
class Options:
    """Compare attention on one device with a sequence split over several."""

    length: int = 65_536
    """Queries, and keys."""
    heads: int = 8
    """Heads of queries, keys and values."""
    head_dim: int = 64
    """Features of a head."""
    devices: int = 8
    """Simulated devices that share the sequence."""
    mask: Literal["none", "causal", "window"] = "causal"
    """Which keys a query may attend to; a window has 256."""
    table: Literal["attention", "filter"] = "attention"
    """What to look at."""
    child: str = ""
    """Used by the table of the filter itself: the file to which one process writes what it finds."""

    @property
    def given(self) -> dict:
        """The mask as an argument of attention."""
        made = {"causal": masks.causal(), "window": masks.sliding_window(255)}
        return {} if self.mask == "none" else {"mask": made[self.mask]}

    @property
    def side(self) -> jax.ShapeDtypeStruct:
        """Queries, keys or values."""
        return jax.ShapeDtypeStruct((1, self.length, self.heads, self.head_dim), jnp.float32)


def temporaries(attention: Callable, side: jax.ShapeDtypeStruct, backward: bool) -> int:
    """Compiles attention, or its gradient, and returns the bytes of temporaries of one device."""

    def gradient(*sides: jax.Array) -> tuple[jax.Array, ...]:
        return jax.grad(lambda *sides: jnp.sum(attention(*sides)), (0, 1, 2))(*sides)

    program = jax.jit(gradient if backward else attention).lower(side, side, side).compile()
    analysis = program.memory_analysis()
    assert analysis is not None
    return analysis.temp_size_in_bytes


def make_mesh(devices: int) -> Mesh:
    """Makes simulated devices on one axis."""
    jax.config.update("jax_num_cpu_devices", devices)
    return Mesh(jax.devices()[:devices], ("sequence",), axis_types=(AxisType.Auto,))


def look(options: Options) -> None:
    """Looks at the filter on as many devices as there are to be; writes what it finds, and prints the memory."""
    mesh = make_mesh(options.devices)
    make = functools.partial(sharded.attention_filter, mesh=mesh, axis="sequence")
    make = make if options.devices > 1 else jattn.attention_filter
    split = NamedSharding(mesh, PartitionSpec(None, "sequence"))

    def draw(rng: jax.Array) -> jax.Array:
        return jax.random.normal(rng, options.side.shape, options.side.dtype)

    def ask(query: jax.Array, key: jax.Array) -> dict[str, Any]:
        return make(query, key, **options.given).summarize("entropy", map=folds.pool(BINS, BINS))

    sides = [jax.jit(draw, out_shardings=split)(jax.random.key(seed)) for seed in (0, 1)]
    program = jax.jit(ask).lower(*sides).compile()
    found = jax.device_get(program(*sides))
    held = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    analysis = program.memory_analysis()
    assert analysis is not None
    np.savez(options.child, **found)
    print(json.dumps({"held": held, "temporaries": analysis.temp_size_in_bytes}))


def print_filter(options: Options) -> None:
    """Prints the memory of both processes, and how far apart what they found is."""
    print(f"1 x {options.length:,} x {options.heads} x {options.head_dim}, float32, mask: {options.mask}", end="")
    print(f"; jax {jax.__version__}\n")
    print("| devices | memory of the process, MiB | temporaries of a device, MiB |\n|---|---|---|")
    found = []
    with tempfile.TemporaryDirectory() as folder:
        for devices in (1, options.devices):
            path = Path(folder) / f"{devices}.npz"
            sizes = {"length": options.length, "heads": options.heads, "head-dim": options.head_dim}
            chosen = sizes | {"mask": options.mask, "devices": devices, "child": path}
            command = [sys.executable, __file__, *(f"--{name}={value}" for name, value in chosen.items())]
            done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
            memory = json.loads(done.stdout.splitlines()[-1])
            print(f"| {devices} | {memory['held'] / MIB:,.0f} | {memory['temporaries'] / MIB:,.1f} |", flush=True)
            found.append(dict(np.load(path)))
    for name, one in found[0].items():
        difference = np.abs(found[1][name] - one).max()
        print(f"\n{name}: up to {one.max():.4g}, the largest difference {difference:.1e}")


def main(options: Options) -> None:
    if options.child:
        return look(options)
    if options.table == "filter":
        return print_filter(options)
    mesh = make_mesh(options.devices)
    split = NamedSharding(mesh, PartitionSpec(None, "sequence"))
    side = jax.ShapeDtypeStruct(options.side.shape, options.side.dtype, sharding=split)
    alone = [temporaries(lambda *x: jattn.attend(*x, **options.given), options.side, b) for b in (False, True)]
    copy = 2 * options.side.size * 4
    print(f"1 x {options.length:,} x {options.heads} x {options.head_dim}, float32, mask: {options.mask}, ", end="")
    print(f"{options.devices} devices; jax {jax.__version__}; a copy of keys and values is {copy / MIB:,.0f} MiB\n")
    print("| | temporaries of a device, forward, MiB | forward + backward, MiB |\n|---|---|---|")
    print(f"| one device | {alone[0] / MIB:,.1f} | {alone[1] / MIB:,.1f} |")
    for strategy in ("gathered", "ring"):

        def attention(*sides: jax.Array, strategy: str = strategy) -> jax.Array:
            return sharded.attend(*sides, mesh=mesh, axis="sequence", strategy=strategy, **options.given)

        found = [temporaries(attention, side, backward) for backward in (False, True)]
        parts = (f"{ours / MIB:,.1f} ({ours / one:.2f} of one device)" for ours, one in zip(found, alone, strict=True))
        print(f"| {strategy} | {' | '.join(parts)} |")
    told = sharded.explain_implementation(side, side, side, mesh=mesh, axis="sequence", **options.given)
    print(f"\n{told}")


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
