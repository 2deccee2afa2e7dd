"""JSON on request, of a schema or any, by each protocol; penalties and biases by the official client."""

import json
from typing import Any

import openai
import pytest
from support.serving import CHAT, PLAIN, post

from neurosteer_cli.models.engine import Engine
from neurosteer_cli.serving.completions import Completions

MOOD = {
    "type": "object",
    "properties": {"mood": {"enum": ["happy", "sad"]}},
    "required": ["mood"],
    "additionalProperties": False,
}
NAMED = {"name": "mood", "schema": MOOD, "strict": True}
MOODS = ({"mood": "happy"}, {"mood": "sad"})


@pytest.mark.parametrize(
    ("path", "asked"),
    [
        ("/v1/completions", {**PLAIN, "response_format": {"type": "json_schema", "json_schema": NAMED}}),
        ("/v1/chat/completions", {**CHAT, "response_format": {"type": "json_schema", "json_schema": NAMED}}),
        ("/v1/responses", {"input": "hi", "text": {"format": {"type": "json_schema", **NAMED}}}),
        ("/api/generate", {"prompt": "hi", "raw": True, "stream": False, "format": MOOD}),
        ("/api/chat", {"messages": CHAT["messages"], "stream": False, "format": MOOD}),
    ],
)
def test_an_answer_is_of_the_schema_that_is_asked_for(
    server: tuple[str, Completions], path: str, asked: dict[str, Any]
) -> None:
    limit = {"options": {"num_predict": 60}} if path.startswith("/api") else {}
    if path.startswith("/v1"):
        limit = {"max_output_tokens" if "responses" in path else "max_tokens": 60}
    answer = post(server[0], path, {**asked, **limit})
    assert answer.status_code == 200, answer.text
    assert json.loads(said(answer.json())) in MOODS


def said(body: dict[str, Any]) -> str:
    """The text of an answer in any protocol."""
    if "output" in body:
        return str(body["output"][0]["content"][0]["text"])
    if "choices" in body:
        choice = body["choices"][0]
        assert choice["finish_reason"] == "stop"
        return str(choice.get("text") or choice["message"]["content"])
    assert body["done_reason"] == "stop"
    return str(body.get("response") or body["message"]["content"])


def test_rows_with_and_without_a_schema_are_written_together(client: openai.OpenAI) -> None:
    asked: dict[str, Any] = {"model": "tiny", "prompt": "to be", "max_tokens": 30, "temperature": 0}
    plain = client.completions.create(**asked).choices[0].text
    held = client.completions.create(
        **asked, n=3, extra_body={"response_format": {"type": "json_schema", "json_schema": NAMED}}
    )
    assert all(json.loads(choice.text) in MOODS for choice in held.choices)
    assert client.completions.create(**asked).choices[0].text == plain


@pytest.mark.parametrize(
    ("format", "said"),
    [
        ({"type": "yaml"},
         "response_format.type: must be 'text', 'json_object' or 'json_schema', got 'yaml'"),
        ({"type": "json_schema"}, "response_format.json_schema: missing"),
        ({"type": "json_schema", "json_schema": {"schema": {"type": "nonsense"}}},
         "the format asked for: not a JSON schema that can be held to (Invalid type: nonsense)"),
    ],
)  # fmt: skip
def test_a_format_that_cannot_be_had_is_named(
    server: tuple[str, Completions], format: dict[str, Any], said: str
) -> None:
    answer = post(server[0], "/v1/completions", {**PLAIN, "response_format": format})
    assert (answer.status_code, answer.json()["error"]["message"]) == (400, said)


def test_a_bias_decides_and_penalties_forbid_repeats(client: openai.OpenAI, engine: Engine) -> None:
    x, y = engine.prompt_ids("x")[-1], engine.prompt_ids("y")[-1]
    asked: dict[str, Any] = {"model": "tiny", "prompt": "to be", "max_tokens": 4, "temperature": 0}
    biased = client.completions.create(**asked, logit_bias={str(x): 100, str(y): 60})
    assert biased.choices[0].text == "xxxx"
    once = client.completions.create(**asked, logit_bias={str(x): 100, str(y): 60}, presence_penalty=90)
    assert once.choices[0].text.startswith("xy")
    certain = client.completions.create(**asked, extra_body={"min_p": 1.0})
    assert certain.choices[0].text == client.completions.create(**asked).choices[0].text


def test_a_bias_on_no_token_of_the_model_is_named(server: tuple[str, Completions]) -> None:
    answer = post(server[0], "/v1/completions", {**PLAIN, "logit_bias": {"300": 1}})
    said = "logit_bias: token 300 is none of the model's 300"
    assert (answer.status_code, answer.json()["error"]["message"]) == (400, said)
