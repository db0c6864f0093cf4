"""Runs of each kind of model: what is measured, kept and shown of them, also where there is no filter or no oracle."""

import functools
import json

import jax
import numpy as np
import pytest

from jattn.linen.models import Encoder, EncoderDecoder, PooledEncoder
from jattn.linen.recurrent import RecurrentEncoderDecoder
from jattn.report import render
from jattn.report.page import page_data
from jattn.report.record import read_record, save_probes
from jattn.report.snapshots import Pooled, save_snapshot
from jattn.training.describing import describe_probes
from jattn.training.evaluation import add_up, make_measure, summarize
from jattn.training.reading import ConfigError, check
from jattn.training.setup import make_setup
from jattn.training.step import initial_state
from tests.sampled import sampled

TASK = {"layout": "encoder_decoder", "min_length": 17, "max_length": 20}


def setup_of(model, **sections):
    return make_setup(check({"task": TASK, "model": {"width": 8} | model, "mesh": {"data": 1}} | sections, "test"))


@pytest.fixture(scope="module")
def looked_at(tmp_path_factory):
    """Returns a function that looks at an untrained model, and writes what a run would; returns the result as well."""

    @functools.cache
    def look(kind, attention, screen):
        setup = setup_of(
            {"kind": kind} | ({} if attention else {"attention": False}), run={"screen": screen}, mesh={"data": 1}
        )
        measured = make_measure(setup, 20, 6)(initial_state(setup).params, setup.rng("probes"), 0, pools=True)
        folder = tmp_path_factory.mktemp(f"{kind}_{attention}_{screen}")
        result = summarize(add_up([jax.device_get(measured.sums)]))
        rows = [{"kind": kind, "step": 0, **result} for kind in ("train", "evaluation", "test")]
        (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        (folder / "config.toml").write_text("")
        save_probes(folder, describe_probes(setup, measured))
        maps = {name: Pooled(**fields) for name, fields in jax.device_get(measured.pooled).items()}
        save_snapshot(folder, 0, jax.device_get(measured.weights) | maps)
        return result, folder

    return look


@pytest.mark.exhaustive
@sampled("kind", ["gru", "lstm"], keep=1)
def test_a_model_without_attention_has_no_filter_and_a_report_that_says_so(looked_at, kind):
    result, folder = looked_at(kind, False, 256)
    assert (result["filter_score"], result["filters"]) == (None, {})
    assert 0 <= result["token_accuracy"] < 0.5
    text = render(folder).read_text()
    assert '<main id="report" class="without-filter">' in text
    assert "This model has no attention" in text
    assert [path.name for path in (folder / "figures").iterdir()] == ["curves.png"]
    data = page_data(read_record(folder))
    assert ([panel["title"] for panel in data["panels"]], data["layers"]) == (["loss", "accuracy"], [])
    assert "filter" not in data["result"]


@pytest.mark.exhaustive
@sampled("screen", [256, 16], keep=1)
def test_the_attention_of_a_recurrent_model_is_judged_by_the_oracle(looked_at, screen):
    result, folder = looked_at("gru", True, screen)
    record = read_record(folder)
    (layer,) = record.probes.layers
    assert (layer.name, layer.queries, layer.keys, layer.oracle) == ("cross_attention", "inputs", "source", True)
    assert record.is_pooled(layer) == (screen == 16)
    assert result["filter_score"] == max(result["filters"]["cross_attention"]["mass"])
    assert 0.02 < result["filter_score"] < 0.3


@pytest.mark.exhaustive
@sampled("screen", [256, 16], keep=1)
def test_the_pooling_into_a_vector_is_shown_and_not_judged(looked_at, screen):
    result, folder = looked_at("pooled", True, screen)
    record = read_record(folder)
    layer = record.probes.layers[-1]
    assert (layer.name, layer.queries, layer.keys, layer.oracle) == ("pooling", "vector", "source", False)
    assert record.is_pooled(layer) == (screen == 16)
    assert result["filter_score"] is None
    assert result["filters"]["pooling"]["entropy"][0] > 1
    for example, probe in enumerate(record.probes.examples):
        assert probe.sequences["vector"] == ["vector"]
        filters = record.picture(0, layer, example)
        assert filters.shape == (1, 1, min(screen, len(probe.sequences["source"])))
        np.testing.assert_allclose(filters.sum(), 1, rtol=1e-2)
    assert 'class=""' in render(folder).read_text()
    titles = [panel["title"] for panel in page_data(record)["panels"]]
    assert titles == ["loss", "accuracy", "entropy of the filters (nats)"]


def test_every_kind_takes_what_the_config_says_of_it():
    queries = make_setup(check({"model": {"queries": "positions", "positions": "learned", "norm": "post"}}, "test"))
    assert isinstance(queries.model, Encoder)
    assert (queries.model.queries, queries.model.positions, queries.model.norm) == ("positions", "learned", "post")
    lstm = setup_of({"kind": "lstm", "attention": False, "num_layers": 3, "dropout_rate": 0.25}).model
    assert isinstance(lstm, RecurrentEncoderDecoder)
    assert (lstm.cell, lstm.attention, lstm.num_layers, lstm.width) == ("lstm", False, 3, 8)
    assert (lstm.dropout_rate, lstm.vocabulary) == (0.25, 12)
    pooled = setup_of({"kind": "pooled", "hidden": 5, "num_heads": 4}).model
    assert isinstance(pooled, PooledEncoder)
    assert (pooled.hidden, pooled.num_heads) == (5, 4)
    assert type(setup_of({"positions": "relative"}).model) is EncoderDecoder


MISFITS = {
    "a gru that is not asked to translate": (
        {"model": {"kind": "gru"}},
        "model.kind: 'gru' needs task.layout 'encoder_decoder', got 'encoder'",
    ),
    "a transformer without attention": (
        {"model": {"attention": False}},
        "model.attention: kind 'transformer' does not use it, only 'gru' and 'lstm' do",
    ),
    "positions for cells": (
        {"task": TASK, "model": {"kind": "lstm", "positions": "rotary"}},
        "model.positions: kind 'lstm' does not use it, only 'transformer' and 'pooled' do",
    ),
    "queries of positions": (
        {"task": TASK, "model": {"kind": "pooled", "queries": "positions"}},
        "model.queries: layout 'encoder_decoder' does not use it, only 'encoder' does",
    ),
    "queries of positions where there are none": (
        {"model": {"queries": "positions", "positions": "rotary"}},
        "model.queries: 'positions' needs positions 'sinusoidal' or 'learned', got 'rotary'",
    ),
    "places in an odd width": (
        {"task": TASK, "model": {"kind": "pooled", "positions": "none", "width": 7}},
        "model.width: sinusoidal positions need an even width, got 7",
    ),
    "learned places beyond the last": (
        {"task": TASK, "model": {"kind": "pooled", "positions": "learned", "max_length": 19}},
        "model.max_length: learned positions must reach 20",
    ),
}


@pytest.mark.parametrize("name", MISFITS)
def test_what_a_kind_does_not_have_is_refused(name):
    sections, text = MISFITS[name]
    with pytest.raises(ConfigError) as refused:
        check(sections, "test")
    assert text in str(refused.value)


def test_a_recurrent_model_may_have_an_odd_width():
    assert setup_of({"kind": "gru", "width": 7}).model.width == 7
