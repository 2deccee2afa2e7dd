"""Answers whole and in parts, until the client leaves."""

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import openai
import pytest
import torch
from starlette.responses import StreamingResponse
from support.serving import (
    CHAT,
    PLAIN,
    counted,
    events,
    hold_the_model,
    post,
    served,
    slow,
    wait_for,
    written,
)

from neurosteer_cli.generation.text import TextStream
from neurosteer_cli.models.engine import Engine
from neurosteer_cli.serving.completions import Completions
from neurosteer_cli.serving.http import stream
from neurosteer_cli.vectors.vector import SteeringVector


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


def test_a_client_that_leaves_is_written_for_no_further(
    engine: Engine, vectors: dict[str, SteeringVector], monkeypatch: pytest.MonkeyPatch
) -> None:
    slow(monkeypatch, 0.02)
    n_tokens = counted(monkeypatch)
    with served(engine, vectors) as (address, completions):
        body = {"model": "tiny", "prompt": "x", "max_tokens": 110, "temperature": 0}
        with pytest.raises(httpx.ReadTimeout):
            httpx.post(f"{address}/v1/completions", json=body, timeout=0.3)
        wait_for(lambda: completions.scheduler.n_running == 0, seconds=1.2)
        with httpx.stream("POST", f"{address}/v1/completions", json={**body, "stream": True}) as answer:
            next(answer.iter_lines())
            assert completions.scheduler.n_running == 1
        wait_for(lambda: completions.scheduler.n_running == 0, seconds=1.2)
        assert 0 < sum(n_tokens) < 150
        assert "neurosteer_cancelled_total 2.0" in httpx.get(f"{address}/metrics").text


@pytest.mark.parametrize("path", ["/v1/completions", "/v1/chat/completions"])
def test_a_client_that_leaves_before_the_first_text_is_written_for_no_further(
    engine: Engine, vectors: dict[str, SteeringVector], monkeypatch: pytest.MonkeyPatch, path: str
) -> None:
    go_on = hold_the_model(monkeypatch)
    body: dict[str, Any] = {**(CHAT if "chat" in path else PLAIN), "max_tokens": 100, "stream": True}
    with served(engine, vectors) as (address, completions):
        with httpx.stream("POST", f"{address}{path}", json=body):
            wait_for(lambda: completions.scheduler.n_running == 1)
        wait_for(lambda: "neurosteer_cancelled_total 1.0" in httpx.get(f"{address}/metrics").text)
        n_tokens = counted(monkeypatch)
        go_on.set()
        wait_for(lambda: completions.scheduler.n_running == 0)
        assert sum(n_tokens) <= 1


def test_a_stream_that_nobody_asks_for_is_ended(
    engine: Engine, vectors: dict[str, SteeringVector], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The client leaves after its request has been taken on, and before the first event is asked for."""
    slow(monkeypatch, 0.02)

    async def left(*_: Any) -> None:
        raise OSError("the client has left")

    with served(engine, vectors) as (address, completions):
        with monkeypatch.context() as patch:
            patch.setattr(StreamingResponse, "__call__", left)
            post(address, "/v1/completions", {**PLAIN, "max_tokens": 110, "temperature": 0, "stream": True})
        wait_for(lambda: completions.scheduler.n_running == 0, seconds=1)


def test_comments_keep_a_stream_alive_that_waits(
    engine: Engine, vectors: dict[str, SteeringVector], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stream, "SECONDS_BETWEEN_COMMENTS", 0.1)
    go_on = hold_the_model(monkeypatch)
    body = {"model": "tiny", "prompt": "x", "max_tokens": 5, "temperature": 0, "stream": True}
    with served(engine, vectors, max_batch=1) as (address, _), ThreadPoolExecutor(1) as pool:
        first = pool.submit(post, address, "/v1/completions", body)
        with httpx.stream("POST", f"{address}/v1/completions", json=body) as answer:  # it is not its turn
            lines = answer.iter_lines()
            assert [next(lines) for _ in range(4)] == [": keep-alive", ""] * 2
            go_on.set()
            queued = "\n".join(line for line in lines)
        assert events(first.result().text)[-1]["choices"][0]["finish_reason"] == "length"
        assert events(queued)[-1]["choices"][0]["finish_reason"] == "length"
        go_on.clear()
        with openai.OpenAI(base_url=f"{address}/v1", api_key="x") as client:
            threading.Timer(0.3, go_on.set).start()
            chunks = client.completions.create(
                model="tiny", prompt="x", max_tokens=5, temperature=0, stream=True
            )
            assert "".join(chunk.choices[0].text for chunk in chunks) == written(engine, vectors, "x", {}, 5)


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


SCRIPTS = (
    "naïve café, plain words", "Привет, мир", "你好世界,今天", "こんにちは", "안녕하세요", "नमस्ते दुनिया",
    "مرحبا بالعالم", "שלום עולם", "👩‍👩‍👧‍👦 family", "🇩🇪🇫🇷 flags", "e\u0301a\u0308 combining",
    "\ufeffbom\u2028line", "𝓶𝓪𝓽𝓱 𝔽",
)  # fmt: skip


@pytest.mark.parametrize("script", SCRIPTS)
def test_what_is_streamed_is_the_whole_in_every_script(
    server: tuple[str, Completions], engine: Engine, monkeypatch: pytest.MonkeyPatch, script: str
) -> None:
    ids = [token for token in engine.prompt_ids(script) if token not in engine.special_ids]

    def as_told(_logits: Any, continuations: Any) -> torch.Tensor:
        return torch.tensor([ids[len(each.written) % len(ids)] for each in continuations])

    monkeypatch.setattr("neurosteer_cli.generation.batching.batch._chosen", as_told)
    client, address = httpx.Client(timeout=60), f"{server[0]}/v1/completions"
    for length in (1, 2, 3, 5, 11, len(ids) + 2):
        full = engine.decode(engine.prompt_ids("x"), (ids * 2)[:length])
        for stop in ([], [script[:1]], [script[2:4], "never"], [script[-1:]]):
            asked = {"prompt": "x", "max_tokens": length, "stop": stop, "logprobs": 0}
            (whole,) = client.post(address, json=asked).json()["choices"]
            chunks = events(client.post(address, json={**asked, "stream": True}).text)
            parts = [choice for chunk in chunks for choice in chunk["choices"]]
            assert "".join(part["text"] for part in parts) == whole["text"]
            assert [part["finish_reason"] for part in parts][-1] == whole["finish_reason"]
            for told in ("tokens", "text_offset"):
                streamed = [each for part in parts for each in part["logprobs"][told]]
                assert streamed == whole["logprobs"][told]
            assert full.startswith(whole["text"])
            assert whole["text"] == full or any(full[len(whole["text"]) :].startswith(each) for each in stop)
