"""What a device does with jattn, in at most eight minutes: one command for the first run on a GPU or a TPU.

    python benchmarks/device.py                          on a CPU the same in small
    python benchmarks/device.py --parts parity speed --lengths 8192 --out device.md

It writes Markdown, each line as soon as it is known, below a line with the device, its driver and the versions:

**tests**: the tests of kernels, of the choice of implementation and of attention, forward and backward.

**parity**: what `jattn.attend` chooses for each condition of the cuDNN path, beside ``implementation="dense"`` in
float32: the largest difference of the output and of the gradients, over the largest number.

**job**: ``python train.py configs/reverse.toml``, from process start to exit.

**speed**: forward, and forward + backward, causal, beside `jax.nn.dot_product_attention` (by cuDNN on a GPU, else by
XLA) and PyTorch's `scaled_dot_product_attention` where it is installed. All take turns in one process; a ratio is the
time of the peer over jattn's of the same round: the median, the least and the greatest.

**folds**: entropy, column sums and a 256 x 256 pooled map in one sweep, beside attention forward.

No part takes more than twice its share of the time that is left; a row for which none is left says so. What raises is
named in its row, and the others go on; the exit status is then 1. JAX takes a GPU's memory as it needs it, so that
PyTorch and the processes of the job and the tests find some, unless XLA_PYTHON_CLIENT_PREALLOCATE says otherwise.
"""

import dataclasses
import functools
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import tyro
from attention import (
    Cell,
    Function,
    Options as OfAttention,
    Turn,
    compare,
    describe_machine,
    jattn_forward,
    jax_forward,
    load_torch,
    lower_forward,
    milliseconds,
    race,
    torch_call,
)

import jattn
from jattn import folds, masks, scores

ROOT = Path(__file__).resolve().parents[1]
HEADS, HEAD_DIM = 8, 64
TESTS = ("tests/engine/test_implementations.py", "tests/engine/test_gradients.py", "tests/engine/test_attention.py")
FEW_TESTS = TESTS[:1]
DENSE_LENGTH = 16_384
"""Without a fused kernel, peers that keep all weights take part up to this length."""

Part = Literal["tests", "parity", "job", "speed", "folds"]


@dataclasses.dataclass(frozen=True)
class Options:
    """Try a device."""

    parts: tuple[Part, ...] = ("parity", "speed", "folds", "job", "tests")
    """What to run, in this order."""
    lengths: tuple[int, ...] = ()
    """Queries, and keys; by default 8k, 32k and 128k, on a CPU 1k and 4k."""
    steps: int | None = None
    """Steps of the job; by default those of its config, on a CPU 50."""
    minutes: float = 8.0
    """When to stop beginning something new."""
    out: Path = Path("device.md")
    """The file to write."""

    @property
    def sizes(self) -> tuple[int, ...]:
        return self.lengths or ((1024, 4096) if small() else (8192, 32_768, 131_072))


def small() -> bool:
    """Whether there is only a CPU."""
    return jax.default_backend() == "cpu"


@dataclasses.dataclass(frozen=True)
class Report:
    """Prints lines, writes them to a file, and knows how much time is left."""

    path: Path
    deadline: float
    failures: list[str] = dataclasses.field(default_factory=list)

    def failed(self, error: Exception) -> str:
        """Remembers what was raised; returns it in a few words for a cell of a table."""
        words = f"failed: {type(error).__name__}: {error}".partition("\n")[0].replace("|", "/")[:200]
        self.failures.append(words)
        return words

    def line(self, text: str = "") -> None:
        print(text, flush=True)
        with self.path.open("a", encoding="utf-8") as file:
            file.write(text + "\n")

    def row(self, *cells: object, head: bool = False) -> None:
        self.line(f"| {' | '.join(map(str, cells))} |")
        if head:
            self.line(f"|{'---|' * len(cells)}")

    def left(self) -> float:
        """The seconds that are left; at least a little, to end in."""
        return max(self.deadline - time.monotonic(), 1.0)

    def over(self) -> bool:
        return time.monotonic() > self.deadline


def driver() -> str:
    """Names the driver of NVIDIA's devices, or the platform's version as JAX has it."""
    if shutil.which("nvidia-smi"):
        asked = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
        done = subprocess.run(asked, capture_output=True, text=True, check=False)
        if done.returncode == 0:
            return f"driver {done.stdout.split()[0]}"
    version = jax.devices()[0].client.platform_version.replace("\n", " ")
    return f"platform {version}"


def run_command(report: Report, command: list[str], **variables: str) -> tuple[list[str], float]:
    """Runs a command in the time that is left; returns the lines that it printed, how it ended, and its seconds."""
    start = time.monotonic()
    try:
        done = subprocess.run(
            command,
            cwd=ROOT,
            env=os.environ | variables,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            check=False,
            timeout=report.left(),
        )
        printed, ending = done.stdout, f"status {done.returncode}"
        if done.returncode:
            report.failures.append(f"{command[1]}: {ending}")
    except subprocess.TimeoutExpired as error:
        printed, ending = error.stdout or b"", "no time left"
    lines = [line for line in printed.decode(errors="replace").splitlines() if line.strip()] or [""]
    return [*lines[:-1], f"{lines[-1]} ({ending})"], time.monotonic() - start


def run_tests(options: Options, report: Report) -> None:
    """Runs tests on the device, which conftest.py leaves as it is, with products of float32 as exact as on a CPU."""
    report.line("\n## Tests\n")
    if not (ROOT / "tests").exists():
        report.line("not run: no tests beside this file")
        return
    tests = FEW_TESTS if small() else TESTS
    command = [sys.executable, "-m", "pytest", "-q", "-n", "0", *tests]
    lines, seconds = run_command(report, command, JAX_DEFAULT_MATMUL_PRECISION="highest")
    report.line(f"`pytest {' '.join(tests)}`: {lines[-1]}, {seconds:.0f} s")
    for line in [line for line in lines if line.startswith(("FAILED", "ERROR"))][:20]:
        report.line(f"- {line[:300]}")


def run_job(options: Options, report: Report) -> None:
    """Trains the main config in a folder of its own."""
    report.line("\n## Job\n")
    steps = options.steps or (50 if small() else None)
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "train.py", "configs/reverse.toml", "--run.folder", f"{folder}/run"]
        command += [] if steps is None else ["--training.steps", str(steps)]
        lines, seconds = run_command(report, command)
        ending = f", {steps} steps" if steps else ""
        report.line(f"`train.py configs/reverse.toml`{ending}: {lines[-1].replace(folder, '')}, {seconds:.0f} s")


def conditions() -> dict[str, dict[str, Any]]:
    """Returns calls by name; made when they are needed, since their arrays take a device."""
    lengths = jnp.array([100, 256], jnp.int32)
    return {
        "no mask": {},
        "causal": {"mask": masks.causal()},
        "lengths": {"mask": masks.padding(lengths)},
        "causal, lengths": {"mask": masks.causal() & masks.padding(lengths)},
        "window": {"mask": masks.sliding_window(31)},
        "prefix": {"mask": masks.prefix(100)},
        "scale": {"score": scores.scaled_dot(0.3)},
        "empty rows": {"mask": masks.causal(-8)},
        "segments": {"mask": masks.segments(jnp.arange(256) // 50)},
        "bias": {"bias": jattn.biases.alibi(), "mask": masks.causal()},
    }


def compare_with_dense(call: dict[str, Any], sides: list[jax.Array]) -> tuple[str, float, float]:
    """Returns what was chosen, and the largest differences of the output and of gradients from dense float32."""

    def passes(attention: Function, *sides: jax.Array) -> tuple[jax.Array, ...]:
        out, pull = jax.vjp(attention, *sides)
        return (out, *pull(jnp.cos(out)))

    wide = [x.astype(jnp.float32) for x in sides]
    chosen = jattn.explain_implementation(*sides, **call).chosen
    found = jax.jit(functools.partial(passes, functools.partial(jattn.attend, **call)))(*sides)
    dense = functools.partial(jattn.attend, implementation="dense", precision="highest", **call)
    expected = jax.jit(functools.partial(passes, dense))(*wide)
    pairs = [(np.asarray(x, np.float32), np.asarray(y)) for x, y in zip(found, expected, strict=True)]
    differences = [float(np.abs(x - y).max() / max(np.abs(y).max(), 1e-30)) for x, y in pairs]
    return chosen, differences[0], max(differences[1:])


def run_parity(options: Options, report: Report) -> None:
    """Compares what is chosen with dense attention, condition by condition, with grouped heads."""
    report.line("\n## Parity, bfloat16, 2 x 256 x 8 heads, 4 of keys, 64\n")
    report.row("condition", "implementation", "output", "gradients", head=True)
    draw = np.random.default_rng(0).standard_normal
    sides = [jnp.asarray(draw((2, 256, heads, HEAD_DIM)), jnp.bfloat16) for heads in (HEADS, HEADS // 2, HEADS // 2)]
    for name, call in conditions().items():
        if report.over():
            report.row(name, "no time left", "", "")
            continue
        try:
            chosen, of_output, of_gradients = compare_with_dense(call, sides)
            report.row(name, chosen, f"{of_output:.1e}", f"{of_gradients:.1e}")
        except Exception as error:
            report.row(name, report.failed(error), "", "")


def contenders(cell: Cell, report: Report) -> tuple[dict[str, Callable[[], Any]], dict[str, str]]:
    """Compiles and calls who takes part in a cell; returns calls that wait for their result, and why others failed."""
    fused = jax.default_backend() == "gpu" and cell.dtype != "float32"
    forwards = {"jattn": jattn_forward(cell)}
    if fused or cell.length <= DENSE_LENGTH:
        forwards["jax.nn"] = jax_forward(cell, "cudnn" if fused else "xla")
    arrays = [*(jnp.asarray(x, cell.dtype) for x in cell.inputs), jnp.asarray(cell.numbers)]

    def of_jax(forward: Function) -> Callable[[], Any]:
        program = lower_forward(forward, cell).compile()
        return lambda: jax.block_until_ready(program(*arrays))

    makers: dict[str, Callable[[], Callable[[], Any]]] = {
        name: functools.partial(of_jax, forward) for name, forward in forwards.items()
    }
    torch = load_torch()
    if torch and (small() or torch.cuda.is_available()):
        makers["PyTorch"] = lambda: torch_call(cell)
    calls: dict[str, Callable[[], Any]] = {}
    failed = {}
    for name, make in makers.items():
        try:
            call = make()
            call()
            calls[name] = call
        except Exception as error:
            failed[name] = report.failed(error)
    return calls, failed


def cell_of(length: int, part: Literal["forward", "backward"]) -> Cell:
    """Returns the sizes of a row: one example, half precision but for a CPU."""
    return Cell(1, length, "float32" if small() else "bfloat16", "causal", part, OfAttention())


def race_cell(cell: Cell, report: Report) -> list[str]:
    """Races who takes part in a cell; returns the cells of its row, in which those who failed say why."""
    calls, failed = contenders(cell, report)
    seconds = race({name: Turn(call) for name, call in calls.items()}, 9, min(15, report.left() / 4)) if calls else {}
    side = jax.ShapeDtypeStruct(cell.shape, cell.dtype)
    cells = [jattn.explain_implementation(side, side, side, mask=masks.causal()).chosen]
    for name in ("jattn", "jax.nn", "PyTorch"):
        cells.append(milliseconds(seconds[name]) if name in seconds else failed.get(name, ""))
        if name != "jattn":
            cells.append(compare(seconds[name], seconds["jattn"]) if {name, "jattn"} <= {*seconds} else "")
    return cells


def run_speed(options: Options, report: Report) -> None:
    """Races attention with its peers."""
    fused = "cuDNN" if jax.default_backend() == "gpu" else "XLA"
    report.line(f"\n## Speed, causal, {cell_of(1, 'forward').dtype}, 1 x T x {HEADS} heads x {HEAD_DIM}\n")
    columns = ("T", "pass", "implementation", "jattn ms", f"jax.nn ({fused}) ms", "ratio", "PyTorch ms", "ratio")
    report.row(*columns, head=True)
    for length in options.sizes:
        for part in ("forward", "backward"):
            cell = cell_of(length, part)
            named = "forward" if part == "forward" else "forward + backward"
            if report.over():
                report.row(length, named, "no time left", *[""] * 5)
                continue
            try:
                report.row(length, named, *race_cell(cell, report))
            except Exception as error:
                report.row(length, named, report.failed(error), *[""] * 5)


def race_folds(cell: Cell, report: Report) -> list[str]:
    """Races a look at the filter with attention forward; returns the cells of its row."""

    def look(query: jax.Array, key: jax.Array, value: jax.Array, *_: jax.Array) -> dict[str, Any]:
        filter = jattn.attention_filter(query, key, mask=masks.causal())
        return filter.summarize("entropy", "received", map=folds.pool(256, 256))

    arrays = [*(jnp.asarray(x, cell.dtype) for x in cell.inputs), jnp.asarray(cell.numbers)]
    programs = {"folds": jax.jit(look).lower(*cell.shapes).compile()}
    programs["forward"] = lower_forward(jattn_forward(cell), cell).compile()
    turns = {
        name: Turn(lambda program=program: jax.block_until_ready(program(*arrays)))
        for name, program in programs.items()
    }
    seconds = race(turns, 5, min(15, report.left() / 4))
    times = [milliseconds(seconds[name]) for name in ("folds", "forward")]
    return [*times, compare(seconds["folds"], seconds["forward"])]


def run_folds(options: Options, report: Report) -> None:
    """Races a look at the filter with attention forward."""
    report.line(f"\n## Folds beside forward, causal, 1 x T x {HEADS} heads x {HEAD_DIM}\n")
    report.row("T", "folds ms", "forward ms", "folds over forward", head=True)

    for length in options.sizes:
        if report.over():
            report.row(length, "no time left", "", "")
            continue
        try:
            report.row(length, *race_folds(cell_of(length, "forward"), report))
        except Exception as error:
            report.row(length, report.failed(error), "", "")


RUN: dict[Part, Callable[[Options, Report], None]] = {
    "tests": run_tests,
    "parity": run_parity,
    "job": run_job,
    "speed": run_speed,
    "folds": run_folds,
}


def main() -> int:
    options = tyro.cli(Options, description=__doc__)
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    report = Report(options.out, time.monotonic() + 60 * options.minutes)
    options.out.write_text("", encoding="utf-8")
    report.line(f"{describe_machine()}; {driver()}")
    for place, part in enumerate(options.parts):
        if report.over():
            report.line(f"\n## {part.capitalize()}\n\nno time left")
        else:
            # No part takes more than twice its share of the time that is left.
            share = report.left() * min(1, 2 / (len(options.parts) - place))
            try:
                RUN[part](options, Report(report.path, time.monotonic() + share, report.failures))
            except Exception as error:
                report.line(f"\n{report.failed(error)}")
    return 1 if report.failures else 0


if __name__ == "__main__":
    sys.exit(main())
