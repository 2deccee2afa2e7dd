"""The routes: models, state, and paths that there are not."""

import httpx
import openai
import pytest
from support.serving import PLAIN, post, served

from neurosteer_cli.models.engine import Engine
from neurosteer_cli.serving.completions import Completions
from neurosteer_cli.vectors.vector import SteeringVector


def test_models_are_listed_and_looked_up(client: openai.OpenAI) -> None:
    assert [model.id for model in client.models.list()] == ["tiny", "tiny+happy:8", "tiny+polite:8"]
    assert client.models.retrieve("tiny+polite:3").id == "tiny+polite:3"
    with pytest.raises(openai.NotFoundError, match="no vector is named 'rude'; known: happy, polite"):
        client.models.retrieve("tiny+rude:3")


def test_unknown_paths_and_methods_are_refused_in_the_same_form(server: tuple[str, Completions]) -> None:
    told = httpx.get(f"{server[0]}/v1/nothing").json()["error"]["message"]
    assert told.startswith("there is no /v1/nothing") and "; there are /v1/models, " in told
    told = httpx.get(f"{server[0]}/chat/completions").json()["error"]["message"]
    assert "did you mean /v1/chat/completions?" in told
    wrong = httpx.get(f"{server[0]}/v1/completions")
    assert (wrong.status_code, wrong.headers["allow"]) == (405, "POST")
    assert wrong.json()["error"]["message"] == "/v1/completions takes POST, not GET"
    assert httpx.get(f"{server[0]}/v1/vectors/..%2F..%2Fetc%2Fpasswd").status_code == 404


def test_health_and_metrics_tell_what_happened(engine: Engine, vectors: dict[str, SteeringVector]) -> None:
    with served(engine, vectors) as (address, _):
        post(address, "/v1/completions", {**PLAIN, "max_tokens": 3, "temperature": 0})
        post(address, "/v1/completions", {**PLAIN, "max_tokens": -3})
        state = httpx.get(f"{address}/health").json()
        assert state == {"status": "ok", "model": "tiny", "vectors": 2, "running": 0, "waiting": 0}
        lines = httpx.get(f"{address}/metrics").text.splitlines()
    assert 'neurosteer_requests_total{endpoint="/v1/completions",status="200"} 1.0' in lines
    assert 'neurosteer_requests_total{endpoint="/v1/completions",status="400"} 1.0' in lines
    assert 'neurosteer_tokens_total{kind="prompt"} 1.0' in lines
    assert 'neurosteer_tokens_total{kind="completion"} 3.0' in lines
