"""Log-probabilities, in the forms that OpenAI's clients read."""

from typing import Any

import openai
import pytest
import torch

from neurosteer_cli.models.engine import Engine


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
