"""Embeddings: mean residuals at a block."""

from typing import Any

import openai
import pytest
import torch
from support.engines import by_text, passage
from support.serving import post

from neurosteer_cli.models.engine import Engine
from neurosteer_cli.models.hooks import HookPoint
from neurosteer_cli.serving.completions import Completions

TEXTS = ["to be", "or not to be, that is the question", "x" * 40]
Server = tuple[str, Completions]


def expected(engine: Engine, layer: int) -> torch.Tensor:
    """[text, d_model]"""
    resid = by_text(engine, [engine.tokenize(passage(text)) for text in TEXTS], [HookPoint(layer)])
    return torch.stack([resid[i][HookPoint(layer)].mean(0) for i in range(len(TEXTS))])


@pytest.mark.parametrize(
    ("model", "layer"), [("tiny", 2), ("tiny+blocks.1", 1), ("tiny+blocks.3.hook_resid_post", 3)]
)
def test_an_embedding_is_the_mean_residual_over_the_tokens_that_count(
    client: openai.OpenAI, engine: Engine, model: str, layer: int
) -> None:
    for options in ({}, {"encoding_format": "float"}):  # the client's own default is base64
        asked: dict[str, Any] = {"model": model, "input": TEXTS, **options}
        found = client.embeddings.create(**asked)
        numbers = torch.tensor([each.embedding for each in found.data])
        torch.testing.assert_close(numbers, expected(engine, layer), atol=1e-5, rtol=1e-5)
    assert found.model_extra == {"hook_point": f"blocks.{layer}.hook_resid_post"}
    assert [each.index for each in found.data] == [0, 1, 2]
    assert found.usage.prompt_tokens == sum(len(engine.prompt_ids(text)) for text in TEXTS)


def test_tokens_are_taken_for_their_text(client: openai.OpenAI, engine: Engine) -> None:
    ids = [engine.prompt_ids(text) for text in TEXTS]
    found = client.embeddings.create(model="tiny", input=ids, dimensions=engine.d_model)
    numbers = torch.tensor([each.embedding for each in found.data])
    torch.testing.assert_close(numbers, expected(engine, 2), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("changes", "status", "message"),
    [
        ({"model": "llama3"}, 404, "model 'llama3' is not served; ask for 'tiny'"),
        (
            {"model": "tiny+polite:3"},
            400,
            "embeddings are not steered; a block may be named, as tiny+blocks.2",
        ),
        ({"model": "tiny+blocks.4"}, 400, "blocks.4.hook_resid_post: the model has 4 blocks, 0 to 3"),
        ({"dimensions": 3}, 400, "dimensions: the residual has 16, and a part of them means little"),
        ({"input": "x"}, 400, "input: no token counts"),
        ({"input": ["ab", "x" * 200]}, 400, "input.1: 200 tokens are more than the model's context of 128"),
        ({"input": [[1, 300]]}, 400, "input: token 300 is none of the model's 300"),
        ({"input": ""}, 400, "input: empty"),
        ({"encoding_format": "hex"}, 400, "encoding_format: must be 'float' or 'base64', got 'hex'"),
    ],
)
def test_what_has_no_embedding_is_refused(server: Server, changes: Any, status: int, message: str) -> None:
    found = post(server[0], "/v1/embeddings", {"input": "ab", **changes})
    assert found.status_code == status
    assert message in found.json()["error"]["message"]
