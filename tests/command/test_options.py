"""Configs that are right: files, defaults, options on top, and the way back to a file."""

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import tomli_w

from jattn.command.options import config_from_arguments
from jattn.command.sweeps import sweep_from_arguments
from jattn.training import shipped, tables
from jattn.training.config import Config
from jattn.training.reading import ConfigError, check, differences, read_toml

ROOT = Path(__file__).resolve().parents[2]
SECTIONS = {name: field.annotation for name, field in Config.model_fields.items()}
KEYS = [(table, key) for table, section in SECTIONS.items() for key in section.model_fields]


@pytest.fixture
def config_file(tmp_path, monkeypatch):
    """Writes a config file into the working directory; returns its name."""
    monkeypatch.chdir(tmp_path)

    def write(text, name="mine.toml"):
        Path(name).write_bytes(text.encode("utf-8") if isinstance(text, str) else text)
        return name

    return write


def value_of(config, path):
    table, key = path.split(".")
    return getattr(getattr(config, table), key)


@pytest.mark.parametrize("path", sorted((ROOT / "configs").glob("*.toml")), ids=lambda path: path.stem)
def test_every_config_of_the_repository_is_right(path):
    config = config_from_arguments([str(path)])
    assert config.run.folder == os.path.join("runs", path.stem)
    for table, entries in read_toml(path).items():
        for key, value in entries.items():
            found = value_of(config, f"{table}.{key}")
            assert found == (tuple(value) if isinstance(value, list) else value)


@pytest.mark.parametrize(("table", "key"), KEYS, ids=[f"{table}.{key}" for table, key in KEYS])
def test_every_key_is_described(table, key):
    assert SECTIONS[table].model_fields[key].description


def help_of(capsys, *arguments):
    """What the command prints when it is asked for help."""
    with pytest.raises(SystemExit) as ended:
        config_from_arguments([*arguments, "--help"])
    assert ended.value.code == 0
    return capsys.readouterr().out


def test_help_tells_the_configs_and_where_to_read_on(capsys):
    told = help_of(capsys)
    assert "train.py CONFIG [--TABLE.KEY VALUE ...]" in told
    assert all(f"  {path.stem} " in told for path in (ROOT / "configs").glob("*.toml"))
    assert "Read on: README.md" in told


@pytest.mark.parametrize("columns", [1, 17, 40, 80, 200])
def test_help_of_a_config_tells_every_key_that_it_uses_in_any_width(config_file, capsys, monkeypatch, columns):
    monkeypatch.setenv("COLUMNS", str(columns))
    told = help_of(capsys, config_file("[task]\nname = 'shift'\n[model]\nscore = 'cosine'\n"))
    assert max(map(len, told.split("\n"))) <= columns
    letters = "".join(told.split())
    shown = re.findall(r"^  --([a-z]+\.[a-z-]+)", told, flags=re.MULTILINE) if columns >= 80 else []
    used = check({"task": {"name": "shift"}, "model": {"score": "cosine"}}, "test").model_dump()
    # Choices that are none by default are used, too, and not written down.
    unwritten = {("model", key) for key in ("positions", *tables.CHOICES)}
    for table, key in KEYS:
        here = key in used[table]
        assert not shown or (f"{table}.{key.replace('_', '-')}" in shown) == (here or (table, key) in unwritten)
        if here:
            assert f"--{table}.{key.replace('_', '-')}" in letters
            assert "".join((SECTIONS[table].model_fields[key].description or "").split()) in letters


@pytest.mark.parametrize(
    ("read", "more"),
    [
        (config_from_arguments, []),
        (config_from_arguments, ["--help"]),
        (sweep_from_arguments, ["--sweep", "training.seed", "1", "2"]),
    ],
)
def test_a_table_that_is_none_is_told_whatever_the_options_ask_for(config_file, read, more):
    with pytest.raises(ConfigError) as refused:
        read([config_file("model = 3\n"), "--model.kind", "gru", *more])
    assert str(refused.value) == "mine.toml: model: expected a table [model], got 3"


def test_help_tells_ranges_choices_and_what_a_key_is_now(config_file, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    told = help_of(
        capsys, config_file("[task]\nname = 'sort'\nsymbols = 77\n"), "--model.width", "48", "--run.no-cache"
    )
    for lines in (
        "--task.symbols INTEGER at least 2, at most 10,000\n      now 77\n",
        "--task.max-length INTEGER at least 1, at most 4,096\n      now 16\n",
        "--model.width INTEGER at least 2, at most 8,192\n      now 48\n",
        "--model.norm pre|post\n      now pre\n",
        "--training.learning-rate NUMBER more than 0, at most 1e+38\n      now 0.01\n",
        "--evaluation.test-lengths INTEGER ...\n      now none\n",
        "--run.folder TEXT\n      now runs/mine\n",
        "--run.logger tensorboard|wandb ...\n      now none\n",
        "--run.cache true|false\n      now false\n",
    ):
        assert lines in told
    assert "--model.temperature" not in told


@pytest.mark.parametrize("text", ["[task]\nsymbols = 7\n", "\ufeff[task]\r\nsymbols = 7\r\n", "# é\n[task]\nsymbols=7"])
def test_a_file_says_what_differs_from_the_defaults(config_file, text):
    config = config_from_arguments([config_file(text)])
    assert differences(config, Config()) == ["task.symbols: 7 | 10"]


@pytest.mark.parametrize(
    ("options", "path", "value"),
    [
        (["--model.num-heads", "4"], "model.num_heads", 4),
        (["--model.num-heads=4"], "model.num_heads", 4),
        (["--model.num_heads", "4"], "model.num_heads", 4),
        (["--training.learning-rate", "3e-4"], "training.learning_rate", 3e-4),
        (["--training.learning-rate", "1"], "training.learning_rate", 1.0),
        (["--training.weight-decay", "0"], "training.weight_decay", 0.0),
        (["--run.overwrite"], "run.overwrite", True),
        (["--run.no-cache"], "run.cache", False),
        (["--training.no-stop-when-solved"], "training.stop_when_solved", False),
        (["--evaluation.test-lengths", "4", "8", "24"], "evaluation.test_lengths", (4, 8, 24)),
        (["--evaluation.test-lengths", "4,8,24"], "evaluation.test_lengths", (4, 8, 24)),
        (["--evaluation.test-lengths", "4,", "8"], "evaluation.test_lengths", (4, 8)),
        (["--evaluation.test-lengths", "[4,", "8]"], "evaluation.test_lengths", (4, 8)),
        (["--evaluation.test-lengths=[4,8]"], "evaluation.test_lengths", (4, 8)),
        (["--evaluation.test-lengths"], "evaluation.test_lengths", ()),
        (["--task.layout", "encoder_decoder"], "task.layout", "encoder_decoder"),
        (["--training.dtype", "bfloat16"], "training.dtype", "bfloat16"),
        (["--model.positions", "relative"], "model.positions", "relative"),
        (["--run.folder", "some where/é"], "run.folder", "some where/é"),
        (["--model.width", "48", "--model.num-heads", "3"], "model.num_heads", 3),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_an_option_changes_its_key_and_nothing_else(config_file, options, path, value):
    text = "[model]\nwidth = 16\n[training]\nstop_when_solved = true\n[evaluation]\ntest_lengths = [5]\n"
    before = config_from_arguments([config_file(text)])
    config = config_from_arguments([config_file(text), *options])
    assert value_of(config, path) == value
    assert type(value_of(config, path)) is type(value)
    changed = {line.split(":")[0] for line in differences(config, before)}
    assert changed <= {path, "model.width"} | ({"model.queries"} if path == "task.layout" else set())


@pytest.mark.parametrize(
    "path", ["model.dropout_rate", "training.learning_rate", "training.weight_decay", "evaluation.solved_accuracy"]
)
def test_a_whole_number_will_do_where_a_number_is_meant(config_file, path):
    table, key = path.split(".")
    whole = 0 if key == "dropout_rate" else 1
    value = value_of(config_from_arguments([config_file(f"[{table}]\n{key} = {whole}\n")]), path)
    assert value == whole
    assert isinstance(value, float)


@pytest.mark.parametrize(
    ("name", "options", "folder"),
    [
        ("mine.toml", [], "runs/mine"),
        ("other.name.toml", [], "runs/other.name"),
        ("mine.toml", ["--run.folder", "elsewhere"], "elsewhere"),
        ("mine.toml", ["--model.width", "16"], "runs/mine"),
    ],
)
def test_the_run_folder_is_named_after_the_config(config_file, name, options, folder):
    assert config_from_arguments([config_file("[task]\nsymbols = 7\n", name), *options]).run.folder == folder


def test_a_config_is_the_same_after_a_way_through_a_file(config_file):
    config = config_from_arguments(
        [
            config_file('[evaluation]\ntest_lengths = [4, 30]\n[run]\nfolder = "a \\"quoted\\" é\\\\\\u202e"\n'),
            *(
                "--training.learning-rate",
                "0.1",
                "--model.score",
                "cosine",
                "--model.temperature",
                "1e-17",
                "--model.positions",
                "rotary",
            ),
            *("--training.seed", str(2**32 - 1), "--run.no-cache"),
        ]
    )
    text = tomli_w.dumps(config.model_dump())
    assert config_from_arguments([config_file(text)]) == config
    assert tomllib.loads(text)["run"]["folder"] == 'a "quoted" é\\\u202e'


def test_a_config_cannot_be_changed():
    with pytest.raises(ValueError, match="frozen"):
        Config().model.width = 7


NONSENSE = (
    *(
        "",
        " ",
        "None",
        "null",
        "nan",
        "inf",
        "-inf",
        "-1",
        "0",
        "1e400",
        "9" * 50,
        "９",
        "१",
        "0.5.5",
        "{}",
        "true",
        "'a'",
    ),
    *("[", "[]", "[1, 'a']", "a\0b", "1 # 2", "\u202e1", "x" * 3000, "1979-05-27", "--", "="),
)


def config_or_mistake(arguments):
    try:
        return config_from_arguments(arguments)
    except ConfigError as refused:
        return str(refused)


@pytest.mark.parametrize("text", NONSENSE, ids=lambda text: ascii(text)[:20])
def test_a_value_is_understood_as_it_stands_or_refused(config_file, text):
    name = config_file("[task]\nsymbols = 7\n")
    for table, key in KEYS:
        found = config_or_mistake([name, f"--{table}.{key}={text}"])
        if isinstance(found, str):
            assert len(found) < 1500
            assert found.replace("\n", "").isprintable()
            continue
        value = value_of(found, f"{table}.{key}")
        assert value == text or str(value).lower() in (text, f"{text}.0") or (text == "[]" and value == ())


@pytest.mark.parametrize("kind", ["large", "many keys", "deep"])
def test_a_config_that_cannot_be_meant_is_refused_at_once(config_file, kind):
    text = {
        "large": "# \n" * 400_000,
        "many keys": "[task]\n" + "".join(f"k{number} = 1\n" for number in range(60_000)),
        "deep": "[" + ".".join("a" * 2000) + "]\nx = 1\n",
    }[kind]
    with pytest.raises(ConfigError) as refused:
        config_from_arguments([config_file(text)])
    assert len(str(refused.value).splitlines()) == 1
    assert len(str(refused.value)) <= 300


def test_a_long_sweep_is_made_when_asked_for(config_file):
    name = config_file("[task]\nsymbols = 7\n")
    sweep = sweep_from_arguments([name, "--sweep", "training.seed", *map(str, range(101)), "--yes"])
    assert len(sweep.combinations) == 101


def test_the_longest_source_is_of_training_or_test():
    assert check({"task": {"max_length": 20}}, "test").longest() == 20
    assert check({"evaluation": {"test_lengths": [4, 90]}}, "test").longest() == 90


def test_differences_are_told_from_the_first_to_the_second():
    one = check({"model": {"width": 16}, "run": {"folder": "a", "probes": 3}}, "test")
    other = check({"run": {"folder": "b", "overwrite": True, "cache": False}}, "test")
    assert differences(one, other) == ["model.width: 16 | 32", "run.probes: 3 | 4"]
    assert differences(other, one) == ["model.width: 32 | 16", "run.probes: 4 | 3"]
    assert differences(one, one) == []


def test_every_mistake_of_a_file_is_told_at_once(config_file):
    text = "[task]\nnmae = 'copy'\nsymbols = 1\n[training]\nsteps = 0\n"
    with pytest.raises(ConfigError) as refused:
        config_from_arguments([config_file(text)])
    first = "mine.toml: task.nmae: unknown key; did you mean task.name?"
    assert str(refused.value) == f"{first} Also wrong: task.symbols, training.steps"


CHOICES = [
    ("model.kind", "gru", ["model.hidden", "model.norm", "model.positions", "model.max_length"]),
    ("model.positions", "rotary", ["model.max_length"]),
    ("task.name", "shift", []),
    ("task.name", "parity", ["task.symbols"]),
]


@pytest.mark.parametrize(("path", "value", "gone"), CHOICES)
def test_what_another_choice_has_no_use_for_is_left_out_and_told(config_file, capsys, path, value, gone):
    text = """
    [task]
    symbols = 7
    layout = "encoder_decoder"
    [model]
    hidden = 9
    norm = "post"
    positions = "learned"
    max_length = 99
    num_heads = 2
    width = 8
    """
    config = config_from_arguments([config_file(text), f"--{path}", value])
    written = {f"{table}.{key}" for table, entries in config.model_dump().items() for key in entries}
    assert value_of(config, path) == value
    assert written.isdisjoint(gone)
    told = capsys.readouterr().err
    assert sorted(told.strip().removeprefix("mine.toml: left out, as nothing chosen uses it: ").split(", ")) == (
        sorted(gone) or [""]
    )


def test_what_is_given_beside_a_choice_that_has_no_use_for_it_is_refused(config_file):
    name = config_file("[task]\nlayout = 'encoder_decoder'\n[model]\nhidden = 9\n")
    with pytest.raises(ConfigError, match=r"command line: model\.hidden: kind 'gru' does not use it"):
        config_from_arguments([name, "--model.kind", "gru", "--model.hidden", "9"])


def test_a_file_is_wrong_by_itself_whatever_the_options_are(config_file):
    with pytest.raises(ConfigError, match=r"^mine.toml: model\.temperature: score 'scaled_dot' does not use it"):
        config_from_arguments([config_file("[model]\ntemperature = 1.0\n"), "--model.width", "8"])


def test_names_and_ranges_are_told_without_jax(config_file):
    code = """if True:
        import sys
        from jattn.__main__ import main
        from jattn.command.options import config_from_arguments
        from jattn.tasks.catalogue import FAMILIES, make_task
        from jattn.training.announcing import first_line

        mistakes = [
            "--model.widht 8", "--training.steps 0", "--sweep model.widht 8", "--task.max-length 8",
            "--model.num-heads 3", "--task.layout causal", "--evaluation.test-lengths 5000",
        ]
        for mistake in mistakes:
            assert main(["train", sys.argv[1], *mistake.split()]) == 2, mistake
        assert [main(words.split()) for words in ("--help", "tasks", "tasks revers", "configs")] == [0, 0, 2, 0]
        try:
            main(["train", sys.argv[1], "--help"])
        except SystemExit as done:
            assert done.code == 0
        print(first_line(config_from_arguments([sys.argv[1]])))
        for family in FAMILIES.values():
            for name in family:
                make_task(name, {})
        assert {"jax", "matplotlib"} & sys.modules.keys() == set()
    """
    name = str(Path(config_file("[model]\nwidth = 8\n")).resolve())
    done = subprocess.run([sys.executable, "-c", code, name], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert len(done.stderr.splitlines()) == 8
    assert re.search(r"--task.max-length INTEGER.*\n +now 16\n", done.stdout)
    assert done.stdout.endswith(
        "reverse, layout encoder: transformer of 1 layer, 1 head, width 8; run folder runs/mine\n"
    )


@pytest.mark.parametrize("name", ["configs/reverse.toml", "reverse.toml"])
def test_configs_that_come_with_jattn_are_found_from_any_folder(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    assert (
        config_from_arguments([name]).training == config_from_arguments([str(ROOT / "configs/reverse.toml")]).training
    )
    with pytest.raises(ConfigError, match=r"no such file; did you mean (configs/)?reverse.toml\?"):
        config_from_arguments([name.replace("reverse", "revers")])
    with pytest.raises(ConfigError, match=r"^mine/reverse.toml: no such file"):
        config_from_arguments(["mine/reverse.toml"])
    # The folder of a run may have the name of its config.
    (tmp_path / "reverse").mkdir()
    (tmp_path / "reverse" / "config.toml").write_text("[model]\nwidth = 8\n")
    assert config_from_arguments(["reverse"]).model.width == 32
    (tmp_path / "reverse.toml").write_text("[model]\nwidth = 8\n")
    assert config_from_arguments(["reverse.toml"]).model.width == 8


def test_configs_in_a_wheel_are_found_there(tmp_path, monkeypatch):
    monkeypatch.setattr(shipped, "PACKAGE", tmp_path / "site" / "jattn")
    (tmp_path / "site" / "jattn" / "configs").mkdir(parents=True)
    (tmp_path / "site" / "jattn" / "configs" / "only.toml").write_text("[model]\nwidth = 8\n")
    monkeypatch.chdir(tmp_path)
    assert config_from_arguments(["only.toml"]).model.width == 8
