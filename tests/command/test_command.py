"""What a person reads who made a mistake: one short message, status 2, before anything is compiled or written."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from jattn import __main__
from jattn.command import main
from tests.sampled import sampled

ROOT = Path(__file__).resolve().parents[2]

# A config file, and what the message must say besides the file's name: the key, what came, what is allowed, and the
# nearest right name where one is near.
TYPOS = [
    ("[task]\nnmae = 'copy'", "task.nmae", "task.name"),
    ("[task]\nlayuot = 'decoder'", "task.layuot", "task.layout"),
    ("[task]\nsymbol = 5", "task.symbol", "task.symbols"),
    ("[model]\nheads = 2", "model.heads", "model.num_heads"),
    ("[model]\nnum_layer = 2", "model.num_layer", "model.num_layers"),
    ('[model]\n"num heads" = 2', "num heads", "model.num_heads"),
    ("[model]\nNUM_HEADS = 2", "model.NUM_HEADS", "model.num_heads"),
    ("[training]\nlearningrate = 0.1", "training.learningrate", "training.learning_rate"),
    ("[training]\nlr = 0.1", "training.lr", "learning_rate"),
    ("[training]\nepochs = 3", "training.epochs", "steps"),
    ("[evaluation]\ntest_length = [4]", "evaluation.test_length", "evaluation.test_lengths"),
    ("[run]\nsnapshot = 3", "run.snapshot", "run.snapshots"),
    ("[tsak]\nname = 'copy'", "tsak", "did you mean task"),
    ("[eval]\nevery = 3", "eval", "evaluation"),
    ("[optimiser_of_mine]\nlr = 3", "optimiser_of_mine", "task", "model", "training", "evaluation", "run"),
    ("[optimizer]\nlr = 3", "optimizer", "did you mean training.optimizer"),
    ("[model]\nbatch_size = 4", "model.batch_size", "training.batch_size"),
    ("[task]\nseed = 4", "task.seed", "training.seed"),
    ("num_heads = 4", "num_heads", "model.num_heads"),
    ("[model.extra]\nx = 1", "model.extra", "num_heads"),
]
NAMES = [
    ("[task]\nname = 'revrse'", "task.name", "'revrse'", "'copy'", "did you mean 'reverse'"),
    ("[task]\nname = 'Copy'", "task.name", "'Copy'", "did you mean 'copy'"),
    ("[task]\nname = 'COPY'", "task.name", "'COPY'", "did you mean 'copy'"),
    ("[task]\nname = 'sorting'", "task.name", "'sorting'", "'copy'", "'reverse'"),
    ("[task]\nname = ''", "task.name", "''", "'copy'", "'reverse'"),
    ("[task]\nlayout = 'encoder-decoder'", "task.layout", "'decoder'", "did you mean 'encoder_decoder'"),
    ("[task]\nlayout = 'seq2seq'", "task.layout", "'seq2seq'", "'encoder'", "'decoder'", "'encoder_decoder'"),
    ("[training]\ndtype = 'float16'", "training.dtype", "'float16'", "'float32'", "'bfloat16'"),
    ("[training]\ndtype = 'bf16'", "training.dtype", "'bf16'", "did you mean 'bfloat16'"),
    ("[model]\nnorm = 'pst'", "model.norm", "'pst'", "'pre'", "did you mean 'post'"),
    ("[model]\nscore = 'scaled-dot'", "model.score", "'cosine'", "did you mean 'scaled_dot'"),
    ("[model]\npositions = 'rotery'", "model.positions", "'sinusoidal'", "'none'", "did you mean 'rotary'"),
    ("[model]\nqueries = 'position'", "model.queries", "'tokens'", "did you mean 'positions'"),
]
TYPES = [
    ("task = 'copy'", "task", "[task]", "'copy'"),
    ("model = 3", "model", "[model]", "3"),
    ("[[task]]\nname = 'copy'", "task", "[task]"),
    ("[task]\nname = 1", "task.name", "got 1", "'copy'", "'reverse'"),
    ("[task]\nname = ['copy']", "task.name", "'copy'", "'reverse'"),
    ("[task]\nsymbols = 'ten'", "task.symbols", "'ten'", "integer"),
    ("[task]\nsymbols = 10.0", "task.symbols", "10.0", "integer"),
    ("[training]\nsteps = 1e3", "training.steps", "1000.0", "integer"),
    ("[training]\nsteps = '500'", "training.steps", "'500'", "integer"),
    ("[model]\nwidth = true", "model.width", "true", "integer"),
    ("[training]\nlearning_rate = '1e-3'", "training.learning_rate", "'1e-3'", "number"),
    ("[training]\nweight_decay = true", "training.weight_decay", "true", "number"),
    ("[training]\nstop_when_solved = 'yes'", "training.stop_when_solved", "'yes'", "true", "false"),
    ("[run]\ncache = 1", "run.cache", "got 1", "true", "false"),
    ("[run]\nfolder = 3", "run.folder", "got 3", "string"),
    ("[evaluation]\ntest_lengths = 16", "evaluation.test_lengths", "got 16", "list"),
    ("[evaluation]\ntest_lengths = [4, '8']", "evaluation.test_lengths", "'8'", "integer"),
    ("[evaluation]\ntest_lengths = [[4]]", "evaluation.test_lengths", "[4]", "integer"),
    ("[model.num_heads]\nx = 1", "model.num_heads", "integer"),
    ("[task]\nname = 2026-01-01", "task.name", "2026-01-01", "'copy'"),
]
RANGES = [
    ("[task]\nsymbols = 1", "task.symbols", "got 1", "2"),
    ("[task]\nsymbols = 10001", "task.symbols", "10001", "10000"),
    ("[task]\nmax_length = 0", "task.max_length", "got 0", "1"),
    ("[task]\nmax_length = 5000", "task.max_length", "5000", "4096"),
    ("[task]\nmin_length = 20", "task.min_length", "20", "task.max_length", "16"),
    ("[model]\nnum_layers = -1", "model.num_layers", "-1", "1"),
    ("[model]\ntemperature = 0", "model.temperature", "got 0", "greater than 0"),
    ("[model]\ntemperature = nan", "model.temperature", "nan", "finite"),
    ("[model]\ndropout_rate = 1.0", "model.dropout_rate", "got 1.0", "less than 1"),
    ("[training]\nlearning_rate = -0.1", "training.learning_rate", "-0.1", "greater than 0"),
    ("[training]\nlearning_rate = inf", "training.learning_rate", "inf", "finite"),
    ("[training]\nseed = -1", "training.seed", "-1", "0"),
    ("[training]\nseed = 4294967296", "training.seed", "4294967296"),
    ("[training]\nsteps = 99999999999999999999", "training.steps", "99999999999999999999", "100000000"),
    ("[evaluation]\nsolved_accuracy = 100", "evaluation.solved_accuracy", "100", "1"),
    ("[evaluation]\ntest_lengths = [4, 0]", "evaluation.test_lengths", "got 0", "1", "4096"),
    ("[evaluation]\ntest_lengths = [5000]", "evaluation.test_lengths", "5000", "4096"),
    ("[run]\nprobes = 65", "run.probes", "65", "64"),
    ("[run]\nsnapshots = 1", "run.snapshots", "got 1", "2"),
]
MISFITS = [
    ("[model]\nnum_heads = 3", "model.num_heads", "3", "model.width 32", "nearest: 2"),
    ("[model]\nnum_heads = 33", "model.num_heads", "33", "nearest: 32"),
    (
        "[model]\nwidth = 45\nnum_heads = 14\npositions = 'none'",
        "model.num_heads",
        "14",
        "model.width 45",
        "nearest: 15",
    ),
    ("[model]\nwidth = 7", "model.width", "7", "even", "sinusoidal"),
    ("[model]\nwidth = 6\nnum_heads = 2\npositions = 'rotary'", "model.num_heads", "rotary", "even", "6 / 2 = 3"),
    ("[model]\npositions = 'learned'\nmax_length = 15", "model.max_length", "15", "16"),
    ("[task]\nlayout = 'decoder'\n[model]\npositions = 'learned'\nmax_length = 31", "model.max_length", "31", "32"),
    (
        "[model]\npositions = 'learned'\nmax_length = 20\n[evaluation]\ntest_lengths = [24]",
        *("model.max_length", "20", "24"),
    ),
    ("[task]\nlayout = 'decoder'\n[model]\nqueries = 'positions'", "model.queries", "'decoder'", "'encoder'"),
    ("[model]\nqueries = 'positions'\npositions = 'rotary'", "model.queries", "'rotary'", "'sinusoidal'", "'learned'"),
]
NO_TOML = [
    ("", "empty", "[task]"),
    ("# only a comment\n", "empty", "[task]"),
    (b"[task]\nname = '\xff'\n", "UTF-8", "0xff"),
    ("[task]\n".encode("utf-16"), "UTF-8", "0xff"),
    (b"\x00\x01\x02", "TOML"),
    ("[task\nname = 'copy'", "TOML", "line 1"),
    ("[task]\nname = copy", "TOML", "line 2"),
    ("[task]\nname = 'copy'\nname = 'reverse'\n", "TOML", "line 3"),
    ("task:\n  name: copy\n", "TOML", "line 1"),
    ('{"task": {"name": "copy"}}', "TOML", "line 1"),
    ("[task]\nsymbols = " + "9" * 5000, "TOML"),
    ("x = " + "[" * 5000, "TOML"),
]
MISTAKES = [*TYPOS, *NAMES, *TYPES, *RANGES, *MISFITS, *NO_TOML]

# Options after a config file that is right, and what the message must say.
OPTIONS = [
    (["--model.num-head", "2"], "--model.num-head", "--model.num-heads"),
    (["--modle.num-heads", "2"], "--modle.num-heads", "--model.num-heads"),
    (["--num-heads", "2"], "--num-heads", "--model.num-heads"),
    (["--bogus"], "--bogus", "--help"),
    (["extra"], "extra", "--help"),
    (["model.num_heads=2"], "model.num_heads=2"),
    (["--model.num-heads"], "--model.num-heads: expected a value, got nothing"),
    (["--model.num-heads="], "model.num_heads: expected an integer, got ''"),
    (["--model.num-heads", "two"], "model.num_heads: expected an integer, got 'two'"),
    (["--model.num-heads", "2", "3"], "3: unknown option"),
    (["--model.num-heads", "2", "--model.num_heads", "4"], "--model.num_heads: expected each option once"),
    (["--model.no-num-heads"], "--model.no-num-heads: unknown option; did you mean --model.num-heads?"),
    (["--training.steps", "1e3"], "training.steps: expected an integer, got 1000.0"),
    (["--training.steps", "５００"], "training.steps: expected an integer, got '５００'"),
    (["--training.steps", "5 # five"], "training.steps: expected an integer, got '5 # five'"),
    (["--training.learning-rate", "fast"], "training.learning_rate: expected a number, got 'fast'"),
    (["--training.learning-rate", "١"], "training.learning_rate: expected a number, got '١'"),
    (["--task.name", "revrse"], "task.name", "'revrse'", "did you mean 'reverse'?"),
    (["--task.symbols", "None"], "task.symbols: expected an integer, got 'None'"),
    (["--training.dtype", "bf16"], "training.dtype", "'bf16'", "'float32'", "'bfloat16'"),
    (["--evaluation.test-lengths", "a"], "evaluation.test_lengths.0: expected an integer, got 'a'"),
    (["--evaluation.test-lengths", "[4,4]"], "evaluation.test_lengths: expected lengths that differ, got 4 twice"),
    (["--run.overwrite", "yes"], "run.overwrite: expected true or false, got 'yes'"),
    (["--run.no-overwrite", "true"], "--run.no-overwrite takes no value, got true"),
    (["--run.folder", ""], "run.folder: expected the name of a folder, got ''"),
    (["--run.folder", "a\x1b[2Jb"], r"run.folder: expected a name without control characters, got 'a\x1b[2Jb'"),
    (["--run.folder", "a\nb"], r"run.folder: expected a name without control characters, got 'a\nb'"),
    (["--"], "--: unknown option"),
    (["-x"], "-x: unknown option"),
    (["a1"], "a1: unknown option"),
    (["-5"], "-5: unknown option"),
    (["--sweep", "model.width", "8 # x", "16"], "model.width: expected an integer, got '8 # x'"),
    (["--sweep", "training.seed", *map(str, range(101))], "expected at most 100 runs, got 101; --yes makes them all"),
    (["--yes"], "--yes: unknown option"),
    (["--seed", "3"], "--seed: unknown option; did you mean --training.seed?"),
    (["--model.seed", "3"], "--model.seed: unknown option; did you mean --training.seed?"),
    (["--lr", "0.1"], "--lr: unknown option; did you mean --training.learning-rate?"),
    (["--n-heads", "2"], "--n-heads: unknown option; did you mean --model.num-heads?"),
    (["--model.hedas", "2"], "--model.hedas: unknown option; did you mean --model.num-heads?"),
    (["--device", "cpu"], "--device: unknown option; JAX takes the GPU or TPU that it finds", "JAX_PLATFORMS"),
    (["--resume"], "--resume: unknown option; the same command resumes"),
    (["--swep"], "--swep: unknown option; did you mean --sweep?"),
    (["--foo"], "--foo: unknown option; see", "--help"),
    (["--model.num-heads", "3"], "num_heads", "3", "32", "nearest: 2"),
    (["--training.steps", "-5"], "training.steps", "-5", "1"),
    (["--training.learning-rate", "nan"], "training.learning_rate", "nan", "finite"),
    (["--task.min-length", "17"], "task.min_length", "17", "task.max_length", "16"),
    (["--evaluation.test-lengths", "4", "0"], "evaluation.test_lengths", "got 0", "4096"),
]


@pytest.fixture
def refused(tmp_path, monkeypatch, capsys):
    """Gives arguments to the command, which must refuse them; returns what a person reads."""

    def too_far(*arguments):
        raise AssertionError("went on with a wrong config")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("jattn.training.runs.configure_jax", too_far)
    monkeypatch.setattr("jattn.training.setup.make_setup", too_far)

    def run(*arguments):
        before = sorted(tmp_path.rglob("*"))
        try:
            status = main.main([str(argument) for argument in arguments])
        except SystemExit as ended:
            status = ended.code
        told = capsys.readouterr()
        assert status == 2
        assert told.out == ""
        assert told.err.strip()
        assert len(told.err.strip().splitlines()) <= 12
        assert len(told.err) <= 1200
        assert told.err.replace("\n", "").isprintable()
        assert sorted(tmp_path.rglob("*")) == before
        return " ".join(told.err.split())

    return run


def named(mistakes):
    return pytest.mark.parametrize(
        ("given", "expected"),
        [pytest.param(given, words, id=f"{number}-{words[0][:40]}") for number, (given, *words) in enumerate(mistakes)],
    )


@named(MISTAKES)
def test_a_mistake_in_a_file_is_told(refused, tmp_path, given, expected):
    (tmp_path / "mine.toml").write_bytes(given if isinstance(given, bytes) else given.encode())
    message = refused("mine.toml")
    assert message.startswith("mine.toml: ")
    assert [word for word in expected if word not in message] == []


@named(OPTIONS)
def test_a_mistake_in_an_option_is_told(refused, tmp_path, given, expected):
    (tmp_path / "mine.toml").write_text("[task]\nname = 'copy'\n")
    message = refused("mine.toml", *given)
    assert [word for word in expected if word not in message] == []


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ([], ["CONFIG", "configs/mine.toml"]),
        (["--model.width", "16"], ["CONFIG", "configs/mine.toml"]),
        (["configs/mien.toml"], ["configs/mien.toml", "did you mean configs/mine.toml"]),
        (["configs/mine"], ["configs/mine:", "did you mean configs/mine.toml"]),
        (["mine.toml"], ["mine.toml", "configs/mine.toml"]),
        (["mine"], ["mine:", "configs/mine.toml"]),
        (["nowhere/deep/mine.toml"], ["nowhere/deep/mine.toml", "configs/mine.toml"]),
        (["configs"], ["configs", "Is a directory"]),
        (["configs/mine.toml/x.toml"], ["configs/mine.toml/x.toml", "Not a directory"]),
        ([""], ["expected a config file"]),
        (["configs/mine.toml", "configs/mine.toml"], ["configs/mine.toml", "--help"]),
        (["x" * 300 + ".toml"], ["File name too long"]),
        (["a\0b.toml"], ["a\\x00b.toml", "null"]),
    ],
    ids=lambda value: " ".join(value)[:20],
)
def test_a_missing_config_is_told_with_those_there_are(refused, tmp_path, arguments, expected):
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs" / "mine.toml").write_text("[task]\nname = 'copy'\n")
    message = refused(*arguments)
    assert [word for word in expected if word not in message] == []


@pytest.mark.parametrize(
    "text",
    ["[task]\nname = '" + "x" * 5000 + "'", "[task]\n" + "x" * 5000 + " = 1", '[task]\n"\\u001b[2J" = 1'],
    ids=["long value", "long key", "a key that clears the screen"],
)
def test_what_came_is_shown_shortened_and_harmless(refused, tmp_path, text):
    (tmp_path / "mine.toml").write_text(text)
    assert "task." in refused("mine.toml")


def test_a_file_full_of_mistakes_is_told_in_a_few_lines(refused, tmp_path):
    lines = [f"key_{number} = 1" for number in range(100)]
    (tmp_path / "mine.toml").write_text("[task]\n" + "\n".join(lines))
    assert "task.key_0" in refused("mine.toml")


SMALL = "[task]\nmax_length = 4\nmin_length = 4\n[training]\nbatch_size = 8\n[evaluation]\nbatch_size = 8\n"


def command(folder, *arguments, text=SMALL):
    """Runs the command itself; returns status, output and errors, what was compiled among them."""
    (folder / "mine.toml").write_text(text)
    environment = {**os.environ, "JAX_LOG_COMPILES": "1"}
    done = subprocess.run(
        [sys.executable, str(ROOT / "train.py"), *arguments],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
    )
    return done.returncode, done.stdout, done.stderr


@sampled(
    ("text", "options", "expected"),
    [
        ("[task]\nnmae = 'copy'", [], ["mine.toml: task.nmae", "task.name"]),
        (SMALL, ["--model.num-heads", "two"], ["model.num_heads", "'two'"]),
        (SMALL, ["--run.devices", "3"], ["training.batch_size", "3 devices", "got 8"]),
        (SMALL, ["--run.folder", "mine.toml"], ["run.folder", "mine.toml"]),
    ],
    ids=["key", "option", "devices", "folder"],
    keep=1,
)
def test_the_command_ends_with_status_2_before_anything_is_compiled(tmp_path, text, options, expected):
    status, out, err = command(tmp_path, "mine.toml", *options, text=text)
    assert status == 2
    assert [word for word in expected if word not in err] == []
    assert "Traceback" not in err
    assert "ompil" not in err
    assert len(err.strip().splitlines()) <= 12
    assert out == ""
    assert [path.name for path in tmp_path.iterdir()] == ["mine.toml"]


def test_a_run_folder_whose_config_is_broken_is_a_mistake_too(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("jattn.training.runs.configure_jax", lambda config: None)
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.toml").write_text("[task]\nold_key = 1\n")
    (tmp_path / "mine.toml").write_text(SMALL)
    assert main.main([str(tmp_path / "mine.toml"), "--run.folder", str(tmp_path / "run")]) == 2
    assert str(tmp_path / "run") in capsys.readouterr().err


def test_help_ends_with_status_0(tmp_path):
    status, out, err = command(tmp_path, "--help")
    assert status == 0
    assert err == ""
    assert "--model.num-heads" in out
    assert "attention heads; must divide the width" in out


def test_there_are_enough_mistakes():
    assert len(MISTAKES) + len(OPTIONS) >= 60


def test_a_terminal_is_shown_names_and_obeys_none(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert __main__.main(["report", "a\x1b[2J\u202egnp\u2066"]) == 2
    told = capsys.readouterr().err
    assert told.rstrip("\n").isprintable()
    assert r"a\x1b[2J\u202egnp\u2066" in told
