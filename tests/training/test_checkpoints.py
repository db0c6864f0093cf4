"""Checkpoints: a damaged one is never taken for whole, none is deleted too early, and paths may hold anything."""

import asyncio
import contextlib
import dataclasses
import errno
import gc
import json
import random
import re
import shutil
import warnings

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jattn.training.checkpoints import CheckpointError, Checkpoints
from jattn.training.digests import Damaged, check_files, history_of, read_digests
from jattn.training.step import TrainState
from tests.sampled import sampled

STATE = TrainState(
    jnp.int32(1),
    {"a": jnp.arange(40.0), "b": {"c": jnp.ones((3, 4))}},
    {"mu": jnp.full(40, 0.25)},
    {"loss": jnp.float32(0.5)},
    jnp.int32(-1),
)
HISTORY = history_of(b"rows")


def at(step):
    """A state that knows its step."""
    params = jax.tree.map(lambda x: x * step, STATE.params)
    return dataclasses.replace(STATE, step=jnp.int32(step), params=params)


def save(folder, scores, keep_latest=9):
    checkpoints = Checkpoints(folder, keep_latest)
    for step, score in scores.items():
        checkpoints.save(at(step), score, HISTORY)
    checkpoints.wait()
    return checkpoints


@pytest.fixture(scope="module")
def three(tmp_path_factory):
    """A folder with three whole checkpoints."""
    folder = tmp_path_factory.mktemp("checkpoints")
    save(folder, {10: 0.5, 20: 0.7, 30: 0.6})
    return folder


@pytest.fixture
def copy(three, tmp_path):
    return shutil.copytree(three, tmp_path / "checkpoints")


def is_whole(folder, step):
    try:
        check_files(folder / str(step), read_digests(folder / f"digests_{step}.json", step))
    except Damaged:
        return False
    return True


def files_of(folder, step):
    return [folder / f"digests_{step}.json", *(path for path in (folder / str(step)).rglob("*") if path.is_file())]


def flip(data, rng):
    place = rng.randrange(len(data))
    return data[:place] + bytes([data[place] ^ (1 << rng.randrange(8))]) + data[place + 1 :]


def cut(data, rng):
    return data[: rng.randrange(len(data))]


@sampled("changes", [100, 2000], keep=[100])
def test_no_change_of_a_file_goes_unseen(copy, changes):
    rng = random.Random(0)
    files = files_of(copy, 30)
    assert len(files) > 8
    for number in range(changes):
        path = files[number % len(files)]
        whole = path.read_bytes()
        if not whole:
            path.write_bytes(b"x")
        else:
            path.write_bytes((flip, flip, cut)[number % 3](whole, rng))
        assert not is_whole(copy, 30), path
        path.write_bytes(whole)
    assert is_whole(copy, 30)


def test_swapped_and_missing_files_and_renamed_steps_are_seen(copy):
    for path in files_of(copy, 30):
        kept = path.read_bytes()
        path.unlink()
        assert not is_whole(copy, 30), path
        path.write_bytes(kept)
    names = sorted(path.relative_to(copy / "30") for path in files_of(copy, 30)[1:])
    for name in names:
        mine, other = copy / "30" / name, copy / "20" / name
        if other.exists() and other.read_bytes() != mine.read_bytes():
            kept = mine.read_bytes()
            mine.write_bytes(other.read_bytes())
            assert not is_whole(copy, 30), name
            mine.write_bytes(kept)
    (copy / "20").rename(copy / "25")
    (copy / "digests_20.json").rename(copy / "digests_25.json")
    assert not is_whole(copy, 25)
    (copy / "30" / "stray").write_text("")
    assert not is_whole(copy, 30)


def test_the_newest_whole_one_is_used_and_what_is_damaged_is_told_once(copy):
    array = max(files_of(copy, 30)[1:], key=lambda path: path.stat().st_size)
    array.write_bytes(flip(array.read_bytes(), random.Random(0)))
    said = []
    checkpoints = Checkpoints(copy, None, said.append)
    assert checkpoints.latest_step() == checkpoints.best_step() == 20
    chex.assert_trees_all_equal(checkpoints.restore(STATE, 20), at(20))
    assert checkpoints.latest_step() == 20
    assert len(said) == 1
    assert said[0].startswith("the checkpoint of step 30 is not whole and not used: 30/")
    assert said[0].endswith(f"{array.name} has changed")
    for step in (10, 20):
        (copy / f"digests_{step}.json").write_text("")
    none = Checkpoints(copy, None, said.append)
    assert none.latest_step() is None
    assert none.best_step() is None
    assert none.any


def test_one_that_a_kill_left_without_digests_was_never_whole(tmp_path):
    checkpoints = Checkpoints(tmp_path, 2)
    checkpoints.save(at(10), 0.5, HISTORY)
    checkpoints._manager.wait_until_finished()
    said = []
    again = Checkpoints(tmp_path, 2, said.append)
    assert (tmp_path / "10").is_dir()
    assert again.latest_step() is None
    assert not again.any
    assert said == ["the checkpoint of step 10 is not whole and not used: digests_10.json is missing"]
    again.save(at(10), 0.5, HISTORY)
    again.wait()
    assert again.latest_step() == 10
    assert again.any


def test_what_a_kill_left_half_done_is_deleted_before_anything_else_is(tmp_path):
    left = tmp_path / "10.orbax-checkpoint-tmp" / "default"
    left.mkdir(parents=True)
    Checkpoints(tmp_path, None)
    assert left.is_dir()
    Checkpoints(tmp_path, 2)
    assert not left.parent.exists()


def test_digests_without_a_checkpoint_are_told(copy):
    shutil.rmtree(copy / "30")
    said = []
    assert Checkpoints(copy, None, said.append).latest_step() == 20
    assert said[0].startswith("the checkpoint of step 30 is not whole and not used: 30/")
    assert said[0].endswith(" is missing")


def test_several_without_digests_were_whole_once(copy):
    for step in (10, 20, 30):
        (copy / f"digests_{step}.json").unlink()
    assert Checkpoints(copy, None, lambda text: None).any


def test_what_a_kill_left_is_deleted_once_there_is_one_that_is_whole(copy):
    (copy / "digests_10.json").unlink()
    (copy / "digests_20.json").write_text("{}")
    checkpoints = Checkpoints(copy, 1, lambda text: None)
    assert checkpoints.latest_step() == 30
    checkpoints.delete_old()
    assert {path.name for path in copy.iterdir()} == {"20", "30", "digests_20.json", "digests_30.json"}


def test_an_error_while_one_is_deleted_names_its_folder(copy, monkeypatch):
    def failing(folder):
        raise OSError(errno.EROFS, "Read-only file system", "array_metadatas")  # the name that Python 3.11 gives

    monkeypatch.setattr(shutil, "rmtree", failing)
    with pytest.raises(OSError, match=re.escape(f"Read-only file system: '{copy}/10.")):
        Checkpoints(copy, 2).delete_old()


def test_a_damaged_one_gives_way_to_a_new_one_and_is_kept_aside(copy):
    (copy / "digests_30.json").write_text("{}")
    checkpoints = Checkpoints(copy, 1, lambda text: None)
    checkpoints.save(at(30), 0.9, HISTORY)
    checkpoints.wait()
    assert checkpoints.latest_step() == 30
    chex.assert_trees_all_equal(checkpoints.restore(STATE, 30), at(30))
    assert [path.name for path in copy.glob("damaged_30_*/30")] == ["30"]
    again = Checkpoints(copy, 1, lambda text: None)
    chex.assert_trees_all_equal(again.restore(STATE, 30), at(30))


def test_the_best_has_the_largest_score_that_is_a_number(tmp_path):
    scores = {1: 0.5, 2: float("nan"), 3: 0.2}
    assert save(tmp_path, scores, keep_latest=1).best_step() == 1
    read = Checkpoints(tmp_path, None)
    assert (read.best_step(), read.latest_step()) == (1, 3)
    assert not (tmp_path / "2").exists()
    assert json.loads((tmp_path / "digests_1.json").read_text().splitlines()[0])["score"] == 0.5


def test_nothing_older_is_deleted_before_a_newer_one_is_whole(copy, monkeypatch):
    checkpoints = Checkpoints(copy, 1)

    def fail(*arguments):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr("jattn.training.checkpoints.write_digests", fail)
        checkpoints.save(at(40), 0.9, HISTORY)
        with pytest.raises(CheckpointError, match=r"step 40 could not be .* No space left .* of step 30 is kept$"):
            checkpoints.wait()
    assert all(is_whole(copy, step) for step in (10, 20, 30))
    assert Checkpoints(copy, None, lambda text: None).latest_step() == 30


def test_the_history_comes_back(three):
    assert Checkpoints(three, None).history(20) == HISTORY


@pytest.mark.parametrize("name", ["a[1]", "a\\b", "*", "gs:", "[!x]", "a?b", "ü b", "a\nb"])
def test_any_path_saves_and_restores(name, tmp_path):
    folder = tmp_path / name / "checkpoints"
    save(folder, {1: 0.5})
    chex.assert_trees_all_equal(Checkpoints(folder, None).restore(STATE, 1), at(1))
    assert not list(tmp_path.rglob("*orbax-checkpoint-tmp*"))


def test_reading_alone_writes_nothing(copy):
    before = {path: path.stat().st_mtime_ns for path in copy.rglob("*")}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        Checkpoints(copy, None).restore(STATE, 30)
    assert {path: path.stat().st_mtime_ns for path in copy.rglob("*")} == before
    assert np.array_equal(Checkpoints(copy, None).restore(STATE, 10).params["a"], 10 * np.arange(40))


def test_what_the_store_of_a_failed_save_prints_late_is_dropped_and_what_others_print_is_not(tmp_path, caplog):
    save(tmp_path, {10: 0.5})
    with contextlib.closing(asyncio.new_event_loop()) as loop:
        for text in (f"cannot write {tmp_path}/20.orbax-checkpoint-tmp/manifest.ocdbt", "of another task"):
            loop.create_future().set_exception(ValueError(text))
            gc.collect()
    assert [str(record.exc_info[1]) for record in caplog.records] == ["of another task"]
