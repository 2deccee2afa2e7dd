"""Requests for text, by the official client: what they write, and what is refused by name."""

import re
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from support.engines import load
from support.serving import CHAT, PLAIN, post, served, written
from support.tiny import save_tiny

from neurosteer_cli.models.engine import Engine
from neurosteer_cli.serving.completions import Completions, Limits
from neurosteer_cli.vectors.vector import SteeringVector


@pytest.mark.parametrize("alphas", [{}, {"polite": 3.0}, {"happy": -2.0}, {"polite": 3.0, "happy": -2.0}])
def test_a_completion_is_what_gen_writes(
    client: openai.OpenAI, engine: Engine, vectors: dict[str, SteeringVector], alphas: dict[str, float]
) -> None:
    found = client.completions.create(
        model="tiny", prompt="to be", max_tokens=12, temperature=0, extra_body={"steering": alphas}
    )
    choice = found.choices[0]
    assert choice.text == written(engine, vectors, "to be", alphas, 12)
    assert choice.finish_reason in ("length", "stop")
    assert found.usage is not None
    assert found.usage.prompt_tokens == 5
    assert found.usage.completion_tokens <= 12
    steering = found.model_extra["steering"]  # type: ignore[index]
    assert steering["alphas"] == alphas
    assert (steering["dose"] > 0) == bool(alphas)


def test_a_models_name_steers_as_the_field_does(client: openai.OpenAI) -> None:
    asked: dict[str, Any] = {"prompt": "to be", "max_tokens": 9, "seed": 4}
    named = client.completions.create(model="tiny+polite:3+happy:-2", **asked)
    given = client.completions.create(
        model="tiny", **asked, extra_body={"steering": {"polite": 3, "happy": -2}}
    )
    mixed = client.completions.create(model="tiny+polite:3", **asked, extra_body={"steering": {"happy": -2}})
    plain = client.completions.create(model="tiny", **asked)
    assert named.choices[0].text == given.choices[0].text == mixed.choices[0].text
    assert named.choices[0].text != plain.choices[0].text


def test_the_same_seed_gives_the_same_text_and_none_another(client: openai.OpenAI) -> None:
    def text(**options: Any) -> str:
        return client.completions.create(model="tiny", prompt="x", max_tokens=16, **options).choices[0].text

    assert text(seed=7) == text(seed=7)
    assert text(seed=7) != text(seed=8)
    assert text() != text()


def test_several_prompts_as_texts_and_as_tokens(client: openai.OpenAI, engine: Engine) -> None:
    prompts = ["to be", "or not"]
    asked: dict[str, Any] = {"model": "tiny", "max_tokens": 5, "temperature": 0, "n": 2}
    texts = client.completions.create(prompt=prompts, **asked)
    tokens = client.completions.create(prompt=[engine.prompt_ids(prompt) for prompt in prompts], **asked)
    assert [choice.index for choice in texts.choices] == [0, 1, 2, 3]
    assert [choice.text for choice in texts.choices] == [choice.text for choice in tokens.choices]
    assert texts.choices[0].text == texts.choices[1].text != texts.choices[2].text


def test_the_same_prompt_several_times_gives_different_samples(client: openai.OpenAI) -> None:
    asked: dict[str, Any] = {"model": "tiny", "max_tokens": 12, "seed": 3}
    three = [choice.text for choice in client.completions.create(prompt=["x"] * 3, **asked).choices]
    assert len(set(three)) == 3
    again = client.completions.create(prompt="x", n=3, **asked)
    assert three == [choice.text for choice in again.choices]


def test_a_text_ends_before_a_stop_string(client: openai.OpenAI) -> None:
    asked: dict[str, Any] = {
        "model": "tiny",
        "prompt": "to be",
        "max_tokens": 30,
        "temperature": 1,
        "seed": 5,
    }
    free = client.completions.create(**asked).choices[0].text
    stop = free[10:13]
    assert stop
    expected = free[: free.find(stop)]
    stopped = client.completions.create(**asked, stop=["never so", stop])
    assert (stopped.choices[0].text, stopped.choices[0].finish_reason) == (expected, "stop")
    streamed = client.completions.create(**asked, stop=stop, stream=True)
    assert "".join(chunk.choices[0].text for chunk in streamed) == expected


def test_positions_decide_where_a_request_is_steered(client: openai.OpenAI) -> None:
    def text(positions: str) -> str:
        body = {"steering": {"polite": 9}, "positions": positions}
        asked = client.completions.create(
            model="tiny", prompt="to be or", max_tokens=12, temperature=0, extra_body=body
        )
        return asked.choices[0].text

    assert len({text("all"), text("prompt"), text("generated")}) == 3


@pytest.mark.parametrize(
    ("changes", "status", "message"),
    [
        ({"steering": {"rude": 3}}, 404, "no vector is named 'rude'; known: happy, polite"),
        ({"steering": {"../../etc/passwd": 3}}, 404, "no vector is named '../../etc/passwd'"),
        ({"steering": {"polite": 1e9}}, 400, "alpha of 'polite' must be a number from -1000 to 1000"),
        ({"steering": {"polite": "much"}}, 400, "steering.polite: must be a number, got 'much'"),
        ({"model": "gpt-4"}, 404, "model 'gpt-4' is not served; ask for 'tiny'"),
        ({"model": "tiny+"}, 400, "name a vector after each +, as +VECTOR:ALPHA"),
        ({"model": "tiny+polite"}, 400, "give the alpha of 'polite', as polite:8"),
        ({"model": "tiny+polite:"}, 400, "give the alpha of 'polite', as polite:8"),
        ({"model": "tiny+polite:x"}, 400, "alpha 'x' is not a number"),
        ({"model": "tiny+polite:nan"}, 400, "alpha of 'polite' must be a number"),
        ({"model": "tiny+polite:1+polite:2"}, 400, "vector 'polite' is named twice"),
        ({"model": "tiny+polite:1", "steering": {"polite": 2}}, 400, "'polite' is named twice"),
        ({"prompt": None}, 400, "prompt: missing"),
        ({"prompt": ""}, 400, "prompt: empty"),
        ({"prompt": [1, 300]}, 400, "prompt: token 300 is none of the model's 300"),
        ({"prompt": "x" * 128}, 400, "128 tokens leave no room in the model's context of 128"),
        ({"temperature": -1}, 400, "temperature: must be at least 0, got -1"),
        ({"sterring": {"polite": 3}}, 400, "sterring: unknown field; did you mean 'steering'?"),
        ({"suffix": "x"}, 400, "suffix: not served"),
        ({"n": 73}, 400, "73 continuations in one request (prompts times n): this server takes"),
        (
            {"positions": "last"},
            400,
            "positions: must be all, prompt, generated, answer, thinking, after-thinking, first:N or after:N",
        ),
    ],
)
def test_bad_completions_are_refused_by_name(
    server: tuple[str, Completions], changes: dict[str, Any], status: int, message: str
) -> None:
    found = post(server[0], "/v1/completions", {**PLAIN, **changes})
    assert (found.status_code, found.json()["error"]["type"]) == (status, "invalid_request_error")
    assert message in found.json()["error"]["message"]


@pytest.mark.parametrize(
    ("path", "body", "status", "message"),
    [
        ("completions", {"model": "tiny"}, 400, "prompt: missing"),
        ("chat/completions", {**CHAT, "messages": []}, 400, "messages: empty"),
        ("chat/completions", {**CHAT, "top_logprobs": 2}, 400, "top_logprobs: only with logprobs true"),
        ("chat/completions", {**CHAT, "tools": [{}]}, 400, "tools: not served"),
        ("dose", {"steering": {"rude": 1}}, 404, "no vector is named 'rude'"),
    ],
)
def test_other_bad_requests_are_refused_by_name(
    server: tuple[str, Completions], path: str, body: Any, status: int, message: str
) -> None:
    found = post(server[0], f"/v1/{path}", body)
    assert (found.status_code, found.json()["error"]["type"]) == (status, "invalid_request_error")
    assert message in found.json()["error"]["message"]


def test_a_missing_model_is_the_one_there_is(server: tuple[str, Completions]) -> None:
    for model in ({}, {"model": None}, {"model": ""}):
        found = post(server[0], "/v1/completions", {"prompt": "x", "max_tokens": 1, **model}).json()
        assert found["model"] == "tiny"
        assert found["steering"] == {"alphas": {}, "dose": 0.0}
        assert re.fullmatch("cmpl-[0-9a-f]{24}", found["id"])


@pytest.mark.parametrize(
    ("asked", "most"),
    [({"max_tokens": 4096}, 60), ({"max_tokens": -1}, 60), ({"prompt": "x" * 100, "max_tokens": 90}, 28)],
)
def test_more_tokens_than_there_is_room_for_are_cut_down(
    engine: Engine, vectors: dict[str, SteeringVector], asked: dict[str, Any], most: int
) -> None:
    with served(engine, vectors, limits=Limits(max_new_tokens=60)) as (address, _):
        for path, form in (("completions", PLAIN), ("chat/completions", CHAT)):
            if path == "chat/completions" and "prompt" in asked:
                continue
            body = {**form, "temperature": 0, **asked, "logit_bias": {"257": -100}}
            found = post(address, f"/v1/{path}", body).json()
            (choice,) = found["choices"]
            assert (choice["finish_reason"], found["usage"]["completion_tokens"]) == ("length", most)
            assert choice["limit"] == {"name": "max_tokens", "tokens": most}


def test_any_number_of_stops_and_more_prompts_than_are_written_at_a_time(client: openai.OpenAI) -> None:
    asked: dict[str, Any] = {"model": "tiny", "prompt": "to be", "max_tokens": 30, "seed": 5}
    free = client.completions.create(**asked).choices[0].text
    stops = [f"never{n}" for n in range(40)] + [free[12:14]]
    assert client.completions.create(**asked, stop=stops).choices[0].text == free[: free.find(free[12:14])]
    many = client.completions.create(model="tiny", prompt=["x"] * 40, max_tokens=2, n=1)
    assert len(many.choices) == 40


def test_a_request_gives_the_chat_template_arguments(tmp_path: Path) -> None:
    folder = save_tiny(tmp_path / "thinker")
    template = "{{ messages[0].content }}{{ ' thinking' if enable_thinking }}"
    (folder / "chat_template.jinja").write_text(template)
    n_read = {}
    with served(load(folder, template_args={"enable_thinking": True}), {}) as (address, _):
        for path, asked in (("/v1/chat/completions", CHAT), ("/v1/responses", {"input": "x"})):
            for given in ({}, {"enable_thinking": False}, {"enable_thinking": True, "other": [1]}):
                answer = post(address, path, {**asked, "chat_template_kwargs": given}).json()
                usage = answer["usage"]
                n_read[path, len(given)] = usage.get("prompt_tokens", usage.get("input_tokens"))
    assert list(n_read.values()) == [10, 1, 10, 10, 1, 10]


def test_where_the_server_keeps_its_model_is_told_to_nobody(tmp_path: Path) -> None:
    engine = load(save_tiny(tmp_path / "nochat", chat=False))
    with served(engine, {}) as (address, _):
        found = post(address, "/v1/chat/completions", CHAT)
        told = found.json()["error"]["message"]
        assert (found.status_code, str(tmp_path) in told) == (400, False)
        assert told == (
            "model 'tiny' has no chat template: to go on from plain text ask /v1/completions, or "
            '/api/generate with "raw": true'
        )
        assert post(address, "/api/generate", {"prompt": "x", "stream": False}).json()["response"]
        for path in ("/v1/models", "/api/tags", "/v1", "/", "/v1/vectors"):
            assert str(tmp_path) not in httpx.get(f"{address}{path}").text
