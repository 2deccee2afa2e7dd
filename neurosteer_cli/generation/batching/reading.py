"""Prompts that are read together, each once, however many continuations go on from it.

Knows rows and who shares one; knows nothing of when prompts are read, or of sampling.
"""

from collections.abc import Hashable, Iterable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ..continuation import Continuation
from .cache import Caching
from .pace import FIRST_SLICE
from .rows import Rows


@dataclass
class Reading:
    """Prompts that are read together, and how many of their tokens come next."""

    rows: Rows  # one a prompt; its continuation is one of those that share it
    sharing: list[list[Continuation]]  # of each row
    n_tokens: int = FIRST_SLICE  # pads counted

    @classmethod
    def of(cls, caching: Caching, continuations: Iterable[Continuation]) -> "Reading":
        sharing = shared(caching, continuations)
        return cls(Rows.of(caching, [each[0] for each in sharing]), sharing)

    @property
    def continuations(self) -> list[Continuation]:
        return [one for each in self.sharing for one in each]

    def drop_finished(self) -> None:
        """Go on reading only what someone waits for."""
        left = [[one for one in each if not one.finish_reason] for each in self.sharing]
        kept = [row for row, each in enumerate(left) if each]
        self.sharing = [left[row] for row in kept]
        if len(kept) < len(left):
            self.rows = self.rows.kept(kept)

    def shared_out(self, logits: Tensor, is_finite: Tensor) -> tuple[Rows, Tensor, Tensor]:
        """A row a continuation, once all is read, and of what came of the rows, [rows, ...], likewise."""
        places = [row for row, each in enumerate(self.sharing) for _ in each]
        if len(places) == len(self.sharing):
            return self.rows, logits, is_finite
        rows = replace(self.rows.kept(places), continuations=self.continuations)
        index = torch.tensor(places, device=logits.device)
        return rows, logits[index], is_finite[index]


def shared(caching: Caching, continuations: Iterable[Continuation]) -> list[list[Continuation]]:
    """Continuations in groups whose prompts are read to one and the same end."""
    groups: dict[Hashable, list[Continuation]] = {}
    for each in continuations:
        groups.setdefault(_what_is_read(caching, each), []).append(each)
    return [*groups.values()]


def _what_is_read(caching: Caching, each: Continuation) -> Hashable:
    """Equal where a prompt need not be read again; steerings are the same only if they are one object."""
    if caching.one_by_one or each.scores_prompt:
        return id(each)
    return tuple(each.ids), id(each.steering), each.config.positions, each.marks
