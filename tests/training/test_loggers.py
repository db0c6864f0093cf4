"""What is handed on to loggers: each row once, also after a resume; folds in rows; a trace of some steps."""

import json
import re
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from jattn.report.record import Example, Layer, Probes, save_probes
from jattn.report.snapshots import Pooled, save_snapshot, snapshot_path
from jattn.training import train
from jattn.training.loggers import STATE, Loggers, check_loggers, numbers_of, picture_of
from jattn.training.own.record import record_code
from jattn.training.profiling import Profiler
from jattn.training.reading import ConfigError, check, differences, places_beside
from jattn.training.run_folder import RunFolder, RunFolderError, read_config, read_metrics
from jattn.training.runs import alone
from jattn.training.tables import LOG_FOLDS, LOGGERS

ROOT = Path(__file__).resolve().parents[2]
ROWS = [
    {"kind": kind, "step": step, "loss": 10.0 * step + len(kind), "examples": [{"source": "a"}]}
    for step in (0, 5, 10)
    for kind in ("train", "evaluation")
]


def config_of(**run):
    return check({"run": run}, "test")


class Kept:
    """A logger that keeps what it gets."""

    written: list = []  # noqa: RUF012

    def __init__(self, folder, config, state):
        state.setdefault("id", "mine")

    def log(self, step, numbers, pictures):
        self.written.append((step, numbers, list(pictures)))

    def close(self):
        self.written.append("closed")


@pytest.fixture
def kept(monkeypatch):
    monkeypatch.setattr(type(LOGGERS["wandb"]), "load", lambda entry: Kept)
    monkeypatch.setattr(Kept, "written", [])
    return Kept.written


def test_each_row_is_handed_on_once_however_often_a_run_is_cut_off(tmp_path, kept):
    config, filters = config_of(logger=["wandb"]), {"attention": np.ones((1, 2, 3, 3), np.float32)}
    loggers = Loggers(config, tmp_path, [])
    for row in ROWS[:5]:
        loggers.row(row)
    for step in (0, 5):
        loggers.filters(step, filters)
    # The run is killed here, and goes on from a checkpoint at step 5.
    loggers = Loggers(config, tmp_path, ROWS[:3])
    loggers.filters(5, filters)
    for row in ROWS[3:]:
        loggers.row(row)
    loggers.filters(10, filters)
    loggers.close()
    assert [numbers for _, numbers, _ in kept[:-1] if numbers] == [dict(numbers_of(row)) for row in ROWS]
    assert [(step, names) for step, _, names in kept[:-1] if names] == [(n, ["filters/attention"]) for n in (0, 5, 10)]
    assert kept[-1] == "closed"
    assert json.loads((tmp_path / STATE).read_text()) == {
        "wandb": {"step": 10, "kind": "evaluation", "pictures": 10, "id": "mine"}
    }


def test_rows_that_come_back_at_other_steps_are_handed_on_from_the_last_step_on(tmp_path, kept):
    def row(kind, step):
        return {"kind": kind, "step": step, "loss": 1.0}

    done = [row("train", 7), row("train", 14), row("train", 20), row("evaluation", 20), row("test", 20)]
    Loggers(config_of(logger=["wandb"]), tmp_path, done)
    # The checkpoint at 20 is damaged: the run goes on from 10, with more steps.
    loggers = Loggers(config_of(logger=["wandb"]), tmp_path, done[:1])
    for step in (14, 21, 28):
        loggers.row(row("train", step))
    assert [step for step, _, _ in kept] == [7, 14, 20, 20, 20, 21, 28]


def test_a_logger_that_comes_later_gets_what_there_is(tmp_path, kept):
    Loggers(config_of(), tmp_path, ROWS).close()
    assert (kept, list(tmp_path.iterdir())) == ([], [])
    save_probes(tmp_path, Probes([Layer("attention", 2)], [Example({"inputs": "abc"}, "abc", [True] * 3, [[]] * 3)]))
    for step in (0, 7, 10):
        save_snapshot(tmp_path, step, {"attention": np.ones((1, 2, 3, 3))})
    snapshot_path(tmp_path, 10).write_bytes(b"damaged")
    Loggers(config_of(logger=["wandb"]), tmp_path, ROWS)
    assert [step for step, _, _ in kept] == [0, 0, 0, 5, 5, 7, 10, 10]
    assert [step for step, _, names in kept if names == ["filters/attention"]] == [0, 7]
    assert differences(config_of(logger=["wandb"]), config_of()) == []


@pytest.mark.parametrize(
    "text", ["{", "[]", '{"tensorboard": 3}', '{"wandb": {"step": "5", "kind": "train", "pictures": 0}}']
)
def test_a_file_of_what_loggers_have_that_is_damaged_is_refused(tmp_path, kept, text):
    (tmp_path / STATE).write_text(text)
    with pytest.raises(RunFolderError, match="expected JSON of what each logger had last, got another text"):
        Loggers(config_of(logger=["wandb"]), tmp_path, ROWS)


@pytest.mark.parametrize(
    ("modes", "steps"), [(("offline", "offline"), [0, 5, 0, 5, 10]), (("online", "online"), [0, 5, 10])]
)
def test_each_process_of_wandb_is_given_all_rows_unless_it_is_online(tmp_path, monkeypatch, modes, steps):
    logged = []
    run = SimpleNamespace(log=lambda numbers, step: logged.append(step), finish=lambda: None)
    fake = SimpleNamespace(init=lambda **options: run, Settings=dict, Image=list)
    monkeypatch.setitem(sys.modules, "wandb", fake)
    for mode, rows in zip(modes, (ROWS[0:3:2], ROWS[0::2]), strict=True):
        monkeypatch.setenv("WANDB_MODE", mode)
        Loggers(config_of(logger=["wandb"]), tmp_path, rows).close()
    assert logged == steps


def test_numbers_are_named_by_the_keys_that_lead_to_them():
    row = {
        "kind": "test",
        "step": 3,
        "loss": float("nan"),
        "filter_score": None,
        "by_length": {"16": {"exact_accuracy": 0.5}},
        "replicates": [{"seed": 4, "exact_accuracy": 1.0}, {"seed": 5, "exact_accuracy": 0.0}],
    }
    assert dict(numbers_of(row)) == {
        "test/by_length/16/exact_accuracy": 0.5,
        "test/seed_4/exact_accuracy": 1.0,
        "test/seed_5/exact_accuracy": 0.0,
    }


def test_a_picture_shows_the_heads_of_the_first_example_from_left_to_right():
    filters = np.zeros((2, 2, 2, 40), np.float32)
    filters[0, 1, 1, 39] = 1
    picture = picture_of(filters)
    assert picture.shape == (8, 324, 3)
    dark = np.argwhere(picture.sum(-1) < picture.sum(-1).max())
    assert (dark.min(0).tolist(), dark.max(0).tolist()) == ([4, 320], [7, 323])
    nothing = np.zeros((2, 2))
    assert picture_of(Pooled(filters, nothing, nothing, nothing, nothing, nothing)).shape == picture.shape


@pytest.mark.parametrize("folder", [False, True])
def test_a_library_that_is_not_there_is_one_line_with_the_command_that_helps(monkeypatch, tmp_path, folder):
    monkeypatch.delitem(sys.modules, "wandb", raising=False)
    # A folder of that name in the working folder is no library.
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    (tmp_path / ("wandb" if folder else "other")).mkdir()
    config = config_of(logger=["wandb"], folder=str(tmp_path / "run"))
    with pytest.raises(ConfigError) as refused:
        train(config)
    assert str(refused.value) == "run.logger: 'wandb' needs wandb, which is not there; pip install 'jattn[wandb]'"
    assert not (tmp_path / "run").exists()
    check_loggers(config_of())


@pytest.mark.parametrize(
    ("run", "text"),
    [
        ({"logger": ["tensorbord"]}, "run.logger.0: expected 'tensorboard' or 'wandb', got 'tensorbord'; did you mean"),
        ({"logger": ["wandb", "wandb"]}, "run.logger: expected different names, got wandb, wandb"),
        ({"log_folds": ["top_k"]}, "run.log_folds.0: expected "),
        ({"profile": [5]}, "run.profile: expected two steps from 0 to training.steps 500, the first before the last"),
        (
            {"profile": [9, 9]},
            "run.profile: expected two steps from 0 to training.steps 500, the first before the last",
        ),
        ({"profile": [9, 501]}, "run.profile: expected two steps"),
    ],
)
def test_what_cannot_be_watched_is_refused(run, text):
    with pytest.raises(ConfigError, match=r"^test: ") as refused:
        config_of(**run)
    assert text in str(refused.value)


SMALL = {
    "task": {"min_length": 3, "max_length": 3},
    "model": {"width": 8, "num_heads": 2},
    "training": {"steps": 6, "batch_size": 4},
    "evaluation": {"examples": 4, "test_examples": 4, "batch_size": 4, "every": 3},
}


def read_events(folder):
    """Reads event files as TensorBoard does: records of a length, its check, what it is of, and its check."""
    from tensorboardX.proto.event_pb2 import Event

    found = []
    for path in sorted(folder.glob("events*")):
        data, start = path.read_bytes(), 0
        while start < len(data):
            size = int.from_bytes(data[start : start + 8], "little")
            event = Event.FromString(data[start + 12 : start + 12 + size])
            found += [(event.step, value.tag, value) for value in event.summary.value]
            start += 16 + size
    return found


@pytest.mark.exhaustive
def test_a_run_is_in_tensorboard_with_its_folds_and_its_profile(tmp_path):
    pytest.importorskip("tensorboardX")
    folder = tmp_path / "run"
    watched = {"logger": ["tensorboard"], "log_folds": [*LOG_FOLDS], "profile": [2, 5], "log_every": 2, "snapshots": 2}
    config = check(SMALL | {"run": {"folder": str(folder)} | watched, "mesh": {"data": 1}}, "test")
    train(config)
    rows = read_metrics(folder)
    expected = [(row["step"], name, number) for row in rows for name, number in numbers_of(row)]
    events = read_events(folder / "tensorboard")
    numbers = [(step, tag, value.simple_value) for step, tag, value in events if value.HasField("simple_value")]
    assert [event[:2] for event in numbers] == [event[:2] for event in expected]
    np.testing.assert_allclose([event[2] for event in numbers], [event[2] for event in expected], rtol=1e-6)
    assert [(step, tag) for step, tag, value in events if value.HasField("image")] == [
        (step, "filters/block_0/attention") for step in (0, 1, 6)
    ]
    evaluation = next(row for row in rows if row["kind"] == "evaluation")["filters"]["block_0/attention"]
    assert {name for name, heads in evaluation.items() if heads is not None and len(heads) == 2} >= {*LOG_FOLDS}
    assert list((folder / "profile").rglob("*.xplane.pb"))
    train(config)
    assert read_events(folder / "tensorboard") == events


@pytest.mark.exhaustive
def test_a_run_of_wandb_is_offline_and_goes_on_under_one_name(tmp_path, monkeypatch):
    pytest.importorskip("wandb")
    monkeypatch.delenv("WANDB_MODE", raising=False)
    for rows in (ROWS[:2], ROWS):
        loggers = Loggers(config_of(logger=["wandb"]), tmp_path, rows)
        loggers.filters(rows[-1]["step"], {"attention": np.ones((1, 2, 3, 3), np.float32)})
        loggers.close()
    name = json.loads((tmp_path / STATE).read_text())["wandb"]["id"]
    files = [path.name for path in (tmp_path / "wandb").rglob("*.wandb")]
    assert len(files) >= 1
    assert set(files) == {f"run-{name}.wandb"}


@pytest.mark.parametrize(
    ("steps", "traced", "line"),
    [
        ([0, 100, 105, 110], ["start", "stop"], False),
        ([105, 110, 115], ["start", "stop"], False),
        ([110, 115], [], True),
        ([99], [], False),
    ],
)
def test_a_trace_is_of_what_is_left_of_its_steps(tmp_path, monkeypatch, steps, traced, line):
    called, said = [], []
    monkeypatch.setattr("jax.profiler.start_trace", lambda path: called.append("start"))
    monkeypatch.setattr("jax.profiler.stop_trace", lambda: called.append("stop"))
    profiler = Profiler(config_of(profile=[100, 110]), tmp_path, said.append)
    for step in steps:
        profiler.reached(step)
    profiler.close()
    assert called == traced
    assert said == ["run.profile: nothing is traced, as steps 100 to 110 were taken before"] * line


def test_another_process_traces_nothing_and_counts_the_same_steps(tmp_path, monkeypatch):
    monkeypatch.setattr("jax.process_index", lambda: 1)
    config = alone(config_of(logger=["wandb"], profile=[100, 110]))
    assert (config.run.logger, config.run.profile) == ((), (100, 110))
    profiler = Profiler(config, tmp_path, pytest.fail)
    for step in (100, 110):
        profiler.reached(step)
    assert not (tmp_path / "profile").exists()


OWN = """
class Losses:
    def __init__(self, folder, config, state):
        self.path, state["runs"] = folder / "losses.txt", state.get("runs", 0) + 1
        # jattn keeps something of this name besides.
        state["step"] = "mine"

    def log(self, step, numbers, pictures):
        with open(self.path, "a") as file:
            file.writelines(f"{step} {name}\\n" for name in (*numbers, *pictures))

    def close(self):
        1 / 0


class Failing(Losses):
    def log(self, step, numbers, pictures):
        raise OSError("full")


class Unkept(Losses):
    def __init__(self, folder, config, state):
        state["seen"] = {1}

    def log(self, step, numbers, pictures):
        pass

    def close(self):
        pass


class Last(Losses):
    def close(self):
        self.state["closed"] = True

    def __init__(self, folder, config, state):
        super().__init__(folder, config, state)
        self.state = state


class Mute:
    def __init__(self, folder, config, state):
        pass

    def close(self):
        pass


class Alone:
    def log(self, step, numbers, pictures):
        pass

    def close(self):
        pass


made = 3
"""


def own_config(folder, *names, also=()):
    (folder / "zz_logger.py").write_text(OWN)
    places = places_beside(folder / "exp.toml")
    return check({"run": {"logger": [*also, *(f"zz_logger.py:{name}" for name in names)]}}, "test", places=places)


def test_a_logger_of_ones_own_gets_each_row_once(tmp_path):
    config, run = own_config(tmp_path, "Losses"), tmp_path / "run"
    run.mkdir()
    for rows in ([], ROWS[:3]):
        loggers = Loggers(config, run, rows)
        for row in ROWS[len(rows) : 5]:
            loggers.row(row)
    loggers.filters(5, {"attention": np.ones((1, 2, 3, 3), np.float32)})
    with pytest.raises(ConfigError, match=r"^run\.logger: zz_logger\.py:Losses: line 13 raises ZeroDivisionError: "):
        loggers.close()
    lines = (run / "losses.txt").read_text().splitlines()
    assert lines == [*(f"{row['step']} {row['kind']}/loss" for row in ROWS[:5]), "5 filters/attention"]
    assert json.loads((run / STATE).read_text())["zz_logger.py:Losses"]["own"]["runs"] == 2
    check_loggers(config)
    assert [code.name for code in config.code] == ["zz_logger.py:Losses"]


def test_a_run_goes_on_with_another_logger_and_is_read_without_its_code(tmp_path):
    run, endless = {"folder": str(tmp_path / "run")}, {"training": {"schedule": "constant", "warmup_steps": 0}}
    (tmp_path / "zz_logger.py").write_text(OWN)

    def hold(steps, **run_):
        values = {"training": endless["training"] | {"steps": steps}, "run": run | run_}
        config = check(values, "test", places=places_beside(tmp_path / "exp.toml"))
        RunFolder(config).close()
        return config

    for steps, logger in ((5, []), (6, ["zz_logger.py:Losses"]), (7, ["zz_logger.py:Losses"])):
        config = hold(steps, logger=logger)
    assert not (tmp_path / "run" / "code.json").exists()
    # So did runs once that began with a logger.
    record_code(tmp_path / "run", config.code)
    (tmp_path / "zz_logger.py").unlink()
    assert read_config(tmp_path / "run").training.steps == 7
    hold(8)


def test_a_row_is_handed_on_once_where_another_logger_fails(tmp_path):
    for _ in range(2):
        with pytest.raises(ConfigError, match=r"^run\.logger: zz_logger\.py:Failing: line 18 raises OSError: full"):
            Loggers(own_config(tmp_path, "Last", "Failing"), tmp_path, ROWS[:1])
    assert (tmp_path / "losses.txt").read_text() == "0 train/loss\n"
    states = json.loads((tmp_path / STATE).read_text())
    assert states["zz_logger.py:Failing"]["step"] == -1


def test_all_loggers_are_closed_and_what_they_keep_last_is_saved(tmp_path, kept):
    loggers = Loggers(own_config(tmp_path, "Last", "Losses", also=["wandb"]), tmp_path, [])
    with pytest.raises(ConfigError, match="Losses: line 13 raises ZeroDivisionError"):
        loggers.close()
    assert kept == ["closed"]
    assert json.loads((tmp_path / STATE).read_text())["zz_logger.py:Last"]["own"]["closed"] is True


def test_the_logger_of_the_documentation_goes_on_with_its_run(tmp_path, monkeypatch):
    rows, names = [], []
    run = SimpleNamespace(log=lambda numbers, step: rows.append((step, *numbers)), finish=lambda: None)
    fake = SimpleNamespace(init=lambda **options: names.append(options["name"]) or run, Image=np.shape)
    monkeypatch.setitem(sys.modules, "trackio", fake)
    text = (ROOT / "docs" / "training.md").read_text(encoding="utf-8")
    (tmp_path / "zz_shown.py").write_text(re.search(r"```python\n(import uuid\n.*?)```", text, re.DOTALL)[1])
    config = check({"run": {"logger": ["zz_shown.py:Trackio"]}}, "test", places=places_beside(tmp_path / "exp.toml"))
    for known in (ROWS[:3], ROWS):
        loggers = Loggers(config, tmp_path, known)
        loggers.filters(5, {"attention": np.ones((1, 2, 3, 3), np.float32)})
        loggers.close()
    expected = [(row["step"], *dict(numbers_of(row))) for row in ROWS]
    assert rows == [*expected[:3], (5, "filters/attention"), *expected[3:]]
    assert len(names) == 2
    assert names[0] == names[1]


def test_what_a_logger_keeps_is_json(tmp_path):
    loggers = Loggers(own_config(tmp_path, "Unkept"), tmp_path, [])
    with pytest.raises(ConfigError, match=r"^run\.logger: zz_logger\.py:Unkept: expected JSON values in state, got: "):
        loggers.row(ROWS[0])


@pytest.mark.parametrize(
    ("name", "got"),
    [
        ("Mute", "got one without log"),
        ("Alone", r"got \(\)"),
        ("made", "got an int"),
        ("Loses", "did you mean 'Losses'?"),
    ],
)
def test_what_is_no_logger_is_refused_in_one_line(tmp_path, name, got):
    with pytest.raises(ConfigError, match=rf"^test: run\.logger: zz_logger\.py:.*{got}") as refused:
        own_config(tmp_path, name)
    assert "\n" not in str(refused.value)
