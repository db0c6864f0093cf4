"""The command ``jattn``: what it lists, prints and trains."""

import subprocess
import sys
from pathlib import Path

import pytest

from jattn import __main__, __version__
from jattn.training.reading import read_toml
from jattn.training.shipped import configs_folder

CONFIGS = sorted(configs_folder().glob("*.toml"))


def told(capsys, *arguments):
    """The status of the command, and what it printed."""
    try:
        status = __main__.main(list(arguments))
    except SystemExit as ended:
        status = ended.code
    printed = capsys.readouterr()
    return status, printed.out, printed.err


def test_configs_are_listed_with_their_tasks_and_a_sentence(capsys):
    status, out, _ = told(capsys, "configs")
    lines = out.split("\n\n")[0].split("\n")
    assert status == 0
    assert [line.split()[0] for line in lines] == [path.stem for path in CONFIGS]
    for path, line in zip(CONFIGS, lines, strict=True):
        task, _, sentence = line.removeprefix(path.stem).strip().partition(": ")
        assert task == read_toml(path)["task"]["name"]
        assert len(sentence) > 10
        assert sentence[-1] in ".?"
        assert "\n" not in sentence


@pytest.mark.parametrize("name", ["reverse", "reverse.toml", "configs/reverse.toml"])
def test_a_config_that_comes_with_jattn_is_found_by_its_name_from_anywhere(name, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    whole = (configs_folder() / "reverse.toml").read_text()
    assert told(capsys, "configs", name) == (0, whole, "")
    assert read_toml(Path(name)) == read_toml(configs_folder() / "reverse.toml")


MISTAKES = {
    "configs revers": "configs: there is no config 'revers'; did you mean reverse?\n",
    "configs zzz": "configs: there is no config 'zzz'; jattn configs lists those there are\n",
    "train reverse --seed 3": "command line: --seed: unknown option; did you mean --training.seed?\n",
    "train revers": "revers: no such file; did you mean reverse.toml?\n",
    "train reverse --foo": "command line: --foo: unknown option; see jattn train CONFIG --help\n",
    "tasks revers": "tasks: there is no task 'revers'; did you mean reverse?\n",
}


@pytest.mark.parametrize("words", MISTAKES)
def test_mistakes_are_told_in_a_line(words, capsys):
    assert told(capsys, *words.split()) == (2, "", MISTAKES[words])


@pytest.mark.parametrize("command", ["configs", "tasks"])
def test_a_reader_who_leaves_ends_it_quietly(command):
    program = f"{sys.executable} -m jattn {command} | head -n 1"
    run = subprocess.run(["bash", "-o", "pipefail", "-c", program], capture_output=True, text=True, check=False)
    assert run.stderr == ""
    assert run.stdout.count("\n") == 1


def test_nothing_asked_for_is_told_what_there_is(capsys):
    status, _, err = told(capsys, "train")
    assert status == 2
    assert err.startswith(
        "expected a config file first: jattn train CONFIG [OPTIONS]; there are configs/addition.toml,"
    )
    assert len(err) <= 300
    assert told(capsys, "--version") == (0, f"jattn {__version__}\n", "")
    status, out, _ = told(capsys, "--help")
    assert status == 0
    assert all(f"    {command} " in out for command in ("train", "report", "tasks", "configs"))


def test_a_config_of_ones_own_comes_first(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("reverse.toml").write_text("[task]\nname = 'copy'\n")
    assert read_toml(Path("reverse.toml")) == {"task": {"name": "copy"}}
    assert told(capsys, "train", "reverse.toml", "--lr", "1")[2].startswith("command line: --lr: unknown option")
