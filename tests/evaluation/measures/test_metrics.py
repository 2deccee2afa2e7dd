"""Numbers from scores and log-probabilities, against a count and a calculation by hand."""

import math
from itertools import combinations

import pytest
import torch

from neurosteer_cli.evaluation.measures.metrics import (
    Bootstrap,
    Estimate,
    auroc_interval,
    distinct,
    kl_divergence,
    mean_log_prob,
    n_grams,
    rarefied_distinct,
    repetition,
)


def test_the_mean_log_probability_is_that_of_the_geometric_mean_of_probabilities() -> None:
    probabilities = torch.tensor([1 / 2, 1 / 4, 1 / 8], dtype=torch.float64)
    found = mean_log_prob(probabilities.log())
    assert found is not None and math.exp(-found) == pytest.approx(4.0, rel=1e-12)
    assert mean_log_prob(torch.zeros(4)) == 0.0


def test_the_mean_log_probability_is_summed_in_double_precision() -> None:
    text = torch.full((1_000_000,), -1.1)
    assert mean_log_prob(text) == pytest.approx(-float(torch.tensor(1.1)), rel=1e-9)


def test_the_interval_of_an_auroc_is_hanley_and_mcneils() -> None:
    # worked by hand: A 0.8, 20 + 30 texts: Q1 = 2/3, Q2 = 1.28/1.8
    variance = (0.16 + 19 * (2 / 3 - 0.64) + 29 * (1.28 / 1.8 - 0.64)) / 600
    low, high = auroc_interval(0.8, 20, 30)
    assert (low, high) == pytest.approx((0.8 - 1.96 * variance**0.5, 0.8 + 1.96 * variance**0.5))
    assert auroc_interval(1.0, 5, 5) == (1.0, 1.0)


def test_distinct_is_the_share_of_different_n_grams_over_all_texts() -> None:
    texts = [["the", "cat", "sat"], ["the", "cat", "ran"]]
    assert distinct(texts, 1) == 4 / 6
    assert distinct(texts, 2) == 3 / 4
    assert distinct(texts, 4) is None
    assert distinct([], 1) is None


@pytest.mark.parametrize("size", [1, 2, 3, 4, 5, 6])
def test_rarefied_distinct_is_the_mean_over_every_draw_of_so_many(size: int) -> None:
    texts = [["a", "b", "c", "a", "b"], ["a", "b", "d"]]
    grams = [gram for words in texts for gram in n_grams(words, 2)]  # ab bc ca ab, ab bd
    draws = list(combinations(range(6), size))
    mean = sum(len({grams[place] for place in draw}) for draw in draws) / len(draws) / size
    assert rarefied_distinct(texts, 2, size) == pytest.approx(mean, rel=1e-12)


def test_texts_of_one_kind_are_as_diverse_however_many_there_are() -> None:
    few, many = ([[str(n % 50), str(n // 50)] for n in range(size)] for size in (200, 2000))
    assert rarefied_distinct(few, 2, 200) == pytest.approx(1.0)
    assert rarefied_distinct(many, 2, 200) == pytest.approx(1.0)
    assert rarefied_distinct([*few, *few], 2, 400) == pytest.approx(0.5)  # said twice


def test_repetition_is_the_share_of_n_grams_seen_before() -> None:
    assert repetition(["a", "b", "c", "d", "a", "b", "c", "d"]) == pytest.approx(
        1 / 5
    )  # abcd bcda cdab dabc abcd
    assert repetition(["a", "a", "a", "a", "a", "a"]) == pytest.approx(2 / 3)
    assert repetition(["a", "b", "c"]) is None


def test_a_text_without_tokens_has_no_mean_log_probability() -> None:
    assert mean_log_prob(torch.empty(0)) is None
    assert mean_log_prob(torch.tensor([-1.0, -3.0])) == -2.0


def test_kl_divergence_is_taken_from_the_steered_distribution() -> None:
    steered, unsteered = torch.tensor([0.5, 0.5]), torch.tensor([0.9, 0.1])
    expected = 0.5 * math.log(0.5 / 0.9) + 0.5 * math.log(0.5 / 0.1)
    assert float(kl_divergence(steered.log(), unsteered.log())) == pytest.approx(expected, rel=1e-5)
    assert float(kl_divergence(steered.log() + 7, steered.log())) == pytest.approx(0, abs=1e-6)


def sums(*values: float) -> torch.Tensor:
    """One thing a unit."""
    return torch.tensor([values, [1.0] * len(values)], dtype=torch.float64)


def mean(of_quantity: torch.Tensor) -> torch.Tensor:
    return of_quantity


def test_an_interval_holds_the_mean_and_is_as_wide_as_its_standard_error_says() -> None:
    values = [float(i % 2) for i in range(400)]
    estimate = Bootstrap(400).estimate(mean, sums(*values))
    assert estimate is not None and estimate.value == 0.5
    assert estimate.low is not None and estimate.high is not None
    # 1.96 * 0.5 / sqrt(400) = 0.049
    assert estimate.high - estimate.low == pytest.approx(2 * 0.049, abs=0.012)
    assert estimate.low < 0.5 < estimate.high


def test_the_same_resamples_make_a_difference_paired() -> None:
    base = [float(i) for i in range(50)]
    shifted = [value + 2 for value in base]
    boot = Bootstrap(50)
    estimate = boot.estimate(torch.sub, sums(*shifted), sums(*base))
    assert estimate is not None
    assert (estimate.value, estimate.low, estimate.high) == pytest.approx((2.0, 2.0, 2.0))


def test_units_with_more_things_weigh_more() -> None:
    estimate = Bootstrap(2).estimate(mean, torch.tensor([[3.0, 0.0], [3.0, 1.0]]).double())
    assert estimate is not None
    assert (estimate.value, estimate.low, estimate.high) == (0.75, 0.0, 1.0)


def test_one_unit_has_no_interval_and_nothing_no_value() -> None:
    assert Bootstrap(1).estimate(mean, sums(4.0)) == Estimate(4.0, None, None)
    assert Bootstrap(3).estimate(mean, torch.zeros(2, 3).double()) is None


def test_the_same_figures_give_the_same_interval() -> None:
    values = [float(i) for i in range(10)]
    assert Bootstrap(10).estimate(mean, sums(*values)) == Bootstrap(10).estimate(mean, sums(*values))
