"""Vectors by name: which are taken in, and what is told of them."""

from pathlib import Path

import httpx
import pytest
from support.serving import post
from support.tiny import save_tiny_sae

from neurosteer_cli.errors import IncompatibleVectorError, InputError
from neurosteer_cli.models.engine import Engine
from neurosteer_cli.saes.descriptions import FILE_NAME, About, Context, Description, Descriptions
from neurosteer_cli.saes.load import load_sae
from neurosteer_cli.serving.completions import Completions
from neurosteer_cli.serving.registry import VectorRegistry, strongest_latents
from neurosteer_cli.vectors.fitting.from_latents import choose, from_latents
from neurosteer_cli.vectors.vector import SteeringVector


def test_a_vector_of_another_model_is_refused_before_anything_is_served(
    engine: Engine, vectors: dict[str, SteeringVector]
) -> None:
    registry = VectorRegistry(engine.shape.model_copy(update={"d_model": 8}), "other")
    with pytest.raises(IncompatibleVectorError, match=r"^polite\.st was fitted on 'tiny'"):
        registry.add("polite", vectors["polite"], "polite.st")
    registry = VectorRegistry(engine.shape, "tiny")
    for name in ("", "../x", ".hidden", "a b", "x" * 65, "a+b", "a:b"):
        with pytest.raises(InputError, match="cannot be a vector's name"):
            registry.add(name, vectors["polite"], "file")
    registry.add("polite", vectors["polite"], "file")
    with pytest.raises(InputError, match="there is a vector named 'polite' already"):
        registry.add("polite", vectors["polite"], "file")


def test_vectors_and_doses_are_told(
    server: tuple[str, Completions], vectors: dict[str, SteeringVector]
) -> None:
    listed = httpx.get(f"{server[0]}/v1/vectors").json()
    assert [card["id"] for card in listed["data"]] == ["happy", "polite"]
    assert listed["can_fit"] is False
    card = httpx.get(f"{server[0]}/v1/vectors/polite").json()
    assert card["hook_points"] == list(vectors["polite"].metadata.points)
    assert card["suggested_alpha"] == 8
    dose = post(server[0], "/v1/dose", {"steering": {"polite": 4}}).json()["dose"]
    assert dose == pytest.approx(vectors["polite"].dose(4.0), abs=1e-6)
    assert post(server[0], "/v1/vectors", {}).status_code == 405


def test_latents_are_told_by_their_share_of_the_push_at_their_hook_point(
    engine: Engine, tmp_path: Path
) -> None:
    chosen = {
        1: {3: -1.0, 9: 3.0},
        2: {4: 50.0, 5: 50.0},
    }  # weights of one place say nothing beside another's
    choices = []
    for layer, weights in chosen.items():
        folder = save_tiny_sae(tmp_path / str(layer), hook_name=f"blocks.{layer}.hook_resid_post")
        sae = load_sae(str(folder), model_id="tiny")
        choices.append(choose(sae, weights, 200.0, [0.25] * sae.d_sae))
        if layer == 1:
            about = About(
                format_version=2, program_version="0", sae_sha256=sae.sha256, model_id="tiny",
                hook_point=str(sae.hook_point), d_sae=sae.d_sae, n_tokens=10, median_resid_norm=1.0,
            )  # fmt: skip
            contexts = (Context("it was", " hardly", " worth", 9.0), Context("is", " not", "", 8.0))
            latents = [Description(n, 0.1, contexts if n == 9 else (), (), ()) for n in range(sae.d_sae)]
            Descriptions(about, latents).save(folder / FILE_NAME)
    found = strongest_latents(from_latents(engine, choices))
    assert [(one["hook_point"], one["latent_id"], one["share"]) for one in found] == [
        ("blocks.1.hook_resid_post", 9, 0.75),
        ("blocks.2.hook_resid_post", 4, 0.5),
        ("blocks.2.hook_resid_post", 5, 0.5),
        ("blocks.1.hook_resid_post", 3, 0.25),
    ]
    assert (found[0]["weight"], found[3]["weight"]) == (3.0, -1.0)
    assert found[0]["tokens"] == ["hardly", "not"]
    assert found[0]["context"] == ["it was", " hardly", " worth"]
    assert found[1]["context"] is None  # no descriptions are at hand
    assert found[3]["context"] is None  # it never fired
