"""Log-odds of tokens, worked by hand from the formula of the paper."""

import math

import pytest
import torch

from neurosteer_cli.errors import NeurosteerError
from neurosteer_cli.vectors.fitting.log_odds import counted, token_bias, z_scores

COUNTS = torch.tensor([[30, 10, 0, 60, 0], [10, 30, 5, 55, 0]])


def by_hand(token: int) -> float:
    """Equations 15, 19, 20 and 22, number by number."""
    n = [100, 100]
    prior = 500 * float(COUNTS[:, token].sum()) / 200
    y = [float(COUNTS[side, token]) for side in range(2)]
    odds = [(y[i] + prior) / (n[i] + 500 - y[i] - prior) for i in range(2)]
    variance = sum(1 / (y[i] + prior) for i in range(2))
    return (math.log(odds[0]) - math.log(odds[1])) / math.sqrt(variance)


def test_z_scores_are_those_of_the_paper() -> None:
    found = z_scores(COUNTS)
    assert found.tolist() == pytest.approx([by_hand(token) for token in range(4)] + [0.0])
    assert float(found[0]) > 0 > float(found[1])


def test_sides_exchanged_change_the_sign() -> None:
    assert z_scores(COUNTS.flip(0)).tolist() == pytest.approx((-z_scores(COUNTS)).tolist())


def test_a_token_of_the_strongest_z_gets_a_nat_at_alpha_4() -> None:
    often = torch.tensor([[100_000, 5, 1000], [5, 100_000, 1000]])
    bias = token_bias(often)
    assert bias.ids.tolist()[:2] == [0, 1]
    assert (bias * 4.0).dense(3).tolist()[:2] == [1.0, -1.0]


def test_a_bias_says_nothing_of_tokens_that_neither_side_has() -> None:
    bias = token_bias(COUNTS)
    assert bias.ids.tolist() == [0, 1, 2, 3]
    assert bias.bias.tolist() == pytest.approx([by_hand(token) / 24 for token in range(4)])


def test_sides_that_use_all_tokens_alike_urge_nothing() -> None:
    with pytest.raises(NeurosteerError, match="use the same tokens equally often: nothing to urge"):
        token_bias(torch.tensor([[3, 4], [3, 4]]))


def test_tokens_are_counted() -> None:
    assert counted(torch.tensor([3, 0, 3]), 5).tolist() == [1, 0, 0, 2, 0]
