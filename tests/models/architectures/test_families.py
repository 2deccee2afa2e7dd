"""Which families are read with which class, and which are refused, in one line."""

import json
from pathlib import Path

import pytest
import transformers
from support.cli import refused
from support.tiny import save_tiny, save_tiny_bert

from neurosteer_cli.errors import ModelError
from neurosteer_cli.models.architectures.families import check_steered, model_class


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        (transformers.BertConfig(), "bert: it is of a family of encoders"),
        (transformers.BertConfig(is_decoder=True), "bert: it is of a family of encoders"),
        (transformers.RobertaConfig(is_decoder=True), "roberta: it is of a family of encoders"),
        (transformers.T5Config(), "t5: an encoder reads its prompt"),
        (
            transformers.BartConfig(is_encoder_decoder=False, is_decoder=True),
            "bart: an encoder reads its prompt",
        ),
        (
            transformers.Blip2Config(text_config=transformers.T5Config()),
            "blip-2: an encoder reads its prompt",
        ),
        (
            transformers.Gemma3TextConfig(use_bidirectional_attention=True),
            "gemma3_text: its tokens see those after them",
        ),
        (transformers.PaliGemmaConfig(), "paligemma: its tokens see those after them"),
        (transformers.ViTConfig(), "vit: transformers has no class that writes text with it"),
    ],
)
def test_what_cannot_be_steered_is_refused_with_the_reason(config: object, reason: str) -> None:
    expected = rf"^name: not a decoder-only language model that can be steered \({reason}\)$"
    with pytest.raises(ModelError, match=expected):
        check_steered(config, "name")


@pytest.mark.parametrize(
    ("config", "architecture", "expected"),
    [
        (transformers.LlamaConfig(), None, "LlamaForCausalLM"),
        (transformers.LlamaConfig(), "LlamaForSequenceClassification", "LlamaForCausalLM"),
        (transformers.LlamaConfig(), "MistralForCausalLM", "LlamaForCausalLM"),
        (transformers.Qwen3_5Config(), "Qwen3_5ForConditionalGeneration", "Qwen3_5ForConditionalGeneration"),
        (transformers.Qwen3_5Config(), None, "Qwen3_5ForCausalLM"),
        (transformers.Qwen3VLConfig(), None, "Qwen3VLForConditionalGeneration"),
        (transformers.Gemma3Config(), None, "Gemma3ForConditionalGeneration"),
    ],
)
def test_the_class_that_a_configuration_names_reads_it_if_it_writes_text(
    config: transformers.PreTrainedConfig, architecture: str | None, expected: str
) -> None:
    config.architectures = [architecture] if architecture else None
    chosen, part = model_class(config)
    assert chosen.__name__ == expected
    assert isinstance(part, chosen.config_class)


@pytest.fixture(scope="module")
def fitted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with texts, a vector of a tiny Llama, and an encoder."""
    from support.cli import run

    folder = tmp_path_factory.mktemp("refused")
    for name, word in (("up", "aaa bbb"), ("down", "zzz yyy")):
        lines = [json.dumps({"text": f"{word} {n} of them"}) + "\n" for n in range(8)]
        (folder / f"{name}.jsonl").write_text("".join(lines))
    (folder / "prompts.jsonl").write_text(json.dumps({"prompt": "ab"}) + "\n")
    save_tiny(folder / "tiny")
    save_tiny_bert(folder / "bert")
    sides = [str(folder / f"{name}.jsonl") for name in ("up", "down")]
    run(
        "fit",
        *sides,
        "-m",
        str(folder / "tiny"),
        "--method",
        "diffmean",
        "--layers",
        "2",
        "-o",
        str(folder / "v.st"),
    )
    return folder


@pytest.mark.parametrize(
    "command",
    [
        ["fit", "up.jsonl", "down.jsonl", "--method", "diffmean", "-o", "w.st"],
        ["gen", "ab"],
        ["gen", "ab", "-v", "v.st"],
        ["layers", "up.jsonl", "down.jsonl"],
        ["eval", "-v", "v.st", "--prompts", "prompts.jsonl", "--alpha", "1"],
        ["sae", "train", "up.jsonl", "--layer", "1", "-o", "s"],
        ["export", "v.st", "--to", "model", "-o", "out", "--alpha", "1"],
        ["serve"],
    ],
)
def test_every_command_refuses_an_encoder_in_the_same_words(
    fitted: Path, monkeypatch: pytest.MonkeyPatch, command: list[str]
) -> None:
    monkeypatch.chdir(fitted)
    said = refused(*command, "--model", "bert", code=1)
    expected = (
        "bert: not a decoder-only language model that can be steered (bert: it is of a family of encoders)"
    )
    assert said == f"error: {expected}"
