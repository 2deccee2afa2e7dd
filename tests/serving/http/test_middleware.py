"""What is refused before anything is read (keys, hosts, bodies), whose pages may ask, and what is noted."""

import json
import logging
import re
import socket
from collections.abc import Iterator
from contextlib import contextmanager

import httpx
import openai
import pytest
from support.serving import CHAT, PLAIN, post, served, slow, wait_for

from neurosteer_cli.models.engine import Engine
from neurosteer_cli.serving.completions import Completions, Limits
from neurosteer_cli.serving.http import middleware
from neurosteer_cli.vectors.vector import SteeringVector


@pytest.mark.parametrize(
    ("content", "kind", "status"),
    [
        (b"{", "application/json", 400),
        (b'{"model": "tiny", "prompt": "\\ud800"}', "application/json", 400),
        (b'{"model": "tiny", "prompt": "x", "temperature": NaN}', "application/json", 400),
        (b"\xff\xfe", "application/json", 400),
        (b"[" * 100_000, "application/json", 400),
        (b'{"model": "tiny", "prompt": "x", "seed": ' + b"9" * 5000 + b"}", "application/json", 400),
        (b"", "application/json", 400),
        (b'{"model": "tiny", "prompt": "x"}', "text/plain", 415),
        (b"model=tiny", "application/x-www-form-urlencoded", 415),
        (b'{"model": "tiny", "prompt": "' + b"x" * 10_000_000 + b'"}', "application/json", 413),
    ],
)
def test_bodies_that_are_no_request_are_refused(
    server: tuple[str, Completions], content: bytes, kind: str, status: int
) -> None:
    answer = httpx.post(f"{server[0]}/v1/completions", content=content, headers={"content-type": kind})
    assert answer.status_code == status
    assert answer.json()["error"]["message"]


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 200),
        ({"content-type": "application/x-www-form-urlencoded"}, 200),  # curl's, unless it is told
        ({"content-type": "text/plain"}, 415),
        ({"origin": "http://elsewhere"}, 415),
        ({"sec-fetch-site": "cross-site"}, 415),
        ({"content-type": "application/x-www-form-urlencoded", "origin": "null"}, 415),
    ],
)
def test_ollamas_clients_need_not_say_that_they_send_json_unless_they_are_pages(
    server: tuple[str, Completions], headers: dict[str, str], status: int
) -> None:
    content = b'{"model": "tiny", "prompt": "x", "stream": false, "options": {"num_predict": 2}}'
    assert httpx.post(f"{server[0]}/api/generate", content=content, headers=headers).status_code == status
    assert httpx.post(f"{server[0]}/v1/completions", content=content, headers=headers).status_code == 415


def test_a_body_that_comes_in_pieces_is_counted_too(server: tuple[str, Completions]) -> None:
    def pieces() -> Iterator[bytes]:
        for _ in range(30):
            yield b" " * 100_000

    headers = {"content-type": "application/json"}
    answer = httpx.post(f"{server[0]}/v1/completions", content=pieces(), headers=headers)
    assert answer.status_code == 413


def test_a_key_is_asked_for_under_v1_and_api_only(engine: Engine, vectors: dict[str, SteeringVector]) -> None:
    with served(engine, vectors, api_key="secret") as (address, _):
        for headers in ({}, {"authorization": "Bearer wrong"}, {"authorization": "secret"}):
            assert post(address, "/v1/completions", PLAIN, headers=headers).status_code == 401
            assert httpx.get(f"{address}/v1/models", headers=headers).status_code == 401
            assert httpx.get(f"{address}/api/tags", headers=headers).status_code == 401
        assert httpx.get(f"{address}/health").status_code == 200
        lower = {"authorization": "bearer secret"}
        assert post(address, "/v1/completions", PLAIN, headers=lower).status_code == 200
        with openai.OpenAI(base_url=f"{address}/v1", api_key="secret") as client:
            assert client.completions.create(model="tiny", prompt="x", max_tokens=1).choices
        with pytest.raises(openai.AuthenticationError):
            openai.OpenAI(base_url=f"{address}/v1", api_key="other").models.list()
        counted = httpx.get(f"{address}/metrics").text.splitlines()
    assert 'neurosteer_requests_total{endpoint="/v1/completions",status="401"} 3.0' in counted
    assert 'neurosteer_requests_total{endpoint="/v1/models",status="401"} 4.0' in counted


def test_without_a_key_it_is_asked_for_under_its_own_names_only(
    engine: Engine, vectors: dict[str, SteeringVector]
) -> None:
    with served(engine, vectors, hosts=("127.0.0.1", "localhost", "::1")) as (address, _):
        port = address.rsplit(":", 1)[1]
        for host, status in (
            (f"127.0.0.1:{port}", 200), ("localhost", 200), ("LOCALHOST", 200), (f"[::1]:{port}", 200),
            ("evil.example", 403), (f"evil.example:{port}", 403), ("127.0.0.1.evil.example", 403), ("", 403),
        ):  # fmt: skip
            assert httpx.get(f"{address}/v1/models", headers={"host": host}).status_code == status, host


def test_a_body_that_does_not_come_is_not_waited_for_long(
    server: tuple[str, Completions], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(middleware, "SECONDS_FOR_A_BODY", 0.2)
    with begun(server[0]) as connection:
        assert connection.recv(100).startswith(b"HTTP/1.1 408 ")


def test_a_client_that_leaves_within_its_body_is_counted_as_one_whose_body_did_not_come(
    engine: Engine, vectors: dict[str, SteeringVector]
) -> None:
    with served(engine, vectors) as (address, _):
        with begun(address):
            pass
        line = 'neurosteer_requests_total{endpoint="/v1/completions",status="408"} 1.0'
        wait_for(lambda: line in httpx.get(f"{address}/metrics").text)


def preflight(address: str, origin: str, **headers: str) -> httpx.Response:
    asked = {
        "access-control-request-method": "POST",
        "access-control-request-headers": "content-type, x-stainless-os",
    }
    return httpx.options(f"{address}/v1/completions", headers={"origin": origin, **asked, **headers})


def test_pages_of_other_sites_may_ask_where_that_is_allowed(
    engine: Engine, vectors: dict[str, SteeringVector]
) -> None:
    page, other = "http://localhost:3000", "https://evil.example"
    allowed = "access-control-allow-origin"
    with served(engine, vectors, api_key="secret", allow_origins=(page,)) as (address, _):
        asked = preflight(address, page, **{"access-control-request-private-network": "true"})
        assert (asked.status_code, asked.headers[allowed]) == (200, page)
        assert asked.headers["access-control-allow-private-network"] == "true"
        assert "x-stainless-os" in asked.headers["access-control-allow-headers"]
        headers = {"origin": page, "authorization": "Bearer secret"}
        assert post(address, "/v1/completions", PLAIN, headers=headers).headers[allowed] == page
        refused = post(address, "/v1/completions", PLAIN, headers={"origin": page})
        assert (refused.status_code, refused.headers[allowed]) == (401, page)  # the page may read why
        asked = preflight(address, other)
        assert (asked.status_code, allowed in asked.headers) == (400, False)
        assert allowed not in httpx.get(f"{address}/health", headers={"origin": other}).headers


def test_all_pages_may_be_allowed_and_no_host_but_its_own_with_them(
    engine: Engine, vectors: dict[str, SteeringVector]
) -> None:
    with served(engine, vectors, allow_origins=("*",), hosts=("127.0.0.1",)) as (address, _):
        assert preflight(address, "https://any.example").headers["access-control-allow-origin"] == "*"
        for host, status in (("127.0.0.1", 200), ("evil.example", 403)):
            headers = {"host": host, "origin": "http://evil.example"}
            assert post(address, "/v1/completions", PLAIN, headers=headers).status_code == status


def test_no_page_may_ask_unless_it_is_allowed(server: tuple[str, Completions]) -> None:
    asked = preflight(server[0], "http://localhost:3000")
    assert asked.status_code == 405
    assert not [name for name in asked.headers if name.startswith("access-control")]


def test_a_line_about_each_request_goes_to_the_log(
    engine: Engine, vectors: dict[str, SteeringVector], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "neurosteer.requests")
    asked = {"max_tokens": 3, "temperature": 0, "steering": {"polite": 8, "happy": -0.5}}
    with served(engine, vectors) as (address, _):
        post(address, "/v1/completions", {**PLAIN, **asked, "prompt": "secret"})
        post(address, "/v1/chat/completions", {**CHAT, **asked, "stream": True})
        post(address, "/v1/completions", {**PLAIN, "steering": {"rude": 8}})
        post(address, "/v1/completions", {**PLAIN, "zzz": 8})
        post(address, "/api/generate", {"prompt": "x", "steering": {"rude": 8}})
        httpx.get(f"{address}/v1/no%0Athing")
        httpx.head(f"{address}/health/")
    lines = [record.getMessage() for record in caplog.records if record.name == "neurosteer.requests"]
    assert [re.sub(r"^127\.0\.0\.1:\d+ (.*), \d\.\d\d s", r"\1", line)[:70] for line in lines] == [
        "POST /v1/completions 200, read 6, wrote 3, polite:8 happy:-0.5",
        "POST /v1/chat/completions 200, read 20, wrote 3, polite:8 happy:-0.5",
        "POST /v1/completions 404, no vector is named 'rude'; known: happy, pol",
        "POST /v1/completions 400, zzz: unknown field",
        "POST /api/generate 404, no vector is named 'rude'; known: happy, polit",
        "GET /v1/no\\nthing 404, there is no /v1/nothing, did you mean /v1/compl",
        "HEAD /health/ 200",
    ]
    assert "secret" not in caplog.text


def test_the_log_says_how_a_text_ended_and_what_it_is_only_where_it_is_asked_to(
    engine: Engine,
    vectors: dict[str, SteeringVector],
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    caplog.set_level(logging.INFO, "neurosteer.requests")
    slow(monkeypatch, 0.05)
    body = {**PLAIN, "prompt": "line\nbreak", "max_tokens": 100, "temperature": 0}
    with served(engine, vectors, log_texts=True, limits=Limits(seconds=0.5)) as (address, _):
        text = post(address, "/v1/completions", body).json()["choices"][0]["text"]
        with httpx.stream("POST", f"{address}/v1/completions", json={**body, "stream": True}) as answer:
            next(answer.iter_lines())
        wait_for(lambda: len(caplog.messages) == 2)
    first, second = caplog.messages
    assert ", time_limit 0.5 s, " in first
    assert first.endswith(f'"line\\nbreak" -> {json.dumps(text, ensure_ascii=False)}')
    assert ", client left, " in second


@contextmanager
def begun(address: str) -> Iterator[socket.socket]:
    """A connection on which the first byte of a hundred has been sent."""
    host, port = address.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=10) as connection:
        connection.sendall(
            b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
            b"Content-Length: 100\r\n\r\n{"
        )
        yield connection
