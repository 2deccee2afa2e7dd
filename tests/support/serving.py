"""A server with two vectors on a tiny model, and ways to hold it up."""

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx
import pytest
from support.live import running

from neurosteer_cli.generation.batching.batch import Batch
from neurosteer_cli.generation.continuation import GenerationConfig
from neurosteer_cli.generation.generate import Job, generate
from neurosteer_cli.generation.sampling import Sampling
from neurosteer_cli.models.engine import Engine
from neurosteer_cli.serving.app import ServerConfig, create_app
from neurosteer_cli.serving.completions import Completions, Limits
from neurosteer_cli.serving.registry import VectorRegistry
from neurosteer_cli.serving.scheduler import Scheduler
from neurosteer_cli.vectors.vector import SteeringVector

GREEDY = Sampling(temperature=0)
PLAIN = {"model": "tiny", "prompt": "x"}
CHAT = {"model": "tiny", "messages": [{"role": "user", "content": "x"}]}


@contextmanager
def served(
    engine: Engine,
    vectors: dict[str, SteeringVector],
    *,
    max_batch: int = 8,
    max_waiting: int = 64,
    limits: Limits = Limits(),  # noqa: B008  frozen
    **options: Any,
) -> Iterator[tuple[str, Completions]]:
    registry = VectorRegistry(engine.shape, "tiny")
    for name, vector in vectors.items():
        registry.add(name, vector, name)
    scheduler = Scheduler(engine, max_batch=max_batch, max_waiting=max_waiting)
    completions = Completions(engine, registry, scheduler, limits)
    with running(create_app(completions, ServerConfig(**options))) as address:
        yield address, completions
    assert not scheduler.is_alive


def post(address: str, path: str, body: Any, **options: Any) -> httpx.Response:
    return httpx.post(f"{address}{path}", json=body, timeout=60, **options)


def written(
    engine: Engine, vectors: dict[str, SteeringVector], prompt: str, alphas: dict[str, float], n: int
) -> str:
    """What `gen` writes."""
    row = Job(prompt, engine.prompt_ids(prompt), tuple(alphas.values()))
    chosen = [vectors[name] for name in alphas]
    ((_, found),) = generate(engine, [row], chosen, GenerationConfig(sampling=GREEDY, max_new_tokens=n))
    return found.text


def hold_the_model(monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """Let no step of the model be taken until the event is set."""
    go_on, step = threading.Event(), Batch.step

    def held(batch: Batch) -> Any:
        assert go_on.wait(20)
        return step(batch)

    monkeypatch.setattr(Batch, "step", held)
    return go_on


def slow(monkeypatch: pytest.MonkeyPatch, seconds: float) -> None:
    """Have every step take some time."""
    step = Batch.step

    def slowed(batch: Batch) -> Any:
        time.sleep(seconds)
        return step(batch)

    monkeypatch.setattr(Batch, "step", slowed)


def counted(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many continuations each step gave a token to, from now on."""
    step, found = Batch.step, list[int]()

    def counting(batch: Batch) -> Any:
        deltas = step(batch)
        found.append(len(deltas))
        return deltas

    monkeypatch.setattr(Batch, "step", counting)
    return found


def events(streamed: str) -> list[Any]:
    """What a stream's events say, the last one apart, by which it ends."""
    *said, end = [line.removeprefix("data: ") for line in streamed.splitlines() if line.startswith("data: ")]
    assert end == "[DONE]"
    return [json.loads(body) for body in said]


def wait_for(condition: Any, seconds: float = 10.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it does not come about"
        time.sleep(0.01)
