"""Scalings of rotary positions, each against its closed form in plain float64."""

import math

import numpy as np
import pytest
from numpy.testing import assert_allclose

from jattn import positions
from jattn.rules.positions import DynamicNTKScaling, FrequencyFactors, YarnScaling


def yarn_by_hand(base, dims, factor, length, fast=32.0, slow=1.0):
    first = max(0, math.floor(dims * math.log(length / (2 * math.pi * fast)) / (2 * math.log(base))))
    last = min(dims - 1, math.ceil(dims * math.log(length / (2 * math.pi * slow)) / (2 * math.log(base))))
    found = []
    for pair in range(dims // 2):
        theta = base ** (-2 * pair / dims)
        slowness = 0.0 if pair <= first else 1.0 if pair >= last else (pair - first) / (last - first)
        found.append(theta * ((1 - slowness) + slowness / factor))
    return found


@pytest.mark.parametrize("sizes", [(10_000.0, 128, 4.0, 4096), (1e6, 64, 40.0, 32_768), (500.0, 8, 2.5, 100)])
def test_yarn_is_its_formula(sizes):
    base, dims, factor, length = sizes
    scaling = YarnScaling(factor, length)
    assert_allclose(scaling.frequencies(base, dims, 7), yarn_by_hand(*sizes), rtol=1e-12)
    assert scaling.strength == pytest.approx(0.1 * math.log(factor) + 1)


def test_yarn_keeps_what_turns_often_and_divides_what_turns_seldom():
    frequencies = positions.YarnScaling(16.0, 2048).frequencies(10_000.0, 64, 1)
    ratio = frequencies / 10_000.0 ** (-np.arange(32) / 32)
    assert_allclose(ratio[:7], 1)
    assert_allclose(ratio[-10:], 1 / 16)
    assert (np.diff(ratio) <= 0).all()


def test_yarn_without_rounding_divides_less_at_the_first_pairs():
    exact = YarnScaling(4.0, 64, fast=3.0, whole_pairs=False).frequencies(100.0, 8, 1)
    first, last = (8 * math.log(64 / (2 * math.pi * turns)) / (2 * math.log(100.0)) for turns in (3, 1))
    slowness = np.clip((np.arange(4) - first) / (last - first), 0, 1)
    assert_allclose(exact, 100.0 ** (-np.arange(4) / 4) * (1 - slowness * 0.75), rtol=1e-12)
    assert YarnScaling(4.0, 64, attention=0.7).strength == 0.7
    assert YarnScaling(0.5, 64).strength == 1.0


@pytest.mark.parametrize("length", [1, 64, 65, 640])
def test_the_base_of_dynamic_ntk_grows_with_the_length(length):
    found = DynamicNTKScaling(3.0, 64).frequencies(100.0, 8, length)
    base = 100.0 if length <= 64 else 100.0 * (3.0 * length / 64 - 2) ** (8 / 6)
    assert_allclose(found, [base ** (-2 * pair / 8) for pair in range(4)], rtol=1e-12)


def test_a_table_divides_each_frequency():
    assert_allclose(FrequencyFactors((1.0, 4.0)).frequencies(100.0, 4, 1), [1, 0.1 / 4])


def test_rotated_vectors_are_as_strong_as_the_scaling_says():
    x = np.random.default_rng(0).standard_normal((3, 1, 8)).astype(np.float32)
    turned = positions.rotary(x, np.arange(3), scaling=YarnScaling(4.0, 64))
    assert_allclose(np.linalg.norm(turned, axis=-1), (0.1 * math.log(4) + 1) * np.linalg.norm(x, axis=-1), rtol=1e-5)
    assert_allclose(turned[0], (0.1 * math.log(4) + 1) * x[0], rtol=1e-6)


def test_the_length_of_a_text_may_be_given():
    x, scaling = np.ones((3, 1, 8), np.float32), DynamicNTKScaling(3.0, 2)
    alone = positions.rotary(x, np.arange(3), scaling=scaling)
    assert_allclose(positions.rotary(x[1:2], np.array([1]), scaling=scaling, length=3), alone[1:2], atol=1e-6)
    assert not np.allclose(positions.rotary(x[1:2], np.array([1]), scaling=scaling), alone[1:2], atol=1e-3)


WRONG = {
    "no factor": (lambda: YarnScaling(0.0, 64), "scaling: expected positive finite numbers, got YarnScaling"),
    "turns the wrong way round": (lambda: YarnScaling(2.0, 64, 1.0, 32.0), "scaling: expected slow < fast, got Yarn"),
    "a word": (lambda: DynamicNTKScaling("2", 64), "scaling: expected positive finite numbers, got Dynamic"),
    "a base of one": (lambda: YarnScaling(2.0, 64).frequencies(1.0, 8, 1), "expected a base other than 1 for YaRN"),
    "two dims": (lambda: DynamicNTKScaling(2.0, 64).frequencies(9.0, 2, 1), "expected at least 4 rotated dims"),
    "other pairs": (lambda: FrequencyFactors((1.0,)).frequencies(9.0, 8, 1), "expected 4 factors, .* got 1"),
    "infinite factors": (lambda: FrequencyFactors((1.0, math.inf)), "scaling: expected positive finite numbers"),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_does_not_fit_is_refused(case):
    make, message = WRONG[case]
    with pytest.raises(ValueError, match=message):
        make()
