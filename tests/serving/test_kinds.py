"""Requests that steer in every way: what they write is what `gen` writes, whoever else is written beside."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import openai
import pytest
import torch
from support.engines import load
from support.serving import hold_the_model, post, served, wait_for
from support.tiny import D_MODEL, D_VOCAB, detecting, of_kind, save_tiny, tiny_tokenizer, tiny_vector

from neurosteer_cli.generation.continuation import GenerationConfig
from neurosteer_cli.generation.generate import Job, generate
from neurosteer_cli.generation.sampling import Sampling
from neurosteer_cli.models.engine import Engine
from neurosteer_cli.models.hooks import HookPoint
from neurosteer_cli.serving.completions import Completions
from neurosteer_cli.vectors.gate import open_gate
from neurosteer_cli.vectors.kinds import TokenBias
from neurosteer_cli.vectors.vector import SteeringVector

SAMPLING = Sampling(temperature=0.9, top_p=0.9, seed=3)
ASKED = {"model": "tiny", "max_tokens": 14, "temperature": 0.9, "top_p": 0.9, "seed": 3}
PROMPTS = ["to be", "or not to be, that is the question", "x", "whether 'tis nobler", "in the mind"]
WAYS: list[dict[str, float]] = [
    {},
    {"adds": 3},
    {"ablates": 1},
    {"clamps": -4},
    {"urges": 9},
    {"mixed": 2},
    {"adds": 2, "ablates": 0.5, "urges": 5},
]


@pytest.fixture(scope="module")
def vectors(engine: Engine) -> dict[str, SteeringVector]:
    """One of each kind, each so strong that it changes what is written."""

    def made(seed: int, layer: int) -> SteeringVector:
        push = torch.randn(D_MODEL, generator=torch.Generator().manual_seed(seed)) * 10
        return tiny_vector(engine.shape, {HookPoint(layer): push})

    ids = torch.arange(D_VOCAB)
    bias = TokenBias(ids, (ids % 7 == 3).float())
    return {
        "adds": made(0, 2),
        "ablates": of_kind("ablate", made(1, 1)),
        "clamps": of_kind("clamp", made(2, 2)),
        "urges": of_kind("logits", replace(tiny_vector(engine.shape, {}), bias=bias)),
        "mixed": replace(made(3, 2), bias=bias),
        "detects": detecting(made(4, 1), spread=100.0),
    }


@pytest.fixture(scope="module")
def server(engine: Engine, vectors: dict[str, SteeringVector]) -> Iterator[tuple[str, Completions]]:
    with served(engine, vectors) as found:
        yield found


def gen(
    engine: Engine,
    vectors: dict[str, SteeringVector],
    alphas: dict[str, float],
    prompt: str = "to be",
    *,
    when: str | None = None,
    **config: Any,
) -> str:
    """What `gen` writes; a gate is one of tokens."""
    chosen = [vectors[name] for name in alphas]
    settings = GenerationConfig(sampling=SAMPLING, max_new_tokens=14, **config)
    gate = open_gate(when, engine, vector_of=vectors.__getitem__) if when else None
    ((_, found),) = generate(engine, [Job.of(engine, prompt, *alphas.values())], chosen, settings, gate=gate)
    return found.text


def answered(address: str, steering: dict[str, float], prompt: Any = "to be", **fields: Any) -> Any:
    found = post(address, "/v1/completions", {**ASKED, "prompt": prompt, "steering": steering, **fields})
    assert found.status_code == 200, found.text
    return found.json()


def text(address: str, steering: dict[str, float], prompt: str = "to be", **fields: Any) -> Any:
    return answered(address, steering, prompt, **fields)["choices"][0]["text"]


@pytest.mark.parametrize("alphas", WAYS)
def test_every_kind_writes_what_gen_writes(
    client: openai.OpenAI, engine: Engine, vectors: dict[str, SteeringVector], alphas: dict[str, float]
) -> None:
    expected = gen(engine, vectors, alphas)
    assert (expected != gen(engine, vectors, {})) == bool(alphas)
    asked: dict[str, Any] = {**ASKED, "prompt": "to be"}
    named = "+".join(["tiny", *(f"{name}:{alpha}" for name, alpha in alphas.items())])
    whole = client.completions.create(**{**asked, "model": named})
    assert whole.choices[0].text == expected
    stream = client.completions.create(**asked, stream=True, extra_body={"steering": alphas})
    assert "".join(chunk.choices[0].text for chunk in stream) == expected


def test_unlike_kinds_are_written_together_as_each_is_alone(
    server: tuple[str, Completions],
    engine: Engine,
    vectors: dict[str, SteeringVector],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    address, completions = server
    jobs = [(alphas, prompt) for alphas in WAYS for prompt in PROMPTS[:3]]
    go_on = hold_the_model(monkeypatch)
    with ThreadPoolExecutor(len(jobs)) as pool:
        asked = [pool.submit(text, address, *job) for job in jobs]
        scheduler = completions.scheduler
        wait_for(lambda: scheduler.n_waiting + scheduler.n_running == len(jobs))
        go_on.set()
        found = [each.result() for each in asked]
    assert found == [gen(engine, vectors, *job) for job in jobs]


def test_an_answer_says_which_kinds_acted_and_no_dose_where_nothing_is_added(
    server: tuple[str, Completions],
) -> None:
    address = server[0]
    assert answered(address, {"ablates": 1})["steering"] == {
        "alphas": {"ablates": 1}, "dose": None, "kinds": {"ablates": "ablate"},
    }  # fmt: skip
    both = answered(address, {"adds": 2, "urges": 1, "clamps": 0})["steering"]
    assert both["kinds"] == {"adds": "add", "urges": "logits"}
    assert both["dose"] > 0
    assert answered(address, {"ablates": 0})["steering"] == {"alphas": {"ablates": 0}, "dose": 0.0}
    assert post(address, "/v1/dose", {"steering": {"ablates": 1}}).json() == {"dose": None}


def test_a_request_may_have_its_vectors_act_in_another_way(
    server: tuple[str, Completions], engine: Engine, vectors: dict[str, SteeringVector]
) -> None:
    found = answered(server[0], {"adds": 1}, kind="ablate")
    ablating = {"adds": vectors["adds"].acting("ablate")}
    assert found["choices"][0]["text"] == gen(engine, ablating, {"adds": 1})
    assert found["steering"]["kinds"] == {"adds": "ablate"}


@pytest.mark.parametrize("positions", ["answer", "first:3", "after:2", "prompt", "generated"])
def test_positions_are_those_of_gen(
    server: tuple[str, Completions], engine: Engine, vectors: dict[str, SteeringVector], positions: str
) -> None:
    alphas = {"adds": 3.0, "urges": 5.0}
    expected = gen(engine, vectors, alphas, positions=positions)
    assert text(server[0], alphas, positions=positions) == expected != gen(engine, vectors, {})


def test_what_a_model_thinks_is_steered_and_nothing_else(
    engine: Engine, vectors: dict[str, SteeringVector], tmp_path: Path
) -> None:
    folder, tokenizer = save_tiny(tmp_path / "thinker"), tiny_tokenizer()
    tokenizer.add_tokens(["<think>", "</think>"])
    tokenizer.chat_template = "{{ messages[0].content }}<think>"
    tokenizer.save_pretrained(folder)
    end = tokenizer.convert_tokens_to_ids("</think>")
    asked = {"messages": [{"role": "user", "content": "x"}], "logit_bias": {str(end): -100}}
    with served(load(folder), vectors) as (address, _):

        def said(steering: dict[str, float], **fields: Any) -> Any:
            body = {**ASKED, **asked, "steering": steering, **fields}
            return post(address, "/v1/chat/completions", body).json()["choices"][0]["message"]["content"]

        assert said({"adds": 3}, positions="thinking") == said({"adds": 3}, positions="answer")
        assert said({"adds": 3}, positions="after-thinking") == said({})
        at_once = {**asked, "logit_bias": {str(end): 100}}  # it thinks nothing, again and again
        assert said({"adds": 3}, positions="after-thinking", **at_once) == said({}, **at_once)
    with served(engine, vectors) as (address, _):
        body = {**ASKED, "prompt": "x", "steering": {"adds": 3}, "positions": "thinking"}
        told = post(address, "/v1/completions", body)
        assert (told.status_code, told.json()["error"]["message"]) == (
            400,
            "positions thinking: the tokenizer of 'tiny' has none of the known marks of thinking "
            "(<think>, [THINK], <|START_THINKING|>, <seed:think>); choose other positions",
        )


def test_a_gate_lets_some_prompts_be_steered_and_the_others_be(
    server: tuple[str, Completions], engine: Engine, vectors: dict[str, SteeringVector]
) -> None:
    address = server[0]
    gate = open_gate("detects>0", engine, vector_of=vectors.__getitem__)
    read = dict(gate.prompts(engine, [engine.prompt_ids(prompt) for prompt in PROMPTS]))
    threshold = sorted(read.values())[2] + 1e-4
    found = answered(address, {"adds": 3}, PROMPTS, when=f"detects<{threshold:.6f}", n=2)
    steering = found["steering"]
    assert steering["gate"] == pytest.approx([read[number] for number in range(5)], abs=1e-5)
    assert steering["steered"] == [read[number] < threshold for number in range(5)]
    assert sum(steering["steered"]) == 3
    plain = answered(address, {}, PROMPTS, n=2)["choices"]
    steered = answered(address, {"adds": 3}, PROMPTS, n=2)["choices"]
    for number, choice in enumerate(found["choices"]):
        expected = (steered if steering["steered"][number // 2] else plain)[number]
        assert choice["text"] == expected["text"]
    assert all(a["text"] != b["text"] for a, b in zip(plain, steered, strict=True))


def test_a_gate_of_tokens_is_that_of_gen(
    server: tuple[str, Completions], engine: Engine, vectors: dict[str, SteeringVector]
) -> None:
    alphas, when = {"adds": 3.0, "urges": 5.0}, "detects<0"
    found = answered(server[0], alphas, when=when, when_each="token")
    expected = gen(engine, vectors, alphas, when=when)
    assert found["choices"][0]["text"] == expected
    assert found["steering"]["when"] == when and "steered" not in found["steering"]
    assert len({expected, gen(engine, vectors, alphas), gen(engine, vectors, {})}) == 3


def test_a_chat_and_ollamas_clients_have_gates_and_kinds(server: tuple[str, Completions]) -> None:
    asked = {"steering": {"adds": 1}, "kind": "ablate", "when": "detects > -1000", "seed": 1}
    chat = {"messages": [{"role": "user", "content": "x"}], "stream": False, **asked}
    for path, body in (
        ("/v1/chat/completions", {**chat, "max_tokens": 3}),
        ("/v1/responses", {"input": "x", "max_output_tokens": 3, **asked}),
        ("/api/chat", {key: value for key, value in chat.items() if key != "seed"}),
    ):
        found = post(server[0], path, body).json()["steering"]
        assert (found["kinds"], found["steered"], found["dose"]) == ({"adds": "ablate"}, [True], None)


@pytest.mark.parametrize(
    ("fields", "status", "message"),
    [
        ({"kind": "subtract"}, 400, "kind: must be 'add', 'ablate', 'clamp' or 'logits', got 'subtract'"),
        ({"kind": "logits"}, 400, "kind: adds: a vector of the kind add cannot act as logits"),
        ({"kind": "clamp"}, 400, "nothing is known of sides at blocks.2.hook_resid_post"),
        (
            {"steering": {"urges": 1}, "kind": "add"},
            400,
            "kind: urges: a vector of the kind logits cannot act",
        ),
        ({"positions": "first:0"}, 400, "positions: must be all, prompt, generated"),
        ({"when": "detects"}, 400, "gate 'detects': write a vector or a latent, < or >, and a number"),
        ({"when": "../detects.st<0"}, 404, "no vector is named '../detects.st'"),
        ({"when": "adds<0"}, 400, "gate adds<0: nothing is known of how its two sides project"),
        ({"when": "2/5>0"}, 400, "gate: no SAE of block 2 comes along for 'tiny' (blocks: none)"),
        (
            {"when": "detects<0", "when_each": "word"},
            400,
            "when_each: must be 'prompt' or 'token', got 'word'",
        ),
        ({"when_each": "token"}, 400, "when_each: only with when"),
        ({"when": "detects<0", "prompt": "x" * 200}, 400, "200 tokens leave no room in the model's context"),
        ({"when": "detects<0", "steering": {}}, 400, "when: nothing is to be steered"),
        (
            {"echo": True, "logprobs": 1, "steering": {"mixed": 1}},
            400,
            "echo with logprobs: not with vectors",
        ),
    ],
)
def test_what_cannot_be_had_is_refused_by_name(
    server: tuple[str, Completions], fields: dict[str, Any], status: int, message: str
) -> None:
    found = post(server[0], "/v1/completions", {**ASKED, "prompt": "x", "steering": {"adds": 1}, **fields})
    assert found.status_code == status
    assert message in found.json()["error"]["message"]


def test_a_gate_behind_what_it_gates_is_refused(engine: Engine, vectors: dict[str, SteeringVector]) -> None:
    late = detecting(tiny_vector(engine.shape, {HookPoint(3): torch.ones(D_MODEL)}))
    with served(engine, {**vectors, "late": late}) as (address, _):
        body = {**ASKED, "prompt": "x", "steering": {"adds": 1}, "when": "late<0", "when_each": "token"}
        told = post(address, "/v1/completions", body).json()["error"]["message"]
    assert told == (
        "gate late<0 is read at blocks.3.hook_resid_post, behind blocks.2.hook_resid_post, where steering "
        "begins: choose one of earlier blocks, or one for each prompt"
    )
