"""A checkpoint with a push baked in gives the steered logits at every token, in plain transformers."""

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from support.tiny import BAKED_CONFIGS, CONFIGS, CONTEXT, D_MODEL, N_LAYERS, SIZES, tiny_tokenizer
from torch import Tensor

from neurosteer_cli.errors import IncompatibleVectorError, ModelError, OutputError
from neurosteer_cli.models.engine import Engine
from neurosteer_cli.models.hooks import HookPoint, add
from neurosteer_cli.models.load import read_config
from neurosteer_cli.vectors.exchange import bake as bake_module
from neurosteer_cli.vectors.exchange.bake import BIAS_SITES, NO_BIAS_SITE, NOTE_FILE, bake, find_site

FAMILIES: dict[str, Callable[[], Any]] = {
    "llama": CONFIGS["llama"],
    "llama with biases": lambda: transformers.LlamaConfig(**SIZES, mlp_bias=True),
    "mistral": lambda: transformers.MistralConfig(
        **SIZES, num_key_value_heads=1, head_dim=6, sliding_window=None, rope_theta=1e6, rms_norm_eps=1e-3
    ),
    "qwen2": lambda: transformers.Qwen2Config(
        **SIZES, num_key_value_heads=1, rope_theta=1e6, rms_norm_eps=1e-3, tie_word_embeddings=True
    ),
    "gpt2": CONFIGS["gpt2"],
    "gpt_neox": CONFIGS["gpt_neox"],
    "gpt_neox in sequence": lambda: transformers.GPTNeoXConfig(**SIZES, use_parallel_residual=False),
    **BAKED_CONFIGS,
    "phi": lambda: transformers.PhiConfig(**SIZES),
    "starcoder2": lambda: transformers.Starcoder2Config(**SIZES, num_key_value_heads=1, sliding_window=4),
}  # fmt: skip
PUSHES = {
    block: torch.randn(D_MODEL, generator=torch.Generator().manual_seed(block)) * 3 for block in (0, 2, 3)
}


def save(folder: Path, config: Any, *, shard: str = "50GB", dtype: torch.dtype = torch.float32) -> Path:
    """A tiny model whose biases are not zero, in files of a given size."""
    torch.manual_seed(0)
    config.bos_token_id, config.eos_token_id, config.pad_token_id = 256, 257, 257
    model = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(
                parameter * 8 if parameter.dim() > 1 else parameter + torch.randn_like(parameter) / 8
            )
    model.to(dtype).save_pretrained(folder, max_shard_size=shard)
    tiny_tokenizer().save_pretrained(folder)
    return folder


def baked(source: Path, target: Path, pushes: dict[int, Tensor] = PUSHES) -> Path:
    bake(source, read_config(source), pushes, target, model_id="tiny", note={"alpha": 8.0})
    return target


IDS = torch.tensor([list(b"a prompt of some tokens"), list(b"and another one, padded")])  # [batch, pos]


def steered_logits(folder: Path, pushes: dict[int, Tensor]) -> Tensor:
    """What our engine gives with pushes at every position, [batch, pos, d_vocab]."""
    engine = Engine.load(str(folder), dtype="float32", device="cpu")
    with torch.inference_mode(), add(engine.blocks, {HookPoint(b): push for b, push in pushes.items()}):
        logits: Tensor = engine.model(input_ids=IDS).logits
    return logits


def plain_logits(folder: Path) -> Tensor:
    """What transformers alone gives, every weight of the folder used."""
    model, info = transformers.AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, output_loading_info=True
    )
    assert not any(info[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    with torch.inference_mode():
        logits: Tensor = model.eval()(input_ids=IDS).logits
    return logits


@pytest.mark.parametrize("family", FAMILIES)
def test_the_folder_gives_the_steered_logits_at_every_token(tmp_path: Path, family: str) -> None:
    source = save(tmp_path / "model", FAMILIES[family](), shard="9KB")
    expected = steered_logits(source, PUSHES)
    assert (expected - plain_logits(source)).abs().amax(-1).min() > 0.1  # it matters at each token
    found = plain_logits(baked(source, tmp_path / "baked"))
    assert (found - expected).abs().max() < 2e-6


def test_every_family_with_a_place_is_held_to_that() -> None:
    assert {make().model_type for make in FAMILIES.values()} == set(BIAS_SITES)


def test_the_check_above_can_fail(tmp_path: Path) -> None:
    source = save(tmp_path / "model", FAMILIES["llama"]())
    one_block_off = {block - 1: push for block, push in PUSHES.items() if block}
    found = plain_logits(baked(source, tmp_path / "baked", one_block_off))
    assert (found - steered_logits(source, PUSHES)).abs().max() > 0.1


def test_generation_goes_on_as_the_steered_engine_does(tmp_path: Path) -> None:
    source = save(tmp_path / "model", FAMILIES["gpt2"]())
    model = transformers.AutoModelForCausalLM.from_pretrained(baked(source, tmp_path / "baked"))
    engine = Engine.load(str(source), dtype="float32", device="cpu")
    options = {"max_new_tokens": 20, "do_sample": False, "attention_mask": torch.ones_like(IDS)}
    with add(engine.blocks, {HookPoint(b): push for b, push in PUSHES.items()}):
        expected = engine.model.generate(IDS, **options)
    assert torch.equal(model.generate(IDS, **options), expected)


def test_llama_gets_biases_of_zero_but_for_the_push_and_its_configuration_says_so(tmp_path: Path) -> None:
    source = save(tmp_path / "model", FAMILIES["llama"]())
    target = baked(source, tmp_path / "baked", {2: PUSHES[2]})
    before, after = load_file(source / "model.safetensors"), load_file(target / "model.safetensors")
    fresh = {name: after.pop(name) for name in set(after) - set(before)}
    assert set(fresh) == {
        f"model.layers.{block}.mlp.{name}_proj.bias"
        for block in range(N_LAYERS) for name in ("gate", "up", "down")
    }  # fmt: skip
    assert torch.equal(fresh.pop("model.layers.2.mlp.down_proj.bias"), PUSHES[2])
    assert not any(bias.any() for bias in fresh.values())
    assert all(torch.equal(after[name], before[name]) for name in before)
    old, new = (json.loads((folder / "config.json").read_text()) for folder in (source, target))
    older = {"torch_dtype": "float32", "rope_theta": old["rope_parameters"]["rope_theta"]}
    assert new == {**old, "mlp_bias": True, **older}


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


def test_bfloat16_weights_stay_bfloat16(tmp_path: Path) -> None:
    source = save(tmp_path / "model", FAMILIES["llama"](), dtype=torch.bfloat16)
    after = load_file(baked(source, tmp_path / "baked") / "model.safetensors")
    assert {tensor.dtype for tensor in after.values()} == {torch.bfloat16}
    assert torch.equal(after["model.layers.2.mlp.down_proj.bias"], PUSHES[2].bfloat16())


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

    monkeypatch.setattr(bake_module, "safe_open", opening)
    monkeypatch.setattr(bake_module, "save_file", saving)
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
    assert json.loads((target / NOTE_FILE).read_text()) == {"alpha": 8.0}
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

    monkeypatch.setattr(bake_module, "save_file", failing)
    with pytest.raises(OutputError, match=r"baked: cannot write \(No space left on device\)$"):
        baked(source, tmp_path / "baked")
    assert written and sorted(tmp_path.rglob("*")) == before


# --- refusals ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        (CONFIGS["gemma2"], r"\(gemma2\) has no place for a push: it norms what the MLP gives before adding"),
        (CONFIGS["qwen3"], r"\(qwen3\) has no place for a push: its MLP has no bias"),
        (CONFIGS["mistral"], r"\(mistral\) has no place for a push: its attention slides over a window"),
        (
            lambda: transformers.Qwen2Config(**SIZES, use_sliding_window=True, max_window_layers=2),
            r"\(qwen2\) has no place for a push: its attention slides over a window",
        ),
        (
            lambda: transformers.OPTConfig(do_layer_norm_before=False),
            r"\(opt\) has no place for a push: it norms the residual after the MLP",
        ),
        (
            lambda: transformers.MambaConfig(),
            r"\(mamba\) has no place for a push: known are llama, mistral, qwen2, gpt2, ",
        ),
        (
            lambda: transformers.LlamaConfig(quantization_config={"quant_method": "gptq"}),
            r"\(llama\) has no place for a push: its weights are quantised",
        ),
    ],
)  # fmt: skip
def test_a_model_without_a_place_is_refused_by_name(config: Callable[[], Any], reason: str) -> None:
    with pytest.raises(IncompatibleVectorError, match=f"^model 'some' {reason}") as caught:
        find_site(config(), "some")
    assert str(caught.value).endswith("`neurosteer gen` steers it, and so does llama.cpp (--to gguf)")


def test_no_family_is_both_known_and_refused() -> None:
    assert not set(BIAS_SITES) & set(NO_BIAS_SITE)


def test_a_push_before_block_0_is_refused(tmp_path: Path) -> None:
    source = save(tmp_path / "model", FAMILIES["gpt2"]())
    with pytest.raises(
        IncompatibleVectorError, match="^a push on what enters block 0 of model 'tiny' has no"
    ):
        baked(source, tmp_path / "baked", {-1: PUSHES[2]})


def test_a_bias_that_the_weights_lack_is_named(tmp_path: Path) -> None:
    source = save(tmp_path / "model", transformers.Starcoder2Config(**SIZES, use_bias=False))
    with pytest.raises(ModelError, match=r"model: its weights have no layers\.0\.mlp\.c_proj\.bias to take"):
        baked(source, tmp_path / "baked")
    assert not (tmp_path / "baked").exists()


def test_a_push_too_large_for_the_number_type_is_refused(tmp_path: Path) -> None:
    source = save(tmp_path / "model", FAMILIES["gpt2"](), dtype=torch.float16)
    with pytest.raises(
        IncompatibleVectorError, match=r"c_proj\.bias: the push is too large for torch\.float16"
    ):
        baked(source, tmp_path / "baked", {2: PUSHES[2] * 1e6})


def test_damaged_weights_and_a_damaged_index_are_named(tmp_path: Path) -> None:
    source = save(tmp_path / "model", FAMILIES["llama"](), shard="9KB")
    (source / "model.safetensors.index.json").write_text("{")
    with pytest.raises(ModelError, match=r"index\.json: damaged \("):
        baked(source, tmp_path / "baked")
    (source / "model.safetensors.index.json").unlink()
    next(source.glob("*.safetensors")).write_bytes(b"\0" * 20)
    with pytest.raises(ModelError, match=r"model: damaged weights \("):
        baked(source, tmp_path / "baked")
