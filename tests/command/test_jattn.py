"""The command ``jattn``: what it lists, prints and trains."""

import os
import subprocess
import sys
from pathlib import Path
from unittest import mock

import pytest

from jattn import __main__, __version__
from jattn.command import commands
from jattn.command.commands import COMMANDS
from jattn.training.reading import read_toml
from jattn.training.shipped import configs_folder

ROOT = Path(__file__).resolve().parents[2]
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
        task, sentence = read_toml(path)["task"]["name"], line.removeprefix(path.stem).strip()
        assert sentence.startswith(f"{task}: ") == (task != path.stem)
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
    "tasks copy --length 0": "tasks: length: task 'copy' needs one from 1 to 4096, got 0; nearest: 1\n",
    "tasks copy --length x": "jattn tasks: --length: expected an integer, got 'x'; see jattn tasks --help\n",
    "reverse": "jattn: reverse: unknown command; did you mean: jattn train reverse?\n",
    "revers": "jattn: revers: unknown command; did you mean: jattn train reverse?\n",
    "trian": "jattn: trian: unknown command; did you mean: jattn train?\n",
    "zzz": "jattn: zzz: unknown command; there are train, predict, report, tasks, configs, see, explain\n",
    "report": "jattn report: expected run_folder; see jattn report --help\n",
    "predict nowhere 3": "jattn predict: nowhere: expected the folder of a run, there is no config.toml in it\n",
    "tasks reverse --examples -1": "jattn tasks: examples: expected at least 1, got -1; see jattn tasks --help\n",
    "explain 8 --window -1": "jattn explain: window: expected at least 0, got -1; see jattn explain --help\n",
    "explain 99999999999": "jattn explain: length: expected at most 16,777,216, got 99,999,999,999; "
    "see jattn explain --help\n",
    "explain 0": "jattn explain: length: expected at least 1, got 0; see jattn explain --help\n",
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


def test_ctrl_c_ends_a_command_in_a_line(monkeypatch, capsys):
    monkeypatch.setitem(commands.ANSWERS, "configs", mock.Mock(side_effect=KeyboardInterrupt))
    assert told(capsys, "configs") == (130, "", "stopped by SIGINT\n")


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
    assert all(f"\n  {command} " in out for command in COMMANDS)
    assert all(f"\n  {path.stem} " in out for path in CONFIGS)
    assert told(capsys) == told(capsys, "help") == (0, out, "")


def test_a_config_of_ones_own_comes_first(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("reverse.toml").write_text("[task]\nname = 'copy'\n")
    assert read_toml(Path("reverse.toml")) == {"task": {"name": "copy"}}
    assert told(capsys, "train", "reverse.toml", "--lr", "1")[2].startswith("command line: --lr: unknown option")


def test_explain_says_what_attention_will_do(capsys):
    status, out, err = told(capsys, "explain", "4096", "--heads", "8", "--causal", "--dtype", "bfloat16")
    assert (status, err) == (0, "")
    assert out.startswith("blocked: ")
    assert "of the 4096 x 4096 scores computed" in out
    assert "\n  not cudnn: needs a GPU" in out
    assert "the filter as a float32 array would take 537 MB" in out
    assert told(capsys, "explain", "64", "--keys", "8", "--window", "3")[1].startswith("dense: ")


@pytest.mark.exhaustive
def test_a_wheel_trains_in_an_empty_folder(tmp_path):
    """In an environment of its own, which sees the libraries of this one and not this checkout."""
    subprocess.run([sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "-w", tmp_path, ROOT], check=True)
    subprocess.run([sys.executable, "-m", "venv", tmp_path / "fresh"], check=True)
    python = tmp_path / "fresh" / "bin" / "python"
    site = subprocess.check_output([python, "-c", "import site; print(site.getsitepackages()[0])"], text=True).strip()
    (Path(site) / "libraries.pth").write_text(f"import site; site.addsitedir({site_packages()!r})\n")
    install = [python, "-m", "pip", "install", "-q", "--no-deps", "--force-reinstall", next(tmp_path.glob("*.whl"))]
    subprocess.run(install, check=True)
    empty = tmp_path / "empty"
    empty.mkdir()
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    small = ["--training.steps", "2", "--evaluation.examples", "200", "--evaluation.test-examples", "200"]
    run = subprocess.run(
        [tmp_path / "fresh" / "bin" / "jattn", "train", "reverse", *small],
        cwd=empty, env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert run.returncode == 0, run.stderr
    assert (empty / "runs" / "reverse" / "report.html").exists()
    predict = "predict runs/reverse 3 1 4 1 5 9 2 6 5 3 5 8 9 7 9 3"
    for words in ("report runs/reverse", predict, "tasks", "configs", "explain 64", "see --help"):
        done = subprocess.run(
            [tmp_path / "fresh" / "bin" / "jattn", *words.split()],
            cwd=empty, env=environment, capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert (done.returncode, done.stderr) == (0, ""), words
        assert done.stdout, words
    where = [python, "-c", "import jattn; print(jattn.__file__)"]
    assert subprocess.check_output(where, cwd=empty, env=environment, text=True).startswith(str(tmp_path))


def site_packages():
    """Where the libraries of this environment lie."""
    return str(Path(pytest.__file__).resolve().parents[1])


@pytest.mark.skipif(os.name != "posix", reason="sends itself a signal")
def test_ctrl_c_before_anything_handles_it_ends_in_a_line():
    code = """if True:
        import os, signal
        from jattn.command.console import end_at_ctrl_c
        signal.signal(signal.SIGINT, signal.default_int_handler)  # also where the tests run in the background
        end_at_ctrl_c()
        os.kill(os.getpid(), signal.SIGINT)
    """
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "stopped by SIGINT\n")


def test_what_listens_for_ctrl_c_is_gone_before_python_takes_itself_down():
    code = """if True:
        import atexit, signal, threading
        from jattn.command.console import end_at_ctrl_c
        atexit.register(lambda: print([thread.name for thread in threading.enumerate()]))
        signal.signal(signal.SIGINT, signal.default_int_handler)
        end_at_ctrl_c()
    """
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "['MainThread']\n", "")


@pytest.mark.skipif(os.name != "posix", reason="needs a pseudo-terminal")
def test_ctrl_c_ends_a_command_that_compiles(tmp_path):
    from tests.command.terminals import INSIDE_OF_C, in_terminal

    begin = "import signal\nfrom jattn.command.console import end_at_ctrl_c\n"
    begin += "signal.signal(signal.SIGINT, signal.default_int_handler)\nend_at_ctrl_c()\n"
    status, written = in_terminal(tmp_path, program=("-c", begin + INSIDE_OF_C), keys=[("compiling", 0)])
    assert (status, written.count("stopped by SIGINT\r\n")) == (130, 1)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ("list", "jattn: list: unknown command; did you mean: jattn configs?"),
        ("run reverse", "jattn: run: unknown command; did you mean: jattn train?"),
        ("--verison", "jattn: --verison: unknown command; did you mean: jattn --version?"),
        ("-V", "jattn: -V: unknown command; did you mean: jattn --version?"),
        (
            "tasks reverse --lenght 3",
            "jattn tasks: --lenght: unknown option; did you mean --length?; see jattn tasks --help",
        ),
        ("explain abc", "jattn explain: length: expected an integer, got 'abc'; see jattn explain --help"),
        ("--seed 3 reverse", "command line: expected the config first: jattn train reverse --training.seed 3"),
        (
            "explain 8 --dtype fp16",
            "jattn explain: --dtype: expected one of float32, bfloat16, float16, got 'fp16'; see jattn explain --help",
        ),
        ("explain 8 8", "jattn explain: expected no more arguments, got 8; see jattn explain --help"),
        ("see x --picture y", "jattn see: --picture: unknown option; see jattn see --help"),
        ("tasks code.py", "tasks: there is no task 'code.py'; one of your own is written code.py:NAME"),
        ("predict", "jattn predict: expected run_folder, text; see jattn predict --help"),
        (
            "train --config mine.toml",
            "expected a config file first: jattn train CONFIG [OPTIONS], as in: jattn train mine.toml",
        ),
    ],
    ids=lambda value: value[:20],
)
def test_words_that_others_use_for_a_command_are_known(capsys, arguments, said):
    try:
        status = __main__.main(arguments.split())
    except SystemExit as ended:
        status = ended.code
    assert (status, capsys.readouterr().err) == (2, f"{said}\n")


def test_the_config_of_a_run_is_named_where_its_folder_is_meant(capsys, tmp_path, monkeypatch):
    (tmp_path / "old").mkdir()
    (tmp_path / "old" / "config.toml").touch()
    monkeypatch.chdir(tmp_path)
    assert __main__.main(["train", "--resume", "old"]) == 2
    said = "expected a config file first: jattn train CONFIG [OPTIONS], as in: jattn train old/config.toml\n"
    assert capsys.readouterr().err == said
