"""What a dose-response curve recommends, and which alpha a level asks for."""

from types import SimpleNamespace
from typing import Any

import pytest

from neurosteer_cli.errors import InputError, NeurosteerError
from neurosteer_cli.evaluation.calibrate import calibrate, monotone
from neurosteer_cli.evaluation.measures.metrics import Estimate
from neurosteer_cli.evaluation.results import ConditionResult, Evaluation, JudgeResult, ModelResult
from neurosteer_cli.evaluation.runs.samples import PROMPTING, RANDOM, Condition
from neurosteer_cli.vectors.metadata import Calibration

PROVENANCE: dict[str, Any] = {
    "model": "tiny",
    "prompts_sha256": "5ae",
    "n_prompts": 9,
    "n": 1,
    "ppl_models": ["tiny"],
    **dict.fromkeys(("positions", "max_new_tokens", "sampling", "chat", "system")),
}


def result(alpha: float, rate: float | None, ratio: float, baseline: str | None = None) -> ConditionResult:
    def estimate(value: float) -> Estimate:
        return Estimate(value, value - 0.1, value + 0.1)

    found = None if rate is None else estimate(rate)
    judged = JudgeResult(rate=found, mean=found, rate_difference=None, fluency=None, n_failed=0)
    return ConditionResult(
        condition=Condition(("v.st",), (alpha,), "all", baseline),
        dose=None,
        n=10,
        n_prompts=9,
        n_empty=0,
        models={"tiny": ModelResult(None, estimate(ratio), None, None)},
        distinct_1=None,
        distinct_2=None,
        distinct_3=None,
        repetition_4=None,
        diversity=None,
        length=None,
        kl=None,
        judges={"j": judged},
    )


def calibrated(*points: tuple[Any, ...], bound: float = 1.25) -> Calibration:
    """Of (alpha, rate, perplexity ratio) or (alpha, rate, perplexity ratio, baseline)."""
    results = [result(*point) for point in points]
    judge = SimpleNamespace(name="j", card={})
    return calibrate(Evaluation("v", results, [], {}, [judge], PROVENANCE), bound)  # type: ignore[list-item]


RISING = ((-20, 0.1, 2.0), (-10, 0.3, 1.2), (0, 0.5, 1.0), (10, 0.7, 1.1), (20, 0.9, 1.3))


def test_the_largest_effect_within_the_bound_is_recommended() -> None:
    found = calibrated(*RISING)
    assert (found.alpha_down, found.alpha_up) == (-10, 10)
    assert (found.recommended(up=True), found.recommended(up=False)) == (10, -10)
    found = calibrated(*RISING, bound=2.5)
    assert (found.alpha_down, found.alpha_up) == (-20, 20)


def test_the_curve_is_kept_in_order_of_alpha_with_its_intervals() -> None:
    found = calibrated(*reversed(RISING))
    assert [point.alpha for point in found.curve] == [-20, -10, 0, 10, 20]
    assert [point.expected_rate for point in found.curve] == pytest.approx([0.1, 0.3, 0.5, 0.7, 0.9])
    last = found.curve[-1]
    assert (last.rate_low, last.rate_high) == pytest.approx((0.8, 1.0))
    assert (last.perplexity_ratio_low, last.perplexity_ratio_high) == pytest.approx((1.2, 1.4))


def test_of_equal_effects_the_alpha_nearer_zero_is_taken() -> None:
    found = calibrated((0, 0.5, 1.0), (5, 0.9, 1.0), (10, 0.9, 1.0), (15, 0.8, 1.0))
    # 0.9, 0.9, 0.8 level out at their mean
    assert found.alpha_up == 5


def test_an_alpha_beyond_one_that_costs_too_much_is_not_recommended() -> None:
    found = calibrated((0, 0.5, 1.0), (5, 0.6, 1.3), (10, 0.9, 1.1))
    assert found.alpha_up is None
    with pytest.raises(InputError, match="no alpha above 0 with an effect within a perplexity ratio of 1.25"):
        found.recommended(up=True)


def test_a_judge_of_the_opposite_makes_a_falling_curve() -> None:
    found = calibrated((-10, 0.9, 1.0), (0, 0.5, 1.0), (10, 0.2, 1.0))
    assert (found.alpha_down, found.alpha_up) == (-10, 10)
    assert found.alpha_at(0.35) == pytest.approx(5)


def test_no_effect_recommends_nothing() -> None:
    found = calibrated((-10, 0.5, 1.0), (0, 0.5, 1.0), (10, 0.5, 1.0))
    assert (found.alpha_down, found.alpha_up) == (None, None)


def test_a_level_is_interpolated_on_the_curve() -> None:
    found = calibrated(*RISING)
    assert found.alpha_at(0.5) == 0
    assert found.alpha_at(0.6) == pytest.approx(5)
    assert found.alpha_at(0.3) == -10
    assert found.alpha_at(0.35) == pytest.approx(-7.5)


def test_a_level_on_a_plateau_takes_the_alpha_nearest_zero() -> None:
    found = calibrated((0, 0.2, 1.0), (5, 0.6, 1.0), (10, 0.6, 1.0), (15, 0.9, 1.0))
    assert found.alpha_at(0.6) == pytest.approx(5)


def test_a_level_out_of_reach_names_the_range() -> None:
    with pytest.raises(InputError) as refusal:
        calibrated(*RISING).alpha_at(0.8)
    assert str(refusal.value) == (
        "a rate of 80% by judge 'j' is out of reach within a perplexity ratio of 1.25: "
        "from 30% (alpha -10) to 70% (alpha 10)"
    )


def test_an_alpha_without_a_rate_has_no_point() -> None:
    found = calibrated((0, 0.5, 1.0), (10, None, 1.0), (20, 0.9, 1.0), (30, 0.9, float("inf")))
    assert [point.alpha for point in found.curve] == [0, 20]


def test_random_vectors_and_prompting_are_not_on_the_curve() -> None:
    found = calibrated(*RISING, (10, 0.2, 1.0, RANDOM), (0, 0.9, 1.0, PROMPTING))
    assert [(point.alpha, point.rate) for point in found.curve] == [(p[0], p[1]) for p in RISING]


def test_without_an_unsteered_rate_there_is_no_calibration() -> None:
    with pytest.raises(NeurosteerError, match="the unsteered continuations are all empty or unjudged"):
        calibrated((0, None, 1.0), (10, 0.5, 1.0))


def test_the_monotone_curve_pools_what_runs_against_it() -> None:
    assert monotone([0, 1, 2, 3], [0.1, 0.5, 0.3, 0.9], [1, 1, 1, 1]) == pytest.approx([0.1, 0.4, 0.4, 0.9])
    assert monotone([0, 1, 2], [0.9, 0.2, 0.5], [1, 3, 1]) == pytest.approx([0.9, 0.275, 0.275])
    assert monotone([2, 1, 0], [0.9, 0.5, 0.1], [1, 1, 1]) == pytest.approx([0.9, 0.5, 0.1])
