"""Many requests at once: who waits, who is given up, and what happens at the end."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import openai
import pytest
from support.live import running
from support.serving import PLAIN, hold_the_model, post, served, slow, wait_for, written

from neurosteer_cli.generation.batch import Batch
from neurosteer_cli.models.engine import Engine
from neurosteer_cli.serving.app import create_app
from neurosteer_cli.serving.completions import Completions, Limits
from neurosteer_cli.serving.registry import VectorRegistry
from neurosteer_cli.serving.scheduler import Scheduler
from neurosteer_cli.vectors.vector import SteeringVector


def test_concurrent_requests_share_batches_and_none_gets_anothers_vector(
    client: openai.OpenAI, engine: Engine, vectors: dict[str, SteeringVector], monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes: list[int] = []
    step = Batch.step

    def watched(batch: Batch) -> Any:
        sizes.append(len(batch))
        time.sleep(0.002)  # a model that takes its time
        return step(batch)

    monkeypatch.setattr(Batch, "step", watched)
    asked = [
        (f"prompt {number}" * (1 + number % 4), {"polite": float(number % 5), "happy": float(number % 7 - 3)})
        for number in range(60)
    ]

    def ask(prompt: str, alphas: dict[str, float]) -> str:
        found = client.completions.create(
            model="tiny", prompt=prompt, max_tokens=5 + len(prompt) % 9, temperature=0,
            extra_body={"steering": alphas},
        )  # fmt: skip
        return found.choices[0].text

    with ThreadPoolExecutor(12) as pool:
        answers = list(pool.map(lambda each: ask(*each), asked))
    monkeypatch.setattr(Batch, "step", step)
    assert max(sizes) >= 4
    for (prompt, alphas), answer in zip(asked, answers, strict=True):
        assert answer == written(engine, vectors, prompt, alphas, 5 + len(prompt) % 9)


def test_who_finds_no_room_to_wait_is_told_when_to_come_again(
    engine: Engine, vectors: dict[str, SteeringVector], monkeypatch: pytest.MonkeyPatch
) -> None:
    go_on = hold_the_model(monkeypatch)
    with served(engine, vectors, max_batch=1, max_waiting=2) as (address, completions):
        body = {"model": "tiny", "prompt": "x", "max_tokens": 2}
        with ThreadPoolExecutor(3) as pool:
            taken = [pool.submit(post, address, "/v1/completions", body) for _ in range(3)]
            wait_for(lambda: completions.scheduler.n_running == 1 and completions.scheduler.n_waiting == 2)
            refused = post(address, "/v1/completions", body)
            assert refused.status_code == 429
            assert 1 <= int(refused.headers["retry-after"]) <= 60
            assert refused.json()["error"]["code"] == "rate_limit_exceeded"
            go_on.set()
            assert [answer.result().status_code for answer in taken] == [200, 200, 200]


def test_a_request_is_given_up_when_its_time_is_over(
    engine: Engine, vectors: dict[str, SteeringVector], monkeypatch: pytest.MonkeyPatch
) -> None:
    slow(monkeypatch, 0.05)
    with served(engine, vectors, limits=Limits(seconds=0.2)) as (address, completions):
        body = {"model": "tiny", "prompt": "x", "max_tokens": 100, "temperature": 0}
        late = post(address, "/v1/completions", body)
        assert late.status_code == 504
        assert late.json()["error"]["type"] == "server_error"
        streamed = post(address, "/v1/completions", {**body, "stream": True})
        events = streamed.text.strip().split("\n\n")
        assert "the time limit of a request is over" in events[-1]
        wait_for(lambda: completions.scheduler.n_running == 0)


def test_shutting_down_finishes_what_runs(
    engine: Engine, vectors: dict[str, SteeringVector], monkeypatch: pytest.MonkeyPatch
) -> None:
    slow(monkeypatch, 0.02)
    body = {"model": "tiny", "prompt": "x", "max_tokens": 20, "temperature": 0}
    with ThreadPoolExecutor(1) as pool:
        with served(engine, vectors) as (address, completions):
            answer = pool.submit(post, address, "/v1/completions", body)
            wait_for(lambda: completions.scheduler.n_running == 1)
        assert answer.result().status_code == 200
        assert answer.result().json()["usage"]["completion_tokens"] > 0


def test_a_text_that_cannot_be_finished_in_time_is_answered_all_the_same(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    slow(monkeypatch, 0.05)
    registry = VectorRegistry(engine.shape, "tiny")
    scheduler = Scheduler(engine)
    app = create_app(Completions(engine, registry, scheduler, Limits()))
    body = {"model": "tiny", "prompt": "x", "max_tokens": 110, "temperature": 0}
    with running(app) as address, ThreadPoolExecutor(2) as pool:
        whole = pool.submit(post, address, "/v1/completions", body)
        stream = pool.submit(post, address, "/v1/completions", {**body, "stream": True})
        wait_for(lambda: scheduler.n_running == 2)
        scheduler.close(0.2)  # as a signal does
        assert not scheduler.is_alive
        assert whole.result().status_code == 503
        assert "shut down before it was finished" in whole.result().json()["error"]["message"]
        assert "shut down before it was finished" in stream.result().text
        assert post(address, "/v1/completions", body).status_code == 503
        assert httpx.get(f"{address}/health").status_code == 503


def test_newcomers_do_not_starve_those_that_are_being_written(
    engine: Engine, vectors: dict[str, SteeringVector], monkeypatch: pytest.MonkeyPatch
) -> None:
    slow(monkeypatch, 0.005)
    stop = threading.Event()
    with served(engine, vectors) as (address, completions), ThreadPoolExecutor(7) as pool:

        def hurry() -> None:
            while not stop.is_set():
                post(address, "/v1/completions", {**PLAIN, "max_tokens": 1})

        others = [pool.submit(hurry) for _ in range(6)]
        wait_for(lambda: completions.scheduler.n_tokens_written > 10)
        before = completions.scheduler.n_tokens_written
        answer = post(address, "/v1/completions", {**PLAIN, "max_tokens": 30, "temperature": 0})
        n_others = (
            completions.scheduler.n_tokens_written - before - answer.json()["usage"]["completion_tokens"]
        )
        stop.set()
        for other in others:
            other.result()
    assert answer.status_code == 200
    assert n_others < 30 * 8  # a lot of newcomers, at most eight, before each of its tokens


def test_if_the_models_thread_ends_nobody_waits_for_ever(
    engine: Engine, vectors: dict[str, SteeringVector], monkeypatch: pytest.MonkeyPatch
) -> None:
    with served(engine, vectors) as (address, _):
        with monkeypatch.context() as patch:

            def fail(_scheduler: Scheduler) -> None:
                raise RuntimeError("a bug")

            patch.setattr(Scheduler, "_admit", fail)
            assert post(address, "/v1/completions", PLAIN).status_code == 500
        assert post(address, "/v1/completions", PLAIN).status_code == 503
        assert httpx.get(f"{address}/health").status_code == 503


def test_a_failing_step_fails_those_written_and_no_others(
    engine: Engine, vectors: dict[str, SteeringVector], monkeypatch: pytest.MonkeyPatch
) -> None:
    with served(engine, vectors) as (address, _):
        body = {"model": "tiny", "prompt": "x", "max_tokens": 3}
        with monkeypatch.context() as patch:

            def fail(_batch: Batch) -> Any:
                raise RuntimeError("out of memory")

            patch.setattr(Batch, "step", fail)
            failed = post(address, "/v1/completions", body)
        assert failed.status_code == 500
        assert failed.json()["error"]["message"] == "the server failed; its log says why"
        assert post(address, "/v1/completions", body).status_code == 200
