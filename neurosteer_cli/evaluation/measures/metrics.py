"""Numbers from words, scores and log-probabilities, and how sure they are.

Knows arithmetic; knows nothing of models, judges or files.
"""

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import chain

import torch
from torch import Tensor


def auroc_interval(auroc: float, n_positive: int, n_negative: int) -> tuple[float, float]:
    """95 % interval of an AUROC. Source: the standard error of Hanley & McNeil 1982."""
    q1, q2 = auroc / (2 - auroc), 2 * auroc**2 / (1 + auroc)
    variance = auroc * (1 - auroc) + (n_positive - 1) * (q1 - auroc**2) + (n_negative - 1) * (q2 - auroc**2)
    reach = 1.96 * math.sqrt(variance / (n_positive * n_negative))
    return max(0.0, auroc - reach), min(1.0, auroc + reach)


def mean_log_prob(log_probs: Tensor) -> float | None:
    """A text's mean log-probability a token, in nats; None for a text without tokens."""
    return float(log_probs.double().mean()) if len(log_probs) else None


def distinct(texts: Sequence[Sequence[str]], n: int) -> float | None:
    """Share of different n-grams in texts of words (Li et al. 2016, arXiv 1510.03055); None without any."""
    grams = [gram for words in texts for gram in n_grams(words, n)]
    return len(set(grams)) / len(grams) if grams else None


def rarefied_distinct(texts: Sequence[Sequence[str]], n: int, size: int) -> float:
    """Share of different n-grams expected among `size` of them, drawn at random from texts of words.

    So texts of which there are more, or which are longer, do not seem to repeat one another more.
    Source: rarefaction, Hurlbert 1971, "The Nonconcept of Species Diversity".

    size: at least 1, and no more than there are n-grams.
    """
    times = Counter(chain.from_iterable(n_grams(words, n) for words in texts))
    found = torch.tensor([*times.values()], dtype=torch.float64)
    total = found.sum()

    def ways(left: Tensor) -> Tensor:  # to draw `size` of so many, as a logarithm less that of `size`!
        some = (left + 1).lgamma() - (left - size + 1).clamp_min(1).lgamma()
        return some.where(left >= size, -math.inf)

    never_drawn = (ways(total - found) - ways(total)).exp()
    return float((1 - never_drawn).sum()) / size


def n_grams(words: Sequence[str], n: int) -> list[tuple[str, ...]]:
    return [*zip(*(words[i:] for i in range(n)), strict=False)]


def repetition(words: Sequence[str], n: int = 4) -> float | None:
    """Share of n-grams that stood in the text before (seq-rep-n, Welleck et al. 2020, arXiv 1908.04319)."""
    once = distinct([words], n)
    return None if once is None else 1 - once


def kl_divergence(steered: Tensor, unsteered: Tensor) -> Tensor:
    """KL(steered || unsteered) of logits [..., d_vocab], nats (Stickland et al. 2024, arXiv 2406.15518)."""
    p, q = steered.log_softmax(-1), unsteered.log_softmax(-1)
    return (p.exp() * (p - q)).sum(-1)


@dataclass(frozen=True)
class Estimate:
    """A value and its 95 % interval; of an exact value, and where only one unit has one, no interval."""

    value: float
    low: float | None = None
    high: float | None = None

    @property
    def ends(self) -> tuple[float, float]:
        """(low, high); the value itself for a missing end."""
        low, high = (self.value if end is None else end for end in (self.low, self.high))
        return low, high

    def overlaps(self, other: "Estimate") -> bool:
        (low, high), (other_low, other_high) = self.ends, other.ends
        return low <= other_high and other_low <= high


def known(found: Estimate | float | None) -> Estimate | None:
    """An estimate, or an exact number as one; None for an absent one and for no number (NaN)."""
    if found is None:
        return None
    estimate = found if isinstance(found, Estimate) else Estimate(found)
    return None if any(map(math.isnan, (estimate.value, *estimate.ends))) else estimate


class Bootstrap:
    """Percentile intervals from resampling units (prompts, say) with replacement.

    A quantity is [2, n_units] float64: its sum in each unit, and over how many things. All are resampled
    with the same draws, so differences between conditions are paired.
    Source: Efron & Tibshirani 1993, "An Introduction to the Bootstrap", chapter 13.
    """

    def __init__(self, n_units: int, n_resamples: int = 2000, seed: int = 0) -> None:
        draws = torch.randint(n_units, (n_resamples, n_units), generator=torch.Generator().manual_seed(seed))
        none = torch.zeros(n_resamples, n_units, dtype=torch.float64)
        # how often each resample holds each unit, [n_resamples, n_units]
        self._times = none.scatter_add_(1, draws, torch.ones_like(none))

    def estimate(self, f: Callable[..., Tensor], *several: Tensor) -> Estimate | None:
        """A function of the means of several quantities, such as their difference; None if one has none."""
        if any(float(counts.sum()) == 0 for _, counts in several):
            return None
        value = float(f(*(totals.sum() / counts.sum() for totals, counts in several)))
        found = f(*(self._times @ totals / (self._times @ counts) for totals, counts in several))
        known = min(int((counts > 0).sum()) for _, counts in several)
        if known < 2 or not bool(found.isfinite().any()):
            return Estimate(value)
        low, high = found[found.isfinite()].quantile(torch.tensor([0.025, 0.975], dtype=torch.float64))
        return Estimate(value, float(low), float(high))
