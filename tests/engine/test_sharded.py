"""Attention of sequences that are split over devices is that of one device, in a process of eight."""

import functools
import json
import os
import re
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AbstractMesh, AxisType

import jattn
from jattn import biases, edits, masks, normalizers, sharded
from jattn.engine.dealing import Dealing, plan_on_devices, striped
from jattn.engine.ring import plan_route
from jattn.engine.strategies import check_mesh
from tests.compilations import counted
from tests.engine import sequences
from tests.sampled import sampled
from tests.variants import VARIANTS

CASES = [*sequences.CHECKS, *VARIANTS]
MESH = jax.sharding.AbstractMesh((8,), ("sequence",))
TOKENS = jax.ShapeDtypeStruct((1, 65536, 8, 64), jnp.bfloat16)
SMALL = jax.ShapeDtypeStruct((2, 7, 4, 6), jnp.float32)


def run_cases(names):
    """Runs some cases in a process of eight devices; returns what is wrong with each."""
    env = os.environ | {"XLA_FLAGS": "--xla_force_host_platform_device_count=8", "JAX_PLATFORMS": "cpu"}
    code = f"from tests.engine.sequences import run; run({names!r})"
    command = [sys.executable, "-W", "ignore", "-c", code]
    done = subprocess.run(command, env=env | {"JAX_ENABLE_X64": "1"}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.fixture(scope="module")
def wrong(request):
    """What is wrong with each case, by its name."""
    ours = [item for item in request.session.items if item.path == request.path and hasattr(item, "callspec")]
    return run_cases([item.callspec.params["case"] for item in ours if "case" in item.callspec.params])


@sampled("case", CASES, keep=["nan_on_another_device", "layer"])
def test_it_is_what_one_device_computes(case, wrong):
    assert not wrong[case], wrong[case]


@pytest.mark.parametrize("dealing", [Dealing(7, 4), Dealing(64, 4, 4, "striped"), Dealing(30, 4, 2, "zigzag")])
def test_every_position_is_dealt_out(dealing):
    rows = dealing.rows(np.arange(4)[:, None])
    assert rows.shape == (4, dealing.rows_each)
    assert sorted(set(rows.ravel().tolist())) == list(range(dealing.length))
    assert rows.size - dealing.length == dealing.padded - dealing.length


@sampled("strategy", ["gathered", "ring"], keep=1)
def test_several_stripes_of_a_device_for_each_other_one_have_gradients(strategy):
    given = {"mesh": MESH, "axis": "sequence", "strategy": strategy, "mask": masks.causal()}
    assert striped(TOKENS.shape[1], 8).runs == 16

    def loss(*sides):
        return jnp.sum(sharded.attend(*sides, **given))

    gradients = jax.eval_shape(jax.grad(loss, (0, 1, 2)), TOKENS, TOKENS, TOKENS)
    assert [gradient.shape for gradient in gradients] == [TOKENS.shape] * 3


def causal_work(rows, num_keys):
    """How many keys the queries of each device see, of a causal mask."""
    return np.minimum(rows + 1, num_keys).sum(axis=1)


@pytest.mark.parametrize("mask", [masks.causal(), masks.sliding_window(200), masks.causal() | masks.prefix(3000)])
def test_every_device_computes_the_keys_that_its_queries_see(mask):
    length, dealing = 8192, striped(8192, 8)
    plan = plan_on_devices((8, dealing.rows_each, length), mask, dealing, None, True)
    rows = dealing.rows(np.arange(8)[:, None])
    for strip in plan.strips:
        for device, first_keys in enumerate(strip.by_device or (strip.first_keys,) * 8):
            for first_row, first_key in zip(strip.first_rows, first_keys, strict=True):
                block = rows[device, first_row : first_row + strip.block_size]
                begin, end = (x[0] for x in mask.allowed_span(block[:1], block[-1:], length))
                assert first_key <= max(0, begin)
                assert first_key + strip.num_keys >= min(length, end)


def test_a_zigzag_balances_a_causal_ring():
    rows, (stay, deal) = 65536, (Dealing(65536, 8, *more) for more in ((), (2, "zigzag")))
    work = plan_route(masks.causal(), deal, deal).work
    assert (work == work[0]).all()
    assert causal_work(deal.rows(np.arange(8)[:, None]), rows).std() == 0
    assert work[0] < 0.6 * plan_route(masks.causal(), stay, stay).work.max()
    assert work[0] * 8 < 1.1 * rows * (rows + 1) / 2


def test_keys_that_no_query_sees_are_not_sent():
    dealing = Dealing(65536, 8)
    route = plan_route(masks.sliding_window(256), dealing, dealing)
    assert (route.right, route.left) == (1, 0)
    assert plan_route(None, dealing, dealing).right == 7
    both = plan_route(masks.sliding_window(256, 256), dealing, dealing)
    assert (both.right, both.left) == (1, 1)


def test_it_is_explained():
    said = str(sharded.explain_implementation(TOKENS, TOKENS, TOKENS, mesh=MESH, axis="sequence", strategy="ring"))
    assert said.startswith("ring: each of 8 devices has 8192 of 65536 queries, computes at most 12.5% of all scores")
    assert "receives 16.8 MB of keys and values in each of 7 steps to the right and 0 to the left" in said
    window = {"mask": masks.sliding_window(1000), "strategy": "gathered"}
    said = str(sharded.explain_implementation(TOKENS, TOKENS, TOKENS, mesh=MESH, axis="sequence", **window))
    assert "computes 0.2% of all scores and receives 2.0 MB of keys and values\n" in said
    long = jax.ShapeDtypeStruct((1, 2**20, 8, 64), jnp.bfloat16)
    chosen = functools.partial(sharded.explain_implementation, long, long, long, mesh=MESH, axis="sequence")
    assert chosen(mask=masks.causal()).chosen == "ring"
    sparse = chosen(normalizer=normalizers.sparsemax())
    assert sparse.chosen == "gathered"
    assert sparse.reasons["ring"] == "needs a softmax, which needs no whole rows, got normalizer sparsemax()"


WRONG = {
    "axis: expected an axis of the mesh, one of 'sequence', got 'data'": {"axis": "data"},
    "mesh: expected a mesh, or a call under jax.set_mesh(mesh), got None": {"mesh": None},
    "strategy: expected one of gathered, ring or None, got 'rings'": {"strategy": "rings"},
    "'ring' needs a softmax, which needs no whole rows, got normalizer entmax15()": {
        "normalizer": normalizers.entmax15()
    },
    "'ring' needs no edit, which is given whole rows, got knock_out()": {"edit": edits.knock_out()},
    "'ring' needs no dropout, got dropout_rate 0.5": {"dropout_rate": 0.5, "dropout_rng": jax.random.key(0)},
    "'ring' needs no array with both queries and keys, got bias with shape (1, 1, 7, 7)": {"bias": jnp.zeros((7, 7))},
    "'gathered' computes every call": {"mask": ~jnp.eye(7, dtype=bool) & masks.causal()},
    "query: expected at least 3 axes": {"query": SMALL.update(shape=(7, 6))},
    "value: expected shape [2, 7, 4, V]": {"value": SMALL.update(shape=(2, 8, 4, 6))},
    "block_size": {"block_size": 0},
}


@pytest.mark.parametrize("message", WRONG)
def test_what_cannot_be_is_refused(message):
    call = {"query": SMALL, "key": SMALL, "value": SMALL, "mesh": MESH, "axis": "sequence", "strategy": "ring"}
    with pytest.raises(ValueError, match=re.escape(message)):
        sharded.explain_implementation(**call | WRONG[message])


def test_a_ring_is_not_taken_with_a_function_that_refers_to_what_is_traced():
    found = []

    def traced(slope):
        bias = biases.from_function(lambda query, key: slope * (query - key))
        found.append(sharded.explain_implementation(SMALL, SMALL, SMALL, mesh=MESH, axis="sequence", bias=bias))
        with pytest.raises(ValueError, match="no function that refers to an array that is being traced"):
            sharded.explain_implementation(SMALL, SMALL, SMALL, mesh=MESH, axis="sequence", bias=bias, strategy="ring")
        return slope

    jax.eval_shape(traced, 0.3)
    assert found[0].chosen == "gathered"
    assert "being traced" in found[0].reasons["ring"]


def test_a_mesh_that_is_not_that_of_set_mesh_is_refused():
    refused = pytest.raises(ValueError, match=r"mesh: expected None or that of jax.set_mesh, \{'other': 4\}, got ")
    with jax.sharding.use_abstract_mesh(AbstractMesh((4,), ("other",))), refused:
        check_mesh(MESH)
    check_mesh(MESH)


def test_a_layer_takes_no_implementation_with_an_axis():
    layer = jattn.MultiHeadAttention(num_heads=1, sequence_axis="sequence", implementation="blocked")
    expected = r"implementation: expected 'gathered', 'ring' or None with a sequence_axis, got 'blocked'"
    with pytest.raises(ValueError, match=expected):
        jax.eval_shape(layer.init, jax.random.key(0), jnp.zeros((4, 2)))


def test_a_layer_with_an_axis_needs_a_mesh():
    layer = jattn.MultiHeadAttention(num_heads=1, sequence_axis="sequence")
    with pytest.raises(ValueError, match=r"mesh: expected a mesh, or a call under jax\.set_mesh\(mesh\), got None"):
        jax.eval_shape(layer.init, jax.random.key(0), jnp.zeros((4, 2)))


def of_one_device(strategy, **call):
    mesh = jax.make_mesh((1,), ("sequence",), axis_types=(AxisType.Auto,))
    query, key, value = jax.random.normal(jax.random.key(0), (3, 6, 1, 2))
    return lambda: sharded.attend(query, key, value, mesh=mesh, axis="sequence", strategy=strategy, **call)


@sampled("strategy", ["gathered", "ring"], keep=1)
def test_rules_that_are_written_anew_compile_nothing(strategy):
    of_one_device(strategy, mask=masks.causal() & masks.padding(jnp.array(5)))()
    again = of_one_device(strategy, mask=masks.causal() & masks.padding(jnp.array(4)))
    with counted() as happened:
        again()
    assert not happened


def test_forward_mode_round_a_ring_is_refused():
    mesh = jax.make_mesh((1,), ("sequence",), axis_types=(AxisType.Auto,))
    ones = jnp.ones((4, 1, 2))

    def ring(x):
        return sharded.attend(x, x, x, mesh=mesh, axis="sequence", strategy="ring")

    expected = r"strategy: 'ring' has reverse-mode derivatives, got forward-mode as of jax\.jvp; 'gathered' has both"
    with pytest.raises(TypeError, match=expected):
        jax.jvp(ring, (ones,), (ones,))


def test_a_mesh_is_a_mesh():
    with pytest.raises(TypeError, match=r"mesh: expected a jax\.sharding\.Mesh, got str"):
        sharded.explain_implementation(SMALL, SMALL, SMALL, mesh="sequence", axis="sequence")
