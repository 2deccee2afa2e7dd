"""What fit, gen, combine and inspect are tried on: a tiny random model, and vectors fitted on it."""

import json
from pathlib import Path

import pytest
from support.cli import run
from support.tiny import save_tiny, save_tiny_sae


@pytest.fixture(scope="session")
def fitted_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a model, an SAE, two sides of texts and two vectors, all made by commands."""
    folder = tmp_path_factory.mktemp("fitted")
    save_tiny(folder / "tiny")
    save_tiny_sae(folder / "sae")
    for name, text in (("up", "aaa bbb aab {} number {}"), ("down", "zzz yyy zzy {} number {}")):
        lines = [json.dumps({"text": text.format(name[0] * n, n)}) + "\n" for n in range(20)]
        (folder / f"{name}.jsonl").write_text("".join(lines))
    fit = ("fit", "up.jsonl", "down.jsonl", "--model", "tiny")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.delenv("NEUROSTEER_MODEL", raising=False)
        run(*fit, "--sae", "sae", "--top-k", "8", "-o", "a.st")
        run(*fit, "--method", "diffmean", "--layers", "1", "-o", "b.st")
    return folder


@pytest.fixture
def in_fitted_folder(fitted_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(fitted_folder)
    monkeypatch.delenv("NEUROSTEER_MODEL", raising=False)
    monkeypatch.setenv("NEUROSTEER_CACHE", str(fitted_folder / "cache"))
