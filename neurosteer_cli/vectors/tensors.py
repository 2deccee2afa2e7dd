"""The tensors of a vector file: read whole, each held to the type and shape that it is to have.

Knows safetensors files of this program; knows nothing of what the tensors mean.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from ..data.kinds import VECTOR, kind_of, known_kind
from ..errors import InputError, VectorFileError

METADATA_KEY = "neurosteer"


@dataclass(frozen=True)
class Tensors:
    """The tensors of a file, by name; `where` is what errors call it."""

    where: str
    by_name: Mapping[str, Tensor]

    def __contains__(self, name: str) -> bool:
        return name in self.by_name

    def length(self, name: str) -> int:
        """How many numbers a tensor holds, 0 if there is none of that name."""
        return self.by_name[name].numel() if name in self else 0

    def take(self, name: str, dtype: torch.dtype, shape: tuple[int, ...]) -> Tensor:
        """The tensor of a name.

        Raises:
            VectorFileError: there is none, it has another type or shape, or numbers that are not finite.
        """
        found = self.by_name.get(name)
        if found is None or found.dtype != dtype or found.shape != shape:
            got = "absent" if found is None else f"{found.dtype} {list(found.shape)}"
            raise VectorFileError(f"{self.where}: tensor {name!r} is {got}, expected {dtype} {list(shape)}")
        if not bool(torch.isfinite(found).all()):
            raise VectorFileError(f"{self.where}: tensor {name!r} holds values that are not finite")
        return found


def read_tensors(path: Path, readable: str) -> tuple[str, Tensors]:
    """The metadata, as JSON, and the tensors of the file that is called `path`.

    `readable` is where it can be read more than once.

    Raises:
        InputError: there is no such file.
        VectorFileError: it is damaged, or none of this program.
    """
    try:
        with safe_open(readable, framework="pt") as file:
            header = file.metadata() or {}
            # copies: the file's own pages change, or are gone, when it is written over
            tensors = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118
    except FileNotFoundError as error:
        raise InputError(f"{path}: no such file; `neurosteer fit` writes one") from error
    except (SafetensorError, OSError) as error:
        kind = known_kind(readable)
        is_another = kind not in (VECTOR, None)
        why = kind if is_another else f"damaged, or not a vector file ({error})"
        raise VectorFileError(f"{path}: {why}") from error
    if METADATA_KEY not in header:
        raise VectorFileError(f"{path}: {kind_of(readable)}")
    return header[METADATA_KEY], Tensors(str(path), tensors)
