"""Ollama's paths, as its front ends ask for them."""

import json
from typing import Any

import httpx
import pytest
from support.serving import post

from neurosteer_cli.models.engine import Engine
from neurosteer_cli.serving.completions import Completions

Server = tuple[str, Completions]
OPTIONS = {"num_predict": 9, "seed": 3, "temperature": 1.0, "top_p": 1.0, "top_k": 0, "num_ctx": 4096}
CHAT = {"model": "tiny:latest", "messages": [{"role": "user", "content": "hello"}], "options": OPTIONS}


def lines(address: str, path: str, body: Any) -> list[dict[str, Any]]:
    answer = post(address, path, body)
    assert answer.headers["content-type"] == "application/x-ndjson"
    return [json.loads(line) for line in answer.text.splitlines()]


@pytest.mark.parametrize("steering", ["", "+polite:3"])
def test_a_chat_says_what_openais_says_whole_and_streamed(server: Server, steering: str) -> None:
    address, asked = server[0], {**CHAT, "model": f"tiny{steering}"}
    whole = post(address, "/api/chat", {**asked, "stream": False}).json()
    same = post(
        address, "/v1/chat/completions",
        {"model": f"tiny{steering}", "messages": CHAT["messages"], "max_tokens": 9, "seed": 3},
    ).json()  # fmt: skip
    assert whole["message"] == {"role": "assistant", "content": same["choices"][0]["message"]["content"]}
    assert (whole["done"], whole["done_reason"]) == (True, same["choices"][0]["finish_reason"])
    assert whole["prompt_eval_count"] == same["usage"]["prompt_tokens"]
    assert whole["eval_count"] == same["usage"]["completion_tokens"]
    assert whole["total_duration"] > 0
    streamed = lines(address, "/api/chat", asked)
    assert "".join(line["message"]["content"] for line in streamed) == whole["message"]["content"]
    assert [line["done"] for line in streamed] == [False] * (len(streamed) - 1) + [True]
    assert (streamed[-1]["done_reason"], streamed[-1]["eval_count"]) == (
        whole["done_reason"],
        whole["eval_count"],
    )


def test_generate_answers_in_a_chat_or_goes_on_from_the_raw_prompt(server: Server, engine: Engine) -> None:
    address, asked = server[0], {"model": "tiny", "prompt": "hello", "options": OPTIONS}
    chat = post(address, "/api/chat", {**CHAT, "stream": False}).json()
    found = post(address, "/api/generate", {**asked, "stream": False}).json()
    assert found["response"] == chat["message"]["content"]
    raw = post(address, "/api/generate", {**asked, "stream": False, "raw": True}).json()
    same = post(address, "/v1/completions", {"prompt": "hello", "max_tokens": 9, "seed": 3}).json()
    assert raw["response"] == same["choices"][0]["text"]
    assert raw["prompt_eval_count"] == len(engine.prompt_ids("hello"))
    streamed = lines(address, "/api/generate", asked)
    assert "".join(line["response"] for line in streamed) == found["response"]


def test_ollamas_defaults_are_its_own(server: Server) -> None:
    asked = {"model": "tiny", "prompt": "x", "raw": True, "stream": False}
    plain = post(server[0], "/api/generate", {**asked, "options": {"seed": 1, "num_predict": 30}}).json()
    named = {"temperature": 0.8, "top_p": 0.9, "top_k": 40, "max_tokens": 30, "seed": 1, "prompt": "x"}
    assert plain["response"] == post(server[0], "/v1/completions", named).json()["choices"][0]["text"]


def test_what_is_there_is_listed_and_shown(server: Server) -> None:
    address = server[0]
    tags = httpx.get(f"{address}/api/tags").json()["models"]
    assert [tag["name"] for tag in tags] == ["tiny", "tiny+happy:8", "tiny+polite:8"]
    assert tags[0]["details"]["family"] == "LlamaForCausalLM"
    assert tags[0]["size"] > 0
    assert httpx.get(f"{address}/api/version").json().keys() == {"version"}
    assert [each["name"] for each in httpx.get(f"{address}/api/ps").json()["models"]] == ["tiny"]
    for body in ({"model": "tiny+polite:3"}, {"name": "tiny:latest"}):
        assert post(address, "/api/show", body).json()["capabilities"] == ["completion"]
    assert post(address, "/api/show", {"model": "llama3"}).status_code == 404


def test_asking_for_nothing_tells_that_the_model_is_loaded(server: Server) -> None:
    for path, body in (("/api/chat", {"messages": []}), ("/api/generate", {"keep_alive": "5m"})):
        found = post(server[0], path, {"model": "tiny", **body}).json()
        assert (found["done"], found["done_reason"]) == (True, "load")
        assert post(server[0], path, {"model": "llama3", **body}).status_code == 404


@pytest.mark.parametrize(
    ("changes", "status", "message"),
    [
        ({"model": "llama3"}, 404, "model 'llama3' is not served"),
        ({"format": "yaml"}, 400, "format: must be 'json' or a JSON schema, got 'yaml'"),
        ({"tools": [{"type": "function"}]}, 400, "tools: not served; leave it out"),
        ({"options": {"mirostat": 2}}, 400, "options.mirostat: not served; leave it out"),
        ({"options": {"num_predicts": 2}}, 400,
         "options.num_predicts: unknown field; did you mean 'num_predict'?"),
        ({"messages": [{"role": "user", "content": "x", "images": ["aGk="]}]}, 400,
         "messages.0.images: not served"),
    ],
)  # fmt: skip
def test_refusals_have_ollamas_form(server: Server, changes: Any, status: int, message: str) -> None:
    found = post(server[0], "/api/chat", {**CHAT, **changes})
    assert found.status_code == status
    assert found.json().keys() == {"error"}
    assert message in found.json()["error"]
