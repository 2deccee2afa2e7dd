"""A changed copy of a checkpoint folder: its files, its index, its configuration, its tokenizer."""

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import transformers
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from support.baking import FAMILIES, PUSHES, baked, plain_logits, save, steered_logits
from support.tiny import CONTEXT, SIZES
from torch import Tensor

from neurosteer_cli.errors import ModelError, OutputError
from neurosteer_cli.vectors.exchange import checkpoint as checkpoint_module
from neurosteer_cli.vectors.exchange.checkpoint import NOTE_FILE

# --- the folder --------------------------------------------------------------------------------


def test_a_checkpoint_of_several_files_keeps_its_files_and_its_index_right(tmp_path: Path) -> None:
    source = save(tmp_path / "model", FAMILIES["llama"](), shard="9KB")
    target = baked(source, tmp_path / "baked")
    files = sorted(path.name for path in source.glob("*.safetensors"))
    assert len(files) > 3
    assert sorted(path.name for path in target.glob("*.safetensors")) == files
    index = json.loads((target / "model.safetensors.index.json").read_text())
    tensors = {}
    for name in files:
        for key, tensor in load_file(target / name).items():
            assert index["weight_map"].pop(key) == name
            tensors[key] = tensor
    assert index["weight_map"] == {}
    assert index["metadata"]["total_size"] == sum(tensor.nbytes for tensor in tensors.values())
    assert index["metadata"]["total_parameters"] == sum(tensor.numel() for tensor in tensors.values())


def test_a_file_without_a_bias_to_change_is_copied_byte_for_byte(tmp_path: Path) -> None:
    source = save(tmp_path / "model", FAMILIES["gpt2"](), shard="9KB")
    target = baked(source, tmp_path / "baked", {2: PUSHES[2]})
    changed = [
        path.name
        for path in sorted(source.glob("*.safetensors"))
        if (target / path.name).read_bytes() != path.read_bytes()
    ]
    index = json.loads((source / "model.safetensors.index.json").read_text())
    assert changed == [index["weight_map"]["transformer.h.2.mlp.c_proj.bias"]]


def test_one_file_of_weights_is_in_memory_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = save(tmp_path / "model", FAMILIES["llama"](), shard="9KB")
    events: list[str] = []

    def opening(path: Path, **options: Any) -> Any:
        events.append(f"open {path.name}")
        return safe_open(path, **options)

    def saving(tensors: dict[str, Tensor], path: Path, **options: Any) -> None:
        with safe_open(source / path.name, framework="pt") as file:
            assert set(file.keys()) <= set(tensors)
            held = set(tensors) - set(file.keys())
        assert all(name.endswith(".bias") for name in held)
        events.append(f"save {path.name}")
        save_file(tensors, path, **options)

    monkeypatch.setattr(checkpoint_module, "safe_open", opening)
    monkeypatch.setattr(checkpoint_module, "save_file", saving)
    baked(source, tmp_path / "baked")
    saved = [event.removeprefix("save ") for event in events if event.startswith("save ")]
    assert saved == sorted(set(saved)) and len(saved) > 3
    for name in saved:  # the last thing opened before a file is written is that file
        assert events[events.index(f"save {name}") - 1] == f"open {name}"


def test_all_else_in_the_folder_is_copied_and_other_weights_are_not(tmp_path: Path) -> None:
    source = save(tmp_path / "model", FAMILIES["gpt2"]())
    (source / "LICENSE").write_text("free")
    (source / "templates").mkdir()
    (source / "templates" / "tool.jinja").write_text("{{ x }}")
    (source / ".cache").mkdir()
    (source / ".cache" / "x").write_text("x")
    for other in ("pytorch_model.bin", "consolidated.safetensors", "model-q4.gguf", "tf_model.h5"):
        (source / other).write_bytes(b"unsteered")
    target = baked(source, tmp_path / "baked")
    copied = sorted(str(path.relative_to(target)) for path in target.rglob("*") if path.is_file())
    assert copied == sorted(
        ["LICENSE", "chat_template.jinja", "config.json", "generation_config.json", "model.safetensors",
         NOTE_FILE, "templates/tool.jinja", "tokenizer.json", "tokenizer_config.json"]
    )  # fmt: skip
    for name in ("tokenizer.json", "generation_config.json", "chat_template.jinja"):
        assert (target / name).read_bytes() == (source / name).read_bytes()
    assert json.loads((target / NOTE_FILE).read_text()) == {"alpha": 1.0}
    configs = [json.loads((folder / "config.json").read_text()) for folder in (source, target)]
    assert configs[1] == {**configs[0], "torch_dtype": "float32", "n_ctx": CONTEXT}


# --- in the words of transformers 4, under which tests/end_to_end/test_transformers4.py reads them ---


def changed(tmp_path: Path, name: str, make: Callable[[], Any], **entries: Any) -> tuple[Any, Any]:
    """A file of JSON before and after, entries put into it first."""
    source = save(tmp_path / "model", make())
    said = {**json.loads((source / name).read_text()), **entries}
    (source / name).write_text(json.dumps(said))
    return said, json.loads((baked(source, tmp_path / "baked") / name).read_text())


def test_scaled_rotary_embeddings_are_told_in_both_forms(tmp_path: Path) -> None:
    rope = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32}
    make = partial(transformers.LlamaConfig, **SIZES, rope_parameters={**rope, "rope_theta": 5e5})
    before, after = changed(tmp_path, "config.json", make)
    assert after["rope_parameters"] == before["rope_parameters"]
    assert (after["rope_theta"], after["rope_scaling"]) == (5e5, rope)


def test_partial_rotary_embeddings_are_told_in_the_familys_own_words(tmp_path: Path) -> None:
    rope = {"rope_type": "default", "rope_theta": 2e4, "partial_rotary_factor": 0.5}
    _, after = changed(
        tmp_path, "config.json", partial(transformers.GPTNeoXConfig, **SIZES, rope_parameters=rope)
    )
    assert (after["rotary_emb_base"], after["rotary_pct"], "rope_scaling" in after) == (2e4, 0.5, False)


def test_a_configuration_in_version_4s_form_stays_as_it_was(tmp_path: Path) -> None:
    source = save(tmp_path / "model", FAMILIES["starcoder2"]())
    config = json.loads((source / "config.json").read_text())
    config["rope_theta"] = config.pop("rope_parameters")["rope_theta"]
    config["torch_dtype"] = config.pop("dtype")
    (source / "config.json").write_text(json.dumps(config))
    assert json.loads((baked(source, tmp_path / "baked") / "config.json").read_text()) == config


def test_the_tokenizers_class_and_extra_tokens_are_those_that_both_know(tmp_path: Path) -> None:
    named, extra = {"image_token": "<image>"}, ["<think>", "</think>"]
    said = {"extra_special_tokens": extra, "model_specific_special_tokens": named}
    before, after = changed(tmp_path, "tokenizer_config.json", FAMILIES["gpt2"], **said)
    assert before["tokenizer_class"] == "TokenizersBackend"
    assert after["tokenizer_class"] == "PreTrainedTokenizerFast"
    assert after["model_input_names"] == ["input_ids", "attention_mask"]  # version 4 adds token_type_ids
    assert (after["additional_special_tokens"], after["extra_special_tokens"]) == (extra, named)


@pytest.mark.parametrize("backend", ["sentencepiece", None])
def test_a_tokenizer_of_another_backend_stays_as_it_was(tmp_path: Path, backend: str | None) -> None:
    said = {"tokenizer_class": "LlamaTokenizer", "backend": backend}
    before, after = changed(tmp_path, "tokenizer_config.json", FAMILIES["gpt2"], **said)
    assert after == before


def test_a_failure_half_way_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = save(tmp_path / "model", FAMILIES["llama"](), shard="9KB")
    before = sorted(tmp_path.rglob("*"))
    written = []

    def failing(tensors: dict[str, Tensor], path: Path, **options: Any) -> None:
        if written:
            raise OSError(28, "No space left on device")
        written.append(path)
        save_file(tensors, path, **options)

    monkeypatch.setattr(checkpoint_module, "save_file", failing)
    with pytest.raises(OutputError, match=r"baked: cannot write \(No space left on device\)$"):
        baked(source, tmp_path / "baked")
    assert written and sorted(tmp_path.rglob("*")) == before


# Older files leave out what is the family's own default, and say rope_theta by itself.
OLDER = {
    "mistral": (
        lambda: transformers.MistralConfig(
            **{**SIZES, "num_attention_heads": 16}, head_dim=2, sliding_window=None, rope_theta=1e6
        ),
        "num_key_value_heads",  # 8; Llama's default is one for each of the 16
    ),
    "qwen2": (FAMILIES["qwen2"], "hidden_act"),
}


@pytest.mark.parametrize("family", OLDER)
def test_a_configuration_of_an_older_transformers_becomes_llamas(tmp_path: Path, family: str) -> None:
    make, left_out = OLDER[family]
    source = save(tmp_path / "model", make())
    config = json.loads((source / "config.json").read_text())
    config["rope_theta"] = config.pop("rope_parameters")["rope_theta"]
    del config[left_out]
    (source / "config.json").write_text(json.dumps(config))
    target = baked(source, tmp_path / "baked")
    assert (plain_logits(target) - steered_logits(source, PUSHES)).abs().max() < 2e-6
    written = json.loads((target / "config.json").read_text())
    assert (written["model_type"], written["rope_theta"]) == ("llama", 1e6)
    assert not {"rope_parameters", "sliding_window", "layer_types"} & set(written)


def test_damaged_weights_and_a_damaged_index_are_named(tmp_path: Path) -> None:
    source = save(tmp_path / "model", FAMILIES["llama"](), shard="9KB")
    (source / "model.safetensors.index.json").write_text("{")
    with pytest.raises(ModelError, match=r"index\.json: damaged \("):
        baked(source, tmp_path / "baked")
    (source / "model.safetensors.index.json").unlink()
    next(source.glob("*.safetensors")).write_bytes(b"\0" * 20)
    with pytest.raises(ModelError, match=r"model: damaged weights \("):
        baked(source, tmp_path / "baked")
