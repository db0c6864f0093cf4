"""Filters under explicit shardings, and calls within `jax.shard_map`: a process of four devices for each kind."""

import os
import subprocess
import sys

import pytest

from tests.sampled import sampled


def check_all(kind, asked=None, called=None):
    """Runs in a process of four devices; raises what is wrong with all questions and calls, or with those named."""
    import jax
    import jax.numpy as jnp
    import numpy as np
    from jax.sharding import AxisType, NamedSharding, PartitionSpec

    from jattn import attend, attention_filter, head_portraits, masks, normalizers, scores

    mesh = jax.make_mesh((2, 2), ("data", "model"), axis_types=(AxisType[kind],) * 2)
    spec = PartitionSpec("data", None, "model", None)
    arrays = np.random.default_rng(0).standard_normal((3, 4, 6, 4, 8)).astype(np.float32)

    def place(array, spec=spec):
        return jax.device_put(jnp.asarray(array), NamedSharding(mesh, spec))

    def some_filter(query, key):
        return attention_filter(query, key, mask=masks.causal())

    questions = {
        "an entry": lambda f: f[0],
        "a column": lambda f: f[:, :, 3],
        "a row": lambda f: f[0, 1, 2],
        "a head": lambda f: f[:, 1],
        "some rows": lambda f: f.rows([1, 2]),
        "a block": lambda f: f.block(slice(0, 3), slice(0, 3)),
        "a fold": lambda f: f.entropy(),
        "a fold of some heads": lambda f: f.summarize("entropy", heads=[1])["entropy"],
        "portraits": lambda f: head_portraits({"layer": f}).mass["layer"]["previous token"],
    }
    calls = {
        "softmax": {"mask": masks.causal()},
        "blocks": {"mask": masks.causal(), "block_size": 2},
        "distance": {"score": scores.negative_squared_distance(), "normalizer": normalizers.entmax15()},
        "additive": {"score": scores.additive(jnp.ones((8, 2)), jnp.ones((8, 2)), jnp.ones(2)), "block_size": 3},
    }

    questions = {name: questions[name] for name in asked or questions}
    calls = {name: calls[name] for name in called or calls}

    def attention_and_gradient(call):
        def loss(*sides):
            return jnp.sum(jnp.sin(attend(*sides, **call)))

        def both(*sides):
            return attend(*sides, **call), *jax.grad(loss, (0, 1, 2))(*sides)

        return both

    alone = some_filter(*map(jnp.asarray, arrays[:2]))
    expected = {name: np.asarray(ask(alone)) for name, ask in questions.items()}
    expected |= {name: jax.jit(attention_and_gradient(call))(*map(jnp.asarray, arrays)) for name, call in calls.items()}
    with jax.set_mesh(mesh):
        query, key, value = map(place, arrays)
        filter = some_filter(query, key)
        for name, ask in questions.items():
            np.testing.assert_allclose(ask(filter), expected[name], atol=1e-5, err_msg=name)
        assert filter.plot().axes
        for name, call in calls.items():
            within = jax.shard_map(attention_and_gradient(call), in_specs=(spec,) * 3, out_specs=(spec,) * 4)
            for found, wanted in zip(jax.jit(within)(query, key, value), expected[name], strict=True):
                np.testing.assert_allclose(found, wanted, atol=1e-5, err_msg=name)
        entropy = jax.shard_map(
            lambda *sides: some_filter(*sides).entropy(), in_specs=(spec,) * 2, out_specs=PartitionSpec("data", "model")
        )
        np.testing.assert_allclose(jax.jit(entropy)(query, key), alone.entropy(), atol=1e-5)
        if kind == "Explicit":
            with pytest.raises(ValueError, match="query: expected every device to have all positions, got axis 1"):
                attend(*(place(array, PartitionSpec(None, "data")) for array in arrays))


@sampled("some", [("Explicit", ["some rows", "a fold"], ["blocks"]), ("Explicit",), ("Auto",)], keep=1)
def test_filters_are_asked_and_calls_are_made_within_shard_map(some):
    code = f"from tests.engine.test_meshes import check_all; check_all(*{some!r})"
    env = os.environ | {"XLA_FLAGS": "--xla_force_host_platform_device_count=4", "MPLBACKEND": "agg"}
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", code], env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
