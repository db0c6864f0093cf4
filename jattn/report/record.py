"""The record of a run: the files in its folder that the report reads, and who may write them how.

| file                        | holds                                                                              |
|-----------------------------|------------------------------------------------------------------------------------|
| `config.toml`               | the resolved config: tables of simple keys                                         |
| `metrics.jsonl`             | one JSON object per line: see `rows`                                               |
| `filters/probes.json`       | `Probes`: the layers, and the few examples whose filters are kept                  |
| `filters/step_00000000.npz` | the filters at one step: layer name -> weights ``[examples, heads, queries, keys]``, |
|                             | float32; of a layer longer than the screen `name:field` -> each field of a `Pooled`; |
|                             | and `:answers` -> what the model answered with them                                |
| `provenance.json`           | what made the run: see `jattn.report.provenance`                                   |

Kinds of metrics:

- `train`: `loss`, `token_accuracy`, `exact_accuracy`, `gradient_norm`, `learning_rate`, `steps_per_second`,
  `tokens_per_second`, `flops_per_second` where the compiler counts a whole step, and `filters`: layer name ->
  `entropy` in nats and, where the oracle speaks of the layer, `mass`, `hit_rate` and `lift` (else null); each a list
  with one number per head.
- `evaluation`: `loss`, `token_accuracy`, `exact_accuracy`, `filter_score`, and `examples`: a few objects of
  `source`, `target` and `prediction`, each a text of tokens separated by spaces.
- `test`: `examples` (how many), `token_accuracy`, `exact_accuracy`, `filter_score`, and `by_length`:
  length -> the last three.

Of a text, evaluations and tests have `perplexity` and `bits_per_byte` as well, and nobody reads `exact_accuracy`.

Where several seeds were trained at once these are means over them, and evaluations and tests have `replicates`: for
each seed an object of `seed` and its own values. What shows single filters or examples is of the first seed.
"""

import json
import tomllib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from jattn.drawing.bins import cell_words, pool_weights
from jattn.drawing.files import replacing
from jattn.drawing.hatching import HATCHED
from jattn.drawing.ink import LINEAR, ROOTED, Ink
from jattn.report.provenance import read_provenance
from jattn.report.rows import METRICS, read_rows
from jattn.report.snapshots import Kept, Pooled, read_answers, read_snapshot, snapshot_path

INPUTS = "inputs"
"""The sequence whose positions are scored: targets, scored and oracle hold one entry for each of its tokens."""


@dataclass(frozen=True)
class Layer:
    """Names an attention layer and the two sequences it joins.

    Args:
      name: the layer's path in the model, such as `block_0/attention`.
      heads: how many heads, so how many filters, it has.
      queries: the sequence that its queries come from.
      keys: the sequence that its keys come from; another one than `queries` in cross-attention.
      oracle: whether the oracle speaks of this layer. Its queries are then those of `inputs`.
    """

    name: str
    heads: int
    queries: str = INPUTS
    keys: str = INPUTS
    oracle: bool = False


@dataclass(frozen=True)
class Picture:
    """Holds a picture whose patches are a sequence of an example.

    Args:
      png: the picture as a PNG file, in base64.
      rows, columns: how many patches it is high and wide; they are in reading order.
      sequence: the sequence that the patches are.
    """

    png: str
    rows: int
    columns: int
    sequence: str = "source"


@dataclass(frozen=True)
class Example:
    """Holds the tokens of one probe example, and its oracle.

    Args:
      sequences: name -> tokens. A sequence may be shorter than its axis of the filter; the rest is padding.
      targets: the answer at each query of `inputs`, empty where none is scored.
      scored: whether each query of `inputs` is scored.
      oracle: the indices of the keys that hold the answer, for each query of `inputs`; several may be right,
        and some queries have none.
      picture: what is read, where that is a picture.
    """

    sequences: Mapping[str, Sequence[str]]
    targets: Sequence[str]
    scored: Sequence[bool]
    oracle: Sequence[Sequence[int]]
    picture: Picture | None = None

    def __post_init__(self) -> None:
        if INPUTS not in self.sequences:
            raise ValueError(f"expected a sequence '{INPUTS}', got {sorted(self.sequences)}")
        count = len(self.sequences[INPUTS])
        for name in ("targets", "scored", "oracle"):
            found = len(getattr(self, name))
            if found != count:
                raise ValueError(f"expected {count} {name}, one per token of '{INPUTS}', got {found}")
        if self.picture is not None:
            patches = len(self.sequences.get(self.picture.sequence, ()))
            if self.picture.rows * self.picture.columns != patches:
                raise ValueError(
                    f"expected a picture of {patches} patches, got {self.picture.rows} rows of {self.picture.columns}"
                )


@dataclass(frozen=True)
class Probes:
    """Holds the few fixed examples whose filters are kept over training, and the layers that make them, if any.

    Args:
      layers: the layers.
      examples: the examples.
      visible: which keys a query may attend to: layer name -> for each example, for each query, or row of a map, ranges
        of keys ``[start, stop, start, stop, ...]``. Of a layer that is not there, every key may be, or it is not known.
      task: what the task is, in words: the description in its docstring; empty where it has none.

    Raises:
      ValueError: there is no example, two layers share a name, a layer names a sequence that an
        example lacks, or an oracle points outside a layer's keys.
    """

    layers: Sequence[Layer]
    examples: Sequence[Example]
    visible: Mapping[str, Sequence[Sequence[Sequence[int]]]] = field(default_factory=dict)
    task: str = ""

    def __post_init__(self) -> None:
        if not self.examples:
            raise ValueError("expected examples, got none")
        names = [layer.name for layer in self.layers]
        if len(set(names)) < len(names):
            raise ValueError(f"expected layers of different names, got {names}")
        for layer in self.layers:
            for example in self.examples:
                _check_layer(layer, example)


def _check_layer(layer: Layer, example: Example) -> None:
    for name in (layer.queries, layer.keys):
        if name not in example.sequences:
            raise ValueError(f"layer '{layer.name}' reads '{name}', an example has {sorted(example.sequences)}")
    if not layer.oracle:
        return
    if layer.queries != INPUTS:
        raise ValueError(f"layer '{layer.name}' has an oracle: expected queries '{INPUTS}', got '{layer.queries}'")
    count = len(example.sequences[layer.keys])
    for key in (key for keys in example.oracle for key in keys):
        if not 0 <= key < count:
            raise ValueError(f"layer '{layer.name}' has {count} keys, an oracle points to key {key}")


@dataclass(frozen=True, eq=False)
class RunRecord:
    """Holds all that the report knows of a run.

    Args:
      name: the name of the run's folder.
      config: the resolved config, table -> key -> value.
      metrics: the rows of `metrics.jsonl`, in the order of the file.
      probes: the layers and the examples.
      steps: the training steps of the snapshots, rising.
      snapshots: for each step, layer name -> weights ``[examples, heads, queries, keys]``, float32, or a `Pooled`.
      problems: what could not be read and is left out, in words.
      answers: for each step what the model answered at each query of the inputs, texts ``[examples, queries]``, or None
        where that was not kept, as in folders of older runs.
      provenance: what made the run; empty where that was not kept.
    """

    name: str
    config: Mapping[str, Any]
    metrics: Sequence[Mapping[str, Any]]
    probes: Probes
    steps: Sequence[int]
    snapshots: Sequence[Mapping[str, Kept]]
    problems: Sequence[str] = ()
    answers: Sequence[np.ndarray | None] = ()
    provenance: Mapping[str, Any] = field(default_factory=dict)

    def rows(self, kind: str) -> list[Mapping[str, Any]]:
        """Returns the metrics of one kind, by rising step; of two rows at one step, the later written."""
        by_step = {row["step"]: row for row in self.metrics if row["kind"] == kind}
        return [by_step[step] for step in sorted(by_step)]

    def last(self, kind: str) -> Mapping[str, Any]:
        """Returns the last row of a kind, an empty one where there is none; a test before other rows is none."""
        last = (self.rows(kind) or [{}])[-1]
        return {} if kind == "test" and last and last["step"] < self.metrics[-1]["step"] else last

    def filters(self, snapshot: int, layer: Layer, example: int) -> np.ndarray:
        """Returns one layer's filters for one example, without padding: ``[heads, queries, keys]``.

        Raises:
          ValueError: the snapshot keeps them pooled.
        """
        kept = self.snapshots[snapshot][layer.name]
        if isinstance(kept, Pooled):
            raise ValueError(f"layer '{layer.name}' is kept pooled at step {self.steps[snapshot]}, expected weights")
        queries, keys = self.counts(layer, example)
        return kept[example, :, :queries, :keys]

    def is_pooled(self, layer: Layer) -> bool:
        """Says whether a layer is shown pooled: where any snapshot keeps it so, all are."""
        return any(isinstance(snapshot[layer.name], Pooled) for snapshot in self.snapshots)

    @property
    def has_maps(self) -> bool:
        """Whether any layer is shown pooled."""
        return any(map(self.is_pooled, self.probes.layers))

    @property
    def ink(self) -> Ink:
        """Which weight is which ink in the figures: the same in all, in proportion to its root where any is pooled."""
        return ROOTED if self.has_maps else LINEAR

    def counts(self, layer: Layer, example: int) -> tuple[int, int]:
        """Returns how many queries and keys a layer has for one example."""
        sequences = self.probes.examples[example].sequences
        return len(sequences[layer.queries]), len(sequences[layer.keys])

    def bins(self, layer: Layer, example: int) -> tuple[int, int]:
        """Returns how many rows and columns `picture` has: those of the map, else one for each query and key."""
        queries, keys = self.counts(layer, example)
        maps = (kept.map.shape for kept in self._kept(layer) if isinstance(kept, Pooled))
        rows, columns = next(maps, (0, 0, queries, keys))[2:]
        return min(rows, queries), min(columns, keys)

    def picture(self, snapshot: int, layer: Layer, example: int) -> np.ndarray:
        """Returns what is drawn of one layer's filters for one example: float32 ``[heads, rows, columns]``.

        These are the filters where every snapshot holds them whole, else maps; what was kept whole is then pooled here.
        """
        rows, columns = self.bins(layer, example)
        kept = self.snapshots[snapshot][layer.name]
        if isinstance(kept, Pooled):
            return kept.map[example, :, :rows, :columns].astype(np.float32)
        filters = self.filters(snapshot, layer, example)
        return pool_weights(filters, (rows, columns)) if self.is_pooled(layer) else filters

    def hidden(self, layer: Layer, example: int) -> np.ndarray | None:
        """Returns which cells of `picture` may not be attended, bool ``[rows, columns]``; None where all may be."""
        visible = self.probes.visible.get(layer.name)
        if visible is None:
            return None
        hidden = np.ones(self.bins(layer, example), bool)
        for row, ranges in zip(hidden, visible[example], strict=False):
            for start, stop in zip(ranges[::2], ranges[1::2], strict=True):
                row[start:stop] = False
        return hidden

    def hatching(self, layers: Iterable[Layer], example: int) -> str:
        """Says what hatched cells are; nothing where there are none."""
        hidden = (self.hidden(layer, example) for layer in layers)
        return HATCHED if any(cells is not None and cells.any() for cells in hidden) else ""

    def pooling(self, layers: Iterable[Layer], example: int) -> str:
        """Says how many queries and keys a cell stands for in the maps of some layers; nothing where none is pooled."""
        pooled = [layer for layer in layers if self.is_pooled(layer)]
        words = {cell_words(self.bins(layer, example), self.counts(layer, example)): None for layer in pooled}
        return f"pooled: each cell is {' or '.join(words)}" if words else ""

    def _kept(self, layer: Layer) -> Iterator[Kept]:
        return (snapshot[layer.name] for snapshot in self.snapshots)


def save_probes(run_dir: Path | str, probes: Probes) -> None:
    """Writes `filters/probes.json` of a run folder in one step; a failed write leaves the old file."""
    text = json.dumps(asdict(probes), default=lambda array: array.tolist())
    with replacing(Path(run_dir) / "filters" / "probes.json") as file:
        file.write(text.encode())


def read_record(run_dir: Path | str) -> RunRecord:
    """Reads the record of a run, finished or under way.

    A missing `metrics.jsonl` reads as no metrics, and a last line that a crash cut short is left out. Snapshots that
    cannot be read are left out too, and named in ``problems``.

    Raises:
      FileNotFoundError: the config, the probes or every snapshot is missing; the message names which.
      ValueError: a file does not hold what the schema says; the message names the file, and the line of metrics.
    """
    folder = Path(run_dir)
    if not (folder / "config.toml").is_file():
        raise FileNotFoundError(f"no config.toml in {folder}; is it the folder of a run?")
    if not (folder / "filters" / "probes.json").is_file():
        raise FileNotFoundError(f"no filters/probes.json in {folder}; has the run started?")
    files = {step: snapshot_path(folder, step) for step in steps_of_snapshots(folder)}
    if not files:
        raise FileNotFoundError(f"no filter snapshots in {folder}; has the run started?")
    probes = read_probes(folder / "filters" / "probes.json")
    least_shapes = _least_shapes(probes)
    least_answers = len(probes.examples), max(len(example.targets) for example in probes.examples)
    snapshots, answers, problems = {}, [], []
    for step in files:
        try:
            kept, answered = read_snapshot(files[step], least_shapes), read_answers(files[step], least_answers)
        except ValueError as error:
            problems.append(f"{error}; it is left out")
        else:
            snapshots[step] = kept
            answers.append(answered)
    if not snapshots:
        raise ValueError(problems[0].removesuffix("; it is left out"))
    return RunRecord(
        name=folder.resolve().name,
        config=_read_config(folder / "config.toml"),
        metrics=read_rows(folder / METRICS),
        probes=probes,
        steps=list(snapshots),
        snapshots=list(snapshots.values()),
        problems=problems,
        answers=answers,
        provenance=read_provenance(folder),
    )


def steps_of_snapshots(run_dir: Path | str) -> list[int]:
    """Lists the steps of which a run folder has a snapshot, in their order."""
    names = (file.stem.removeprefix("step_") for file in (Path(run_dir) / "filters").glob("step_*.npz"))
    return sorted(int(name) for name in names if name.isdecimal())


def read_filters(run_dir: Path | str, step: int) -> dict[str, Kept]:
    """Reads the filters of each layer at one step, of which there is a snapshot.

    Raises:
      OSError: a file is not there.
      ValueError: a file is damaged; the message names it.
    """
    probes = read_probes(Path(run_dir) / "filters" / "probes.json")
    return read_snapshot(snapshot_path(run_dir, step), _least_shapes(probes))


def _read_config(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: {error}") from error


def read_probes(path: Path) -> Probes:
    """Reads `filters/probes.json`; raises `ValueError` if it does not hold what it should."""
    try:
        data = json.loads(path.read_bytes())
        layers = [Layer(**entry) for entry in data["layers"]]
        examples = [Example(**_with_picture(entry)) for entry in data["examples"]]
        return Probes(layers, examples, data.get("visible", {}), data.get("task", ""))
    except KeyError as error:
        raise ValueError(f"{path}: {error} is missing") from error
    except (TypeError, ValueError, AttributeError, RecursionError) as error:
        raise ValueError(f"{path}: {error}") from error


def _with_picture(entry: Mapping[str, Any]) -> dict[str, Any]:
    picture = entry.get("picture")
    return {**entry, "picture": picture and Picture(**picture)}


def _least_shapes(probes: Probes) -> dict[str, tuple[int, int, int, int]]:
    return {layer.name: _least_shape(layer, probes) for layer in probes.layers}


def _least_shape(layer: Layer, probes: Probes) -> tuple[int, int, int, int]:
    queries = max(len(example.sequences[layer.queries]) for example in probes.examples)
    keys = max(len(example.sequences[layer.keys]) for example in probes.examples)
    return len(probes.examples), layer.heads, queries, keys
