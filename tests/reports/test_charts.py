"""Charts hold what was measured, by alpha where there is one and else by label."""

import math
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from xml.etree import ElementTree

from matplotlib.axes import Axes
from support import evaluations

from neurosteer_cli.evaluation.measures.metrics import Estimate
from neurosteer_cli.evaluation.results import ModelResult
from neurosteer_cli.reports.charts import by_layer, effect_against_cost, effect_and_cost
from neurosteer_cli.reports.drawing import Panel, figure_of, inline_svg, series_of


def axes_of(panel: Panel) -> Axes:
    return figure_of(panel, 2).axes[0]


def texts(panels: Sequence[Panel]) -> set[str]:
    """What can be read on the panels, and in the legend of them all."""
    figures = [figure_of(panel, 2) for panel in panels]
    svgs = [ElementTree.fromstring(inline_svg(figure, "a")) for figure in figures]
    labels = set(series_of(figure.axes[0] for figure in figures))
    return labels | {(element.text or "").strip() for svg in svgs for element in svg.iter("text")}


def ticks(panel: Panel) -> list[float]:
    return list(axes_of(panel).get_xticks())


def test_conditions_of_one_vector_are_a_curve_against_alpha_beside_their_baselines() -> None:
    panels = effect_and_cost(evaluations.working())
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
    } <= texts(panels)
    curve = axes_of(panels[0]).lines[0]
    assert list(curve.get_xdata()) == [-8, 0, 4, 8, 16, 24]
    assert list(curve.get_ydata()) == [0.38, 0.61, 0.66, 0.79, 0.955, 0.97]


def test_every_panel_has_ticks_at_the_alphas_and_says_what_they_are() -> None:
    for panel in effect_and_cost(evaluations.working()):
        assert ticks(panel) == [-8, 0, 4, 8, 16, 24]
        assert {"−8", "0", "24", "alpha (% of the residual's length)"} <= texts([panel])


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


def test_names_of_points_stand_outside_of_the_panel_and_clear_of_one_another() -> None:
    axes = axes_of(effect_against_cost(evaluations.published())[1])
    places = [name.get_position() for name in axes.texts]
    heights = sorted(y for _, y in places)
    assert all(x > 1 for x, _ in places)
    assert len(heights) == 3
    assert all(upper - lower >= 0.07 for lower, upper in zip(heights, heights[1:], strict=False))


def test_a_judge_without_a_rate_is_drawn_by_its_mean() -> None:
    evaluation = evaluations.working()
    for result in evaluation.results:
        result.judges["data"] = replace(result.judges["data"], rate=None)
    assert "mean score, judge “data”" in texts(effect_and_cost(evaluation))


def test_of_several_models_the_axis_says_how_many_and_a_mark_what_is_less_diverse() -> None:
    evaluation = evaluations.priced_twice()
    assert "perplexity ratio, highest of 2 models" in texts(effect_and_cost(evaluation))
    assert {"+16!", "+24"} <= texts(effect_against_cost(evaluation))


def test_there_is_no_chart_of_nothing() -> None:
    evaluation = evaluations.working()
    assert effect_against_cost(replace(evaluation, judges=[])) == []
    nothing = {"models": {"m": ModelResult(None, None, None, None)}, "kl": None, "judges": {}}
    empty = [replace(one, **nothing) for one in evaluation.results]
    assert effect_and_cost(replace(evaluation, results=empty)) == []


def test_a_calibration_marks_its_fit_the_allowed_range_and_the_recommended_alphas() -> None:
    panels = effect_and_cost(evaluations.working(), evaluations.calibration())
    assert {"monotone fit, used by --level", "up 16", "down -8"} <= texts(panels)
    axes = axes_of(panels[0])
    shaded = [patch.get_extents().transformed(axes.transData.inverted()).intervalx for patch in axes.patches]
    assert [-8.0, 16.0] in [list(interval.round(6)) for interval in shaded]


def test_layers_have_ticks_at_layers_and_alphas_a_line_each() -> None:
    separation, shift, rates, ratios = by_layer(evaluations.layers())
    assert {"difference of means", "SAE latents", "chance", "held-out AUROC"} <= texts([separation])
    assert {"alpha -10", "alpha +10", "alpha +16", "positive, judge “data”"} <= texts([rates])
    assert ticks(separation) == ticks(shift) == list(range(0, 30, 3))
    assert ticks(rates) == ticks(ratios) == list(range(2, 30, 3))  # those that were steered at
    sweep = evaluations.layers(steer=False)
    uneven = replace(sweep, layers=[sweep.layers[number] for number in (2, 8, 14, 20, 26)])
    assert ticks(by_layer(uneven)[0]) == [2, 8, 14, 20, 26]


def test_layers_are_steered_in_panels_of_their_own_only_where_that_was_tried() -> None:
    assert len(by_layer(evaluations.layers())) == 4
    assert len(by_layer(evaluations.layers(steer=False))) == 2


def test_an_auroc_far_below_chance_is_on_the_chart() -> None:
    sweep = evaluations.layers()
    low = replace(sweep, layers=[evaluations.layer(0, Estimate(0.2, 0.1, 0.3)), evaluations.layer(1)])
    bottom, top = axes_of(by_layer(low)[0]).get_ylim()
    assert bottom < 0.1
    assert math.isclose(top, 1.03)


def test_alphas_that_crowd_have_even_ticks() -> None:
    draw = partial(evaluations.series, spread=0.05, ratio_spread=0.05, unsteered=0.5)
    tried = [(0.0, 0.5, 1.0), (1.0, 0.6, 1.0), (1.2, 0.6, 1.0), (90.0, 0.9, 1.1)]
    crowded = evaluations.evaluation(draw(tried), evaluations.Judge("data"))
    assert 1.2 not in ticks(effect_and_cost(crowded)[0])
