"""How long the main job takes, and how fast its steps are beside a plain flax loop.

    python benchmarks/time_to_solved.py              both tables
    python benchmarks/time_to_solved.py --steps      only the second, in one process

The first table times ``python train.py configs/reverse.toml`` from process start to exit, figures and report included,
with an empty compilation cache and with a warm one. The second interleaves the steps of jattn with those of a loop as
tutorials write it: the same model (one layer, one head, width 32, post-norm, sinusoidal positions) from `flax.linen`, a
NumPy batch per step, one jitted step at a time. Absolute times mean little on a shared machine; the ratios do.
"""

import argparse
import functools
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn

import jattn
from jattn.training.reading import check
from jattn.training.setup import make_setup
from jattn.training.step import initial_state, make_train_chunk

ROOT = Path(__file__).resolve().parents[1]
LENGTH, SYMBOLS, BATCH, WIDTH = 16, 10, 128, 32
STEPS_PER_TURN = 300


class PlainModel(nn.Module):
    """The tutorial's model in plain flax; `output_layers` adds the hidden layer that it has before the logits."""

    output_layers: bool

    @nn.compact
    def __call__(self, tokens: jax.Array) -> jax.Array:
        x = nn.Dense(WIDTH)(jax.nn.one_hot(tokens, SYMBOLS))
        x = x + jattn.positions.sinusoidal(jnp.arange(LENGTH), WIDTH)
        x = nn.LayerNorm()(x + nn.MultiHeadDotProductAttention(num_heads=1)(x))
        x = nn.LayerNorm()(x + nn.Dense(WIDTH)(nn.relu(nn.Dense(2 * WIDTH)(x))))
        if self.output_layers:
            x = nn.relu(nn.LayerNorm()(nn.Dense(WIDTH)(x)))
        return nn.Dense(SYMBOLS)(x)


def plain_loop(output_layers: bool) -> Iterator[None]:
    """Trains as tutorials do; each turn takes `STEPS_PER_TURN` steps."""
    model, generator = PlainModel(output_layers), np.random.default_rng(0)
    params = jax.jit(model.init)(jax.random.key(0), jnp.zeros((BATCH, LENGTH), jnp.int32))
    schedule = optax.warmup_cosine_decay_schedule(0.0, 5e-4, 50, 4000)
    optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(schedule))
    opt_state = optimizer.init(params)

    @jax.jit
    def step(params, opt_state, tokens, targets):
        def loss_of(params):
            logits: Any = model.apply(params, tokens)
            loss = optax.softmax_cross_entropy_with_integer_labels(logits, targets).mean()
            return loss, (logits.argmax(axis=-1) == targets).mean()

        (loss, accuracy), gradients = jax.value_and_grad(loss_of, has_aux=True)(params)
        updates, opt_state = optimizer.update(gradients, opt_state, params)
        return optax.apply_updates(params, updates), opt_state, loss, accuracy

    while True:
        for _ in range(STEPS_PER_TURN):
            tokens = generator.integers(SYMBOLS, size=(BATCH, LENGTH))
            params, opt_state, loss, _ = step(params, opt_state, tokens, tokens[:, ::-1])
        jax.block_until_ready(loss)
        yield


def jattn_loop(devices: int) -> Iterator[None]:
    """Trains as `train.py` does, on the given number of devices."""
    values = {"model": {"norm": "post"}, "training": {"steps": 10_000_000}, "mesh": {"data": devices}}
    setup = make_setup(check(values, "benchmark"))
    state, train_chunk = initial_state(setup), make_train_chunk(setup)
    while True:
        state = train_chunk(state, state.step + STEPS_PER_TURN)
        jax.block_until_ready(state.step)
        yield


def products_loop() -> Iterator[None]:
    """Computes nothing but the matrix products of a step, forward and backward: a floor under any loop's time."""
    tokens, rng = BATCH * LENGTH, jax.random.key(0)
    dense = [(SYMBOLS, WIDTH), *[(WIDTH, WIDTH)] * 4, (WIDTH, 2 * WIDTH), (2 * WIDTH, WIDTH), (WIDTH, SYMBOLS)]
    kernels = [jax.random.normal(rng, shape) for shape in dense]
    rows = {width: jax.random.normal(rng, (tokens, width)) for width in {width for shape in dense for width in shape}}
    per_head = jax.random.normal(rng, (BATCH, LENGTH, WIDTH))
    weights = jax.random.normal(rng, (BATCH, LENGTH, LENGTH))

    @jax.jit
    def turn(start):
        def step(_, previous):
            # Behind barriers, no product can be left out or moved out of the loop.
            x, w, a, b, _ = jax.lax.optimization_barrier((rows, kernels, per_head, weights, previous))
            products = [x[kernel.shape[0]] @ kernel for kernel in w]
            products += [x[kernel.shape[1]] @ kernel.T for kernel in w]
            products += [x[kernel.shape[0]].T @ x[kernel.shape[1]] for kernel in w]
            for form in ["btd,bsd->bts"] * 2:
                products.append(jnp.einsum(form, a, a))
            for form in ["bts,bsd->btd"] * 2 + ["bts,btd->bsd"] * 2:
                products.append(jnp.einsum(form, b, a))
            return sum(x.ravel()[0] for x in jax.lax.optimization_barrier(products))

        return jax.lax.fori_loop(0, STEPS_PER_TURN, step, start)

    while True:
        jax.block_until_ready(turn(jnp.float32(0)))
        yield


def interleave(loops: dict[str, Iterator[None]], turns: int) -> dict[str, float]:
    """Gives the loops turns, one after the other; returns each one's median steps per second."""
    seconds: dict[str, list[float]] = {name: [] for name in loops}
    for turn in range(turns + 1):
        for name, loop in loops.items():
            start = time.perf_counter()
            next(loop)
            if turn:  # the first turn compiles
                seconds[name].append(time.perf_counter() - start)
    return {name: STEPS_PER_TURN / statistics.median(times) for name, times in seconds.items()}


def time_process(cache: Path, runs: Path) -> float:
    """Runs the main job as a fresh process; returns its seconds from start to exit."""
    command = [sys.executable, "train.py", "configs/reverse.toml", "--run.folder", str(runs), "--run.overwrite"]
    start = time.perf_counter()
    subprocess.run(
        command,
        cwd=ROOT,
        env=os.environ | {"XDG_CACHE_HOME": str(cache)},
        check=True,
        stdout=subprocess.DEVNULL,
    )
    return time.perf_counter() - start


def time_main_job(repeats: int) -> dict[str, list[float]]:
    """Times the main job, cold and warm in turn."""
    seconds: dict[str, list[float]] = {"cold": [], "warm": []}
    with tempfile.TemporaryDirectory() as folder:
        for repeat in range(repeats):
            cache = Path(folder) / f"cache_{repeat}"
            for name in seconds:
                seconds[name].append(time_process(cache, Path(folder) / "run"))
    return seconds


def table(rows: list[tuple[str, ...]], print_line: Callable[[str], None] = print) -> None:
    """Prints rows as a Markdown table; the first one is its head."""
    for number, row in enumerate(rows):
        print_line(f"| {' | '.join(row)} |")
        if number == 0:
            print_line(f"|{'---|' * len(row)}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", action="store_true", help="only the steps, in one process")
    parser.add_argument("--repeats", type=int, default=5, help="whole processes of each kind")
    parser.add_argument("--turns", type=int, default=7, help="turns of each loop")
    options = parser.parse_args()
    jax.config.update("jax_num_cpu_devices", len(os.sched_getaffinity(0)))
    print(f"Python {sys.version.split()[0]}, jax {jax.__version__}, {os.cpu_count()} cores, {jax.devices()}\n")
    if not options.steps:
        seconds = time_main_job(options.repeats)
        head = ("train.py configs/reverse.toml", "median", "min", "max")
        form = "{:.1f} s".format
        body = [(name, form(statistics.median(s)), form(min(s)), form(max(s))) for name, s in seconds.items()]
        table([head, *body])
        print()
    loops = {
        "plain flax loop": plain_loop(output_layers=False),
        "plain flax loop, with the tutorial's output layers": plain_loop(output_layers=True),
        "jattn, one device": jattn_loop(devices=1),
        "jattn": jattn_loop(devices=len(jax.devices())),
        "the matrix products of a step alone": products_loop(),
    }
    rates = interleave(loops, options.turns)
    ratio = functools.partial("{:.2f}".format)
    body = [(name, f"{rate:.0f}", ratio(rates["jattn"] / rate)) for name, rate in rates.items()]
    table([("loop", "steps/s", "jattn is faster by"), *body])


if __name__ == "__main__":
    main()
