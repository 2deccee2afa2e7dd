"""The files of an SAE, read without running anything in them.

Knows JSON, safetensors, torch's and numpy's files; knows nothing of what they hold.
"""

import json
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from ...errors import SAEError, one_line


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError as error:
        raise SAEError(f"{path.parent}: no {path.name}; not a whole SAE") from error
    except (OSError, ValueError, EOFError, KeyError, SafetensorError, zipfile.BadZipFile) as error:
        raise SAEError(f"{path.parent}: cannot read the SAE ({path.name}: {one_line(error)})") from error


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object; SAEError if it is absent, damaged, or something else."""
    with _readable(path):
        found = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(found, dict):
            raise ValueError("no JSON object")
    return found


def read_safetensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file."""
    with _readable(path):
        return load_file(path)


def read_npz(path: Path) -> dict[str, Tensor]:
    """The arrays of a numpy archive."""
    import numpy as np

    with _readable(path), np.load(path, allow_pickle=False) as arrays:
        return {name: torch.from_numpy(arrays[name]) for name in arrays}


def read_torch(path: Path) -> dict[str, Tensor]:
    """The tensors of a file of torch.save, which may hold nothing else.

    torch's unpickler for weights builds tensors and containers and refuses all else before it is run.
    """
    way_out = "where it can be trusted, save it again as torch.save(sae.state_dict(), 'ae.pt')"
    try:
        with _readable(path):
            found = torch.load(path, map_location="cpu", weights_only=True)
    except SAEError:
        raise
    except Exception as error:  # the unpickler's own, which may not be imported here
        raise SAEError(
            f"{path}: damaged, or more than weights, and nothing in a file is run here; {way_out}"
        ) from error
    if not isinstance(found, dict) or not all(isinstance(value, Tensor) for value in found.values()):
        raise SAEError(f"{path}: not the state_dict of an SAE; {way_out}")
    return found
