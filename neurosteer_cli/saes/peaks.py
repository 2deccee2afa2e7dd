"""Where each latent fires most, with the tokens around, and how strong it is where it fires.

Knows nothing of models or files.
"""

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor


class Peak(NamedTuple):
    """A place where a latent fired, as token ids."""

    activation: float
    before: list[int]
    token: int  # at which it fired
    after: list[int]


class Peaks:
    """A table of the n strongest places of each latent; of those taken in together it keeps the strongest."""

    def __init__(self, d_sae: int, n: int = 1, *, before: int, after: int) -> None:
        """Make an empty table: n places a latent, with so many tokens before and after each."""
        self.before, self.after = before, after
        self.heights = torch.zeros(d_sae, n)
        self.windows = torch.full((d_sae, n, before + 1 + after), -1, dtype=torch.int64)  # -1: no token

    def add(self, activations: Tensor, places: Tensor, ids: Tensor) -> None:
        """Take in activations [n, d_sae] at places [n, 2] (row, position) of ids [batch, pos] (-1: a pad)."""
        heights, tokens = (part.cpu() for part in activations.max(dim=0))  # [d_sae]
        lowest, slots = self.heights.min(dim=1)
        higher = (heights > lowest).nonzero()[:, 0]
        self.heights[higher, slots[higher]] = heights[higher]
        self.windows[higher, slots[higher]] = self._around(places[tokens[higher]], ids)

    def _around(self, places: Tensor, ids: Tensor) -> Tensor:
        """The token ids around places [k, 2], [k, before + 1 + after]."""
        positions = places[:, 1:] + torch.arange(-self.before, self.after + 1)
        inside = (positions >= 0) & (positions < ids.shape[1])
        windows = ids[places[:, :1], positions.clamp(0, ids.shape[1] - 1)]
        return windows.where(inside, -1)

    def of(self, latent: int) -> Iterator[Peak]:
        """The places of one latent, the strongest first; none if it never fired."""
        heights, slots = self.heights[latent].sort(descending=True, stable=True)
        for height, window in zip(heights.tolist(), self.windows[latent, slots].tolist(), strict=True):
            if height == 0:
                return
            before, token, after = window[: self.before], window[self.before], window[self.before + 1 :]
            yield Peak(height, [i for i in before if i >= 0], token, [i for i in after if i >= 0])


class Strengths:
    """How often each latent fires how strongly, in steps of half an octave of its activation."""

    LOWEST, N_STEPS = -32, 80  # the first step begins at 2 ** (LOWEST / 2)

    def __init__(self, d_sae: int) -> None:
        self.counts = torch.zeros(d_sae, self.N_STEPS, dtype=torch.int32)

    def add(self, activations: Tensor) -> None:
        """Take in activations [n, d_sae]."""
        fires = activations > 0
        steps = (2 * activations[fires].float().log2()).floor().long() - self.LOWEST
        places = fires.nonzero()[:, 1] * self.N_STEPS + steps.clamp(0, self.N_STEPS - 1)
        self.counts.view(-1).index_add_(0, places, torch.ones_like(places, dtype=torch.int32))

    def of(self, latent: int, n: int) -> list[int]:
        """The counts of a latent's n uppermost steps, the strongest last; what is weaker is in the first."""
        counts = self.counts[latent]
        top = int(counts.nonzero().max()) + 1 if counts.any() else n
        shown = counts[max(0, top - n) : top].tolist()
        weaker = int(counts[: max(0, top - n)].sum())
        return [shown[0] + weaker, *shown[1:]]
