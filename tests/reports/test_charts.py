"""Charts hold what was measured, by alpha where there is one and else by label."""

import math
from dataclasses import replace
from xml.etree import ElementTree

from matplotlib.figure import Figure
from support import evaluations

from neurosteer_cli.evaluation.metrics import Estimate
from neurosteer_cli.reports.charts import by_layer, effect_against_cost, effect_and_cost, parts_of
from neurosteer_cli.reports.drawing import inline_svg


def texts(figure: Figure | None) -> set[str]:
    assert figure is not None
    svg = ElementTree.fromstring(inline_svg(figure, "a"))
    return {(element.text or "").strip() for element in svg.iter("text")}


def test_conditions_of_one_vector_are_a_curve_against_alpha_beside_their_baselines() -> None:
    figure = effect_and_cost(evaluations.working())
    assert figure is not None
    assert {
        "polite.st",
        "unsteered",
        "prompting",
        "random vector of equal norm",
        "alpha (% of the residual's length)",
        "positive, judge “data”",
        "perplexity ratio",
        "KL (nats a token)",
        "1.25",
    } <= texts(figure)
    curve = figure.axes[0].lines[0]
    assert list(curve.get_xdata()) == [-8, 0, 4, 8, 16, 24]
    assert list(curve.get_ydata()) == [0.38, 0.61, 0.66, 0.79, 0.955, 0.97]


def test_conditions_without_an_alpha_stand_by_their_labels() -> None:
    published = texts(effect_and_cost(evaluations.published()))
    assert {"system-a_generations_…", "system-b.jsonl", "$x^2$ <b>.jsonl"} <= published
    pair = texts(effect_and_cost(evaluations.two_vectors()))
    assert {"polite +8, happy +4", "polite.st + happy.st"} <= pair


def test_positions_are_named_only_where_they_differ() -> None:
    evaluation = evaluations.working()
    assert "polite.st" in texts(effect_and_cost(evaluation))
    generated = evaluations.result(4.0, evaluation.results[1].judges, positions="generated")
    both = replace(evaluation, results=[*evaluation.results, generated])
    assert {"polite.st, all", "polite.st, generated"} <= texts(effect_and_cost(both))


def test_a_point_is_named_by_its_alpha_or_label_and_one_at_infinity_is_left_out() -> None:
    assert {"-8", "+4", "+8", "+16", "+24"} <= texts(effect_against_cost(evaluations.working()))
    assert "+24" not in texts(effect_against_cost(evaluations.failed()))
    assert "system-b.jsonl" in texts(effect_against_cost(evaluations.published()))


def test_a_judge_without_a_rate_is_drawn_by_its_mean() -> None:
    evaluation = evaluations.working()
    for result in evaluation.results:
        result.judges["data"] = replace(result.judges["data"], rate=None)
    assert "mean score, judge “data”" in texts(effect_and_cost(evaluation))


def test_there_is_no_chart_of_nothing() -> None:
    evaluation = evaluations.working()
    assert effect_against_cost(replace(evaluation, judges=[])) is None
    nothing = {"perplexity": None, "perplexity_ratio": None, "kl": None, "judges": {}}
    empty = [replace(one, **nothing) for one in evaluation.results]
    assert effect_and_cost(replace(evaluation, results=empty)) is None


def test_a_calibration_marks_its_fit_the_allowed_range_and_the_recommended_alphas() -> None:
    figure = effect_and_cost(evaluations.working(), evaluations.calibration())
    assert figure is not None
    assert {"monotone fit, used by --level", "up 16", "down -8"} <= texts(figure)
    axes = figure.axes[0]
    shaded = [patch.get_extents().transformed(axes.transData.inverted()).intervalx for patch in axes.patches]
    assert [-8.0, 16.0] in [list(interval.round(6)) for interval in shaded]


def test_layers_have_no_halves_and_doses_a_line_each() -> None:
    sweep = evaluations.layers()
    assert {"difference of means", "SAE latents", "chance", "held-out AUROC"} <= texts(
        by_layer(sweep, "separation")
    )
    assert {"alpha -10", "alpha +10", "alpha +16", "positive, judge “data”"} <= texts(
        by_layer(sweep, "steering")
    )
    few = replace(sweep, layers=sweep.layers[:3])
    assert {"0", "1", "2"} <= texts(by_layer(few, "separation"))
    assert not {"0.5", "1.5"} & {text for text in texts(by_layer(few, "separation")) if text != "0.5"}


def test_a_plot_has_the_panels_of_both_charts_as_far_as_there_are_both() -> None:
    for sweep, n_panels in ((evaluations.layers(), 4), (evaluations.layers(steer=False), 2)):
        assert len(by_layer(sweep, *parts_of(sweep)).axes) == n_panels


def test_an_auroc_far_below_chance_is_on_the_chart() -> None:
    sweep = evaluations.layers()
    low = replace(sweep, layers=[evaluations.layer(0, Estimate(0.2, 0.1, 0.3)), evaluations.layer(1)])
    bottom, top = by_layer(low, "separation").axes[0].get_ylim()
    assert bottom < 0.1
    assert math.isclose(top, 1.03)
