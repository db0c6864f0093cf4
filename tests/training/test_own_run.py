"""A whole run with a task, a model without filters, an optimizer and a schedule of one's own, all in one file."""

import contextlib
import hashlib
import json
import shutil
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jattn.command.commands import answer
from jattn.command.main import main
from jattn.training import train
from jattn.training.own.code import Code
from jattn.training.own.record import ChangedCode, places_of_code, record_code
from jattn.training.reading import ConfigError, check, places_beside, read_toml
from jattn.training.restore import restore
from jattn.training.run_folder import RunFolderError
from jattn.training.setup import make_setup
from jattn.training.step import TrainingFailed
from jattn.training.training_on import goes_on, why_not

ROOT = Path(__file__).resolve().parents[2]

MINE = '''
import flax.linen as nn, jax, jax.numpy as jnp, optax
from jattn import tasks


def last_first(letters: int = 5):
    """Says the last token at every place: ``3 1 4 -> 4 4 4``."""

    def sample(rng, length, room):
        source = jax.random.randint(rng, (room,), 0, letters, jnp.int32)
        last = jnp.broadcast_to(length - 1, (room,))
        return tasks.Sequence(source, length, source[last], length, last[:, None] == jnp.arange(room))

    return tasks.Task("last_first", tuple("abcdefg"[:letters]), sample)


class Mean(nn.Module):
    vocabulary: int
    width: int = 8

    @nn.compact
    def __call__(self, tokens, lengths=None):
        x = nn.Embed(self.vocabulary, self.width)(tokens)
        return nn.Dense(self.vocabulary)(nn.Dense(self.width)(x) + x.mean(-2, keepdims=True))


def heavy(learning_rate, momentum: float = 0.5):
    return optax.sgd(learning_rate, momentum=momentum)


def halves(peak, every: int = 4):
    return lambda step: peak * 0.5 ** (step // every)
'''

EXPERIMENT = """
[task]
name = "zz_mine.py:last_first"
letters = 4
min_length = 2
max_length = 4

[model]
kind = "zz_mine.py:Mean"

[training]
optimizer = "zz_mine.py:heavy"
schedule = "zz_mine.py:halves"
momentum = 0.25
steps = 8
batch_size = 8
warmup_steps = 0

[evaluation]
examples = 8
test_examples = 8
batch_size = 8
every = 4

[mesh]
data = 1

[run]
checkpoint_every = 4
snapshots = 3
log_every = 4
cache = false
"""


def config(toml, folder, **training):
    values = read_toml(toml)
    values["run"] = values.get("run", {}) | {"folder": str(folder)}
    values["training"] |= training
    return check(values, str(toml), places=places_beside(toml))


def rows(folder):
    found = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in row.items() if not key.endswith("per_second")} for row in found]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("experiment")
    (folder / "zz_mine.py").write_text(MINE)
    (folder / "exp.toml").write_text(EXPERIMENT)
    train(config(folder / "exp.toml", folder / "run"))
    return folder


def test_all_of_a_run_is_written_with_the_code(whole):
    run = whole / "run"
    assert (run / "code" / "zz_mine.py").read_text() == MINE
    assert [*json.loads((run / "code.json").read_text())] == ["zz_mine.py"]
    page = (run / "report.html").read_text()
    assert "last_first" in page
    assert "Says the last token at every place" in page
    assert f"zz_mine.py, SHA-256 {hashlib.sha256(MINE.encode()).hexdigest()[:16]}" in page
    logged = [row for row in rows(run) if row["kind"] == "train"]
    assert [(row["step"], row["learning_rate"]) for row in logged] == [
        (4, pytest.approx(0.01)),
        (8, pytest.approx(0.005)),
    ]
    assert logged[0]["filters"] == {}
    assert rows(run)[-1]["filter_score"] is None


def test_it_resumes_to_the_same_rows(whole, tmp_path):
    folder = Path(shutil.copytree(whole / "run", tmp_path / "cut"))
    shutil.rmtree(folder / "checkpoints" / "8")
    train(config(whole / "exp.toml", folder))
    assert rows(folder) == rows(whole / "run")


def test_it_is_read_back_from_anywhere(whole, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    restored = restore(whole / "run")
    assert type(restored.setup.model).__name__ == "Mean"
    assert len(restored.predict("a b c d").split()) == 4


def test_changed_code_is_refused_and_what_was_there_is_named(whole, tmp_path, capsys):
    folder = Path(shutil.copytree(whole, tmp_path / "changed"))
    record = folder / "run" / "code.json"
    record.write_text(record.read_text().replace(str(whole), str(folder)))
    (folder / "zz_mine.py").write_text(MINE + "\n# changed\n")
    with pytest.raises(RunFolderError) as refused:
        restore(folder / "run")
    copy = folder / "run" / "code" / "zz_mine.py"
    assert str(refused.value).startswith(f"{folder / 'run'}: zz_mine.py has changed since the run began (SHA-256 ")
    assert str(refused.value).endswith(
        f" now; line {len(MINE.splitlines()) + 1} is the first that differs); the file as it was is {copy}: "
        "put it back, or choose another run.folder, or run.overwrite to delete that run"
    )
    before = sorted(folder.rglob("*"))
    assert main([str(folder / "exp.toml"), "--run.folder", str(folder / "run")]) == 2
    assert "zz_mine.py has changed since the run began" in capsys.readouterr().err
    assert sorted(folder.rglob("*")) == before
    (folder / "zz_mine.py").unlink()
    with pytest.raises(RunFolderError, match=r"the run needs zz_mine\.py, which is not at "):
        restore(folder / "run")


@pytest.mark.parametrize("text", [None, "{}", "{", "[]", '{"zz_mine.py": 3}'])
def test_code_without_a_whole_record_is_refused(whole, tmp_path, monkeypatch, text):
    folder = Path(shutil.copytree(whole / "run", tmp_path / "run", ignore=shutil.ignore_patterns("checkpoints")))
    (folder / "code.json").unlink()
    if text is not None:
        (folder / "code.json").write_text(text)
    (tmp_path / "zz_mine.py").write_text("raise AssertionError('executed')")
    monkeypatch.chdir(tmp_path)
    missing = r"the run needs zz_mine\.py, of which code\.json does not say what it was"
    with pytest.raises(RunFolderError, match=missing if text in (None, "{}") else "expected JSON of the path and the"):
        restore(folder)


def test_copies_of_files_whose_names_differ_in_signs_alone_are_apart(tmp_path):
    texts = {"a/t.py": b"1", "a_t.py": b"2", "pk.t": b"3", "pk.t.py": b"4", "b.py": b"5"}
    record_code(tmp_path, [Code(f"{file}:x", tmp_path / "none.py", text, None) for file, text in texts.items()])
    copies = sorted((tmp_path / "code").iterdir())
    assert sorted(path.read_bytes() for path in copies) == [*texts.values()]
    assert copies[-3].name == "b.py"
    with pytest.raises(ChangedCode) as refused:
        places_of_code(tmp_path, {}, texts)
    assert Path(str(refused.value).rpartition(" ")[2]).read_bytes() == b"1"


def test_a_finished_run_is_trained_on_to_the_state_of_a_longer_one(whole, tmp_path):
    toml, longer = whole / "exp.toml", tmp_path / "longer"
    folder = Path(shutil.copytree(whole / "run", tmp_path / "run"))
    train(config(toml, folder, steps=12))
    train(config(toml, longer, steps=12))
    assert read_toml(folder / "config.toml")["training"]["steps"] == 12
    of_both = zip(*(jax.tree.leaves(restore(path).params) for path in (folder, longer)), strict=True)
    assert all(np.array_equal(one, other) for one, other in of_both)
    assert rows(folder)[-1] == rows(longer)[-1]
    assert [row["step"] for row in rows(folder) if row["kind"] == "test"] == [8, 12]
    assert "After 12 steps" in (folder / "report.html").read_text()


@pytest.mark.parametrize(
    ("before", "asked", "message"),
    [
        ({"schedule": "constant"}, {}, None),
        ({"optimizer": "sgd", "schedule": "cosine"}, {}, "as schedule 'cosine' depends on training.steps"),
        ({"schedule": "constant", "warmup_steps": 8}, {}, "as its warm-up of 8 steps was cut short"),
        ({"schedule": "constant"}, {"seed": 3}, ""),
    ],
)
def test_a_longer_run_must_have_the_same_first_steps(before, asked, message):
    there = check({"training": {"steps": 8, "warmup_steps": 0} | before}, "test")
    longer = check({"training": {"steps": 9, "warmup_steps": 0} | before | asked}, "test")
    assert goes_on(longer, there) == (message is None)
    assert not goes_on(there, longer)
    if message:
        assert str(why_not(longer, there)).startswith(f"it cannot be trained on, {message}")


def test_a_task_of_ones_own_is_shown(whole, monkeypatch, capsys):
    monkeypatch.chdir(whole)
    assert answer(["tasks", "zz_mine.py:last_first", "--length", "3"], "") == 0
    shown = capsys.readouterr().out
    assert shown.startswith("zz_mine.py:last_first: Says the last token at every place: ``3 1 4 -> 4 4 4``.\n\n")
    assert "  letters INTEGER, by default 5: an option of zz_mine.py:last_first\n" in shown
    assert ". . #" in shown
    assert answer(["tasks", "zz_mine.py:last_firs"], "") == 2
    assert capsys.readouterr().err == "tasks: task.name: zz_mine.py: has no 'last_firs'; did you mean 'last_first'?\n"


def test_help_shows_the_options_of_code(whole, capsys):
    with pytest.raises(SystemExit):
        main([str(whole / "exp.toml"), "--task.letters", "3", "--help"])
    shown = capsys.readouterr().out
    assert "--task.letters INTEGER\n      now 3\n" in shown
    assert "--training.every INTEGER\n      now 4\n" in shown


def blocks_of_docs(language):
    text = (ROOT / "docs" / "extending.md").read_text(encoding="utf-8")
    return [block.partition("```")[0] for block in text.split(f"```{language}\n")[1:]]


@pytest.fixture
def documented(tmp_path):
    mine, experiment = blocks_of_docs("python")[0], blocks_of_docs("toml")[0]
    (tmp_path / "mine.py").write_text(mine)
    (tmp_path / "exp.toml").write_text(experiment)
    return tmp_path


def test_the_documented_files_make_a_run(documented):
    setup = make_setup(config(documented / "exp.toml", documented / "run"))
    assert (type(setup.model).__name__, setup.model.gate, setup.task.name) == ("Gated", "sigmoid", "swap_pairs")


@pytest.mark.exhaustive
def test_the_documented_run_learns(documented):
    result = train(config(documented / "exp.toml", documented / "run"))
    assert result["exact_accuracy"] > 0.9
    assert result["filter_score"] > 0.5


@pytest.mark.exhaustive
def test_a_model_that_makes_nan_ends_the_run_in_one_line(whole, tmp_path):
    text = MINE.replace("x.mean(-2, keepdims=True))", "x.mean(-2, keepdims=True) * jnp.nan)")
    assert text != MINE
    (tmp_path / "zz_mine.py").write_text(text)
    (tmp_path / "exp.toml").write_text(EXPERIMENT)
    with pytest.raises(
        TrainingFailed, match=r"^the loss is not finite at step 0; there is no checkpoint before it; a lower "
    ):
        train(config(tmp_path / "exp.toml", tmp_path / "run"))


CALLS = {
    "causal": ("induction", "tokens, lengths=None", "tokens"),
    "decoder": ("copy", "tokens, lengths=None", "tokens"),
    "encoder_decoder": ("copy", "tokens, source, source_lengths=None", "source"),
}


@pytest.mark.parametrize("layout", CALLS)
def test_a_model_is_called_as_documented_in_each_layout(tmp_path, layout):
    task, call, read = CALLS[layout]
    (tmp_path / f"zz_{layout}.py").write_text(
        f"""
import flax.linen as nn

class Bag(nn.Module):
    vocabulary: int

    @nn.compact
    def __call__(self, {call}):
        x = nn.Embed(self.vocabulary, 4)({read}).mean(-2, keepdims=True)
        return nn.Dense(self.vocabulary)(nn.Embed(self.vocabulary, 4)(tokens) + x)
"""
    )
    task = {"name": task, "layout": layout, "min_length": 4, "max_length": 8}
    values = {"task": task, "model": {"kind": f"zz_{layout}.py:Bag"}, "mesh": {"data": 1}}
    setup = make_setup(check(values, "test", places=places_beside(tmp_path / "exp.toml")))
    batch = jax.eval_shape(lambda: setup.training_batch(jax.random.key(0), jnp.arange(2)))
    assert set(batch.inputs) == {name.partition("=")[0] for name in call.split(", ")}


@pytest.mark.parametrize(("said", "silent"), [("", True), (", relates=('tokens', 'source')", False)])
def test_attention_of_two_sequences_says_which_it_relates(tmp_path, said, silent):
    file = f"zz_cross_{silent}.py"
    (tmp_path / file).write_text(
        f"""
import flax.linen as nn
import jattn

class Cross(nn.Module):
    vocabulary: int

    @nn.compact
    def __call__(self, tokens, source, source_lengths=None):
        embed = nn.Embed(self.vocabulary, 4)
        look = jattn.MultiHeadAttention(num_heads=1, name="look"{said})
        return nn.Dense(self.vocabulary)(look(embed(tokens), embed(source)))
"""
    )
    task = {"name": "copy", "layout": "encoder_decoder", "min_length": 4, "max_length": 4}
    values = {"task": task, "model": {"kind": f"{file}:Cross"}, "mesh": {"data": 1}}
    config = check(values, "test", places=places_beside(tmp_path / "exp.toml"))
    message = r"Cross: expected each attention layer .* relates=\('tokens', 'source'\)\), got none from look; defined "
    with pytest.raises(ConfigError, match=message) if silent else contextlib.nullcontext():
        make_setup(config)
