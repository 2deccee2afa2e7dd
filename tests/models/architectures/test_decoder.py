"""The text part of a model: its blocks, and the model without what no text needs."""

from typing import Any

import pytest
import torch
from support.families import N_BLOCKS, tiny_family
from support.tiny import tiny_model
from torch import nn

from neurosteer_cli.errors import ModelError
from neurosteer_cli.models.architectures.decoder import find_blocks, reduce_to, text_blocks, text_part, writer

QWEN_VL = ("qwen3_vl", "Qwen3VLForConditionalGeneration")


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


# --- what no text needs ------------------------------------------------------------------------


def reduced(family: str, class_name: str, n_blocks: int, *, head: bool) -> Any:
    model = tiny_family(family, class_name)
    blocks = reduce_to(model, n_blocks, head=head)
    assert blocks is text_blocks_of(model)
    return model


def text_blocks_of(model: Any) -> nn.ModuleList:
    """By name, as they are no longer as many as the configuration says."""
    return model.model.language_model.layers


@pytest.mark.parametrize("head", [True, False])
def test_encoders_of_images_go_and_blocks_beyond_and_the_head_if_it_is_not_wanted(head: bool) -> None:
    whole = {name for name, _ in tiny_family(*QWEN_VL).named_parameters()}
    model = reduced(*QWEN_VL, 2, head=head)
    left = {name for name, _ in model.named_parameters()}
    assert any(".visual." in name for name in whole) and not any(".visual." in name for name in left)
    assert {name.split(".")[3] for name in left if ".layers." in name} == {"0", "1"}
    assert ("lm_head.weight" in left) == head
    assert model.config.text_config.num_hidden_layers == N_BLOCKS  # whole: blocks may compute with it


def test_a_head_that_is_the_embedding_stays_under_both_names() -> None:
    model = tiny_family("gemma3_text", "Gemma3ForCausalLM")
    assert model.config.tie_word_embeddings
    reduce_to(model, 1, head=False)
    assert model.lm_head.weight is model.model.embed_tokens.weight
    assert model.all_tied_weights_keys == {"lm_head.weight": "model.embed_tokens.weight"}


def test_what_takes_an_absent_encoders_place_says_where_the_text_is() -> None:
    model = reduced(*QWEN_VL, 1, head=False)
    assert model.model.visual.device == torch.device("cpu")
    assert model.model.visual.dtype == torch.float32


def test_a_composites_own_language_model_writes_where_it_has_a_head() -> None:
    model = tiny_family("blip-2", "Blip2ForConditionalGeneration")
    assert writer(model, text_blocks(model)) is model.language_model
    model = tiny_family(*QWEN_VL)
    assert writer(model, text_blocks(model)) is model


def test_a_head_that_is_called_a_decoder_is_not_taken_for_the_text_part() -> None:
    model = tiny_family("modernbert-decoder", "ModernBertDecoderForCausalLM")
    assert text_part(model) is model.model
    assert len(text_blocks(model)) == N_BLOCKS
