"""The tensors of continuations that are read or written together, as they join and leave.

Knows tokens, pads and pushes; what the model remembers of them is the cache's.
"""

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from ...errors import InputError
from ...models.engine import padded
from ...models.hooks import change
from ..continuation import Continuation
from . import cache as caches
from .cache import Caching
from .steered import Pass, SteeredRows


@dataclass
class Rows:
    """A row a continuation. Rows of unequal length are padded on the left, and pads never steered."""

    caching: Caching
    continuations: list[Continuation]
    ids: Tensor  # [batch, pos] int64: the tokens that are not yet in the cache
    mask: Tensor  # [batch, all pos] int64
    steered: SteeredRows
    cache: Any = None  # until something is read
    _pass: Pass = field(init=False)  # the last one

    @classmethod
    def none(cls, caching: Caching) -> "Rows":
        empty = torch.empty(0, 0, dtype=torch.int64)
        return cls(caching, [], empty, empty, SteeredRows.of([], caching.engine.device))

    @classmethod
    def of(cls, caching: Caching, continuations: list[Continuation]) -> "Rows":
        """Before the prompts are read."""
        device = caching.engine.device
        ids = padded([each.ids for each in continuations], value=-1, side="left").to(device)
        steered = SteeredRows.of([each.steering for each in continuations], device)
        return cls(caching, continuations, ids.clamp_min(0), (ids >= 0).long(), steered)

    @property
    def n_unread(self) -> int:
        """Tokens of each row that are not in the cache."""
        return self.ids.shape[1]

    def forward(self, n: int | None = None, n_logits: int = 1) -> Tensor:
        """Read each row's next n tokens, or all; logits [batch, n_logits, d_vocab] of the last of these."""
        ids = self.ids[:, :n]
        n_read = self.mask.shape[1] - self.n_unread
        mask = self.mask[:, : n_read + ids.shape[1]]
        if not n_read:
            self.cache = self.caching.new()
        self._pass = Pass(self.steered, self._strengths(mask[:, n_read:], n_read))
        changes = self._pass.changes()
        with change(self.caching.engine.blocks, changes) as reached:
            logits, self.cache = self.caching.forward(ids, mask, self.cache, n_logits)
        if passed_over := sorted(changes.keys() - reached):
            raise InputError(
                f"{passed_over[0]}: the model does not run this block for text alone; name another"
            )
        if self.caching.argument:  # else nothing is remembered
            self.ids = self.ids[:, ids.shape[1] :]
        return logits

    def _strengths(self, mask: Tensor, n_read: int) -> Tensor | None:
        """Of each token of a pass, whether it is steered, [batch, n]; None if all are. `mask` is theirs."""
        if all(each.config.positions == "all" for each in self.continuations):
            return None if mask.all() else mask.bool()
        steered = torch.zeros(mask.shape, dtype=torch.bool)
        for row, each in enumerate(self.continuations):
            ids, n_tokens = each.ids + each.written, int(mask[row].sum())
            first = int(self.mask[row, :n_read].sum())
            covers = each.config.steered.covers
            steered[row, mask.shape[1] - n_tokens :] = torch.tensor(
                [covers(place, ids, len(each.ids), each.marks) for place in range(first, first + n_tokens)]
            )
        return None if steered.all() else steered.to(mask.device)

    def urged(self, logits: Tensor) -> Tensor:
        """The logits [batch, d_vocab] that a pass gave last, with what the rows add to them."""
        return self._pass.urged(logits, [each.written for each in self.continuations])

    def append(self, chosen: Tensor) -> None:
        """Go on with each row's chosen token, [batch]."""
        self.ids = torch.cat([self.ids, chosen[:, None]], dim=1)
        self.mask = torch.cat([self.mask, torch.ones_like(chosen)[:, None]], dim=1)

    def kept(self, rows: list[int]) -> "Rows":
        """Some of the rows, without the columns where all of these have pads."""
        if not rows:
            return Rows.none(self.caching)
        index = torch.tensor(rows, dtype=torch.int64, device=self.ids.device)
        ids, mask = self.ids[index], self.mask[index]
        n_pads, n_read = int(mask.any(0).int().argmax()), self.mask.shape[1] - self.n_unread
        if n_read:
            caches.select(self.cache, index)
        if n_pads:
            caches.cut(self.cache, min(n_pads, n_read))
        continuations = [self.continuations[row] for row in rows]
        steered = SteeredRows.of([each.steering for each in continuations], ids.device)
        ids = ids[:, max(0, n_pads - n_read) :]
        return Rows(self.caching, continuations, ids, mask[:, n_pads:], steered, self.cache)

    def joined(self, other: "Rows") -> "Rows":
        """These rows, then others whose prompts have been read."""
        if not self.continuations:
            return other
        continuations = self.continuations + other.continuations
        steered = SteeredRows.of([each.steering for each in continuations], self.caching.engine.device)
        caches.join(self.cache, other.cache)
        ids, mask = torch.cat([self.ids, other.ids]), caches.below(self.mask, other.mask, dim=-1)
        return Rows(self.caching, continuations, ids, mask, steered, self.cache)
