"""Requests made up from the server's own schema, right and wrong: none is answered with a 500."""

from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest
import schemathesis
import torch
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis import Case, GenerationMode
from support.serving import served
from support.tiny import D_MODEL, detecting, tiny_vector

from neurosteer_cli.models.engine import Engine
from neurosteer_cli.models.hooks import HookPoint
from neurosteer_cli.serving.completions import Limits

RIGHT, WRONG = GenerationMode.POSITIVE, GenerationMode.NEGATIVE
ROUTES = (  # how many cases of either kind; any text is a right name in a path
    ("/v1/completions", "POST", RIGHT, 60),
    ("/v1/completions", "POST", WRONG, 60),
    ("/v1/chat/completions", "POST", RIGHT, 60),
    ("/v1/chat/completions", "POST", WRONG, 60),
    ("/v1/responses", "POST", RIGHT, 60),
    ("/v1/responses", "POST", WRONG, 60),
    ("/v1/embeddings", "POST", RIGHT, 30),
    ("/v1/embeddings", "POST", WRONG, 30),
    ("/api/chat", "POST", RIGHT, 40),
    ("/api/chat", "POST", WRONG, 40),
    ("/api/generate", "POST", RIGHT, 40),
    ("/api/generate", "POST", WRONG, 40),
    ("/api/show", "POST", RIGHT, 10),
    ("/api/show", "POST", WRONG, 10),
    ("/v1/vectors", "POST", RIGHT, 20),
    ("/v1/vectors", "POST", WRONG, 20),
    ("/v1/dose", "POST", RIGHT, 20),
    ("/v1/dose", "POST", WRONG, 20),
    ("/v1/models/{name}", "GET", RIGHT, 20),
    ("/v1/vectors/{name}", "GET", RIGHT, 20),
    ("/v1/vectors/{name}/file", "GET", RIGHT, 20),
)
REFUSALS = {400, 404, 413, 415}
OPENAIS = {"message", "type", "param", "code"}
FOREIGN = ("Input should", "Extra inputs", "after validation", "Field required", "valid string", "pydantic")


@pytest.fixture(scope="module")
def schema(engine: Engine) -> Iterator[Any]:
    vectors = {"polite": detecting(tiny_vector(engine.shape, {HookPoint(1): torch.ones(D_MODEL)}))}
    limits = Limits(max_new_tokens=64, seconds=20)
    with served(engine, vectors, limits=limits, fitting=True) as (address, _):
        yield schemathesis.openapi.from_url(f"{address}/openapi.json")


@pytest.mark.parametrize(("path", "method", "mode", "n_cases"), ROUTES)
def test_whatever_the_schema_gives_is_answered_or_refused(
    schema: Any, path: str, method: str, mode: GenerationMode, n_cases: int
) -> None:
    answered: Counter[int] = Counter()

    @given(case=schema[path][method].as_strategy(mode))
    @settings(
        max_examples=n_cases, derandomize=True, database=None, deadline=None,
        suppress_health_check=list(HealthCheck), phases=[Phase.generate],
    )  # fmt: skip
    def ask(case: Case) -> None:
        if mode == RIGHT and isinstance(case.body, dict) and "model" in case.body:
            case.body["model"] = ("tiny", "tiny+polite:3")[sum(answered.values()) % 2]  # else all are unknown
            known = {"steering": {}, "positions": "first:3", "when": "polite<0"}
            case.body.update({name: value for name, value in known.items() if name in case.body})
        answer = case.call()
        answered[answer.status_code] += 1
        assert answer.status_code < 500, answer.content
        if answer.status_code >= 400:
            error = answer.json()["error"]
            assert isinstance(error, str) if "/api/" in path else set(error) == OPENAIS, error
            assert not [phrase for phrase in FOREIGN if phrase in answer.text], answer.text

    ask()
    assert sum(answered.values()) >= n_cases
    if mode == WRONG:  # true is a number, though, and an unknown field that is null is none
        assert answered.keys() <= REFUSALS | {200}
        assert answered[200] < n_cases / 2
