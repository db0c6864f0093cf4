"""Filter snapshots: whole weights, or, of a filter longer than the screen, a pooled map and rows on demand.

A file `filters/step_00000000.npz` holds for each layer either one array under its name, or the fields of a `Pooled`,
each under `name:field`; and under `:answers` what the model answered with these filters, where that is known.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path

import numpy as np

from jattn.drawing.files import UNREADABLE, replacing


@dataclass(frozen=True, eq=False)
class Pooled:
    """Holds what is kept of the filters of one layer where whole weights would be too many.

    Args:
      map: the filters at the size of a screen, ``[examples, heads, q_bins, k_bins]``; kept as float16. A cell is the
        mean over the queries of its row of the weight on the keys of its column. Bins are over each example's own
        length: of ``n`` positions and ``b`` bins of an axis, position ``i`` is in bin ``⌊i min(b, n) / n⌋``; bins
        beyond are zero.
      top_weights: the largest weights of every query, descending, ``[examples, heads, queries, k]``; kept as float16.
      top_keys: their keys, anything where the weight is 0; kept as the narrowest unsigned integers that hold them.
      mass: see `measures.oracle_mass`, of the weights before any pooling, ``[examples, heads]``; kept as float32.
      hit_rate: see `measures.hit_rate`, alike.
      entropy: see `measures.entropy`, alike.
    """

    map: np.ndarray
    top_weights: np.ndarray
    top_keys: np.ndarray
    mass: np.ndarray
    hit_rate: np.ndarray
    entropy: np.ndarray


ANSWERS = ":answers"
"""Under which name a snapshot keeps the answers; no layer has it, as a layer has a name before its colon."""

Kept = np.ndarray | Pooled
"""What a snapshot keeps of the filters of one layer: weights ``[examples, heads, queries, keys]``, or pooled ones."""


def snapshot_path(run_dir: Path | str, step: int) -> Path:
    """Returns where the filters at one step are kept."""
    return Path(run_dir) / "filters" / f"step_{step:08d}.npz"


def save_snapshot(
    run_dir: Path | str, step: int, filters: Mapping[str, Kept], answers: np.ndarray | None = None
) -> None:
    """Writes the filters at one step in one step; a failed write leaves the old file.

    Args:
      run_dir: the run's folder.
      step: the training step, 0 before the first update.
      filters: layer name -> weights ``[examples, heads, queries, keys]``, kept as float32, or a `Pooled`.
      answers: the texts that the model answered with at each query of the inputs, ``[examples, queries]``, empty where
        none is scored; None where they are not known.

    Raises:
      ValueError: the step is negative, or an array has not four axes.
    """
    if step < 0:
        raise ValueError(f"expected a step >= 0, got {step}")
    arrays: dict[str, np.ndarray] = {}
    for name, kept in filters.items():
        if isinstance(kept, Pooled):
            arrays |= _pooled_arrays(name, kept)
            continue
        arrays[name] = np.asarray(kept, np.float32)
        if arrays[name].ndim != 4:
            shape = arrays[name].shape
            raise ValueError(f"layer '{name}': expected [examples, heads, queries, keys], got shape {shape}")
    if answers is not None:
        arrays[ANSWERS] = np.asarray(answers, np.str_)
    with replacing(snapshot_path(run_dir, step)) as file:
        np.savez(file, **arrays)  # pyright: ignore[reportArgumentType]


def _pooled_arrays(name: str, pooled: Pooled) -> dict[str, np.ndarray]:
    arrays = asdict(replace(pooled, top_keys=np.maximum(pooled.top_keys, 0)))
    narrow = {"map": np.float16, "top_weights": np.float16}
    narrow["top_keys"] = np.min_scalar_type(arrays["top_keys"].max(initial=0)).type
    return {f"{name}:{field}": np.asarray(array, narrow.get(field, np.float32)) for field, array in arrays.items()}


def read_snapshot(path: Path, least_shapes: Mapping[str, tuple[int, int, int, int]]) -> dict[str, Kept]:
    """Reads the filters at one step.

    Args:
      path: the file.
      least_shapes: layer name -> ``(examples, heads, queries, keys)``; the file may hold more queries and keys.

    Returns:
      Layer name -> weights, float32, or a `Pooled`.

    Raises:
      ValueError: the file is none of filters, or a layer is missing, is one too many or has another shape; the message
        names the file.
    """
    with _arrays_of(path) as arrays:
        snapshot = {name: _read_layer(arrays, name) for name in least_shapes}
        others = [name for name in arrays if name != ANSWERS and name.partition(":")[0] not in snapshot]
        if others:
            raise KeyError(f"expected filters of {', '.join(snapshot)}, got also {', '.join(others)}")
    for name, least in least_shapes.items():
        kept = snapshot[name]
        problem = _pooled_problem(kept, least) if isinstance(kept, Pooled) else _whole_problem(kept, least)
        if problem:
            raise ValueError(f"{path}: layer '{name}': {problem}")
    return snapshot


def read_answers(path: Path, least_shape: tuple[int, int]) -> np.ndarray | None:
    """Reads what the model answered at one step: texts ``[examples, queries]``; None of a snapshot without answers.

    Raises:
      ValueError: the file is none of filters, or the answers have another shape; the message names the file.
    """
    with _arrays_of(path) as arrays:
        answers = arrays.get(ANSWERS)
    if answers is None:
        return None
    fits = answers.ndim == 2 and answers.shape[0] == least_shape[0] and answers.shape[1] >= least_shape[1]
    if not fits or answers.dtype.kind != "U":
        expected = f"expected texts of shape {least_shape} or padded beyond it"
        raise ValueError(f"{path}: answers: {expected}, got {answers.dtype} of shape {answers.shape}")
    return answers


@contextmanager
def _arrays_of(path: Path) -> Iterator[Mapping[str, np.ndarray]]:
    """Yields the arrays of a file by name; makes one error of whatever reading a damaged one ends in."""
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            yield arrays
    except KeyError as error:
        raise ValueError(f"{path}: {error.args[0]}") from error
    except UNREADABLE as error:
        raise ValueError(f"{path}: not a snapshot of filters: {error}") from error


def _read_layer(arrays: Mapping[str, np.ndarray], name: str) -> Kept:
    if f"{name}:map" not in arrays:
        return np.asarray(arrays[name], np.float32)
    return Pooled(**{field.name: arrays[f"{name}:{field.name}"] for field in fields(Pooled)})


def _whole_problem(weights: np.ndarray, least: tuple[int, ...]) -> str | None:
    shape = weights.shape
    if len(shape) == 4 and shape[:2] == least[:2] and shape[2] >= least[2] and shape[3] >= least[3]:
        return None
    return f"expected shape {least} or padded beyond it, got {shape}"


def _pooled_problem(pooled: Pooled, least: tuple[int, ...]) -> str | None:
    both, rows = least[:2], pooled.top_weights.shape
    if pooled.map.ndim != 4 or pooled.map.shape[:2] != both or 0 in pooled.map.shape:
        return f"expected a map of shape {both} and bins, got {pooled.map.shape}"
    if len(rows) != 4 or rows[:2] != both or rows[2] < least[2] or pooled.top_keys.shape != rows:
        expected = f"largest weights and their keys of shape {least[:3]} and a number, or padded beyond it"
        return f"expected {expected}, got {rows} and {pooled.top_keys.shape}"
    if not np.issubdtype(pooled.top_keys.dtype, np.integer):
        return f"expected the keys of the largest weights to be whole numbers, got {pooled.top_keys.dtype}"
    for measure in ("mass", "hit_rate", "entropy"):
        shape = getattr(pooled, measure).shape
        if shape != both:
            return f"expected {measure} of shape {both}, got {shape}"
    return None
