"""A model that is shared: what takes long on it is cut into parts, between which others' texts go on.

Knows the scheduler and how much a part may take; knows nothing of what is computed.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor

from ...generation.batching.pace import FIRST_SLICE, SLICE_ALONE
from ...models.engine import Engine
from ...models.hooks import HookPoint, capture
from ..scheduler import ClosedError, Scheduler


class Turns:
    """How much may be computed at a time, and whose turn it is then."""

    def __init__(self, scheduler: Scheduler) -> None:
        self.scheduler = scheduler
        self._is_wanted = True
        self._n_tokens = FIRST_SLICE

    @property
    def n_tokens(self) -> int:
        """How many tokens to read at a time."""
        return self._n_tokens if self.scheduler.n_running else SLICE_ALONE

    def note(self, n_tokens: int, seconds: float) -> None:
        """So many took so long."""
        self._n_tokens = self.scheduler.pace.next_slice(n_tokens, seconds)

    def abandon(self) -> None:
        """Have the computation end at its next pause."""
        self._is_wanted = False

    def pause(self) -> None:
        """Between two parts, on the model's thread: let others go on.

        Raises:
            ClosedError: nobody waits for what is computed any more, or the program is ending.
        """
        if not self._is_wanted:
            raise ClosedError("nobody waits for this any more")
        self.scheduler.yield_to_batch()


@dataclass(frozen=True, kw_only=True)
class SharedEngine(Engine):
    """An engine that pauses, and reads long texts in slices where the model remembers what it has read."""

    turns: Turns

    @classmethod
    def of(cls, engine: Engine, turns: Turns) -> "SharedEngine":
        return cls(**{each.name: getattr(engine, each.name) for each in fields(engine)}, turns=turns)

    def pause(self) -> None:
        self.turns.pause()

    def read(self, ids: Tensor, points: Sequence[HookPoint]) -> dict[HookPoint, Tensor]:
        caching = self.turns.scheduler.caching
        if not caching.can_slice:
            return super().read(ids, points)
        cache, parts, n_read = caching.new(), list[dict[HookPoint, Tensor]](), 0
        while n_read < ids.shape[1]:
            part = ids[:, n_read : n_read + max(1, self.turns.n_tokens // len(ids))]
            n_read += part.shape[1]
            parts.append(self._slice(part, n_read, cache, points))
            self.pause()
        return {point: torch.cat([part[point] for part in parts], dim=1) for point in parts[0]}

    def _slice(
        self, ids: Tensor, n_read: int, cache: Any, points: Sequence[HookPoint]
    ) -> dict[HookPoint, Tensor]:
        """Residuals [batch, pos, d_model] of the next tokens [batch, pos], by which n_read have been read."""
        start = time.perf_counter()
        with capture(self.blocks, points) as seen:
            self.turns.scheduler.caching.forward(ids, ids.new_ones(len(ids), n_read), cache)
        for resid in seen.values():
            float(resid[0, 0, 0])  # an accelerator's time is over once there is a number
        self.turns.note(ids.numel(), time.perf_counter() - start)
        return seen
