"""Sweeps: what they run, what they skip, how they go on, and what they refuse before the first run."""

import csv
import io
import json
import logging
import os
import re
import shutil
import signal
from pathlib import Path

import jax
import pytest
from rich.console import Console

from jattn.command import main as command_line
from jattn.command.options import config_from_arguments
from jattn.command.sweeps import sweep_from_arguments
from jattn.report.comparison import read_outcomes
from jattn.training import sweeps
from jattn.training.jobs import share_of_cores
from jattn.training.progress import SweepReporter
from jattn.training.reading import ConfigError, check
from jattn.training.run_folder import RunFolder, check_folder, read_config
from jattn.training.runs import configure_jax, cpu_devices, on_its_devices
from jattn.training.step import TrainingFailed
from jattn.training.sweeps import print_table

CONFIG = """
[task]
min_length = 3
max_length = 3
[model]
width = 4
hidden = 4
[training]
steps = 4
batch_size = 4
replicates = 2
[evaluation]
every = 4
examples = 4
batch_size = 4
test_examples = 8
[run]
log_every = 2
checkpoint_every = 2
snapshots = 2
"""
SWEEP = ["--sweep", "model.num-heads", "1", "2"]


@pytest.fixture(autouse=True)
def working_directory(tmp_path, monkeypatch):
    """A folder with a config file, in a process whose devices are chosen already."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("jattn.training.runs.configure_jax", lambda configs: None)
    Path("mine.toml").write_text(CONFIG)


@pytest.fixture
def no_run(monkeypatch):
    """Fails a test in which a run is begun."""
    monkeypatch.setattr(
        "jattn.training.loop.train",
        lambda config, *, signals, report, command: pytest.fail(f"began {config.run.folder}"),
    )


@pytest.fixture
def runs(monkeypatch):
    """Notes which runs are begun, which are done at once instead; those that are told to fail do."""
    begun, failing = [], set()

    def pretend(config, *, signals, report, command):
        name = Path(config.run.folder).name
        begun.append(name)
        if name in failing:
            raise TrainingFailed("the loss is not finite at step 3")
        test = {"kind": "test", "step": config.training.steps, "examples": 8, "by_length": {}}
        test |= dict.fromkeys(("token_accuracy", "exact_accuracy", "filter_score"), 0.5)
        folder = RunFolder(config)
        folder.append(test)
        folder.close()
        (folder.path / "report.html").touch()
        return test

    monkeypatch.setattr("jattn.training.loop.train", pretend)
    return begun, failing


def sweep(*options):
    return command_line.main(["mine.toml", *options])


def read_sweep(folder="runs/mine_sweep"):
    return (Path(folder) / "sweep.csv").read_bytes()


def table(folder="runs/mine_sweep"):
    return list(csv.DictReader(read_sweep(folder).decode().splitlines()))


def combinations(*options):
    return sweep_from_arguments(["mine.toml", *options]).combinations


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A sweep that nothing disturbed; its folder."""
    folder = tmp_path_factory.mktemp("whole")
    (folder / "mine.toml").write_text(CONFIG)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("jattn.training.runs.configure_jax", lambda configs: None)
        assert command_line.main([str(folder / "mine.toml"), "--run.folder", str(folder / "sweep"), *SWEEP]) == 0
    return folder / "sweep"


def test_without_sweep_nothing_is_swept():
    assert sweep_from_arguments(["mine.toml", "--model.num-heads", "2"]) is None


@pytest.mark.parametrize(
    ("key", "text", "options", "name"),
    [
        ("model.num-heads", "2", ["--model.num-heads", "2"], "num_heads=2"),
        ("model.num_heads", "4", ["--model.num_heads", "4"], "num_heads=4"),
        ("model.score", "cosine", ["--model.score", "cosine"], "score=cosine"),
        ("training.learning-rate", "1e-3", ["--training.learning-rate", "1e-3"], "learning_rate=0.001"),
        ("training.weight-decay", "1", ["--training.weight-decay", "1"], "weight_decay=1.0"),
        ("training.stop-when-solved", "true", ["--training.stop-when-solved"], "stop_when_solved=true"),
        ("training.stop-when-solved", "false", ["--training.no-stop-when-solved"], "stop_when_solved=false"),
        ("evaluation.test-lengths", "[4, 8]", ["--evaluation.test-lengths", "4", "8"], "test_lengths=4+8"),
        ("evaluation.test-lengths", "[]", ["--evaluation.test-lengths"], "test_lengths=none"),
        ("training.batch-size", "8", ["--training.batch-size", "8"], "training.batch_size=8"),
        ("task.name", "copy", ["--task.name", "copy"], "name=copy"),
        ("task.symbols", "7", ["--task.symbols", "7"], "symbols=7"),
    ],
)
def test_a_run_of_a_sweep_is_that_of_the_single_command(key, text, options, name):
    (one,) = combinations("--sweep", key, text)
    folder = f"runs/mine_sweep/{name}"
    assert one.config == config_from_arguments(["mine.toml", *options, "--run.folder", folder])
    assert one.label == name


def test_several_keys_make_a_grid_in_the_order_given():
    found = combinations("--sweep", "model.num-heads", "2", "1", "--sweep", "model.score", "cosine", "scaled_dot")
    assert [Path(one.config.run.folder).name for one in found] == [
        "num_heads=2,score=cosine",
        "num_heads=2,score=scaled_dot",
        "num_heads=1,score=cosine",
        "num_heads=1,score=scaled_dot",
    ]
    assert [list(one.values.items()) for one in found][1] == [("num_heads", 2), ("score", "scaled_dot")]


def test_options_before_and_after_belong_to_every_run():
    found = combinations("--training.steps", "7", *SWEEP, "--model.width", "8", "--run.folder", "elsewhere")
    for one in found:
        assert (one.config.training.steps, one.config.model.width) == (7, 8)
        assert Path(one.config.run.folder).parent == Path("elsewhere")


def test_a_value_may_begin_with_a_minus():
    found = combinations("--task.name", "shift", "--sweep", "task.by", "-1", "2")
    assert [one.config.task.by for one in found] == [-1, 2]


def test_only_the_runs_must_be_right_not_what_is_swept_away():
    (one,) = combinations("--model.num-heads", "3", "--sweep", "model.width", "6")
    assert (one.config.model.num_heads, one.config.model.width) == (3, 6)


def test_names_of_folders_suit_any_file_system():
    names = [sweeps._safe(text, 40) for text in ("a/b", "a:b", "..", "é", "x" * 50, "x" * 51, "a-b")]
    assert len(set(names)) == len(names)
    for name in names:
        assert set(name) <= set("abcdefghijklmnopqrstuvwxyz0123456789.-")
        assert len(name) <= 40
    assert names[-1] == "a-b"


MISTAKES = [
    (["--sweep"], "--sweep", "model.num-heads 1 2 4", "nothing"),
    (["--sweep", "--model.width", "8"], "--sweep", "nothing"),
    (["--sweep", "model.num-heads"], "--sweep model.num-heads", "values"),
    (["--sweep", "model.num-head", "1"], "model.num-head:", "did you mean model.num_heads?"),
    (["--sweep", "modle.num-heads", "1"], "modle.num-heads:", "did you mean model.num_heads?"),
    (["--sweep", "num-heads", "1"], "num-heads:", "did you mean model.num_heads?"),
    (["--sweep", "bogus", "1"], "bogus:", "unknown key", "model.num_heads"),
    (["--sweep", "", "1"], "unknown key"),
    (["--sweeps", "model.num-heads", "1"], "--sweeps", "did you mean --sweep?"),
    (["--sweep", "model.num-heads", "3"], "--sweep at num_heads=3: model.num_heads: expected a divisor", "nearest: 2"),
    (["--sweep", "model.num-heads", "2", "two"], "num_heads=two: model.num_heads: expected an integer, got 'two'"),
    (["--sweep", "model.num-heads", "2.0"], "expected an integer, got 2.0"),
    (["--sweep", "model.num-heads", "1\nx = 2"], "expected an integer"),
    (["--sweep", "model.num-heads", "9" * 5000], "expected an integer", "characters"),
    (["--sweep", "training.learning-rate", "fast"], "training.learning_rate: expected a number, got 'fast'"),
    (["--sweep", "training.learning-rate", "nan"], "finite"),
    (["--sweep", "training.stop-when-solved", "yes"], "expected true or false, got 'yes'"),
    (["--sweep", "evaluation.test-lengths", "4"], "expected a list, got 4"),
    (["--sweep", "evaluation.test-lengths", "[" * 5000], "expected a list"),
    (["--sweep", "model.score", "cosin"], "did you mean 'cosine'?"),
    (["--sweep", "task.name", "copy", "mqar"], "name=mqar", "task.min_length"),
    (["--sweep", "model.width", "6", "7", *SWEEP], "width=7, num_heads=1", "model.width"),
    (["--sweep", "model.num-heads", "1", "2", "1"], "differ", "num_heads=1 twice"),
    (["--sweep", "training.learning-rate", "0.1", "1e-1"], "differ", "learning_rate=0.1 twice"),
    ([*SWEEP, *SWEEP], "once", "twice"),
    ([*SWEEP, "--sweep", "model.num_heads", "4"], "once", "twice"),
    ([*SWEEP, "--model.num-heads", "2"], "swept or given", "--model.num-heads"),
    (["--model.num_heads=2", *SWEEP], "swept or given", "--model.num_heads"),
    (["--sweep", "training.stop-when-solved", "true", "--training.no-stop-when-solved"], "swept or given"),
    (["--sweep", "run.folder", "a", "b"], "another run", "run.folder"),
    (["--sweep", "run.overwrite", "true"], "another run", "run.overwrite"),
    ([*SWEEP, "--model.widht", "8"], "--model.widht", "--model.width"),
]


@pytest.mark.parametrize(("options", "expected"), [(given, words) for given, *words in MISTAKES])
def test_a_mistake_is_told_before_anything_runs(no_run, monkeypatch, capsys, options, expected):
    monkeypatch.setattr("jattn.training.runs.configure_jax", lambda configs: pytest.fail("went on with a wrong sweep"))
    assert sweep(*options) == 2
    told = capsys.readouterr()
    assert told.out == ""
    assert [words for words in expected if words not in " ".join(told.err.split())] == []
    assert len(told.err) < 1200
    assert told.err.replace("\n", "").isprintable()
    assert not Path("runs").exists()


def test_a_mistake_in_many_combinations_is_told_once(capsys):
    assert sweep("--sweep", "model.num-heads", "3", "--sweep", "training.seed", *map(str, range(20))) == 2
    assert capsys.readouterr().err.count("expected a divisor") == 1


def test_help_explains_sweeps(capsys):
    with pytest.raises(SystemExit) as ended:
        sweep(*SWEEP, "--help")
    assert ended.value.code == 0
    assert "--sweep model.num-heads 1 2 4 --sweep model.score scaled_dot cosine" in capsys.readouterr().out


def test_jobs_are_told_apart_from_what_is_swept():
    assert sweep_from_arguments(["mine.toml", *SWEEP, "--jobs", "2"]).jobs == 2
    assert sweep_from_arguments(["mine.toml", "--jobs=3", *SWEEP]).jobs == 3
    assert sweep_from_arguments(["mine.toml", *SWEEP]).jobs == 1


@pytest.mark.parametrize(
    ("cores", "jobs", "shares"), [(4, 2, [{0, 2}, {1, 3}]), (2, 3, [{0}, {1}, {0}]), (1, 2, [None] * 2)]
)
def test_runs_at_once_share_the_cores(monkeypatch, cores, jobs, shares):
    monkeypatch.setattr("os.sched_getaffinity", lambda process: set(range(cores)), raising=False)
    assert [share_of_cores(slot, jobs) for slot in range(jobs)] == shares


@pytest.mark.parametrize("chosen", [None, "true"])
@pytest.mark.parametrize("jobs", [1, 2])
def test_a_sweep_leaves_the_memory_of_an_accelerator_to_its_jobs(monkeypatch, jobs, chosen):
    name, found = "XLA_PYTHON_CLIENT_PREALLOCATE", []
    monkeypatch.delenv(name, raising=False)
    if chosen is not None:
        monkeypatch.setenv(name, chosen)
    monkeypatch.setattr("jattn.training.runs.configure_jax", lambda configs: found.append(os.environ.get(name)))
    monkeypatch.setattr(sweeps, "prepare", lambda sweep: sweep)
    monkeypatch.setattr(sweeps, "run_sweep", lambda *arguments: found.append(os.environ.get(name)) or [])
    assert sweep(*SWEEP, "--jobs", str(jobs)) == 0
    assert found == ["false" if jobs == 2 and chosen is None else chosen, chosen]


@pytest.mark.parametrize(("options", "without"), [([], ""), (["--run.overwrite"], " without --run.overwrite")])
def test_what_is_said_of_a_stopped_sweep_is_what_its_command_does(options, without):
    asked = [sweep_from_arguments(["mine.toml", *SWEEP, *options])]
    assert command_line.outlook(asked) == f"the same command{without} goes on with what is left of the sweep"


@pytest.mark.exhaustive
def test_runs_at_once_print_a_line_each(capfd):
    assert sweep(*SWEEP, "--jobs", "2", "--mesh.data", "1") == 0
    printed = capfd.readouterr()
    assert sorted(re.findall(r"^\[(\d)/2\] num_heads=\d: .* right", printed.out, flags=re.MULTILINE)) == ["1", "2"], (
        printed
    )
    assert [row["status"] for row in table()] == ["done", "done"]


@pytest.mark.exhaustive
def test_a_run_at_once_that_fails_is_told_and_the_others_go_on(capfd):
    options = ["--training.clip-norm", "1e38", "--mesh.data", "1"]
    assert sweep("--sweep", "training.learning-rate", "0.01", "1e38", *options, "--jobs", "2") == 1
    assert "learning_rate=1e+38: the loss of seed 0 is not finite" in capfd.readouterr().err
    assert [row["status"] for row in table()] == ["done", "failed"]


def test_devices_that_do_not_fit_one_run_are_told_before_the_first(no_run, capsys):
    assert sweep("--sweep", "training.batch-size", "4", "8", "--mesh.data", "300") == 2
    assert "--sweep at training.batch_size=4: mesh.data: expected at most" in capsys.readouterr().err
    assert not Path("runs").exists()


def test_each_run_takes_the_devices_that_suit_it_alone(monkeypatch):
    monkeypatch.setattr("os.sched_getaffinity", lambda process: range(4))
    sizes = {"batch_size": 256}
    small, large = check({}, "test"), check({"training": sizes, "evaluation": sizes}, "test")
    assert (cpu_devices(small), cpu_devices(large)) == (4, 4)
    odd = check({"training": {"batch_size": 3}}, "test")
    chosen = {}
    monkeypatch.setattr("jax.config.update", chosen.__setitem__)
    configure_jax([odd, large, small])
    assert chosen["jax_num_cpu_devices"] == 4
    assert on_its_devices(odd).mesh.data == 1
    assert on_its_devices(check({"mesh": {"data": 3}}, "test")).mesh.data == 3


def test_a_sweep_writes_run_folders_a_table_and_a_figure(whole):
    names = {"num_heads=1", "num_heads=2"}
    assert {path.name for path in whole.iterdir()} == names | {"sweep.csv", "sweep.html", "sweep.md", "sweep.png"}
    for heads, row in zip((1, 2), table(whole), strict=True):
        folder = whole / f"num_heads={heads}"
        assert read_config(folder).model.num_heads == heads
        assert (folder / "report.html").exists()
        test = json.loads((folder / "metrics.jsonl").read_text().splitlines()[-1])
        assert row["folder"] == folder.name
        assert (row["num_heads"], row["status"], row["seeds"], row["steps"]) == (str(heads), "done", "2", "4")
        scores = [seed["filter_score"] for seed in test["replicates"]]
        assert (float(row["filter_score_min"]), float(row["filter_score_max"])) == (min(scores), max(scores))
        assert float(row["filter_score"]) == pytest.approx(test["filter_score"])


def test_what_is_done_is_skipped_without_compiling(whole, no_run, caplog, capsys):
    before = {path: path.stat().st_mtime_ns for path in whole.rglob("*") if path.parent != whole}
    numbers = read_sweep(whole)
    with jax.log_compiles(), caplog.at_level(logging.DEBUG):
        assert sweep("--run.folder", str(whole), *SWEEP) == 0
    assert [record.message for record in caplog.records if "ompil" in record.message] == []
    assert read_sweep(whole) == numbers
    assert {path: path.stat().st_mtime_ns for path in whole.rglob("*") if path.parent != whole} == before
    printed = capsys.readouterr().out
    assert "[2/2] num_heads=2: done before" in printed
    assert "| num_heads | seeds | steps |" in printed


@pytest.mark.exhaustive
def test_a_sweep_that_was_cut_off_goes_on_to_the_same_table(whole, monkeypatch, capsys):
    tell, told = SweepReporter.row, []

    def cut_off(reporter, row):
        tell(reporter, row)
        told.append(row["step"])
        if told == [2]:
            signal.raise_signal(signal.SIGTERM)

    # The first run is done, the second is cut off after two steps.
    shutil.copytree(whole / "num_heads=1", "runs/mine_sweep/num_heads=1")
    monkeypatch.setattr(SweepReporter, "row", cut_off)
    assert sweep(*SWEEP) == 143
    assert not Path("runs/mine_sweep/sweep.csv").exists()
    assert "stopped by SIGTERM; the same command goes on with what is left of the sweep" in capsys.readouterr().err
    assert sweep(*SWEEP) == 0
    assert told == [2, 4]
    printed = capsys.readouterr().out
    assert "[1/2] num_heads=1: done before" in printed
    assert "resumed at step 2" in printed
    assert read_sweep() == read_sweep(whole)


def test_a_signal_between_two_saves_stops_a_sweep_too(runs, monkeypatch, capsys):
    begun, _ = runs
    monkeypatch.setattr(sweeps, "write_comparison", lambda folder, outcomes: signal.raise_signal(signal.SIGINT))
    assert sweep(*SWEEP) == 130
    assert "stopped by SIGINT" in capsys.readouterr().err
    assert begun == ["num_heads=1", "num_heads=2"]


def test_a_report_that_a_crash_kept_from_being_drawn_is_drawn(whole, no_run):
    page = whole / "num_heads=1" / "report.html"
    page.unlink()
    assert sweep("--run.folder", str(whole), *SWEEP) == 0
    assert page.exists()


def test_a_run_that_fails_is_told_and_the_others_go_on(runs, capsys):
    begun, failing = runs
    failing.add("num_heads=1")
    assert sweep(*SWEEP) == 1
    assert begun == ["num_heads=1", "num_heads=2"]
    first, second = table()
    assert (first["status"], second["status"]) == ("failed", "done")
    assert "num_heads=1: the loss is not finite at step 3" in capsys.readouterr().err
    failing.clear()
    assert sweep(*SWEEP) == 0
    assert begun == ["num_heads=1", "num_heads=2", "num_heads=1"]


def test_a_run_that_is_given_more_steps_is_not_done_before_they_are_taken(runs):
    begun, failing = runs
    longer = [*SWEEP, "--training.schedule", "constant", "--training.warmup-steps", "0"]
    assert sweep(*longer) == 0
    failing.add("num_heads=1")
    for one in combinations(*longer, "--training.steps", "6"):
        # The process died here before the first row of the new steps.
        RunFolder(one.config).close()
        assert sweeps.finished_test(one.config) is None
    assert sweep(*longer, "--training.steps", "6") == 1
    assert begun[2:] == ["num_heads=1", "num_heads=2"]
    assert [row["status"] for row in table()] == ["failed", "done"]
    outcomes = read_outcomes(Path("runs/mine_sweep"))
    assert [one.test and one.test["step"] for one in outcomes] == [None, 6]


def test_more_values_and_keys_extend_a_sweep(runs):
    begun, _ = runs
    assert sweep(*SWEEP) == 0
    assert sweep("--sweep", "model.num-heads", "4", "2") == 0
    assert begun == ["num_heads=1", "num_heads=2", "num_heads=4"]
    # The runs so far had the default score.
    assert sweep(*SWEEP, "--sweep", "model.score", "scaled_dot", "cosine") == 0
    assert begun[3:] == ["num_heads=1,score=cosine", "num_heads=2,score=cosine"]
    assert [row["folder"] for row in table()] == [
        "num_heads=1",
        "num_heads=1,score=cosine",
        "num_heads=2",
        "num_heads=2,score=cosine",
    ]


def test_another_config_in_the_folder_is_refused_before_the_first_run(runs, capsys):
    begun, _ = runs
    assert sweep("--sweep", "model.num-heads", "2") == 0
    assert sweep(*SWEEP, "--training.steps", "9") == 2
    told = capsys.readouterr().err
    assert "num_heads=2 holds a run of a different config" in told
    assert "training.steps: 9 | 4" in told
    assert begun == ["num_heads=2"]
    assert sweep(*SWEEP, "--training.steps", "9", "--run.overwrite") == 0
    assert begun == ["num_heads=2", "num_heads=1", "num_heads=2"]


@pytest.mark.parametrize("name", ["thesis.txt", "config.toml", "num_heads=1/thesis.txt", "num_heads=2"])
def test_a_folder_that_is_not_of_a_sweep_is_left_alone(no_run, capsys, name):
    path = Path("runs/mine_sweep") / name
    path.parent.mkdir(parents=True)
    path.write_text("years of work")
    assert sweep(*SWEEP, "--run.overwrite") == 2
    assert str(path.parent) in capsys.readouterr().err
    assert [entry for entry in Path("runs").rglob("*") if entry.is_file()] == [path]


def test_a_file_where_the_folder_should_be_is_told(no_run, capsys):
    assert sweep(*SWEEP, "--run.folder", "mine.toml") == 2
    assert "expected a folder, got a file" in capsys.readouterr().err


def test_a_single_run_does_not_go_into_the_folder_of_a_sweep(runs, capsys):
    assert sweep(*SWEEP) == 0
    assert command_line.main(["mine.toml", "--run.folder", "runs/mine_sweep"]) == 2
    assert "expected an empty folder or that of a run" in capsys.readouterr().err


def test_a_folder_is_checked_without_being_made():
    check_folder(check({"run": {"folder": "nowhere"}}, "test"))
    assert not Path("nowhere").exists()


def test_equal_combinations_are_refused_from_python_too():
    given = sweeps.Given({}, "test", "mine.toml", {})
    with pytest.raises(ConfigError, match="num_heads=1 twice"):
        sweeps.make_sweep(given, {("model", "num_heads"): [1, 1]}, Path("runs"))


@pytest.mark.parametrize(
    ("columns", "printed"),
    [
        (
            40,
            [
                "by length",
                "| num_heads | exact accuracy |",
                "|-----------|----------------|",
                "| 2         | 100.00 %       |",
            ],
        ),
        (20, ["by length", "num_heads 2, exact", "accuracy 100.00 %"]),
    ],
)
def test_a_table_that_a_terminal_is_too_narrow_for_is_a_line_a_run(columns, printed):
    console = Console(file=io.StringIO(), width=columns, force_terminal=True, color_system=None)
    print_table(console, "by length", ["num_heads", "exact accuracy"], [["2", "100.00 %"]])
    lines = re.sub(r"\x1b\[[0-9;]*m", "", console.file.getvalue()).splitlines()
    assert [line.strip() for line in lines if line.strip()] == printed
