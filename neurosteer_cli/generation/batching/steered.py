"""What is done to residuals and logits of texts that are written together, each steered in its own way.

Knows steerings and tensors' layout; knows nothing of positions, caches or how texts are read.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from ...models.hooks import Change, HookPoint
from ...vectors.gate import Gate
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
    gates: Mapping[Gate, Tensor]  # with the rows whose tokens each lets be steered

    @classmethod
    def of(cls, steerings: Sequence[Steering], device: torch.device) -> "SteeredRows":
        zeros = {point: torch.zeros_like(push) for each in steerings for point, push in each.pushes.items()}
        pushes = {
            point: torch.stack([each.pushes.get(point, zero) for each in steerings])[:, None].to(device)
            for point, zero in zeros.items()
        }
        points = {point for each in steerings for point in each.edits}
        edits = {point: _edits(steerings, point, device) for point in points}
        biases = {row: each.bias for row, each in enumerate(steerings) if each.bias}
        return cls(pushes, edits, biases, _rows_of([each.gate for each in steerings], device))


@dataclass
class Pass:
    """One pass over some tokens of rows: which of them are steered, and what is done to them."""

    rows: SteeredRows
    strengths: Tensor | None  # [batch, n], whether a token is steered; None: all are

    def __post_init__(self) -> None:
        self._read: dict[Gate, Tensor] = {}  # [rows of the gate, n], up to the block that is run

    def changes(self) -> dict[HookPoint, Change]:
        """What is done to residuals, by hook point."""
        if self.strengths is not None and not self.strengths.any():
            return {}
        read = {point for gate in self.rows.gates for point in gate.readers}
        points = self.rows.pushes.keys() | self.rows.edits.keys() | read
        return {point: partial(self._change, point) for point in points}

    def _change(self, point: HookPoint, resid: Tensor) -> Tensor | None:
        for gate, rows in self.rows.gates.items():
            if reader := gate.readers.get(point):
                self._read[gate] = self._read.get(gate, 0) + reader(resid[rows].float())
        push = self.rows.pushes.get(point)
        if edits := self.rows.edits.get(point):
            push = _edited(resid.float(), push, edits)
        if push is None:
            return None
        steered = self._steered(resid)
        return push if steered is None else push * steered[..., None]

    def _steered(self, tokens: Tensor) -> Tensor | None:
        """Which tokens [batch, n, ...] are steered, as gates have it, [batch, n]; None: all are."""
        if not self.rows.gates:
            return self.strengths
        ones = torch.ones(tokens.shape[:2], dtype=torch.bool, device=tokens.device)
        steered = ones if self.strengths is None else self.strengths.clone()
        for gate, rows in self.rows.gates.items():
            steered[rows] &= gate.is_open(self._read[gate])
        return steered

    def urged(self, logits: Tensor, said: Sequence[Collection[int]]) -> Tensor:
        """Logits [batch, d_vocab] of the last tokens, with the biases of rows that are steered there.

        `said` are the tokens that each row has written.
        """
        if not self.rows.biases:
            return logits
        steered = self._last(logits)
        rows = [row for row in self.rows.biases if steered[row]]
        if not rows:
            return logits
        bias = torch.stack([self.rows.biases[row].dense(logits.shape[-1]) for row in rows])
        logits = logits.float().clone()
        logits[rows] = urged(logits[rows], bias.to(logits.device), [said[row] for row in rows])
        return logits

    def _last(self, logits: Tensor) -> list[bool]:
        if self.strengths is not None and not self.strengths.any():
            return [False] * len(logits)
        last = Pass(self.rows, None if self.strengths is None else self.strengths[:, -1:])
        last._read = {gate: numbers[:, -1:] for gate, numbers in self._read.items()}
        steered = last._steered(logits[:, None])
        return [True] * len(logits) if steered is None else [bool(each) for each in steered[:, 0].tolist()]


def _rows_of(gates: Sequence[Gate | None], device: torch.device) -> dict[Gate, Tensor]:
    rows: dict[Gate, list[int]] = {}
    for row, gate in enumerate(gates):
        if gate:
            rows.setdefault(gate, []).append(row)
    return {gate: torch.tensor(of_gate, device=device) for gate, of_gate in rows.items()}


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
