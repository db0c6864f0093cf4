"""Filters longer than the screen: what a snapshot keeps of them is what whole weights would have shown."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jattn import attention_filter, masks
from jattn.drawing.bins import pool_weights
from jattn.report.measures import measure
from jattn.report.record import read_record, save_probes
from jattn.report.snapshots import Pooled, save_snapshot
from jattn.training.describing import describe_probes
from jattn.training.evaluation import make_measure
from jattn.training.pooling import PoolReal, pool_filters
from jattn.training.reading import check
from jattn.training.setup import make_setup
from jattn.training.step import initial_state
from tests.sampled import sampled


def record_of(folder, layout, screen, lengths):
    """Takes one snapshot of a model's filters on a screen of the given size, and reads it back."""
    task = {"layout": layout, "min_length": lengths[0], "max_length": lengths[1]}
    model = {"num_heads": 2, "num_layers": 1, "width": 8}
    setup = make_setup(check({"task": task, "model": model, "run": {"screen": screen}, "mesh": {"data": 1}}, "test"))
    params = jax.tree.map(lambda x: 3 * x, initial_state(setup).params)
    measured = make_measure(setup, lengths[1], 6)(params, setup.rng("probes"), 0, pools=True)
    (folder / "config.toml").write_text("")
    save_probes(folder, describe_probes(setup, measured))
    pooled = {name: Pooled(**fields) for name, fields in jax.device_get(measured.pooled).items()}
    save_snapshot(folder, 0, jax.device_get(measured.weights) | pooled)
    return read_record(folder)


def visible_of(record, layer, example, shape):
    """Writes the ranges of visible keys out as a matrix."""
    matrix = np.zeros(shape)
    for row, ranges in zip(matrix, record.probes.visible[layer.name][example], strict=True):
        for start, stop in zip(ranges[::2], ranges[1::2], strict=True):
            row[start:stop] = 1
    return matrix


@pytest.mark.exhaustive
@sampled(
    ("layout", "lengths"),
    [("encoder", (3, 24)), ("encoder", (24, 24)), ("decoder", (3, 14)), ("encoder_decoder", (9, 24))],
    keep=1,
)
def test_a_pooled_run_measures_and_shows_what_a_whole_one_does(tmp_path, layout, lengths):
    for name in ("whole", "pooled"):
        (tmp_path / name).mkdir()
    whole = record_of(tmp_path / "whole", layout, 256, lengths)
    pooled = record_of(tmp_path / "pooled", layout, 16, lengths)
    assert dataclasses.replace(whole.probes, visible={}) == dataclasses.replace(pooled.probes, visible={})
    assert whole.probes.visible.keys() == pooled.probes.visible.keys()
    for layer in whole.probes.layers:
        assert (whole.is_pooled(layer), pooled.is_pooled(layer)) == (False, True)
        for example in range(len(whole.probes.examples)):
            filters = whole.filters(0, layer, example)
            expected, found = (measure(record, 0, layer, example) for record in (whole, pooled))
            for name, values in expected.items():
                np.testing.assert_allclose(found[name], values, rtol=1e-4, atol=1e-6, err_msg=name)
            bins = tuple(min(16, count) for count in filters.shape[1:])
            np.testing.assert_allclose(
                pooled.picture(0, layer, example), pool_weights(filters, bins), rtol=2e-3, atol=1e-6
            )
            if layer.name in whole.probes.visible:
                seen = pool_weights(visible_of(whole, layer, example, filters.shape[1:])[None], bins)[0] > 0
                np.testing.assert_array_equal(visible_of(pooled, layer, example, bins), seen)
            check_rows(filters, pooled.snapshots[0][layer.name], example)


def check_rows(filters, kept, example):
    """Compares rows on demand with the sorted weights; keys are compared where their weights are kept apart."""
    count = min(8, filters.shape[2])
    weights = kept.top_weights[example, :, : filters.shape[1], :count]
    keys = kept.top_keys[example, :, : filters.shape[1], :count].astype(int)
    largest = -np.sort(-filters, axis=-1)[..., :count]
    np.testing.assert_allclose(weights, largest, rtol=2e-3, atol=1e-6)
    found = np.take_along_axis(filters, np.minimum(keys, filters.shape[2] - 1), axis=-1)
    seen = largest > 0
    np.testing.assert_allclose(found[seen], largest[seen], rtol=1e-5)


def test_pooling_over_the_whole_length_is_the_fold_of_the_library():
    query, key = jax.random.normal(jax.random.key(0), (2, 2, 37, 3, 4))
    filter = attention_filter(query, key, mask=masks.causal())
    counts = jnp.full(2, 37)
    found = filter.fold(PoolReal(counts, counts, 16, 20))
    np.testing.assert_allclose(found, filter.pool(16, 20), rtol=1e-5, atol=1e-7)


@sampled("block_size", [None, 7], keep=1)
def test_pooling_over_the_real_length_of_each_example(heads, block_size):
    query, key = jax.random.normal(jax.random.key(1), (2, 3, 37, 2, 4))
    lengths = np.array([37, 21, 5])
    filter = attention_filter(query, key, mask=masks.padding(lengths), block_size=block_size)
    found = np.asarray(filter.fold(PoolReal(jnp.array(lengths), jnp.array(lengths), 16, 16)))
    weights = np.asarray(filter.weights())
    for example, length in enumerate(lengths):
        side = min(16, length)
        expected = pool_weights(weights[example, :, :length, :length], (side, side))
        np.testing.assert_allclose(found[example, :, :side, :side], expected, rtol=1e-5, atol=1e-7)
        assert (found[example, :, side:] == 0).all()
        assert (found[example, :, :, side:] == 0).all()


@pytest.mark.exhaustive
def test_nothing_is_kept_unless_it_is_asked_for():
    config = {"task": {"min_length": 20, "max_length": 20}, "run": {"screen": 16}, "mesh": {"data": 1}}
    setup = make_setup(check(config, "test"))
    measure_batch, params = make_measure(setup, 20, 4), initial_state(setup).params
    asked, plain = (measure_batch(params, setup.rng("probes"), 0, pools=pools) for pools in (True, False))
    assert (asked.weights, plain.weights) == ({}, {})
    assert not any(x.any() for x in jax.tree.leaves(plain.pooled))
    np.testing.assert_allclose(asked.pooled["block_0/attention"]["map"].sum(-1), 1, rtol=1e-5)


@pytest.mark.parametrize("padded", [True, False])
def test_no_array_of_the_size_of_a_filter_is_made(padded):
    size = 4096
    sides = jax.ShapeDtypeStruct((2, size, 1, 16), jnp.float32)
    counts = jax.ShapeDtypeStruct((2,), jnp.int32)
    oracle = jax.ShapeDtypeStruct((2, size, size), bool)

    def pool(query, key, counts, oracle):
        mask = masks.padding(counts) if padded else None
        return pool_filters(attention_filter(query, key, mask=mask), 256, (counts, counts) if padded else None, oracle)

    largest = max(sizes(jax.make_jaxpr(pool)(sides, sides, counts, oracle).jaxpr))
    assert 256 * 256 * 2 <= largest < size * size / 4


def sizes(jaxpr):
    """Yields the size of every array of numbers that a program makes, in loops and functions too."""
    for equation in jaxpr.eqns:
        for variable in equation.outvars:
            if variable.aval.dtype != bool:
                yield variable.aval.size
        for inner in jax.tree.leaves(
            list(equation.params.values()), is_leaf=lambda x: hasattr(x, "eqns") or hasattr(x, "jaxpr")
        ):
            if hasattr(inner, "jaxpr"):
                inner = inner.jaxpr
            if hasattr(inner, "eqns"):
                yield from sizes(inner)
