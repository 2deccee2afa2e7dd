"""Many clients at once, slow ones, and ones that leave: nobody else notices, and nothing is left behind."""

import gc
import os
import socket
import struct
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace
from itertools import product
from typing import Any

import httpx
import openai
import pytest
import torch
from support.serving import events, post, served, slow, wait_for
from support.tiny import D_MODEL, tiny_vector

from neurosteer_cli.generation.continuation import Continuation
from neurosteer_cli.models.engine import Engine
from neurosteer_cli.models.hooks import HookPoint
from neurosteer_cli.serving.completions import Completions
from neurosteer_cli.vectors.vector import SteeringVector

SCRIPTS = (
    "plain", "naïve café", "日本語のテキスト", "русский", "العربية", "हिन्दी",
    "👍🏽 🇩🇪 👩‍👩‍👧", "e\u0301 o\u0308", "\ufeffbom",
    "a\u2028b", "𝒜𝓁𝑔",
)  # fmt: skip


@pytest.fixture(scope="module")
def vectors(engine: Engine) -> dict[str, SteeringVector]:
    pushes = torch.randn(2, D_MODEL, generator=torch.Generator().manual_seed(3)) * 10
    return {
        name: tiny_vector(engine.shape, {HookPoint(1 + n): pushes[n]})
        for n, name in enumerate(("polite", "happy"))
    }


@pytest.fixture(scope="module")
def server(engine: Engine, vectors: dict[str, SteeringVector]) -> Iterator[tuple[str, Completions]]:
    """One whose texts do not end by themselves, so that none is over too early."""
    with served(replace(engine, stop_ids=frozenset()), vectors, max_batch=16) as found:
        yield found


def text_of(address: str, body: dict[str, Any]) -> str:
    answer = post(address, "/v1/completions", body)
    assert answer.status_code == 200, answer.text
    return str(answer.json()["choices"][0]["text"])


def test_requests_of_all_kinds_are_answered_the_same_one_at_a_time_and_16_at_once(
    server: tuple[str, Completions],
) -> None:
    asked = [
        {
            "prompt": SCRIPTS[n % len(SCRIPTS)] * (1 + n % 3),
            "max_tokens": 10 + n % 7,
            "temperature": (0, 0.7, 1.3)[n % 3],
            "seed": n % 5,
            "positions": ("all", "prompt", "generated")[n % 3],
            "steering": {"polite": float(n % 9 - 4), "happy": float(n % 4)},
        }
        for n in range(40)
    ]
    one_by_one = [text_of(server[0], each) for each in asked]
    with ThreadPoolExecutor(16) as pool:
        at_once = list(pool.map(lambda each: text_of(server[0], each), asked))
    assert at_once == one_by_one
    assert len(set(at_once)) > 30


def test_streams_say_what_whole_answers_say_in_every_script_and_at_every_length(
    server: tuple[str, Completions],
) -> None:
    asked = [
        {"prompt": script, "max_tokens": length, "seed": 1, "stop": stop, "logprobs": 1}
        for script, length, stop in product(SCRIPTS, (1, 2, 20), ("E", ["\ufffd", "ab"]))
    ]

    def ask(body: dict[str, Any]) -> tuple[dict[str, Any], list[dict[str, Any]]]:
        whole = post(server[0], "/v1/completions", body).json()["choices"][0]
        streamed = events(post(server[0], "/v1/completions", {**body, "stream": True}).text)
        return whole, [event["choices"][0] for event in streamed]

    with ThreadPoolExecutor(8) as pool:
        for body, (whole, parts) in zip(asked, pool.map(ask, asked), strict=True):
            assert "".join(part["text"] for part in parts) == whole["text"], body
            assert parts[-1]["finish_reason"] == whole["finish_reason"]
            for key in ("tokens", "text_offset"):
                assert [each for part in parts for each in part["logprobs"][key]] == whole["logprobs"][key]
            assert not any(stop in whole["text"] for stop in body["stop"])


@pytest.fixture
def _only_new_objects() -> Iterator[None]:
    """Have gc look at what comes from here on: what thousands of tests have left takes it long."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.mark.usefixtures("_only_new_objects")
def test_200_clients_that_leave_leave_nothing_behind(
    server: tuple[str, Completions], monkeypatch: pytest.MonkeyPatch
) -> None:
    address, completions = server
    slow(monkeypatch, 0.005)
    host, port = address.removeprefix("http://").split(":")
    body = b'{"prompt": "x", "max_tokens": 100, "stream": %s}'

    def leave(n: int) -> None:
        """Within the request, before an answer, or within it; at times by a reset."""
        sent = body % (b"true" if n % 2 else b"false")
        head = b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
        with closing(socket.create_connection((host, int(port)), timeout=10)) as connection:
            connection.sendall(
                head + b"Content-Length: %d\r\n\r\n" % len(sent) + sent[: -(n % 3 == 0) or None]
            )
            if n % 3 == 1 and n % 2:
                connection.recv(2000)
            if n % 5 == 0:
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

    def left_over() -> tuple[int, int]:
        gc.collect()
        n_continuations = sum(type(each) is Continuation for each in gc.get_objects())
        return n_continuations, len(os.listdir("/proc/self/fd"))

    text_of(address, {"prompt": "x", "max_tokens": 1})
    before = left_over()
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(leave, range(200)))
    wait_for(lambda: not completions.scheduler.is_busy, seconds=3)
    wait_for(lambda: left_over() <= before, seconds=5)
    start = time.monotonic()
    text_of(address, {"prompt": "x", "max_tokens": 1})
    assert time.monotonic() - start < 1


def test_80_clients_at_once_are_all_served_by_asking_again_when_they_are_told_to(
    engine: Engine, vectors: dict[str, SteeringVector], monkeypatch: pytest.MonkeyPatch
) -> None:
    slow(monkeypatch, 0.002)
    with (
        served(engine, vectors, max_batch=8, max_waiting=24) as (address, _),
        openai.OpenAI(base_url=f"{address}/v1", api_key="x", max_retries=20) as client,
    ):

        def ask(n: int) -> str:
            bias = {"257": -100}  # none is to end early
            found = client.completions.create(
                model="tiny", prompt="x", seed=n, max_tokens=30, logit_bias=bias
            )
            return found.choices[0].text

        with ThreadPoolExecutor(80) as pool:
            assert len(set(pool.map(ask, range(80)))) > 60
        counted = httpx.get(f"{address}/metrics").text
    assert 'neurosteer_requests_total{endpoint="/v1/completions",status="200"} 80.0' in counted
    assert 'neurosteer_requests_total{endpoint="/v1/completions",status="429"}' in counted


def test_a_slow_reader_gets_all_of_its_stream_and_holds_up_nobody(server: tuple[str, Completions]) -> None:
    address, _ = server
    host, port = address.removeprefix("http://").split(":")
    body = b'{"prompt": "x", "max_tokens": 100, "n": 8, "seed": 1, "logprobs": 20, "stream": true}'
    with socket.socket() as reader:
        reader.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
        reader.settimeout(20)
        reader.connect((host, int(port)))
        reader.sendall(
            b"POST /v1/completions HTTP/1.0\r\nHost: x\r\nContent-Type: application/json\r\n"
            b"Content-Length: %d\r\n\r\n" % len(body) + body
        )
        start = time.monotonic()
        for _ in range(5):
            text_of(address, {"prompt": "y", "max_tokens": 20})
        assert time.monotonic() - start < 5
        received = b""
        while part := reader.recv(2048):
            received += part
            time.sleep(0.0005)
    said = events(received.partition(b"\r\n\r\n")[2].decode())
    for index in range(8):
        mine = [event["choices"][0] for event in said if event["choices"][0]["index"] == index]
        assert mine[-1]["finish_reason"] == "length"
        assert sum(len(each["logprobs"]["tokens"]) for each in mine) == 100
