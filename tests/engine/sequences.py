"""What `test_sharded.py` checks in a process of eight devices: sequences that are split over a mesh axis."""

import functools
import json
import re
import traceback
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from jattn import attend, attention_filter, folds, masks, normalizers, scores, sharded
from jattn.engine import dealing, plans
from tests.engine import split_layers
from tests.variants import VARIANTS, inputs

MOVES = r"\b(all-gather|all-reduce|reduce-scatter|collective-permute|all-to-all|collective-broadcast)\("
STRATEGIES = ("gathered", "ring")


def make_mesh(sizes=(2, 4), names=("data", "sequence"), kind="Auto"):
    return jax.make_mesh(sizes, names, axis_types=(AxisType[kind],) * len(sizes))


def with_gradients(function, *arrays):
    """Returns what a function of arrays returns, and its gradients for some change of the output."""
    out, pull = jax.vjp(function, *arrays)
    return out, pull(jnp.cos(3 * jnp.nan_to_num(out)))


def close(found, expected, tolerance=1e-10):
    for x, y in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(x, y, rtol=tolerance, atol=tolerance)


def compare(arrays, mesh, strategies=STRATEGIES, tolerance=1e-10, finite=True, **call):
    """Compares outputs and gradients of the strategies with those of one device, in one program."""

    def all_of_them(*arrays):
        options = [{"mesh": mesh, "axis": "sequence", "strategy": strategy} for strategy in strategies]
        calls = [functools.partial(sharded.attend, **call, **option) for option in options]
        return [with_gradients(one, *arrays) for one in (functools.partial(attend, **call), *calls)]

    expected, *found = jax.jit(all_of_them)(*arrays)
    assert bool(jnp.isfinite(expected[0]).all()) == finite
    for one in found:
        close(one, expected, tolerance)
    return expected


def check_variant(name):
    """Lengths of 7 and 9 over four devices, in double precision."""
    call, arrays, mesh = VARIANTS[name].call, inputs(dtype=np.float64), make_mesh()
    chosen = STRATEGIES
    try:
        sharded.explain_implementation(*arrays, mesh=mesh, axis="sequence", strategy="ring", **call)
    except ValueError:
        chosen = ("gathered",)
    compare(arrays, mesh, chosen, tolerance=1e-6, **call)  # some rules compute in single precision


def long_inputs(length=64, dtype=np.float64):
    return inputs(length, length, dtype=dtype)


def check_causal_rows_that_move():
    arrays, mesh = long_inputs(), make_mesh()
    call = {"mask": masks.causal(), "block_size": 4}
    with mock.patch.object(plans, "WEIGHTS_LOST", 0):  # so that short sequences are cut as long ones are
        said = {s: explained(arrays, mesh, s, **call) for s in STRATEGIES}
        assert "striped in runs of 4" in said["gathered"], said
        assert "in a zigzag" in said["ring"], said
        compare(arrays, mesh, **call)


def check_several_stripes_for_each_device():
    arrays, mesh = long_inputs(256), make_mesh()
    with mock.patch.object(plans, "WEIGHTS_LOST", 0), mock.patch.object(dealing, "FEWEST_ROWS", 2):
        dealt = dealing.striped(256, mesh.shape["sequence"])
        assert dealt.runs >= 2 * mesh.shape["sequence"]
        compare(arrays, mesh, ("gathered",), mask=masks.causal(), block_size=4)


def check_windows_that_stay():
    arrays, mesh = long_inputs(60), make_mesh()
    call = {"mask": masks.sliding_window(3, 2), "block_size": 5}
    assert "in each of 1 steps to the right and 1 to the left" in explained(arrays, mesh, "ring", **call)
    assert "striped" not in explained(arrays, mesh, "gathered", **call)
    compare(arrays, mesh, **call)


def explained(arrays, mesh, strategy, **call):
    return str(sharded.explain_implementation(*arrays, mesh=mesh, axis="sequence", strategy=strategy, **call))


def check_keys_in_reach_of_a_window():
    """Each device gets the few keys and values of its neighbours that its rows may attend to, and returns gradients."""
    mesh, arrays = make_mesh((8,), ("sequence",)), long_inputs(32)
    call = {"mask": masks.sliding_window(2, 1), "block_size": 4}
    query, key, value = (x[:, :30] for x in arrays)
    broken = query, key.at[:, 5].set(jnp.nan), value.at[:, 20].set(jnp.inf)
    compare(broken, mesh, ("gathered",), finite=False, score=scores.cosine(), **call)
    split = functools.partial(sharded.attend, mesh=mesh, axis="sequence", strategy="gathered", **call)
    lay = NamedSharding(mesh, PartitionSpec(None, "sequence"))
    text = jax.jit(split).lower(*(jax.device_put(x, lay) for x in arrays)).compile().as_text()
    assert set(re.findall(MOVES, text)) == {"collective-permute"}
    shapes = re.findall(r"f64\[([\d,]+)\]\S* collective-permute\(", text)
    sent = sum(np.prod(list(map(int, shape.split(",")))) for shape in shapes)
    assert sent == 3 * (arrays[1].size + arrays[2].size) // 32, shapes


def check_a_window_of_one_block_on_each_device():
    """Where heads are not walked, that block holds all keys."""
    (query, key, value), mesh = long_inputs(32), make_mesh()
    call = {"mask": masks.sliding_window(2, 1), "block_size": 8}
    split = {"mesh": mesh, "axis": "sequence", **call}
    close(sharded.attend(query, key, value, strategy="gathered", **split), attend(query, key, value, **call))
    found, expected = sharded.attention_filter(query, key, **split), attention_filter(query, key, **call)
    close(found.summarize("entropy"), expected.summarize("entropy"))


def check_nan_on_another_device():
    """Keys 4 to 8 lie on other devices than queries 0 to 3, which may not see them."""
    query, key, value = inputs(8, 8, dtype=np.float64)
    key, value = key.at[:, 5].set(jnp.nan), value.at[:, 6].set(jnp.inf)
    out, _ = compare((query, key, value), make_mesh(), finite=False, mask=masks.causal())
    assert np.isfinite(out[:, :5]).all()
    assert np.isnan(out[:, 6:]).all()


def check_nan_without_a_mask():
    query, key, value = inputs(8, 8, dtype=np.float64)
    compare((query, key.at[:, 5].set(jnp.nan), value), make_mesh(), finite=False)


def check_dropout():
    call = {"dropout_rate": 0.4, "dropout_rng": jax.random.key(3), "mask": masks.causal()}
    compare(inputs(dtype=np.float64), make_mesh(), ("gathered",), **call)
    compare(long_inputs(32), make_mesh(), ("gathered",), block_size=2, broadcast_dropout=True, **call)


def check_other_axes(kind="Auto"):
    """Batch and heads stay sharded over their axes: nothing but the sequence moves."""
    mesh = make_mesh((2, 2, 2), ("data", "heads", "sequence"), kind)
    spec = NamedSharding(mesh, PartitionSpec("data", "sequence", "heads", None))
    arrays = inputs(8, 8)
    call = {"mask": masks.causal(), "normalizer": normalizers.softmax_plus_one()}
    placed = [jax.device_put(x, spec) for x in arrays]
    expected = with_gradients(functools.partial(attend, **call), *arrays)
    allowed = {"gathered": {"all-gather", "all-reduce", "reduce-scatter"}, "ring": {"collective-permute"}}
    for strategy in STRATEGIES:
        one = functools.partial(sharded.attend, mesh=mesh, axis="sequence", strategy=strategy, **call)
        compiled = jax.jit(lambda *x, one=one: with_gradients(one, *x)).lower(*placed).compile()
        moves = re.findall(MOVES, compiled.as_text())
        assert set(moves) <= allowed[strategy], (strategy, moves)
        assert moves.count("all-gather") in (0, 2), moves  # of keys and of values
        found = compiled(*placed)
        close(found, expected, 1e-5)
        for x in jax.tree.leaves(found):
            assert x.sharding.is_equivalent_to(spec, 4), x.sharding


def check_explicit_axes():
    mesh = make_mesh((2, 2, 2), ("data", "heads", "sequence"), "Explicit")
    with jax.set_mesh(mesh):
        check_other_axes("Explicit")
        spec = NamedSharding(mesh, PartitionSpec("data", "sequence", "heads", None))
        out = sharded.attend(*(jax.device_put(x, spec) for x in inputs(8, 8)), axis="sequence")
    close(out, attend(*inputs(8, 8)), 1e-5)
    assert jax.typeof(out).sharding.spec == PartitionSpec("data", "sequence", "heads", None)


def check_scan_and_remat():
    mesh, (query, key, value) = make_mesh(), inputs(8, 8, dtype=np.float64)

    def layers(attention, query):
        def layer(x, _):
            return x + jnp.mean(attention(x, key, value, mask=masks.causal()), axis=-1, keepdims=True), None

        return jax.lax.scan(jax.checkpoint(layer), query, None, length=2)[0]

    expected = with_gradients(functools.partial(layers, attend), query)
    for strategy in STRATEGIES:
        one = functools.partial(sharded.attend, mesh=mesh, axis="sequence", strategy=strategy)
        close(jax.jit(functools.partial(with_gradients, functools.partial(layers, one)))(query), expected)


def check_forward_mode():
    arrays, mesh = inputs(dtype=np.float64), make_mesh()
    split = functools.partial(sharded.attend, mesh=mesh, axis="sequence", strategy="gathered")

    def moved(attention):
        return jax.jvp(functools.partial(attention, mask=masks.causal()), arrays, tuple(jnp.cos(x) for x in arrays))

    close(jax.jit(lambda: moved(split))(), moved(attend))


def check_half_precision():
    arrays = [x.astype(jnp.bfloat16) for x in inputs(8, 8)]
    expected = compare(arrays, make_mesh(), tolerance=0.03)
    assert expected[0].dtype == jnp.bfloat16


ASKED = ("entropy", "log_normalizer", "argmax", "received", "histogram")


def ask(filter, heads=None):
    """Asks folds of rows and of heads, one of them with a combination that is no sum."""
    most = folds.from_function(lambda weights, grid: jnp.max(weights, (-2, -1)), jnp.maximum)
    return filter.summarize(*ASKED, heads=heads, map=folds.pool(3, 2), most=most, best=folds.top_k(2))


def check_filters():
    """Ragged lengths and empty rows; of all heads and of some; rows from anywhere, and a column."""
    arrays, mesh = inputs(dtype=np.float64)[:2], make_mesh()
    call = {"mask": masks.causal(-2) & masks.padding(jnp.array([4, 9])), "block_size": 2}
    one, many = attention_filter(*arrays, **call), sharded.attention_filter(*arrays, mesh=mesh, axis="sequence", **call)
    for heads in (None, [2, 0]):
        close(ask(many, heads), ask(one, heads))
    close(many.rows([6, 0, -2]), one.rows([6, 0, -2]))
    close(many[0, 1, :, 3], one[0, 1, :, 3])


def check_moves_of_filters(kind="Auto"):
    """Keys are gathered once, a fold of heads is summed once, and nothing else moves."""
    mesh = make_mesh((8,), ("sequence",), kind)
    spec = NamedSharding(mesh, PartitionSpec(None, "sequence", None, None))
    arrays = inputs(8, 8)[:2]

    def ask(*arrays):
        return sharded.attention_filter(*arrays, mesh=mesh, axis="sequence").summarize("entropy", "received")

    function = jax.jit(ask)
    compiled = function.lower(*(jax.device_put(x, spec) for x in arrays)).compile()
    assert sorted(re.findall(MOVES, compiled.as_text())) == ["all-gather", "all-reduce"]
    found = compiled(*(jax.device_put(x, spec) for x in arrays))
    close(found, attention_filter(*arrays).summarize("entropy", "received"), 1e-5)
    rows = NamedSharding(mesh, PartitionSpec(None, None, "sequence"))
    assert found["entropy"].sharding.is_equivalent_to(rows, 3), found["entropy"].sharding


def check_filters_of_windows():
    """Each device gets the few keys of its neighbours that its rows may attend to, and sums folds of heads."""
    mesh, (query, key, _) = make_mesh((8,), ("sequence",)), inputs(32, 32, dtype=np.float64)
    call = {"mask": masks.sliding_window(2, 1), "block_size": 3}
    split = functools.partial(sharded.attention_filter, mesh=mesh, axis="sequence", **call)

    def look(make, query, key):
        def change(key):
            found = make(query, key).summarize("entropy", "argmax", map=folds.pool(3, 2))
            return jnp.sum(jnp.sin(found["entropy"])), found

        return jax.value_and_grad(change, has_aux=True)(key)

    def both(*sides):
        return look(split, *sides), look(functools.partial(attention_filter, **call), *sides)

    for length in (32, 30):
        close(*jax.jit(both)(query[:, :length], key[:, :length]))
    lay = NamedSharding(mesh, PartitionSpec(None, "sequence"))
    program = jax.jit(lambda *sides: split(*sides).summarize("entropy", "received"))
    text = program.lower(*(jax.device_put(x, lay) for x in (query, key))).compile().as_text()
    assert sorted(re.findall(MOVES, text)) == ["all-reduce", "collective-permute", "collective-permute"]
    shapes = re.findall(r"f64\[([\d,]+)\]\S* collective-permute\(", text)
    one_key = key.size // 32
    assert sorted(np.prod(list(map(int, shape.split(",")))) for shape in shapes) == [one_key, 2 * one_key], shapes


def check_filters_on_explicit_axes():
    with jax.set_mesh(make_mesh((8,), ("sequence",), "Explicit")):
        check_moves_of_filters("Explicit")


def check_lowering():
    """Both strategies, forward and backward, for platforms that are not here."""
    mesh = make_mesh()
    for strategy in STRATEGIES:
        one = functools.partial(sharded.attend, mesh=mesh, axis="sequence", strategy=strategy, mask=masks.causal())
        function = jax.jit(functools.partial(with_gradients, one))
        exported = jax.export.export(function, platforms=("cpu", "cuda", "tpu"))(*inputs(8, 8))
        assert exported.nr_devices == 8


CHECKS = {name.removeprefix("check_"): check for name, check in globals().items() if name.startswith("check_")}
CHECKS.pop("variant")
CHECKS |= split_layers.CHECKS


def run(names):
    """Prints what is wrong with each of these checks, if anything is, as JSON."""
    assert jax.device_count() == 8
    wrong = {}
    for name in names:
        try:
            CHECKS[name]() if name in CHECKS else check_variant(name)
            wrong[name] = ""
        except Exception:
            wrong[name] = traceback.format_exc()
    print(json.dumps(wrong))
