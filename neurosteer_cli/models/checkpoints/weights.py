"""The tensors of a checkpoint folder, each read from its file when it is asked for.

Knows safetensors files and the index that names them; knows nothing of which tensors a model needs.
"""

import json
import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from torch import Tensor

from ...errors import ModelError, one_line

SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
ORDERED = ("F32", "F16", "BF16")  # number types of which torch finds the largest
_SHARD = re.compile(r"(.+)-\d+-of-(\d+)\.safetensors")
_OTHERS = ("consolidated", "adapter_")  # the same weights under other names; a part that is added to them


@dataclass(frozen=True)
class StoredTensor:
    """A tensor in a file, of which transformers asks what it asks of safetensors' slices."""

    path: Path
    name: str
    dtype: str  # safetensors' word: "BF16"

    def get_dtype(self) -> str:
        return self.dtype

    def __getitem__(self, index: Any) -> Tensor:
        """Read it.

        Raises:
            ModelError: there is NaN in it; some attention kernels would make zeros of that.
        """
        if self.dtype in ORDERED and self._largest().isnan():
            raise ModelError(f"{self.path}: damaged: {self.name} holds NaN; fetch the model again")
        return self._opened()[index]

    def _largest(self) -> Tensor:
        """Its largest number, which NaN is if there is any; zero if it is empty."""
        tensor = self._opened()
        return tensor.max() if tensor.numel() else tensor.sum()

    def _opened(self) -> Tensor:
        """The tensor, mapped anew: what has been read of a mapped file is memory until it is closed."""
        with safe_open(self.path, framework="pt") as file:
            tensor: Tensor = file.get_tensor(self.name)
        return tensor


def stored_tensors(folder: Path) -> dict[str, StoredTensor]:
    """The tensors of a checkpoint by their names, none of them read.

    Raises:
        ModelError: damaged, incomplete, or several files hold a tensor of one name.
    """
    tensors: dict[str, StoredTensor] = {}
    for path in weight_files(folder):
        try:
            with safe_open(path, framework="pt") as file:
                found = {
                    name: StoredTensor(path, name, file.get_slice(name).get_dtype())
                    for name in file.keys()  # noqa: SIM118
                }
        except (SafetensorError, OSError) as error:
            raise damaged(folder, error) from error
        if both := tensors.keys() & found.keys():
            other = tensors[min(both)].path.name
            raise ModelError(
                f"{folder}: {other} and {path.name} both hold {min(both)}; "
                f"keep the files of one model, or name them in {INDEX}"
            )
        tensors |= found
    return tensors


def damaged(folder: Path, error: Exception) -> ModelError:
    """What to say where a file cannot be read."""
    return ModelError(f"{folder}: damaged weights ({one_line(error)})")


def weight_files(folder: Path) -> list[Path]:
    """The files that make up a checkpoint, as transformers picks them: one, or those that the index names.

    Without either of their names, all safetensors files of the folder but those of other formats.

    Raises:
        ModelError: a file of the checkpoint is not there.
    """
    if (folder / SINGLE).is_file():
        return [folder / SINGLE]
    if (folder / INDEX).is_file():
        names = _indexed(folder)
    else:
        names = sorted(
            path.name for path in folder.glob("*.safetensors") if not path.name.startswith(_OTHERS)
        )
        _check_shards(folder, names)
    if missing := [name for name in names if not (folder / name).is_file()]:
        raise ModelError(
            f"{folder}: {missing[0]} is not there, though {INDEX} names it; fetch the whole checkpoint"
        )
    return [folder / name for name in names]


def _indexed(folder: Path) -> list[str]:
    try:
        return sorted(set(json.loads((folder / INDEX).read_text())["weight_map"].values()))
    except (ValueError, LookupError, TypeError, AttributeError, OSError) as error:
        raise ModelError(f"{folder}: {INDEX} is damaged ({one_line(error)})") from error


def _check_shards(folder: Path, names: list[str]) -> None:
    """Shards say in their names how many there are."""
    shards = Counter(match.groups() for name in names if (match := _SHARD.fullmatch(name)))
    for (stem, n_shards), n_found in shards.items():
        if n_found != int(n_shards):
            raise ModelError(
                f"{folder}: {n_found} of the {int(n_shards)} files {stem}-*-of-{n_shards}.safetensors are "
                "there; fetch the whole checkpoint"
            )
