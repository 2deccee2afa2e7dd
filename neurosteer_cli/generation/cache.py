"""The tensors behind rows that are written together, as rows join and leave.

Knows tokens, pushes, and transformers' keys and values; knows nothing of sampling or text.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

from ..models.engine import Engine
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

    def __post_init__(self) -> None:
        self.is_padded = not bool(self.mask.all())

    @classmethod
    def none(cls, engine: Engine) -> "Rows":
        empty = torch.empty(0, 0, dtype=torch.int64)
        return cls(engine, [], empty, empty, {}, DynamicCache(config=engine.model.config))

    @classmethod
    def of(cls, engine: Engine, continuations: list[Continuation]) -> "Rows":
        """Before the prompts' pass."""
        ids, mask = _left_padded([continuation.ids for continuation in continuations], engine.device)
        pushes = _stacked(continuations, "generated", engine.device)
        rows = cls(engine, continuations, ids, mask, pushes, DynamicCache(config=engine.model.config))
        if rows.is_padded:
            rows.pushes = {point: push * mask[..., None] for point, push in pushes.items()}
        return rows

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
                attention_mask=self.mask if self.is_padded else None,
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

    def pass_prompts(self) -> None:
        """From here on steer what is generated."""
        self.pushes = _stacked(self.continuations, "prompt", self.engine.device)

    def kept(self, rows: list[int]) -> "Rows":
        """Some of the rows, without the columns where all of these have pads."""
        if not rows:
            return Rows.none(self.engine)
        index = torch.tensor(rows, dtype=torch.int64, device=self.engine.device)
        self.cache.batch_select_indices(index)
        mask = self.mask[index]
        n_pads = int(mask.any(0).int().argmax())
        if n_pads and self.can_be_joined:
            for layer in self.cache.layers:
                _cut(layer, n_pads)
            mask = mask[:, n_pads:]
        return Rows(
            self.engine,
            [self.continuations[row] for row in rows],
            self.ids[index],
            mask,
            {point: push[index] for point, push in self.pushes.items()},
            self.cache,
        )

    def joined(self, other: "Rows") -> "Rows":
        """These rows and then the other's, each with one token that is not yet in the cache."""
        if not self.continuations:
            return other
        for layer, others in zip(self.cache.layers, other.cache.layers, strict=True):
            _merge(layer, others)
        length = max(self.mask.shape[1], other.mask.shape[1])
        points = dict.fromkeys([*self.pushes, *other.pushes])
        return Rows(
            self.engine,
            self.continuations + other.continuations,
            torch.cat([self.ids, other.ids]),
            torch.cat([_widened(part.mask, length, dim=1) for part in (self, other)]),
            {point: torch.cat([part._push_at(point) for part in (self, other)]) for point in points},
            self.cache,
        )

    def _push_at(self, point: HookPoint) -> Tensor:
        """[batch, 1, d_model], zeros where nothing is added."""
        zeros = torch.zeros(len(self.continuations), 1, self.engine.d_model, device=self.engine.device)
        return self.pushes.get(point, zeros)


def _merge(layer: Any, other: Any) -> None:
    """Put another batch's keys and values below a layer's; the last tokens of all stand side by side."""
    if not layer.is_initialized:  # it uses another block's
        return
    length = max(layer.keys.shape[-2], other.keys.shape[-2])
    layer.keys, layer.values = (
        torch.cat([_widened(part, length, dim=-2) for part in parts])
        for parts in ((layer.keys, other.keys), (layer.values, other.values))
    )
    if layer.is_sliding:
        layer.cumulative_length = max(layer.cumulative_length, other.cumulative_length)


def _cut(layer: Any, n: int) -> None:
    """Take the first n columns from a layer; a sliding window may hold none of them any more."""
    if not layer.is_initialized:
        return
    length = layer.get_seq_length() - n
    if layer.is_sliding:
        layer.cumulative_length = length
    length = min(length, layer.keys.shape[-2])
    layer.keys, layer.values = layer.keys[:, :, -length:], layer.values[:, :, -length:]


def _widened(tensor: Tensor, length: int, dim: int) -> Tensor:
    """A tensor with zeros before it, so that it is `length` long."""
    shape = list(tensor.shape)
    shape[dim] = length - shape[dim]
    return torch.cat([tensor.new_zeros(shape), tensor], dim=dim) if shape[dim] else tensor


def _stacked(
    continuations: Sequence[Continuation], but: Positions, device: torch.device
) -> dict[HookPoint, Tensor]:
    """Each row's push at each hook point, [batch, 1, d_model], for all whose positions are not `but`.

    Hook points at which nothing is added are left out.
    """
    steered = [continuation.pushes if continuation.positions != but else {} for continuation in continuations]
    zeros = {point: torch.zeros_like(push) for pushes in steered for point, push in pushes.items()}
    return {
        point: torch.stack([pushes.get(point, zero) for pushes in steered])[:, None].to(device)
        for point, zero in zeros.items()
    }


def _left_padded(rows: Sequence[list[int]], device: torch.device) -> tuple[Tensor, Tensor]:
    """Token ids and attention mask, both [batch, pos] int64, padded on the left."""
    tensors = [torch.tensor(row) for row in rows]
    masks = [torch.ones_like(row) for row in tensors]
    ids, mask = (
        torch.nn.utils.rnn.pad_sequence(part, batch_first=True, padding_side="left").to(device)
        for part in (tensors, masks)
    )
    return ids, mask
