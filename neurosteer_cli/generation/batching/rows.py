"""The tensors of continuations that are read or written together, as they join and leave.

Knows tokens, pads and pushes; what the model remembers of them is the cache's.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from ...errors import InputError
from ...models.engine import padded
from ...models.hooks import HookPoint, add
from ..continuation import Continuation, Positions
from . import cache as caches
from .cache import Caching

Pushes = dict[HookPoint, Tensor]


@dataclass
class Rows:
    """A row a continuation. Rows of unequal length are padded on the left, and pads never steered."""

    caching: Caching
    continuations: list[Continuation]
    ids: Tensor  # [batch, pos] int64: the tokens that are not yet in the cache
    mask: Tensor  # [batch, all pos] int64
    pushes: Pushes  # [batch, 1, d_model]: of the tokens that come next
    cache: Any = None  # until something is read

    @classmethod
    def none(cls, caching: Caching) -> "Rows":
        empty = torch.empty(0, 0, dtype=torch.int64)
        return cls(caching, [], empty, empty, {})

    @classmethod
    def of(cls, caching: Caching, continuations: list[Continuation]) -> "Rows":
        """Before the prompts are read."""
        device = caching.engine.device
        ids = padded([each.ids for each in continuations], value=-1, side="left").to(device)
        pushes = _stacked(continuations, "generated", device)
        return cls(caching, continuations, ids.clamp_min(0), (ids >= 0).long(), pushes)

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
        pushes = self._pushes(mask[:, n_read:])
        with add(self.caching.engine.blocks, pushes) as reached:
            logits, self.cache = self.caching.forward(ids, mask, self.cache, n_logits)
        if passed_over := sorted(pushes.keys() - reached):
            raise InputError(
                f"{passed_over[0]}: the model does not run this block for text alone; name another"
            )
        if self.caching.argument:  # else nothing is remembered
            self.ids = self.ids[:, ids.shape[1] :]
        return logits

    def _pushes(self, mask: Tensor) -> Pushes:
        """Of a pass, [batch, 1 or n, d_model]; mask: of its tokens [batch, n]."""
        if not self.caching.argument:
            return self._pushes_of_all()
        if mask.all():
            return self.pushes
        return {point: push * mask[..., None] for point, push in self.pushes.items()}

    def _pushes_of_all(self) -> Pushes:
        """Of the prompt and of what has been generated, for a model that reads both anew; of one row."""
        n_prompt = len(self.continuations[0].ids)
        is_prompt = (torch.arange(self.n_unread, device=self.ids.device) < n_prompt)[:, None].float()
        device = self.caching.engine.device
        prompt, generated = (_stacked(self.continuations, but, device) for but in ("generated", "prompt"))
        return {
            point: prompt.get(point, 0) * is_prompt + generated.get(point, 0) * (1 - is_prompt)
            for point in prompt | generated
        }

    def append(self, chosen: Tensor) -> None:
        """Go on with each row's chosen token, [batch]; from here on what is generated is steered."""
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
        pushes = {point: push[index] for point, push in self.pushes.items()}
        ids = ids[:, max(0, n_pads - n_read) :]
        return Rows(self.caching, continuations, ids, mask[:, n_pads:], pushes, self.cache)

    def joined(self, other: "Rows") -> "Rows":
        """These rows, then others whose prompts have been read; of all, what is generated comes next."""
        continuations = self.continuations + other.continuations
        pushes = _stacked(continuations, "prompt", self.caching.engine.device)
        if not self.continuations:
            return replace(other, pushes=pushes)
        caches.join(self.cache, other.cache)
        ids, mask = torch.cat([self.ids, other.ids]), caches.below(self.mask, other.mask, dim=-1)
        return Rows(self.caching, continuations, ids, mask, pushes, self.cache)


def _stacked(continuations: Sequence[Continuation], but: Positions, device: torch.device) -> Pushes:
    """Each row's push at each hook point, [batch, 1, d_model], of all whose positions are not `but`.

    Hook points at which nothing is added are left out.
    """
    steered = [each.pushes if each.config.positions != but else {} for each in continuations]
    zeros = {point: torch.zeros_like(push) for pushes in steered for point, push in pushes.items()}
    return {
        point: torch.stack([pushes.get(point, zero) for pushes in steered])[:, None].to(device)
        for point, zero in zeros.items()
    }
