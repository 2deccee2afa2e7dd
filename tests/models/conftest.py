"""What tests of models share: an engine of every family, and a folder to damage."""

import shutil
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from support.engines import load
from support.tiny import FAMILIES, save_tiny

from neurosteer_cli.models.engine import Engine


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """A family's checkpoint folder; gains and biases are random, so that none can be left out."""

    @cache
    def folder(family: str) -> Path:
        path = save_tiny(tmp_path_factory.mktemp("models") / family, family)
        tensors = load_file(path / "model.safetensors")
        generator = torch.Generator().manual_seed(6)
        for name, tensor in tensors.items():
            if tensor.dim() == 1:
                tensors[name] = tensor + torch.randn(tensor.shape, generator=generator)
        save_file(tensors, path / "model.safetensors", metadata={"format": "pt"})
        return path

    return folder


@pytest.fixture(scope="module")
def engines(folders: Callable[[str], Path]) -> Callable[[str], Engine]:
    """A family's engine, whole."""
    return cache(lambda family: load(folders(family)))


@pytest.fixture(scope="module", params=FAMILIES)
def whole(request: pytest.FixtureRequest, engines: Callable[[str], Engine]) -> Engine:
    return engines(request.param)


@pytest.fixture
def copied(tmp_path: Path, tiny_folder: Path) -> Path:
    """A checkpoint folder that a test may damage."""
    return Path(shutil.copytree(tiny_folder, tmp_path / "damaged"))
