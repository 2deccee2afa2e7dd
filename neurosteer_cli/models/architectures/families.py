"""Which class of transformers reads a configuration's model, and which families are not steered, and why.

Knows transformers' mappings; knows nothing of weights.
"""

from typing import Any

import transformers
from transformers import PreTrainedModel
from transformers.models.auto import modeling_auto

from ...errors import ModelError

# In this order: what writes text alone, then what also reads images, then sound.
_WRITERS = (
    modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING,
    modeling_auto.MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING,
    modeling_auto.MODEL_FOR_MULTIMODAL_LM_MAPPING,
)

_BOTH_WAYS = "its tokens see those after them"
_LOOPED = "its blocks run several times a pass, so that none has one residual to read or steer"
_WEIGHED = "its blocks weigh what those before them gave, so that there is no one residual to steer"
_DRAFTS = "it drafts for another model, whose keys it reads"
_SOUND = "it writes sound"
_THINKS = "it writes sound as well; what writes text in it is a model of its own, its thinker"
_IMAGE_FIRST = "it takes no text without an image or sound"
_PROMPT_ENCODED = "an encoder reads its prompt"
_ENCODERS = {"bert-generation"}  # besides those that transformers trains on masked words
_REFUSED = {
    "blip": _IMAGE_FIRST,
    "blt": "it writes bytes from patches of them, and most of its blocks see patches",
    "cpmant": "it puts 32 tokens of its own before a text",
    "diffusion_gemma": "it writes by diffusion, not token after token",
    "dory": _LOOPED,
    "evolla": "it takes no text without a protein",
    "gemma4_assistant": _DRAFTS,
    "gemma4_unified_assistant": _DRAFTS,
    "git": _IMAGE_FIRST,
    "hrm_text": _LOOPED,
    "idefics": _IMAGE_FIRST,
    "inkling2": _WEIGHED,
    "inkling2_loop": _LOOPED,
    "inkling2_loop_text": _LOOPED,
    "inkling2_text": _WEIGHED,
    "kyutai_speech_to_text": _IMAGE_FIRST,
    "kosmos-2": _IMAGE_FIRST,
    "kosmos-2.5": "it counts positions in a way of its own",
    "moshi": _SOUND,
    "musicgen": _SOUND,
    "musicgen_melody": _SOUND,
    "pi0": "it moves a robot",
    "qwen2_5_omni": _THINKS,
    "qwen3_omni_moe": _THINKS,
    "reformer": "its blocks pass on two streams, which are one another's inverses",
    "shieldgemma2": "it judges images",
    "trocr": _PROMPT_ENCODED,
    "voxtral_realtime": _IMAGE_FIRST,
    "xlnet": _BOTH_WAYS,
}


def check_steered(config: Any, name: str) -> None:
    """Raise ModelError if a configuration is of a family that is not steered; `name` is what it calls it."""
    if reason := _why_not(config):
        raise ModelError(
            f"{name}: not a decoder-only language model that can be steered ({config.model_type}: {reason})"
        )


def _why_not(config: Any) -> str | None:
    if reason := _REFUSED.get(config.model_type):
        return reason
    if config.is_encoder_decoder or type(config).is_encoder_decoder:  # as it is, or as its family is
        return _PROMPT_ENCODED
    if not _classes(config):
        return "transformers has no class that writes text with it"
    text = config.get_text_config(decoder=True)
    if text.is_encoder_decoder:
        return _PROMPT_ENCODED
    if type(config) in modeling_auto.MODEL_FOR_MASKED_LM_MAPPING or config.model_type in _ENCODERS:
        return "it is of a family of encoders"
    if _sees_both_ways(text):
        return _BOTH_WAYS
    return None


def _sees_both_ways(text: Any) -> bool:
    """Whether a decoder's configuration makes an encoder of it, as EmbeddingGemma's does."""
    both_ways = getattr(text, "use_bidirectional_attention", None)  # Gemma 4's may be for images alone
    return both_ways in (True, "all") or getattr(text, "is_causal", True) is False


def model_class(config: Any) -> tuple[Any, Any]:
    """The class that reads a model whole, and the part of its configuration that the class takes.

    It is the one the configuration names, if that writes text. `check_steered` must have passed.
    """
    classes = _classes(config)
    named = set(config.architectures or ())
    chosen = next((each for each in classes if each.__name__ in named), classes[0])
    text = config.get_text_config(decoder=True)
    return chosen, text if chosen.config_class is type(text) else config


def _classes(config: Any) -> list[Any]:
    """Those that write text with such a configuration: of transformers' mappings, then by name."""
    mapped = [mapping[type(config)] for mapping in _WRITERS if type(config) in mapping]
    named = (getattr(transformers, name, None) for name in config.architectures or ())
    return mapped + [each for each in named if _writes(each, config)]


def _writes(named: Any, config: Any) -> bool:
    is_model = isinstance(named, type) and issubclass(named, PreTrainedModel)
    return is_model and named.config_class is type(config) and named.can_generate()
