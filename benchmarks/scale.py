"""What a sequence split over devices costs each of them, from the compiled programs; prints a Markdown table.

    python benchmarks/scale.py
    python benchmarks/scale.py --length 1048576 --mask window

Nothing is computed: programs of one device and of `jattn.sharded.attend` over simulated CPU devices are compiled, and
asked for their temporaries, the bytes besides arguments and results, and for the bytes that a device receives. The work
is that of the plan: products of a query with a key, of the device with the most over the mean.
"""

import dataclasses
from collections.abc import Callable
from typing import Literal

import jax
import jax.numpy as jnp
import tyro
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

import jattn
from jattn import masks, sharded

MIB = 2**20


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


def main(options: Options) -> None:
    jax.config.update("jax_num_cpu_devices", options.devices)
    mesh = Mesh(jax.devices()[: options.devices], ("sequence",), axis_types=(AxisType.Auto,))
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
