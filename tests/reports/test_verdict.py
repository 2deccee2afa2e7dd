"""What the results show is said as far as their intervals allow, and no further."""

import re
from collections.abc import Callable
from dataclasses import replace
from html import unescape
from typing import Any, NamedTuple

import pytest
from support import evaluations
from support.evaluations import layer, near

from neurosteer_cli.evaluation.layers import Layer, LayerSweep, Steered
from neurosteer_cli.evaluation.measures.metrics import Estimate
from neurosteer_cli.evaluation.results import ConditionResult, Evaluation, ModelResult
from neurosteer_cli.evaluation.runs.samples import MAX_PPL_RATIO, RANDOM, UNSTEERED
from neurosteer_cli.reports.render import environment
from neurosteer_cli.reports.verdict import layers_verdict, recommendations, verdict


class Said(NamedTuple):
    """A verdict as a page words it, its blanks made plain."""

    badge: str
    headline: str
    sentences: list[str]


def plain(html: str) -> str:
    return " ".join(unescape(html).split())


def of(evaluation: Evaluation, judge: str = "data", **options: float) -> Said:
    found = verdict(evaluation.results, judge, **options)
    words: Any = environment().get_template("verdict.html").module
    card = words.card(found)
    badge, *_ = re.findall('class="badge">(.*?)</span>', card)
    (headline,) = re.findall('class="headline">(.*?)</p>', card, re.DOTALL)
    sentences = re.findall("<li>(.*?)</li>", card, re.DOTALL)
    return Said(badge, plain(headline), list(map(plain, sentences)))


def said_of(
    layers: list[Layer],
    unsteered: Estimate | None = None,
    n_prompts: int | None = None,
    n_texts: tuple[int, ...] = (50, 50),
) -> list[str]:
    sweep = LayerSweep("", layers, {"prompts": n_prompts, "n_texts": n_texts}, None, unsteered)
    words: Any = environment().get_template("verdict.html").module
    html = words.layers(layers_verdict(sweep), MAX_PPL_RATIO)
    return list(map(plain, re.findall("<(?:p|li)[^>]*>(.*?)</(?:p|li)>", html, re.DOTALL)))


def recommended(evaluation: Evaluation, up: float | None, down: float | None) -> list[str]:
    calibration = evaluations.calibration(up, down)
    shown = verdict(evaluation.results, "data")
    words: Any = environment().get_template("verdict.html").module
    html = words.recommended(recommendations(calibration, shown), shown, calibration.allowed())
    return [plain(re.sub("<[^>]*>", "", part)) for part in re.findall("<p[^>]*>(.*?)</p>", html, re.DOTALL)]


def changed(
    evaluation: Evaluation, change: Callable[[ConditionResult], dict[str, Any]], baseline: str | None = None
) -> Evaluation:
    """The evaluation with its steered results, or those of a baseline, changed."""
    results = [
        replace(one, **change(one)) if one.condition.baseline == baseline else one
        for one in evaluation.results
    ]
    return replace(evaluation, results=results)


def with_judge(**numbers: Any) -> Callable[[ConditionResult], dict[str, Any]]:
    return lambda one: {"judges": {"data": replace(one.judges["data"], **numbers)}}


def priced(ratio: Estimate | None, name: str = "smollm2") -> dict[str, Any]:
    return {"models": {name: ModelResult(None, ratio, None, None)}}


def at_alpha(alpha: float, **numbers: Any) -> Callable[[ConditionResult], dict[str, Any]]:
    return lambda one: numbers if one.condition.alphas == (alpha,) else {}


def test_it_works() -> None:
    found = of(evaluations.working())
    assert found.badge == "works"
    assert found.headline == (
        "At alpha 16 the judge “data” finds 96 % [92, 99] of texts positive, against 61 % [52, 70] unsteered "
        "(+34 points [31, 38])."
    )
    assert found.sentences == [
        "Perplexity is 1.08 [1.01, 1.15] times the unsteered one; KL on neutral text is 0.16 nats a token.",
        "A random vector of equal norm: 60 % [51, 69].",
        "Prompting instead: 83 % [78, 88].",
        "Of 5 settings tried it is the strongest that keeps the ratio within 1.25; on new prompts expect a "
        "little less.",
        "The other way: At alpha -8 the judge “data” finds 38 % [34, 42] of texts positive, against 61 % "
        "[52, 70] unsteered (-23 points [-26, -19]). Perplexity is 1.02 [0.95, 1.09] times the unsteered "
        "one; KL on neutral text is 0.04 nats a token.",
    ]


def test_nothing_goes_beyond_its_interval() -> None:
    found = of(evaluations.without_effect())
    assert found.badge == "no effect beyond its interval"
    assert found.headline == (
        "The judge “data” finds no effect beyond its interval at any of the 3 settings tried."
    )
    assert found.sentences[0] == (
        "The largest: At alpha 16 the judge “data” finds 53 % [47, 59] of texts positive, against 50 % "
        "[44, 56] unsteered (+3 points [-9, 15])."  # no difference was given: the two intervals'
    )
    assert found.sentences[-1] == "There was no random vector to compare with."


def test_what_is_as_large_elsewhere_is_not_called_the_largest() -> None:
    tied = changed(evaluations.without_effect(), with_judge(rate=near(0.47, 0.06)))
    assert of(tied).sentences[0] == (
        "One of 3 as large: At alpha 4 the judge “data” finds 47 % [41, 53] of texts positive, against 50 % "
        "[44, 56] unsteered (-3 points [-15, 9])."
    )


def test_an_effect_that_costs_too_much_is_no_success() -> None:
    found = of(evaluations.costly())
    assert found.badge == "too costly"
    assert found.headline == (
        "The judge “data” finds an effect beyond its interval only where perplexity is more than 1.25 times "
        "the unsteered one."
    )
    assert found.sentences == [
        "The cheapest: At alpha 16 the judge “data” finds 55 % [50, 60] of texts positive, against 30 % "
        "[24, 36] unsteered (+25 points [20, 30]).",
        "Perplexity is 1.60 [1.40, 1.80] times the unsteered one; KL on neutral text is 0.16 nats a token.",
        "A random vector of equal norm: 31 % [25, 37].",
        "It repeats itself more: 12 % [9, 15] of its 4-grams, against 2 % [1, 3] unsteered.",
        "3 of its 240 texts are empty.",
    ]


def test_what_is_too_costly_is_for_the_caller_to_say() -> None:
    assert of(evaluations.costly(), max_ratio=2.0).badge == "works"


def test_one_setting_alone_shows_no_effect() -> None:
    assert of(evaluations.single()) == Said(
        "cannot be told",
        "No unsteered texts to compare with, so no effect can be shown.",
        ["At alpha 8 the judge “data” finds 79 % [74, 84] of texts positive."],
    )


def test_one_setting_beside_the_unsteered_texts_is_called_the_one_tried() -> None:
    evaluation = evaluations.without_effect()
    found = of(replace(evaluation, results=evaluation.results[:2]))
    assert found.headline == "The judge “data” finds no effect beyond its interval at the one setting tried."
    assert found.sentences[0].startswith("At alpha 4 the judge")


def test_unsteered_texts_alone_show_no_effect() -> None:
    evaluation = evaluations.working()
    alone = [one for one in evaluation.results if one.condition.baseline == UNSTEERED]
    found = of(replace(evaluation, results=alone))
    assert found.headline == "No steered texts to compare with, so no effect can be shown."


def test_what_a_random_vector_does_as_well_is_not_the_vector_s_doing() -> None:
    found = of(changed(evaluations.working(), with_judge(rate=near(0.93, 0.04)), RANDOM))
    assert found.badge == "not told apart from a random vector"
    assert "A random vector of equal norm: 93 % [89, 97]." in found.sentences


def test_the_random_vector_of_the_nearest_alpha_counts_and_is_named() -> None:
    evaluation = evaluations.working()
    results = [one for one in evaluation.results if one.condition.label != "random like polite +16"]
    found = of(replace(evaluation, results=results))
    assert "A random vector of equal norm at alpha 8: 60 % [51, 69]." in found.sentences


def test_an_effect_against_the_sign_of_alpha_is_named() -> None:
    def turned(one: ConditionResult) -> dict[str, Any]:
        assert one.condition.alphas is not None
        return {"condition": replace(one.condition, alphas=(-one.condition.alphas[0],))}

    assert of(changed(evaluations.working(), turned)).badge == "lowers the rate at positive alpha"


def test_of_several_models_it_is_said_whose_ratio_counts() -> None:
    found = of(evaluations.priced_twice())
    assert found.sentences[0].startswith(
        "Perplexity is 1.19 [1.14, 1.24] times the unsteered one by other, the most pessimistic of 2 models;"
    )
    cheap = verdict(evaluations.priced_twice().results, "data", max_ratio=1.15).subject
    assert cheap is not None and cheap.alpha == 8.0  # at 16 the one model says 1.08, the other 1.19


def test_texts_that_are_less_diverse_are_marked_beside_the_verdict() -> None:
    evaluation = evaluations.priced_twice()
    words: Any = environment().get_template("verdict.html").make_module({"least_diversity": 0.97})
    card = words.card(verdict(evaluation.results, "data"))
    assert re.findall('class="badge">(.*?)</span>', card) == ["works", "less diverse"]
    assert (
        "Its texts are less diverse than the unsteered ones: different word pairs in a prompt's texts 0.91 "
        "times; different word pairs across all texts 0.95 times."
    ) in plain(card)


def test_an_interval_that_reaches_beyond_the_limit_is_named() -> None:
    found = of(changed(evaluations.working(), at_alpha(16.0, **priced(near(1.2, 0.1)))))
    assert found.sentences[0].startswith(
        "Perplexity is 1.20 [1.10, 1.30] times the unsteered one (its interval reaches beyond 1.25); KL"
    )


@pytest.mark.parametrize("ratio", [None, Estimate(float("inf"), 2.0, float("inf"))])
def test_a_setting_without_a_finite_ratio_is_not_taken_for_cheap(ratio: Estimate | None) -> None:
    strongest = at_alpha(24.0, **priced(ratio))
    assert of(changed(evaluations.working(), strongest)).headline.startswith("At alpha 16 ")


def test_where_no_ratio_is_known_that_is_said() -> None:
    found = of(changed(evaluations.working(), lambda _: priced(None)))
    assert found.sentences[0] == "Its perplexity was not compared with the unsteered one."


def test_an_other_sign_without_effect_is_named() -> None:
    difference = with_judge(rate_difference=Estimate(-0.02, -0.1, 0.06))
    found = of(
        changed(evaluations.working(), lambda one: difference(one) if one.condition.alphas == (-8.0,) else {})
    )
    assert found.sentences[-1] == (
        "The other sign of alpha has no opposite effect beyond its interval at that cost."
    )


def test_several_vectors_are_named_by_their_label() -> None:
    found = of(evaluations.two_vectors())
    assert found.badge == "works"
    assert found.headline.startswith("With polite +8, happy +4 the judge “data” finds 70 % [65, 75]")


def test_generations_without_an_alpha_are_listed() -> None:
    found = of(evaluations.published(), "llm")
    assert found.badge == "cannot be told"
    assert found.sentences[1] == "With system-b.jsonl the judge “llm” finds 60 % [55, 65] of texts positive."


def test_many_conditions_that_cannot_be_compared_are_left_to_the_table() -> None:
    evaluation = evaluations.working()
    steered = [one for one in evaluation.results if one.condition.baseline != UNSTEERED]
    found = of(replace(evaluation, results=steered))
    assert len(found.sentences) == 4
    assert found.sentences[-1] == "5 more in the table."


def test_a_judge_that_answered_nothing_has_no_verdict() -> None:
    assert of(evaluations.failed(), "llm") == Said("cannot be told", "The judge “llm” judged no text.", [])


def test_failed_answers_are_counted() -> None:
    assert "On 3 of its 240 texts the judge failed." in of(evaluations.seven(), "llm").sentences


def test_a_judge_without_a_rate_is_read_by_its_mean() -> None:
    evaluation = evaluations.working()
    for one in evaluation.results:
        one.judges["data"] = replace(one.judges["data"], mean=one.judges["data"].rate, rate=None)
    assert of(evaluation).headline == (
        "At alpha 16 the judge “data” gives a mean score of 0.95 [0.92, 0.99], against 0.61 [0.52, 0.70] "
        "unsteered (+0.34 [0.22, 0.47])."
    )


def test_layers_without_numbers_say_so() -> None:
    assert said_of([]) == ["No layer's separation could be measured."]


def test_the_best_layer_is_named_only_if_it_is_told_apart_from_all_others() -> None:
    layers = [layer(number, near(value, 0.02)) for number, value in enumerate((0.5, 0.9, 0.95, 0.6))]
    assert said_of(layers) == ["The sides are told apart best after layer 2: AUROC 0.95 [0.93, 0.97]."]


def test_layers_of_the_same_auroc_tie() -> None:
    values = {2: 0.8, 8: 0.93, 14: 1.0, 20: 1.0, 26: 1.0}
    layers = [layer(number, Estimate(value, value, value)) for number, value in values.items()]
    assert said_of(layers) == [
        "The sides are told apart equally well after layers 14, 20 and 26: AUROC 1.00."
    ]


def test_layers_whose_intervals_overlap_the_highest_tie_as_far_as_intervals_can_say() -> None:
    layers = [layer(number, near(value, 0.02)) for number, value in enumerate((0.5, 0.9, 0.93, 0.6))]
    assert said_of(layers) == [
        "As far as intervals can say, the sides are told apart equally well after layers 1 and 2: AUROC 0.90 "
        "to 0.93."
    ]


def steered(number: int, rate: float, alpha: float = 10.0, ratio: float = 1.1) -> Layer:
    return layer(
        number, Estimate(0.9), [Steered(alpha, near(rate, 0.05), near(ratio, 0.02), "smollm2", None)]
    )


def test_layers_that_all_cost_too_much_are_no_place_to_steer() -> None:
    assert said_of([steered(0, 0.9, 30.0, 3.0)], near(0.5, 0.05)) == [
        "The sides are told apart best after layer 0: AUROC 0.90.",
        "At alphas above 0 no layer keeps the perplexity ratio within 1.25.",
    ]


def test_one_layer_to_steer_at_is_named() -> None:
    found = said_of([steered(0, 0.6), steered(1, 0.9)], near(0.5, 0.05), 36)
    assert found[1:] == [
        "Steered within a perplexity ratio of 1.25, layer 1 at alpha 10 gives the most positive texts: 90 % "
        "[85, 95], at a ratio of 1.10 [1.08, 1.12]."
    ]


def test_layers_that_move_texts_as_far_tie() -> None:
    layers = [steered(n, rate) for n, rate in enumerate((0.6, 0.86, 0.9, 0.84))]
    assert said_of(layers, near(0.5, 0.05), 36)[1:] == [
        "Steered at alphas above 0 within a perplexity ratio of 1.25, layers 1 to 3 give the most positive "
        "texts, equally many as far as intervals can say: 84 % to 90 %."
    ]


def test_no_layer_is_recommended_where_none_has_an_effect() -> None:
    assert said_of([steered(0, 0.55)], near(0.5, 0.05), 36)[1:] == [
        "At alphas above 0 steering at no layer moves the rate beyond its interval within a perplexity ratio "
        "of 1.25."
    ]


def test_few_prompts_at_layers_are_called_too_few() -> None:
    assert said_of([steered(0, 0.9)], near(0.5, 0.05), 6)[1] == (
        "Of the steered texts: 6 prompts are too few to tell: intervals are dependable from about 20 on. "
        "Take this as a hint."
    )


def test_few_texts_at_layers_are_called_too_few() -> None:
    assert said_of([layer(2, Estimate(1.0, 1.0, 1.0))], n_texts=(60, 10))[1:] == [
        "A side of 10 texts is too few to tell: 50 or more give more dependable numbers. Take this as a hint."
    ]


# --- too few, the wanted direction, ties --------------------------------------------------------


@pytest.mark.parametrize("make", [evaluations.working, evaluations.without_effect, evaluations.costly])
def test_few_prompts_are_too_few_to_tell_whatever_they_show(make: Callable[[], Evaluation]) -> None:
    evaluation = make()
    few = of(replace(evaluation, results=[replace(one, n_prompts=6) for one in evaluation.results]))
    assert few.badge == "too few prompts to tell"
    assert few.headline == of(evaluation).headline
    assert few.sentences[0] == (
        "6 prompts are too few to tell: intervals are dependable from about 20 on. Take this as a hint."
    )
    enough = replace(evaluation, results=[replace(one, n_prompts=20) for one in evaluation.results])
    assert of(enough).badge == of(evaluation).badge


def test_the_headline_is_of_what_is_wanted_not_of_what_moved_furthest() -> None:
    further = with_judge(rate=near(0.02, 0.01), rate_difference=Estimate(-0.59, -0.62, -0.56))
    evaluation = changed(
        evaluations.working(), lambda one: further(one) if one.condition.alphas == (-8.0,) else {}
    )
    found = of(evaluation)
    assert found.badge == "works"
    assert found.headline.startswith("At alpha 16 the judge “data” finds 96 %")
    assert found.sentences[-1].startswith("The other way: At alpha -8 the judge “data” finds 2 %")


def test_what_only_works_downwards_is_called_that() -> None:
    nothing = with_judge(rate=near(0.62, 0.04), rate_difference=Estimate(0.01, -0.05, 0.07))
    evaluation = changed(
        evaluations.working(), lambda one: nothing(one) if (one.condition.alphas or (0,))[0] > 0 else {}
    )
    found = of(evaluation)
    assert found.badge == "only lowers the rate"
    assert found.headline.startswith("At alpha -8 ")


def test_the_strongest_is_not_called_so_beside_others_that_do_as_well() -> None:
    cheap = at_alpha(24.0, **priced(near(1.1, 0.05)))
    found = of(changed(evaluations.working(), cheap))
    assert found.headline.startswith("At alpha 24 ")
    assert not any("it is the strongest" in sentence for sentence in found.sentences)
    assert (
        "By its interval it is not told apart from alpha 16, which keeps the ratio within 1.25 too."
        in found.sentences
    )


# --- what a calibration recommends --------------------------------------------------------------

KEPT = "Tested alphas from -8 to 16 keep the perplexity ratio within 1.25."


def test_alphas_with_an_effect_are_recommended() -> None:
    assert recommended(evaluations.working(), 16.0, -8.0) == [
        "recommended perplexity ratio at most 1.25",
        "Upwards alpha 16, downwards alpha -8.",
        KEPT,
    ]


def test_an_alpha_without_an_effect_is_not_recommended() -> None:
    difference = with_judge(rate_difference=Estimate(-0.02, -0.1, 0.06))
    evaluation = changed(
        evaluations.working(), lambda one: difference(one) if one.condition.alphas == (-8.0,) else {}
    )
    assert recommended(evaluation, 16.0, -8.0) == [
        "recommended perplexity ratio at most 1.25",
        "Upwards alpha 16, downwards none.",
        "gen --alpha -auto would take -8, where the fitted curve moves most, but no further than its "
        "interval: take more prompts.",
        KEPT,
    ]


def test_nothing_is_recommended_beside_no_effect() -> None:
    assert of(evaluations.without_effect()).badge == "no effect beyond its interval"
    assert recommended(evaluations.without_effect(), 16.0, None)[:2] == [
        "nothing to recommend perplexity ratio at most 1.25",
        "No alpha has an effect beyond its interval, so none is recommended.",
    ]


def test_what_is_recommended_from_few_prompts_is_called_too_few() -> None:
    evaluation = evaluations.working()
    few = replace(evaluation, results=[replace(one, n_prompts=6) for one in evaluation.results])
    assert recommended(few, 16.0, -8.0)[0] == "too few prompts to tell perplexity ratio at most 1.25"
