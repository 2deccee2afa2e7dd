"""What eval, calibrate and layers are tried on: a tiny random model, and a vector fitted on it."""

import json
from pathlib import Path

import pytest
from support.cli import run
from support.tiny import save_tiny, save_tiny_sae


@pytest.fixture(scope="package")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a model, a vector, prompts and generations; tests run in it."""
    folder = tmp_path_factory.mktemp("evaluation")
    save_tiny(folder / "tiny")
    save_tiny(folder / "second", "gpt2", seed=1)
    save_tiny_sae(folder / "sae")
    for name, text in (("up", "aaa bbb aab {} number {}"), ("down", "zzz yyy zzy {} number {}")):
        lines = [json.dumps({"text": text.format(name[0] * n, n)}) + "\n" for n in range(20)]
        (folder / f"{name}.jsonl").write_text("".join(lines))
    (folder / "full.jsonl").mkdir()
    (folder / "none.jsonl").write_text('{"prompt": {"text": "a"}, "generations": []}\n')
    prompts = [json.dumps({"prompt": f"prompt {n}", "id": n}) + "\n" for n in range(5)]
    (folder / "prompts.jsonl").write_text("".join(prompts))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.delenv("NEUROSTEER_MODEL", raising=False)
        run("fit", "up.jsonl", "down.jsonl", "--model", "tiny", "--method", "diffmean", "--layer", "2",
            "-o", "v.st")  # fmt: skip
        written = run(
            "gen", "-v", "v.st", "--alpha", "0,20", "prompts.jsonl", "--max-new-tokens", "6", "--json"
        )
        (folder / "written.jsonl").write_text(written.stdout)
    return folder


@pytest.fixture(autouse=True)
def in_folder(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    monkeypatch.delenv("NEUROSTEER_MODEL", raising=False)
