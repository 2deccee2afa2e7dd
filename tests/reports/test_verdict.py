"""What the rows show is said as far as their intervals allow, and no further."""

from typing import Any

import pytest
from support import documents

from neurosteer_cli.reports.tables import read_settings
from neurosteer_cli.reports.verdict import Verdict, by_layer, verdict


def of(document: dict[str, Any], judge: str = "data", **options: float) -> Verdict:
    """A verdict, its blanks made plain."""
    found = verdict(read_settings(document["rows"]), judge, **options)
    said = tuple(sentence.replace("\u00a0", " ") for sentence in found.sentences)
    return Verdict(found.judge, found.kind, found.headline.replace("\u00a0", " "), said)


def rows_of(document: dict[str, Any], baseline: str | None) -> list[dict[str, Any]]:
    return [row for row in document["rows"] if row["baseline"] == baseline]


def test_it_works() -> None:
    found = of(documents.working())
    assert found.kind == "works"
    assert found.headline == (
        "At alpha 16 the judge “data” finds 96 % [92, 99] of texts positive, against 61 % [52, 70] unsteered "
        "(+34 points [31, 38])."
    )
    assert found.sentences == (
        "Perplexity is 1.08 [1.01, 1.15] times the unsteered one; KL on neutral text is 0.16 nats a token.",
        "A random vector of equal norm: 60 % [51, 69].",
        "Prompting instead: 83 % [78, 88].",
        "Of 5 settings tried it is the strongest that keeps the ratio within 1.25; on new prompts expect a "
        "little less.",
        "The other way: At alpha -8 the judge “data” finds 38 % [34, 42] of texts positive, against 61 % "
        "[52, 70] unsteered (-23 points [-26, -19]). Perplexity is 1.02 [0.95, 1.09] times the unsteered "
        "one; KL on neutral text is 0.04 nats a token.",
    )


def test_nothing_goes_beyond_its_interval() -> None:
    found = of(documents.without_effect())
    assert found.kind == "nothing"
    assert found.headline == (
        "The judge “data” finds no effect beyond its interval at any of the 3 settings tried."
    )
    assert found.sentences[0] == (
        "The largest: At alpha 16 the judge “data” finds 53 % [47, 59] of texts positive, against 50 % "
        "[44, 56] unsteered (+3 points [-9, 15])."  # no difference was given: the two intervals'
    )
    assert found.sentences[-1] == "There was no random vector to compare with."


def test_an_effect_that_costs_too_much_is_no_success() -> None:
    found = of(documents.costly())
    assert found.kind == "costly"
    assert found.headline == (
        "The judge “data” finds an effect beyond its interval only where perplexity is more than 1.25 times "
        "the unsteered one."
    )
    assert found.sentences == (
        "The cheapest: At alpha 16 the judge “data” finds 55 % [50, 60] of texts positive, against 30 % "
        "[24, 36] unsteered (+25 points [20, 30]).",
        "Perplexity is 1.60 [1.40, 1.80] times the unsteered one; KL on neutral text is 0.16 nats a token.",
        "A random vector of equal norm: 31 % [25, 37].",
        "It repeats itself more: 12 % [9, 15] of its 4-grams, against 2 % [1, 3] unsteered.",
        "3 of its 240 texts are empty.",
    )


def test_what_is_too_costly_is_for_the_caller_to_say() -> None:
    assert of(documents.costly(), max_ratio=2.0).kind == "works"


def test_one_setting_alone_shows_no_effect() -> None:
    found = of(documents.single())
    assert found.kind == "open"
    assert found.headline == "No unsteered texts to compare with, so no effect can be shown."
    assert found.sentences == ("At alpha 8 the judge “data” finds 79 % [74, 84] of texts positive.",)


def test_one_setting_beside_the_unsteered_texts_is_called_the_one_tried() -> None:
    document = documents.without_effect()
    document["rows"] = document["rows"][:2]
    assert of(document).headline == (
        "The judge “data” finds no effect beyond its interval at the one setting tried."
    )


def test_unsteered_texts_alone_show_no_effect() -> None:
    document = documents.working()
    document["rows"] = rows_of(document, "unsteered")
    assert of(document).headline == "No steered texts to compare with, so no effect can be shown."


def test_what_a_random_vector_does_as_well_is_not_the_vector_s_doing() -> None:
    document = documents.working()
    for row in rows_of(document, "random"):
        row["judges"]["data"]["rate"] = documents.near(0.93, 0.04)
    assert of(document).kind == "unspecific"
    assert "A random vector of equal norm: 93 % [89, 97]." in of(document).sentences


def test_the_random_vector_of_the_nearest_alpha_counts_and_is_named() -> None:
    document = documents.working()
    document["rows"] = [row for row in document["rows"] if row["label"] != "random +16"]
    assert "A random vector of equal norm at alpha 8: 60 % [51, 69]." in of(document).sentences


def test_an_effect_against_the_sign_of_alpha_is_named() -> None:
    document = documents.working()
    for row in rows_of(document, None):
        row["alpha"] = -row["alpha"]
    assert of(document).kind == "backwards"


def test_an_interval_that_reaches_beyond_the_limit_is_named() -> None:
    document = documents.working()
    document["rows"][4]["perplexity_ratio"] = documents.near(1.2, 0.1)
    assert (
        of(document)
        .sentences[0]
        .startswith(
            "Perplexity is 1.20 [1.10, 1.30] times the unsteered one (its interval reaches beyond 1.25); KL"
        )
    )


@pytest.mark.parametrize("ratio", [None, {"value": float("inf"), "low": 2.0, "high": float("inf")}])
def test_a_setting_without_a_finite_ratio_is_not_taken_for_cheap(ratio: Any) -> None:
    document = documents.working()
    document["rows"][5]["perplexity_ratio"] = ratio  # alpha 24, the largest effect
    assert of(document).headline.startswith("At alpha 16 ")


def test_where_no_ratio_is_known_that_is_said() -> None:
    document = documents.working()
    for row in document["rows"]:
        row["perplexity_ratio"] = None
    assert of(document).sentences[0] == "Its perplexity was not compared with the unsteered one."


def test_an_other_sign_without_effect_is_named() -> None:
    document = documents.working()
    document["rows"][1]["judges"]["data"] |= {"rate_difference": {"value": -0.02, "low": -0.1, "high": 0.06}}
    assert of(document).sentences[-1] == (
        "The other sign of alpha has no opposite effect beyond its interval at that cost."
    )


def test_several_vectors_are_named_by_their_label() -> None:
    found = of(documents.two_vectors())
    assert found.kind == "works"
    assert found.headline.startswith("With polite +8 happy +4 the judge “data” finds 70 % [65, 75]")


def test_generations_without_an_alpha_are_listed() -> None:
    found = of(documents.published(), "llm")
    assert found.kind == "open"
    assert found.sentences[1] == "With system-b.jsonl the judge “llm” finds 60 % [55, 65] of texts positive."


def test_a_judge_that_answered_nothing_has_no_verdict() -> None:
    assert of(documents.failed(), "llm").headline == "The judge “llm” judged no text."


def test_failed_answers_are_counted() -> None:
    found = of(documents.seven(), "llm")
    assert "On 3 of its 240 texts the judge failed." in found.sentences


def test_a_judge_without_a_rate_is_read_by_its_mean() -> None:
    document = documents.working()
    for row in document["rows"]:
        numbers = row["judges"]["data"]
        numbers |= {"mean": numbers["rate"], "rate": None, "rate_difference": None}
    assert of(document).headline == (
        "At alpha 16 the judge “data” gives a mean score of 0.95 [0.92, 0.99], against 0.61 [0.52, 0.70] "
        "unsteered (+0.34 [0.22, 0.47])."
    )


def test_layers_without_numbers_say_so() -> None:
    assert by_layer([]) == ("No layer's separation could be measured.",)


def test_the_best_layer_is_named_with_those_it_is_not_told_apart_from() -> None:
    rows = [
        {"layer": layer, "auroc": value, "auroc_low": value - 0.02, "auroc_high": value + 0.02, "steer": None}
        for layer, value in enumerate((0.5, 0.9, 0.93, 0.6))
    ]
    assert by_layer(rows) == (
        "The sides are told apart best after layer 2: AUROC 0.93 [0.91,\u00a00.95]. The intervals of 1 other "
        "layer overlap its own.",
    )


def test_layers_that_all_cost_too_much_are_no_place_to_steer() -> None:
    steer = [{"alpha": 30.0, "rate": documents.near(0.9, 0.05), "perplexity_ratio": documents.near(3.0, 0.2)}]
    row = {"layer": 0, "auroc": 0.9, "auroc_low": None, "auroc_high": None, "steer": steer}
    assert by_layer([row]) == (
        "The sides are told apart best after layer 0: AUROC 0.90.",
        "No layer keeps the perplexity ratio within 1.25 at alphas of that sign.",
    )
