"""Code of one's own that a config names: its options are keys, and what is wrong with it is said in one line."""

# ruff: noqa: E501

import pickle
import sys

import pytest

import jattn
from jattn.tasks import Task
from jattn.training.loggers import Loggers
from jattn.training.own.code import OwnError, Places, load
from jattn.training.reading import ConfigError, check, class_of, merge
from jattn.training.setup import make_setup

HEAD = """
import dataclasses
from typing import Annotated, Callable, Literal

import flax.linen as nn, jax, jax.numpy as jnp, optax
from pydantic import Field

import jattn
from jattn import tasks

"""

TASKS = '''
def zigzag(stride: Annotated[int, Field(ge=1, le=4)] = 1, order: Literal["up", "down"] = "up", num_symbols=5):
    """Goes on in zigzag: ``1 2 3 -> 1 2 3``.

    Args:
      stride: how far it jumps.
    """
    if num_symbols > 9:
        raise ValueError(f"num_symbols: expected at most 9, got {num_symbols}")
    return dataclasses.replace(tasks.copy(num_symbols), name="zigzag")

ready = tasks.reverse(3)

def needs(depth: int):
    return tasks.copy(depth)

def raises():
    return {}["size"]

def of_a_function(rule: Callable):
    return tasks.copy()

def with_length(max_length=3):
    return tasks.copy()

number = 7

def nothing():
    return None

def made_of(**fields):
    def sample(rng, length, room):
        one = tasks.copy(5).sample(rng, length, room)
        return one._replace(**{key: value(one) for key, value in fields.items()})
    return dataclasses.replace(tasks.copy(5), sample=sample)

def tuples():
    return dataclasses.replace(tasks.copy(5), sample=lambda rng, length, room: (length, length))

def short():
    return made_of(target=lambda one: one.target[:-1])

def floats():
    return made_of(alignment=lambda one: one.alignment * 1.0)

def beyond():
    return made_of(source=lambda one: one.source * 0 + 5)

def endless():
    return made_of(target_length=lambda one: one.target_length + 1)

def divides():
    return made_of(source=lambda one: one.source + {}["places"])
'''

MODELS = """
class Mixer(nn.Module):
    vocabulary: int
    width: int = 16
    gate: Literal["sigmoid", "relu"] = "relu"

    @nn.compact
    def __call__(self, tokens, lengths=None):
        x = nn.Embed(self.vocabulary, self.width)(tokens)
        x = x + getattr(nn, self.gate)(nn.Dense(self.width)(x))
        return nn.Dense(self.vocabulary)(x)

class Other(Mixer):
    score: Callable | None = None
    num_layers: int = 3

def sized(vocabulary, width, depth=2):
    return Mixer(vocabulary, width * depth)

def returns_text(vocabulary):
    return "model"

def raises(vocabulary):
    raise KeyError("weights")

def needs(vocabulary, window: int):
    return Mixer(vocabulary)

def with_kind(vocabulary, kind="small"):
    return Mixer(vocabulary)

instance = Mixer(5)

class NoLengths(nn.Module):
    vocabulary: int
    def __call__(self, tokens):
        return tokens

class NeedsLengths(nn.Module):
    vocabulary: int
    def __call__(self, tokens, lengths):
        return tokens

class Tokens(nn.Module):
    vocabulary: int
    @nn.compact
    def __call__(self, tokens, lengths=None):
        return nn.Embed(3, 7)(tokens)

class Breaks(nn.Module):
    vocabulary: int
    @nn.compact
    def __call__(self, tokens, lengths=None):
        x = nn.Embed(self.vocabulary, 8)(tokens)
        return x @ jnp.ones((3, 3))
"""

OPTIMS = """
def slow(learning_rate, decay: float = 0.9):
    return optax.sgd(learning_rate, momentum=decay)

def fixed():
    return optax.sgd(0.1)

ready = optax.sgd(0.1)

def triangle(peak, steps, floor: float = 0.0):
    return lambda step: jnp.maximum(floor, peak * (1 - step / steps))

def raises(learning_rate):
    return 1 / 0

def returns_rate(learning_rate):
    return learning_rate

def needs(learning_rate, rho: float):
    return optax.sgd(learning_rate)

def drops(learning_rate):
    return optax.GradientTransformation(lambda params: (), lambda updates, state, params: ({}, state))

def of_two(learning_rate):
    return optax.GradientTransformation(lambda params: (), lambda updates, state: (updates, state))

number = 3

def never(peak):
    return float("nan")

def lost(peak):
    return lambda step: peak * jnp.nan

def wide(peak):
    return lambda step: jnp.ones(3) * peak

def branches(peak):
    return lambda step: peak if step < 10 else peak * 0.1

def late(peak):
    return lambda step: {}[int(step)]

def silent(peak):
    return lambda step: None

def text(peak):
    return lambda step: "high"

def of_both(peak):
    return lambda step, peak: peak
"""

LOGGERS = """
class Losses:
    def __init__(self, folder, config, state):
        self.state = state

    def log(self, step, numbers, pictures):
        pass

    def close(self):
        pass

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

number = 3

class Unmade(Losses):
    def __init__(self, folder, config, state):
        raise OSError("full")

class Failing(Losses):
    def log(self, step, numbers, pictures):
        1 / 0

class Short(Losses):
    def log(self, step):
        pass

class Unkept(Losses):
    def log(self, step, numbers, pictures):
        self.state["seen"] = {1}

class Unclosed(Losses):
    def close(self):
        {}["file"]

def nothing(folder, config, state):
    return None
"""


TEXTS = {"zz_tasks": TASKS, "zz_models": MODELS, "zz_optims": OPTIMS, "zz_loggers": LOGGERS}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("mine")
    for name, text in TEXTS.items():
        (folder / f"{name}.py").write_text(HEAD + text)
    (folder / "zz_broken.py").write_text("x = 1\nx = x / 0\n")
    (folder / "zz_syntax.py").write_text("x = 1\ndef f(:\n")
    (folder / "zz_bad").mkdir()
    (folder / "zz_bad" / "__init__.py").write_text("x = 1\nraise RuntimeError('no')\n")
    (folder / "zz_exits.py").write_text("import sys\n\nsys.exit(3)\n")
    return folder


SMALL = {"task": {"min_length": 3, "max_length": 3}, "training": {"batch_size": 2}, "mesh": {"data": 1}}


def checked(folder, sections):
    merged = {table: SMALL.get(table, {}) | sections.get(table, {}) for table in SMALL | sections}
    return check(merged, "exp.toml", places=Places((folder,)))


def line_of(text, part):
    return (HEAD + text)[: (HEAD + text).index(part)].count("\n") + 1


def defined(name):
    """Says in which line of which file a name is defined, as messages do."""
    file, _, name = name.partition(".py:")
    here = next(part for part in (f"def {name}(", f"class {name}", f"{name} =") if part in TEXTS[file])
    return f"; defined in {file}.py, line {line_of(TEXTS[file], here)}"


T, M, P, L = "zz_tasks.py:", "zz_models.py:", "zz_optims.py:", "zz_loggers.py:"
TYPES = "a type that a config can hold: bool, int, float, str, a Literal or a tuple of them"

LOGGER = "a class made of (folder, config, state), with log(step, numbers, pictures) and close(), "

WRONG = [
    ("task.name", "zz_task.py:zigzag", "zz_task.py: no such file; did you mean zz_tasks.py?"),
    ("task.name", "other.py:zigzag", "other.py: no such file; looked in {folder} and in {here}"),
    ("task.name", T + "zigzg", "zz_tasks.py: has no 'zigzg'; did you mean 'zigzag'?"),
    ("task.name", "zz_tasks.py:", "expected FILE.py:NAME or PACKAGE.MODULE:NAME, got 'zz_tasks.py:'"),
    ("task.name", "zz_broken.py:task", "zz_broken.py: line 2 raises ZeroDivisionError: division by zero"),
    ("task.name", "zz_syntax.py:task", "zz_syntax.py: line 2 raises SyntaxError: invalid syntax"),
    ("task.name", "zz_exits.py:task", "zz_exits.py: line 3 raises SystemExit: 3"),
    (
        "task.name",
        "no_such_module:task",
        "no_such_module: no such module; a file is named with .py, as in my_tasks.py:zigzag",
    ),
    ("task.name", ".zz_tasks:ready", "expected FILE.py:NAME or PACKAGE.MODULE:NAME, got '.zz_tasks:ready'"),
    ("task.name", "zz_bad.things:task", "zz_bad.things: {folder}/zz_bad/__init__.py: line 2 raises RuntimeError: no"),
    ("task.name", "zz_broken:task", "zz_broken: line 2 raises ZeroDivisionError: division by zero"),
    ("task.name", "zz_syntax:task", "zz_syntax: line 2 raises SyntaxError: invalid syntax"),
    ("task.name", T + "number", T + "number: expected a jattn.tasks.Task, or a function that makes one, got an int"),
    ("task.name", T + "nothing", T + "nothing: expected it to return a Task, got None"),
    ("task.name", T + "raises", T + f"raises: line {line_of(TASKS, '    return {}')} raises KeyError: 'size'"),
    (
        "task.name",
        T + "of_a_function",
        T + f"of_a_function: expected a default of its parameter 'rule', or {TYPES}; got Callable",
    ),
    (
        "task.name",
        T + "with_length",
        T + "with_length: its parameter 'max_length' has the name of a key of every task; rename it",
    ),
    ("task.name", T + "tuples", T + "tuples: sample: expected to return a jattn.tasks.Sequence, got tuple"),
    (
        "task.name",
        T + "short",
        T + "short: sample: expected target of shape (3,) and type integer in room 3, got (2,) and int32",
    ),
    (
        "task.name",
        T + "floats",
        T + "floats: sample: expected alignment of shape (3, 3), answers and sources and type bool in room 3, "
        "got (3, 3) and float32",
    ),
    (
        "task.name",
        T + "beyond",
        T + "beyond: sample: expected source tokens from 0 to 4, a place in symbols, got 5",
    ),
    ("task.name", T + "endless", T + "endless: sample: expected target_length from 0 to 3, got 4"),
    ("task.name", T + "divides", T + f"divides: line {line_of(TASKS, '{}[' + chr(34) + 'places')} raises KeyError: 'places'"),
    ("model.kind", "zz_broken.py:Mixer", "zz_broken.py: line 2 raises ZeroDivisionError: division by zero"),
    ("model.kind", M + "Mixr", "zz_models.py: has no 'Mixr'; did you mean 'Mixer'?"),
    (
        "model.kind",
        M + "instance",
        M + "instance: expected a linen or NNX module class, or a function that makes a module, got a Mixer",
    ),
    ("model.kind", M + "returns_text", M + "returns_text: expected it to return a Module, got a str"),
    ("model.kind", M + "raises", M + f"raises: line {line_of(MODELS, 'raise KeyError')} raises KeyError: 'weights'"),
    ("model.kind", M + "with_kind", M + "with_kind: its field 'kind' has the name of the key that names it; rename it"),
    (
        "model.kind",
        M + "NoLengths",
        M + "NoLengths: expected __call__(self, tokens, lengths=None), for layout 'encoder', got __call__(self, tokens)",
    ),
    (
        "model.kind",
        M + "NeedsLengths",
        M + "NeedsLengths: expected __call__(self, tokens, lengths=None), for layout 'encoder', "
        "got __call__(self, tokens, lengths)",
    ),
    (
        "model.kind",
        M + "Tokens",
        M + "Tokens: expected to return logits of shape [B, T, C] = (1, 3, 11) for a batch of one, got (1, 3, 7)",
    ),
    (
        "model.kind",
        M + "Breaks",
        M + f"Breaks: line {line_of(MODELS, 'return x @')} raises TypeError: "
        "dot_general requires contracting dimensions to have the same shape, got (8,) and (3,).",
    ),
    ("training.optimizer", "zz_optims:slo", "zz_optims: has no 'slo'; did you mean 'slow'?"),
    ("training.optimizer", "zz_optim.py:slow", "zz_optim.py: no such file; did you mean zz_optims.py?"),
    ("training.optimizer", "zz_syntax.py:slow", "zz_syntax.py: line 2 raises SyntaxError: invalid syntax"),
    (
        "training.optimizer",
        P + "number",
        P + "number: expected an optax.GradientTransformation, or a function that makes one, got an int",
    ),
    (
        "training.optimizer",
        P + "raises",
        P + f"raises: line {line_of(OPTIMS, '1 / 0')} raises ZeroDivisionError: division by zero",
    ),
    (
        "training.optimizer",
        P + "returns_rate",
        P + "returns_rate: expected it to return a GradientTransformation, got a function",
    ),
    (
        "training.optimizer",
        P + "drops",
        P + "drops: expected update to return updates of the shapes that it was given, got others",
    ),
    (
        "training.optimizer",
        P + "of_two",
        P + "of_two: raises TypeError: of_two.<locals>.<lambda>() takes 2 positional arguments but 3 were given",
    ),
    ("training.schedule", P + "number", P + "number: expected a function of peak and steps that returns a function of the step, got an int"),
    ("training.schedule", P + "never", P + "never: expected it to return a function of the step, got float"),
    ("training.schedule", P + "lost", P + "lost: expected a finite learning rate at each step, got nan at step 0"),
    (
        "training.schedule",
        P + "branches",
        P + f"branches: line {line_of(OPTIMS, 'peak if step')} raises TracerBoolConversionError: "
        "Attempted boolean conversion of traced array with shape bool[].",
    ),
    (
        "training.schedule",
        P + "wide",
        P + "wide: expected a finite learning rate at each step, got shape (3,) at step 0",
    ),
    ("training.schedule", "zz_optim.py:lost", "zz_optim.py: no such file; did you mean zz_optims.py?"),
    ("training.schedule", P + "lots", "zz_optims.py: has no 'lots'; did you mean 'lost'?"),
    ("training.schedule", "zz_broken.py:rate", "zz_broken.py: line 2 raises ZeroDivisionError: division by zero"),
    ("training.schedule", P + "late", P + f"late: line {line_of(OPTIMS, '{}[int')} raises KeyError: 0"),
    ("training.schedule", P + "silent", P + "silent: expected a finite learning rate at each step, got None at step 0"),
    ("training.schedule", P + "text", P + "text: expected a finite learning rate at each step, got 'high' at step 0"),
    (
        "training.schedule",
        P + "of_both",
        P + "of_both: raises TypeError: of_both.<locals>.<lambda>() missing 1 required positional argument: 'peak'",
    ),
    ("run.logger", "zz_logger.py:Losses", "zz_logger.py: no such file; did you mean zz_loggers.py?"),
    ("run.logger", L + "Loses", "zz_loggers.py: has no 'Loses'; did you mean 'Losses'?"),
    ("run.logger", "zz_broken.py:Losses", "zz_broken.py: line 2 raises ZeroDivisionError: division by zero"),
    ("run.logger", "zz_syntax.py:Losses", "zz_syntax.py: line 2 raises SyntaxError: invalid syntax"),
    ("run.logger", L + "number", L + "number: expected a class of loggers, got an int"),
    ("run.logger", L + "Mute", L + "Mute: expected " + LOGGER + "got one without log"),
    ("run.logger", L + "Alone", L + "Alone: expected " + LOGGER + "got ()"),
    ("run.logger", L + "nothing", L + "nothing: expected a logger, with log(step, numbers, pictures) and close(), got None"),
    ("run.logger", L + "Unmade", L + f"Unmade: line {line_of(LOGGERS, 'raise OSError')} raises OSError: full"),
    ("run.logger", L + "Failing", L + f"Failing: line {line_of(LOGGERS, '1 / 0')} raises ZeroDivisionError: division by zero"),
    (
        "run.logger",
        L + "Short",
        L + "Short: raises TypeError: Short.log() takes 2 positional arguments but 4 were given",
    ),
    (
        "run.logger",
        L + "Unkept",
        L + "Unkept: expected JSON values in state, got: Object of type set is not JSON serializable",
    ),
    ("run.logger", L + "Unclosed", L + f"Unclosed: line {line_of(LOGGERS, '{}[' + chr(34) + 'file')} raises KeyError: 'file'"),
]  # fmt: skip
"""The key, what it names, and the whole message."""


def use(folder, table, key, name, run):
    """Makes the parts of a run; a logger gets a row as well."""
    if table != "run":
        make_setup(checked(folder, {table: {key: name}}))
        return
    loggers = Loggers(checked(folder, {table: {key: [name]}}), run, [])
    loggers.row({"kind": "train", "step": 0, "loss": 1.0})
    loggers.close()


@pytest.mark.parametrize(("path", "name", "message"), WRONG, ids=lambda value: value if ":" in value else None)
def test_code_that_does_not_do_is_refused_in_one_line(folder, monkeypatch, tmp_path, path, name, message):
    monkeypatch.chdir(folder.parent)
    table, _, key = path.partition(".")
    with pytest.raises(ConfigError) as refused:
        use(folder, table, key, name, tmp_path)
    text = str(refused.value).removeprefix("exp.toml: ")
    message += defined(name) if message.startswith(f"{name}: ") and " line " not in message else ""
    assert text == f"{path}: {message.replace('{folder}', str(folder)).replace('{here}', str(folder.parent))}"
    assert not (folder.parent / "runs").exists()


WRONG_OPTIONS = [
    ({"task": {"name": T + "zigzag", "stride": 0}}, "task.stride: expected at least 1, got 0"),
    ({"task": {"name": T + "zigzag", "stride": "2"}}, "task.stride: expected an integer, got '2'"),
    ({"task": {"name": T + "zigzag", "strid": 2}}, "task.strid: unknown key; did you mean task.stride?"),
    ({"task": {"name": T + "zigzag", "order": "dwn"}}, "task.order: expected 'up' or 'down', got 'dwn'; did you mean 'down'?"),
    ({"task": {"name": T + "zigzag", "num_symbols": 12}}, "task.num_symbols: expected at most 9, got 12"),
    (
        {"task": {"name": T + "zigzag", "hops": 2}},
        "task.hops: task 'zz_tasks.py:zigzag' has no such option; it has stride, order, num_symbols",
    ),
    ({"task": {"name": T + "needs"}}, "task.depth: expected a value, as zz_tasks.py:needs has no default of it, got nothing"),
    (
        {"task": {"name": T + "zigzag", "layout": "causal"}},
        "task.layout: expected 'encoder' or 'decoder' or 'encoder_decoder' for task 'zigzag', got 'causal'",
    ),
    ({"model": {"kind": M + "Mixer", "gate": "tanh"}}, "model.gate: expected 'sigmoid' or 'relu', got 'tanh'"),
    ({"model": {"kind": M + "Mixer", "gat": "relu"}}, "model.gat: unknown key; did you mean model.gate?"),
    ({"model": {"kind": M + "Mixer", "width": 1}}, "model.width: expected at least 2, got 1"),
    (
        {"model": {"kind": M + "Mixer", "num_heads": 2}},
        "model.num_heads: kind 'zz_models.py:Mixer' does not use it, only 'transformer' and 'pooled' do",
    ),
    (
        {"model": {"kind": M + "Mixer", "temperature": 0.2}},
        "model.temperature: it is for score; kind 'zz_models.py:Mixer' does not use it, only 'transformer' and 'pooled' do",
    ),
    ({"model": {"kind": M + "needs"}}, "model.window: expected a value, as zz_models.py:needs has no default of it, got nothing"),
    ({"training": {"optimizer": P + "slow", "decay": True}}, "training.decay: expected a number, got true"),
    ({"training": {"optimizer": P + "slow", "dcay": 0.1}}, "training.dcay: unknown key; did you mean training.decay?"),
    (
        {"training": {"optimizer": P + "fixed", "learning_rate": 0.1}},
        "training.learning_rate: optimizer 'zz_optims.py:fixed' does not use it, only 'adamw' and 'sgd' do",
    ),
    ({"training": {"schedule": P + "triangle", "flor": 0.1}}, "training.flor: unknown key; did you mean training.floor?"),
    ({"training": {"optimizer": "lion", "b3": 0.1}}, "training.b3: unknown key; expected one of steps, stop_when_solved, batch_size, optimizer, learning_rate, ..., decay_share"),
    ({"training": {"optimizer": "lino"}}, "training.optimizer: expected one of 'adamw', 'sgd', 'adabelief', 'adadelta', 'adafactor', ..., 'muon', got 'lino'; did you mean 'lion'?"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("sections", "message"), WRONG_OPTIONS, ids=lambda value: value if isinstance(value, str) else ""
)
def test_an_option_of_code_is_checked_as_any_key_is(folder, sections, message):
    with pytest.raises(ConfigError) as refused:
        checked(folder, sections)
    assert str(refused.value) == f"exp.toml: {message}"


def test_options_and_sizes_reach_what_is_named(folder):
    config = checked(
        folder,
        {
            "task": {"name": T + "zigzag", "stride": 2, "num_symbols": 4},
            "model": {"kind": M + "Mixer", "gate": "sigmoid"},
            "training": {"optimizer": P + "slow", "decay": 0.5, "schedule": P + "triangle", "floor": 0.25, "steps": 10,
                         "warmup_steps": 0, "learning_rate": 1},
        },
    )  # fmt: skip
    setup = make_setup(config)
    assert (setup.task.name, setup.task.symbols) == ("zigzag", ("0", "1", "2", "3"))
    assert (setup.model.vocabulary, setup.model.width, setup.model.gate) == (5, 16, "sigmoid")
    assert [round(setup.learning_rate(step)["learning_rate"], 6) for step in (0, 5, 9)] == [1.0, 0.5, 0.25]
    assert config.model_dump()["task"] == {
        "name": T + "zigzag", "layout": "encoder", "min_length": 3, "max_length": 3, "stride": 2, "order": "up",
        "num_symbols": 4,
    }  # fmt: skip


def test_a_function_gets_sizes_by_name_and_a_score_is_made(folder):
    assert make_setup(checked(folder, {"model": {"kind": M + "sized", "width": 6, "depth": 3}})).model.width == 18
    other = make_setup(checked(folder, {"model": {"kind": M + "Other", "score": "cosine", "temperature": 0.5}})).model
    assert (other.num_layers, other.score) == (3, jattn.scores.cosine(temperature=0.5))


def test_what_is_ready_needs_no_function(folder):
    setup = make_setup(checked(folder, {"task": {"name": T + "ready"}, "training": {"optimizer": P + "ready"}}))
    assert isinstance(setup.task, Task)
    assert setup.schedule is None
    assert "learning_rate" not in setup.config.model_dump()["training"]


def test_a_module_is_executed_once_for_each_text_and_can_be_pickled(tmp_path):
    path = tmp_path / "zz_counted.py"
    path.write_text("class Thing:\n    pass\n")
    one, same = (load("zz_counted.py:Thing", Places((tmp_path,))) for _ in range(2))
    assert one is same
    assert pickle.loads(pickle.dumps(one.made)) is one.made
    path.write_text("class Thing:\n    new = 1\n")
    assert load("zz_counted.py:Thing", Places((tmp_path,))).made.new == 1
    (tmp_path / "random.py").write_text("Thing = 3\n")
    assert load("random.py:Thing", Places((tmp_path,))).made == 3
    assert sys.modules["random"].__file__ != str(tmp_path / "random.py")


def test_a_module_is_imported_from_the_folder_of_the_config(tmp_path):
    (tmp_path / "zz_package").mkdir()
    (tmp_path / "zz_package" / "__init__.py").touch()
    (tmp_path / "zz_package" / "things.py").write_text("from zz_package.other import thing\n")
    (tmp_path / "zz_package" / "other.py").write_text("thing = 4\n")
    code = load("zz_package.things:thing", Places((tmp_path,)))
    assert (code.made, code.file) == (4, "zz_package.things")
    assert code.path == tmp_path / "zz_package" / "things.py"


PART_KEYS = [("task", "name"), ("model", "kind"), ("training", "optimizer"), ("training", "schedule")]


@pytest.mark.parametrize(("table", "key"), PART_KEYS)
def test_a_parameter_with_a_name_that_no_key_can_have_is_refused(folder, table, key):
    for name in ("missing", "unused", "tables", "copy", "model_fields", "_hidden"):
        (folder / "zz_names.py").write_text(f"def part(*, {name}: int = 1):\n    pass\n")
        with pytest.raises(ConfigError) as refused:
            checked(folder, {table: {key: "zz_names.py:part"}})
        assert str(refused.value) == (
            f"exp.toml: {table}.{key}: zz_names.py:part: its parameter {name!r} has a name that no key of a config can "
            "have; rename it; defined in zz_names.py, line 1"
        )
    (folder / "zz_names.py").write_text("def part(*, model_dump_every: int = 1):\n    pass\n")
    assert class_of({table: {key: "zz_names.py:part"}}, "test", Places((folder,))).parts


def test_a_package_that_names_itself_is_imported_from_where_it_was(tmp_path, monkeypatch):
    (tmp_path / "zz_root").mkdir()
    path = tmp_path / "zz_root" / "__init__.py"
    path.write_text("thing = 5\n")
    monkeypatch.setattr(sys, "path", [*sys.path])
    assert load("zz_root:thing", Places(known={"zz_root": str(path)})).made == 5


def test_a_module_whose_file_changed_after_its_import_is_refused(tmp_path):
    path = tmp_path / "zz_edited.py"
    path.write_text("thing = 1\n")
    assert load("zz_edited:thing", Places((tmp_path,))).made == 1
    path.write_text("thing = 2\n")
    with pytest.raises(OwnError, match=r"^zz_edited: .*zz_edited.py has changed since it was imported; start Python"):
        load("zz_edited:thing", Places((tmp_path,)))


def test_another_choice_leaves_out_the_options_of_code(folder):
    values = {
        "model": {"kind": M + "Mixer", "gate": "relu", "width": 8},
        "training": {"optimizer": P + "slow", "decay": 0.5},
    }
    merged, left_out = merge(
        values, {"model": {"kind": "transformer"}, "training": {"optimizer": "adam"}}, "line", Places((folder,))
    )
    assert merged == {"model": {"kind": "transformer", "width": 8}, "training": {"optimizer": "adam"}}
    assert left_out == ["model.gate", "training.decay"]
