"""The text part of a model: its blocks, and the model without what no text needs."""

import pytest
from support.tiny import tiny_model
from torch import nn

from neurosteer_cli.errors import ModelError
from neurosteer_cli.models.architectures.decoder import find_blocks, text_blocks


@pytest.mark.parametrize(
    ("family", "name"),
    [
        ("llama", "model.layers"),
        ("gemma2", "model.layers"),
        ("gpt2", "transformer.h"),
        ("gpt_neox", "gpt_neox.layers"),
    ],
)
def test_the_blocks_of_each_family_are_found(family: str, name: str) -> None:
    model = tiny_model(family)
    assert text_blocks(model) is model.get_submodule(name)


def three(block: nn.Module) -> nn.ModuleList:
    return nn.ModuleList([block, nn.Identity(), nn.Identity()])


def test_the_outermost_list_of_that_length_is_taken() -> None:
    inner = three(nn.Identity())
    blocks = three(nn.Sequential(inner))
    aside = nn.Sequential(nn.Sequential(three(nn.Identity())))
    for model in (nn.Sequential(blocks), nn.Sequential(aside, blocks), nn.Sequential(blocks, aside)):
        assert find_blocks(model, 3) is blocks


def test_a_model_without_such_a_list_is_refused() -> None:
    expected = "^Sequential: no list of 4 decoder blocks found; neurosteer steers decoder-only transformers$"
    with pytest.raises(ModelError, match=expected):
        find_blocks(nn.Sequential(nn.ModuleList([nn.Identity()] * 3)), 4)
