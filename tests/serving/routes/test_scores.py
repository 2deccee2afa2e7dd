"""Texts are scored by what whoever runs the server gave to score them by."""

from collections.abc import Sequence
from typing import Any

from support.serving import post, served

from neurosteer_cli.models.engine import Engine
from neurosteer_cli.vectors.vector import SteeringVector

ASKED: dict[str, Any] = {"prompt": "to be", "texts": [" or not", ""]}


def test_what_is_given_scores_texts_and_chats_by_their_template(
    engine: Engine, vectors: dict[str, SteeringVector]
) -> None:
    def score(prompt: str, rendered: bool, texts: Sequence[str]) -> dict[str, Any]:
        return {"prompt": prompt, "rendered": rendered, "lengths": list(map(len, texts))}

    with served(engine, vectors, score=score) as (address, _):
        assert post(address, "/v1/score", ASKED).json() == {
            "prompt": "to be", "rendered": False, "lengths": [7, 0]
        }  # fmt: skip
        chat = post(address, "/v1/score", {**ASKED, "chat": True}).json()
        assert chat["rendered"] is True
        assert chat["prompt"] == engine.chat([{"role": "user", "content": "to be"}], "prompt")
        refused = post(address, "/v1/score", {**ASKED, "texts": []})
        assert (refused.status_code, refused.json()["error"]["param"]) == (400, "texts")


def test_without_there_is_no_such_path(engine: Engine, vectors: dict[str, SteeringVector]) -> None:
    with served(engine, vectors) as (address, _):
        assert post(address, "/v1/score", ASKED).status_code == 404
