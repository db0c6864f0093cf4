"""Examples from a file: what is read, what is held out, and one line for each thing that is wrong."""

import io
import json
import zipfile
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jattn.tasks import LAYOUTS, make_batch
from jattn.tasks.catalogue import make_task
from jattn.tasks.own_examples import examples
from jattn.training.reading import ConfigError, check, read_toml
from jattn.training.run_folder import RunFolder, RunFolderError, read_config

ROWS = [
    {"source": "b a 10", "target": ["a", 2], "oracle": [[0, 2], None]},
    {"source": [2, "a"], "target": "b", "oracle": [1]},
    {"source": "a", "target": "a", "oracle": [0]},
    {"source": "10 a b", "target": "10", "oracle": [[]]},
    {"source": "2", "target": "b", "oracle": [None]},
]


def lines(rows):
    return "".join(json.dumps(row) + "\n" for row in rows)


def archive(**arrays):
    file = io.BytesIO()
    np.savez(file, **arrays)
    return file.getvalue()


def entries(method=zipfile.ZIP_STORED, **contents):
    """Returns an archive of bytes as they are."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", method) as archive:
        for name, content in contents.items():
            archive.writestr(name, content)
    return file.getvalue()


def array_file():
    file = io.BytesIO()
    np.save(file, np.ones((2, 2), int))
    return file.getvalue()


def written(folder, content, name="mine.jsonl"):
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return str(path)


def drawn(task, sample, number=200):
    """Draws examples, each as its source, its target and its oracle in words."""
    rngs = jax.random.split(jax.random.key(1), number)
    many = jax.device_get(jax.jit(jax.vmap(lambda rng: sample(rng, jnp.int32(task.length), task.length)))(rngs))
    found = set()
    for i in range(number):
        source = task.words(many.source[i][: many.source_length[i]])
        target = task.words(many.target[i][: many.target_length[i]])
        oracle = [tuple(np.flatnonzero(row)) for row in many.alignment[i][: len(target)]]
        found.add((tuple(source), tuple(target), tuple(oracle)))
    return found


def test_examples_are_those_of_the_file(tmp_path):
    task = examples(written(tmp_path, lines(ROWS)), test_share=0)
    assert task.symbols == ("2", "10", "a", "b")
    assert (task.judged, task.length, task.target_room(3), task.fills(3)) == (None, 3, 2, False)
    assert drawn(task, task.sample) == {
        (("b", "a", "10"), ("a", "2"), ((0, 2), ())),
        (("2", "a"), ("b",), ((1,),)),
        (("a",), ("a",), ((0,),)),
        (("10", "a", "b"), ("10",), ((),)),
        (("2",), ("b",), ((),)),
    }


def test_answers_are_read_at_the_last_places(tmp_path):
    task = examples(written(tmp_path, lines(ROWS[:1])), test_share=0)
    rng = jax.random.key(0)
    batch = jax.jit(lambda: make_batch(task, LAYOUTS["encoder"], rng, jnp.arange(1), (3, 3), 3))()
    assert batch.scored[0].tolist() == [False, True, True]
    assert [task.symbols[token] for token in batch.targets[0][1:]] == ["a", "2"]
    assert batch.oracle[0].astype(int).tolist() == [[0, 0, 0], [1, 0, 1], [0, 0, 0]]


def test_what_is_held_out_is_never_trained_on_and_always_the_same(tmp_path):
    rows = [{"source": [i % 20, i % 7 % 3], "target": [i]} for i in range(40)]
    task = examples(written(tmp_path, lines(rows)), test_share=0.25)
    trained, judged = (drawn(task, sample, 1000) for sample in (task.sample, task.judged))
    assert len(trained | judged) == len(rows)
    assert not {source for source, _, _ in trained} & {source for source, _, _ in judged}
    assert not task.has_oracle
    again = examples(written(tmp_path, lines(rows), "again.jsonl"), test_share=0.25)
    assert drawn(again, again.judged, 1000) == judged


def test_arrays_hold_the_same_as_lines(tmp_path):
    source, target = np.array([[7, 3, 0], [5, 7, 3]]), np.array([["b"], ["a"]])
    oracle = np.zeros((2, 1, 3), bool)
    oracle[0, 0, 1] = True
    data = archive(source=source, target=target, source_lengths=np.array([2, 3]), oracle=oracle)
    task = examples(written(tmp_path, data, "mine.npz"), test_share=0)
    rows = [{"source": [7, 3], "target": "b", "oracle": [1]}, {"source": [5, 7, 3], "target": "a", "oracle": [None]}]
    same = examples(written(tmp_path, lines(rows)), test_share=0)
    assert task.symbols == same.symbols == ("3", "5", "7", "a", "b")
    assert drawn(task, task.sample) == drawn(same, same.sample)


GOOD = lines(ROWS)
NO_ARCHIVE = "mine.npz: expected an archive of NumPy arrays without objects, got none"
ONE = entries(**{"source.npy": array_file()})
PACKED = entries(zipfile.ZIP_DEFLATED, **{"source.npy": array_file()})
MISTAKES = {
    "no file": ("none.jsonl", None, "file: expected a file of examples, .jsonl or .npz, got '{path}': No such file"),
    "a csv file": ("mine.csv", "a,b", "file: expected a name that ends in .jsonl or .npz, got 'mine.csv'"),
    "nothing": ("mine.jsonl", " \n", "file: mine.jsonl: expected examples, got an empty file"),
    "no JSON": ("mine.jsonl", GOOD + "{", "file: mine.jsonl, line 6: expected a JSON object, got '{'"),
    "no object": ("mine.jsonl", "[1]", "mine.jsonl, line 1: expected a JSON object, got '[1]'"),
    "no UTF-8": ("mine.jsonl", b'{"source": "\xff"}', "mine.jsonl, line 1: expected a JSON object, got"),
    "another key": (
        "mine.jsonl",
        GOOD + '\n{"source": "a", "answer": "b"}',
        "mine.jsonl, line 7: expected the keys source, target and perhaps oracle, got 'source', 'answer'",
    ),
    "no tokens": ("mine.jsonl", '{"source": "", "target": "a"}', "line 1: expected 1 to 4096 tokens of source, got 0"),
    "a number": ("mine.jsonl", '{"source": 3, "target": "a"}', "expected source to be a string or a list of tokens"),
    "a fraction": ("mine.jsonl", '{"source": [0.5], "target": "a"}', "source to be words or numbers, got 0.5"),
    "true": ("mine.jsonl", '{"source": "a", "target": [true]}', "target to be words or numbers, got True"),
    "a blank": ("mine.jsonl", '{"source": ["a b"], "target": "a"}', "source to be words or numbers, got 'a b'"),
    "padding": ("mine.jsonl", '{"source": "<pad>", "target": "a"}', "source other than <pad>, which layouts use"),
    "some oracle": (
        "mine.jsonl",
        GOOD + '{"source": "a", "target": "a"}',
        "line 6: expected an oracle in every line or in none, got none in mine.jsonl, line 6",
    ),
    "a short oracle": (
        "mine.jsonl",
        '{"source": "a", "target": "a b", "oracle": [0]}',
        "line 1: expected an oracle for each of the 2 target tokens, got 1",
    ),
    "an oracle beyond": (
        "mine.jsonl",
        '{"source": "a b", "target": "a", "oracle": [[0, 2]]}',
        "line 1: expected oracle positions from 0 to 1, got 2",
    ),
    "a NUL in the name": ("mine.jsonl\0", None, "file: expected a file of examples, .jsonl or .npz, got '"),
    "no archive": ("mine.npz", "PK", NO_ARCHIVE),
    "an array alone": ("mine.npz", array_file(), NO_ARCHIVE),
    "an entry that is no array": ("mine.npz", entries(source="text"), NO_ARCHIVE),
    "a header that is damaged": ("mine.npz", entries(**{"source.npy": array_file().replace(b"2)", b"2(")}), NO_ARCHIVE),
    "an encrypted bit": ("mine.npz", ONE.replace(b"PK\1\2\x14\3\x14\0\0", b"PK\1\2\x14\3\x14\0\1"), NO_ARCHIVE),
    "damaged compression": ("mine.npz", PACKED[:45] + b"\xff" * 9 + PACKED[54:], NO_ARCHIVE),
    "an archive without target": ("mine.npz", archive(source=np.ones((2, 2), int)), "three optional, got source"),
    "arrays of fractions": (
        "mine.npz",
        archive(source=np.ones((2, 2)), target=np.ones((2, 1), int)),
        "mine.npz: expected source of whole numbers or texts, shape [2, any], got float64, shape [2, 2]",
    ),
    "fewer targets": (
        "mine.npz",
        archive(source=np.ones((3, 2), int), target=np.ones((2, 1), int)),
        "mine.npz: expected target of whole numbers or texts, shape [3, any], got int64, shape [2, 1]",
    ),
    "lengths beyond": (
        "mine.npz",
        archive(source=np.ones((2, 2), int), target=np.ones((2, 1), int), source_lengths=np.array([2, 3])),
        "mine.npz: expected source_lengths from 1 to 2, got 3 at 1",
    ),
    "an oracle beyond the lengths": (
        "mine.npz",
        archive(
            source=np.ones((1, 2), int),
            target=np.ones((1, 1), int),
            source_lengths=np.array([1]),
            oracle=np.ones((1, 1, 2), bool),
        ),
        "mine.npz: expected an oracle within the lengths, got True at [0, 0, 1]",
    ),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_damaged_file_is_answered_in_one_line_that_says_where(tmp_path, mistake):
    name, content, text = MISTAKES[mistake]
    path = str(tmp_path / name) if content is None else written(tmp_path, content, name)
    with pytest.raises(ConfigError) as refused:
        check({"task": {"name": "examples", "file": path}}, "test")
    assert str(refused.value).startswith("test: task.file: ")
    assert text.replace("{path}", path) in str(refused.value)
    assert "\n" not in str(refused.value)


def test_what_does_not_fit_a_file_is_refused(tmp_path):
    path = written(tmp_path, lines([{"source": "a", "target": "a"}, {"source": "b", "target": "b a"}]))
    for options, text in (
        ({}, "task.file: expected a file of examples, .jsonl or .npz, got nothing"),
        ({"file": str(tmp_path)}, f"task.file: expected a file of examples, .jsonl or .npz, got a folder: {tmp_path}"),
        ({"file": path}, "task.test_share: expected 0, or a share with 1 to 1 of the 2 different sources, got 0.2"),
        ({"file": path, "sha256": "12"}, f"task.file: {path} has changed: expected the SHA-256 12, got "),
        (
            {"file": path, "test_share": 0.5, "layout": "encoder"},
            "task.layout: expected 'decoder' or 'encoder_decoder' for task 'examples', got 'encoder'; "
            "mine.jsonl, line 2 has a target longer than its source",
        ),
    ):
        with pytest.raises(ConfigError) as refused:
            check({"task": {"name": "examples"} | options}, "test")
        assert str(refused.value).startswith(f"test: {text}")
    with pytest.raises(ValueError, match="test_share: expected a share of at least 0, less than 1, got 1"):
        make_task("examples", {"file": path, "test_share": 1.0})


def test_a_file_is_looked_for_beside_the_config_and_then_where_one_is(tmp_path, monkeypatch):
    (tmp_path / "beside").mkdir()
    beside = written(tmp_path / "beside", GOOD)
    config = tmp_path / "beside" / "mine.toml"
    config.write_text("[task]\nname = 'examples'\nfile = 'mine.jsonl'\n")
    monkeypatch.chdir(tmp_path)
    assert read_toml(config)["task"]["file"] == beside
    assert check(read_toml(config), "test").task.file == beside
    here = written(tmp_path, GOOD, "here.jsonl")
    assert check({"task": {"name": "examples", "file": "here.jsonl"}}, "test").task.file == here


def test_a_file_belongs_to_its_run(tmp_path):
    path, folder = written(tmp_path, GOOD), tmp_path / "run"
    values = {"task": {"name": "examples", "file": path}, "run": {"folder": str(folder)}}
    RunFolder(check(values, "test")).close()
    RunFolder(check(values, "test")).close()
    assert read_config(folder).task.make().symbols == ("2", "10", "a", "b")
    written(tmp_path, GOOD + lines(ROWS[:1]))
    with pytest.raises(RunFolderError, match=r"mine\.jsonl as it was when the run began, with the SHA-256 \w{64}, got"):
        RunFolder(check(values, "test"))
    with pytest.raises(RunFolderError, match=r"config\.toml: task\.file: .* has changed: expected the SHA-256"):
        read_config(folder)
    values["run"]["overwrite"] = True
    RunFolder(check(values, "test")).close()
    read_config(folder)


@pytest.mark.parametrize("place", ["here", "runs"])
def test_a_run_is_read_and_resumed_with_its_file_where_it_moved(tmp_path, monkeypatch, place):
    path, folder = written(tmp_path, GOOD, "before.jsonl"), tmp_path / "runs" / "run"
    values = {"task": {"name": "examples", "file": path}, "run": {"folder": str(folder)}}
    RunFolder(check(values, "test")).close()
    for name in ("here", "elsewhere"):
        (tmp_path / name).mkdir()
    monkeypatch.chdir(tmp_path / "here")
    moved = tmp_path / place / "before.jsonl"
    Path(path).rename(moved)
    assert read_config(folder).task.file == str(moved)
    moved.write_text(GOOD + lines(ROWS[:1]))
    with pytest.raises(RunFolderError, match=r"task\.file: .* has changed: expected the SHA-256"):
        read_config(folder)
    moved.unlink()
    values["task"]["file"] = written(tmp_path / "elsewhere", GOOD, "renamed.jsonl")
    RunFolder(check(values, "test")).close()
    assert read_config(folder).task.file == values["task"]["file"]
