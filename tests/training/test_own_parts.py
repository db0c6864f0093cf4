"""`train` with an own task, an own linen module and an own optimizer."""

import dataclasses
import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn

import jattn
from jattn import tasks
from jattn.training import train
from jattn.training.reading import ConfigError, check
from jattn.training.restore import restore
from jattn.training.run_folder import RunFolderError


class Own(nn.Module):
    """Attention between two dense layers."""

    vocabulary: int
    width: int = 8

    @nn.compact
    def __call__(self, tokens, lengths=None, *, deterministic=True):
        x = jattn.TokenEmbedding(self.vocabulary, self.width)(tokens)
        x = x + jattn.MultiHeadAttention(num_heads=2, name="attention")(x)
        return nn.Dense(self.vocabulary)(x)


def last_first(num_symbols=5):
    """Says the last token at every place: ``3 1 4 -> 4 4 4``."""

    def sample(rng, length, room):
        source = jax.random.randint(rng, (room,), 0, num_symbols, jnp.int32)
        last = jnp.broadcast_to(length - 1, (room,))
        return tasks.Sequence(source, length, source[last], length, last[:, None] == jnp.arange(room))

    return tasks.Task("last_first", tuple("abcde"[:num_symbols]), sample, layouts=("encoder",))


MODEL, OPTIMIZER = Own(vocabulary=6), optax.sgd(0.1, momentum=0.9)


def config(folder, **more):
    values = {
        "task": {"min_length": 2, "max_length": 4},
        "training": {"steps": 8, "batch_size": 8},
        "evaluation": {"examples": 8, "test_examples": 8, "batch_size": 8, "every": 4},
        "mesh": {"data": 1},
        "run": {"folder": str(folder), "checkpoint_every": 4, "snapshots": 3, "log_every": 4},
    }
    return check({table: entries | more.get(table, {}) for table, entries in values.items()}, "test")


def rows(folder):
    found = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in row.items() if not key.endswith("per_second")} for row in found]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("own") / "whole"
    train(config(folder), task=last_first(), model=MODEL, optimizer=OPTIMIZER)
    return folder


def test_all_of_a_run_is_written(whole):
    assert (whole / "report.html").exists()
    found = rows(whole)
    logged = [row for row in found if row["kind"] == "train"]
    assert list(logged[0]["filters"]) == ["attention"]
    assert "learning_rate" not in logged[0]
    assert set(found[0]["examples"][0]["source"].split()) <= set("abcde")


@pytest.mark.exhaustive
def test_it_resumes_to_the_same_rows(whole, tmp_path):
    folder = shutil.copytree(whole, tmp_path / "cut")
    shutil.rmtree(folder / "checkpoints" / "8")
    train(config(folder), task=last_first(), model=MODEL, optimizer=OPTIMIZER)
    assert rows(folder) == rows(whole)


def test_another_task_or_model_in_the_folder_is_refused(whole):
    with pytest.raises(RunFolderError, match=r"another model.*\n.*width = 4 \) \| .*width = 8 \)"):
        train(config(whole), task=last_first(), model=Own(vocabulary=6, width=4), optimizer=OPTIMIZER)
    other = dataclasses.replace(last_first(), name="first_last")
    with pytest.raises(RunFolderError, match=r"another task.*\n.*first_last \| last_first"):
        train(config(whole), task=other, model=MODEL, optimizer=OPTIMIZER)


def test_it_is_read_back_with_its_own_parts_and_not_without(whole):
    setup, params = restore(whole, task=last_first(), model=MODEL, optimizer=OPTIMIZER)
    batch = setup.training_batch(jax.random.key(0), jnp.arange(2))
    assert setup.apply(params, batch).shape == (2, 4, 6)
    assert np.all(np.isfinite(jax.tree.leaves(params)[0]))
    with pytest.raises(RunFolderError, match="another model"):
        restore(whole)


@pytest.mark.parametrize(
    ("parts", "error", "message"),
    [
        ({"task": "reverse"}, TypeError, "task: expected a Task, got str"),
        ({"model": Own}, TypeError, "model: expected a Module, got"),
        ({"optimizer": "adam"}, TypeError, "optimizer: expected a GradientTransformation, got str"),
    ],
)
def test_a_part_of_another_type_is_refused(tmp_path, parts, error, message):
    with pytest.raises(error, match=message):
        train(config(tmp_path / "run"), **parts)
    assert not (tmp_path / "run").exists()


def test_an_own_task_must_have_the_layout_and_the_lengths(tmp_path):
    with pytest.raises(ConfigError, match=r"task\.layout: expected one of encoder for 'last_first', got 'decoder'"):
        train(config(tmp_path / "run", task={"layout": "decoder"}), task=last_first())
    with pytest.raises(ConfigError, match="expected lengths from 1 to 3 for 'last_first', got 2 to 4"):
        train(config(tmp_path / "run"), task=dataclasses.replace(last_first(), longest=3), model=MODEL)
