"""Runs of NNX modules: given to `train`, or named in a config."""

import json
import shutil
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jattn
from jattn.decode.protocol import as_inspectable
from jattn.training import train
from jattn.training.reading import ConfigError, check, places_beside
from jattn.training.restore import restore
from jattn.training.run_folder import RunFolderError
from jattn.training.setup import make_setup
from jattn.training.step import initial_state, make_train_chunk

nnx = pytest.importorskip("flax.nnx", exc_type=Exception)
jattn_nnx = pytest.importorskip("jattn.nnx")

ROOT = Path(__file__).resolve().parents[2]
SIZES = {"width": 8, "hidden": 8, "num_heads": 2}
NAME = "block_0/attention"
NAMES = {
    "encoder": [NAME],
    "decoder": [NAME],
    "encoder_decoder": ["decoder_0/attention", "decoder_0/cross_attention", "encoder_0/attention"],
}
"""The layers with filters, in order of the alphabet, by layout."""

MINE = '''
from typing import Annotated

import jax.numpy as jnp
from flax import nnx
from pydantic import Field

import jattn.nnx


class Mixer(nnx.Module):
    """Mixes.

    Args:
      gate: how much is mixed in.
    """

    def __init__(self, vocabulary, width: int = 8, gate: Annotated[float, Field(ge=0)] = 1.0, *, rngs):
        self.embedding = jattn.nnx.TokenEmbedding(vocabulary, width, rngs=rngs)
        self.attention = jattn.nnx.MultiHeadAttention(num_heads=2, in_features=width, rngs=rngs)
        self.layers = nnx.List([nnx.Linear(width, width, rngs=rngs) for _ in range(2)])
        self.out, self.gate = nnx.Linear(width, vocabulary, rngs=rngs), gate

    def __call__(self, tokens, lengths=None):
        x = self.embedding(tokens)
        x = x + self.gate * self.attention(x)
        for layer in self.layers:
            x = layer(x)
        return self.out(x)


def made(vocabulary, *, rngs):
    return Mixer(vocabulary, rngs=rngs)


class Bare(nnx.Module):
    def __init__(self, vocabulary):
        self.out = nnx.Linear(8, vocabulary, rngs=nnx.Rngs(0))


class Normed(Mixer):
    def __init__(self, vocabulary, *, rngs):
        super().__init__(vocabulary, rngs=rngs)
        self.norm = nnx.BatchNorm(8, rngs=rngs)


class Counting(Mixer):
    def __init__(self, vocabulary, *, rngs):
        super().__init__(vocabulary, rngs=rngs)
        self.calls, self.table = nnx.Variable(jnp.zeros((), int)), nnx.Variable(jnp.ones(8))

    def __call__(self, tokens, lengths=None):
        self.calls.set_value(self.calls.get_value() + 1)
        self.table.set_value(self.table.get_value() * 1)
        return super().__call__(tokens)


class Narrow(Mixer):
    def __call__(self, tokens, lengths=None):
        return super().__call__(tokens)[..., 1:]


class Broken(nnx.Module):
    def __init__(self, vocabulary, *, rngs):
        self.out = nnx.Linear(8, vocabulary)


def text(vocabulary, *, rngs):
    return "a model"


instance = Bare(3)
'''


def values(folder, **model):
    return {
        "task": {"name": "copy", "symbols": 4, "min_length": 4, "max_length": 4},
        "model": model,
        "training": {"steps": 8, "batch_size": 8},
        "evaluation": {"examples": 8, "test_examples": 8, "batch_size": 8, "every": 4},
        "mesh": {"data": 1},
        "run": {"folder": str(folder), "checkpoint_every": 4, "snapshots": 3, "log_every": 4},
    }


def rows(folder):
    found = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in row.items() if not key.endswith("per_second")} for row in found]


def start_of(setup):
    """Returns an NNX model of the same name with the parameters that a run in linen begins with."""
    batch = setup.training_batch(jax.random.key(0), jnp.arange(1))
    start = {"params": jax.jit(lambda: setup.init(batch))()}
    kind = getattr(jattn_nnx, type(setup.model).__name__)
    return jattn_nnx.from_linen(kind(len(setup.vocabulary()), **SIZES, rngs=nnx.Rngs(3)), start)


def filters_of(setup, params):
    batch = setup.training_batch(jax.random.key(1), jnp.arange(4))
    look = jax.jit(lambda params: jattn.capture_filters(setup.model, {"params": params}, **batch.inputs)[1])
    return look(params)


def assert_same(linen, other):
    """Compares setups with their parameters, and the filters that these make."""
    close = jax.tree.map(lambda one, two: np.allclose(one, two, atol=1e-4), linen[1], other[1])
    assert jax.tree.all(close)
    one, two = filters_of(*linen), filters_of(*other)
    assert sorted(one) == sorted(two) == NAMES[linen[0].layout.name]
    for name, filter in one.items():
        np.testing.assert_allclose(filter.weights(), two[name].weights(), atol=1e-4)


@pytest.mark.exhaustive
@pytest.mark.parametrize("layout", NAMES)
def test_the_same_steps_in_linen_and_in_nnx_give_the_same_filters(layout, tmp_path):
    wanted = values(tmp_path, **SIZES)
    config = check(wanted | {"task": wanted["task"] | {"layout": layout}}, "test")
    linen = make_setup(config)
    model = start_of(linen)
    before = jattn_nnx.to_linen(model)["params"]
    trained = []
    for setup in (linen, make_setup(config, model=model)):
        state = make_train_chunk(setup)(initial_state(setup), jnp.int32(8))
        trained.append((setup, state.params))
    assert_same(*trained)
    moved = jax.tree.map(lambda one, two: not np.allclose(one, two, atol=1e-3), before, trained[1][1])
    stack = NAMES[layout][0].partition("/")[0]
    assert all(moved[stack]["attention"][part]["kernel"] for part in ("query", "key", "value", "out"))
    left = jattn_nnx.to_linen(model)["params"]
    assert jax.tree.all(jax.tree.map(np.array_equal, left, before)), "the module given stays as it was"


@pytest.mark.exhaustive
def test_the_same_run_in_linen_and_in_nnx_has_the_same_rows_and_is_refused_to_others(tmp_path):
    config = check(values(tmp_path / "linen", **SIZES), "test")
    train(config)
    model = start_of(make_setup(config))
    train(check(values(tmp_path / "nnx"), "test"), model=model)
    assert_same(restore(tmp_path / "linen"), restore(tmp_path / "nnx", model=model))
    for row, same in zip(rows(tmp_path / "linen"), rows(tmp_path / "nnx"), strict=True):
        assert row["kind"] == same["kind"]
        assert row.get("loss", 0) == pytest.approx(same.get("loss", 0), abs=1e-3)
        assert [*row.get("filters", ())] == [*same.get("filters", ())]
    assert (tmp_path / "nnx" / "report.html").exists()
    other = jattn_nnx.Encoder(5, width=12, rngs=nnx.Rngs(0))
    with pytest.raises(RunFolderError, match=r"another model.*\n.*width = 12.*\|.*width = 8"):
        restore(tmp_path / "nnx", model=other)
    described = json.loads((tmp_path / "nnx" / "own.json").read_text())["model"]
    assert "Array" not in described
    assert " at 0x" not in described


def setup_of(tmp_path, name, **more):
    (tmp_path / "zz_nnx.py").write_text(MINE)
    given = values(tmp_path / "run", kind=f"zz_nnx.py:{name}", **more)
    return make_setup(check(given, "test", places=places_beside(tmp_path / "exp.toml")))


def test_a_class_named_in_a_config_brings_its_keys_and_draws_from_the_seed(tmp_path):
    setup = setup_of(tmp_path, "Mixer", gate=0.5, width=6)
    assert setup.config.model_dump()["model"] == {"kind": "zz_nnx.py:Mixer", "width": 6, "gate": 0.5}
    draw = jax.jit(lambda seed: setup.model.init(jax.random.key(seed))["params"])
    one, same, other = draw(0), draw(0), draw(1)
    assert one["layers"].keys() == {"0", "1"}
    assert one["embedding"]["embedding"].shape == (5, 6)
    kernels = [params["out"]["kernel"] for params in (one, same, other)]
    assert np.array_equal(kernels[0], kernels[1])
    assert not np.allclose(kernels[0], kernels[2])
    with pytest.raises(ConfigError, match=r"model\.gate: expected"):
        setup_of(tmp_path, "Mixer", gate=-1.0)
    assert setup_of(tmp_path, "made").model.module_class.__name__ == "Mixer"


def test_the_documented_module_makes_a_run(tmp_path):
    text = (ROOT / "docs" / "extending.md").read_text(encoding="utf-8")
    block = text.partition("**NNX.**")[2].partition("```python\n")[2].partition("```")[0]
    (tmp_path / "mine.py").write_text(block)
    given = values(tmp_path / "run", kind="mine.py:Mixer", num_heads=2)
    setup = make_setup(check(given, "test", places=places_beside(tmp_path / "exp.toml")))
    assert setup.model.module_class.__name__ == "Mixer"


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("Bare", "Bare: expected it to take rngs, from which an NNX module draws its parameters"),
        (
            "Normed",
            "Normed: raises ValueError: Normed: expected no variables that a call changes, got the BatchStat norm/mean",
        ),
        (
            "Counting",
            r"Counting: expected no variables that a call changes, .*, got calls; defined in zz_nnx.py, line \d+$",
        ),
        ("Narrow", r"Narrow: expected to return logits of shape \[B, T, C\] = \(1, 4, 5\) .* got \(1, 4, 4\)"),
        ("Broken", r"Broken: line \d+ raises TypeError: "),
        ("text", "text: expected it to return a Module, got a str"),
        ("instance", "instance: expected a linen or NNX module class, or a function that makes a module, got a Bare"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(tmp_path, name, said):
    with pytest.raises(ConfigError, match=rf"model\.kind: zz_nnx\.py:{said}") as refused:
        setup_of(tmp_path, name)
    assert "\n" not in str(refused.value)
    assert not (tmp_path / "run").exists()


class Dropped(nnx.Module):
    """Shows what two layers of dropout do to ones."""

    def __init__(self, rngs):
        self.one, self.two = nnx.Dropout(0.5, rngs=rngs), nnx.Dropout(0.5, rngs=rngs)

    def __call__(self, x):
        return jnp.stack([self.one(x), self.two(x)])


@pytest.mark.parametrize("streams", [{"default": 0}, {"default": 0, "dropout": 1}])
def test_dropout_is_on_in_training_alone_and_another_in_each_layer_and_step(streams):
    from jattn.nnx.functional import functional

    model, x = functional(Dropped(nnx.Rngs(**streams))), jnp.ones(64)
    call = jax.jit(lambda rng: model.apply({"params": {}}, x, deterministic=False, rngs={"dropout": rng}))
    first, again, other = (call(jax.random.key(seed)) for seed in (0, 0, 1))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)
    assert not np.array_equal(first[0], first[1])
    assert 0.2 < np.mean(np.asarray(first) == 0) < 0.8
    assert np.all(np.asarray(model.apply({"params": {}}, x)) == 1)


class Asked(nnx.Module):
    """Drops all unless it is called without dropout."""

    def __call__(self, x, deterministic=False):
        return x if deterministic else 0 * x


class Required(Asked):
    def __call__(self, x, deterministic):
        return super().__call__(x, deterministic)


@pytest.mark.parametrize("kind", [Asked, Required])
def test_filters_are_captured_without_dropout_as_outputs_are(kind):
    from jattn.nnx.functional import functional

    model, x = functional(kind()), np.ones(3)
    for output in (as_inspectable(model).capture({"params": {}}, x)[0], model.apply({"params": {}}, x)):
        assert np.array_equal(output, x)


class Stacked(nnx.Module):
    """Shows what dropout of layers that were stacked does to ones."""

    def __init__(self, rngs):
        self.layers = nnx.split_rngs(splits=3)(nnx.vmap(lambda rngs: nnx.Dropout(0.5, rngs=rngs)))(rngs)

    def __call__(self, x):
        return nnx.vmap(lambda layer, x: layer(x), in_axes=(0, None))(self.layers, x)


def test_stacked_layers_have_dropout_of_their_own():
    from jattn.nnx.functional import functional

    model = functional(Stacked(nnx.Rngs(0)))
    rows = model.apply({"params": {}}, jnp.ones(64), deterministic=False, rngs={"dropout": jax.random.key(0)})
    assert len({tuple(row) for row in np.asarray(rows).tolist()}) == 3


def test_a_module_is_the_same_between_train_and_eval():
    from jattn.nnx.functional import words_of

    model = Dropped(nnx.Rngs(0))
    before = words_of(model)
    assert "rate = 0.5" in before
    model.eval()
    assert words_of(model) == before


@pytest.mark.exhaustive
def test_a_run_of_a_class_resumes_is_read_back_and_finds_what_is_not_finite(tmp_path):
    (tmp_path / "zz_nnx.py").write_text(MINE)
    places = places_beside(tmp_path / "exp.toml")

    def config(name, **run):
        given = values(tmp_path / name, kind="zz_nnx.py:Mixer")
        return check(given | {"run": given["run"] | run}, "test", places=places)

    train(config("whole"))
    whole = tmp_path / "whole"
    cut = shutil.copytree(whole, tmp_path / "cut")
    shutil.rmtree(cut / "checkpoints" / "8")
    train(config("cut"))
    assert rows(cut) == rows(whole)
    run = restore(whole)
    batch, variables = run.examples(8), {"params": run.params}
    assert list(filters_of(*run)) == ["attention"]
    edit = {"attention": jattn.edits.knock_out()}
    changed = as_inspectable(run.setup.model).with_edits(variables, edit)
    assert not np.allclose(run.setup.apply(run.params, batch), run.setup.model.apply(changed, **batch.inputs))
    table = jattn.knock_out(run.setup.model, variables, batch)
    assert list(table.alone) == ["attention"]
    assert len(run.predict("0 1 2 3").split()) == 4
    train(config("debugged", debug=True))
    close = [row["loss"] for row in rows(tmp_path / "debugged") if row["kind"] == "train"]
    assert close == pytest.approx([row["loss"] for row in rows(whole) if row["kind"] == "train"], rel=1e-4)
