"""Checkpoints of a training: all its SAEs at one step, and the orders that step goes by.

Knows tensors and files; knows nothing of models or of sae-lens.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from ...errors import InputError, OutputError
from ...files import replace_file


@dataclass(frozen=True)
class Checkpoint:
    """All SAEs at one step, in one safetensors file that is there whole or not at all."""

    round: int
    step: int
    n_steps: int
    numbers: dict[str, dict[str, Any]]
    tensors: dict[str, Tensor]
    NAME: ClassVar[str] = "checkpoint.safetensors"

    @classmethod
    def save(
        cls,
        folder: Path,
        numbers: dict[str, int],
        states: dict[str, tuple[dict[str, Tensor], dict[str, float], list[float]]],
    ) -> None:
        tensors = {
            f"{point}|{name}": tensor
            for point, (state, _, _) in states.items()
            for name, tensor in state.items()
        }
        inner = {point: {**counts, "quality": quality} for point, (_, counts, quality) in states.items()}
        with replace_file(folder / cls.NAME) as temporary:
            try:
                save_file(tensors, temporary, metadata={"neurosteer": json.dumps([numbers, inner])})
            except SafetensorError as error:  # how it tells of a full disk
                raise OutputError(f"{folder / cls.NAME}: cannot write ({error})") from error

    @classmethod
    def load(cls, folder: Path) -> "Checkpoint | None":
        file = folder / cls.NAME
        if not file.exists():
            return None
        try:
            with safe_open(file, framework="pt") as opened:
                numbers, inner = json.loads(opened.metadata()["neurosteer"])
                tensors = {name: opened.get_tensor(name) for name in list(opened.keys())}
        except (SafetensorError, OSError, ValueError, KeyError, TypeError) as error:
            raise InputError(
                f"{file}: a damaged checkpoint ({error}); remove {folder} and start anew"
            ) from error
        return cls(**numbers, numbers=inner, tensors=tensors)

    def of(self, point: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
        prefix = f"{point}|"
        tensors = {
            name.removeprefix(prefix): tensor
            for name, tensor in self.tensors.items()
            if name.startswith(prefix)
        }
        return tensors, self.numbers[point]


def order_of(n: int, seed: tuple[int, int, int]) -> Tensor:
    """A permutation of n that depends on (seed, round, epoch) alone."""
    mixed = (seed[0] * 1_000_003 + seed[1] + 1) * 1_000_003 + seed[2]
    return torch.randperm(n, generator=torch.Generator().manual_seed(mixed % 2**63))
