"""What samplers and seeds cost, beside the training step; prints Markdown tables.

    python benchmarks/training.py                    both tables, for all configs
    python benchmarks/training.py --tables samplers --configs reverse sort

**samplers**: making the batch of a step, beside the whole step that makes its batch and trains on it. Both are loops
of many turns in one compiled program, on the devices of the run; they take turns, and a share is that of the medians.

**replicates**: ``python train.py CONFIG`` from process start to exit, report included, with five seeds in one program
beside one seed, with a warm compilation cache.
"""

import dataclasses
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import tyro
from attention import describe_machine, print_row
from jax import lax
from jax.sharding import PartitionSpec

from jattn.command.options import config_from_arguments
from jattn.training.config import Config
from jattn.training.runs import configure_jax, on_its_devices
from jattn.training.setup import Setup, make_setup
from jattn.training.step import initial_state, make_train_chunk

ROOT = Path(__file__).resolve().parents[1]
STEPS = 20


@dataclasses.dataclass(frozen=True)
class Options:
    """Measure what samplers and seeds cost."""

    tables: tuple[Literal["samplers", "replicates"], ...] = ("samplers", "replicates")
    """Which tables to print."""
    configs: tuple[str, ...] = tuple(sorted(path.stem for path in (ROOT / "configs").glob("*.toml")))
    """Names of configs."""
    rounds: int = 5
    """Rounds of turns, besides the first, which warms up."""


def make_sampling(setup: Setup) -> Callable[[int], Any]:
    """Compiles a loop that makes the batches of `STEPS` steps, and adds all of it up so that none can be left out."""
    share = setup.config.training.batch_size // setup.mesh.size

    def batches(start: jax.Array) -> jax.Array:
        indices = lax.axis_index("data") * share + jnp.arange(share)

        def step(turn: Any, total: jax.Array) -> jax.Array:
            batch = setup.training_batch(jax.random.fold_in(setup.rng("training"), start + turn), indices)
            return total + sum(jnp.sum(x).astype(jnp.float32) for x in jax.tree.leaves(batch))

        return lax.fori_loop(0, STEPS, step, jnp.float32(0))[None]

    mapped = jax.shard_map(
        batches, mesh=setup.mesh, in_specs=PartitionSpec(), out_specs=PartitionSpec("data"), check_vma=False
    )
    compiled = jax.jit(mapped)
    return lambda turn: jax.block_until_ready(compiled(jnp.int32(turn * STEPS)))


def time_samplers(config: Config, rounds: int) -> tuple[float, float]:
    """Returns the median seconds of a batch and of a step."""
    setup = make_setup(on_its_devices(config))
    sample, chunk, state = make_sampling(setup), make_train_chunk(setup), initial_state(setup)
    seconds: dict[str, list[float]] = {"batch": [], "step": []}
    for turn in range(rounds + 1):
        start = time.perf_counter()
        sample(turn)
        between = time.perf_counter()
        state = jax.block_until_ready(chunk(state, jnp.int32((turn + 1) * STEPS)))
        if turn:
            seconds["batch"].append((between - start) / STEPS)
            seconds["step"].append((time.perf_counter() - between) / STEPS)
    return statistics.median(seconds["batch"]), statistics.median(seconds["step"])


def print_samplers(options: Options) -> None:
    """Prints what a batch costs beside a step, for each config."""
    print_row("config", "batch, ms", "step, ms", "share", head=True)
    for name in options.configs:
        batch, step = time_samplers(config_from_arguments([str(ROOT / "configs" / f"{name}.toml")]), options.rounds)
        print_row(name, f"{1e3 * batch:.2f}", f"{1e3 * step:.2f}", f"{100 * batch / step:.1f} %")
        jax.clear_caches()


def time_process(name: str, seeds: int, scratch: Path) -> float:
    """Runs a config as a fresh process; returns its seconds from start to exit."""
    options = ["--run.folder", str(scratch / "run"), "--run.overwrite", "--training.replicates", str(seeds)]
    start = time.perf_counter()
    subprocess.run(
        [sys.executable, "train.py", f"configs/{name}.toml", *options],
        cwd=ROOT,
        env=os.environ | {"XDG_CACHE_HOME": str(scratch / "cache")},
        check=True,
        stdout=subprocess.DEVNULL,
    )
    return time.perf_counter() - start


def print_replicates(options: Options) -> None:
    """Prints what five seeds cost beside one."""
    print_row("config", "one seed, s", "five seeds, s", "ratio", head=True)
    with tempfile.TemporaryDirectory() as folder:
        for name in options.configs:
            seconds: dict[int, list[float]] = {1: [], 5: []}
            for turn in range(options.rounds + 1):
                for seeds, times in seconds.items():
                    took = time_process(name, seeds, Path(folder))
                    times.extend([took] if turn else [])
            one, five = (statistics.median(times) for times in seconds.values())
            print_row(name, f"{one:.1f}", f"{five:.1f}", f"{five / one:.2f}")


def main(options: Options) -> None:
    """Prints the tables asked for."""
    configure_jax([Config()])
    print(describe_machine())
    print()
    if "samplers" in options.tables:
        print_samplers(options)
        print()
    if "replicates" in options.tables:
        print_replicates(options)


if __name__ == "__main__":
    main(tyro.cli(Options))
