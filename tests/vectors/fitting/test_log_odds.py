"""Log-odds of tokens, worked by hand from the formula of the paper."""

import math

import pytest
import torch

from neurosteer_cli.errors import NeurosteerError
from neurosteer_cli.vectors.fitting.log_odds import TokenReading, token_bias, z_scores

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


def test_tokens_are_counted_by_side() -> None:
    reading = TokenReading(4)
    reading.add(0, [3, 0, 3], held=False)
    reading.add(0, [1], held=True)
    reading.add(1, [3, 2], held=False)
    assert reading.counts.tolist() == [[1, 1, 0, 2], [0, 0, 1, 1]]
    assert reading.auroc() is None  # no text of the second side is held out


def test_held_out_texts_are_told_apart_by_the_bias_of_the_others() -> None:
    reading = TokenReading(4)
    for side in range(2):
        reading.add(side, [side] * 30 + [2] * 20, held=False)
    for side, texts in enumerate(([[0], [0, 2, 2, 2], [1]], [[1], [3, 2], [1, 0, 0]])):
        for text in texts:
            reading.add(side, text, held=True)
    # by the mean bias of a text, token 0 stands for 1, 1 for -1, and the rest for 0
    ours, theirs = (1, 1 / 4, -1), (-1, 0, 1 / 3)
    wins = sum((a > b) + (a == b) / 2 for a in ours for b in theirs)
    assert reading.auroc() == pytest.approx(wins / 9)
