import math

import pytest

from jattn.report.curves import run_panels, seed_panels
from jattn.report.record import Layer, read_record


def panels_of(make_run, **options):
    return {panel.title.split()[0].rstrip(":"): panel for panel in run_panels(read_record(make_run(**options)))}


def labels(panel):
    return [curve.label for curve in panel.curves]


def test_each_panel_holds_what_was_logged(make_run):
    panels = panels_of(make_run)
    assert labels(panels["loss"]) == ["train", "evaluation"]
    assert labels(panels["accuracy"]) == ["token, train", "token, evaluation", "exact, evaluation"]
    assert labels(panels["filter"]) == ["best head, train", "chance", "evaluation"]
    assert labels(panels["entropy"]) == ["train"]


def test_chance_is_mass_over_lift(make_run):
    chance = panels_of(make_run)["filter"].curves[1]
    assert chance.dashed
    assert chance.values == pytest.approx([0.2, 0.55 / 1.5, 0.45])


def test_chance_spans_the_axis_where_nothing_was_logged_at_its_start(make_run):
    chance = panels_of(make_run, steps=(50, 100))["filter"].curves[1]
    assert chance.steps == [0, 50, 100]
    assert chance.values == pytest.approx([0.55 / 1.5, 0.55 / 1.5, 0.45])


def test_seeds_have_curves_of_their_own(make_run):
    rows = [
        {
            "kind": "evaluation",
            "step": step,
            "replicates": [
                {"seed": seed, "exact_accuracy": (step + seed) / 10, "filter_score": None} for seed in (3, 4)
            ],
        }
        for step in (0, 5)
    ]
    (panel,) = seed_panels(read_record(make_run(metrics=rows)))
    assert panel.title == "exact accuracy of each seed"
    assert [(curve.label, curve.colour, curve.values) for curve in panel.curves] == [
        ("seed 3", "head-0", [0.3, 0.8]),
        ("seed 4", "head-1", [0.4, 0.9]),
    ]
    assert seed_panels(read_record(make_run())) == []


def test_of_many_heads_each_is_drawn_with_the_best_and_the_mean(make_run):
    layers = (Layer("a", 2, oracle=True), Layer("b", 1))
    panels = panels_of(make_run, layers=layers)
    assert [(curve.layer, curve.head) for curve in panels["filter"].curves[:2]] == [("a", 0), ("a", 1)]
    assert labels(panels["entropy"]) == ["each head"] * 3 + ["mean of heads, train"]


def test_the_best_head_is_the_largest_mass_at_each_step(make_run):
    rows = [
        {"kind": "train", "step": step, "filters": {"a": {"entropy": [1, 1], "mass": mass}}}
        for step, mass in enumerate([[0.1, 0.3], [0.6, 0.2], [math.nan, 0.5]])
    ]
    best = panels_of(make_run, metrics=rows)["filter"].curves[-1]
    assert (best.label, best.values) == ("best head, train", [0.3, 0.6, 0.5])


@pytest.mark.parametrize(("losses", "scale"), [([2.0, 0.1], "log"), ([2.0, 0.0], "linear"), ([2.0, math.nan], "log")])
def test_loss_is_on_a_log_scale_where_it_can_be(make_run, losses, scale):
    rows = [{"kind": "train", "step": step, "loss": loss} for step, loss in enumerate(losses)]
    assert panels_of(make_run, metrics=rows)["loss"].scale == scale


def test_panels_of_filters_are_for_models_that_have_some_and_the_score_needs_an_oracle(make_run):
    assert list(panels_of(make_run, layers=())) == ["loss", "accuracy"]
    assert list(panels_of(make_run, layers=(Layer("a", 1),))) == ["loss", "accuracy", "entropy"]


def test_a_run_just_begun_has_panels_without_curves(make_run):
    assert [panel.curves for panel in run_panels(read_record(make_run(metrics=[])))] == [[], [], [], []]
