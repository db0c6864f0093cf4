"""Corruptions: whatever becomes of the files of a run, it goes on from what is whole, or says in a line why not."""

import random
import re
import shutil

import pytest

from tests.training.processes.commands import Command, Fault, rows, run

DAMAGES = {
    "flip": lambda data, rng: flip(data, rng),
    "cut": lambda data, rng: data[: rng.randrange(len(data))],
    "empty": lambda data, rng: b"",
    "garbage": lambda data, rng: rng.randbytes(len(data)),
    "zeros": lambda data, rng: bytes(len(data)),
    "twice": lambda data, rng: data + data,
    "hole": lambda data, rng: data[: len(data) // 3] + data[len(data) // 2 :],
}
"""What becomes of the bytes of a file."""

ALL = (*DAMAGES, "delete", "rename", "swap", "folder")
CASES = 10
"""How many folders are damaged in one test, a half of them of a finished run, a half of one that was killed."""


def flip(data, rng):
    place = rng.randrange(len(data))
    return data[:place] + bytes([data[place] ^ (1 << rng.randrange(8))]) + data[place + 1 :]


def damage(folder, kind, rng):
    """Damages a file of a folder; returns the names of those that are not as they were."""
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.stat().st_size)
    groups = sorted({path.relative_to(folder).parts[0] for path in files})
    group = rng.choice([name for name in groups if name not in ("figures", "report.html")])
    path = rng.choice([path for path in files if path.relative_to(folder).parts[0] == group])
    if kind in DAMAGES:
        path.write_bytes(DAMAGES[kind](path.read_bytes(), rng))
        return [path]
    if kind == "rename":
        return [path, path.rename(path.with_name(f"{path.stem}0{path.suffix}"))]
    if kind == "swap":
        other = rng.choice(files)
        mine, its = path.read_bytes(), other.read_bytes()
        path.write_bytes(its), other.write_bytes(mine)
        return [path, other]
    path.unlink()
    if kind == "folder":
        path.mkdir()
    return [path]


@pytest.fixture(scope="module")
def half(tmp_path_factory):
    """A run that was killed once three checkpoints were whole."""
    folder = tmp_path_factory.mktemp("half") / "half"
    (ended,) = run(Command(folder, fault=Fault("rename", "checkpoints/digests_9.json", fate="die after")))
    assert ended.status == -9, ended
    return folder


@pytest.mark.exhaustive
@pytest.mark.parametrize("seed", range(30))
def test_corruptions(seed, whole, half, tmp_path):
    rng = random.Random(seed)
    kinds = rng.sample(ALL, CASES)
    folders = [shutil.copytree((whole.folder, half)[n % 2], tmp_path / str(n)) for n in range(CASES)]
    damaged = [damage(folder, kind, rng) for folder, kind in zip(folders, kinds, strict=True)]
    metrics = [path.read_bytes() if (path := folder / "metrics.jsonl").is_file() else b"" for folder in folders]
    ended = run(*(Command(folder, report=True, restores=True) for folder in folders))
    for one, folder, kind, paths, rows_then in zip(ended, folders, kinds, damaged, metrics, strict=True):
        case = f"{kind} {[path.relative_to(folder).as_posix() for path in paths]}: {one}"
        check(whole, one, folder, paths, kind, rows_then, case)


def check(whole, ended, folder, damaged, kind, metrics, case):
    """Asserts that a command and `restore` took nothing damaged for whole, and said what is."""
    told = ended.out + ended.err
    assert "Traceback" not in told, case
    if ended.status == 0:
        assert ended.err == "", case
        assert ended.states[12] == whole.ended.states[12], case
        if "metrics.jsonl: the rows before step" in told:
            assert (folder / "metrics_damaged_1.jsonl").read_bytes() == metrics, case
        else:
            assert rows(folder) == rows(whole.folder), case
        assert (folder / "report.html").stat().st_mtime > (folder / "config.toml").stat().st_mtime, case
    else:
        assert kind == "folder" or not all("filters" in path.relative_to(folder).parts for path in damaged), case
        assert ended.status in (1, 2), case
        assert ended.err.count("\n") == 1 or "holds a run of a different config" in ended.err, case
        assert any(name_of(path, folder) in told for path in damaged), case
    if not re.match("(RunFolderError|FileNotFoundError|ConfigError): ", ended.restored):
        assert ended.restored in [parameters for parameters, _ in whole.states.values()], case


def name_of(path, folder):
    """What a message must say of a damaged file: its name, the step that it belongs to, or what a lock means."""
    parts = path.relative_to(folder).parts
    if parts == ("lock",) and path.is_file():
        return "wrote to this run folder"
    return f"step {parts[1]}" if parts[0] == "checkpoints" and len(parts) > 2 else parts[-1]
