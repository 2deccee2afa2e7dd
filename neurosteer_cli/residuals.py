"""Running statistics over residuals: class means, the median norm, paired differences.

Knows tensors; knows nothing of models, texts or SAEs. Nothing here grows with the number of texts.
"""

from dataclasses import dataclass

import torch
from torch import Tensor


def text_means(resid: Tensor, text_index: Tensor, n_texts: int) -> Tensor:
    """Mean residual of each text, [n_texts, d_model] float32, from tokens [n, d_model]."""
    sums = resid.new_zeros(n_texts, resid.shape[-1]).index_add(0, text_index, resid)
    return sums / torch.bincount(text_index, minlength=n_texts)[:, None]


@dataclass
class MeanStats:
    """Running sum of vectors [d_model]; float64, so that order does not matter."""

    n: int
    total: Tensor  # [d_model]

    @classmethod
    def empty(cls, d_model: int) -> "MeanStats":
        return cls(0, torch.zeros(d_model, dtype=torch.float64))

    def add(self, vectors: Tensor) -> None:
        """Take in vectors [n, d_model]."""
        self.n += len(vectors)
        self.total += vectors.double().cpu().sum(0)

    def __add__(self, other: "MeanStats") -> "MeanStats":
        return MeanStats(self.n + other.n, self.total + other.total)

    @property
    def mean(self) -> Tensor:
        """[d_model]"""
        return self.total / self.n


class MedianNorm:
    """The median of many norms, to 0.1 %, from a histogram of their logarithms."""

    LOW, STEP, BINS = -12.0, 0.001, 36_000  # exp(-12) to exp(24)

    def __init__(self) -> None:
        self._counts = torch.zeros(self.BINS, dtype=torch.int64)

    def add(self, resid: Tensor) -> None:
        """Take in residuals [n, d_model]."""
        logs = resid.norm(dim=-1).log().cpu()
        bins = ((logs - self.LOW) / self.STEP).long().clamp(0, self.BINS - 1)
        self._counts += torch.bincount(bins, minlength=self.BINS)

    @property
    def median(self) -> float:
        cumulated = self._counts.cumsum(0)
        middle = int(torch.searchsorted(cumulated, (cumulated[-1] + 1) // 2))
        return float(torch.tensor(self.LOW + (middle + 0.5) * self.STEP, dtype=torch.float64).exp())


@dataclass
class PairStats:
    """Running second moment of paired differences, for their first principal component."""

    moment: Tensor  # [d_model, d_model] float64

    @classmethod
    def empty(cls, d_model: int) -> "PairStats":
        return cls(torch.zeros(d_model, d_model, dtype=torch.float64))

    def add(self, differences: Tensor) -> None:
        """Take in differences positive - negative, [n_pairs, d_model]."""
        differences = differences.double().cpu()
        self.moment += differences.T @ differences

    def __add__(self, other: "PairStats") -> "PairStats":
        return PairStats(self.moment + other.moment)

    def first_component(self, towards: Tensor) -> Tensor:
        """The unit vector [d_model] along which differences are longest, its sign that of `towards`.

        The moment is not centred: with the order inside a pair drawn at random, as published
        (Zou et al. 2023, arXiv 2310.01405), the mean of the differences is zero anyway.
        """
        direction: Tensor = torch.linalg.eigh(self.moment).eigenvectors[:, -1]
        return direction if float(direction @ towards) >= 0 else -direction
