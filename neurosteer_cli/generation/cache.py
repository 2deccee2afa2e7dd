"""The tensors behind rows that are written together, as rows join and leave.

Knows tokens, pushes, and transformers' keys and values; knows nothing of sampling or text.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

from ..models.engine import Engine, padded
from ..models.hooks import HookPoint, add
from .continuation import Continuation, Positions

MERGED = (DynamicLayer, DynamicSlidingWindowLayer)  # keys and values [batch, n_heads, pos, d_head], no more


@dataclass
class Rows:
    """A row a continuation. Rows of unequal length are padded on the left, and pads never steered."""

    engine: Engine
    continuations: list[Continuation]
    ids: Tensor  # [batch, pos] int64: the tokens that are not yet in the cache
    mask: Tensor  # [batch, all pos] int64
    pushes: dict[HookPoint, Tensor]  # [batch, 1 or pos, d_model]: of the next pass
    cache: DynamicCache

    @classmethod
    def none(cls, engine: Engine) -> "Rows":
        empty = torch.empty(0, 0, dtype=torch.int64)
        return cls(engine, [], empty, empty, {}, DynamicCache(config=engine.model.config))

    @classmethod
    def of(cls, engine: Engine, continuations: list[Continuation]) -> "Rows":
        """Before the prompts' pass."""
        ids = padded([each.ids for each in continuations], value=-1, side="left").to(engine.device)
        mask = (ids >= 0).long()
        pushes = _stacked(continuations, "generated", engine.device)
        if not mask.all():
            pushes = {point: push * mask[..., None] for point, push in pushes.items()}
        cache = DynamicCache(config=engine.model.config)
        return cls(engine, continuations, ids.clamp_min(0), mask, pushes, cache)

    @property
    def can_be_joined(self) -> bool:
        """Whether the cache is one of keys and values alone."""
        return all(type(layer) in MERGED for layer in self.cache.layers)

    def forward(self) -> Tensor:
        """Logits [batch, d_vocab] after the tokens not yet in the cache."""
        positions = (self.mask.cumsum(-1) - 1).clamp_min(0)  # [batch, all pos]
        with add(self.engine.blocks, self.pushes):
            output = self.engine.model(
                input_ids=self.ids,
                attention_mask=None if self.mask.all() else self.mask,
                position_ids=positions[:, -self.ids.shape[1] :],
                use_cache=True,
                logits_to_keep=1,
                **{self.engine.cache_argument: self.cache},
            )
        logits: Tensor = output.logits[:, -1]
        return logits

    def append(self, chosen: Tensor) -> None:
        """Go on with each row's chosen token, [batch]."""
        self.ids = chosen[:, None]
        self.mask = torch.cat([self.mask, torch.ones_like(self.ids)], dim=1)

    def kept(self, rows: list[int]) -> "Rows":
        """Some of the rows, without the columns where all of these have pads."""
        if not rows:  # not every cache can leave out rows
            return Rows.none(self.engine)
        index = torch.tensor(rows, dtype=torch.int64, device=self.engine.device)
        self.cache.batch_select_indices(index)
        mask = self.mask[index]
        n_pads = int(mask.any(0).int().argmax())
        if n_pads and self.can_be_joined:
            for layer in self.cache.layers:
                _cut(layer, n_pads)
            mask = mask[:, n_pads:]
        continuations = [self.continuations[row] for row in rows]
        pushes = {point: push[index] for point, push in self.pushes.items()}
        return Rows(self.engine, continuations, self.ids[index], mask, pushes, self.cache)

    def joined(self, other: "Rows") -> "Rows":
        """These rows, then others whose prompts have been read; from here on what is generated is steered."""
        continuations = self.continuations + other.continuations
        pushes = _stacked(continuations, "prompt", self.engine.device)
        if not self.continuations:
            return replace(other, pushes=pushes)
        for layer, others in zip(self.cache.layers, other.cache.layers, strict=True):
            _merge(layer, others)
        ids, mask = torch.cat([self.ids, other.ids]), _below(self.mask, other.mask, dim=-1)
        return Rows(self.engine, continuations, ids, mask, pushes, self.cache)


def _merge(layer: Any, other: Any) -> None:
    """Put another batch's keys and values below a layer's."""
    if not layer.is_initialized:  # it uses another block's
        return
    layer.keys = _below(layer.keys, other.keys, dim=-2)
    layer.values = _below(layer.values, other.values, dim=-2)
    if layer.is_sliding:
        layer.cumulative_length = max(layer.cumulative_length, other.cumulative_length)


def _below(upper: Tensor, lower: Tensor, dim: int) -> Tensor:
    """Two batches as one, what is last along `dim` side by side: zeros go before the shorter."""
    gap = upper.shape[dim] - lower.shape[dim]
    before = (*(0, 0) * (-1 - dim), abs(gap), 0)  # sizes from the last dimension on
    return torch.cat([pad(upper, before) if gap < 0 else upper, pad(lower, before) if gap > 0 else lower])


def _cut(layer: Any, n: int) -> None:
    """Take the first n columns from a layer; a sliding window may hold none of them any more."""
    if not layer.is_initialized:
        return
    length = layer.get_seq_length() - n
    layer.keys, layer.values = layer.keys[:, :, -length:], layer.values[:, :, -length:]
    if layer.is_sliding:
        layer.cumulative_length = length


def _stacked(
    continuations: Sequence[Continuation], but: Positions, device: torch.device
) -> dict[HookPoint, Tensor]:
    """Each row's push at each hook point, [batch, 1, d_model], of all whose positions are not `but`.

    Hook points at which nothing is added are left out.
    """
    steered = [each.pushes if each.config.positions != but else {} for each in continuations]
    zeros = {point: torch.zeros_like(push) for pushes in steered for point, push in pushes.items()}
    return {
        point: torch.stack([pushes.get(point, zero) for pushes in steered])[:, None].to(device)
        for point, zero in zeros.items()
    }
