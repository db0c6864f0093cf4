"""What it costs to look at a filter, beside attention itself and beside the dense way; prints Markdown tables.

    python benchmarks/filters.py                                  all tables; ten minutes or more on a small CPU
    python benchmarks/filters.py --tables folds --lengths 4096

**folds**: entropy, largest weight, 8 largest weights with their keys, column sums and a 256 x 256 pooled map, asked
together in one sweep, beside `jattn.attend` forward at the same size, and beside the dense way: the same numbers from
the whole array of weights in `jax.numpy`. All take turns in one process; a ratio is the time of the folds divided by
the other's of the same round: the median, the least and the greatest.

**memory**: the same in a process of its own each, and a filter of 131,072 tokens: the largest memory that the process
ever held, Python and JAX included, as the operating system counts it.

**capture**: a forward pass of a model that hands out its filters, which nobody looks at, beside one that does not.
"""

import dataclasses
import functools
import json
import math
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import tyro
from attention import Turn, compare, describe_machine, milliseconds, print_row, race

import jattn
from jattn import folds, masks

HEADS, HEAD_DIM, BINS, BEST = 8, 64, 256, 8
MASKS: dict[str, Callable[[], Any]] = {"full": lambda: None, "causal": masks.causal}

Way = Literal["folds", "dense", "attend"]


@dataclasses.dataclass(frozen=True)
class Options:
    """Measure looking at filters."""

    tables: tuple[Literal["folds", "memory", "capture"], ...] = ("folds", "memory", "capture")
    """Which tables to print."""
    lengths: tuple[int, ...] = (4096, 16384)
    """Queries, and keys, of 8 heads."""
    long: int = 131_072
    """Queries, and keys, of one head in the table of memory."""
    repeats: int = 9
    """Rounds of turns, besides the first, which warms up."""
    seconds_per_row: float = 120.0
    """A row that would take longer has fewer rounds, at least 3."""
    dense_gb: float = 4.0
    """The dense way is left out where one array of weights is larger than this."""
    child: str = ""
    """Used by the table of memory itself: what one process computes."""


def ask(query: jax.Array, key: jax.Array, mask: str) -> dict[str, Any]:
    """Asks the five folds in one sweep."""
    filter = jattn.attention_filter(query, key, mask=MASKS[mask]())
    asked: dict[str, Any] = {"best": folds.top_k(BEST), "map": folds.pool(BINS, BINS)}
    return filter.summarize("entropy", "max", "received", **asked)


def ask_dense(query: jax.Array, key: jax.Array, mask: str) -> dict[str, Any]:
    """Computes the same from an array of all weights."""
    length = query.shape[0]
    scores = jnp.einsum("tnh,snh->nts", query, key) / math.sqrt(query.shape[-1])
    allowed = jnp.tri(length, dtype=bool) if mask == "causal" else None
    weights = jax.nn.softmax(scores, axis=-1, where=allowed)
    logarithm = jnp.log(jnp.where(weights > 0, weights, 1))
    best, keys = jax.lax.top_k(weights, BEST)
    pooled = weights.reshape(-1, BINS, length // BINS, BINS, length // BINS).sum(-1).mean(2)
    return {
        "entropy": -jnp.sum(weights * logarithm, axis=-1),
        "max": jnp.max(weights, axis=-1),
        "received": jnp.sum(weights, axis=-2),
        "best": folds.TopK(best, jnp.where(best == 0, -1, keys)),
        "map": pooled,
    }


def attend(query: jax.Array, key: jax.Array, mask: str) -> jax.Array:
    """Attends forward, with the keys for values."""
    return jattn.attend(query, key, key, mask=MASKS[mask]())


WAYS: dict[Way, Callable[..., Any]] = {"folds": ask, "dense": ask_dense, "attend": attend}


def draw(length: int, heads: int) -> tuple[jax.Array, jax.Array]:
    """Draws queries and keys."""
    draw = np.random.default_rng(length).standard_normal
    return jnp.asarray(draw((length, heads, HEAD_DIM), np.float32)), jnp.asarray(
        draw((length, heads, HEAD_DIM), np.float32)
    )


def compile_call(way: Way, length: int, heads: int, mask: str) -> Callable[[], Any]:
    """Compiles one way to look; the call waits for its result."""
    arrays = draw(length, heads)
    compiled = jax.jit(functools.partial(WAYS[way], mask=mask)).lower(*arrays).compile()
    return lambda: jax.block_until_ready(compiled(*arrays))


def print_folds(options: Options) -> bool:
    """Prints the table of times; tells whether the folds and the dense way agreed."""
    print(f"\nFive folds together, float32, T x {HEADS} heads x {HEAD_DIM}; below 1 the folds are faster\n")
    print_row("T", "mask", "folds ms", "attend ms", "folds / attend", "dense ms", "folds / dense", head=True)
    agreed = True
    for length in options.lengths:
        for mask in MASKS:
            too_large = HEADS * length**2 * 4 / 1e9 > options.dense_gb
            ways: list[Way] = ["folds", "attend"] if too_large else ["folds", "attend", "dense"]
            turns = {way: Turn(compile_call(way, length, HEADS, mask)) for way in ways}
            seconds = race(turns, options.repeats, options.seconds_per_row)
            cells = [milliseconds(seconds["folds"]), milliseconds(seconds["attend"])]
            cells += [compare(seconds["folds"], seconds["attend"])]
            if too_large:
                cells += ["memory", ""]
            else:
                cells += [milliseconds(seconds["dense"]), compare(seconds["folds"], seconds["dense"])]
                agreed &= agree(turns["folds"].result, turns["dense"].result)
            print_row(length, mask, *cells)
    return agreed


def agree(found: dict[str, Any], dense: dict[str, Any]) -> bool:
    """Tells whether both ways found the same numbers, and says where not."""
    same = True
    for name in ("entropy", "max", "received", "map"):
        worst = float(jnp.max(jnp.abs(found[name] - dense[name])))
        if not worst < 1e-3:
            print(f"error: {name} differs by {worst:.2g}", file=sys.stderr)
            same = False
    return same


def print_memory(options: Options) -> None:
    """Prints the largest memory of processes that look at one filter each."""
    print("\nLargest memory of a whole process, and the seconds that the compiled call took\n")
    print_row("T", "heads", "mask", "way", "GB", "seconds", head=True)
    sizes = [(length, HEADS, mask, way) for length in options.lengths for mask in MASKS for way in ("folds", "dense")]
    for length, heads, mask, way in [*sizes, *((options.long, 1, mask, "folds") for mask in MASKS)]:
        if way == "dense" and HEADS * length**2 * 4 / 1e9 > options.dense_gb:
            print_row(length, heads, mask, way, "left out", "")
            continue
        case = json.dumps({"length": length, "heads": heads, "mask": mask, "way": way})
        done = subprocess.run([sys.executable, __file__, "--child", case], capture_output=True, text=True, check=False)
        if done.returncode:
            print_row(length, heads, mask, way, "failed", done.stderr.strip().split("\n")[-1][:60])
            continue
        found = json.loads(done.stdout.splitlines()[-1])
        print_row(length, heads, mask, way, f"{found['gb']:.2f}", f"{found['seconds']:.1f}")


def run_child(case: str) -> None:
    """Computes one case and prints what it took."""
    call = compile_call(**json.loads(case))
    start = time.perf_counter()
    call()
    seconds = time.perf_counter() - start
    # Kilobytes on Linux, bytes on macOS.
    unit = 1 if sys.platform == "darwin" else 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
    print(json.dumps({"gb": peak / 1e9, "seconds": seconds}))


def print_capture(options: Options) -> None:
    """Prints what handing out filters adds to a forward pass."""
    print("\nA forward pass that hands out its filters, beside one that does not; above 1 it takes longer\n")
    print_row("model", "tokens", "plain ms", "capturing / plain", head=True)
    for batch, length, width in ((8, 512, 256), (1, 4096, 512)):
        model = jattn.Decoder(vocabulary=1000, num_layers=4, num_heads=8, width=width, hidden=4 * width)
        tokens = jnp.asarray(np.random.default_rng(0).integers(0, 1000, (batch, length)))
        variables = jax.jit(model.init)(jax.random.key(0), tokens)
        turns = {}
        for name, function in (
            ("plain", lambda variables, tokens, model=model: model.apply(variables, tokens)),
            ("capturing", functools.partial(jattn.capture_filters, model)),
        ):
            compiled = jax.jit(function).lower(variables, tokens).compile()
            turns[name] = Turn(
                lambda compiled=compiled, variables=variables, tokens=tokens: jax.block_until_ready(
                    compiled(variables, tokens)
                )
            )
        seconds = race(turns, 3 * options.repeats, options.seconds_per_row)
        shape = f"4 layers, 8 heads, width {width}"
        ratio = compare(seconds["capturing"], seconds["plain"])
        print_row(shape, f"{batch} x {length}", milliseconds(seconds["plain"]), ratio)


def main() -> int:
    options = tyro.cli(Options, description=__doc__)
    if options.child:
        run_child(options.child)
        return 0
    print(describe_machine())
    agreed = print_folds(options) if "folds" in options.tables else True
    if "memory" in options.tables:
        print_memory(options)
    if "capture" in options.tables:
        print_capture(options)
    return 0 if agreed else 1


if __name__ == "__main__":
    sys.exit(main())
