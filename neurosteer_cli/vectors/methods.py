"""The methods: from the statistics of two sides to one direction in the residual stream.

Knows what each method looks at; knows nothing of how statistics are collected, nor of files. A new
method is a function and a line in METHODS.
"""

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from ..saes.sae import SparseAutoencoder
from .statistics import LatentStats, MeanStats, PairStats, select_by_frequency, select_by_t


@dataclass(frozen=True)
class Direction:
    """What a method finds at a hook point."""

    vector: Tensor  # [d_model] float64, raw residual units
    latent_ids: Tensor | None = None  # [k]
    latent_weights: Tensor | None = None  # [k]


@dataclass
class SideStats:
    """One side's running statistics at a hook point."""

    means: MeanStats
    latents: LatentStats | None

    def __add__(self, other: "SideStats") -> "SideStats":
        latents = self.latents + other.latents if self.latents and other.latents else None
        return SideStats(self.means + other.means, latents)


@dataclass
class Evidence:
    """All that a method may look at: both sides and their pairs at one hook point."""

    positive: SideStats
    negative: SideStats
    pairs: PairStats | None
    sae: SparseAutoencoder | None

    def __add__(self, other: "Evidence") -> "Evidence":
        pairs = self.pairs + other.pairs if self.pairs and other.pairs else None
        return Evidence(self.positive + other.positive, self.negative + other.negative, pairs, self.sae)

    @property
    def shift(self) -> Tensor:
        """Difference of the class means of per-text mean residuals, [d_model]."""
        return self.positive.means.mean - self.negative.means.mean

    def both_latents(self) -> tuple[LatentStats, LatentStats]:
        assert self.positive.latents is not None and self.negative.latents is not None
        return self.positive.latents, self.negative.latents


def neurosteer(evidence: Evidence, k: int) -> Direction:
    """The k latents of largest |Welch's t| over texts, weighted by the difference of class means.

    Each text counts once: its mean activation over kept tokens. push = weights @ W_dec.
    """
    return _decoded(evidence, *select_by_t(*evidence.both_latents(), k))


def paper(evidence: Evidence, k: int) -> Direction:
    """The published NeuroSteer procedure, with rates for counts and without pads and BOS.

    The k latents of largest relu(difference of firing frequencies), weighted by relu(difference of
    mean activations), both over tokens.
    """
    return _decoded(evidence, *select_by_frequency(*evidence.both_latents(), k))


def diffmean(evidence: Evidence, _k: int) -> Direction:
    """Difference of the class means of per-text mean residuals (Marks & Tegmark 2023, arXiv 2310.06824)."""
    return Direction(evidence.shift)


def pca(evidence: Evidence, _k: int) -> Direction:
    """First principal component of paired differences, sign towards the positive side.

    Pairs are the i-th records of both sides (Zou et al. 2023, arXiv 2310.01405).
    """
    assert evidence.pairs is not None
    return Direction(evidence.pairs.first_component(evidence.shift))


def _decoded(evidence: Evidence, latent_ids: Tensor, weights: Tensor) -> Direction:
    assert evidence.sae is not None
    rows = evidence.sae.decoder_rows(latent_ids).double().cpu()  # [k, d_model]
    return Direction(weights.double() @ rows, latent_ids, weights)


Method = Callable[[Evidence, int], Direction]
METHODS: dict[str, Method] = {
    "neurosteer": neurosteer,
    "paper": paper,
    "diffmean": diffmean,
    "pca": pca,
}
NEEDS_SAE = {"neurosteer", "paper"}
SPREAD = {"neurosteer"}  # at several blocks where there are SAEs for several
