"""The tokens a direction promotes are those that the final norm and the head raise most."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from support.engines import load
from support.tiny import D_MODEL, FAMILIES, tiny_model

from neurosteer_cli.models.engine import Engine
from neurosteer_cli.models.logit_lens import promoted_tokens

FINAL_NORMS = {"gpt2": "transformer.ln_f", "gpt_neox": "gpt_neox.final_layer_norm"}


class TokenNumbers:
    """A tokenizer that spells each token as its number, so that a text says which tokens it has."""

    def __len__(self) -> int:
        return 258

    def decode(self, ids: Sequence[int], **_options: Any) -> str:
        return "".join(f"<{i}>" for i in ids)


@pytest.mark.parametrize("family", FAMILIES)
def test_no_block_and_the_head_give_the_same_promoted_tokens(
    folders: Callable[[str], Path], engines: Callable[[str], Engine], family: str
) -> None:
    part = load(folders(family), points=[])
    assert len(part.blocks) == 0
    directions = torch.randn(5, D_MODEL, generator=torch.Generator().manual_seed(7))
    assert promoted_tokens(part, directions, 4) == promoted_tokens(engines(family), directions, 4)


# --- promoted tokens ---------------------------------------------------------------------------


@pytest.fixture(params=FAMILIES)
def promoting(request: pytest.FixtureRequest, engines: Callable[[str], Engine]) -> tuple[Engine, Any]:
    """An engine whose texts are token numbers, and its final norm."""
    engine = engines(request.param)
    norm = engine.model.get_submodule(FINAL_NORMS.get(request.param, "model.norm"))
    return replace(engine, tokenizer=TokenNumbers()), norm


@torch.no_grad()
def test_promoted_tokens_are_those_the_final_norm_and_the_head_raise_most(
    promoting: tuple[Engine, Any],
) -> None:
    engine, norm = promoting
    directions = torch.randn(6, D_MODEL, generator=torch.Generator().manual_seed(8))
    # the norm's own bias stands at every token, whatever the direction
    change = norm(directions) - norm(torch.zeros(D_MODEL))
    logits = change @ engine.model.get_output_embeddings().weight.T  # [6, d_vocab]
    falling = logits[:, :258].argsort(-1, descending=True).tolist()
    expected = [([f"<{i}>" for i in row[:3]], [f"<{i}>" for i in row[:-4:-1]]) for row in falling]
    assert promoted_tokens(engine, directions, 3) == expected


def test_the_length_of_a_direction_does_not_matter_and_its_sign_swaps_the_two(
    promoting: tuple[Engine, Any],
) -> None:
    engine, _ = promoting
    directions = torch.randn(6, D_MODEL, generator=torch.Generator().manual_seed(9))
    found = promoted_tokens(engine, directions, 3)
    assert promoted_tokens(engine, 100 * directions, 3) == found
    assert promoted_tokens(engine, -directions, 3) == [(down, up) for up, down in found]


def test_tokens_that_the_tokenizer_does_not_have_are_never_promoted(engine: Engine) -> None:
    numbered = replace(engine, tokenizer=TokenNumbers())
    beyond = tiny_model("llama").get_output_embeddings().weight[299:].detach()
    (up, down), = promoted_tokens(numbered, beyond, 258)  # fmt: skip
    assert set(up) == set(down) == {f"<{i}>" for i in range(258)}
