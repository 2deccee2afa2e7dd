"""What a model must share with another for a vector to mean something there."""

import pytest
import transformers

from neurosteer_cli.errors import ModelError
from neurosteer_cli.models.shape import ModelShape, shape_of


def shape(architecture: str, d_model: int = 8, n_layers: int = 4, d_vocab: int = 300) -> ModelShape:
    return ModelShape(architecture=architecture, d_model=d_model, n_layers=n_layers, d_vocab=d_vocab)


@pytest.mark.parametrize(
    ("one", "other", "is_alike"),
    [
        (shape("LlamaForCausalLM"), shape("LlamaForCausalLM"), True),
        (shape("LlamaForCausalLM"), shape("LlamaForCausalLM", d_vocab=308), True),
        (shape("Gemma3ForConditionalGeneration"), shape("Gemma3ForCausalLM"), True),
        (shape("Qwen3_5ForConditionalGeneration"), shape("Qwen3_5ForCausalLM"), True),
        (shape("LlavaForConditionalGeneration"), shape("LlamaForCausalLM"), False),
        (shape("LlamaForCausalLM"), shape("LlamaForCausalLM", d_model=16), False),
        (shape("LlamaForCausalLM"), shape("LlamaForCausalLM", n_layers=5), False),
    ],
)
def test_a_vector_means_something_on_a_model_of_the_same_text_part(
    one: ModelShape, other: ModelShape, is_alike: bool
) -> None:
    assert one.steers_like(other) == other.steers_like(one) == is_alike


def test_a_composites_shape_is_its_text_parts() -> None:
    text = {"hidden_size": 48, "num_hidden_layers": 5, "vocab_size": 300, "model_type": "qwen2"}
    config = transformers.LlavaConfig(text_config=text)
    config.architectures = ["LlavaForConditionalGeneration"]
    assert shape_of(config) == shape("LlavaForConditionalGeneration", 48, 5)


def test_longcats_blocks_are_counted_whole() -> None:
    config = transformers.LongcatFlashConfig(num_layers=3)
    assert config.num_hidden_layers == 6 and shape_of(config).n_layers == 3


def test_a_configuration_without_a_vocabulary_is_refused() -> None:
    with pytest.raises(ModelError, match=r"not a decoder-only language model \(vit\)$"):
        shape_of(transformers.ViTConfig())
