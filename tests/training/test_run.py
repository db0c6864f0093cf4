"""Whole runs: what they write, that they resume where they were cut off, and how they end."""

import contextlib
import io
import itertools
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from unittest import mock

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jattn
from jattn.command import main as command_line
from jattn.command.options import config_from_arguments
from jattn.study.seeing import see
from jattn.training.checkpoints import Checkpoints
from jattn.training.interrupts import Interrupts, interrupts
from jattn.training.journal import snapshot_steps
from jattn.training.loop import train
from jattn.training.reading import check, read_toml
from jattn.training.runs import configure_jax
from jattn.training.setup import make_setup
from jattn.training.step import initial_state, make_train_chunk
from tests.sampled import sampled

ROOT = Path(__file__).resolve().parents[2]
CONFIG = """
[task]
min_length = 2
max_length = 4
[model]
width = 8
hidden = 8
[training]
steps = 60
batch_size = 8
[evaluation]
every = 20
examples = 8
batch_size = 8
test_examples = 16
test_lengths = [3, 6]
[run]
log_every = 6
checkpoint_every = 10
snapshots = 6
"""


def command(folder, *options, config=CONFIG):
    """The arguments of the command for a small config."""
    path = folder.parent / f"{folder.name}.toml"
    path.write_text(config)
    return [str(path), "--run.folder", str(folder), *options]


def start(folder, *options, env=None):
    """Starts the command in a process of its own."""
    words = [sys.executable, "train.py", *command(folder, *options)]
    return subprocess.Popen(words, cwd=ROOT, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def finish(process):
    """Waits for the command; returns its status and all it printed."""
    out, err = process.communicate(timeout=240)
    return process.returncode, out + err


def run(folder, *options, config=CONFIG):
    """Does what the command does in this process, whose JAX is set up; returns the status and what was printed."""
    printed = io.StringIO()
    with (
        mock.patch("jattn.training.runs.configure_jax"),
        contextlib.redirect_stdout(printed),
        contextlib.redirect_stderr(printed),
    ):
        status = command_line.main(command(folder, *options, config=config))
    return status, printed.getvalue()


def wait_for(condition, process):
    while not condition():
        assert process.poll() is None, process.communicate()
        time.sleep(0.01)


def rows(folder):
    """The rows of metrics, without what the clock decides."""
    found = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in row.items() if not key.endswith("per_second")} for row in found]


def saved_state(folder):
    setup = make_setup(check(read_toml(folder / "config.toml"), "test"))
    checkpoints = Checkpoints(folder / "checkpoints", None)
    step = checkpoints.latest_step()
    assert step is not None
    return checkpoints.restore(initial_state(setup), step)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A run that nothing disturbed."""
    folder = tmp_path_factory.mktemp("runs") / "whole"
    status, printed = run(folder)
    assert status == 0, printed
    return folder, printed


def test_a_run_writes_its_config_metrics_checkpoints_snapshots_figures_and_page(whole):
    folder, printed = whole
    names = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    wanted = {"config.toml", "metrics.jsonl", "report.html", "filters/probes.json"}
    wanted |= {f"figures/{name}" for name in ("filters.png", "curves.png", "filters.gif")}
    wanted |= {f"filters/step_{step:08}.npz" for step in snapshot_steps(60, 6)}
    assert wanted <= names
    assert "report.html" in printed
    steps = {int(path.name) for path in (folder / "checkpoints").iterdir() if path.name.isdigit()}
    assert {50, 60} <= steps
    assert len(steps) <= 3


@pytest.mark.exhaustive
def test_replicates_have_rows_of_their_own_and_resume(tmp_path):
    config = CONFIG.replace("steps = 60", "steps = 20\nreplicates = 2\nseed = 4")
    status, printed = run(tmp_path / "whole", config=config)
    assert status == 0, printed
    found = rows(tmp_path / "whole")
    for row in (row for row in found if row["kind"] != "train"):
        each = row["replicates"]
        assert [one["seed"] for one in each] == [4, 5]
        for name in ("token_accuracy", "exact_accuracy", "filter_score"):
            np.testing.assert_allclose(row[name], np.mean([one[name] for one in each]))
    test = found[-1]
    scores = [one["by_length"]["3"]["filter_score"] for one in test["replicates"]]
    assert scores[0] != scores[1]
    np.testing.assert_allclose(test["by_length"]["3"]["filter_score"], np.mean(scores))
    assert "2 seeds" in (tmp_path / "whole" / "report.html").read_text()
    # Cut off after the first checkpoint, the same command goes on to the same end.
    shutil.copytree(tmp_path / "whole", tmp_path / "cut")
    shutil.rmtree(tmp_path / "cut" / "checkpoints" / "20")
    status, printed = run(tmp_path / "cut", config=config)
    assert status == 0, printed
    assert "resumed at step 10" in printed
    assert rows(tmp_path / "cut") == found


def test_the_rows_of_metrics_say_what_they_promise(whole):
    found = rows(whole[0])
    train = [row for row in found if row["kind"] == "train"]
    assert [row["step"] for row in train] == list(range(6, 61, 6))
    assert [row["step"] for row in found if row["kind"] == "evaluation"] == [0, 20, 40, 60]
    assert {"loss", "token_accuracy", "exact_accuracy", "gradient_norm", "learning_rate"} <= set(train[0])
    rates = [json.loads(line) for line in (whole[0] / "metrics.jsonl").read_text().splitlines() if '"train"' in line]
    assert all(row["flops_per_second"] > row["tokens_per_second"] > row["steps_per_second"] > 0 for row in rates)
    head = train[0]["filters"]["block_0/attention"]
    assert {name: len(values) for name, values in head.items()} == dict.fromkeys(
        ("entropy", "mass", "hit_rate", "lift"), 1
    )
    assert found[-1]["kind"] == "test"
    assert found[-1]["examples"] == 16
    assert set(found[-1]["by_length"]) == {"3", "6"}
    examples = next(row["examples"] for row in found if row["kind"] == "evaluation")
    assert len(examples) == 3
    assert all(example["target"] == " ".join(reversed(example["source"].split())) for example in examples)


def test_the_record_says_what_made_the_run(whole):
    found = json.loads((whole[0] / "provenance.json").read_text())
    assert found["command"].startswith("python train.py ")
    assert found["differences"]["training.batch_size"] == 8
    assert found["seeds"] == [0]
    (session,) = found["sessions"]
    assert session["from_step"] == 0
    assert session["seconds"] > 0
    assert session["packages"]["jax"] == jax.__version__
    assert session["devices"] >= 1
    assert re.fullmatch(r"[1-9]\d* .+", session["ran_on"])


def test_the_snapshots_hold_rows_of_weights(whole):
    with np.load(whole[0] / "filters" / "step_00000060.npz") as snapshot:
        weights, answers = snapshot["block_0/attention"], snapshot[":answers"]
    assert weights.shape == (4, 1, 4, 4)
    np.testing.assert_allclose(weights.sum(axis=-1), 1, atol=1e-5)
    probes = json.loads((whole[0] / "filters" / "probes.json").read_text())
    assert probes["task"].startswith("Says the source backwards")
    for example, said in zip(probes["examples"], answers, strict=True):
        assert [bool(text) for text in said] == example["scored"] + [False] * (len(said) - len(example["scored"]))


@pytest.mark.exhaustive
@pytest.mark.parametrize("choices", ["score=bilinear", "score=additive additive_units=3", "normalizer=learned_sink"])
def test_what_scores_and_normalizers_learn_is_trained_saved_restored_and_seen(choices, tmp_path):
    options = [f"--model.{choice}" for choice in choices.split()]
    status, printed = run(tmp_path / "run", *options, config=CONFIG.replace("steps = 60", "steps = 20"))
    assert status == 0, printed
    restored = jattn.restore(tmp_path / "run")
    first, last = initial_state(restored.setup).params, restored.params
    changed = jax.tree.map(lambda before, after: bool(jnp.any(before != after)), first, last)["block_0"]["attention"]
    learned = {name for name, array in last["block_0"]["attention"].items() if not isinstance(array, dict)}
    assert learned
    assert all(changed[name] for name in learned)
    inputs = jax.tree.map(lambda x: x[0], restored.examples(1).inputs)
    _, filters = jattn.capture_filters(restored.setup.model, {"params": last}, **inputs)
    page = see(filters, ["a", "b", "c", "d"], tmp_path / "see.html")
    assert page.exists()
    assert (tmp_path / "run" / "report.html").exists()


@pytest.mark.exhaustive
def test_a_run_of_sequences_longer_than_the_screen_keeps_maps_and_draws_them(tmp_path):
    folder = tmp_path / "long"
    options = ("--task.max-length", "20", "--run.screen", "16", "--training.steps", "2", "--run.log-every", "1")
    status, printed = run(folder, *options)
    assert status == 0, printed
    name = "block_0/attention"
    for step in (0, 1, 2):
        with np.load(folder / "filters" / f"step_{step:08}.npz") as snapshot:
            shapes = {field: array.shape for field, array in snapshot.items()}
            total = snapshot[f"{name}:map"].astype(float).sum(-1)
        assert shapes.pop(f"{name}:map") == (4, 1, 16, 16)
        assert shapes.pop(f"{name}:top_weights") == shapes.pop(f"{name}:top_keys") == (4, 1, 20, 8)
        assert shapes == {f"{name}:{measure}": (4, 1) for measure in ("mass", "hit_rate", "entropy")}
        np.testing.assert_allclose(total[total > 0], 1, rtol=2e-3)
    assert "pooled: each cell is" in (folder / "report.html").read_text()


def test_the_same_command_again_does_nothing_but_draw(whole):
    folder, _ = whole
    before = (folder / "metrics.jsonl").read_text()
    page = (folder / "report.html").stat().st_mtime_ns
    status, printed = run(folder)
    assert status == 0, printed
    assert "already done at step 60" in printed
    assert (folder / "metrics.jsonl").read_text() == before
    assert (folder / "report.html").stat().st_mtime_ns > page


def test_a_killed_run_resumes_to_the_same_bits_and_rows(whole, tmp_path):
    folder = tmp_path / "killed"
    process = start(folder)
    wait_for(lambda: (folder / "checkpoints" / "20").exists(), process)
    process.kill()
    assert finish(process)[0] == -signal.SIGKILL
    status, printed = run(folder)
    assert status == 0, printed
    assert "resumed at step" in printed
    chex.assert_trees_all_equal(saved_state(folder), saved_state(whole[0]))
    assert rows(folder) == rows(whole[0])


@pytest.mark.exhaustive
@sampled(("number", "expected"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)], keep=1)
def test_a_signal_saves_stops_with_its_status_and_the_run_resumes_to_the_same_rows(whole, tmp_path, number, expected):
    folder = tmp_path / "stopped"
    process = start(folder)
    wait_for(
        lambda: (folder / "metrics.jsonl").exists() and '"step": 6,' in (folder / "metrics.jsonl").read_text(), process
    )
    process.send_signal(number)
    status, printed = finish(process)
    assert status == expected, printed
    assert any(path.name.isdigit() for path in (folder / "checkpoints").iterdir())
    assert not (folder / "report.html").exists()
    status, printed = run(folder)
    assert status == 0, printed
    chex.assert_trees_all_equal(saved_state(folder), saved_state(whole[0]))
    assert rows(folder) == rows(whole[0])


@pytest.mark.exhaustive
def test_a_signal_that_comes_after_the_question_is_saved_in_the_next_turn(tmp_path, monkeypatch):
    answers = itertools.chain([False, False], itertools.repeat(True))
    monkeypatch.setattr(Interrupts, "received", property(lambda signals: next(answers)))
    status, printed = run(tmp_path / "run")
    assert status == 0, printed
    step = rows(tmp_path / "run")[-1]["step"]
    assert 0 < step < 60
    assert (tmp_path / "run" / "checkpoints" / str(step)).exists()


def test_a_loss_that_is_not_finite_ends_the_run_and_keeps_the_last_good_checkpoint(tmp_path):
    folder = tmp_path / "broken"
    status, printed = run(folder, "--training.learning-rate", "1e38", "--training.clip-norm", "1e38", "--run.no-cache")
    assert status == 1, printed
    assert "the loss is not finite at step" in printed
    assert "Traceback" not in printed


@pytest.mark.exhaustive
def test_another_config_in_the_folder_is_refused_and_overwrite_starts_anew(whole, tmp_path):
    folder, _ = whole
    status, printed = run(folder, "--model.width", "16", "--training.steps", "70")
    assert status == 2
    assert "model.width: 16 | 8" in printed
    assert "training.steps: 70 | 60" in printed
    other = tmp_path / "other"
    assert run(other, "--training.steps", "1")[0] == 0
    status, printed = run(other, "--training.steps", "2", "--run.overwrite")
    assert status == 0, printed
    assert rows(other)[-1]["step"] == 2


@pytest.mark.exhaustive
def test_a_run_ends_early_when_solved_if_the_config_says_so(tmp_path):
    easy = ("--training.stop-when-solved", "--evaluation.solved-accuracy", "0", "--evaluation.solved-filter-score", "0")
    status, printed = run(tmp_path / "easy", *easy)
    assert status == 0, printed
    found = rows(tmp_path / "easy")
    assert [row["step"] for row in found if row["kind"] == "evaluation"] == [0]
    assert found[-1] | {"step": 0} == found[-1]


@pytest.mark.exhaustive
def test_compiled_programs_are_kept_in_the_users_own_cache_folder(tmp_path):
    env = {key: value for key, value in os.environ.items() if key != "JAX_COMPILATION_CACHE_DIR"}
    status, printed = finish(start(tmp_path / "run", env=env | {"XDG_CACHE_HOME": str(tmp_path / "cache")}))
    assert status == 0, printed
    assert any((tmp_path / "cache" / "jattn" / "xla").iterdir())


@pytest.mark.parametrize("kept", [True, False])
def test_compiled_programs_are_kept_unless_told_otherwise(kept, monkeypatch, tmp_path):
    settings = {}
    monkeypatch.setattr(jax.config, "update", settings.__setitem__)
    monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    configure_jax([check({"run": {"cache": kept}}, "test")])
    assert settings.get("jax_compilation_cache_dir") == (str(tmp_path / "jattn" / "xla") if kept else None)


CONFIGS = sorted(path.stem for path in (ROOT / "configs").glob("*.toml"))


@sampled("name", CONFIGS, keep=1)
def test_every_config_makes_a_setup_whose_step_can_be_traced(name):
    setup = make_setup(config_from_arguments([str(ROOT / "configs" / f"{name}.toml"), "--mesh.data=1"]))
    state = jax.eval_shape(lambda: initial_state(setup))
    assert jax.eval_shape(make_train_chunk(setup), state, jnp.int32(1)) == state


@pytest.mark.exhaustive
@sampled("name", CONFIGS, keep=1)
def test_every_config_runs(name, tmp_path):
    small = {
        "training.steps": 1,
        "training.batch-size": 4,
        "evaluation.examples": 4,
        "evaluation.batch-size": 4,
        "evaluation.test-examples": 4,
        "run.snapshots": 2,
        "mesh.data": 1,
        "run.folder": tmp_path / "run",
    }
    config = config_from_arguments(
        [str(ROOT / "configs" / f"{name}.toml"), *(f"--{key}={value}" for key, value in small.items())]
    )
    with interrupts() as signals:
        assert train(config, signals=signals)["examples"] == 4
    assert (tmp_path / "run" / "report.html").exists()


def test_every_config_says_its_command_its_time_and_its_result():
    for path in (ROOT / "configs").glob("*.toml"):
        header = path.read_text().split("\n\n[")[0]
        assert f"python train.py configs/{path.name}" in header
        assert re.search(r"Two CPU cores, whole process: \d+ s", header)
        assert "Expect: " in header
