"""What llama.cpp calls the families of models that transformers knows by other names.

Knows the gguf package's table and transformers' mappings; knows nothing of files.
"""

from collections.abc import Iterator
from typing import Any

# Where the two names differ by more than punctuation, as llama.cpp's own converters have it.
_OTHER_NAMES = {
    "cohere": "command-r",
    "deepseek_v2": "deepseek2",
    "deepseek_v3": "deepseek2",
    "falcon_mamba": "mamba",
    "glm": "chatglm",
    "glm4_moe_lite": "deepseek2",
    "glm_moe_dsa": "glm-dsa",
    "gpt_bigcode": "starcoder",
    "granitemoehybrid": "granitehybrid",
    "granitemoeshared": "granitemoe",
    "hunyuan_v1_dense": "hunyuan-dense",
    "hunyuan_v1_moe": "hunyuan-moe",
    "internlm3": "llama",
    "iquestcoder": "llama",
    "kimi_k2": "deepseek2",
    "mimo_v2_flash": "mimo2",
    "ministral3": "mistral3",
    "mistral": "llama",
    "mixtral": "llama",
    "modernbert": "modern-bert",
    "olmo3": "olmo2",
    "phi": "phi2",
    "phi4_multimodal": "phi3",
    "qwen2_5_vl": "qwen2vl",
    "youtu": "deepseek2",
}


def llama_cpp_name(model_type: str) -> str | None:
    """What llama.cpp calls a model type of transformers; None if it knows none of that name."""
    if other := _OTHER_NAMES.get(model_type):
        return other
    import gguf

    names = {_letters(name): name for name in gguf.MODEL_ARCH_NAMES.values()}
    letters = _letters(model_type)
    return names.get(letters) or names.get(letters.removesuffix("text"))


def names_of(config: Any) -> set[str]:
    """Every name by which a file may call a model of this configuration, its text part's included."""
    types = {config.model_type, config.get_text_config().model_type}
    return types | {name for each in types if (name := llama_cpp_name(each))}


def is_known(name: str) -> bool:
    """Whether a name is one of llama.cpp's, or of a model type that has one there."""
    import gguf

    return name in gguf.MODEL_ARCH_NAMES.values() or llama_cpp_name(name) is not None


def name_of_architecture(architecture: str) -> str:
    """llama.cpp's name for a model class such as Qwen3MoeForCausalLM, or the class's own in small letters.

    A class of images and text has the name of the text part that it has as a rule.
    """
    # of several types with one class, the one it is named by comes first
    named = _letters(architecture).startswith
    types = sorted(_types_of(architecture), key=lambda each: not named(_letters(each)))
    names = (name for each in types for name in _names_of_type(each))
    return next(names, types[0] if types else architecture.removesuffix("ForCausalLM").lower())


def _types_of(architecture: str) -> Iterator[str]:
    from transformers.models.auto import modeling_auto

    for names in (
        modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
        modeling_auto.MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES,
        modeling_auto.MODEL_FOR_MULTIMODAL_LM_MAPPING_NAMES,
    ):
        for model_type, named in names.items():
            if architecture == named:
                yield model_type


def _names_of_type(model_type: str) -> Iterator[str]:
    if name := llama_cpp_name(model_type):
        yield name
        return
    from transformers import CONFIG_MAPPING

    text = CONFIG_MAPPING[model_type]().get_text_config()
    if text.model_type != model_type and (name := llama_cpp_name(text.model_type)):
        yield name


def _letters(name: str) -> str:
    return "".join(filter(str.isalnum, name.lower()))
