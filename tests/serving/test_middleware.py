"""What is refused before anything is read: keys, hosts, bodies."""

import socket
from collections.abc import Iterator
from contextlib import contextmanager

import httpx
import openai
import pytest
from support.serving import PLAIN, post, served, wait_for

from neurosteer_cli.models.engine import Engine
from neurosteer_cli.serving import middleware
from neurosteer_cli.serving.completions import Completions
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


def test_a_body_that_comes_in_pieces_is_counted_too(server: tuple[str, Completions]) -> None:
    def pieces() -> Iterator[bytes]:
        for _ in range(30):
            yield b" " * 100_000

    headers = {"content-type": "application/json"}
    answer = httpx.post(f"{server[0]}/v1/completions", content=pieces(), headers=headers)
    assert answer.status_code == 413


def test_a_key_is_asked_for_under_v1_only(engine: Engine, vectors: dict[str, SteeringVector]) -> None:
    with served(engine, vectors, api_key="secret") as (address, _):
        for headers in ({}, {"authorization": "Bearer wrong"}, {"authorization": "secret"}):
            assert post(address, "/v1/completions", PLAIN, headers=headers).status_code == 401
            assert httpx.get(f"{address}/v1/models", headers=headers).status_code == 401
        assert httpx.get(f"{address}/health").status_code == 200
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
