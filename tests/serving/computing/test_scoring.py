"""What vectors say of answers: as `neurosteer score` says it of the same texts, whole or streamed."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import openai
import pytest
import torch
from support.engines import passage
from support.serving import post, served
from support.tiny import D_MODEL, tiny_vector

from neurosteer_cli.models.engine import Engine
from neurosteer_cli.models.hooks import HookPoint
from neurosteer_cli.serving.completions import Completions
from neurosteer_cli.serving.computing.scoring import Scoring
from neurosteer_cli.vectors.detector import score
from neurosteer_cli.vectors.metadata import Detector
from neurosteer_cli.vectors.vector import SteeringVector

DETECTOR = Detector(middle=3.0, spread=40.0, slope=1.5, intercept=0.25, n_texts=40)
ASKED: dict[str, Any] = {"model": "tiny", "max_tokens": 12, "seed": 3, "extra_body": {"score": "polite"}}
HI: Any = [{"role": "user", "content": "hi"}]


@pytest.fixture(scope="module")
def vectors(engine: Engine) -> dict[str, SteeringVector]:
    """Two that are detectors, and one that is none."""
    found = {}
    for number, name in enumerate(("polite", "happy", "foreign")):
        push = torch.randn(D_MODEL, generator=torch.Generator().manual_seed(number)) * 10
        found[name] = tiny_vector(engine.shape, {HookPoint(1 + number): push})
    for name in ("polite", "happy"):
        metadata = found[name].metadata.model_copy(update={"detector": DETECTOR})
        found[name] = replace(found[name], metadata=metadata)
    return found


@pytest.fixture(scope="module")
def server(engine: Engine, vectors: dict[str, SteeringVector]) -> Iterator[tuple[str, Completions]]:
    with served(engine, vectors) as found:
        yield found


def said(engine: Engine, vector: SteeringVector, text: str) -> dict[str, float]:
    """What `neurosteer score` says of a text."""
    ((_, found),) = score(engine, vector, [engine.tokenize(passage(text))])
    return {
        "score": pytest.approx(found.z, abs=1e-4),
        "probability": pytest.approx(found.probability, abs=1e-4),
    }


def test_each_choice_is_scored_as_its_text_is(
    client: openai.OpenAI, engine: Engine, vectors: dict[str, SteeringVector]
) -> None:
    asked = {**ASKED, "extra_body": {"score": ["polite", "happy"], "steering": {"polite": 3}}}
    found = client.completions.create(prompt=["to be", "or"], n=2, **asked)
    assert len({choice.text for choice in found.choices}) == 4
    for choice in found.choices:
        of_choice = choice.model_extra["score"]  # type: ignore[index]
        assert of_choice == {name: said(engine, vectors[name], choice.text) for name in ("polite", "happy")}


def test_a_chat_and_a_response_are_scored(
    client: openai.OpenAI, engine: Engine, vectors: dict[str, SteeringVector]
) -> None:
    chat = client.chat.completions.create(messages=HI, **ASKED).choices[0]
    assert chat.model_extra["score"] == {"polite": said(engine, vectors["polite"], str(chat.message.content))}  # type: ignore[index]
    asked = {**ASKED, "max_output_tokens": 12, "extra_body": {"score": "polite", "seed": 3}}
    response = client.responses.create(
        input="hi", **{k: asked[k] for k in asked if k not in ("max_tokens", "seed")}
    )
    expected = {"polite": said(engine, vectors["polite"], response.output_text)}
    assert response.model_extra["score"] == expected  # type: ignore[index]


def test_what_is_not_asked_is_not_said(client: openai.OpenAI) -> None:
    found = client.completions.create(model="tiny", prompt="to be", max_tokens=3)
    assert "score" not in (found.choices[0].model_extra or {})


def test_a_prompt_that_is_given_back_is_not_scored(
    client: openai.OpenAI, engine: Engine, vectors: dict[str, SteeringVector]
) -> None:
    found = client.completions.create(prompt="to be", echo=True, **ASKED).choices[0]
    assert found.model_extra["score"] == {  # type: ignore[index]
        "polite": said(engine, vectors["polite"], found.text.removeprefix("to be"))
    }


def test_a_stream_ends_with_scores(client: openai.OpenAI) -> None:
    whole = client.completions.create(prompt="to be", n=2, **ASKED)
    usage: Any = {"include_usage": True}
    chunks = [*client.completions.create(prompt="to be", n=2, stream=True, stream_options=usage, **ASKED)]
    *_, first, second, last = chunks
    assert last.usage is not None
    for choice, chunk in zip(whole.choices, (first, second), strict=True):
        (scored,) = chunk.choices
        assert (scored.index, scored.text, scored.finish_reason) == (choice.index, "", None)
        assert scored.model_extra == {"score": choice.model_extra["score"]}  # type: ignore[index]
    chat = client.chat.completions.create(messages=HI, **ASKED)
    *_, end = client.chat.completions.create(messages=HI, stream=True, **ASKED)
    assert end.choices[0].delta.content is None
    assert end.choices[0].model_extra == {"score": chat.choices[0].model_extra["score"]}  # type: ignore[index]


def test_an_empty_answer_has_no_score(server: tuple[str, Completions]) -> None:
    body = {"model": "tiny", "prompt": "to be", "max_tokens": 0, "echo": True, "score": "polite"}
    (choice,) = post(server[0], "/v1/completions", body).json()["choices"]
    assert choice["score"] == {"polite": None}


@pytest.mark.parametrize(
    ("asked", "status", "words"),
    [
        ("foreign", 400, "score: foreign: nothing is known of how its two sides project on the vector"),
        ("nobody", 404, "no vector is named 'nobody'"),
        (7, 400, "score: must be a text or a list of texts"),
    ],
)
def test_who_cannot_score_is_refused_by_name(
    server: tuple[str, Completions], asked: Any, status: int, words: str
) -> None:
    body = {"model": "tiny", "prompt": "to be", "score": asked}
    answer = post(server[0], "/v1/completions", body)
    assert answer.status_code == status
    assert words in answer.json()["error"]["message"]


def test_ollamas_forms_know_no_score(server: tuple[str, Completions]) -> None:
    answer = post(server[0], "/api/generate", {"model": "tiny", "prompt": "to be", "score": "polite"})
    assert (answer.status_code, "score" in answer.json()["error"]) == (400, True)


def test_a_server_that_ends_gives_the_text_without_its_score(
    engine: Engine, vectors: dict[str, SteeringVector]
) -> None:
    with served(engine, {"polite": vectors["polite"]}) as (_, completions):
        scoring = Scoring(engine, completions.scheduler, {"polite": vectors["polite"]})
        completions.scheduler.close(5)
        assert scoring.submit(["a text"]).result(5) == [{"polite": None}]
