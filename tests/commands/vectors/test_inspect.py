"""`neurosteer inspect`: what a vector file says, with and without its model and SAE."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support.cli import rows, run
from support.tiny import save_tiny, save_tiny_sae, tiny_tokenizer
from typer.testing import Result

from neurosteer_cli import __version__
from neurosteer_cli.vectors.metadata import Kind, VectorMetadata
from neurosteer_cli.vectors.vector import SteeringVector

pytestmark = pytest.mark.usefixtures("in_fitted_folder")
POINT = "blocks.2.hook_resid_post"
METADATA_KEYS = set(VectorMetadata.model_fields)


def test_inspect_shows_origin_and_latents_on_stdout() -> None:
    result = run("inspect", "a.st")
    assert result.stderr == ""
    lines = result.stdout.splitlines()
    assert lines[0].startswith(f"vector: a.st (format 3, neurosteer {__version__}, ")
    assert lines[1] == f"model: {Path('tiny').resolve()} (LlamaForCausalLM, d_model 16, 4 blocks)"
    assert lines[2] == "method: neurosteer top_k=8"
    assert lines[3] == "kind: add; alpha 1 is a dose of 1.00%"
    assert lines[4].startswith("towards: up: 20 texts, 600 tokens, sha256 ")
    assert lines[5].startswith("away: down: 20 texts, 600 tokens, sha256 ")
    assert lines[6].startswith(f"{POINT}: alpha 1 adds ")
    middle = SteeringVector.load(Path("a.st")).metadata.points[POINT].middle
    assert f"; the middle of the sides is at {middle:.2f} along it; " in lines[6]
    assert lines[7].startswith("detector: z is a text's projection less ")
    assert lines[8].strip() == POINT
    ids = SteeringVector.load(Path("a.st")).latents
    (latents,) = ids.values()
    shown = [line.split()[0] for line in lines if line.strip()[:1].isdigit()]
    assert shown == [str(latent) for latent in latents.ids.tolist()]


def test_inspect_json_is_the_metadata_and_the_pushes() -> None:
    (record,) = rows(run("inspect", "a.st", "--json", "--latents", "3"))
    assert set(record) == {"vector", "pushes", "bias"} | METADATA_KEYS
    assert record["bias"] is None
    push = record["pushes"][POINT]
    assert set(push) == {"push_norm", "latents"}
    whole, *shown = push["latents"]
    assert set(whole) == {"latent_id", "weight", "promoted", "suppressed"}
    assert (whole["latent_id"], whole["weight"]) == (None, None)
    assert len(shown) == 3
    vector = SteeringVector.load(Path("a.st"))
    (latents,) = vector.latents.values()
    for row, latent, weight in zip(shown, latents.ids.tolist(), latents.weights.tolist(), strict=False):
        assert set(row) == {
            "latent_id", "weight", "positive_rate", "negative_rate", "neuronpedia",
            "promoted", "suppressed", "name",
        }  # fmt: skip
        assert row["name"] is None  # its SAE has no descriptions
        assert (row["latent_id"], row["weight"]) == (latent, weight)
        assert len(row["promoted"]) == len(row["suppressed"]) == 5


def test_inspect_names_the_parents_of_a_sum(tmp_path: Path) -> None:
    run("combine", "a.st:2", "b.st:-0.5", "-o", str(tmp_path / "sum.st"))
    lines = run("inspect", str(tmp_path / "sum.st")).stdout.splitlines()
    assert lines[2] == "method: combine"
    assert lines[4].startswith("parent: +2 x a.st (sha256 ")
    assert lines[5].startswith("parent: -0.5 x b.st (sha256 ")
    (record,) = rows(run("inspect", str(tmp_path / "sum.st"), "--json"))
    assert list(record["pushes"]) == ["blocks.1.hook_resid_post", POINT]


@pytest.fixture
def words(tmp_path: Path) -> Path:
    """A vector that adds to logits."""
    out = tmp_path / "words.st"
    run("fit", "up.jsonl", "down.jsonl", "-m", "tiny", "--method", "logodds", "-o", str(out))
    return out


def test_inspect_shows_tokens_by_what_is_added_to_their_logits(words: Path) -> None:
    bias = SteeringVector.load(words).bias
    assert bias is not None
    dense = bias.dense(300)
    high, low = int(dense.argmax()), int(dense.argmin())
    (record,) = rows(run("inspect", str(words), "--json", "--latents", "2"))
    found = record["bias"]
    assert found["n_tokens"] == len(bias.ids)
    assert [len(found[side]) for side in ("raised", "lowered")] == [2, 2]
    text = tiny_tokenizer().decode([high])
    assert found["raised"][0] == {"token_id": high, "token": text, "bias": pytest.approx(float(dense[high]))}
    assert found["lowered"][0]["bias"] == pytest.approx(float(dense[low]))
    lines = run("inspect", str(words), "--latents", "2").stdout.splitlines()
    assert f"kind: logits; alpha 1 is up to {dense.abs().max():.2f} nats on the logit of a token" in lines
    shown = (
        f"logits: alpha 1 adds {dense.min():+.3f} to {dense.max():+.3f} to those of {len(bias.ids)} tokens"
    )
    assert shown in lines
    table = [line for line in lines if repr(text) in line]
    assert len(table) == 1 and f"{dense[high]:+.3f}" in table[0]


@pytest.mark.parametrize(
    ("kind", "does"),
    [
        ("ablate", "ablate; alpha 1 is 100% of the component taken away"),
        (
            "clamp",
            "clamp; alpha 1 is a component held +1.00% of the residual's length from the middle of the "
            "two sides",
        ),
    ],
)
def test_inspect_says_how_a_vector_acts(tmp_path: Path, kind: Kind, does: str) -> None:
    SteeringVector.load(Path("a.st")).acting(kind).save(tmp_path / "v.st")
    lines = run("inspect", str(tmp_path / "v.st"), "--latents", "0").stdout.splitlines()
    assert f"kind: {does}" in lines
    assert any(line.startswith(f"{POINT}: its length is ") for line in lines)


@pytest.fixture
def lone(tmp_path: Path) -> Callable[..., list[str]]:
    """Fit a vector on a model and an SAE of its own; the arguments that inspect it."""
    save_tiny(tmp_path / "own")
    save_tiny_sae(tmp_path / "own_sae")
    run("fit", "up.jsonl", "down.jsonl", "-m", str(tmp_path / "own"), "--top-k", "8",
        "--sae", str(tmp_path / "own_sae"), "-o", str(tmp_path / "v.st"))  # fmt: skip
    return ["inspect", str(tmp_path / "v.st"), "--latents", "2", "--json"]


def latents_of(result: Result) -> list[dict[str, Any]]:
    (record,) = rows(result)
    shown: list[dict[str, Any]] = record["pushes"][POINT]["latents"]
    return shown


def test_inspect_does_without_a_model_that_is_gone(lone: list[str], tmp_path: Path) -> None:
    (tmp_path / "own").rename(tmp_path / "moved")
    result = run(*lone)
    assert result.stderr == (
        f"model '{tmp_path / 'own'}' is not on this machine: promoted tokens are left out\n"
    )
    assert [set(row) for row in latents_of(result)] == [
        {"latent_id", "weight", "positive_rate", "negative_rate", "neuronpedia"}
    ] * 2


@pytest.mark.parametrize("change", ["another shape", "damaged"])
def test_inspect_does_without_a_model_that_has_changed(lone: list[str], tmp_path: Path, change: str) -> None:
    own = tmp_path / "own"
    if change == "another shape":
        save_tiny(own, "gpt2")
        message = f"model '{own}' is not the one the vector was fitted on: promoted tokens are left out"
    else:
        (own / "config.json").unlink()
        message = f"promoted tokens are left out: {own}: no config.json; not a Hugging Face checkpoint folder"
    result = run(*lone)
    assert result.stderr == f"{message}\n"
    assert all("promoted" not in row for row in latents_of(result))


@pytest.mark.parametrize("change", [{"d_sae": 32}, {"seed": 5}])
def test_inspect_does_without_an_sae_that_has_changed(
    lone: list[str], tmp_path: Path, change: dict[str, int]
) -> None:
    save_tiny_sae(tmp_path / "own_sae", **change)
    result = run(*lone)
    assert result.stderr == (
        f"tokens of single latents are left out: SAE '{tmp_path / 'own_sae'}' has changed\n"
    )
    whole, *shown = latents_of(result)
    assert "promoted" in whole
    assert all("promoted" not in row for row in shown)
