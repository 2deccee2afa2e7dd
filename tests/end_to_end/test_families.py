"""Every family of the installed transformers is right, or refused with a reason that is written down.

The table in tests/benchmarks/results/families.md is of all of them, and is made anew by
`python tests/benchmarks/families.py --write` (minutes); here a few of each kind are swept.
"""

from pathlib import Path

import pytest
import transformers
from support.families import all_families
from support.sweep import recorded, refusal, sweep

# Plain decoders, mixtures of experts, recurrent and hybrid ones, several streams, shared keys, depth in the
# arithmetic, old families; then text inside a wrapper.
SWEPT = [
    "LlamaForCausalLM", "Qwen3ForCausalLM", "Gemma2ForCausalLM", "Gemma3ForCausalLM", "Gemma3nForCausalLM",
    "Gemma4ForCausalLM", "Phi3ForCausalLM", "Olmo2ForCausalLM", "CohereForCausalLM", "GPT2LMHeadModel",
    "OpenAIGPTLMHeadModel", "OPTForCausalLM", "MptForCausalLM", "BloomForCausalLM", "FalconForCausalLM",
    "GPTNeoXJapaneseForCausalLM", "MixtralForCausalLM", "GptOssForCausalLM", "DeepseekV2ForCausalLM",
    "DeepseekV3ForCausalLM", "DeepseekV4ForCausalLM", "Llama4ForCausalLM", "MiniCPM3ForCausalLM",
    "MiniMaxForCausalLM", "LongcatFlashForCausalLM", "Qwen3NextForCausalLM", "Qwen3_5ForCausalLM",
    "Qwen4ExpForCausalLM", "JambaForCausalLM", "Zamba2ForCausalLM", "FalconH1ForCausalLM", "MambaForCausalLM",
    "Mamba2ForCausalLM", "RwkvForCausalLM", "RecurrentGemmaForCausalLM",
    "Gemma3ForConditionalGeneration", "Gemma4ForConditionalGeneration", "Qwen2_5_VLForConditionalGeneration",
    "Qwen3VLForConditionalGeneration", "Qwen3_5ForConditionalGeneration", "LlavaForConditionalGeneration",
    "Mistral3ForConditionalGeneration", "SmolVLMForConditionalGeneration", "Llama4ForConditionalGeneration",
    "Blip2ForConditionalGeneration", "VoxtralForConditionalGeneration", "MllamaForConditionalGeneration",
]  # fmt: skip
FAMILY_OF = {class_name: family for family, class_name in reversed(all_families())}


@pytest.mark.parametrize("class_name", SWEPT)
def test_a_family_is_right_in_everything(tmp_path: Path, class_name: str) -> None:
    if class_name not in FAMILY_OF:
        pytest.skip(f"transformers {transformers.__version__} does not have it yet")
    found = sweep(tmp_path, FAMILY_OF[class_name], class_name)
    assert {check: line for check, line in found.items() if line} == {}


def test_the_table_is_of_all_families_of_the_installed_transformers() -> None:
    new = set(all_families()) - recorded().keys()
    assert not new, f"transformers {transformers.__version__} has families that have not been swept: {new}"


def test_nothing_in_the_table_is_wrong() -> None:
    found = recorded()
    assert {name: line for name, line in found.items() if line.startswith("wrong")} == {}
    assert sum(line == "right" for line in found.values()) >= 200


def test_the_refusals_are_those_of_the_table_with_their_reasons() -> None:
    told = {name: line.removeprefix("refused: ") for name, line in recorded().items() if "refused: " in line}
    now = {(family, class_name): refusal(family) for family, class_name in all_families()}
    assert {name: reason for name, reason in now.items() if reason} == {
        name: reason for name, reason in told.items() if name in now
    }
