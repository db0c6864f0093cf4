"""Attention of some batch entries at a time, as a CPU computes short sequences of large batches."""

import functools

import jax
import jax.numpy as jnp
import pytest
from numpy.testing import assert_allclose

from jattn import attend, biases, explain_implementation, masks
from jattn.engine import plans
from tests import reference
from tests.sampled import sampled
from tests.variants import VARIANTS, inputs

close = functools.partial(assert_allclose, rtol=2e-5, atol=2e-5)


@pytest.fixture
def by_entries(monkeypatch):
    """Plans blocks of some entries for filters of whatever size."""
    monkeypatch.setattr(plans, "LEAST_BY_ENTRIES", 0)
    monkeypatch.setattr(plans, "ENTRIES_WEIGHTS", 2 * 4 * 7 * 9)


@sampled("name", VARIANTS, keep=8)
def test_every_variant_is_the_reference(name, by_entries):
    arrays, variant = inputs(), VARIANTS[name]
    assert "of the 2 batch entries" in explain_implementation(*arrays, **variant.call).how
    close(jax.jit(functools.partial(attend, **variant.call))(*arrays), reference.attend(*arrays, **variant.rules))


@sampled("broadcast", [False, True], keep=1)
def test_outputs_dropout_and_gradients_are_those_of_one_block(broadcast, by_entries):
    """With arrays of each entry, of each head and of all, and arrays that a mask closes over; two of six at a time."""
    query, key, value = inputs(batch=(6,))
    value = value.at[1, 8].set(jnp.nan)
    bias = jnp.sin(jnp.arange(6 * 9.0)).reshape(6, 1, 1, 9)
    lengths, offsets = jnp.array([9, 8, 3, 0, 9, 5]), jnp.array([0, 3, 2, 1, 4, 0])

    def loss(implementation, query, key, value, bias):
        mask = masks.padding(lengths) & masks.from_function(lambda b, h, q, k: k <= q + offsets[b] + h)
        out = attend(
            query, key, value, mask=mask, bias=biases.alibi() + bias, dropout_rate=0.3,
            dropout_rng=jax.random.key(3), broadcast_dropout=broadcast, implementation=implementation,
        )  # fmt: skip
        return jnp.sum(jnp.sin(out)), out

    found, expected = (
        jax.jit(jax.grad(functools.partial(loss, how), argnums=(0, 1, 2, 3), has_aux=True))(query, key, value, bias)
        for how in (None, "dense")
    )
    jax.tree.map(close, found, expected)
    assert explain_implementation(query, key, value).how.endswith("all heads of 2 of the 6 batch entries at once")


@pytest.mark.parametrize(
    ("shape", "mask", "entries"),
    [
        ((8, 8, 256, 256), masks.causal(), 2),
        ((32, 8, 128, 128), None, 4),
        ((30, 8, 128, 128), None, 3),
        ((7, 8, 300, 300), None, 1),
        ((8, 8, 512, 512), None, 2),
        ((2, 8, 512, 512), None, 1),
        ((8, 8, 512, 512), masks.causal(), None),  # blocks of rows leave out keys
        ((4, 8, 1024, 1024), None, None),  # an entry has more than a block should
        ((128, 8, 16, 16), None, None),  # so few that one block takes the same time
        ((1, 8, 512, 512), None, None),
        ((2048, 8, 1, 512), None, None),  # a step of decoding
        ((2, 4, 8, 256, 256), None, None),  # several batch axes
    ],
)
def test_a_block_has_as_many_entries_as_divide_the_batch_and_fit(shape, mask, entries):
    plan = plans.entries_plan(shape, mask)
    assert (plan and plan.entries) == entries


def test_memory_is_that_of_a_few_entries():
    x = jax.ShapeDtypeStruct((8, 256, 8, 64), jnp.float32)

    def gradients(implementation, *arrays):
        call = {"mask": masks.causal(), "implementation": implementation}
        return jax.vjp(lambda *arrays: attend(*arrays, **call), *arrays)[1](arrays[0])

    def temporaries(implementation):
        memory = jax.jit(functools.partial(gradients, implementation)).lower(x, x, x).compile().memory_analysis()
        assert memory is not None
        return memory.temp_size_in_bytes

    assert temporaries(None) < 0.4 * temporaries("dense")
