"""Numbers from scores and log-probabilities, against a count and a calculation by hand."""

import math

import pytest
import torch
from torch import Tensor

from neurosteer_cli.metrics import auroc, perplexity


def by_counting(positive: Tensor, negative: Tensor) -> float:
    """Every pair looked at: 1 for a win, a half for a tie."""
    pairs = [(float(p), float(n)) for p in positive for n in negative]
    return sum(1.0 if p > n else 0.5 if p == n else 0.0 for p, n in pairs) / len(pairs)


def test_auroc_is_the_share_of_pairs_won() -> None:
    assert auroc(torch.tensor([3.0, 1.0]), torch.tensor([0.0, 2.0, 4.0])) == (2 + 1) / 6


def test_ties_count_half() -> None:
    assert auroc(torch.tensor([1.0]), torch.tensor([0.0, 1.0, 2.0])) == 0.5
    assert auroc(torch.ones(3), torch.ones(5)) == 0.5


@pytest.mark.parametrize("seed", range(5))
def test_auroc_equals_a_count_of_all_pairs(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    positive = torch.randint(8, (17,), generator=generator).double()  # many ties
    negative = torch.randint(6, (23,), generator=generator).double()
    assert auroc(positive, negative) == pytest.approx(by_counting(positive, negative), abs=1e-15)
    swapped = auroc(negative, positive)
    assert auroc(positive, negative) + swapped == pytest.approx(1, abs=1e-15)


def test_auroc_is_1_and_0_where_the_sides_separate() -> None:
    low, high = torch.tensor([-3.0, -1.0]), torch.tensor([0.5, 7.0, 9.0])
    assert auroc(high, low) == 1.0
    assert auroc(low, high) == 0.0


def test_perplexity_weighs_every_text_alike_however_long() -> None:
    # 2 and 8 choices a token: exp of the mean of log 2 and log 8 is 4
    long, short = torch.full((9,), -math.log(2)), torch.full((1,), -math.log(8))
    assert perplexity([long, short]) == pytest.approx(4.0, rel=1e-7)


def test_perplexity_of_one_text_is_the_inverse_geometric_mean_of_its_probabilities() -> None:
    probabilities = torch.tensor([0.5, 0.125, 0.25], dtype=torch.float64)
    # (1/2 * 1/8 * 1/4) ** (-1/3) = 64 ** (1/3)
    assert perplexity([probabilities.log()]) == pytest.approx(4.0, rel=1e-12)


def test_perplexity_is_summed_in_double_precision() -> None:
    text = torch.full((100_000,), -1.1)
    assert perplexity([text]) == pytest.approx(math.exp(float(torch.tensor(1.1))), rel=1e-9)


def test_certain_texts_have_perplexity_1() -> None:
    assert perplexity([torch.zeros(4), torch.zeros(2)]) == 1.0
