"""What a model must share with another for a vector to mean something there.

Knows four numbers of a configuration; knows nothing of weights.
"""

from typing import Any

from pydantic import BaseModel, ConfigDict

from ..errors import ModelError


class ModelShape(BaseModel):
    """What a model must share with a vector's for the vector to mean something there."""

    model_config = ConfigDict(frozen=True, strict=True)

    architecture: str  # e.g. "LlamaForCausalLM"
    d_model: int
    n_layers: int
    d_vocab: int

    def steers_like(self, other: "ModelShape") -> bool:
        """Whether a vector of one has a meaning on the other: all is equal but the vocabulary.

        A text model has two classes where one of them also takes images: Gemma3ForCausalLM and
        Gemma3ForConditionalGeneration.
        """
        sizes = (self.d_model, self.n_layers) == (other.d_model, other.n_layers)
        return sizes and _family(self.architecture) == _family(other.architecture)

    def __str__(self) -> str:
        return f"{self.architecture}, d_model={self.d_model}, {self.n_layers} blocks, d_vocab={self.d_vocab}"


def _family(architecture: str) -> str:
    """What comes before a class's purpose in its name."""
    return architecture.removesuffix("ForCausalLM").removesuffix("ForConditionalGeneration")


def shape_of(config: Any) -> ModelShape:
    """The shape that a configuration tells of; ModelError where it has none, as one of images or sound."""
    try:
        text = config.get_text_config(decoder=True)
        return ModelShape(
            architecture=(config.architectures or [type(config).__name__])[0],
            d_model=text.hidden_size,
            n_layers=n_blocks_of(text),
            d_vocab=text.vocab_size,
        )
    except (AttributeError, ValueError) as error:
        raise ModelError(
            f"{config.name_or_path}: not a decoder-only language model ({config.model_type})"
        ) from error


def n_blocks_of(text: Any) -> int:
    """How many blocks a text model has, by its configuration."""
    if text.model_type == "longcat_flash":  # which counts the two halves of each
        return int(text.num_layers)
    return int(text.num_hidden_layers)
