"""What a task takes in Python, in a config and on the command line, and what it refuses."""

import pytest
import tomli_w

from jattn.__main__ import main
from jattn.command.options import config_from_arguments
from jattn.tasks import TASKS, draw
from jattn.tasks.catalogue import CATALOGUE, make_task, task_options
from jattn.training.config import Config, TaskConfig
from jattn.training.reading import ConfigError, check, differences

COMMON = {"name", "layout", "min_length", "max_length"}


def test_every_option_of_every_task_is_a_key_of_the_config_and_none_besides():
    assert {key for name in CATALOGUE for key in task_options(name)} == set(TaskConfig.model_fields) - COMMON


@pytest.mark.parametrize("name", TASKS)
def test_a_config_is_filled_in_with_what_its_task_has(name):
    given = {"name": name, "layout": TASKS[name]().layouts[0]}
    config = check({"task": given}, "test")
    task = config.task.make()
    assert task.symbols == TASKS[name]().symbols
    assert (config.task.min_length, config.task.max_length) == (task.length, task.length)
    written = config.model_dump()["task"]
    assert set(written) == COMMON | set(task_options(name))
    assert check({"task": written}, "test") == config
    assert "None" not in tomli_w.dumps(config.model_dump())


@pytest.mark.parametrize("name", TASKS)
def test_every_option_may_be_given(name):
    options, given = task_options(name), {"name": name, "layout": TASKS[name]().layouts[0]}
    config = check({"task": given | options}, "test")
    assert config == check({"task": given}, "test")
    assert config.task.make().symbols == make_task(name, options).symbols


def test_options_reach_the_task(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text("[task]\nname = 'mqar'\nvocabulary = 64\n")
    config = config_from_arguments([str(path), "--task.pairs", "2", "--task.max-length", "80"])
    assert config.task.make().symbols[-1] == "v31"
    assert (config.task.pairs, config.task.min_length, config.task.max_length) == (2, 64, 80)


def test_another_task_on_the_command_line_brings_its_own_defaults(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text("[task]\nname = 'reverse'\n[model]\nwidth = 16\n")
    config = config_from_arguments([str(path), "--task.name", "parity"])
    assert config == check({"task": {"name": "parity"}, "model": {"width": 16}, "run": {"folder": "runs/mine"}}, "test")
    assert "task.symbols: None | 10" in differences(config, Config())
    assert "task.symbols: 10 | None" in differences(Config(), config)


MISTAKES = [
    ("name = 'parity'\nsymbols = 3", "task.symbols", "'parity'", "no such option", "none"),
    ("name = 'reverse'\npairs = 3", "task.pairs", "'reverse'", "no such option", "symbols"),
    ("name = 'mqar'\npair = 3", "task.pair:", "did you mean task.pairs"),
    ("name = 'mqra'", "'mqra'", "did you mean 'mqar'"),
    ("name = 'mqar'\npairs = 17\nmax_length = 64\nmin_length = 64", "task.min_length", "68", "got 64", "nearest: 68"),
    ("name = 'mqar'\nvocabulary = 6", "task.vocabulary", "at least 8", "got 6"),
    ("name = 'mqar'\nvocabulary = 65", "task.vocabulary", "even", "65", "nearest: 64"),
    ("name = 'associative_recall'\nkeys = 3\nmax_length = 11", "task.max_length", "keys = 3", "to 7", "nearest: 7"),
    ("name = 'variable_tracking'\nhops = 30", "task.names", "at least 31", "got 26"),
    (
        "name = 'variable_tracking'\nhops = 4\nmin_length = 9\nmax_length = 21",
        *("task.min_length", "hops = 4", "from 11", "got 9", "nearest: 11"),
    ),
    ("name = 'selective_copy'\nitems = 20\nmin_length = 30\nmax_length = 40", "task.min_length", "from 40", "got 30"),
    ("name = 'permute'\nplaces = 4", "task.min_length", "places = 4", "to 9", "got 16", "nearest: 9"),
    ("name = 'histogram'\nmax_length = 20", "task.max_length", "max_count = 16", "to 16", "got 20", "nearest: 16"),
    ("name = 'reading'\nfacts = 4", "task.facts", "got 4", "3"),
    ("name = 'reading'\nmin_length = 9", "task.min_length", "from 10", "got 9", "nearest: 10"),
    ("name = 'sort'\nlayout = 'causal'", "task.layout", "'sort'", "'encoder'", "got 'causal'"),
    ("name = 'captions'", "task.layout", "'encoder_decoder'", "got none, which is 'encoder'"),
    ("name = 'captions'\nimage = 9\npatch = 4", "task.image", "multiple of 4 from 8 to 256", "got 9", "nearest: 8"),
    ("name = 'captions'\nshape = 9", "task.image", "from 20", "two shapes of 9", "got 12", "nearest: 20"),
    ("name = 'captions'\npatch = 1\nshape = 33", "task.shape", "from 3 to 32", "got 33", "nearest: 32"),
    ("name = 'captions'\nlayout = 'encoder_decoder'\nmax_length = 25", "task.max_length", "to 9", "nearest: 9"),
    ("name = 'modular_addition'\nmodulus = 1", "task.modulus", "got 1", "2"),
    ("name = 'modular_addition'\ntrain_share = 1.5", "task.train_share", "1", "got 1.5"),
    ("name = 'modular_addition'\nsplit_seed = 3", "task.split_seed", "expected 0", "train_share of 1", "got 3"),
    ("name = 'modular_addition'\nmodulus = 2\ntrain_share = 0.1", "task.train_share", "1 to 3", "got 0.1 with 0"),
    ("name = 'modular_addition'\nmodulus = 1001\ntrain_share = 0.1", "task.modulus", "at most 1000", "got 1001"),
    ("name = 'odds_first'\ngenerator = 'chomski'", "task.generator", "'chomsky'", "got 'chomski'"),
    ("name = 'induction'\ngenerator = 'mad'", "task.generator", "'jattn' or 'safari'", "got 'mad'"),
    ("name = 'copy'\ngenerator = 'safari'", "task.generator", "'copy'", "no such option"),
    ("name = 'induction'\ngenerator = 'safari'", "task.layout", "'causal'", "got none, which is 'encoder'"),
    ("name = 'mqar'\nvocabulary = 16\ngenerator = 'zoology'", "task.vocabulary", "at least 18", "got 16"),
    (
        "name = 'mqar'\nvocabulary = 64\nmax_length = 64\ngenerator = 'zoology'",
        *("task.max_length", "generator = zoology", "to 62", "got 64"),
    ),
    ("name = 'listops'\nmin_length = 3", "task.min_length", "depth = 2", "from 4", "got 3", "nearest: 4"),
    ("name = 'listops'\ndepth = 0", "task.depth", "got 0", "1"),
    ("name = 'entailment'\nmax_length = 39", "task.max_length", "from 11 to 27", "got 39", "nearest: 27"),
    ("name = 'summarisation'\nlayout = 'causal'", "task.layout", "'encoder'", "got 'causal'"),
    ("name = 'pronoun'\nlayout = 'causal'", "task.layout", "'pronoun'", "'encoder'", "got 'causal'"),
    ("name = 'pronoun'\nsplit = 'tests'", "task.split", "'train'", "'test'", "got 'tests'"),
    ("name = 'reading'\nsplit = 'test'", "task.split", "'reading'", "no such option"),
    ("name = 'pronoun'\n[evaluation]\ntest_lengths = [12]", "evaluation.test_lengths", "13", "got 12"),
    (
        "name = 'needle'\nlayout = 'decoder'\n[model]\npositions = 'learned'\nmax_length = 64",
        *("model.max_length", "65", "got model.max_length 64"),
    ),
]


@pytest.mark.parametrize(("text", "expected"), [(text, words) for text, *words in MISTAKES])
def test_what_cannot_work_is_refused_with_what_can(tmp_path, text, expected):
    path = tmp_path / "mine.toml"
    path.write_text(f"[task]\n{text}\n")
    with pytest.raises(ConfigError) as refused:
        config_from_arguments([str(path)])
    assert [word for word in expected if word not in str(refused.value)] == []


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: TASKS["copy"](0), ["num_symbols", "at least 1", "got 0"]),
        (lambda: TASKS["shift"](num_symbols=0), ["num_symbols", "at least 1", "got 0"]),
        (lambda: TASKS["induction"](1), ["num_symbols", "at least 2", "got 1"]),
        (lambda: TASKS["mqar"](pairs=0), ["pairs", "at least 1", "got 0"]),
        (lambda: TASKS["addition"](generator="safari"), ["generator", "'jattn' or 'chomsky'", "got 'safari'"]),
        (lambda: TASKS["modular_addition"](7, 0.0), ["train_share", "above 0, at most 1", "got 0.0"]),
        (lambda: TASKS["modular_addition"](7, 0.5, -1), ["split_seed", "from 0", "got -1"]),
        (lambda: TASKS["captions"](patch=0), ["patch", "at least 1", "got 0", "nearest: 1"]),
        (lambda: TASKS["captions"](shape=2), ["shape", "from 3", "got 2", "nearest: 3"]),
        (lambda: TASKS["captions"](image=300), ["image", "to 256", "got 300", "nearest: 256"]),
        (lambda: TASKS["listops"](depth=0), ["depth", "at least 1", "got 0"]),
        (lambda: TASKS["listops"](num_operators=4), ["num_operators", "got 4", "nearest: 3"]),
        (lambda: TASKS["reading"](5), ["facts", "1, 2 or 3", "got 5", "nearest: 3"]),
        (lambda: TASKS["pronoun"]("tests"), ["split", "'train' or 'test'", "got 'tests'"]),
        (lambda: TASKS["pronoun"](read_at="was"), ["read_at", "'it' or 'end'", "got 'was'"]),
        (lambda: make_task("needle", {"symbol": 3}), ["symbol:", "'needle'", "symbols, hay"]),
        (lambda: draw(TASKS["dyck"](), length=1), ["length", "'dyck'", "got 1", "nearest: 2"]),
    ],
)
def test_what_cannot_work_is_refused_in_python(make, words):
    with pytest.raises(ValueError, match=r".") as refused:
        make()
    assert [word for word in words if word not in str(refused.value)] == []


def test_the_command_lists_every_task(capsys):
    assert main(["tasks"]) == 0
    told = capsys.readouterr().out
    assert [name for name in TASKS if f"\n  {name} " not in told] == []
    assert all(len(line) <= 160 for line in told.splitlines())


def test_the_command_shows_a_task_with_its_oracle(capsys):
    assert main(["tasks", "shift", "--length", "4", "--examples", "2"]) == 0
    told = capsys.readouterr().out
    assert "options: symbols = 10, by = 1" in told
    assert draw(TASKS["shift"](), 4, seed=1).splitlines()[2] in told
    assert told.count("#") == 8 + told.split("options:")[0].count("#")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [(["mqra"], ["'mqra'", "did you mean mqar"]), (["mqar", "--length", "5"], ["16", "got 5", "nearest: 16"])],
)
def test_the_command_refuses_with_status_2(capsys, arguments, words):
    assert main(["tasks", *arguments]) == 2
    told = capsys.readouterr()
    assert told.out == ""
    assert [word for word in words if word not in told.err] == []
