"""Many clients at once, patient and rude ones: everybody gets what is theirs, and nothing is left behind."""

import json
import os
import socket
import struct
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import openai
import pytest
import torch
from support.serving import post, served, slow, wait_for
from support.tiny import D_MODEL, tiny_vector

from neurosteer_cli.generation.continuation import GenerationConfig
from neurosteer_cli.generation.generate import Job, generate
from neurosteer_cli.generation.sampling import Sampling
from neurosteer_cli.models.engine import Engine
from neurosteer_cli.models.hooks import HookPoint
from neurosteer_cli.serving.completions import Completions
from neurosteer_cli.vectors.vector import SteeringVector

Server = tuple[str, Completions]


@pytest.fixture(scope="module")
def vectors(engine: Engine) -> dict[str, SteeringVector]:
    pushes = {
        name: torch.randn(D_MODEL, generator=torch.Generator().manual_seed(number)) * 10
        for number, name in enumerate(("polite", "happy"))
    }
    return {name: tiny_vector(engine.shape, {HookPoint(1): push}) for name, push in pushes.items()}


@pytest.fixture(scope="module")
def server(engine: Engine, vectors: dict[str, SteeringVector]) -> Iterator[Server]:
    with served(engine, vectors, max_batch=8, max_waiting=400) as found:
        yield found


def test_one_at_a_time_or_all_at_once_the_texts_are_the_same(server: Server) -> None:
    asked = [
        {
            "prompt": f"number {n} " * (1 + n % 3), "seed": n, "temperature": (0, 0.7, 1)[n % 3],
            "max_tokens": 6 + n % 5,
            "steering": ({}, {"polite": n - 9.0}, {"happy": 3.0, "polite": 2.0})[n % 3],
            "positions": ("all", "prompt", "generated")[n % 3], "top_k": (0, 20)[n % 2], "n": 1 + n % 2,
        }
        for n in range(24)
    ]  # fmt: skip

    def texts(body: dict[str, Any]) -> list[str]:
        return [choice["text"] for choice in post(server[0], "/v1/completions", body).json()["choices"]]

    one_by_one = [texts(body) for body in asked]
    with ThreadPoolExecutor(12) as pool:
        assert list(pool.map(texts, asked)) == one_by_one


def test_a_seed_gives_the_text_that_gen_writes(
    server: Server, engine: Engine, vectors: dict[str, SteeringVector]
) -> None:
    asked = {"prompt": "to be", "seed": 5, "temperature": 0.9, "top_p": 0.9, "n": 3, "max_tokens": 12}
    found = post(server[0], "/v1/completions", {**asked, "steering": {"polite": 3}}).json()["choices"]
    jobs = [Job("to be", engine.prompt_ids("to be"), (3.0,), sample=sample) for sample in range(3)]
    config = GenerationConfig(sampling=Sampling(seed=5), max_new_tokens=12)
    written = dict(generate(engine, jobs, [vectors["polite"]], config))
    assert [choice["text"] for choice in found] == [written[sample].text for sample in range(3)]


def test_clients_that_leave_leave_nothing_behind(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    address, completions = server
    host, port = address.removeprefix("http://").split(":")
    body = json.dumps({"prompt": "x", "max_tokens": 100, "temperature": 0, "stream": True}).encode()
    head = f"POST /v1/completions HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\n"
    request = head.encode() + f"Content-Length: {len(body)}\r\n\r\n".encode() + body
    post(address, "/v1/completions", {"prompt": "x", "max_tokens": 1})
    slow(monkeypatch, 0.002)
    wait_for(lambda: completions.scheduler.n_running == 0)
    n_descriptors = len(os.listdir("/proc/self/fd"))
    for n in range(60):
        with socket.create_connection((host, int(port))) as connection:
            connection.sendall(request)
            connection.recv(64)
            if n % 2:  # a reset, where others say good-bye
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    wait_for(lambda: completions.scheduler.n_running == completions.scheduler.n_waiting == 0)
    wait_for(lambda: len(os.listdir("/proc/self/fd")) <= n_descriptors)
    assert httpx.get(f"{address}/health").json()["status"] == "ok"


def test_a_slow_reader_holds_up_nobody_and_gets_its_whole_stream(server: Server) -> None:
    address, _ = server
    host, port = address.removeprefix("http://").split(":")
    body = {"prompt": "x", "max_tokens": 100, "temperature": 0, "stream": True, "n": 8}
    whole = post(address, "/v1/completions", {**body, "stream": False}).json()["choices"]
    content = json.dumps(body).encode()
    connection = socket.socket()
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
    connection.connect((host, int(port)))
    head = (
        f"POST /v1/completions HTTP/1.0\r\nContent-Type: application/json\r\nContent-Length: {len(content)}"
    )
    connection.sendall(f"{head}\r\n\r\n".encode() + content)
    time.sleep(0.3)  # it does not read
    start = time.monotonic()
    post(address, "/v1/completions", {"prompt": "x", "max_tokens": 5, "temperature": 0})
    assert time.monotonic() - start < 5
    got = b""
    while part := connection.recv(2048):
        got += part
    lines = [line.removeprefix("data: ") for line in got.decode().splitlines() if line.startswith("data: {")]
    said = [""] * 8
    for line in lines:
        for choice in json.loads(line)["choices"]:
            said[choice["index"]] += choice["text"]
    assert said == [choice["text"] for choice in whole]


def test_whoever_is_told_to_come_again_is_served_in_the_end(
    engine: Engine, vectors: dict[str, SteeringVector], monkeypatch: pytest.MonkeyPatch
) -> None:
    slow(monkeypatch, 0.005)
    statuses: list[int] = []
    lock = threading.Lock()

    def noted(response: httpx.Response) -> None:
        with lock:
            statuses.append(response.status_code)

    with served(engine, vectors, max_batch=2, max_waiting=2) as (address, _):
        http = httpx.Client(event_hooks={"response": [noted]})
        with openai.OpenAI(
            base_url=f"{address}/v1", api_key="unused", max_retries=9, http_client=http
        ) as client:

            def ask(n: int) -> str:
                found = client.completions.create(model="tiny", prompt=f"{n}", max_tokens=20, temperature=0)
                return found.choices[0].text

            with ThreadPoolExecutor(12) as pool:
                texts = list(pool.map(ask, range(12)))
            assert texts == [ask(n) for n in range(12)]
    assert statuses.count(429) > 0
    assert statuses.count(200) == 24
