"""`neurosteer fit`: the vector file, what is told on stderr, and the JSON."""

import json
from dataclasses import fields
from pathlib import Path

import pytest
from support.cli import refused, rows, run
from support.tiny import save_tiny_sae

from neurosteer_cli.vectors.fitting.report import FitReport, LatentRow
from neurosteer_cli.vectors.kinds import Ablation, Clamp, LatentClamp
from neurosteer_cli.vectors.metadata import VectorMetadata
from neurosteer_cli.vectors.steering import Steering
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
    told = result.stderr.splitlines()
    warnings = [line.removeprefix("warning: ") for line in told if line.startswith("warning: ")]
    assert warnings[:2] == [
        f"{side}: 20 texts; 50 or more a side give a more dependable vector" for side in ("up", "down")
    ]
    assert [line.split(" stands in ")[0] for line in warnings[2:]] == [
        f"marker: {word!r}" for word in ("aaa", "aab", "bbb", "yyy", "zzy", "zzz")
    ]
    lines = told[len(warnings) :]
    assert lines[0].startswith("up 20 texts, 600 tokens; down 20 texts, 600 tokens; ")
    assert lines[1].startswith(f"{POINT}: held-out AUROC 1.00 on 4 + 4 texts; the sides differ by ")
    assert lines[2].strip() == "strongest latents"
    assert " ".join(lines[4].split()) == "fires fires"
    assert " ".join(lines[5].split()) == "latent weight t up down fires most at"
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


# --- kinds -------------------------------------------------------------------------------------

METHODS: dict[str, list[str]] = {
    "neurosteer": ["--sae", "sae", "--top-k", "8"],
    "paper": ["--method", "paper", "--sae", "sae", "--top-k", "8"],
    "diffmean": ["--method", "diffmean"],
    "pca": ["--method", "pca"],
    "mixed": ["--method", "diffmean", "--logits-share", "0.5"],
    "logodds": ["--method", "logodds"],
}
PUSHING = ("neurosteer", "paper", "diffmean", "pca")


@pytest.mark.parametrize(("kind", "edit"), [("ablate", Ablation), ("clamp", Clamp)])
@pytest.mark.parametrize("method", PUSHING)
def test_a_vector_of_every_method_that_pushes_can_act_as_every_kind(
    tmp_path: Path, method: str, kind: str, edit: type
) -> None:
    out = tmp_path / "v.st"
    told = run(*FIT, *METHODS[method], "--kind", kind, "-o", str(out)).stderr
    vector = SteeringVector.load(out)
    assert vector.metadata.kind == kind
    (found,) = Steering.of([vector], [vector.default_alpha]).edits.values()
    assert [type(each) for each in found] == [edit]
    does = {
        "ablate": "alpha 1 is 100% of the component taken away",
        "clamp": "alpha 8 is a component held +8.00% of the residual's length from the middle "
        "of the two sides",
    }[kind]
    assert told.splitlines()[-2:] == [
        f"wrote {out}: {does}",
        f"next: neurosteer gen 'Once upon a time' -v {out} -a {vector.default_alpha:g}",
    ]


def test_latents_that_were_chosen_are_clamped_themselves(tmp_path: Path) -> None:
    out = tmp_path / "v.st"
    run("fit", "up.jsonl", "--latent", "3:2", "--sae", "sae", "-m", "tiny", "--kind", "clamp", "-o", str(out))
    (found,) = Steering.of([SteeringVector.load(out)], [8.0]).edits.values()
    assert [type(each) for each in found] == [LatentClamp]


@pytest.mark.parametrize("method", METHODS)
def test_a_vector_adds_unless_it_is_told_otherwise(tmp_path: Path, method: str) -> None:
    out = tmp_path / "v.st"
    run(*FIT, *METHODS[method], "-o", str(out))
    assert SteeringVector.load(out).metadata.kind == ("logits" if method == "logodds" else "add")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--kind", "logits"], "--kind must be one of add, ablate, clamp, got 'logits'"),
        (["--method", "logodds", "--kind", "add"],
         "--method logodds acts on logits; leave out --kind, or choose another method"),
        (["--logits-share", "0.5", "--kind", "clamp"],
         "--kind clamp: does without --logits-share, which is for what is added"),
        (["--shuffle-labels", "-1"], "--shuffle-labels must be at least 0, got -1"),
        (["--latent", "3:1", "--shuffle-labels", "0"],
         "--latent: goes with --sae, --layers, --kind and -o, not with options for texts"),
        (["--latent", "3:1", "--logits-share", "0.5"],
         "--latent: goes with --sae, --layers, --kind and -o, not with options for texts"),
    ],
)  # fmt: skip
def test_what_does_not_go_together_is_refused_before_texts_are_read(
    tmp_path: Path, options: list[str], message: str
) -> None:
    out = tmp_path / "v.st"
    assert refused("fit", "none.jsonl", "none.jsonl", "-m", "tiny", *options, "-o", str(out)) == (
        f"error: {message}"
    )
    assert not out.exists()


def test_fit_tells_what_a_bias_urges_and_how_to_try_it(tmp_path: Path) -> None:
    out = tmp_path / "v.st"
    result = run(*FIT, *METHODS["logodds"], "-o", str(out), "--json")
    lines = [line for line in result.stderr.splitlines() if not line.startswith("warning: ")]
    bias = SteeringVector.load(out).bias
    assert bias is not None
    assert " s" in lines[0] and "tokens/s" not in lines[0]  # no pass is made
    assert lines[1] == f"logits: held-out AUROC 1.00 on 4 + 4 texts; a bias of {len(bias.ids)} tokens"
    assert lines[2].strip() == "strongest tokens"
    assert " ".join(lines[5].split()) == "token alpha 8 up down"
    nats = 8 * float(bias.bias.abs().max())
    assert lines[-2:] == [
        f"wrote {out}: alpha 8 is up to {nats:.2f} nats on the logit of a token",
        f"next: neurosteer gen 'Once upon a time' -v {out} -a 8",
    ]
    (record,) = rows(result)
    strongest = record["report"]["tokens"]
    assert {row["token"] for row in strongest if row["bias"] > 0} == {"u", "a", "b"}
    assert {row["token"] for row in strongest if row["bias"] < 0} >= {"d", "y", "z"}
    assert record["report"]["tokens_auroc"] == 1.0
    run("gen", "Once upon a time", "-v", str(out), "-a", "8", "--max-new-tokens", "2")


def test_fit_tells_of_both_parts_of_a_mixed_vector(tmp_path: Path) -> None:
    out = tmp_path / "v.st"
    told = run(*FIT, *METHODS["mixed"], "-o", str(out)).stderr
    bias = SteeringVector.load(out).bias
    assert bias is not None
    nats = 8 * float(bias.bias.abs().max())
    assert f"\n{POINT}: held-out AUROC 1.00 on 4 + 4 texts; " in told
    assert "\nlogits: held-out AUROC 1.00 on 4 + 4 texts; " in told
    assert (
        f"wrote {out}: alpha 8 is a dose of 4.00% and up to {nats:.2f} nats on the logit of a token\n" in told
    )


# --- controls ----------------------------------------------------------------------------------


@pytest.mark.parametrize("method", METHODS)
def test_a_control_says_that_it_is_one_and_is_named_so(
    fitted_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    monkeypatch.chdir(tmp_path)
    files = [str(fitted_folder / name) for name in ("up.jsonl", "down.jsonl")]
    options = [str(fitted_folder / "sae") if each == "sae" else each for each in METHODS[method]]
    result = run("fit", *files, "-m", str(fitted_folder / "tiny"), *options, "--shuffle-labels", "5")
    assert "a control: the texts of up and down were dealt out at random (seed 5)\n" in result.stderr
    assert "marker" not in result.stderr and "hardly separate" not in result.stderr
    vector = SteeringVector.load(Path("up-shuffled.st"))
    assert vector.metadata.parameters["shuffle_labels"] == 5
    assert vector.metadata.positive is not None and vector.metadata.positive.n_texts == 20
    shown = run("inspect", "up-shuffled.st").stdout
    assert "shuffle_labels=5" in shown


def test_a_control_is_a_vector_like_any_other(tmp_path: Path) -> None:
    out = tmp_path / "v.st"
    run(*FIT, "--method", "diffmean", "--shuffle-labels", "0", "-o", str(out))
    gen = ("gen", "hello", "-v", str(out), "--max-new-tokens", "12", "--dtype", "float32")
    assert run(*gen, "-a", "3000").stdout != run(*gen, "-a", "0").stdout
