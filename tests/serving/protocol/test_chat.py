"""Messages as clients send them, and send them back."""

from typing import Any

import openai
import pytest

from neurosteer_cli.serving.protocol.chat import ChatRequest

PLAIN = {"role": "assistant", "content": "hello"}


def plain(*messages: Any) -> list[dict[str, str]]:
    return ChatRequest.model_validate({"messages": messages}).chat


@pytest.mark.parametrize(
    "echoed",
    [
        {"tool_calls": []}, {"tool_calls": None}, {"function_call": None}, {"audio": None}, {"refusal": None},
        {"refusal": ""}, {"annotations": []}, {"annotations": None}, {"reasoning_content": "hm"},
        {"reasoning": "hm"},
        {"id": "msg_1"}, {"thinking": "hm"}, {"thinking_blocks": [{"type": "thinking"}]}, {"name": "bot"},
        {"provider_specific_fields": {"refusal": None}}, {"cache_control": {"type": "ephemeral"}},
        {"prefix": False}, {"weight": 1}, {"type": "message"}, {"status": "completed"}, {"images": []},
        {"content": [{"type": "text", "text": "hel", "cache_control": {"type": "ephemeral"}},
         {"type": "text", "text": "lo"}]},
        {"content": [{"type": "output_text", "text": "hello", "annotations": [], "logprobs": None}]},
        {"content": None, "refusal": "hello"}, {"content": [{"type": "refusal", "refusal": "hello"}]},
    ],
)  # fmt: skip
def test_what_clients_echo_is_left_out(echoed: dict[str, Any]) -> None:
    assert plain({"role": "user", "content": "x"}, {**PLAIN, **echoed})[1] == PLAIN


@pytest.mark.parametrize(
    "message",
    [{"role": "assistant"}, {"role": "assistant", "content": None}, {"role": "assistant", "content": []}],
)
def test_an_assistant_may_have_said_nothing(message: dict[str, Any]) -> None:
    assert plain(message) == [{"role": "assistant", "content": ""}]


def test_a_developer_is_the_system_and_may_stand_anywhere() -> None:
    asked = [{"role": role, "content": ""} for role in ("user", "developer", "system")]
    assert [message["role"] for message in plain(*asked)] == ["user", "system", "system"]


def test_an_answers_message_can_be_sent_back_in_every_form(client: openai.OpenAI) -> None:
    asked: Any = [{"role": "user", "content": "x"}]
    answer = (
        client.chat.completions.create(model="tiny", messages=asked, max_tokens=4, seed=1).choices[0].message
    )
    said = set()
    for echoed in (answer, answer.model_dump(), answer.model_dump(exclude_none=True), answer.to_dict()):
        messages: Any = [*asked, echoed, {"role": "user", "content": "y"}]
        found = client.chat.completions.create(model="tiny", messages=messages, max_tokens=9, temperature=0)
        said.add((found.choices[0].message.content, found.usage and found.usage.prompt_tokens))
    assert len(said) == 1
