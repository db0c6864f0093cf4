"""Linear probes: a classifier that can be checked by head, and what it tells of vectors that are known."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jattn.training.probing import _name, fit_classifier, probe_run
from jattn.training.reading import check
from jattn.training.setup import make_setup

fit = jax.jit(fit_classifier, static_argnums=2)


def told(vectors, fitted):
    weights, bias = fitted
    return np.asarray(jnp.argmax(vectors @ weights + bias, axis=-1))


def test_the_border_between_two_classes_is_perpendicular_where_they_are_round():
    """Means (-3, 0) and (3, 0), round and as many: the classifier looks at the first number alone."""
    corners = np.array([[1, 1], [1, -1], [-1, 1], [-1, -1]], np.float32)
    vectors, labels = np.concatenate([corners - np.array([3, 0]), corners + np.array([3, 0])]), np.repeat([0, 1], 4)
    weights, bias = fit(jnp.array(vectors), jnp.array(labels), 2)
    np.testing.assert_allclose(weights[:, 1] - weights[:, 0], [6, 0], rtol=2e-3, atol=1e-5)
    np.testing.assert_allclose(bias[0], bias[1], atol=1e-4)


def test_what_varies_within_classes_counts_for_less():
    """The second number differs more between the classes than the first, but far more within each of them."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, 4000)
    vectors = np.stack([labels + 0.1 * rng.normal(size=4000), 3 * labels + 30 * rng.normal(size=4000)], axis=1)
    found = told(vectors, fit(jnp.array(vectors[:2000], jnp.float32), jnp.array(labels[:2000]), 2))
    assert np.mean(found[2000:] == labels[2000:]) > 0.999


@pytest.mark.exhaustive
def test_five_classes_in_a_row_are_told_apart():
    """Least squares on one-hot labels would never name the classes in the middle."""
    labels = jnp.arange(500) % 5
    vectors = labels[:, None] + 0.1 * jax.random.normal(jax.random.key(0), (500, 1))
    assert (told(vectors, fit(vectors, labels, 5)) == labels).all()


def test_what_is_common_is_named_where_vectors_tell_nothing():
    labels = jnp.array([0] * 10 + [1] * 30)
    assert told(jnp.ones((40, 3)), fit(jnp.ones((40, 3)), labels, 3)).tolist() == [1] * 40


@pytest.mark.exhaustive
def test_a_class_without_examples_is_never_named():
    vectors = jax.random.normal(jax.random.key(0), (50, 4))
    weights, bias = fit(vectors, jnp.arange(50) % 2 * 2, 3)
    assert jnp.isfinite(weights).all()
    assert set(told(100 * vectors, (weights, bias)).tolist()) == {0, 2}


class Bags:
    """A model whose vector says how often each word comes, times its only parameter; which begins as zero."""

    vector = None

    def init(self, rng, **inputs):
        return {"params": {"sees": jnp.float32(0)}}

    def apply(self, variables, source, source_lengths, method):
        assert method == "vector"
        return variables["params"]["sees"] * jax.nn.one_hot(source, 100).sum(axis=-2)


def setup_of(replicates=1, task="roles", kind="pooled", model=None):
    values = {
        "task": {"name": task, "layout": "encoder_decoder"},
        "model": {"kind": kind, "width": 16},
        "training": {"replicates": replicates},
        "mesh": {"data": 1},
    }
    setup = make_setup(check(values, "test"))
    return setup if model is None else dataclasses.replace(setup, model=model)


@pytest.fixture(scope="module")
def probed():
    """What is found of two seeds: one makes bags of words, the other's vectors tell nothing, as before training."""
    found = probe_run(setup_of(replicates=2, model=Bags()), {"sees": jnp.array([1.0, 0.0])}, fitted=2000, judged=2000)
    return {each.name: each for each in found}


@pytest.mark.exhaustive
def test_what_vectors_tell_is_told_beside_chance(probed):
    """A bag of words tells the passive, by "by", and how many words there are, but not the order of any two.

    So of one adjective it cannot tell whose it is, which half of the sentences have.
    """
    seen = {name: found.accuracy[0] for name, found in probed.items()}
    assert seen["passive"] == seen["words"] == 1
    assert seen["place first"] == pytest.approx(0.5, abs=0.06)
    assert seen["adjective of who"] == pytest.approx(0.75, abs=0.06)
    assert {name: found.classes for name, found in probed.items() if found.classes != 2} == {"words": 5}
    for found in probed.values():
        assert found.chance == pytest.approx(0.25 if found.name == "words" else 0.5, abs=0.06)


def test_vectors_that_tell_nothing_leave_chance_to_each_seed(probed):
    for found in probed.values():
        assert (found.accuracy[1], *found.untrained) == pytest.approx((found.chance,) * 3)


@pytest.mark.exhaustive
def test_a_classifier_is_judged_by_what_it_was_not_fitted_to():
    """Where each example has a number of its own, those seen can be told apart, and others cannot."""
    labels = jnp.arange(60) % 3 % 2
    named = _name(jnp.eye(60), labels, 2, fitted=30)
    assert named.tolist() == [0] * 30


@pytest.mark.parametrize(
    ("options", "counts", "words"),
    [
        ({"kind": "transformer"}, {}, ["model.kind", "'pooled'", "got 'transformer'"]),
        ({"task": "reverse"}, {}, ["task.name", "'sentences'", "got 'reverse'"]),
        ({}, {"fitted": 0}, ["fitted", "at least 1", "got 0", "nearest: 1"]),
        ({}, {"judged": -3}, ["judged", "at least 1", "got -3", "nearest: 1"]),
    ],
)
def test_what_cannot_be_probed_is_refused(options, counts, words):
    with pytest.raises(ValueError, match=r".") as refused:
        probe_run(setup_of(**options), {}, **counts)
    assert [word for word in words if word not in str(refused.value)] == []
