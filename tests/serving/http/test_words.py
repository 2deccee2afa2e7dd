"""Whatever is wrong with a request, it is told in our words, with the field's name."""

from collections.abc import Iterator
from typing import Any

import pytest
from pydantic import ValidationError
from pydantic_core._pydantic_core import list_all_errors

from neurosteer_cli.serving.http.words import fault
from neurosteer_cli.serving.protocol.chat import ChatRequest
from neurosteer_cli.serving.protocol.completions import CompletionRequest
from neurosteer_cli.serving.protocol.embeddings import EmbeddingRequest
from neurosteer_cli.serving.protocol.fields import Form
from neurosteer_cli.serving.protocol.ollama import GenerateRequest, OllamaChatRequest, ShowRequest
from neurosteer_cli.serving.protocol.responses import ResponsesRequest
from neurosteer_cli.serving.protocol.vectors import DoseRequest, FitRequest

PARTS: list[Any] = [{"type": "text", "text": "x"}]
MESSAGES: list[Any] = [
    {"role": "user", "content": PARTS},
    {"role": "assistant", "content": "y", "tool_calls": [], "function_call": None, "audio": None},
]
SAMPLED: dict[str, Any] = {
    "temperature": 1, "top_p": 1, "top_k": 1, "repetition_penalty": 1, "seed": 1, "stop": ["x"], "min_p": 0.1,
    "presence_penalty": 1, "frequency_penalty": 1, "logit_bias": {"5": 1},
}  # fmt: skip
COMMON: dict[str, Any] = {"model": "tiny", "stream": False, "steering": {"polite": 3}, "positions": "all"}
FORMS: list[tuple[type[Form], dict[str, Any]]] = [
    (CompletionRequest, {
        **COMMON, **SAMPLED, "prompt": ["x", "y"], "max_tokens": 3, "n": 1, "best_of": 1, "logprobs": 1,
        "echo": True, "response_format": {"type": "json_object"}, "stream_options": {"include_usage": True},
    }),
    (CompletionRequest, {"prompt": [[1, 2], [3]]}),
    (ChatRequest, {
        **COMMON, **SAMPLED, "messages": MESSAGES, "max_tokens": 3, "max_completion_tokens": 3, "n": 1,
        "logprobs": True, "top_logprobs": 1, "stream_options": {"include_usage": True},
        "response_format": {"type": "json_schema",
         "json_schema": {"name": "x", "schema": {"type": "object"}}},
        "chat_template_kwargs": {"enable_thinking": False},
    }),
    (ResponsesRequest, {
        **COMMON, **SAMPLED, "input": MESSAGES, "instructions": "x", "max_output_tokens": 3, "metadata": {},
        "include": ["message.output_text.logprobs"], "top_logprobs": 1,
        "text": {"format": {"type": "json_schema", "name": "x", "schema": {"type": "object"}}},
        "stream_options": {},
    }),
    (EmbeddingRequest, {"model": "tiny", "input": ["x"], "encoding_format": "float", "dimensions": 3}),
    (OllamaChatRequest,
     {**COMMON, "messages": MESSAGES, "options": {**SAMPLED, "num_predict": 3}, "format": "json"}),
    (GenerateRequest, {**COMMON, "prompt": "x", "system": "y", "raw": False, "options": {"num_predict": 3}}),
    (ShowRequest, {"model": "tiny", "name": "tiny"}),
    (DoseRequest, {"steering": {"polite": 3}}),
    (FitRequest, {"name": "ab", "positive": ["x"], "negative": ["y"], "method": "diffmean"}),
]  # fmt: skip
WRONG: list[Any] = [
    None, True, False, 0, -1, -2, 3, 0.5, -0.5, 1e300, 2**70, float("nan"), float("-inf"), "", "x", "1",
    "é" * 2000,
    [], [1], ["x"], [""], [None], [[]], [[1], "x"], [1, "x"], [[-1]], ["x", 1], {}, {"x": 1}, {"x": None},
    [{}],
    [{"type": "image_url"}], [{"role": "tool", "content": "x"}], [{"type": "text", "text": 3}],
    {"type": "text"},
]  # fmt: skip
FOREIGN = {
    *(error["message_template_python"].split("{")[0][:14] for error in list_all_errors()),
    "Input should", "Extra inputs", "after validation", "Field required", "valid string", "should have",
    "should be", "Value error", "pydantic", "<", "cannot be read", "None", "[key]",
} - {""}  # fmt: skip


def told(form: type[Form], body: Any) -> str | None:
    """What a request is refused with; None if it is not."""
    try:
        form.model_validate(body)
    except ValidationError as error:
        found = [{**each, "loc": ("body", *each["loc"])} for each in error.errors()]
        return fault(found)[0]
    return None


def changed(value: Any) -> Iterator[tuple[str, Any]]:
    """A form's example with each place of it, however deep, changed in every wrong way; and the field."""
    if isinstance(value, dict):
        yield "misspelt", {**value, "misspelt": 1}
        for key, inner in value.items():
            yield key, {name: each for name, each in value.items() if name != key}
            yield from ((key, {**value, key: wrong}) for wrong in WRONG)
            yield from ((key, {**value, key: deeper}) for _, deeper in changed(inner))
    if isinstance(value, list):
        for place, inner in enumerate(value):
            yield from (
                ("", [*value[:place], each, *value[place + 1 :]])
                for each in [*WRONG, *(deeper for _, deeper in changed(inner))]
            )


@pytest.mark.parametrize(("form", "example"), FORMS)
def test_every_fault_is_told_in_our_words_with_the_fields_name(
    form: type[Form], example: dict[str, Any]
) -> None:
    assert told(form, example) is None
    n_refused = 0
    for field, body in changed(example):
        if sentence := told(form, body):
            n_refused += 1
            assert field in sentence, (sentence, body)
            assert not [phrase for phrase in FOREIGN if phrase in sentence], (sentence, body)
    assert n_refused > len(WRONG) / 4


@pytest.mark.parametrize(("form", "example"), FORMS)
def test_what_is_not_served_is_refused_by_its_name_and_neutral_values_are_not(
    form: type[Form], example: dict[str, Any]
) -> None:
    for name in form.unserved.keys() - form.names():
        is_neutral = form.unserved[name]
        for value in WRONG[1:]:
            empty = value in ("", [], {})
            expected = None if empty or is_neutral(value) else f"{name}: not served; leave it out"
            assert told(form, {**example, name: value}) == expected, (name, value)
        assert told(form, {**example, name: None}) is None
    for name in form.ignored:
        assert told(form, {**example, name: object()}) is None


@pytest.mark.parametrize("body", [None, [], "x", 3, True])
def test_what_is_no_object_is_told_to_be_one(body: Any) -> None:
    assert told(ChatRequest, body) == "send a JSON object"


@pytest.mark.parametrize(
    ("form", "changes", "sentence"),
    [
        (CompletionRequest, {"prompt": ["a", ""]}, "prompt.1: empty"),
        (CompletionRequest, {"prompt": []}, "prompt: empty"),
        (CompletionRequest, {"prompt": [1, -1]}, "prompt.1: must be at least 0, got -1"),
        (CompletionRequest, {"prompt": [[1], [2, -1]]}, "prompt.1.1: must be at least 0, got -1"),
        (CompletionRequest, {"prompt": {}},
         "prompt: must be a text, a list of texts, or lists of token ids, got an object"),
        (CompletionRequest, {"prompt": ["a", 3]}, "prompt.1: must be a text, got 3"),
        (CompletionRequest, {"promt": "x"}, "promt: unknown field; did you mean 'prompt'?"),
        (CompletionRequest, {"a[0]": 1}, "a[0]: unknown field"),
        (CompletionRequest, {"": 1}, "'': unknown field"),
        (CompletionRequest, {"<x": 1}, "<x: unknown field"),
        (CompletionRequest, {"[key]": 1}, "[key]: unknown field"),
        (CompletionRequest, {"logit_bias": {"a": 1}}, "logit_bias.a: must be a whole number, got 'a'"),
        (ChatRequest, {"chat_template_kwargs": {"chat_template": "x"}},
         "chat_template_kwargs: 'chat_template' is no argument of the template"),
        (ChatRequest, {"chat_template_kwargs": {"x": 1, "tokenize": 1, "messages": 1, "chat_template": 1}},
         "chat_template_kwargs: 'tokenize' is no argument of the template"),
        (CompletionRequest, {"length_penalty": 0.1}, "length_penalty: not served; leave it out"),
        (CompletionRequest, {"repetition_penalty": 1, "repeat_penalty": 1},
         "repeat_penalty: given twice, under two names"),
        (CompletionRequest, {"temperature": float("nan")}, "temperature: must be a finite number, got nan"),
        (CompletionRequest, {"temperature": "warm"}, "temperature: must be a number, got 'warm'"),
        (CompletionRequest, {"stop": ["a", 3]}, "stop.1: must be a text, got 3"),
        (CompletionRequest, {"stop": 3}, "stop: must be a text or a list of texts, got 3"),
        (CompletionRequest, {"stream_options": {"include_usages": True}},
         "stream_options.include_usages: unknown field; did you mean 'include_usage'?"),
        (CompletionRequest, {"best_of": 3}, "best_of: not served; ask for as many as you want by n"),
        (CompletionRequest, {"steering": {"polite": "much"}},
         "steering.polite: must be a number, got 'much'"),
        (ChatRequest, {"tools": [{"type": "function"}]}, "tools: not served; leave it out"),
        (ChatRequest, {"response_format": {"type": "xml"}},
         "response_format.type: must be 'text', 'json_object' or 'json_schema', got 'xml'"),
        (ChatRequest, {"messages": "x"}, "messages: must be a list, got 'x'"),
        (ChatRequest, {"messages": ["x"]}, "messages.0: must be an object, got 'x'"),
        (ChatRequest, {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}]},
         "messages.0.content.0.type: 'image_url' is not served; only parts of type 'text' are"),
        (ChatRequest, {"messages": [{"role": "user", "content": {"text": "x"}}]},
         "messages.0.content: must be a text, or a list of parts with a type and a text, got an object"),
        (ChatRequest, {"messages": [{"role": "assistant", "tool_calls": [{"id": "1"}]}]},
         "messages.0.tool_calls: not served; send messages of text alone"),
        (ChatRequest, {"messages": [{"role": "tool", "content": "x", "tool_call_id": "1"}]},
         "messages.0.role: 'tool' is not served, and neither are tools"),
        (ChatRequest, {"messages": [{"role": "user", "contnet": "x"}]}, "messages.0.content: missing"),
        (ResponsesRequest, {"metadata": {"a": [float("inf")]}},
         "metadata: must hold finite numbers alone"),
        (ResponsesRequest, {"previous_response_id": "resp_1"},
         "previous_response_id: not served; leave it out"),
        (ResponsesRequest, {"input": [{"type": "function_call", "name": "f"}]},
         "input.0.type: 'function_call' is not served; only messages are"),
        (ResponsesRequest, {"text": {"format": {"type": "yaml"}}},
         "text.format.type: must be 'text', 'json_object' or 'json_schema', got 'yaml'"),
        (OllamaChatRequest, {"format": "yaml"}, "format: must be 'json' or a JSON schema, got 'yaml'"),
        (OllamaChatRequest, {"options": {"num_predict": "many"}},
         "options.num_predict: must be a whole number, got 'many'"),
        (FitRequest, {"name": "a b"}, "name: must be 1 to 64 letters, digits, '_', '-' and '.', got 'a b'"),
    ],
)  # fmt: skip
def test_the_branch_that_fits_is_the_one_that_is_told(
    form: type[Form], changes: dict[str, Any], sentence: str
) -> None:
    example = next(example for each, example in FORMS if each is form)
    assert told(form, {**example, **changes}) == sentence
