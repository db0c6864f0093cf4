"""Training on a mesh: one step is that of one device, whatever is split, and checkpoints fit any number of devices."""

import json
import re
import subprocess
import sys
from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import AbstractMesh, AxisType

from jattn.layers.projections import look_up, project
from jattn.training.announcing import device_line
from jattn.training.reading import ConfigError, check
from jattn.training.runs import cpu_devices
from jattn.training.setup import make_setup
from jattn.training.sharding import make_mesh

SCRIPT = """
import json, sys
import jax, jax.numpy as jnp, numpy as np
jax.config.update("jax_num_cpu_devices", 8)
from jattn.training.checkpoints import Checkpoints
from jattn.training.digests import history_of
from jattn.training.evaluation import make_measure
from jattn.training.reading import check
from jattn.training.setup import make_setup
from jattn.training.step import initial_state, make_train_chunk
from pathlib import Path

def trained(data, split=False, sequence=1, layout="encoder", model={}, **training):
    model = {"width": 16, "hidden": 32, "dropout_rate": DROPOUT} | model
    values = {"task": {"min_length": 4, "max_length": 4, "layout": layout}, "model": model}
    training = {"batch_size": 16, "optimizer": "sgd", "learning_rate": 0.1} | training
    mesh = {"data": data, "shard_parameters": split, "sequence": sequence}
    values |= {"training": training, "evaluation": {"batch_size": 16}, "mesh": mesh}
    setup = make_setup(check(values, "test"))
    return setup, make_train_chunk(setup)(initial_state(setup), jnp.int32(3))

def largest_difference(one, other):
    pairs = zip(*(jax.tree.leaves(jax.device_get(state)) for state in (one, other)), strict=True)
    return max(float(np.max(np.abs(ours.astype(float) - theirs), initial=0)) for ours, theirs in pairs)

def held(state):
    return sum(leaf.addressable_shards[0].data.nbytes for leaf in jax.tree.leaves((state.params, state.opt_state)))

found = {}
DROPOUT = 0.0
_, one = trained(1)
for name, arguments in {"8": (8,), "8 split": (8, True), "2 split": (2, True)}.items():
    found[name] = largest_difference(trained(*arguments)[1], one)
decoder = {"layout": "decoder", "model": {"positions": "relative", "window": 4}}
pooled = {"layout": "encoder_decoder", "model": {"kind": "pooled", "normalizer": "entmax15"}}
for name, more in {"2 x 4": {}, "2 x 4 split": {"split": True}, "decoder": decoder, "pooled": pooled}.items():
    alone, many = trained(1, **more | {"split": False}), trained(2, sequence=4, **more)
    found[name] = largest_difference(many[1], alone[1])
    sums = [make_measure(setup, 4, 16)(state.params, setup.rngs("test"), 0) for setup, state in (alone, many)]
    found[f"{name} measured"] = largest_difference(*sums)
DROPOUT = 0.2
found["2 x 4 dropout"] = largest_difference(trained(2, sequence=4)[1], trained(1)[1])
whole, split = trained(8), trained(8, True)
found["dropout"] = largest_difference(split[1], whole[1])
found["held"] = held(split[1]) / held(whole[1])
measure = [make_measure(setup, 4, 16)(state.params, setup.rngs("test"), 0).sums for setup, state in (whole, split)]
found["measured"] = largest_difference(*measure)
checkpoints = Checkpoints(Path(sys.argv[1]) / "checkpoints", 2)
checkpoints.save(split[1], 0.0, history_of(b""))
checkpoints.wait()
for name, arguments in {"to 1": (1,), "to 4 split": (4, True)}.items():
    like = initial_state(trained(*arguments)[0])
    restored = checkpoints.restore(like, 3)
    found[name] = largest_difference(restored, split[1])
    assert jax.tree.map(lambda x: x.sharding, restored) == jax.tree.map(lambda x: x.sharding, like)
print(json.dumps(found))
"""


@pytest.mark.exhaustive
def test_a_step_is_that_of_one_device_whatever_is_split(tmp_path):
    run = subprocess.run([sys.executable, "-c", SCRIPT, str(tmp_path)], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    found = json.loads(run.stdout)
    assert found.pop("held") < 0.2
    assert found.pop("to 1") == found.pop("to 4 split") == 0
    assert len(found) == 5 + 8 + 1
    # What is measured are sums over examples and positions.
    assert all(found[name] < (1e-3 if name.endswith(" measured") else 1e-4) for name in found), found


WRONG = {
    "mesh.sequence: expected a divisor of the 8 devices there are, got 3": {"mesh": {"sequence": 3}},
    "mesh.sequence: expected a divisor of the 8 devices there are, got 16": {"mesh": {"sequence": 16, "data": 1}},
    "mesh.data: expected at most the 8 devices there are over mesh.sequence 4, or -1, got 3": {
        "mesh": {"sequence": 4, "data": 3}
    },
    "training.batch_size: expected a multiple of the 4 devices of mesh.data, got 6": {
        "mesh": {"sequence": 2},
        "training": {"batch_size": 6},
    },
    "training.replicates: expected 1 with mesh.sequence, got 2": {
        "mesh": {"sequence": 2},
        "training": {"replicates": 2},
    },
    "mesh.sequence: expected 1 with run.debug, got 2": {"mesh": {"sequence": 2}, "run": {"debug": True}},
    "mesh.sequence: expected 1 for a model without sequence_axis='sequence', as 'gru' is, got 2": {
        "mesh": {"sequence": 2},
        "task": {"layout": "encoder_decoder"},
        "model": {"kind": "gru"},
    },
}


@pytest.mark.parametrize("message", WRONG)
def test_what_cannot_be_split_is_refused(message, monkeypatch):
    monkeypatch.setattr(jax, "devices", lambda: [None] * 8)
    with pytest.raises(ConfigError, match=re.escape(message)):
        make_setup(check(WRONG[message], "test"))


def test_devices_share_examples_and_positions(monkeypatch):
    mesh = {"sequence": 4, "data": 2}
    config = check({"mesh": mesh, "training": {"batch_size": 2}, "evaluation": {"batch_size": 2}}, "test")
    assert cpu_devices(config) == 8
    monkeypatch.setattr(jax, "devices", lambda: list(range(9)))
    made = make_mesh(config)
    assert made.axis_names == ("data", "sequence")
    assert made.devices.tolist() == [[0, 1, 2, 3], [4, 5, 6, 7]]


@pytest.mark.parametrize("splits", [True, False])
def test_one_device_is_said_to_split_no_parameters(splits):
    setup: Any = SimpleNamespace(
        config=check({"mesh": {"shard_parameters": splits}}, "test"), mesh=jax.make_mesh((1,), ("data",))
    )
    assert device_line(setup).endswith("; mesh.data is 1, so mesh.shard_parameters splits nothing") is splits


def shapes_of_products(function, *arrays):
    """Traces a function; returns the shapes of the first factors of its matrix products."""
    found = []
    for equation in jax.make_jaxpr(function)(*arrays).eqns:
        inner = [equation.params["jaxpr"].eqns] if "jaxpr" in equation.params else [[equation]]
        found += [e.invars[0].aval.shape for e in inner[0] if e.primitive.name == "dot_general"]
    return found


@pytest.mark.parametrize(("axis", "rows"), [("sequence", (4, 6)), (None, (24,))])
def test_batch_and_positions_are_one_axis_only_where_nothing_is_split(axis, rows):
    x, kernel, tokens = jnp.zeros((4, 6, 2, 3)), jnp.zeros((2, 3, 5)), jnp.zeros((4, 6), int)
    mesh = AbstractMesh((2, 3), ("data", axis), axis_types=(AxisType.Auto,) * 2) if axis else AbstractMesh((), ())
    with jax.sharding.use_abstract_mesh(mesh):
        assert shapes_of_products(lambda *sides: project(*sides, None, in_axes=2), x, kernel) == [(*rows, 6)]
        assert shapes_of_products(look_up, jnp.zeros((7, 3)), tokens) == [(*rows, 7)]
