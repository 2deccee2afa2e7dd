"""What is done to residuals and logits of texts that are written together, each steered in its own way.

Knows steerings and tensors' layout; knows nothing of positions, caches or how texts are read.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from ...models.hooks import Change, HookPoint
from ...vectors.kinds import Edit, TokenBias
from ...vectors.steering import Steering
from ..sampling import urged

Edits = Sequence[tuple[Edit, Tensor]]  # each with the rows it is made on


@dataclass(frozen=True)
class SteeredRows:
    """The pushes of rows, one a row, and what else is done to some of them."""

    pushes: Mapping[HookPoint, Tensor]  # [batch, 1, d_model]
    edits: Mapping[HookPoint, Edits]
    biases: Mapping[int, TokenBias]  # by row

    @classmethod
    def of(cls, steerings: Sequence[Steering], device: torch.device) -> "SteeredRows":
        zeros = {point: torch.zeros_like(push) for each in steerings for point, push in each.pushes.items()}
        pushes = {
            point: torch.stack([each.pushes.get(point, zero) for each in steerings])[:, None].to(device)
            for point, zero in zeros.items()
        }
        points = {point for each in steerings for point in each.edits}
        edits = {point: _edits(steerings, point, device) for point in points}
        return cls(pushes, edits, {row: each.bias for row, each in enumerate(steerings) if each.bias})

    def changes(self, strengths: Tensor | None) -> dict[HookPoint, Change]:
        """What is done in a pass, by hook point.

        `strengths` [batch, n] says which of its tokens are steered; None: all.
        """
        if strengths is not None and not strengths.any():
            return {}
        points = self.pushes.keys() | self.edits.keys()
        return {point: partial(self._change, point, strengths) for point in points}

    def urged(
        self, logits: Tensor, said: Sequence[Collection[int]], is_steered: Sequence[bool] | None
    ) -> Tensor:
        """Logits [batch, d_vocab] with the biases of rows that are steered here, all if None.

        `said` are the tokens that each row has written.
        """
        rows = [row for row in self.biases if is_steered is None or is_steered[row]]
        if not rows:
            return logits
        bias = torch.stack([self.biases[row].dense(logits.shape[-1]) for row in rows])
        logits = logits.float().clone()
        logits[rows] = urged(logits[rows], bias.to(logits.device), [said[row] for row in rows])
        return logits

    def _change(self, point: HookPoint, strengths: Tensor | None, resid: Tensor) -> Tensor:
        push = self.pushes.get(point)
        if edits := self.edits.get(point):
            push = _edited(resid.float(), push, edits)
        assert push is not None  # there is nothing done at other points
        return push if strengths is None else push * strengths[..., None]


def _edits(steerings: Sequence[Steering], point: HookPoint, device: torch.device) -> Edits:
    """First edits of all rows, then second ones; rows that share one are taken together."""
    found: list[tuple[Edit, Tensor]] = []
    for number in range(max(len(each.edits.get(point, ())) for each in steerings)):
        rows_of: dict[Edit, list[int]] = {}
        for row, each in enumerate(steerings):
            if len(edits := each.edits.get(point, ())) > number:
                rows_of.setdefault(edits[number], []).append(row)
        found += [(edit.to(device), torch.tensor(rows, device=device)) for edit, rows in rows_of.items()]
    return found


def _edited(resid: Tensor, push: Tensor | None, edits: Edits) -> Tensor:
    """What is added in all to residuals [batch, n, d_model]: the push, then what edits make of the rest."""
    total = torch.zeros_like(resid) if push is None else push.expand_as(resid).clone()
    for edit, rows in edits:
        total[rows] += edit.change(resid[rows] + total[rows])
    return total
