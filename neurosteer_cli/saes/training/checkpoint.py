"""Checkpoints of a training: all its SAEs at one step, in one file that is there whole or not at all.

Knows tensors and files; knows nothing of models or of sae-lens.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from ...errors import InputError, OutputError
from ...files import replace_file

FILE_NAME = "checkpoint.safetensors"

LayerState = tuple[dict[str, Tensor], dict[str, Any]]  # tensors, and numbers for JSON


@dataclass(frozen=True)
class Checkpoint:
    """All SAEs at one step."""

    round: int
    step: int  # the next one of the round
    n_steps: int  # of the whole training, as its learning rate goes
    layers: dict[str, LayerState]  # by hook point

    def save(self, folder: Path) -> None:
        """Write the file; OutputError if it cannot be written."""
        tensors = {
            f"{point}|{name}": tensor
            for point, (state, _) in self.layers.items()
            for name, tensor in state.items()
        }
        step = {"round": self.round, "step": self.step, "n_steps": self.n_steps}
        numbers = {point: numbers for point, (_, numbers) in self.layers.items()}
        with replace_file(folder / FILE_NAME) as temporary:
            try:
                save_file(tensors, temporary, metadata={"neurosteer": json.dumps([step, numbers])})
            except SafetensorError as error:  # how it tells of a full disk
                raise OutputError(f"{folder / FILE_NAME}: cannot write ({error})") from error

    @classmethod
    def load(cls, folder: Path) -> "Checkpoint | None":
        """Read what `save` wrote, None if there is none; InputError if it is damaged."""
        file = folder / FILE_NAME
        if not file.exists():
            return None
        try:
            with safe_open(file, framework="pt") as opened:
                step, numbers = json.loads(opened.metadata()["neurosteer"])
                layers: dict[str, LayerState] = {point: ({}, numbers[point]) for point in numbers}
                for key in list(opened.keys()):
                    point, _, name = key.partition("|")
                    layers[point][0][name] = opened.get_tensor(key)
            return cls(**step, layers=layers)
        except (SafetensorError, OSError, ValueError, KeyError, TypeError) as error:
            raise InputError(
                f"{file}: a damaged checkpoint ({error}); remove {folder} and start anew"
            ) from error
