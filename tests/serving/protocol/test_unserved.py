"""Fields that other servers know: none is unknown here, and neutral values ask for nothing."""

from typing import Any, get_type_hints

import pytest
from openai.types import completion_create_params, embedding_create_params
from openai.types.chat import completion_create_params as chat_params
from openai.types.responses import response_create_params

from neurosteer_cli.serving.protocol.chat import ChatRequest
from neurosteer_cli.serving.protocol.completions import CompletionRequest
from neurosteer_cli.serving.protocol.embeddings import EmbeddingRequest
from neurosteer_cli.serving.protocol.fields import Form
from neurosteer_cli.serving.protocol.responses import ResponsesRequest

PROMPT: dict[str, Any] = {"prompt": "x"}
CHAT: dict[str, Any] = {"messages": [{"role": "user", "content": "x"}]}
OPENAIS: list[tuple[type[Form], Any, dict[str, Any]]] = [
    (ChatRequest, chat_params.CompletionCreateParamsStreaming, CHAT),
    (CompletionRequest, completion_create_params.CompletionCreateParamsStreaming, PROMPT),
    (ResponsesRequest, response_create_params.ResponseCreateParamsStreaming, {"input": "x"}),
    (EmbeddingRequest, embedding_create_params.EmbeddingCreateParams, {"input": "x"}),
]


@pytest.mark.parametrize(("form", "parameters", "least"), OPENAIS)
def test_every_field_of_openais_client_is_known_and_may_be_null(
    form: type[Form], parameters: Any, least: dict[str, Any]
) -> None:
    names = set(get_type_hints(parameters))
    assert names
    assert names <= form.names() | form.ignored | form.unserved.keys()
    assert form.model_validate({**dict.fromkeys(names), **least}) == form.model_validate(least)


@pytest.mark.parametrize(
    "neutral",
    [
        {"top_k": -1}, {"top_k": 0}, {"min_p": 0}, {"min_p": 0.0}, {"repetition_penalty": 1.0},
        {"repeat_penalty": 1},
        {"functions": []}, {"function_call": "none"}, {"function_call": "auto"}, {"tools": []},
        {"tool_choice": "auto"}, {"tool_choice": "none"},
        {"logit_bias": {}}, {"logit_bias": {"5": 0}}, {"logit_bias": []}, {"logit_bias": [[5, 0]]},
        {"presence_penalty": 0}, {"frequency_penalty": 0.0}, {"response_format": {"type": "text"}},
        {"modalities": ["text"]}, {"suffix": ""}, {"stop": ""}, {"stop": []}, {"stop": [""]}, {"echo": False},
        {"steering": {}}, {"positions": "all"}, {"model": ""}, {"seed": -1}, {"n": 1}, {"stream": False},
        {"logprobs": False}, {"best_of": 1},
        {"stream_options": {}}, {"stream_options": {"include_usage": False, "continuous_usage_stats": False}},
        {"user": "me"}, {"metadata": {"a": "b"}}, {"store": True}, {"service_tier": "auto"},
        {"verbosity": "low"},
        {"reasoning_effort": "low"}, {"prediction": {"type": "content", "content": "x"}},
        {"use_beam_search": False}, {"length_penalty": 1.0}, {"stop_token_ids": []}, {"ignore_eos": False},
        {"skip_special_tokens": True}, {"min_tokens": 0}, {"guided_json": None}, {"bad_words": []},
        {"chat_template_kwargs": {}}, {"cache_prompt": True}, {"mirostat": 0, "mirostat_tau": 5.0},
        {"typical_p": 1.0}, {"dry_multiplier": 0.0, "dry_base": 1.75}, {"grammar": ""}, {"id_slot": -1},
    ],
)  # fmt: skip
@pytest.mark.parametrize(("form", "least"), [(CompletionRequest, PROMPT), (ChatRequest, CHAT)])
def test_neutral_values_change_nothing(form: Any, least: dict[str, Any], neutral: dict[str, Any]) -> None:
    found, plain = form.model_validate({**least, **neutral}), form.model_validate(least)
    assert found.sampled.stops == plain.sampled.stops == ()
    ours = plain.sampled.sampling
    assert found.sampled.sampling.__class__(**{**vars(found.sampled.sampling), "seed": ours.seed}) == ours
    assert (found.n_samples, found.n_log_probs, found.max_new_tokens) == (
        plain.n_samples, plain.n_log_probs, plain.max_new_tokens
    )  # fmt: skip
    assert (found.steering, found.positions, found.stream) == ({}, "all", False)


def test_what_is_sent_as_text_is_taken_as_the_number_it_is() -> None:
    found = CompletionRequest.model_validate({**PROMPT, "temperature": "0.5", "seed": 1.0, "max_tokens": "3"})
    assert (found.temperature, found.seed, found.max_tokens) == (0.5, 1, 3)


def test_tools_that_are_not_to_be_called_ask_for_nothing() -> None:
    asked = {**CHAT, "tools": [{"type": "function"}], "tool_choice": "none"}
    assert ChatRequest.model_validate(asked) == ChatRequest.model_validate(CHAT)
