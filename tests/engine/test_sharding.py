"""Attention of sharded arrays stays sharded, and moves nothing between devices."""

import json
import os
import re
import subprocess
import sys
import traceback

import pytest

from tests.sampled import sampled

BATCH_AND_HEADS = ("batch", None, "heads", None)
CALLS = ("full", "causal", "padding", "bias by head", "offsets, causal and a sink by head", "in blocks")
FOLDED = ("full", "padding", "in blocks")
"""The calls whose filters are folded, too."""
COLLECTIVES = r"\b(all-gather|all-reduce|reduce-scatter|collective-permute|all-to-all|collective-broadcast)\b"


def check_all(kind, names):
    """Runs in a process of eight devices: prints what is wrong with each of these calls, if anything is."""
    import jax
    import jax.numpy as jnp
    import numpy as np
    from jax.sharding import AxisType, NamedSharding, PartitionSpec

    from jattn import attend, attention_filter, folds, masks, normalizers

    assert jax.device_count() == 8
    mesh = jax.make_mesh((4, 2), ("batch", "heads"), axis_types=(AxisType[kind],) * 2)
    draw = np.random.default_rng(0).standard_normal

    def place(array, *axes):
        return jax.device_put(
            jnp.asarray(array, getattr(array, "dtype", None)), NamedSharding(mesh, PartitionSpec(*axes))
        )

    shapes = ((8, 16, 8, 4), (8, 12, 4, 4), (8, 12, 4, 3), (8, 16, 8, 3))
    arrays = [np.float32(draw(shape)) for shape in shapes]
    lengths, bias, sink = np.arange(8, dtype=np.int32), np.float32(draw((8, 16, 12))), np.float32(draw((8, 1, 1)))
    calls = {
        "full": ((), (), lambda: {}),
        "causal": ((), (), lambda: {"mask": masks.causal()}),
        "padding": ((lengths,), (("batch",),), lambda lengths: {"mask": masks.padding(lengths)}),
        "bias by head": ((bias,), (("heads", None, None),), lambda bias: {"bias": bias}),
        "offsets, causal and a sink by head": (
            (lengths - 4, sink),
            (("batch",), ("heads", None, None)),
            lambda offset, sink: {"mask": masks.causal(offset), "normalizer": normalizers.softmax_plus_one(sink)},
        ),
        "in blocks": (
            (lengths,),
            (("batch",),),
            lambda n: {"mask": masks.padding(n) & masks.causal(), "block_size": 5},
        ),
    }

    def check(extra, axes, call):
        def attention(query, key, value, *extra):
            return attend(query, key, value, **call(*extra))

        def gradients(query, key, value, weights, *extra):
            return jax.vjp(lambda *x: attention(*x, *extra), query, key, value)[1](weights)

        sharded = [place(x, *BATCH_AND_HEADS) for x in arrays]
        placed = [place(x, *axis) for x, axis in zip(extra, axes, strict=True)]
        for function, count in ((attention, 3), (gradients, 4)):
            compiled = jax.jit(function).lower(*sharded[:count], *placed).compile()
            moved = re.findall(COLLECTIVES, compiled.as_text())
            assert not moved, f"{function.__name__} moves data: {sorted(set(moved))}"
            outs = compiled(*sharded[:count], *placed)
            expected = jax.jit(function)(*arrays[:count], *extra)
            for out, alone in zip(jax.tree.leaves(outs), jax.tree.leaves(expected), strict=True):
                assert out.sharding.is_equivalent_to(NamedSharding(mesh, PartitionSpec(*BATCH_AND_HEADS)), 4), (
                    f"{function.__name__} is sharded as {out.sharding}"
                )
                np.testing.assert_allclose(np.asarray(out), np.asarray(alone), rtol=1e-5, atol=1e-5)

    def check_folds(extra, axes, call):
        def ask(query, key, *extra):
            filter = attention_filter(query, key, **call(*extra))
            asked = {"best": folds.top_k(3), "map": folds.pool(4, 3)}
            found = filter.summarize("entropy", "received", **asked)
            return found, filter.apply_transposed(jnp.ones_like(query))

        sharded = [place(x, *BATCH_AND_HEADS) for x in arrays[:2]]
        placed = [place(x, *axis) for x, axis in zip(extra, axes, strict=True)]
        compiled = jax.jit(ask).lower(*sharded, *placed).compile()
        moved = re.findall(COLLECTIVES, compiled.as_text())
        assert not moved, f"folds move data: {sorted(set(moved))}"
        (found, product), expected = compiled(*sharded, *placed), jax.jit(ask)(*arrays[:2], *extra)
        for out, alone in zip(jax.tree.leaves((found, product)), jax.tree.leaves(expected), strict=True):
            np.testing.assert_allclose(np.asarray(out), np.asarray(alone), rtol=1e-5, atol=1e-5)
        for out in jax.tree.leaves(found):
            spec = NamedSharding(mesh, PartitionSpec("batch", "heads"))
            assert out.sharding.is_equivalent_to(spec, out.ndim), f"folds are sharded as {out.sharding}"

    def check_that_moves_are_seen():
        def gradient(bias, *arguments):
            return jax.grad(lambda bias: attend(*arguments, bias=bias).sum())(bias)

        program = (
            jax.jit(gradient).lower(jnp.asarray(bias), *(place(x, *BATCH_AND_HEADS) for x in arrays[:3])).compile()
        )
        assert "all-reduce" in re.findall(COLLECTIVES, program.as_text())

    if kind == "Auto":
        check_that_moves_are_seen()
    wrong = {}
    for name in names:
        try:
            with jax.set_mesh(mesh):
                check(*calls[name])
                if name in FOLDED:
                    check_folds(*calls[name])
            wrong[name] = ""
        except Exception:
            wrong[name] = traceback.format_exc()
    print(json.dumps(wrong))


@pytest.fixture(scope="module", params=[pytest.param("Auto", marks=pytest.mark.exhaustive), "Explicit"])
def wrong(request):
    """What is wrong with each call, by its name."""
    environment = os.environ | {"XLA_FLAGS": "--xla_force_host_platform_device_count=8", "JAX_PLATFORMS": "cpu"}
    asked = {item.callspec.params["name"] for item in request.session.items if item.path == request.path}
    code = f"from tests.engine.test_sharding import check_all; check_all({request.param!r}, {sorted(asked)})"
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@sampled("name", CALLS, keep=["in blocks"])
def test_attention_of_sharded_heads_and_batch_moves_nothing(name, wrong):
    assert not wrong[name], wrong[name]
