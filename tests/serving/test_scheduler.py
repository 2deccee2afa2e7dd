"""Many requests at once: who waits, who is given up, and what happens at the end."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import httpx
import openai
import pytest
from support.live import running
from support.serving import PLAIN, counted, events, hold_the_model, post, served, slow, wait_for, written

from neurosteer_cli.generation.batching import batch
from neurosteer_cli.generation.batching.batch import Batch
from neurosteer_cli.generation.continuation import Continuation, GenerationConfig
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


def test_a_request_whose_time_is_over_gets_what_was_written(
    engine: Engine, vectors: dict[str, SteeringVector], monkeypatch: pytest.MonkeyPatch
) -> None:
    slow(monkeypatch, 0.05)
    limit = {"name": "time_limit", "seconds": 0.8}
    with served(engine, vectors, limits=Limits(seconds=0.8)) as (address, completions):
        body = {"model": "tiny", "prompt": "x", "max_tokens": 100, "temperature": 0}
        answer = post(address, "/v1/completions", body)
        assert answer.status_code == 200
        (choice,) = answer.json()["choices"]
        assert (choice["finish_reason"], choice["limit"]) == ("length", limit)
        n_tokens = answer.json()["usage"]["completion_tokens"]
        assert 0 < n_tokens <= 16
        assert choice["text"] == written(engine, vectors, "x", {}, n_tokens)
        streamed = events(post(address, "/v1/completions", {**body, "stream": True}).text)
        (last,) = streamed[-1]["choices"]
        assert (last["finish_reason"], last["limit"]) == ("length", limit)
        said = "".join(event["choices"][0]["text"] for event in streamed)
        assert said and answer.json()["choices"][0]["text"].startswith(said[:3])
        wait_for(lambda: completions.scheduler.n_running == 0)


def test_a_text_of_full_length_says_that_it_is(server: tuple[str, Completions]) -> None:
    (choice,) = post(server[0], "/v1/completions", {**PLAIN, "max_tokens": 3, "temperature": 0}).json()[
        "choices"
    ]
    assert (choice["finish_reason"], choice["limit"]) == ("length", {"name": "max_tokens", "tokens": 3})


def test_a_request_of_which_nothing_was_written_in_time_is_refused_with_numbers(
    engine: Engine, vectors: dict[str, SteeringVector], monkeypatch: pytest.MonkeyPatch
) -> None:
    with served(engine, vectors, max_batch=2, limits=Limits(seconds=0.3)) as (address, _):
        slow(monkeypatch, 0.5)
        body = {"model": "tiny", "prompt": "to be", "max_tokens": 1, "temperature": 0}
        with ThreadPoolExecutor(2) as pool:
            others = pool.submit(post, address, "/v1/completions", {**body, "n": 2, "max_tokens": 2})
            time.sleep(0.1)
            late = post(address, "/v1/completions", body)
            assert others.result().status_code == 200
        assert late.status_code == 504
        assert late.json()["error"]["type"] == "server_error"
        said = late.json()["error"]["message"]
        assert (
            "within the time limit of 0.3 s" in said and "5 prompt tokens" in said and "--time-limit" in said
        )
        assert late.headers["x-should-retry"] == "false"


def test_of_several_choices_those_are_given_that_were_written(
    engine: Engine, vectors: dict[str, SteeringVector], monkeypatch: pytest.MonkeyPatch
) -> None:
    slow(monkeypatch, 0.05)
    other = Continuation(ids=[1], key="x", config=GenerationConfig(max_new_tokens=100))
    with served(engine, vectors, max_batch=2, limits=Limits(seconds=0.5)) as (address, completions):
        completions.scheduler.submit([other])
        answer = post(address, "/v1/completions", {**PLAIN, "n": 2, "max_tokens": 100, "temperature": 0})
        other.cancel()
    first, second = answer.json()["choices"]
    assert (first["finish_reason"], second["finish_reason"]) == ("length", "length")
    assert (bool(first["text"]), second["text"]) == (True, "")


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


def test_a_text_that_cannot_be_finished_before_the_end_is_given_as_far_as_it_is(
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
        limit = {"name": "shutdown", "seconds": 0.2}
        (choice,) = whole.result().json()["choices"]
        assert (whole.result().status_code, choice["finish_reason"], choice["limit"]) == (
            200,
            "length",
            limit,
        )
        assert choice["text"]
        (last,) = events(stream.result().text)[-1]["choices"]
        assert (last["finish_reason"], last["limit"]) == ("length", limit)
        assert post(address, "/v1/completions", body).status_code == 503
        assert httpx.get(f"{address}/health").status_code == 503


@pytest.mark.parametrize("end", ["time limit", "client", "shutdown"])
def test_a_long_prompt_is_given_up_between_two_slices(
    engine: Engine, vectors: dict[str, SteeringVector], monkeypatch: pytest.MonkeyPatch, end: str
) -> None:
    monkeypatch.setattr(batch, "SLICE_ALONE", 16)
    slow(monkeypatch, 0.05)  # a slice: 5 s in all
    longer = replace(engine, max_tokens=2000)
    limits = Limits(seconds=0.5 if end == "time limit" else 60)
    body = {"prompt": "w" * 1600, "max_tokens": 1}
    with served(longer, vectors, limits=limits) as (address, completions), ThreadPoolExecutor(1) as pool:
        start = time.monotonic()
        seconds = 0.3 if end == "client" else 60
        asked = pool.submit(httpx.post, f"{address}/v1/completions", json=body, timeout=seconds)
        wait_for(lambda: completions.scheduler.n_running == 1)
        if end == "client":
            with pytest.raises(httpx.ReadTimeout):
                asked.result()
        if end == "shutdown":
            completions.scheduler.close(0.2)
        wait_for(lambda: completions.scheduler.n_running == 0)
        assert time.monotonic() - start < 2.5
        if end != "client":
            assert asked.result().status_code == {"time limit": 504, "shutdown": 503}[end]


def test_newcomers_do_not_starve_those_that_are_being_written(
    engine: Engine, vectors: dict[str, SteeringVector], monkeypatch: pytest.MonkeyPatch
) -> None:
    slow(monkeypatch, 0.005)
    stop = threading.Event()
    n_tokens = counted(monkeypatch)
    with served(engine, vectors) as (address, _), ThreadPoolExecutor(7) as pool:

        def hurry() -> None:
            while not stop.is_set():
                post(address, "/v1/completions", {**PLAIN, "max_tokens": 1})

        others = [pool.submit(hurry) for _ in range(6)]
        wait_for(lambda: sum(n_tokens) > 10)
        before = sum(n_tokens)
        answer = post(address, "/v1/completions", {**PLAIN, "max_tokens": 30, "temperature": 0})
        n_others = sum(n_tokens) - before - answer.json()["usage"]["completion_tokens"]
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

            patch.setattr(Scheduler, "_expire", fail)
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
