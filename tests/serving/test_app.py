"""The server, by the official client and by hand: what it writes, whom it refuses, how it ends."""

import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
import torch
from support.live import running
from support.tiny import D_MODEL, tiny_vector

from neurosteer_cli.errors import IncompatibleVectorError, InputError
from neurosteer_cli.generation.batch import Batch
from neurosteer_cli.generation.generate import GenerationConfig, Job, generate
from neurosteer_cli.generation.sampling import Sampling
from neurosteer_cli.generation.text import TextStream
from neurosteer_cli.models.engine import Engine
from neurosteer_cli.models.hooks import HookPoint
from neurosteer_cli.serving import middleware
from neurosteer_cli.serving.app import ServerConfig, create_app
from neurosteer_cli.serving.completions import Completions, Limits
from neurosteer_cli.serving.registry import VectorRegistry
from neurosteer_cli.serving.scheduler import Scheduler
from neurosteer_cli.vectors.vector import SteeringVector

GREEDY = Sampling(temperature=0)


@pytest.fixture(scope="module")
def vectors(engine: Engine) -> dict[str, SteeringVector]:
    """Two vectors, each so long that it changes what is written."""
    found = {}
    for number, name in enumerate(("polite", "happy")):
        push = torch.randn(D_MODEL, generator=torch.Generator().manual_seed(number)) * 10
        found[name] = tiny_vector(engine.shape, {HookPoint(1 + number): push})
    return found


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


@pytest.fixture(scope="module")
def server(engine: Engine, vectors: dict[str, SteeringVector]) -> Iterator[tuple[str, Completions]]:
    with served(engine, vectors) as found:
        yield found


@pytest.fixture(scope="module")
def client(server: tuple[str, Completions]) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{server[0]}/v1", api_key="unused", max_retries=0) as found:
        yield found


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


# --- the official client -----------------------------------------------------------------------


def test_models_are_listed_and_looked_up(client: openai.OpenAI) -> None:
    assert [model.id for model in client.models.list()] == ["tiny", "tiny+happy:8", "tiny+polite:8"]
    assert client.models.retrieve("tiny+polite:3").id == "tiny+polite:3"
    with pytest.raises(openai.NotFoundError, match="no vector is named 'rude'; known: happy, polite"):
        client.models.retrieve("tiny+rude:3")


@pytest.mark.parametrize("alphas", [{}, {"polite": 3.0}, {"happy": -2.0}, {"polite": 3.0, "happy": -2.0}])
def test_a_completion_is_what_gen_writes(
    client: openai.OpenAI, engine: Engine, vectors: dict[str, SteeringVector], alphas: dict[str, float]
) -> None:
    found = client.completions.create(
        model="tiny", prompt="to be", max_tokens=12, temperature=0, extra_body={"steering": alphas}
    )
    choice = found.choices[0]
    assert choice.text == written(engine, vectors, "to be", alphas, 12)
    assert choice.finish_reason in ("length", "stop")
    assert found.usage is not None
    assert found.usage.prompt_tokens == 5
    assert found.usage.completion_tokens <= 12
    steering = found.model_extra["steering"]  # type: ignore[index]
    assert steering["alphas"] == alphas
    assert (steering["dose"] > 0) == bool(alphas)


def test_a_models_name_steers_as_the_field_does(client: openai.OpenAI) -> None:
    asked: dict[str, Any] = {"prompt": "to be", "max_tokens": 9, "seed": 4}
    named = client.completions.create(model="tiny+polite:3+happy:-2", **asked)
    given = client.completions.create(
        model="tiny", **asked, extra_body={"steering": {"polite": 3, "happy": -2}}
    )
    mixed = client.completions.create(model="tiny+polite:3", **asked, extra_body={"steering": {"happy": -2}})
    plain = client.completions.create(model="tiny", **asked)
    assert named.choices[0].text == given.choices[0].text == mixed.choices[0].text
    assert named.choices[0].text != plain.choices[0].text


def test_a_stream_says_what_the_whole_answer_says(client: openai.OpenAI) -> None:
    asked: dict[str, Any] = {"model": "tiny+polite:3", "prompt": "to be", "max_tokens": 20, "seed": 1, "n": 3}
    whole = client.completions.create(**asked)
    said, reasons, usage = ["", "", ""], {}, None
    for chunk in client.completions.create(**asked, stream=True, stream_options={"include_usage": True}):
        usage = chunk.usage or usage
        for choice in chunk.choices:
            said[choice.index] += choice.text
            if choice.finish_reason:
                reasons[choice.index] = choice.finish_reason
    assert said == [choice.text for choice in whole.choices]
    assert reasons == {choice.index: choice.finish_reason for choice in whole.choices}
    assert usage == whole.usage
    assert len(set(said)) == 3


def test_a_chat_and_its_stream(client: openai.OpenAI, engine: Engine) -> None:
    messages: Any = [
        {"role": "system", "content": "be kind"},
        {"role": "user", "content": [{"type": "text", "text": "hel"}, {"type": "text", "text": "lo"}]},
    ]
    asked: dict[str, Any] = {
        "model": "tiny+happy:2",
        "messages": messages,
        "max_completion_tokens": 10,
        "temperature": 0,
    }
    whole = client.chat.completions.create(**asked)
    rendered = engine.chat(
        [{"role": "system", "content": "be kind"}, {"role": "user", "content": "hello"}], "chat"
    )
    assert whole.usage is not None
    assert whole.usage.prompt_tokens == len(engine.prompt_ids(rendered, rendered=True))
    said, roles = "", []
    for chunk in client.chat.completions.create(**asked, stream=True):
        delta = chunk.choices[0].delta
        said += delta.content or ""
        roles += [delta.role] if delta.role else []
    assert (said, roles) == (whole.choices[0].message.content, ["assistant"])


def test_the_same_seed_gives_the_same_text_and_none_another(client: openai.OpenAI) -> None:
    def text(**options: Any) -> str:
        return client.completions.create(model="tiny", prompt="x", max_tokens=16, **options).choices[0].text

    assert text(seed=7) == text(seed=7)
    assert text(seed=7) != text(seed=8)
    assert text() != text()


def test_several_prompts_as_texts_and_as_tokens(client: openai.OpenAI, engine: Engine) -> None:
    prompts = ["to be", "or not"]
    asked: dict[str, Any] = {"model": "tiny", "max_tokens": 5, "temperature": 0, "n": 2}
    texts = client.completions.create(prompt=prompts, **asked)
    tokens = client.completions.create(prompt=[engine.prompt_ids(one) for one in prompts], **asked)
    assert [one.index for one in texts.choices] == [0, 1, 2, 3]
    assert [one.text for one in texts.choices] == [one.text for one in tokens.choices]
    assert texts.choices[0].text == texts.choices[1].text != texts.choices[2].text


def test_the_same_prompt_several_times_gives_different_samples(client: openai.OpenAI) -> None:
    asked: dict[str, Any] = {"model": "tiny", "max_tokens": 12, "seed": 3}
    three = [one.text for one in client.completions.create(prompt=["x"] * 3, **asked).choices]
    assert len(set(three)) == 3
    assert three == [one.text for one in client.completions.create(prompt="x", n=3, **asked).choices]


def test_a_text_ends_before_a_stop_string(client: openai.OpenAI) -> None:
    asked: dict[str, Any] = {
        "model": "tiny",
        "prompt": "to be",
        "max_tokens": 30,
        "temperature": 1,
        "seed": 5,
    }
    free = client.completions.create(**asked).choices[0].text
    stop = free[10:13]
    assert stop
    expected = free[: free.find(stop)]
    stopped = client.completions.create(**asked, stop=["never so", stop])
    assert (stopped.choices[0].text, stopped.choices[0].finish_reason) == (expected, "stop")
    streamed = client.completions.create(**asked, stop=stop, stream=True)
    assert "".join(chunk.choices[0].text for chunk in streamed) == expected


def test_log_probabilities_of_a_completion(client: openai.OpenAI, engine: Engine) -> None:
    found = client.completions.create(
        model="tiny", prompt="to be", max_tokens=6, temperature=0, logprobs=2
    ).choices[0]
    told = found.logprobs
    assert told is not None and told.tokens and told.token_logprobs and told.top_logprobs
    ids = engine.prompt_ids("to be")
    with torch.no_grad():
        logits = engine.model(input_ids=torch.tensor([ids])).logits[0, -1]
    expected = float(logits.log_softmax(-1).max())
    assert told.token_logprobs[0] == pytest.approx(expected, abs=1e-4)
    assert max(told.top_logprobs[0].values()) == pytest.approx(expected, abs=1e-4)
    assert told.text_offset is not None and told.text_offset[0] == 0
    assert len(told.tokens) == len(told.text_offset) == 6


def test_log_probabilities_of_a_chat_streamed_and_whole(client: openai.OpenAI) -> None:
    asked: dict[str, Any] = {
        "model": "tiny", "messages": [{"role": "user", "content": "x"}], "max_tokens": 8, "temperature": 0,
        "logprobs": True, "top_logprobs": 1,
    }  # fmt: skip
    whole = client.chat.completions.create(**asked).choices[0].logprobs
    assert whole is not None and whole.content
    streamed = [
        token
        for chunk in client.chat.completions.create(**asked, stream=True)
        if chunk.choices[0].logprobs
        for token in chunk.choices[0].logprobs.content or []
    ]
    assert [token.token for token in streamed] == [token.token for token in whole.content]
    assert all(token.top_logprobs[0].token == token.token for token in whole.content)


def test_without_being_asked_no_log_probabilities(client: openai.OpenAI) -> None:
    found = client.completions.create(model="tiny", prompt="x", max_tokens=2)
    assert found.choices[0].logprobs is None


def test_positions_decide_where_a_request_is_steered(client: openai.OpenAI) -> None:
    def text(positions: str) -> str:
        body = {"steering": {"polite": 9}, "positions": positions}
        asked = client.completions.create(
            model="tiny", prompt="to be or", max_tokens=12, temperature=0, extra_body=body
        )
        return asked.choices[0].text

    assert len({text("all"), text("prompt"), text("generated")}) == 3


# --- many at once ------------------------------------------------------------------------------


def test_concurrent_requests_share_batches_and_none_gets_anothers_vector(
    client: openai.OpenAI,
    engine: Engine,
    vectors: dict[str, SteeringVector],
    monkeypatch: pytest.MonkeyPatch,
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
        answers = list(pool.map(lambda one: ask(*one), asked))
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
            assert [one.result().status_code for one in taken] == [200, 200, 200]


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


def test_a_client_that_leaves_is_written_for_no_further(
    engine: Engine, vectors: dict[str, SteeringVector], monkeypatch: pytest.MonkeyPatch
) -> None:
    slow(monkeypatch, 0.02)
    with served(engine, vectors) as (address, completions):
        body = {"model": "tiny", "prompt": "x", "max_tokens": 110, "temperature": 0}
        with pytest.raises(httpx.ReadTimeout):
            httpx.post(f"{address}/v1/completions", json=body, timeout=0.3)
        wait_for(lambda: completions.scheduler.n_running == 0, seconds=1.2)
        with httpx.stream("POST", f"{address}/v1/completions", json={**body, "stream": True}) as answer:
            next(answer.iter_lines())
            assert completions.scheduler.n_running == 1
        wait_for(lambda: completions.scheduler.n_running == 0, seconds=1.2)
        assert 0 < completions.scheduler.n_tokens_written < 150
        assert "neurosteer_cancelled_total 2.0" in httpx.get(f"{address}/metrics").text


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


def test_a_token_that_is_no_text_ends_its_request_and_no_other(
    engine: Engine, vectors: dict[str, SteeringVector], monkeypatch: pytest.MonkeyPatch
) -> None:
    take = TextStream.take

    def failing(stream: TextStream, token: int) -> str:
        if stream._stops:
            raise RuntimeError("no text")
        return take(stream, token)

    monkeypatch.setattr(TextStream, "take", failing)
    with served(engine, vectors) as (address, _):
        assert post(address, "/v1/completions", {**PLAIN, "stop": "x"}).status_code == 500
        assert post(address, "/v1/completions", PLAIN).status_code == 200


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


# --- refusals ----------------------------------------------------------------------------------

PLAIN = {"model": "tiny", "prompt": "x"}
CHAT = {"model": "tiny", "messages": [{"role": "user", "content": "x"}]}


@pytest.mark.parametrize(
    ("changes", "status", "message"),
    [
        ({"steering": {"rude": 3}}, 404, "no vector is named 'rude'; known: happy, polite"),
        ({"steering": {"../../etc/passwd": 3}}, 404, "no vector is named '../../etc/passwd'"),
        ({"steering": {"polite": 1e9}}, 400, "alpha of 'polite' must be a number from -1000 to 1000"),
        ({"steering": {"polite": "much"}}, 400, "steering.polite: Input should be a valid number"),
        ({"model": "gpt-4"}, 404, "model 'gpt-4' is not served; ask for 'tiny'"),
        ({"model": "tiny+polite"}, 400, "give the alpha of 'polite', as polite:8"),
        ({"model": "tiny+polite:x"}, 400, "alpha 'x' is not a number"),
        ({"model": "tiny+polite:nan"}, 400, "alpha of 'polite' must be a number"),
        ({"model": "tiny+polite:1+polite:2"}, 400, "vector 'polite' is named twice"),
        ({"model": "tiny+polite:1", "steering": {"polite": 2}}, 400, "'polite' is named twice"),
        ({"prompt": None}, 400, "prompt: Input should be a valid string"),
        ({"prompt": ""}, 400, "at least 1 character"),
        ({"prompt": [1, 300]}, 400, "prompt: token 300 is none of the model's 300"),
        ({"prompt": "x" * 120}, 400, "120 tokens and 16 new ones exceed the model's context of 128"),
        ({"max_tokens": 5000}, 400, "max_tokens 5000: this server writes at most 1024"),
        ({"temperature": -1}, 400, "temperature: Input should be greater than or equal to 0"),
        ({"sterring": {"polite": 3}}, 400, "sterring: Extra inputs are not permitted"),
        ({"echo": True}, 400, "echo: Input should be False"),
        ({"presence_penalty": 1}, 400, "presence_penalty: Input should be less than or equal to 0"),
        ({"n": 9}, 400, "1 prompts, n 9: at most 8 continuations"),
        ({"positions": "last"}, 400, "positions: Input should be 'all', 'prompt' or 'generated'"),
    ],
)
def test_bad_completions_are_refused_by_name(
    server: tuple[str, Completions], changes: dict[str, Any], status: int, message: str
) -> None:
    found = post(server[0], "/v1/completions", {**PLAIN, **changes})
    assert (found.status_code, found.json()["error"]["type"]) == (status, "invalid_request_error")
    assert message in found.json()["error"]["message"]


@pytest.mark.parametrize(
    ("path", "body", "status", "message"),
    [
        ("completions", {"model": "tiny"}, 400, "prompt: Field required"),
        ("chat/completions", {**CHAT, "messages": []}, 400, "messages: List should have at least 1 item"),
        ("chat/completions", {**CHAT, "top_logprobs": 2}, 400, "top_logprobs: only with logprobs true"),
        ("chat/completions", {**CHAT, "tools": [{}]}, 400, "tools: List should have at most 0 items"),
        ("dose", {"steering": {"rude": 1}}, 404, "no vector is named 'rude'"),
    ],
)
def test_other_bad_requests_are_refused_by_name(
    server: tuple[str, Completions], path: str, body: Any, status: int, message: str
) -> None:
    found = post(server[0], f"/v1/{path}", body)
    assert (found.status_code, found.json()["error"]["type"]) == (status, "invalid_request_error")
    assert message in found.json()["error"]["message"]


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


def test_unknown_paths_and_methods_are_refused_in_the_same_form(server: tuple[str, Completions]) -> None:
    assert httpx.get(f"{server[0]}/v1/nothing").json()["error"]["message"] == "Not Found"
    assert httpx.get(f"{server[0]}/v1/completions").status_code == 405
    assert httpx.get(f"{server[0]}/v1/vectors/..%2F..%2Fetc%2Fpasswd").status_code == 404


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


def test_a_vector_of_another_model_is_refused_before_anything_is_served(
    engine: Engine, vectors: dict[str, SteeringVector]
) -> None:
    registry = VectorRegistry(engine.shape.model_copy(update={"d_model": 8}), "other")
    with pytest.raises(IncompatibleVectorError, match=r"^polite\.st was fitted on 'tiny'"):
        registry.add("polite", vectors["polite"], "polite.st")
    registry = VectorRegistry(engine.shape, "tiny")
    for name in ("", "../x", ".hidden", "a b", "x" * 65, "a+b", "a:b"):
        with pytest.raises(InputError, match="cannot be a vector's name"):
            registry.add(name, vectors["polite"], "file")
    registry.add("polite", vectors["polite"], "file")
    with pytest.raises(InputError, match="there is a vector named 'polite' already"):
        registry.add("polite", vectors["polite"], "file")


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
    host, port = server[0].removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=10) as connection:
        connection.sendall(
            b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
            b"Content-Length: 100\r\n\r\n{"
        )
        assert connection.recv(100).startswith(b"HTTP/1.1 408 ")


# --- state and vectors -------------------------------------------------------------------------


def test_health_and_metrics_tell_what_happened(engine: Engine, vectors: dict[str, SteeringVector]) -> None:
    with served(engine, vectors) as (address, _):
        post(address, "/v1/completions", {**PLAIN, "max_tokens": 3, "temperature": 0})
        post(address, "/v1/completions", {**PLAIN, "max_tokens": -3})
        facts = httpx.get(f"{address}/health").json()
        assert facts == {"status": "ok", "model": "tiny", "vectors": 2, "running": 0, "waiting": 0}
        lines = httpx.get(f"{address}/metrics").text.splitlines()
    assert 'neurosteer_requests_total{endpoint="/v1/completions",status="200"} 1.0' in lines
    assert 'neurosteer_requests_total{endpoint="/v1/completions",status="400"} 1.0' in lines
    assert 'neurosteer_tokens_total{kind="prompt"} 1.0' in lines
    assert 'neurosteer_tokens_total{kind="completion"} 3.0' in lines


def test_vectors_and_doses_are_told(
    server: tuple[str, Completions], vectors: dict[str, SteeringVector]
) -> None:
    listed = httpx.get(f"{server[0]}/v1/vectors").json()
    assert [one["id"] for one in listed["data"]] == ["happy", "polite"]
    assert listed["can_fit"] is False
    one = httpx.get(f"{server[0]}/v1/vectors/polite").json()
    assert one["hook_points"] == list(vectors["polite"].metadata.points)
    assert one["suggested_alpha"] == 8
    dose = post(server[0], "/v1/dose", {"steering": {"polite": 4}}).json()["dose"]
    assert dose == pytest.approx(vectors["polite"].dose(4.0), abs=1e-6)
    assert post(server[0], "/v1/vectors", {}).status_code == 405


def test_a_vector_is_fitted_used_and_sent(
    engine: Engine, vectors: dict[str, SteeringVector], tmp_path: Path
) -> None:
    form = {
        "name": "ab", "method": "diffmean",
        "positive": [f"aaa bbb aab {'ab' * n} number {n}" for n in range(20)],
        "negative": [f"zzz yyy zzy {'zy' * n} number {n}" for n in range(20)],
    }  # fmt: skip
    with served(engine, vectors, fitting=True) as (address, completions):
        found = post(address, "/v1/vectors", form).json()
        assert (found["id"], found["towards"], found["away"], found["n_texts"]) == ("ab", "ab", "not-ab", 40)
        assert found["warnings"]
        plain, steered = (
            post(
                address, "/v1/completions", {**PLAIN, "max_tokens": 9, "temperature": 0, "steering": steering}
            )
            for steering in ({}, {"ab": 90})
        )
        assert plain.json()["choices"][0]["text"] != steered.json()["choices"][0]["text"]
        file = tmp_path / "ab.st"
        file.write_bytes(httpx.get(f"{address}/v1/vectors/ab/file").content)
        loaded, own = SteeringVector.load(file), completions.registry["ab"]
        assert loaded.metadata == own.metadata
        assert all(torch.equal(loaded.pushes[point], push) for point, push in own.pushes.items())
        again = post(address, "/v1/vectors", form)
        assert (again.status_code, "already" in again.json()["error"]["message"]) == (400, True)
        for changes, message in (
            ({"name": "../x"}, "name: String should match pattern"),
            ({"name": "few", "positive": ["a", "b"]}, "2 distinct texts; at least 8 a side are needed"),
            ({"name": "same", "negative": form["positive"]}, "this text stands on both sides"),
            ({"name": "sae", "method": "neurosteer"}, "bundled"),
        ):
            refused = post(address, "/v1/vectors", {**form, **changes})
            assert refused.status_code == 400
            assert message in refused.json()["error"]["message"]
        blank = post(address, "/v1/vectors", {**form, "name": "blank", "positive": [" "] * 9})
        assert blank.json()["error"]["message"].startswith("blank.jsonl:1: ")
        assert httpx.get(f"{address}/v1/vectors/nothing/file").status_code == 404


def test_texts_are_written_while_a_vector_is_fitted_and_no_two_vectors_at_once(
    engine: Engine, vectors: dict[str, SteeringVector], monkeypatch: pytest.MonkeyPatch
) -> None:
    written: list[int] = []
    yield_to_batch, begun = Scheduler.yield_to_batch, threading.Event()

    def noted(scheduler: Scheduler) -> None:
        begun.set()
        time.sleep(0.5)
        before = scheduler.n_tokens_written
        yield_to_batch(scheduler)
        written.append(scheduler.n_tokens_written - before)

    monkeypatch.setattr(Scheduler, "yield_to_batch", noted)
    form = {
        "method": "diffmean", "positive": [f"aaa {'b' * 30} {n}" for n in range(40)],
        "negative": [f"zzz {'y' * 30} {n}" for n in range(40)],
    }  # fmt: skip
    with served(engine, vectors, fitting=True) as (address, _), ThreadPoolExecutor(2) as pool:
        fitted = pool.submit(post, address, "/v1/vectors", {**form, "name": "one"})
        assert begun.wait(10)
        other = post(address, "/v1/vectors", {**form, "name": "two"})
        assert (other.status_code, "another vector" in other.text) == (429, True)
        assert post(address, "/v1/completions", {**PLAIN, "max_tokens": 3, "temperature": 0}).is_success
        assert fitted.result().status_code == 200
    assert sum(written) > 0


def test_a_fit_ends_when_its_client_leaves(
    engine: Engine, vectors: dict[str, SteeringVector], monkeypatch: pytest.MonkeyPatch
) -> None:
    yield_to_batch = Scheduler.yield_to_batch

    def slowly(scheduler: Scheduler) -> None:
        time.sleep(0.3)
        yield_to_batch(scheduler)

    texts = [f"{'b' * 60} {n}" for n in range(300)]
    form = {"name": "ab", "method": "diffmean", "positive": texts, "negative": [f"{one} z" for one in texts]}
    with served(engine, vectors, fitting=True) as (address, completions):
        with monkeypatch.context() as patch:
            patch.setattr(Scheduler, "yield_to_batch", slowly)
            with pytest.raises(httpx.ReadTimeout):
                httpx.post(f"{address}/v1/vectors", json=form, timeout=0.5)
            time.sleep(1.2)  # till that is seen, and the batch at hand is read
        few = {**form, "positive": texts[:20], "negative": [f"{one} z" for one in texts[:20]]}
        again = post(address, "/v1/vectors", few)  # neither busy nor is the name taken
        assert (again.status_code, again.json().get("n_texts")) == (200, 40)
        assert len(completions.registry) == 3


def test_a_fit_ends_when_the_server_does(
    engine: Engine, vectors: dict[str, SteeringVector], monkeypatch: pytest.MonkeyPatch
) -> None:
    yield_to_batch = Scheduler.yield_to_batch

    def slowly(scheduler: Scheduler) -> None:
        time.sleep(0.3)
        yield_to_batch(scheduler)

    monkeypatch.setattr(Scheduler, "yield_to_batch", slowly)
    texts = [f"{'b' * 60} {n}" for n in range(300)]
    form = {"name": "ab", "method": "diffmean", "positive": texts, "negative": [f"{one} z" for one in texts]}
    with ThreadPoolExecutor(1) as pool, served(engine, vectors, fitting=True) as (address, completions):
        fitted = pool.submit(post, address, "/v1/vectors", form)
        time.sleep(0.5)
        start = time.monotonic()
        completions.scheduler.close(0.1)
        assert time.monotonic() - start < 3
        assert fitted.result().status_code == 503


# --- helpers -----------------------------------------------------------------------------------


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


def wait_for(condition: Any, seconds: float = 10.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it does not come about"
        time.sleep(0.01)
