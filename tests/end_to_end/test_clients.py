"""Other people's clients get from the server what plain HTTP gets: langchain, litellm, llm.

Needs a Python that has them, in an environment that NEUROSTEER_CLIENTS names; tests/clients.sh makes it.
OpenAI's own client is what most tests of the server talk by.
"""

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from support import clients
from support.clients import HELLO, LENGTH, MODEL, SEED
from support.serving import post, served
from support.tiny import D_MODEL, tiny_vector

from neurosteer_cli.models.engine import Engine
from neurosteer_cli.models.hooks import HookPoint

FOLDER = os.environ.get("NEUROSTEER_CLIENTS")
pytestmark = pytest.mark.skipif(
    not FOLDER, reason="NEUROSTEER_CLIENTS names no folder; sh tests/clients.sh FOLDER makes one"
)
LATER = {"role": "user", "content": "and then?"}
ASKED: dict[str, Any] = {"model": MODEL, "seed": SEED, "max_tokens": LENGTH}


@pytest.fixture(scope="module")
def address(engine: Engine) -> Iterator[str]:
    push = torch.randn(D_MODEL, generator=torch.Generator().manual_seed(0)) * 10
    with served(engine, {"polite": tiny_vector(engine.shape, {HookPoint(1): push})}, max_batch=8) as (
        found,
        _,
    ):
        yield found


def told(client: str, address: str) -> dict[str, Any]:
    python = Path(str(FOLDER)) / "bin" / "python"
    environment = {**os.environ, "LITELLM_LOCAL_MODEL_COST_MAP": "True", "NO_PROXY": "*"}
    done = subprocess.run(
        [python, clients.__file__, client, address], capture_output=True, text=True, env=environment
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def chat(address: str, *messages: dict[str, str], **changes: Any) -> str:
    found = post(address, "/v1/chat/completions", {**ASKED, "messages": messages, **changes}).json()
    text: str = found["choices"][0]["message"]["content"]
    return text


@pytest.fixture(scope="module")
def expected(address: str) -> dict[str, Any]:
    """What plain HTTP gets, by the last word of what a client calls it."""
    answer = chat(address, *HELLO)
    completions = post(address, "/v1/completions", {**ASKED, "prompt": ["hello"] * 20}).json()["choices"]
    embedded = post(address, "/v1/embeddings", {"model": "tiny", "input": "hello"}).json()["data"]
    return {
        "chat": answer,
        "streamed": answer,
        "history": chat(address, *HELLO, {"role": "assistant", "content": answer}, LATER),
        "system": chat(address, {"role": "system", "content": "be kind"}, *HELLO),
        "greedy": chat(address, *HELLO, temperature=0),
        "completion": completions[0]["text"],
        "completions": [choice["text"] for choice in completions],
        "embedding": embedded[0]["embedding"],
    }


@pytest.mark.parametrize("client", ["langchain", "litellm", "llm"])
def test_a_client_gets_what_plain_http_gets(client: str, address: str, expected: dict[str, Any]) -> None:
    for name, found in told(client, address).items():
        if name == "greedy streamed":
            assert found == expected["greedy"]
        elif name == "embedding":
            assert found == pytest.approx(expected[name], rel=1e-5)
        else:
            wanted = expected[name.split()[-1]]
            assert found == (wanted.strip() if client == "llm" else wanted) or found == wanted, name
