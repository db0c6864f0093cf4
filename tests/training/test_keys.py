"""A key of a config is used or refused: changing it changes what is computed, or is answered with the reason."""

import ast
import functools
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest

from jattn.layers.transformers import POSITIONS as POSITIONS_OF_MODELS
from jattn.linen.recurrent import CELLS
from jattn.tasks import LAYOUTS as LAYOUTS_OF_TASKS, TASKS
from jattn.tasks.catalogue import CATALOGUE, option_of
from jattn.tasks.options import entry
from jattn.training import tables
from jattn.training.config import Config, ModelConfig, TaskConfig, TrainingConfig
from jattn.training.reading import ConfigError, check
from jattn.training.sections import Section, with_options
from jattn.training.setup import make_setup
from tests.sampled import sampled

ROOT = Path(__file__).resolve().parents[2]

OTHER_VALUES = {
    "kind": ["gru", "lstm", "pooled", "transformer"],
    "attention": [True, False],
    "num_layers": [2],
    "num_heads": [4],
    "width": [12],
    "hidden": [9],
    "norm": ["post"],
    "queries": ["positions"],
    "positions": [*tables.POSITIONS],
    "max_length": [77],
    "score": [*tables.SCORES],
    "temperature": [0.7],
    "normalizer": [*tables.NORMALIZERS],
    "dropout_rate": [0.25],
    "num_kv_heads": [1],
    "window": [2],
    "qk_norm": ["layer", "rms"],
    "soft_cap": [3.0],
    "filter_dropout_rate": [0.5],
    "rotary_base": [500.0],
    "rotary_scaling": [2.0],
    "distance_scale": [0.5],
    "additive_units": [3],
    "sink": [-1.0],
    "sigmoid_bias": [-1.0],
    "top_k": [2],
}
"""Values of each key of a model that are not its default, or all that there are."""

KINDS = [(kind, layout) for kind, made in tables.KINDS.items() for layout in made.models]

BASES = [
    *({"kind": kind, "layout": layout} for kind, layout in KINDS),
    {"kind": "transformer", "layout": "encoder", "positions": "learned"},
    {"kind": "transformer", "layout": "encoder_decoder", "score": "cosine"},
    {"kind": "transformer", "layout": "encoder", "positions": "rotary"},
    {"kind": "transformer", "layout": "decoder", "score": "negative_squared_distance"},
    {"kind": "transformer", "layout": "encoder", "score": "additive", "normalizer": "learned_sink"},
    {"kind": "gru", "layout": "encoder_decoder", "attention": False},
    {"kind": "pooled", "layout": "encoder_decoder", "score": "cosine", "positions": "learned"},
    *({"kind": "transformer", "layout": "causal", "normalizer": name} for name in tables.NORMALIZERS),
    *({"kind": "transformer", "layout": "decoder", "positions": name} for name in tables.POSITIONS),
]
"""What is chosen before a key is changed."""


def values_of(base, **changes):
    heads = {} if (base | changes).get("attention") is False else {"num_heads": 2}
    model = {"width": 8} | heads | {key: value for key, value in (base | changes).items() if key != "layout"}
    name = "induction" if base["layout"] == "causal" else "copy"
    task = {"name": name, "layout": base["layout"], "min_length": 3, "max_length": 3, "symbols": 3}
    return {"task": task, "model": model, "training": {"batch_size": 2}, "mesh": {"data": 1}}


@functools.cache
def computed(values):
    """Returns, as text and constants, what the model that a config asks for computes in training."""
    setup = make_setup(check({table: dict(entries) for table, entries in values}, "test"))
    rng = jax.random.key(0)

    def loss(params, rng):
        batch = setup.training_batch(rng, jnp.arange(2))
        return setup.apply(params, batch, deterministic=False, rngs={"dropout": rng})

    batch = jax.eval_shape(lambda: setup.training_batch(rng, jnp.arange(2)))
    traced = jax.make_jaxpr(loss)(jax.eval_shape(setup.init, batch), rng)
    return str(traced), [jnp.asarray(constant).tolist() for constant in traced.consts if constant.size < 100]


def problem_of(values):
    """Returns what is wrong with a config, or nothing."""
    try:
        check(values, "test")
    except ConfigError as error:
        return str(error)


def frozen(values):
    return tuple((table, tuple(entries.items())) for table, entries in values.items())


@sampled("base", BASES, keep=1, ids=lambda base: " ".join(map(str, base.values())))
def test_every_key_of_a_model_is_used_or_refused(base):
    before, used, refused = computed(frozen(values_of(base))), set(), set()
    for key in ModelConfig.model_fields:
        for value in OTHER_VALUES[key]:
            if value == base.get(key, ModelConfig.model_fields[key].default):
                continue
            values = values_of(base, **{key: value})
            problem = problem_of(values)
            (refused if problem else used).add(key)
            assert not problem or problem.startswith(f"test: model.{key}: ") or key == "kind"
            assert problem or computed(frozen(values)) != before, f"{key} = {value} changes nothing"
    assert used | refused == set(ModelConfig.model_fields)
    assert {"width", "num_layers", "dropout_rate"} <= used
    written = check(values_of(base), "test").model_dump()["model"]
    assert (
        used - {"kind", "additive_units", *tables.CHOICES}
        <= set(written)
        <= used | {"kind", "positions", "queries", "score"}
    )


@pytest.mark.parametrize("name", TASKS)
def test_every_option_of_a_task_is_used_and_all_others_are_refused(name):
    given = {"name": name, "layout": TASKS[name]().layouts[0]}
    own = set(CATALOGUE[name].options)
    for key in set(TaskConfig.model_fields) - {"name", "layout", "min_length", "max_length"}:
        if key in own:
            continue
        with pytest.raises(ConfigError, match=rf"test: task\.{key}: task '{name}' has no such option"):
            check({"task": given | {key: OTHER_OPTIONS[key]}}, "test")
    written = check({"task": given}, "test").model_dump()["task"]
    assert set(written) == {*given, "min_length", "max_length", *own}


OTHER_OPTIONS = {
    "by": 2, "places": 16, "items": 3, "hay": 20, "keys": 12, "values": 7, "vocabulary": 1024, "pairs": 3,
    "names": 20, "hops": 2, "max_count": 18, "base": 7, "modulus": 11, "depth": 1, "operators": 2,
    "split": "train", "read_at": "end", "facts": 2, "image": 16, "patch": 3, "shape": 3, "symbols": 6,
    "train_share": 0.5, "split_seed": 1, "generator": "chomsky", "file": "a", "units": "bytes", "test_share": 0.5,
    "sha256": "a", "tokenizer": "a",
}  # fmt: skip

GENERATORS = {"selective_copy": "mad", "associative_recall": "safari", "mqar": "zoology", "induction": "safari"}
"""Other values of that option, where a task does not know the one above."""


@pytest.mark.parametrize("name", TASKS)
def test_every_option_changes_the_examples(name):
    def sampled_with(options):
        layout = "causal" if options.get("generator") == "safari" else TASKS[name]().layouts[0]
        section = check({"task": {"name": name, "layout": layout} | options}, "test").task
        task = section.make()
        sample = functools.partial(task.sample, length=jnp.int32(section.max_length), room=section.max_length)
        traced = jax.make_jaxpr(sample)(jax.random.key(0))
        return task.symbols, str(traced), [jnp.asarray(constant).tolist() for constant in traced.consts]

    others = OTHER_OPTIONS | ({"generator": GENERATORS[name]} if name in GENERATORS else {})
    for key in CATALOGUE[name].options:
        # Which pairs are for training is asked for only where not all are.
        before = {"train_share": 0.5} if key == "split_seed" else {}
        assert sampled_with(before | {key: others[key]}) != sampled_with(before), key


LEARNING = {
    "optimizer": [*tables.OPTIMIZERS],
    "schedule": [*tables.SCHEDULES],
    "learning_rate": [0.1],
    "warmup_steps": [7],
    "steps": [77],
    "clip_norm": [0.3],
    "weight_decay": [0.3],
    "momentum": [0.3],
    "decay_share": [0.5],
}


@pytest.mark.parametrize("optimizer", tables.OPTIMIZERS)
def test_every_key_of_an_optimizer_is_used_or_refused(optimizer):
    @functools.cache
    def learned(**training):
        setup = make_setup(check({"training": {"optimizer": optimizer} | training}, "test"))
        params = jnp.ones(2)
        return str(jax.make_jaxpr(setup.optimizer.update)(params, setup.optimizer.init(params), params))

    before = learned()
    for key, values in LEARNING.items():
        for value in values:
            if value == {"optimizer": optimizer, "schedule": "cosine"}.get(key):
                continue
            if key == "decay_share":
                stable = {"schedule": "warmup_stable_decay"}
                assert learned(**stable, decay_share=value) != learned(**stable)
                with pytest.raises(ConfigError, match=r"training\.decay_share: schedule 'cosine' does not use it"):
                    learned(decay_share=value)
            elif key in ("weight_decay", "momentum") and key not in tables.OPTIMIZERS[optimizer].options:
                with pytest.raises(ConfigError, match=rf"training\.{key}: optimizer '{optimizer}' does not use it"):
                    learned(**{key: value})
            else:
                assert learned(**{key: value}) != before, f"{key} = {value} changes nothing"


@sampled("optimizer", tables.OPTAX, keep=2)
def test_more_optimizers_of_optax_take_their_options_and_go_downhill(optimizer):
    setup = make_setup(check({"training": {"optimizer": optimizer, "warmup_steps": 0}}, "test"))
    written = setup.config.model_dump()["training"]
    assert {"learning_rate", "schedule"} <= set(written)
    params = {"weights": jnp.ones((2, 3)), "bias": jnp.ones(3)}
    state = setup.optimizer.init(params)
    _, state = setup.optimizer.update(params, state, params)  # the first of adopt is nothing
    updates, _ = setup.optimizer.update(params, state, params)
    assert all(jnp.all(leaf < 0) for leaf in jax.tree.leaves(updates))


def test_a_stable_rate_decays_at_the_end_alone():
    values = {
        "schedule": "warmup_stable_decay",
        "decay_share": 0.5,
        "steps": 10,
        "warmup_steps": 2,
        "learning_rate": 0.4,
    }
    setup = make_setup(check({"training": values}, "test"))
    rates = [setup.learning_rate(step)["learning_rate"] for step in range(11)]
    assert rates == pytest.approx([0, 0.2, 0.4, 0.4, 0.4, 0.4, 0.4, 0.3, 0.2, 0.1, 0])


def test_every_other_key_is_read_somewhere():
    read = {
        node.attr
        for path in (ROOT / "jattn").rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load)
    }
    walked = {*OTHER_VALUES, *LEARNING, *OTHER_OPTIONS}
    keys = {key for name in Config.model_fields for key in type(getattr(Config(), name)).model_fields}
    assert {"log_every", "solved_accuracy", "seed"} <= keys - walked
    assert keys - walked <= read
    assert walked <= keys


def test_the_tables_of_a_config_are_those_of_what_they_name():
    assert {*LAYOUTS_OF_TASKS} == {*tables.LAYOUTS}
    assert {*tables.POSITIONS} == {*POSITIONS_OF_MODELS}
    assert {*CELLS} == {kind for kind, made in tables.KINDS.items() if "attention" in made.uses}
    for made in tables.KINDS.values():
        for module in made.models.values():
            fields = {"cell", "kind", *entry(module).load().__dataclass_fields__}
            common = {key for key in made.uses if key not in ("queries", "num_heads")}
            assert common <= fields
    for made in CATALOGUE.values():
        signature = {option_of(key): default for key, default in zip_defaults(made.load())}
        assert signature == {key: option.default for key, option in made.options.items()}


def zip_defaults(function):
    names = function.__code__.co_varnames[: function.__code__.co_argcount]
    return zip(names, function.__defaults__ or (), strict=True)


@pytest.mark.parametrize(
    ("sections", "text"),
    [
        ({"model": {"temperature": 0.2}}, "model.temperature: score 'scaled_dot' does not use it, only 'cosine' does"),
        ({"model": {"max_length": 9}}, "model.max_length: positions 'sinusoidal' does not use it, only 'learned' does"),
        (
            {"task": {"layout": "encoder_decoder"}, "model": {"kind": "gru", "hidden": 9}},
            "model.hidden: kind 'gru' does not use it, only 'transformer' and 'pooled' do",
        ),
        (
            {"task": {"layout": "encoder_decoder"}, "model": {"kind": "gru", "temperature": 0.2}},
            "model.temperature: it is for score; kind 'gru' does not use it, only 'transformer' and 'pooled' do",
        ),
        (
            {"task": {"layout": "encoder_decoder"}, "model": {"kind": "lstm", "attention": False, "num_heads": 2}},
            "model.num_heads: attention false does not use it, only true does",
        ),
        ({"training": {"momentum": 0.2}}, "training.momentum: optimizer 'adamw' does not use it, only 'sgd' does"),
        (
            {"task": {"layout": "decoder"}, "model": {"queries": "tokens"}},
            "model.queries: layout 'decoder' does not use it, only 'encoder' does",
        ),
    ],
)
def test_what_is_not_used_is_refused_with_the_reason(sections, text):
    with pytest.raises(ConfigError) as refused:
        check(sections, "test")
    assert str(refused.value) == f"test: {text}"


def test_a_config_of_one_kind_does_not_change_another():
    model = ModelConfig()
    assert check({"task": {"layout": "encoder_decoder"}, "model": {"kind": "gru"}}, "test").model.hidden is None
    assert Config(model=model, training=TrainingConfig()).model.hidden == 64
    assert Config().model_dump()["model"] == {
        "kind": "transformer", "num_layers": 1, "num_heads": 1, "width": 32, "hidden": 64, "norm": "pre",
        "queries": "tokens", "positions": "sinusoidal", "score": "scaled_dot", "normalizer": "softmax",
        "dropout_rate": 0.0,
    }  # fmt: skip


def test_options_of_one_name_mean_one_thing():
    kind = type(tables.SCORES["cosine"].options["temperature"])
    one, other = entry("", rate=kind(1, "how fast")), entry("", rate=kind(1, "how slow"))
    with pytest.raises(ValueError, match="rate: expected one meaning, got several, of first, second"):
        with_options("Mine", Section, {"name": {"first": one, "second": other}})
