"""Which paths there are, by whatever form of them and by HEAD, and what is said of others."""

import httpx
import pytest
from support.serving import PLAIN, post

from neurosteer_cli.serving.completions import Completions

Server = tuple[str, Completions]


@pytest.mark.parametrize(
    "path",
    ["/", "/about", "/health", "/metrics", "/v1", "/v1/", "/v1/models", "/v1/models/tiny",
     "/v1/vectors/polite",
             "/api", "/api/tags", "/api/version", "/openapi.json"],
)  # fmt: skip
def test_head_is_answered_wherever_get_is(server: Server, path: str) -> None:
    with httpx.Client(base_url=server[0]) as client:
        got, head = client.get(path), client.head(path)
        assert (head.status_code, head.content) == (got.status_code, b"") == (200, b"")
        assert head.headers["content-type"] == got.headers["content-type"]
        assert client.get("/health").is_success  # the connection is still in step


def test_head_is_refused_where_get_is(server: Server) -> None:
    assert httpx.head(f"{server[0]}/v1/completions").status_code == 405
    assert httpx.head(f"{server[0]}/v1/vectors/rude").status_code == 404


def test_the_address_that_clients_are_given_says_what_there_is(server: Server) -> None:
    for path in ("/v1", "/v1/", "/api"):
        found = httpx.get(f"{server[0]}{path}").json()
        assert found["models"] == ["tiny", "tiny+happy:8", "tiny+polite:8"]
        assert found["paths"]["/v1/completions"] == ["POST"]
        assert found["paths"]["/v1/vectors/NAME"] == ["GET"]


def test_a_slash_at_the_end_changes_nothing(server: Server) -> None:
    asked = {**PLAIN, "max_tokens": 3, "temperature": 0}
    found = [post(server[0], path, asked) for path in ("/v1/completions", "/v1/completions/")]
    assert found[0].json()["choices"] == found[1].json()["choices"]
    assert httpx.get(f"{server[0]}/health/").json()["status"] == "ok"


@pytest.mark.parametrize(
    ("method", "path", "status", "message"),
    [
        ("GET", "/v1/completions", 405, "/v1/completions takes POST, not GET"),
        ("POST", "/v1/models", 405, "/v1/models takes GET, not POST"),
        ("DELETE", "/v1/models/tiny", 405, "/v1/models/tiny takes GET, not DELETE"),
        ("POST", "/chat/completions", 404,
         "there is no /chat/completions, did you mean /v1/chat/completions?; there"),
        ("POST", "/v1/chat/completion", 404, "did you mean /v1/chat/completions?"),
        ("POST", "/v1/audio/speech", 404, "; there are /v1/models, /v1/models/NAME, /v1/completions, "),
    ],
)  # fmt: skip
def test_what_there_is_not_is_refused_with_what_there_is(
    server: Server, method: str, path: str, status: int, message: str
) -> None:
    found = httpx.request(method, server[0] + path, json=None if method == "GET" else {})
    assert found.status_code == status
    assert message in found.json()["error"]["message"]
