"""What a person reads who made a mistake: one short message, status 2, before anything is compiled or written."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from jattn import __main__
from jattn.command import main
from tests.sampled import sampled

ROOT = Path(__file__).resolve().parents[2]

# What no line of text can show: bytes, numbers without end, control characters; and what the message must say.
NO_TEXT = [
    ("", "empty", "[task]"),
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
ODD_OPTIONS = [
    (["--training.steps", "５００"], "training.steps: expected an integer, got '５００'"),
    (["--training.learning-rate", "١"], "training.learning_rate: expected a number, got '١'"),
    (["--run.folder", "a\x1b[2Jb"], r"run.folder: expected a name without control characters, got 'a\x1b[2Jb'"),
    (["--run.folder", "a\nb"], r"run.folder: expected a name without control characters, got 'a\nb'"),
    (["--sweep", "training.seed", *map(str, range(101))], "expected at most 100 runs, got 101; --yes makes them all"),
]


def table(name):
    """Reads a table: what is given on a line, `` | `` for its line breaks, and the whole message, indented, below."""
    lines = (Path(__file__).parent / name).read_text(encoding="utf-8").splitlines()
    starts = [place for place, line in enumerate(lines) if not line.startswith("    ")]
    ends = [*starts[1:], len(lines)]
    return {
        lines[start]: "\n".join(line[4:] for line in lines[start + 1 : end])
        for start, end in zip(starts, ends, strict=True)
    }


FILES, OPTIONS = table("mistakes_in_files.txt"), table("mistakes_in_options.txt")


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
        assert len(told.err.splitlines()) == 1
        assert len(told.err) <= 301
        assert told.err.replace("\n", "").isprintable()
        assert sorted(tmp_path.rglob("*")) == before
        return told.err.removesuffix("\n")

    return run


def named(mistakes):
    return pytest.mark.parametrize(
        ("given", "expected"),
        [pytest.param(given, words, id=f"{number}-{words[0][:40]}") for number, (given, *words) in enumerate(mistakes)],
    )


@pytest.mark.parametrize("given", FILES)
def test_what_is_said_to_a_mistake_in_a_file(refused, tmp_path, given):
    (tmp_path / "mine.toml").write_text(given.replace(" | ", "\n"))
    assert refused("mine.toml") == FILES[given]


@pytest.mark.parametrize("given", OPTIONS)
def test_what_is_said_to_a_mistake_in_an_option(refused, tmp_path, given):
    (tmp_path / "mine.toml").write_text("[task]\nname = 'copy'\n")
    assert refused("mine.toml", *shlex.split(given)) == OPTIONS[given]


@named(NO_TEXT)
def test_a_mistake_in_a_file_is_told(refused, tmp_path, given, expected):
    (tmp_path / "mine.toml").write_bytes(given if isinstance(given, bytes) else given.encode())
    message = refused("mine.toml")
    assert message.startswith("mine.toml: ")
    assert [word for word in expected if word not in message] == []


@named(ODD_OPTIONS)
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
        (["configs"], ["configs: expected a config file, got a folder; it holds configs/mine.toml"]),
        (["."], [".: expected a config file, got a folder; it holds a b.toml"]),
        (["a", "b.toml", "--yes"], ["expected a name with spaces in quotes: train.py 'a b.toml' --yes"]),
        (["house.toml"], ["house.toml: no such file; there are configs/mine.toml"]),
        (["configs/mine.toml/x.toml"], ["configs/mine.toml/x.toml", "Not a directory"]),
        ([""], ["expected a config file"]),
        (["configs/mine.toml", "a b.toml"], ["expected one config, got configs/mine.toml and a b.toml"]),
        (["x" * 300 + ".toml"], ["File name too long"]),
        (["a\0b.toml"], ["a\\x00b.toml", "null"]),
    ],
    ids=lambda value: " ".join(value)[:20],
)
def test_a_missing_config_is_told_with_those_there_are(refused, tmp_path, arguments, expected):
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs" / "mine.toml").write_text("[task]\nname = 'copy'\n")
    (tmp_path / "a b.toml").write_text("[task]\nname = 'copy'\n")
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


def test_a_file_full_of_mistakes_is_told_in_a_line(refused, tmp_path):
    lines = [f"key_{number} = 1" for number in range(100)]
    (tmp_path / "mine.toml").write_text("[task]\n" + "\n".join(lines))
    told = refused("mine.toml")
    assert told.startswith("mine.toml: task.key_0: unknown key; did you mean task.keys?")
    assert re.search(r"\? Also wrong: task.key_1, task.key_2, .* and \d\d more$", told)


CONFIG_LATE = [
    ("--lr 3 mine.toml", "mine.toml --training.learning-rate 3"),
    ("--model.width 16 --training.seed=3 mine.toml", "mine.toml --model.width 16 --training.seed=3"),
    ("--evaluation.test-lengths 4 8 mine.toml", "mine.toml --evaluation.test-lengths 4 8"),
    ("--run.no-cache mine.toml --task.name sort", "mine.toml --run.no-cache --task.name sort"),
    ("--task.name reverse mine.toml", "mine.toml --task.name reverse"),
    ("--config mine.toml --seed 3", "mine.toml --training.seed 3"),
    ("--sweep model.width 8 16 mine.toml", "mine.toml --sweep model.width 8 16"),
    ("--run.folder 'a b' mine.toml", "mine.toml --run.folder 'a b'"),
    ("--help mine.toml", "mine.toml --help"),
]


@pytest.mark.parametrize(("given", "line"), CONFIG_LATE)
def test_options_before_the_config_are_answered_with_the_line_to_type(refused, tmp_path, given, line):
    (tmp_path / "mine.toml").write_text("[task]\nname = 'copy'\n")
    assert refused(*shlex.split(given)) == f"command line: expected the config first: train.py {line}"


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ("--gpu mine.toml", "--gpu: unknown option; JAX takes the GPU"),
        ("--device cpu mine.toml", "--device: unknown option; JAX takes the GPU"),
        ("--bogus 3 mine.toml", "--bogus: unknown option; see train.py CONFIG --help"),
        ("--task.name reverse", "expected a config file first: train.py CONFIG [OPTIONS]"),
    ],
)
def test_an_option_before_the_config_that_is_none_is_answered_itself(refused, tmp_path, given, words):
    (tmp_path / "mine.toml").write_text("[task]\nname = 'copy'\n")
    assert words in refused(*given.split())


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
        (SMALL, ["--mesh.data", "3"], ["training.batch_size", "3 devices", "got 8"]),
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
    assert len(err.strip().splitlines()) == 1
    # How many devices there are is known only after the first line.
    assert out.count("\n") == ("devices" in " ".join(expected))
    assert [path.name for path in tmp_path.iterdir()] == ["mine.toml"]


def test_a_run_folder_whose_config_is_broken_is_a_mistake_too(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("jattn.training.runs.configure_jax", lambda config: None)
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.toml").write_text("[task]\nold_key = 1\n")
    (tmp_path / "mine.toml").write_text(SMALL)
    assert main.main([str(tmp_path / "mine.toml"), "--run.folder", str(tmp_path / "run")]) == 2
    assert str(tmp_path / "run") in capsys.readouterr().err


def test_help_ends_with_status_0(tmp_path):
    status, out, err = command(tmp_path, "mine.toml", "--help")
    assert status == 0
    assert err == ""
    assert "--model.num-heads" in out
    assert "attention heads; must divide the width" in out


def test_there_are_enough_mistakes():
    assert len(FILES) >= 90
    assert len(OPTIONS) >= 90


def test_a_terminal_is_shown_names_and_obeys_none(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert __main__.main(["report", "a\x1b[2J\u202egnp\u2066"]) == 2
    told = capsys.readouterr().err
    assert told.rstrip("\n").isprintable()
    assert r"a\x1b[2J\u202egnp\u2066" in told
