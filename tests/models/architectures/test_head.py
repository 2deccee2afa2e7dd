"""Logits of some positions at a time are those of the whole pass, whatever a family does to them."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from support.families import silence, tiny_family
from support.tiny import D_VOCAB, FAMILIES

from neurosteer_cli.models.architectures import head
from neurosteer_cli.models.architectures.head import FinalStates
from neurosteer_cli.models.engine import Engine

IDS = torch.tensor([[5, 99, 7, 20, 256], [31, 8, 150, 3, 3]])
PLACES = torch.tensor([[0, 3], [1, 0], [1, 4], [0, 0], [0, 4]])


def check(model: Any) -> None:
    with torch.inference_mode():
        expected = model(input_ids=IDS, use_cache=False).logits[PLACES[:, 0], PLACES[:, 1]].float()
        found = list(FinalStates(model, IDS).logits(PLACES))
        again = model(input_ids=IDS, use_cache=False).logits
    assert [some for some, _ in found] == [slice(0, 2), slice(2, 4), slice(4, 6)]
    torch.testing.assert_close(torch.cat([logits for _, logits in found]), expected, rtol=1e-4, atol=1e-4)
    assert again.shape == (2, 5, D_VOCAB)  # the model is as it was


@pytest.fixture(autouse=True)
def two_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(head, "NUMBERS_AT_ONCE", 2 * D_VOCAB)


@pytest.mark.parametrize("family", FAMILIES)
def test_logits_are_those_of_the_whole_pass(endless_engines: Callable[[str], Engine], family: str) -> None:
    check(endless_engines(family).model)


@pytest.mark.parametrize(
    ("family", "name"),
    [
        ("cohere", "CohereForCausalLM"),  # scales its logits
        ("granite", "GraniteForCausalLM"),
        ("gemma3", "Gemma3ForConditionalGeneration"),  # has its text part within another
        ("gemma4_text", "Gemma4ForCausalLM"),  # asked for some logits, reads some positions
        ("opt", "OPTForCausalLM"),  # calls a part of its base model
        ("mamba", "MambaForCausalLM"),
        ("minicpm3", "MiniCPM3ForCausalLM"),  # scales what enters the head
    ],
)  # fmt: skip
def test_what_a_family_does_to_its_logits_is_done(family: str, name: str) -> None:
    model = tiny_family(family, name)
    with silence():
        check(model)


def test_the_head_is_not_run_over_the_whole_pass(engine: Engine) -> None:
    sizes: list[tuple[int, ...]] = []
    handle = engine.model.lm_head.register_forward_hook(
        lambda _module, _arguments, output: sizes.append(tuple(output.shape))
    )
    with torch.inference_mode():
        list(FinalStates(engine.model, IDS).logits(PLACES[:3]))
    handle.remove()
    assert sizes == [(1, 2, D_VOCAB), (1, 1, D_VOCAB)]
