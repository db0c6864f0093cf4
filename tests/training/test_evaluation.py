"""Evaluation: numbers that can be checked by head, and independence from how examples are batched."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jattn import attention_filter
from jattn.linen.capture import capture_filters
from jattn.training.evaluation import add_up, make_measure, relates, summarize
from jattn.training.reading import check
from jattn.training.setup import make_setup
from jattn.training.step import initial_state
from tests.sampled import sampled

SMALL = {"num_layers": 1, "width": 8, "hidden": 8}


def setup_of(layout):
    task = {"layout": layout, "min_length": 2, "max_length": 5}
    return make_setup(check({"task": task, "model": SMALL | {"num_heads": 2}}, "test"))


def test_means_are_sums_over_counts_and_the_best_head_is_the_filter_score():
    layer = {
        "entropy": np.array([2.0, 4.0]),
        "queries": np.array(4),
        "mass": np.array([1.0, 3.0]),
        "hits": np.array([2, 4]),
        "chance": np.array([0.5, 1.0]),
        "judged": np.array(4),
    }
    sums = {"loss": 6.0, "correct": 9, "tokens": 12, "exact": 3, "examples": 4, "layers": {"a": layer}}
    found = summarize(add_up([sums, sums]))
    assert found["loss"] == 0.5
    assert (found["token_accuracy"], found["exact_accuracy"], found["filter_score"]) == (0.75, 0.75, 0.75)
    twelve = {f"block_{number}": layer for number in range(12)}
    assert list(summarize(sums | {"layers": dict(sorted(twelve.items()))})["filters"]) == list(twelve)
    assert found["filters"]["a"] == {
        "entropy": [0.5, 1.0],
        "mass": [0.25, 0.75],
        "hit_rate": [0.5, 1.0],
        "lift": [2.0, 3.0],
    }


def test_a_layer_without_an_oracle_has_no_filter_score():
    layer = {"entropy": np.array([2.0]), "queries": np.array(4)}
    sums = {"loss": 6.0, "correct": 9, "tokens": 12, "exact": 3, "examples": 4, "layers": {"a": layer}}
    found = summarize(add_up([sums]))
    assert found["filter_score"] is None
    assert found["filters"]["a"]["mass"] is None
    of_none = layer | {name: np.zeros(1) for name in ("mass", "hits", "chance")} | {"judged": np.array(0)}
    assert summarize(add_up([sums | {"layers": {"a": of_none}}])) == found


@pytest.mark.exhaustive
@sampled("layout", ["encoder", "decoder", "encoder_decoder"], keep=1)
def test_the_sums_do_not_depend_on_how_examples_are_batched(layout):
    setup = setup_of(layout)
    params, rng = initial_state(setup).params, setup.rng("test")
    whole = make_measure(setup, 5, 12)(params, rng, 0)
    halves = [make_measure(setup, 5, 6)(params, rng, start) for start in (0, 6)]
    expected, got = summarize(add_up([whole.sums])), summarize(add_up([half.sums for half in halves]))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), expected, got)


@sampled("layout", ["encoder", "decoder", "encoder_decoder"], keep=1)
def test_mass_hit_rate_lift_and_entropy_restated_in_loops(layout):
    setup = setup_of(layout)
    params, rng = initial_state(setup).params, setup.rng("test")
    found = summarize(add_up([make_measure(setup, 5, 6)(params, rng, 0).sums]))
    batch = jax.jit(setup.training_batch)(rng, jnp.arange(6))
    _, filters = jax.jit(lambda: capture_filters(setup.model, {"params": params}, **batch.inputs))()
    judged = [name for name in filters if name.endswith("cross_attention") or layout != "encoder_decoder"]
    for name in judged:
        weights = np.asarray(filters[name].weights())
        visible = np.asarray(filters[name].uniform().weights()) > 0
        for head in range(2):
            rows = []
            for example, query in np.argwhere(np.asarray(batch.scored)):
                row, right = weights[example, head, query], np.asarray(batch.oracle)[example, query]
                chance = (right & visible[example, head, query]).sum() / visible[example, head, query].sum()
                entropy = -sum(w * np.log(w) for w in row if w > 0)
                rows.append((row[right].sum(), right[row.argmax()], chance, entropy))
            mass, hits, chance, entropy = np.mean(rows, axis=0)
            got = {
                measure: found["filters"][name][measure][head] for measure in ("mass", "hit_rate", "lift", "entropy")
            }
            expected = {"mass": mass, "hit_rate": hits, "lift": mass / chance, "entropy": entropy}
            assert got == pytest.approx(expected, rel=1e-4)
    for name in set(filters) - set(judged):
        assert found["filters"][name]["mass"] is None


@pytest.mark.exhaustive
def test_lengths_given_at_the_call_are_the_lengths_measured():
    setup = setup_of("encoder")
    measured = make_measure(setup, 9, 4)(initial_state(setup).params, setup.rng("test"), 0, 7, 7)
    assert measured.batch.inputs["lengths"].tolist() == [7, 7, 7, 7]
    assert int(measured.sums["tokens"]) == 28


def test_a_model_is_judged_on_the_pairs_that_training_never_sees():
    """Whatever the seed of the run, and whether or not the lengths are given at the call."""
    task = {"name": "modular_addition", "modulus": 5, "train_share": 0.5}
    trained, judged = set(), set()
    for seed in (0, 1):
        setup = make_setup(check({"task": task, "model": SMALL, "training": {"seed": seed}}, "test"))
        rng = setup.rng("training")
        for make, found in ((setup.training_batch, trained), (setup.judging_batch, judged)):
            found |= {*map(tuple, jax.jit(make)(rng, jnp.arange(400)).inputs["tokens"].tolist())}
        if seed == 0:
            continue
        params, measure = initial_state(setup).params, make_measure(setup, 3, 64)
        for lengths in ((), (3, 3)):
            measured = measure(params, rng, 0, *lengths)
            assert {*map(tuple, measured.batch.inputs["tokens"].tolist())} <= judged
    assert (len(trained), len(judged), len(trained | judged)) == (12, 13, 25)


@pytest.mark.exhaustive
def test_a_model_trained_on_every_next_token_is_judged_on_the_answer():
    task = {"name": "induction", "layout": "causal", "generator": "safari", "min_length": 6, "max_length": 6}
    setup = make_setup(check({"task": task, "model": SMALL}, "test"))
    assert jax.jit(setup.training_batch)(setup.rng("training"), jnp.arange(4)).scored.sum() == 24
    measured = make_measure(setup, 6, 8)(initial_state(setup).params, setup.rng("test"), 0)
    assert (int(measured.sums["tokens"]), int(measured.sums["examples"])) == (8, 8)


def test_a_layer_says_which_inputs_it_relates_unless_there_is_one_sequence_alone():
    silent = attention_filter(jnp.zeros((3, 1, 2)), jnp.zeros((3, 1, 2)))
    saying = dataclasses.replace(silent, relates=("source", "source"))
    assert relates(setup_of("decoder"), "mine", silent) == ("tokens", "tokens")
    assert relates(setup_of("encoder_decoder"), "mine", saying) == ("source", "source")
    with pytest.raises(ValueError, match=r"layer 'mine': expected it to say .* relates=\('tokens', 'source'\)"):
        relates(setup_of("encoder_decoder"), "mine", silent)
