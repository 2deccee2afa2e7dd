"""Vectors by name: which are taken in, and what is told of them."""

import httpx
import pytest
from support.serving import post

from neurosteer_cli.errors import IncompatibleVectorError, InputError
from neurosteer_cli.models.engine import Engine
from neurosteer_cli.serving.completions import Completions
from neurosteer_cli.serving.registry import VectorRegistry
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
