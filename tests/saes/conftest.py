"""What tests of SAEs share: sae-lens itself, a Hub it reads from, and residuals."""

import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from support.tiny import D_MODEL
from torch import Tensor


@pytest.fixture(scope="session")
def lens() -> Any:
    """The sae_lens package; importing it takes many seconds."""
    import sae_lens

    return sae_lens


@pytest.fixture
def quietly_without_gradients() -> Iterator[None]:
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # sae-lens says how it would load the model
        yield


@pytest.fixture
def resid() -> Tensor:
    """[n, d_model] with a mean over d_model and lengths that differ."""
    generator = torch.Generator().manual_seed(11)
    lengths = torch.linspace(1, 20, 30)[:, None]
    return lengths * (torch.randn(30, D_MODEL, generator=generator) + 0.7)


@pytest.fixture
def hub(lens: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder whose files sae-lens's loaders get in place of the Hub's."""

    def download(repo_id: str, filename: str, subfolder: str | None = None, **_: Any) -> str:
        return str(tmp_path.joinpath(repo_id, subfolder or "", filename))

    monkeypatch.setattr(lens.loading.pretrained_sae_loaders, "hf_hub_download", download)
    return tmp_path
