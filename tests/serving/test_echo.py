"""Prompts given back with the log-probabilities of their tokens, as lm-evaluation-harness asks for them."""

from typing import Any

import openai
import pytest
import torch
from support.serving import served

from neurosteer_cli.generation.batching import batch
from neurosteer_cli.models.engine import Engine
from neurosteer_cli.models.hooks import add
from neurosteer_cli.vectors.vector import SteeringVector, total_pushes

PROMPTS = ["to be or not to be, that is the question", "x", "whether 'tis nobler in the mind to suffer"]
ASKED: dict[str, Any] = {"model": "tiny", "prompt": "to be", "max_tokens": 5, "temperature": 0}


def log_probs(
    engine: Engine, ids: list[int], vectors: dict[str, SteeringVector], alphas: dict[str, float]
) -> Any:
    """Of what may follow each token, by a whole pass of the model, [n, d_vocab]."""
    pushes = total_pushes([vectors[name] for name in alphas], list(alphas.values()))
    with torch.inference_mode(), add(engine.blocks, pushes):
        logits = engine.model(input_ids=torch.tensor([ids])).logits[0]
    return logits.float().log_softmax(-1)


@pytest.mark.parametrize("alphas", [{}, {"polite": 3.0, "happy": -2.0}])
@pytest.mark.parametrize("n_new", [0, 1, 7])
@pytest.mark.parametrize("at_once", [2**25, 300 * 7])
def test_an_echo_tells_what_a_whole_pass_says(
    client: openai.OpenAI,
    engine: Engine,
    vectors: dict[str, SteeringVector],
    monkeypatch: pytest.MonkeyPatch,
    alphas: dict[str, float],
    n_new: int,
    at_once: int,
) -> None:
    monkeypatch.setattr(batch, "LOGITS_AT_ONCE", at_once)
    prompts = [engine.prompt_ids(prompt) for prompt in PROMPTS]
    found = client.completions.create(
        model="tiny", prompt=prompts, echo=True, logprobs=2, max_tokens=n_new, temperature=0,
        extra_body={"steering": alphas},
    )  # fmt: skip
    for prompt, ids, choice in zip(PROMPTS, prompts, found.choices, strict=True):
        told = choice.logprobs
        assert told is not None and told.token_logprobs and told.top_logprobs and told.text_offset
        assert choice.text.startswith(prompt)
        assert told.tokens is not None and "".join(told.tokens[: len(ids)]) == prompt
        assert told.text_offset[: len(ids)] == list(range(len(ids)))  # a token is a byte here
        assert all(offset >= len(prompt) for offset in told.text_offset[len(ids) :])
        assert (told.token_logprobs[0], told.top_logprobs[0]) == (None, None)
        expected = log_probs(engine, ids, vectors, alphas)
        for position in range(1, len(ids)):
            row = expected[position - 1]
            assert told.token_logprobs[position] == pytest.approx(float(row[ids[position]]), abs=1e-4)
            most = told.top_logprobs[position]
            assert most is not None
            assert max(most.values()) == pytest.approx(float(row.max()), abs=1e-4)
        assert len(told.tokens) - len(ids) <= n_new
    assert found.usage is not None and found.usage.prompt_tokens == sum(map(len, prompts))


def test_an_echo_without_log_probs_is_the_prompt_and_its_text(client: openai.OpenAI) -> None:
    plain = client.completions.create(**ASKED).choices[0]
    echoed = client.completions.create(**ASKED, echo=True).choices[0]
    assert (echoed.text, echoed.finish_reason) == (f"to be{plain.text}", plain.finish_reason)
    assert echoed.logprobs is None


def test_a_stream_begins_with_the_prompt(client: openai.OpenAI) -> None:
    asked = {**ASKED, "echo": True}
    whole = client.completions.create(**asked).choices[0].text
    parts = [
        chunk.choices[0].text for chunk in client.completions.create(**asked, stream=True) if chunk.choices
    ]
    assert "".join(parts) == whole
    assert parts[0].startswith("to be")


def test_none_can_be_written(client: openai.OpenAI) -> None:
    found = client.completions.create(model="tiny", prompt=["to be", "x"], max_tokens=0)
    assert [(choice.text, choice.finish_reason) for choice in found.choices] == [("", "length")] * 2
    assert found.usage is not None and found.usage.completion_tokens == 0


def test_a_prompt_may_fill_the_context_where_none_is_written(client: openai.OpenAI, engine: Engine) -> None:
    ids = engine.prompt_ids("a") * engine.max_tokens
    found = client.completions.create(model="tiny", prompt=ids, max_tokens=0, echo=True, logprobs=0)
    assert found.choices[0].text == "a" * engine.max_tokens


def test_echoes_and_others_share_a_batch(engine: Engine, vectors: dict[str, SteeringVector]) -> None:
    with (
        served(engine, vectors) as (address, _),
        openai.OpenAI(base_url=f"{address}/v1", api_key="x") as client,
    ):
        asked: dict[str, Any] = {"model": "tiny", "max_tokens": 9, "temperature": 0}
        alone = [client.completions.create(**asked, prompt=prompt).choices[0].text for prompt in PROMPTS]
        together = client.completions.create(**asked, prompt=PROMPTS, echo=True, logprobs=1).choices
        assert [choice.text for choice in together] == [
            p + text for p, text in zip(PROMPTS, alone, strict=True)
        ]


def test_the_token_that_ends_a_text_is_told_after_an_echo(client: openai.OpenAI, engine: Engine) -> None:
    (end,) = engine.stop_ids
    asked: dict[str, Any] = {"model": "tiny", "prompt": "to be", "max_tokens": 1, "logprobs": 0}
    found = client.completions.create(**asked, echo=True, logit_bias={str(end): 100}).choices[0]
    assert found.logprobs is not None
    assert (found.text, found.finish_reason) == ("to be", "stop")
    assert found.logprobs.tokens == [*"to be", "</s>"]  # a harness leaves the last one out
    assert found.logprobs.text_offset == [0, 1, 2, 3, 4, 5]


def test_an_end_that_nobody_asked_for_is_not_told(client: openai.OpenAI, engine: Engine) -> None:
    (end,) = engine.stop_ids
    asked: dict[str, Any] = {"model": "tiny", "prompt": "to be", "max_tokens": 0, "logprobs": 0}
    found = client.completions.create(**asked, echo=True, logit_bias={str(end): 100}).choices[0]
    assert found.logprobs is not None
    assert (found.finish_reason, found.logprobs.tokens) == ("length", [*"to be"])
