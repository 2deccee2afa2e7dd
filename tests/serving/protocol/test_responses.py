"""OpenAI's newer API, by its official client."""

from typing import Any

import openai
import pytest

from neurosteer_cli.models.engine import Engine
from neurosteer_cli.serving.protocol.responses import ResponsesRequest

ASKED: dict[str, Any] = {"model": "tiny+polite:3", "max_output_tokens": 12, "extra_body": {"seed": 4}}


def chat(**asked: Any) -> list[dict[str, str]]:
    return ResponsesRequest.model_validate(asked).chat


def test_a_response_says_what_a_chat_says(client: openai.OpenAI) -> None:
    found = client.responses.create(input="hello", instructions="be kind", **ASKED)
    messages: Any = [{"role": "system", "content": "be kind"}, {"role": "user", "content": "hello"}]
    same = client.chat.completions.create(
        model="tiny+polite:3", messages=messages, max_tokens=12, extra_body={"seed": 4}
    )
    assert found.output_text == same.choices[0].message.content
    assert found.usage is not None and same.usage is not None
    assert found.usage.input_tokens == same.usage.prompt_tokens
    assert found.usage.output_tokens == same.usage.completion_tokens
    assert found.model_extra and found.model_extra["steering"]["alphas"] == {"polite": 3.0}
    assert (found.object, found.instructions, found.error) == ("response", "be kind", None)


def test_a_response_that_is_cut_off_says_so(client: openai.OpenAI) -> None:
    found = client.responses.create(model="tiny", input="x", max_output_tokens=2, temperature=0)
    assert found.status == "incomplete"
    assert found.incomplete_details is not None
    assert found.incomplete_details.reason == "max_output_tokens"
    assert found.model_extra and found.model_extra["limit"] == {"name": "max_tokens", "tokens": 2}


def test_a_stream_has_the_events_that_the_client_reads(client: openai.OpenAI) -> None:
    whole = client.responses.create(input="hello", **ASKED)
    events = list(client.responses.create(input="hello", stream=True, **ASKED))
    kinds = [event.type.removeprefix("response.") for event in events]
    assert kinds[:4] == ["created", "in_progress", "output_item.added", "content_part.added"]
    assert set(kinds[4:-4]) == {"output_text.delta"}
    assert kinds[-4:] == ["output_text.done", "content_part.done", "output_item.done", whole.status]
    assert [event.sequence_number for event in events] == list(range(len(events)))
    assert "".join(getattr(event, "delta", "") for event in events) == whole.output_text
    last: Any = events[-1]
    assert (last.response.output_text, last.response.usage) == (whole.output_text, whole.usage)


def test_the_clients_own_helper_reads_a_stream(client: openai.OpenAI, engine: Engine) -> None:
    stop = engine.decode([], engine.prompt_ids("x"))
    asked: dict[str, Any] = {
        **ASKED,
        "extra_body": {"temperature": 0, "stop": stop},
        "max_output_tokens": 100,
    }
    whole = client.responses.create(input="hello", **asked)
    with client.responses.stream(input="hello", **asked) as stream:
        said = "".join(event.delta for event in stream if event.type == "response.output_text.delta")
    assert said == whole.output_text


def test_log_probabilities(client: openai.OpenAI) -> None:
    found = client.responses.create(
        model="tiny", input="x", temperature=0, max_output_tokens=3, top_logprobs=2,
        include=["message.output_text.logprobs"],
    )  # fmt: skip
    (part,) = found.output[0].content  # type: ignore[union-attr]
    told = part.logprobs  # type: ignore[union-attr]
    assert told is not None and len(told) == 3
    assert all(len(token.top_logprobs) == 2 for token in told)
    assert told[0].logprob == max(top.logprob for top in told[0].top_logprobs)


def test_input_may_be_items_and_what_was_put_out_before() -> None:
    items: list[Any] = [
        {"role": "user", "content": [{"type": "input_text", "text": "a"}]},
        {"type": "reasoning", "id": "rs_1", "summary": []},
        {"type": "message", "id": "msg_1", "role": "assistant", "status": "completed",
         "content": [{"type": "output_text", "text": "b", "annotations": [], "logprobs": []}]},
        {"type": "message", "role": "developer", "content": "c"},
    ]  # fmt: skip
    said = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    assert chat(input=items) == [*said, {"role": "system", "content": "c"}]


def test_an_answers_output_can_be_sent_back(client: openai.OpenAI) -> None:
    first = client.responses.create(model="tiny", input="x", max_output_tokens=4, store=False)
    items: Any = [{"role": "user", "content": "x"}, *first.output, {"role": "user", "content": "y"}]
    again = client.responses.create(model="tiny", input=items, max_output_tokens=4)
    assert again.usage is not None and first.usage is not None
    assert again.usage.input_tokens > first.usage.input_tokens


def test_a_format_is_asked_for_where_it_is_read(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError, match="response_format: not served; give it as text.format"):
        client.responses.create(
            model="tiny", input="x", extra_body={"response_format": {"type": "json_object"}}
        )


@pytest.mark.parametrize(
    "asked", [{"previous_response_id": "resp_1"}, {"background": True}, {"conversation": "c"}]
)
def test_nothing_is_kept(client: openai.OpenAI, asked: dict[str, Any]) -> None:
    with pytest.raises(openai.BadRequestError, match=f"{next(iter(asked))}: not served"):
        client.responses.create(model="tiny", input="x", **asked)
