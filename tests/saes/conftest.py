"""What tests of SAEs share: sae-lens itself, a Hub it reads from, and residuals."""

import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from support.tiny import D_MODEL, save_tiny_sae
from torch import Tensor

from neurosteer_cli.models.engine import Engine
from neurosteer_cli.models.residuals import packed
from neurosteer_cli.saes.describe import describe
from neurosteer_cli.saes.descriptions import Descriptions
from neurosteer_cli.saes.load import load_sae
from neurosteer_cli.saes.sae import SparseAutoencoder

TEXTS = [f"text number {n} has some {'more ' * (n % 4)}words" for n in range(30)]


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


@pytest.fixture
def sae(tmp_path: Path) -> SparseAutoencoder:
    return load_sae(str(save_tiny_sae(tmp_path / "sae", d_sae=96)), model_id="tiny")


@pytest.fixture
def described(engine: Engine, sae: SparseAutoencoder) -> Descriptions:
    (found,) = describe(engine, [sae], packed(engine, TEXTS, 32), n_tokens=10**6, n_contexts=3)
    return found
