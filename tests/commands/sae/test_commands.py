"""The commands about SAEs: results on stdout, all else on stderr, and the steps of the README in a row."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from support.saes import B_DEC, B_ENC, D_SAE, THRESHOLD, W_DEC, W_ENC, K, write
from support.tiny import D_MODEL, save_tiny_sae
from typer.testing import CliRunner, Result

from neurosteer_cli.cli import app
from neurosteer_cli.models.engine import Engine
from neurosteer_cli.vectors.vector import SteeringVector

POINTS = ("blocks.1.hook_resid_post", "blocks.2.hook_resid_post")


def run(*arguments: str | Path, input: str | None = None) -> Result:
    result = CliRunner().invoke(app, [str(argument) for argument in arguments], input=input)
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == 0, result.stderr
    return result


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("corpus") / "corpus.txt"
    file.write_text("".join(f"line {n} of the {'very ' * (n % 5)}long corpus\n" for n in range(150)))
    return file


@pytest.fixture(scope="module")
def trained(tiny_folder: Path, corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Result]:
    folder = tmp_path_factory.mktemp("trained") / "saes"
    result = run(*TRAIN, corpus, "-m", tiny_folder, "-o", folder, "--json")
    return folder, result


TRAIN = (
    "sae", "train", "--layers", "1,2", "--d-sae", "48", "--k", "6", "--tokens", "3k", "--epochs", "3",
    "--batch-size", "128", "--context", "64", "--lr", "3e-3",
)  # fmt: skip


def test_train_writes_a_record_an_sae_and_tells_the_rest_on_stderr(trained: tuple[Path, Result]) -> None:
    folder, result = trained
    records = [json.loads(line) for line in result.stdout.splitlines()]
    assert [record["sae"] for record in records] == [str(folder / point) for point in POINTS]
    assert all(set(record) == {"sae", "explained_variance", "l0", "dead"} for record in records)
    lines = result.stderr.splitlines()
    assert lines[0].startswith("while it runs: 0.00 GB of activations and 0.00 GB of checkpoint on disk; ")
    assert lines[1] == "reading 3,000 of 3,000 tokens, 0 s left"
    assert lines[2].startswith("training 8,832 of 8,832 tokens, 0 s left; block 1: explains 0.")
    assert lines[3].startswith(f"wrote {folder / POINTS[0]}: explains 0.")
    assert len(lines) == 5


def test_train_reads_stdin_to_the_same_weights(
    trained: tuple[Path, Result], corpus: Path, tiny_folder: Path, tmp_path: Path
) -> None:
    run(*TRAIN, "-", "-m", tiny_folder, "-o", tmp_path / "saes", input=corpus.read_text())
    for point in POINTS:
        name = f"{point}/sae_weights.safetensors"
        assert (tmp_path / "saes" / name).read_bytes() == (trained[0] / name).read_bytes()


def test_train_with_resume_and_nothing_begun_begins(
    trained: tuple[Path, Result], corpus: Path, tiny_folder: Path, tmp_path: Path
) -> None:
    run(*TRAIN, corpus, "-m", tiny_folder, "-o", tmp_path / "saes", "--resume")
    name = f"{POINTS[0]}/sae_weights.safetensors"
    assert (tmp_path / "saes" / name).read_bytes() == (trained[0] / name).read_bytes()


def test_each_block_starts_from_the_family_member_nearest_to_it(
    trained: tuple[Path, Result], corpus: Path, tiny_folder: Path, tmp_path: Path
) -> None:
    started = run(*TRAIN, corpus, "-m", tiny_folder, "-o", tmp_path / "saes", "--init", trained[0], "--json")
    before, after = (
        [json.loads(line)["explained_variance"] for line in result.stdout.splitlines()]
        for result in (trained[1], started)
    )
    assert all(late > early for early, late in zip(before, after, strict=True))


def test_info_says_what_an_sae_is_and_measures_it(
    trained: tuple[Path, Result], corpus: Path, tiny_folder: Path
) -> None:
    plain = run("sae", "info", trained[0] / POINTS[0], "-m", tiny_folder)
    lines = dict(line.split(": ", 1) for line in plain.stdout.splitlines())
    assert (lines["architecture"], lines["hook point"], lines["d sae"]) == ("topk (k 6)", POINTS[0], "48")
    assert plain.stderr.startswith("give texts to measure")
    measured = run("sae", "info", trained[0], corpus, "-m", tiny_folder, "--json", "--loss-tokens", "1k")
    records = [json.loads(line) for line in measured.stdout.splitlines()]
    assert [record["hook_point"] for record in records] == list(POINTS)
    for record in records:
        assert 0.5 < record["explained_variance"] < 1
        assert record["l0"] == pytest.approx(6, abs=0.2)
        assert record["loss_recovered"] == pytest.approx(
            (record["loss_zeroed"] - record["loss_spliced"]) / (record["loss_zeroed"] - record["loss"])
        )
    one = run("sae", "info", trained[0], corpus, "-m", tiny_folder, "--layer", "2", "--loss-tokens", "0")
    assert "explained variance: 0." in one.stdout
    assert "cross-entropy" not in one.stdout


def test_an_sae_of_a_block_that_is_not_there_is_told_of_before_a_model_is_loaded(
    corpus: Path, tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sae = save_tiny_sae(tmp_path / "deep", hook_name="blocks.7.hook_resid_post")
    monkeypatch.setattr(Engine, "load", None)
    result = CliRunner().invoke(app, ["sae", "info", str(sae), str(corpus), "-m", str(tiny_folder)])
    assert (result.exit_code, result.stdout) == (1, "")
    assert "belongs to blocks.7.hook_resid_post; model" in result.stderr


def test_described_latents_are_searched_named_and_steered_by(
    trained: tuple[Path, Result],
    corpus: Path,
    tiny_folder: Path,
    two_sides: tuple[Path, Path],
    tmp_path: Path,
) -> None:
    family, page = trained[0], tmp_path / "latents.html"
    done = run("sae", "describe", family, corpus, "-m", tiny_folder, "--report", page)
    assert done.stdout == ""
    assert [line.split(":")[0] for line in done.stderr.splitlines()] == [
        f"wrote {family / POINTS[0] / 'descriptions.jsonl.gz'}",
        f"wrote {family / POINTS[1] / 'descriptions.jsonl.gz'}",
        f"wrote {page}",
    ]
    assert page.read_text().startswith("<!DOCTYPE html>")
    found = run("sae", "search", family, "corpus", "-m", tiny_folder, "--layer", "2", "-n", "3", "--json")
    hits = [json.loads(line) for line in found.stdout.splitlines()]
    assert len(hits) == 3
    assert set(hits[0]) == {"hook_point", "latent_id", "score", "firing", "words", "name"}
    assert str(hits[0]["latent_id"]) in run("sae", "search", family, "corpus", "-m", tiny_folder).stdout

    file = tmp_path / "v.st"
    best = hits[0]["latent_id"]
    chosen = run("fit", "--sae", family, "--latent", f"2/{best}:-2", "-m", tiny_folder, "-o", file)
    assert "chosen latents" in chosen.stderr and hits[0]["name"].split(":")[0] in chosen.stderr
    vector = SteeringVector.load(file)
    (push,) = vector.pushes.values()
    (point,) = vector.metadata.points.values()
    assert float(push.norm()) == pytest.approx(0.01 * point.resid_norm, rel=1e-5)
    assert "described as" in run("inspect", file).stdout
    assert run("gen", "-v", file, "--alpha", "5", "-m", tiny_folder, "hello", "--max-new-tokens", "3").stdout

    fit = ("fit", *two_sides, "--sae", family, "-m", tiny_folder, "-o", file, "--top-k", "4")
    fitted = run(*fit)  # spread over the family's blocks
    assert [str(point) for point in SteeringVector.load(file).pushes] == list(POINTS)
    assert fitted.stderr.count("strongest latents") == 1 and "described" in fitted.stderr
    blocks = [line[:6].strip() for line in fitted.stderr.splitlines()]
    assert [blocks.count(block) for block in ("1", "2")] == [2, 2]  # two of either sign at one block
    run(*fit, "--method", "paper")  # as published: at one block
    assert [str(point) for point in SteeringVector.load(file).pushes] == [POINTS[-1]]


def test_latents_of_an_undescribed_sae_take_the_norm_from_texts(
    corpus: Path, tiny_folder: Path, tmp_path: Path
) -> None:
    sae = save_tiny_sae(tmp_path / "sae")
    record = json.loads(
        run(
            "fit", corpus, "--sae", sae, "--latent", "3", "-m", tiny_folder, "-o", tmp_path / "v.st", "--json"
        ).stdout
    )
    (point,) = record["points"].values()
    info = run("sae", "info", sae, corpus, "-m", tiny_folder, "--loss-tokens", "0", "--json")
    assert point["resid_norm"] == pytest.approx(json.loads(info.stdout)["median_resid_norm"], rel=1e-3)


def test_descriptions_of_a_registry_sae_are_kept_in_the_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from neurosteer_cli.saes.descriptions import file_for
    from neurosteer_cli.saes.load import load_sae

    monkeypatch.setenv("NEUROSTEER_CACHE", str(tmp_path / "cache"))
    sae = load_sae(str(save_tiny_sae(tmp_path / "sae")), model_id="tiny")
    file = file_for(sae, "gpt2-small-res-jb/blocks.8.hook_resid_pre", "tiny")
    assert file == tmp_path / "cache" / "descriptions" / f"{sae.sha256[:16]}.jsonl.gz"


# --- SAEs that other libraries saved -----------------------------------------------------------


MATRICES = {"W_enc": W_ENC, "b_enc": B_ENC, "W_dec": W_DEC, "b_dec": B_DEC}
FLAT = {
    "d_in": D_MODEL, "d_sae": D_SAE, "model_name": "tiny", "hook_name": "blocks.2.hook_resid_post",
    "activation_fn_str": "topk", "activation_fn_kwargs": {"k": K}, "apply_b_dec_to_input": True,
    "sae_lens_training_version": "5.11.0",
}  # fmt: skip
FORMS: dict[str, dict[str, Any]] = {
    "older sae-lens": {"cfg.json": FLAT, "sae_weights.safetensors": MATRICES},
    "sparsify": {
        "layers.2/cfg.json": {"d_in": D_MODEL, "num_latents": D_SAE, "k": K, "activation": "topk"},
        "layers.2/sae.safetensors": {
            "encoder.weight": W_ENC.T, "encoder.bias": B_ENC, "W_dec": W_DEC, "b_dec": B_DEC
        },
    },
    "dictionary_learning": {
        "config.json": {"trainer": {"dict_class": "BatchTopKSAE", "layer": 2, "lm_name": "tiny"}},
        "ae.pt": {
            "k": torch.tensor(K), "threshold": torch.tensor(0.5), "encoder.weight": W_ENC.T,
            "encoder.bias": B_ENC, "decoder.weight": W_DEC.T, "b_dec": B_DEC,
        },
    },
    "gemma scope 2": {
        "config.json": {
            "hf_hook_point_in": "model.layers.2.output", "architecture": "jump_relu", "model_name": "tiny"
        },
        "params.safetensors": {
            "w_enc": W_ENC, "b_enc": B_ENC, "w_dec": W_DEC, "b_dec": B_DEC, "threshold": THRESHOLD
        },
    },
}  # fmt: skip


@pytest.mark.parametrize("form", FORMS)
def test_an_sae_of_another_library_goes_through_every_command(
    form: str, corpus: Path, tiny_folder: Path, two_sides: tuple[Path, Path], tmp_path: Path
) -> None:
    sae, file, model = write(tmp_path / "sae", FORMS[form]), tmp_path / "v.st", ("-m", tiny_folder)
    info = json.loads(run("sae", "info", sae, corpus, *model, "--tokens", "1k", "--json").stdout)
    assert (info["hook_point"], info["d_sae"]) == (POINTS[1], D_SAE)
    assert info["l0"] > 1
    run("sae", "describe", sae, corpus, *model, "--tokens", "1k")
    assert POINTS[1] in run("sae", "search", sae, "corpus", *model).stdout
    run("fit", *two_sides, "--sae", sae, *model, "--top-k", "20", "-o", file)
    assert [str(point) for point in SteeringVector.load(file).pushes] == [POINTS[1]]
    assert "described as" in run("inspect", file).stdout
    run(*TRAIN, corpus, *model, "--init", sae, "-o", tmp_path / "trained")
