"""How much more one side uses a token than the other, and what that adds to its logit.

Knows counts of tokens; knows nothing of models or texts. Source: Monroe, Colaresi & Quinn 2008, "Fightin'
Words", equations 15 to 22: log-odds ratios with an informative Dirichlet prior, z-scored.
"""

import torch
from torch import Tensor

from ...errors import NeurosteerError
from ..kinds import TokenBias

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


def counted(tokens: Tensor, d_vocab: int) -> Tensor:
    """How often each token stands in token ids [n], [d_vocab] int64."""
    return torch.bincount(tokens, minlength=d_vocab)
