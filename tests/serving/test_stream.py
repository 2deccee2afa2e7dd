"""Answers whole and in parts, until the client leaves."""

from typing import Any

import httpx
import openai
import pytest
from support.serving import PLAIN, post, served, slow, wait_for

from neurosteer_cli.generation.text import TextStream
from neurosteer_cli.models.engine import Engine
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
