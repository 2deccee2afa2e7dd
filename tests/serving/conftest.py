"""The server that most tests talk to, and its official client."""

from collections.abc import Iterator

import openai
import pytest
import torch
from support.serving import served
from support.tiny import D_MODEL, tiny_vector

from neurosteer_cli.models.engine import Engine
from neurosteer_cli.models.hooks import HookPoint
from neurosteer_cli.serving.completions import Completions
from neurosteer_cli.vectors.vector import SteeringVector


@pytest.fixture(scope="module")
def vectors(engine: Engine) -> dict[str, SteeringVector]:
    """Two vectors, each so long that it changes what is written."""
    found = {}
    for number, name in enumerate(("polite", "happy")):
        push = torch.randn(D_MODEL, generator=torch.Generator().manual_seed(number)) * 10
        found[name] = tiny_vector(engine.shape, {HookPoint(1 + number): push})
    return found


@pytest.fixture(scope="module")
def server(engine: Engine, vectors: dict[str, SteeringVector]) -> Iterator[tuple[str, Completions]]:
    with served(engine, vectors) as found:
        yield found


@pytest.fixture(scope="module")
def client(server: tuple[str, Completions]) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{server[0]}/v1", api_key="unused", max_retries=0) as found:
        yield found
