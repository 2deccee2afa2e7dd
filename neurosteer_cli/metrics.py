"""Numbers from scores and log-probabilities.

Knows arithmetic; knows nothing of models, texts or files.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor


def auroc(positive: Tensor, negative: Tensor) -> float:
    """Probability that a positive score exceeds a negative one, ties counted half.

    Args:
        positive: [n_pos] scores.
        negative: [n_neg] scores.

    Source: the Mann-Whitney U statistic over n_pos * n_neg (Hanley & McNeil 1982).
    """
    below = torch.searchsorted(negative.sort().values, positive, right=False)
    not_above = torch.searchsorted(negative.sort().values, positive, right=True)
    wins = below.double() + (not_above - below).double() / 2
    return float(wins.sum() / (len(positive) * len(negative)))


def perplexity(log_probs: Sequence[Tensor]) -> float:
    """exp of the mean over texts of a text's mean negative log-probability (nats); nothing dropped.

    Args:
        log_probs: for each text its tokens' log-probabilities, [n_tokens], at least one.
    """
    means = [-float(text.double().mean()) for text in log_probs]
    return math.exp(sum(means) / len(means))
