"""What a sequence split over devices costs each of them, from the compiled programs; prints a Markdown table.

    python benchmarks/scale.py
    python benchmarks/scale.py --length 1048576 --mask window
    python benchmarks/scale.py --length 1048576 --mask window --heads 1 --table filter
    python benchmarks/scale.py --table step

In the table of attention nothing is computed: programs of one device and of `jattn.sharded.attend` over simulated CPU
devices are compiled, and asked for their temporaries, the bytes besides arguments and results, and for the bytes that a
device receives. The work is that of the plan: products of a query with a key, of the device with the most over the
mean.

The table of the filter is computed: the entropy of each row and a 256 x 256 pooled map, in a process of one device and
in one of several simulated devices. Memory is the most that the process ever held, Python, JAX and all its devices
included, as the operating system counts it, and the temporaries of one device. The results are compared.

The table of the step is of a training step of the default config, at width 128 with 512 hidden units: what the devices
exchange in its compiled program, for several layouts of the mesh. A device sends what ring algorithms send, with n
devices and a result of B bytes: 2 B (n - 1) / n in an all-reduce, B (n - 1) / n in an all-gather and an all-to-all,
B (n - 1) in a reduce-scatter, B in a permutation.
"""

import dataclasses
import functools
import json
import math
import re
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
from jattn.training.reading import check
from jattn.training.setup import make_setup
from jattn.training.step import initial_state, on_each_device, train_step

MIB = 2**20
BINS = 256
BYTES = {"pred": 1, "s32": 4, "u32": 4, "f32": 4}
SENT: dict[str, Callable[[int, int], float]] = {
    "all-reduce": lambda size, n: 2 * size * (n - 1) / n,
    "all-gather": lambda size, n: size * (n - 1) / n,
    "reduce-scatter": lambda size, n: size * (n - 1),
    "all-to-all": lambda size, n: size * (n - 1) / n,
    "collective-permute": lambda size, n: size,
}
"""By what devices do together: how many bytes each of `n` sends for a result of some bytes."""


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
    table: Literal["attention", "filter", "step"] = "attention"
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


@dataclasses.dataclass(frozen=True)
class Exchange:
    """One exchange of a compiled program.

    Attributes:
      kind: a key of `SENT`.
      size: the bytes of its result on one device.
      sent: the bytes that a device sends.
    """

    kind: str
    size: int
    sent: float


def exchanges(text: str) -> list[Exchange]:
    """Reads what devices exchange out of the text of a program, each once, so that none may be in a loop."""
    found, main = [], False
    for line in text.splitlines():
        main = line.startswith("ENTRY") or (main and not line.startswith("}"))
        operation = re.search(rf" = (.*?) ({'|'.join(SENT)})(?:-start)?\(", line)
        if operation is None:
            continue
        if not main:
            raise ValueError(f"expected no exchange in a loop, got {line.strip()}")
        shapes = re.findall(r"([a-z]+\d*)\[([\d,]*)\]", operation[1])
        size = sum(BYTES[dtype] * math.prod(int(n) for n in shape.split(",") if n) for dtype, shape in shapes)
        found.append(Exchange(operation[2], size, SENT[operation[2]](size, devices_together(line))))
    return found


def devices_together(line: str) -> int:
    """Returns how many devices take part in an exchange, from its line."""
    if "source_target_pairs" in line:
        return 2
    if listed := re.search(r"replica_groups=\[\d+,(\d+)\]<=", line):
        return int(listed[1])
    groups = re.search(r"replica_groups=mesh\[(.*?)\] \{(.*?)\}", line)
    if groups is None:
        raise ValueError(f"expected groups by number and size, or by axes of a mesh, got {line.strip()}")
    sizes = dict(re.findall(r"('\w+')=(\d+)", groups[1]))
    return math.prod(int(sizes[axis]) for axis in re.findall(r"'\w+'", groups[2]))


def print_step(options: Options) -> None:
    """Prints what devices exchange in a training step, and what one of them holds."""
    make_mesh(options.devices)
    split = {"shard_parameters": True}
    halves = {"data": 2, "sequence": options.devices // 2}
    layouts = [{"data": options.devices}, {"data": options.devices} | split, halves, halves | split]
    layouts.append({"data": 1, "sequence": options.devices})
    columns = ("`[mesh]`", "exchanges (bytes of results)", "a device sends", "its state", "its temporaries")
    print(f"the default config at width 128 with 512 hidden units, {options.devices} devices, bytes; ", end="")
    print(f"jax {jax.__version__}\n")
    print(f"| {' | '.join(columns)} |\n|{'---|' * len(columns)}")
    for layout in layouts:
        setup = make_setup(check({"model": {"width": 128, "hidden": 512}, "mesh": layout}, "scale.py"))
        state = initial_state(setup)
        step = on_each_device(setup, setup.each(functools.partial(train_step, setup)))
        program = jax.jit(step).lower(state, setup.seeds).compile()
        found, analysis = exchanges(program.as_text() or ""), program.memory_analysis()
        assert analysis is not None
        of_kind = {kind: [exchange.size for exchange in found if exchange.kind == kind] for kind in SENT}
        cells = [", ".join(f"{len(sizes)} {kind} ({sum(sizes):,})" for kind, sizes in of_kind.items() if sizes)]
        held = sum(leaf.addressable_shards[0].data.nbytes for leaf in jax.tree.leaves((state.params, state.opt_state)))
        cells += [f"{x:,.0f}" for x in (sum(e.sent for e in found), held, analysis.temp_size_in_bytes)]
        named = ", ".join(f"{name} = {str(value).lower()}" for name, value in layout.items())
        print(f"| {' | '.join([named, *cells])} |", flush=True)


def main(options: Options) -> None:
    if options.child:
        return look(options)
    if options.table == "step":
        return print_step(options)
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
