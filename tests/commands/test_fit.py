"""`neurosteer fit`: the vector file, what is told on stderr, and the JSON."""

import json
from dataclasses import fields
from pathlib import Path

import pytest
from support.cli import rows, run
from support.tiny import save_tiny_sae

from neurosteer_cli.vectors.fitting.report import FitReport, LatentRow
from neurosteer_cli.vectors.metadata import VectorMetadata
from neurosteer_cli.vectors.vector import SteeringVector

pytestmark = pytest.mark.usefixtures("in_fitted_folder")
FIT = ("fit", "up.jsonl", "down.jsonl", "--model", "tiny")
POINT = "blocks.2.hook_resid_post"
METADATA_KEYS = set(VectorMetadata.model_fields)


def test_fit_writes_the_file_and_tells_the_rest_on_stderr(tmp_path: Path) -> None:
    result = run(*FIT, "--sae", "sae", "--top-k", "8", "-o", str(tmp_path / "v.st"))
    assert result.stdout == ""
    vector = SteeringVector.load(tmp_path / "v.st")
    assert [str(point) for point in vector.pushes] == [POINT]
    lines = result.stderr.splitlines()
    assert lines[:2] == [
        f"warning: {side}: 20 texts; 50 or more a side give a more dependable vector"
        for side in ("up", "down")
    ]
    assert lines[2].startswith("up 20 texts, 600 tokens; down 20 texts, 600 tokens; ")
    assert lines[3].startswith(f"{POINT}: held-out AUROC 1.00 on 4 + 4 texts; the sides differ by ")
    assert lines[4].strip() == "strongest latents"
    assert " ".join(lines[6].split()) == "fires fires"
    assert " ".join(lines[7].split()) == "latent weight t up down fires most at"
    assert lines[-1] == f"wrote {tmp_path / 'v.st'}"


@pytest.mark.parametrize(
    ("sources", "options", "name"),
    [
        (["up.jsonl", "down.jsonl"], [], "up.st"),
        (["up.jsonl", "-"], [], "up.st"),
        (["-", "up.jsonl"], [], "vector.st"),
        (["both.jsonl"], ["--target", "down", "--source", "up"], "down.st"),
    ],
)
def test_a_vector_is_named_after_what_it_steers_towards(
    fitted_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    sources: list[str],
    options: list[str],
    name: str,
) -> None:
    both = ""
    for side in ("up", "down"):
        data = (fitted_folder / f"{side}.jsonl").read_text()
        (tmp_path / f"{side}.jsonl").write_text(data)
        both += data.replace("{", f'{{"label": "{side}", ')
    (tmp_path / "both.jsonl").write_text(both)
    monkeypatch.chdir(tmp_path)
    model = str(fitted_folder / "tiny")
    run("fit", *sources, *options, "-m", model, "--method", "diffmean",
        input=(fitted_folder / "down.jsonl").read_text())  # fmt: skip
    assert [path.name for path in tmp_path.glob("*.st")] == [name]


def test_fit_json_is_the_metadata_and_a_report(tmp_path: Path) -> None:
    result = run(*FIT, "--sae", "sae", "--top-k", "8", "-o", str(tmp_path / "v.st"), "--json")
    (record,) = rows(result)
    assert set(record) == {"vector", "report"} | METADATA_KEYS
    assert record["vector"] == str(tmp_path / "v.st")
    assert set(record["report"]) == {field.name for field in fields(FitReport)}
    assert set(record["report"]) == {
        "seconds", "tokens_per_second", "n_held_out", "n_duplicates", "n_without_tokens",
        "warnings", "strongest", "tokens", "tokens_auroc",
    }  # fmt: skip
    (row, *_) = record["report"]["strongest"][POINT]
    assert set(row) == {field.name for field in fields(LatentRow)}
    stored = SteeringVector.load(tmp_path / "v.st").metadata
    assert {key: record[key] for key in METADATA_KEYS} == json.loads(stored.to_json())


def test_fit_steers_at_the_layers_asked_for(tmp_path: Path) -> None:
    out = str(tmp_path / "v.st")
    for options, points in (
        (["--layers", "1,3"], ["blocks.1.hook_resid_post", "blocks.3.hook_resid_post"]),
        (["--layer", "0"], ["blocks.0.hook_resid_post"]),
        (["--hook-point", "blocks.2.hook_resid_pre"], ["blocks.2.hook_resid_pre"]),
        ([], [POINT]),  # two thirds up
    ):
        run(*FIT, "--method", "diffmean", *options, "-o", out)
        assert [str(point) for point in SteeringVector.load(Path(out)).pushes] == points


def test_fit_says_that_duplicates_were_dropped(fitted_folder: Path, tmp_path: Path) -> None:
    lines = (fitted_folder / "up.jsonl").read_text()
    (tmp_path / "up.jsonl").write_text(lines + lines.splitlines()[0])
    result = run("fit", str(tmp_path / "up.jsonl"), "down.jsonl", "-m", "tiny",
                 "--method", "diffmean", "-o", str(tmp_path / "v.st"))  # fmt: skip
    assert "\n1 duplicate texts were dropped\n" in result.stderr


def test_fit_takes_the_model_from_the_environment(tmp_path: Path) -> None:
    out = str(tmp_path / "v.st")
    fit = ("fit", "up.jsonl", "down.jsonl", "--method", "diffmean", "-o", out)
    run(*fit, env={"NEUROSTEER_MODEL": "tiny"})
    assert SteeringVector.load(Path(out)).metadata.model_id == str(Path("tiny").resolve())


def test_an_sae_of_a_model_of_another_name_is_warned_of(tmp_path: Path) -> None:
    save_tiny_sae(tmp_path / "sae", model_name="gpt2-small")
    result = run(*FIT, "--sae", str(tmp_path / "sae"), "--top-k", "8", "-o", str(tmp_path / "v.st"))
    assert result.stderr.startswith(
        f"warning: SAE '{tmp_path / 'sae'}' was trained on 'gpt2-small', the model is 'tiny': "
        "its latents may mean something else there\n"
    )
