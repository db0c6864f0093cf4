"""A trained model out of its run folder: the latest and the best, of one seed and of several."""

import dataclasses
from contextlib import closing
from types import SimpleNamespace

import chex
import jax
import jax.numpy as jnp
import pytest

from jattn.training.checkpoints import Checkpoints
from jattn.training.digests import history_of
from jattn.training.reading import check
from jattn.training.restore import restore, resume
from jattn.training.run_folder import RunFolder, RunFolderError
from jattn.training.setup import make_setup
from jattn.training.step import TrainState, initial_state

SCORES = {1: 0.5, 2: 1.5, 3: 1.0}


def make_config(folder, replicates=1):
    return check(
        {
            "task": {"min_length": 3, "max_length": 3},
            "model": {"width": 4, "hidden": 4},
            "training": {"batch_size": 4, "replicates": replicates},
            "run": {"folder": str(folder)},
            "mesh": {"data": 2},
        },
        "test",
    )


def times(state, step):
    """A state that knows its step: every parameter is that many times as large."""
    params = jax.tree.map(lambda x: x * step, state.params)
    return dataclasses.replace(state, step=jnp.full_like(state.step, step), params=params)


@pytest.fixture(scope="module", params=[1, 2], ids=["one seed", "two seeds"])
def run(request, tmp_path_factory):
    """A run folder with checkpoints, the parts of its run on one device, and its first state."""
    config = make_config(tmp_path_factory.mktemp("restored") / "run", request.param)
    setup = make_setup(config.model_copy(update={"mesh": config.mesh.model_copy(update={"data": 1})}))
    state = initial_state(setup)
    with closing(RunFolder(config)) as folder:
        checkpoints = Checkpoints(folder.path / "checkpoints", keep_latest=3)
        for step, score in SCORES.items():
            checkpoints.save(times(state, step), score, folder.history())
        checkpoints.wait()
    return folder.path, setup, state


def files(folder):
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*")}


def test_the_latest_and_the_best_are_restored_and_nothing_is_written(run):
    folder, setup, state = run
    before = files(folder)
    for best, step in ((False, 3), (True, 2)):
        found, params = restore(folder, best=best)
        chex.assert_trees_all_equal(params, times(state, step).params)
        assert found.config == setup.config
    assert files(folder) == before


def test_the_parts_fit_the_parameters(run):
    setup, params = restore(str(run[0]))

    def logits_of(params):
        batch = setup.each(setup.training_batch, (0, None))(setup.rngs("test"), jnp.arange(2))
        return setup.each(setup.apply)(params, batch)

    seeds = () if setup.config.training.replicates == 1 else (2,)
    assert jax.eval_shape(logits_of, params).shape == (*seeds, 2, 3, len(setup.vocabulary()))


def test_a_run_under_way_is_not_disturbed(run):
    folder, setup, _ = run
    unfinished = folder / "checkpoints" / "4.orbax-checkpoint-tmp"
    unfinished.mkdir()
    with closing(RunFolder(make_config(folder, setup.config.training.replicates))):
        restore(folder)
    assert unfinished.exists()
    unfinished.rmdir()


def test_the_best_checkpoint_outlives_a_run_that_was_cut_off(tmp_path):
    state = TrainState(jnp.int32(1), {"a": jnp.ones(2)}, {}, {"loss": jnp.float32(0)}, jnp.int32(-1))
    for step, score in {**SCORES, 4: 0.1, 5: 0.2}.items():
        resumed = Checkpoints(tmp_path, keep_latest=1)
        resumed.save(times(state, step), score, history_of(b""))
        resumed.wait()
    assert (resumed.best_step(), resumed.latest_step()) == (2, 5)
    chex.assert_trees_all_equal(resumed.restore(state, 2), times(state, 2))
    assert {path.name for path in tmp_path.iterdir()} == {"2", "5", "digests_2.json", "digests_5.json"}


def test_what_is_no_run_or_has_no_checkpoint_is_told(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nowhere: expected the folder of a run, there is no config\.toml"):
        restore(tmp_path / "nowhere")
    RunFolder(make_config(tmp_path / "begun")).close()
    for folder in (tmp_path / "begun", tmp_path / "begun" / "checkpoints"):
        folder.mkdir(exist_ok=True)
        before = files(tmp_path)
        with pytest.raises(FileNotFoundError, match="begun: expected a checkpoint of the run, there is none yet"):
            restore(tmp_path / "begun")
        assert files(tmp_path) == before
    (tmp_path / "begun" / "config.toml").write_text("[task]\nold_key = 1\n")
    with pytest.raises(RunFolderError, match="expected the folder of a run"):
        restore(tmp_path / "begun")


@pytest.mark.parametrize(
    ("training", "accuracy", "kind", "said"),
    [
        ({"steps": 4}, 0.0, "test", "already done"),
        ({"steps": 6}, 1.0, "test", "trained on"),
        ({"steps": 6, "stop_when_solved": True}, 0.0, "test", "trained on"),
        ({"steps": 6, "stop_when_solved": True}, 1.0, "test", "already done"),
        ({"steps": 6, "stop_when_solved": True}, 1.0, "evaluation", "resumed"),
    ],
)
def test_what_is_said_of_a_run_that_goes_on_is_what_it_does(monkeypatch, training, accuracy, kind, said):
    found = [{"exact_accuracy": accuracy, "filter_score": None}]
    rows = [{"kind": one, "step": 4, "replicates": found} for one in ("evaluation", kind)]
    checkpoints = SimpleNamespace(
        latest_step=lambda: 4, delete_old=lambda: None, restore=lambda state, step: state, history=lambda step: None
    )
    folder = SimpleNamespace(rewind=lambda step, history, say: rows)
    monkeypatch.setattr("jattn.training.restore.initial_state", lambda setup: None)
    told = []
    resume(SimpleNamespace(config=check({"training": training}, "test")), folder, checkpoints, told.append)  # pyright: ignore[reportArgumentType]
    assert told == [f"{said} at step 4"]
