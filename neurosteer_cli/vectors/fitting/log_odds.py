"""How much more one side uses a token than the other, and what that adds to its logit.

Knows counts of tokens; knows nothing of models or texts. Source: Monroe, Colaresi & Quinn 2008, "Fightin'
Words", equations 15 to 22: log-odds ratios with an informative Dirichlet prior, z-scored.
"""

from collections.abc import Iterable

import torch
from torch import Tensor

from ...errors import NeurosteerError
from ..kinds import TokenBias
from .statistics import auroc

PRIOR = 500.0  # tokens, distributed as those of both sides together
STRONGEST = 6.0  # z from which a token is urged no more
ALPHA_OF_A_NAT = 4.0  # at which a token of the strongest z has 1 nat more


def z_scores(counts: Tensor) -> Tensor:
    """Log-odds ratios of the first side over the second, over their standard errors, [d_vocab] float64.

    counts: tokens of either side, [2, d_vocab]. A token that neither has is at 0.
    """
    counts = counts.double()
    prior = PRIOR * counts.sum(0) / counts.sum()  # [d_vocab]
    with_prior = counts + prior
    rest = with_prior.sum(1, keepdim=True) - with_prior
    log_odds = (with_prior / rest).log()
    error = (1 / with_prior).sum(0).sqrt()
    return ((log_odds[0] - log_odds[1]) / error).where(counts.sum(0) > 0, 0.0)


def token_bias(counts: Tensor) -> TokenBias:
    """What alpha 1 adds to the logits of the tokens that the sides do not use alike.

    Raises:
        NeurosteerError: they use all alike.
    """
    z = z_scores(counts)
    ids = z.nonzero()[:, 0]
    if not len(ids):
        raise NeurosteerError("the two sides use the same tokens equally often: nothing to urge")
    strength = z[ids].clamp(-STRONGEST, STRONGEST) / STRONGEST
    return TokenBias(ids, (strength / ALPHA_OF_A_NAT).float())


class TokenReading:
    """What is collected of tokens while the texts go by."""

    def __init__(self, d_vocab: int) -> None:
        """`d_vocab` is 0 where nothing is to be collected."""
        self.d_vocab = d_vocab
        # of texts fitted on and texts held out, of either side, how often each token stands in them
        self._counts = torch.zeros(2, 2, d_vocab, dtype=torch.int64)
        self.held_out: tuple[list[Tensor], list[Tensor]] = ([], [])  # token ids [n] of a text, a side

    @property
    def counts(self) -> Tensor:
        """How often each token stands in all texts of either side, [2, d_vocab] int64."""
        return self._counts.sum(0)

    def add(self, side: int, ids: Iterable[int], *, held: bool) -> None:
        """Take in the tokens of a text."""
        if not self.d_vocab:
            return
        tokens = torch.tensor([*ids], dtype=torch.int64)
        self._counts[int(held), side].index_add_(0, tokens, torch.ones_like(tokens))
        if held and len(tokens):
            self.held_out[side].append(tokens.int())

    def auroc(self) -> float | None:
        """How well the bias of the other texts tells held-out texts apart; None if a side has none."""
        if not all(self.held_out) or not z_scores(self._counts[0]).any():
            return None
        bias = token_bias(self._counts[0]).dense(self.d_vocab)
        positive, negative = (torch.stack([bias[ids].mean() for ids in side]) for side in self.held_out)
        return auroc(positive, negative)
