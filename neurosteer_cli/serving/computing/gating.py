"""What gates let be steered of a request's prompts, read on the model's thread.

Knows gates, the scheduler and vectors by name; knows nothing of requests' forms or HTTP.
"""

from collections.abc import Callable
from concurrent.futures import CancelledError
from dataclasses import dataclass
from functools import lru_cache, partial

import torch

from ...models.engine import Engine
from ...vectors.gate import Each, Gate, bundled_sae, open_gate
from ...vectors.steering import NOTHING, Steering
from ...vectors.vector import SteeringVector
from ..protocol.fields import Json
from ..scheduler import ClosedError, Scheduler
from .sharing import SharedEngine, Turns

SAES_KEPT = 4


@dataclass(frozen=True)
class Gated:
    """How each prompt of a request is steered, and what there is to tell of it."""

    steerings: list[Steering]
    told: Json


class Gating:
    """Opens gates, whose vectors are named, and holds prompts against them."""

    def __init__(
        self, engine: Engine, scheduler: Scheduler, vector_of: Callable[[str], SteeringVector]
    ) -> None:
        self.engine, self.scheduler, self.vector_of = engine, scheduler, vector_of
        self._sae_of = lru_cache(SAES_KEPT)(partial(bundled_sae, engine))

    def gated(self, when: str, each: Each, steering: Steering, prompts: list[list[int]]) -> Gated:
        """A steering as a gate lets it act on prompts, token ids each; `when` is "" where there is none.

        Raises:
            InputError: the gate cannot be read, or would be read behind what it gates.
            ClosedError: the program is ending.
        """
        if not when:
            return Gated([steering] * len(prompts), {})
        try:
            return self.scheduler.call(partial(self._gated, when, each, steering, prompts)).result()
        except CancelledError as error:
            raise ClosedError("shut down before anything was written") from error

    def _gated(self, when: str, each: Each, steering: Steering, prompts: list[list[int]]) -> Gated:
        gate = open_gate(when, self.engine, vector_of=self.vector_of, sae_of=self._sae_of)
        if each == "token":
            return Gated([steering.gated(gate)] * len(prompts), {"when": when})
        read = self._read(gate, prompts)
        is_open = gate.is_open(torch.tensor(read)).tolist()
        told = {"when": when, "gate": [round(number, 6) for number in read], "steered": is_open}
        return Gated([steering if opened else NOTHING for opened in is_open], told)

    def _read(self, gate: Gate, prompts: list[list[int]]) -> list[float]:
        """What it reads of each, while others' texts go on."""
        found = dict(gate.prompts(SharedEngine.of(self.engine, Turns(self.scheduler)), prompts))
        return [found[number] for number in range(len(prompts))]
