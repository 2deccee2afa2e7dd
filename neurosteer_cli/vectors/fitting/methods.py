"""The methods: from the statistics of two sides to one direction in the residual stream.

Knows what each method looks at; knows nothing of files. A new method is a function and a line in METHODS.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from ...errors import InputError, SAEError
from ...saes.sae import SparseAutoencoder
from ..vector import Latents
from .statistics import LatentStats, MeanStats, PairStats, Selection, select_by_frequency, select_by_t

Select = Callable[[LatentStats, LatentStats, int], Selection]


@dataclass(frozen=True)
class Direction:
    """What a method finds at a hook point."""

    vector: Tensor  # [d_model] float64, raw residual units
    latents: Latents | None = None  # it is made of


@dataclass
class Evidence:
    """All that a method may look at, at one hook point: positive and negative side, and their pairs."""

    sae: SparseAutoencoder | None
    means: list[MeanStats]  # of either side
    latents: list[LatentStats]  # of no latent without an SAE
    pairs: PairStats  # empty unless asked for

    @classmethod
    def empty(cls, d_model: int, sae: SparseAutoencoder | None, *, pairs: bool) -> "Evidence":
        means = [MeanStats.empty(d_model) for _ in range(2)]
        latents = [LatentStats.empty(sae.d_sae if sae else 0) for _ in range(2)]
        return cls(sae, means, latents, PairStats.empty(d_model if pairs else 0))

    def __add__(self, other: "Evidence") -> "Evidence":
        means = [mine + theirs for mine, theirs in zip(self.means, other.means, strict=True)]
        latents = [mine + theirs for mine, theirs in zip(self.latents, other.latents, strict=True)]
        return Evidence(self.sae, means, latents, self.pairs + other.pairs)

    @property
    def shift(self) -> Tensor:
        """Difference of the class means of per-text mean residuals, [d_model]."""
        positive, negative = self.means
        return positive.mean - negative.mean

    @property
    def middle(self) -> Tensor:
        """What is halfway between the class means, [d_model]."""
        positive, negative = self.means
        return (positive.mean + negative.mean) / 2

    def decoded(self, select: Select, k: int) -> Direction:
        """The direction of the k latents that are selected: weights @ W_dec[latent_ids]."""
        if self.sae is None:
            raise SAEError("the method needs an SAE at every hook point: give one, or choose diffmean or pca")
        positive, negative = self.latents
        ids, weights = select(positive, negative, k)
        rates = torch.stack([positive.firing_rate[ids], negative.firing_rate[ids]]).float()  # [2, k]
        latents = Latents(ids, weights, rates)
        return Direction(latents.decoded(self.sae), latents)


def neurosteer(evidence: Evidence, k: int) -> Direction:
    """The k latents of largest |Welch's t| between mean activations of texts: each text counts once."""
    return evidence.decoded(select_by_t, k)


def paper(evidence: Evidence, k: int) -> Direction:
    """The published NeuroSteer procedure over tokens, with rates for counts and without pads and BOS."""
    return evidence.decoded(select_by_frequency, k)


def diffmean(evidence: Evidence, _k: int) -> Direction:
    """Difference of the class means of per-text mean residuals (Marks & Tegmark 2023, arXiv 2310.06824)."""
    return Direction(evidence.shift)


def pca(evidence: Evidence, _k: int) -> Direction:
    """First principal component of paired differences (Zou et al. 2023, arXiv 2310.01405).

    Pairs are the i-th records of both sides; the sign is towards the positive side.
    """
    return Direction(evidence.pairs.first_component(evidence.shift))


Method = Callable[[Evidence, int], Direction]
METHODS: dict[str, Method] = {"neurosteer": neurosteer, "paper": paper, "diffmean": diffmean, "pca": pca}
NEEDS_SAE = {"neurosteer", "paper"}
NEEDS_PAIRS = {"pca"}
SPREAD = {"neurosteer": 3}  # blocks to share a push, where there are SAEs for as many


LOGODDS = "logodds"  # urges tokens, and pushes nothing; see `log_odds.py`
NAMES = (*METHODS, LOGODDS)


def check_method(name: str) -> None:
    """Raises InputError where there is no method of that name."""
    if name not in NAMES:
        raise InputError(f"--method {name}: one of {', '.join(NAMES)}")
