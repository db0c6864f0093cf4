"""How fast, how large and how quick to compile `jattn.attend` is beside its peers; prints Markdown tables.

    python benchmarks/attention.py                             all tables; an hour or more on a small CPU
    python benchmarks/attention.py --tables speed --lengths 1024 4096 --dtypes float32 --batches 1
    pip install 'jattn[bench]'                                 adds PyTorch to the speed table

The peers are `jax.nn.dot_product_attention` (its XLA implementation), `flax.linen.dot_product_attention` and PyTorch's
`scaled_dot_product_attention`, with as many threads as there are cores. Backward means the gradients of
``vdot(out, g)`` for queries, keys and values; the output is computed as well. Arrays are ``[B, T, N, H]`` for all;
PyTorch sees them transposed, which copies nothing. What a peer has no name for, it takes as a boolean array, which
PyTorch finds ready made.

All contenders of a cell are compiled first, and then take turns in one process. A ratio is a peer's time divided by
jattn's of the same round, so above 1 jattn is faster: the median of the rounds, and in brackets the least and the
greatest. What a mask depends on, lengths and document numbers, is an argument of the compiled functions. `plain` is a
masked softmax as a textbook writes it, which keeps none of jattn's promises. Absolute times mean little on a shared
machine; nor do PyTorch's ratios where other processes want the cores, because its threads wait for one another: run
this alone, and look at the load that the first line tells.
"""

import dataclasses
import functools
import importlib
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import tyro
from flax import linen as nn

import jattn

FEWEST_ROUNDS = 3
TURN_SECONDS = 0.01
"""A turn repeats calls that are faster than this."""
COLD_SECONDS = 1.0
"""A first call that is faster than this tells nothing: it may have been starting threads."""
PAUSE_SECONDS = 0.02
"""Before each turn: after its own work PyTorch's threads spin for a while, which would slow down who comes next."""

Table = Literal["speed", "memory", "compile", "window"]
MaskName = Literal["full", "causal", "window", "padding", "causal padding", "documents"]
Pass = Literal["forward", "backward"]
Function = Callable[..., Any]


@dataclasses.dataclass(frozen=True)
class Options:
    """Compare `jattn.attend` with its peers."""

    tables: tuple[Table, ...] = ("speed", "memory", "compile", "window")
    """Which tables to print."""
    lengths: tuple[int, ...] = (64, 256, 1024, 2048, 4096, 16384)
    """Numbers of queries, and of keys, in the speed table."""
    batches: tuple[int, ...] = (1, 8)
    """Batch sizes in the speed table."""
    dtypes: tuple[Literal["float32", "bfloat16"], ...] = ("float32", "bfloat16")
    """Of the inputs, in the speed table."""
    heads: int = 8
    """Number of heads."""
    head_dim: int = 64
    """Size of a head."""
    masks: tuple[MaskName, ...] = ("full", "causal", "window")
    """Masks in the speed table; "padding" allows every key, "documents" are eight of one length."""
    passes: tuple[Pass, ...] = ("forward", "backward")
    """Forward alone, and forward and backward together, in the speed table."""
    window: int = 256
    """How many keys a query sees with the mask "window"."""
    repeats: int = 9
    """Rounds of turns in a cell, besides the first, which warms up."""
    seconds_per_cell: float = 20.0
    """A cell that would take longer has fewer rounds, at least 3."""
    memory_gb: float = 12.0
    """A peer that would need more, by an estimate, is left out; the cell says "memory"."""
    most_weights: int = 2**31
    """Leaves out cells with more weights than this, B x N x T x T."""
    memory_lengths: tuple[int, ...] = (2048, 4096, 8192, 16384, 32768)
    """Lengths in the memory table, where nothing is run."""
    compile_lengths: tuple[int, ...] = (256, 4096, 16384)
    """Lengths in the table of compile times, where nothing is run."""
    window_length: int = 32768
    """Length in the table that sets a window beside a causal mask."""


@dataclasses.dataclass
class Turn:
    """Runs a call as often as fills a turn; each turn gives the seconds of one call.

    The first turn finds out how often that is, and keeps the first result.
    """

    call: Callable[[], Any]
    calls: int = 0
    result: Any = None

    def __call__(self) -> float:
        if self.calls > 1:
            self.call()  # wakes the threads
        if self.calls:
            return self._time() / self.calls
        start = time.perf_counter()
        self.result = self.call()
        seconds, self.calls = time.perf_counter() - start, 1
        if seconds < COLD_SECONDS:
            seconds = self._time()
        while seconds < TURN_SECONDS:
            self.calls *= 2
            seconds = self._time()
        return seconds / self.calls

    def _time(self) -> float:
        start = time.perf_counter()
        for _ in range(self.calls):
            self.call()
        return time.perf_counter() - start


def race(turns: Mapping[str, Callable[[], float]], rounds: int, seconds: float) -> dict[str, list[float]]:
    """Gives turns one after the other, round by round; returns the seconds that each gave in each round."""
    start = time.perf_counter()
    for turn in turns.values():
        turn()
    affordable = int(seconds / (time.perf_counter() - start))
    rounds = min(rounds, max(affordable, FEWEST_ROUNDS))
    given: dict[str, list[float]] = {name: [] for name in turns}
    for _ in range(rounds):
        for name, turn in turns.items():
            time.sleep(PAUSE_SECONDS)
            given[name].append(turn())
    return given


def compare(peer: Sequence[float], ours: Sequence[float]) -> str:
    """Writes the ratios of two contenders' seconds in the same rounds: median, least and greatest."""
    ratios = [a / b for a, b in zip(peer, ours, strict=True)]
    return f"{statistics.median(ratios):.2f} ({min(ratios):.2f}..{max(ratios):.2f})"


def milliseconds(seconds: Sequence[float]) -> str:
    """Writes the median of some seconds as milliseconds."""
    median = 1e3 * statistics.median(seconds)
    return f"{median:.0f}" if median >= 100 else f"{median:.3g}"


def print_row(*cells: object, head: bool = False) -> None:
    """Prints a row of a Markdown table, as soon as it is known."""
    print(f"| {' | '.join(map(str, cells))} |", flush=True)
    if head:
        print(f"|{'---|' * len(cells)}", flush=True)


def describe_machine() -> str:
    """Names what the figures depend on: CPU, cores, their load, versions and device."""
    cpu = platform.processor() or platform.machine()
    if (info := Path("/proc/cpuinfo")).exists():
        names = [line.split(":", 1)[1].strip() for line in info.read_text().splitlines() if "model name" in line]
        cpu = names[0] if names else cpu
    torch = load_torch()
    versions = f"Python {platform.python_version()}, jax {jax.__version__}"
    versions += f", PyTorch {torch.__version__}" if torch else ", PyTorch not installed"
    device = jax.devices()[0]
    load = f", load {os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else ""
    return f"{cpu}, {count_cores()} cores{load}; {versions}; device: {device.platform} ({device.device_kind})"


def count_cores() -> int:
    """Counts the cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@functools.cache
def load_torch() -> Any:
    """Imports PyTorch, with a thread for each core; None where it is not installed, or cannot be loaded."""
    try:
        torch = importlib.import_module("torch")
    except (ImportError, OSError):  # OSError: beside JAX's, its libraries of CUDA may be missing
        return None
    torch.set_num_threads(count_cores())
    return torch


@dataclasses.dataclass(frozen=True)
class Cell:
    """What is computed: sizes, dtype, mask and pass."""

    batch: int
    length: int
    dtype: str
    mask: MaskName
    part: Pass
    options: Options

    @property
    def num_weights(self) -> int:
        return self.batch * self.options.heads * self.length**2

    @property
    def shape(self) -> tuple[int, ...]:
        return self.batch, self.length, self.options.heads, self.options.head_dim

    @property
    def numbers(self) -> np.ndarray:
        """What the mask depends on: the lengths ``[B]``, or the number of each token's document ``[B, T]``."""
        if "padding" in self.mask:
            return np.full(self.batch, self.length, np.int32)
        of_token = np.arange(self.length, dtype=np.int32) * 8 // self.length
        return np.stack([of_token + 8 * entry for entry in range(self.batch)])

    @property
    def inputs(self) -> list[np.ndarray]:
        """Queries, keys, values and the gradient of the output, in float32."""
        generator = np.random.default_rng(0)
        return [generator.standard_normal(self.shape, np.float32) for _ in range(4)]

    @property
    def shapes(self) -> list[jax.ShapeDtypeStruct]:
        numbers = jax.ShapeDtypeStruct(self.numbers.shape, jnp.int32)
        return [*[jax.ShapeDtypeStruct(self.shape, jnp.dtype(self.dtype))] * 4, numbers]

    def allowed(self, numbers: Any, xp: Any = jnp) -> Any:
        """Computes the mask as a boolean array that broadcasts to ``[B, N, T, T]``."""
        index = xp.arange(self.length)
        query, key = index[:, None], index[None, :]
        of_entry = numbers.reshape(self.batch, 1, 1, -1)
        return {
            "full": lambda: xp.ones((1, 1, 1, 1), bool),
            "causal": lambda: (key <= query)[None, None],
            "window": lambda: ((key <= query) & (key > query - self.options.window))[None, None],
            "padding": lambda: key < of_entry,
            "causal padding": lambda: (key < of_entry) & (key <= query),
            "documents": lambda: xp.swapaxes(of_entry, -1, -2) == of_entry,
        }[self.mask]()


def jattn_forward(cell: Cell) -> Function:
    """Returns `jattn.attend` with the mask of the cell."""

    def forward(query: jax.Array, key: jax.Array, value: jax.Array, numbers: jax.Array) -> jax.Array:
        masks = {
            "full": lambda: None,
            "causal": jattn.masks.causal,
            "window": lambda: jattn.masks.sliding_window(cell.options.window - 1),
            "padding": lambda: jattn.masks.padding(numbers),
            "causal padding": lambda: jattn.masks.causal() & jattn.masks.padding(numbers),
            "documents": lambda: jattn.masks.segments(numbers),
        }
        return jattn.attend(query, key, value, mask=masks[cell.mask]())

    return forward


def jax_forward(cell: Cell, implementation: Literal["xla", "cudnn"] = "xla") -> Function:
    """Returns `jax.nn.dot_product_attention` with the mask of the cell."""

    def forward(query: jax.Array, key: jax.Array, value: jax.Array, numbers: jax.Array) -> jax.Array:
        return jax.nn.dot_product_attention(
            query,
            key,
            value,
            mask=cell.allowed(numbers) if cell.mask == "documents" else None,
            is_causal="causal" in cell.mask,
            local_window_size=(cell.options.window - 1, 0) if cell.mask == "window" else None,
            key_value_seq_lengths=numbers if "padding" in cell.mask else None,
            implementation=implementation,
        )

    return forward


def flax_forward(cell: Cell) -> Function:
    """Returns `flax.linen.dot_product_attention` with the mask of the cell."""

    def forward(query: jax.Array, key: jax.Array, value: jax.Array, numbers: jax.Array) -> jax.Array:
        mask = None if cell.mask == "full" else cell.allowed(numbers)
        return nn.dot_product_attention(query, key, value, mask=mask)

    return forward


def plain_forward(cell: Cell) -> Function:
    """Returns a masked softmax as a textbook writes it; a row without keys is NaN."""

    def forward(query: jax.Array, key: jax.Array, value: jax.Array, numbers: jax.Array) -> jax.Array:
        scores = jnp.einsum("btnh,bsnh->bnts", query, key) / np.sqrt(query.shape[-1]).astype(query.dtype)
        scores = scores if cell.mask == "full" else jnp.where(cell.allowed(numbers), scores, -jnp.inf)
        return jnp.einsum("bnts,bsnh->btnh", jax.nn.softmax(scores), value)

    return forward


JAX_CONTENDERS = {
    "jattn": jattn_forward,
    "jax.nn": jax_forward,
    "flax.linen": flax_forward,
    "plain": plain_forward,
}


def lower_cell(name: str, cell: Cell) -> Any:
    """Traces and lowers a contender's function of queries, keys, values and the gradient of the output."""
    return lower_forward(JAX_CONTENDERS[name](cell), cell)


def lower_forward(forward: Function, cell: Cell) -> Any:
    """Traces and lowers the pass of a cell for attention of queries, keys, values and what the mask depends on."""

    def backward(
        query: jax.Array, key: jax.Array, value: jax.Array, gradient: jax.Array, numbers: jax.Array
    ) -> tuple[jax.Array, ...]:
        out, pull_back = jax.vjp(lambda *sides: forward(*sides, numbers), query, key, value)
        return (out, *pull_back(gradient))

    def output(
        query: jax.Array, key: jax.Array, value: jax.Array, _: jax.Array, numbers: jax.Array
    ) -> tuple[jax.Array, ...]:
        return (forward(query, key, value, numbers),)

    return jax.jit(backward if cell.part == "backward" else output).lower(*cell.shapes)


def torch_call(cell: Cell) -> Callable[[], Any]:
    """Returns a call of PyTorch's attention that gives what the compiled functions of the others give."""
    torch = load_torch()
    device = "cpu" if jax.default_backend() == "cpu" else "cuda"
    tensors = [torch.from_numpy(x).to(device, getattr(torch, cell.dtype)) for x in cell.inputs]
    leaves, gradient = tensors[:3], tensors[3].transpose(1, 2)
    options: dict[str, Any] = {"is_causal": cell.mask == "causal"}
    if cell.mask not in ("full", "causal"):
        options["attn_mask"] = torch.from_numpy(cell.allowed(cell.numbers, np)).to(device)

    def forward() -> Any:
        heads_first = (x.transpose(1, 2) for x in leaves)
        return torch.nn.functional.scaled_dot_product_attention(*heads_first, **options)

    def call() -> list[Any]:
        for leaf in leaves:
            leaf.grad = None
        if cell.part == "backward":
            out = forward()
            out.backward(gradient)
        else:
            with torch.no_grad():
                out = forward()
        if device == "cuda":
            torch.cuda.synchronize()
        return [out.detach().transpose(1, 2), *(leaf.grad for leaf in leaves if leaf.grad is not None)]

    for leaf in leaves:
        leaf.requires_grad_(cell.part == "backward")
    return call


def reason_to_leave_out(name: str, cell: Cell, memory_gb: float) -> str | None:
    """Says why a peer does not take part in a cell; None if it does."""
    torch_bytes = 0
    if name == "PyTorch":
        if not load_torch():
            return "not installed"
        backend = jax.default_backend()
        if backend != "cpu" and not (backend == "gpu" and load_torch().cuda.is_available()):
            return "no device"
        # The mask, and the floats that PyTorch makes of it.
        torch_bytes = 5 * cell.batch * cell.length**2 if cell.mask not in ("full", "causal") else 0
    dense_bytes = 4 * (4 if cell.part == "backward" else 2) * cell.num_weights
    needed = {"jattn": 0, "PyTorch": torch_bytes}.get(name, dense_bytes)
    return "memory" if needed > 1e9 * memory_gb else None


def make_turns(cell: Cell, memory_gb: float) -> tuple[dict[str, Turn], dict[str, str]]:
    """Compiles the contenders of a cell; returns their turns, and why the others do not take part."""
    reasons = {name: reason_to_leave_out(name, cell, memory_gb) for name in (*JAX_CONTENDERS, "PyTorch")}
    left_out = {name: reason for name, reason in reasons.items() if reason}
    turns = {}
    arrays = [*(jnp.asarray(x, cell.dtype) for x in cell.inputs), jnp.asarray(cell.numbers)]
    for name in JAX_CONTENDERS.keys() - left_out.keys():
        compiled = lower_cell(name, cell).compile()
        turns[name] = Turn(lambda compiled=compiled: jax.block_until_ready(compiled(*arrays)))
    if "PyTorch" not in left_out:
        turns["PyTorch"] = Turn(torch_call(cell))
    return {name: turns[name] for name in reasons if name in turns}, left_out


def find_differences(turns: dict[str, Turn], cell: Cell) -> Iterator[str]:
    """Compares first results with those of `jax.nn`, or where it did not run of jattn; describes what differs.

    It is an error of jattn only where jattn is one of the two: flax takes the softmax of bfloat16 scores in bfloat16.
    """
    reference = "jax.nn" if "jax.nn" in turns else "jattn"
    exact = cell.dtype == "float32" and jax.default_backend() == "cpu"
    tolerance = 1e-4 if exact else 3e-2
    expected = [np.asarray(x, np.float32) for x in turns[reference].result]
    for name in turns.keys() - {reference}:
        result = turns[name].result
        result = [x.float().cpu().numpy() if name == "PyTorch" else np.asarray(x, np.float32) for x in result]
        for what, ours, theirs in zip(("output", "query", "key", "value"), result, expected, strict=False):
            scale, difference = np.abs(theirs).max(), np.abs(ours - theirs).max()
            if not difference <= tolerance * scale:
                what = what if what == "output" else f"gradient of {what}"
                kind = "error" if "jattn" in (name, reference) else "note"
                yield f"{kind}: {cell}: {name} and {reference} differ in the {what} by {difference:.2g} of {scale:.2g}"


def print_speed(options: Options, dtype: str, batch: int) -> list[str]:
    """Prints the table of one dtype and batch size; returns the differences found."""
    print(f"\nSpeed, {dtype}, {batch} x T x {options.heads} heads x {options.head_dim}; milliseconds, and ratios\n")
    peers = [*list(JAX_CONTENDERS)[1:], "PyTorch"]
    columns = [column for name in peers for column in (f"{name} ms", "ratio")]
    print_row("T", "mask", "pass", "jattn ms", *columns, head=True)
    differences = []
    for length in options.lengths:
        for mask in options.masks:
            for part in options.passes:
                cell = Cell(batch, length, dtype, mask, part, options)
                if cell.num_weights > options.most_weights:
                    continue
                turns, left_out = make_turns(cell, options.memory_gb)
                seconds = race(turns, options.repeats, options.seconds_per_cell)
                differences += find_differences(turns, cell)
                cells = [milliseconds(seconds["jattn"])]
                for name in peers:
                    if name in left_out:
                        cells += [left_out[name], ""]
                    else:
                        cells += [milliseconds(seconds[name]), compare(seconds[name], seconds["jattn"])]
                print_row(length, mask, "forward" if part == "forward" else "forward + backward", *cells)
    return differences


def print_memory(options: Options) -> None:
    """Prints how many bytes compiled functions need besides arguments and results; runs none of them."""
    print(
        f"\nMemory of forward + backward, float32, 1 x T x {options.heads} heads x {options.head_dim}; compiled; MB\n"
    )
    print_row("T", "mask", "jattn", "jax.nn", "ratio", head=True)
    for length in options.memory_lengths:
        for mask in ("full", "causal"):
            cell = Cell(1, length, "float32", mask, "backward", options)
            # XLA may compute the whole mask of the dense peer while it compiles.
            harmless = mask == "full" or length**2 <= 2**28
            megabytes = {}
            for name in ("jattn", "jax.nn")[: 1 + harmless]:
                analysis = lower_cell(name, cell).compile().memory_analysis()
                megabytes[name] = analysis.temp_size_in_bytes / 1e6 if analysis else float("nan")
            peer = ["not compiled", ""]
            if harmless:
                peer = [f"{megabytes['jax.nn']:.0f}", f"{megabytes['jax.nn'] / megabytes['jattn']:.1f}"]
            print_row(length, mask, f"{megabytes['jattn']:.0f}", *peer)


def print_compile(options: Options) -> None:
    """Prints how long contenders take to be traced, lowered and compiled, in turns."""
    sizes = f"1 x T x {options.heads} heads x {options.head_dim}"
    print(f"\nTime to trace and compile, float32, causal, {sizes}; seconds\n")
    print_row("T", "pass", *JAX_CONTENDERS, head=True)
    for length in options.compile_lengths:
        for part in ("forward", "backward"):
            cell = Cell(1, length, "float32", "causal", part, options)
            seconds: dict[str, list[float]] = {name: [] for name in JAX_CONTENDERS}
            for turn in range(FEWEST_ROUNDS + 1):
                for name in JAX_CONTENDERS:
                    jax.clear_caches()
                    start = time.perf_counter()
                    lower_cell(name, cell).compile()
                    if turn:
                        seconds[name].append(time.perf_counter() - start)
            medians = [f"{statistics.median(times):.2f}" for times in seconds.values()]
            print_row(length, "forward" if part == "forward" else "forward + backward", *medians)


def print_window(options: Options) -> None:
    """Prints how much less than a causal mask a window costs."""
    length = options.window_length
    sizes = f"1 x {length} x {options.heads} heads x {options.head_dim}"
    print(f"\nA window beside a causal mask, jattn, forward, float32, {sizes}\n")
    turns = {}
    for mask in ("causal", "window"):
        cell = Cell(1, length, "float32", mask, "forward", options)
        arrays = [*(jnp.asarray(x) for x in cell.inputs), jnp.asarray(cell.numbers)]
        compiled = lower_cell("jattn", cell).compile()
        turns[mask] = Turn(lambda compiled=compiled, arrays=arrays: jax.block_until_ready(compiled(*arrays)))
    seconds = race(turns, options.repeats, options.seconds_per_cell)
    print_row("mask", "ms", "causal takes longer by", head=True)
    print_row("causal", milliseconds(seconds["causal"]), "")
    print_row(
        f"window {options.window}", milliseconds(seconds["window"]), compare(seconds["causal"], seconds["window"])
    )


def main() -> int:
    options = tyro.cli(Options, description=__doc__)
    # On a GPU, leaves PyTorch some memory.
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    print(describe_machine())
    differences = []
    if "speed" in options.tables:
        for dtype in options.dtypes:
            for batch in options.batches:
                differences += print_speed(options, dtype, batch)
    for name, print_table in (("memory", print_memory), ("compile", print_compile), ("window", print_window)):
        if name in options.tables:
            print_table(options)
    for difference in differences:
        print(difference, file=sys.stderr)
    return 1 if any(difference.startswith("error") for difference in differences) else 0


if __name__ == "__main__":
    sys.exit(main())
