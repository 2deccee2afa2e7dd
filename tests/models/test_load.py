"""Loading: the part that is needed, in the numbers asked for; and what cannot be loaded."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from support.engines import TEXTS, by_text, load, passage
from support.tiny import D_MODEL, D_VOCAB, FAMILIES, save_tiny, tiny_model, tiny_tokenizer

from neurosteer_cli.errors import InputError, ModelError
from neurosteer_cli.models.engine import Engine
from neurosteer_cli.models.hooks import RESID_PRE, HookPoint, capture
from neurosteer_cli.models.load import choose_device, choose_dtype

WEIGHTS = "model.safetensors"


# --- loading a part ----------------------------------------------------------------------------


@pytest.mark.parametrize("layer", [0, 2])
@pytest.mark.parametrize("family", FAMILIES)
def test_the_first_blocks_alone_give_the_residuals_of_the_whole_model(
    folders: Callable[[str], Path], engines: Callable[[str], Engine], family: str, layer: int
) -> None:
    points = [HookPoint(layer), HookPoint(layer, RESID_PRE)]
    part = load(folders(family), points=points, head=False)
    assert len(part.blocks) == layer + 1
    assert part.shape == engines(family).shape
    texts = [part.tokenize(passage(text)) for text in TEXTS]
    ours, expected = (by_text(engine, texts, points) for engine in (part, engines(family)))
    assert ours.keys() == expected.keys() == {1, 2, 3, 4, 5}  # text 0 is a single token
    for text in ours:
        for point in points:
            assert torch.equal(ours[text][point], expected[text][point])


@pytest.mark.parametrize("family", FAMILIES)
def test_an_embedding_of_bfloat16_values_is_kept_in_half_the_memory(
    folders: Callable[[str], Path], tmp_path: Path, family: str
) -> None:
    whole = load(folders(family))
    wide = load(folders(family), points=[HookPoint(0)], head=False)
    assert wide.model.get_input_embeddings().weight.dtype == torch.float32
    whole.model.to(torch.bfloat16).save_pretrained(tmp_path)
    whole.tokenizer.save_pretrained(tmp_path)
    texts = [whole.tokenize(passage(text)) for text in TEXTS]
    narrow, plain = (load(tmp_path, points=[HookPoint(0)], head=head) for head in (False, True))
    kept = torch.float32 if family == "gemma2" else torch.bfloat16  # Gemma's scales what it gives
    assert narrow.model.get_input_embeddings().weight.dtype == kept
    assert plain.model.get_input_embeddings().weight.dtype == torch.float32
    ours, expected = (by_text(engine, texts, [HookPoint(0)]) for engine in (narrow, plain))
    for text in ours:
        assert torch.equal(ours[text][HookPoint(0)], expected[text][HookPoint(0)])


def test_the_whole_model_gives_the_logits_of_transformers(whole: Engine) -> None:
    ids = torch.tensor([[5, 99, 7, 20]])
    reference = transformers.AutoModelForCausalLM.from_pretrained(whole.model_id, dtype=torch.float32).eval()
    with torch.no_grad():
        assert torch.equal(whole.model(input_ids=ids).logits, reference(input_ids=ids).logits)


def test_a_configuration_stays_whole(
    folders: Callable[[str], Path], engines: Callable[[str], Engine]
) -> None:
    whole, part = engines("gemma2"), load(folders("gemma2"), points=[HookPoint(2)], head=False)
    assert part.model.config.layer_types == whole.model.config.layer_types  # blocks may compute with all


def test_a_checkpoint_in_several_files_is_read_whole(tmp_path: Path, engine: Engine) -> None:
    tiny_tokenizer().save_pretrained(tmp_path)
    tiny_model("llama").save_pretrained(tmp_path, max_shard_size="20KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 2
    ids = torch.tensor([[5, 99, 7, 20]])
    with torch.no_grad():
        logits = load(tmp_path).model(input_ids=ids).logits
        assert torch.equal(logits, engine.model(input_ids=ids).logits)


def test_a_checkpoint_that_names_tensors_as_the_base_model_does_is_read(tmp_path: Path) -> None:
    folder = save_tiny(tmp_path, "gpt2")  # the Hub's gpt2 has "h.0.ln_1.weight", and no head
    ids = torch.tensor([[5, 99, 7, 20]])
    with torch.no_grad():
        expected = load(folder).model(input_ids=ids).logits
        tensors = load_file(folder / WEIGHTS)
        renamed = {name.removeprefix("transformer."): tensor for name, tensor in tensors.items()}
        assert "h.0.ln_1.weight" in renamed
        save_file(renamed, folder / WEIGHTS, metadata={"format": "pt"})
        assert torch.equal(load(folder).model(input_ids=ids).logits, expected)
        assert len(load(folder, points=[HookPoint(0)], head=False).blocks) == 1


@pytest.mark.parametrize("name", ["float32", "bfloat16", "float16"])
def test_weights_are_read_in_the_number_type_asked_for(tiny_folder: Path, name: str) -> None:
    engine = load(tiny_folder, dtype=name, points=[HookPoint(0)])
    assert engine.dtype == getattr(torch, name)
    assert {parameter.dtype for parameter in engine.model.parameters()} == {engine.dtype}


# --- number type and device --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("capabilities", "expected"),
    [
        ({"avx512_bf16": True}, torch.bfloat16),
        ({"amx_bf16": True, "avx512_bf16": False}, torch.bfloat16),
        ({"bf16": True}, torch.bfloat16),  # ARM
        ({"avx512_f": True, "avx512_bf16": False, "amx_bf16": False}, torch.float32),
        ({"neon": True, "bf16": False}, torch.float32),
        ({}, torch.float32),
    ],
)
def test_on_a_cpu_bfloat16_is_taken_only_where_it_has_instructions_for_it(
    monkeypatch: pytest.MonkeyPatch, capabilities: dict[str, bool], expected: torch.dtype
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities)
    assert choose_dtype("auto", torch.device("cpu")) == expected


def test_a_number_type_that_is_named_is_taken_whatever_the_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": True})
    assert choose_dtype("float32", torch.device("cpu")) == torch.float32


def test_an_unknown_number_type_is_refused(tiny_folder: Path) -> None:
    message = "^--dtype int8: not one of auto, float32, bfloat16, float16$"
    with pytest.raises(InputError, match=message):
        load(tiny_folder, dtype="int8")


def test_an_unknown_device_is_refused(tiny_folder: Path) -> None:
    with pytest.raises(InputError, match=r"^--device abacus: not available here \(.+\)$"):
        load(tiny_folder, device="abacus")


def test_a_device_that_cannot_compute_is_refused() -> None:
    with pytest.raises(InputError, match="^--device meta: one of cpu, cuda, mps is needed$"):
        choose_device("meta")


# --- what cannot be loaded ---------------------------------------------------------------------


def test_more_blocks_than_the_model_has_are_refused(tiny_folder: Path) -> None:
    with pytest.raises(InputError, match="^block 8: the model has 4 blocks, 0 to 3$"):
        load(tiny_folder, points=[HookPoint(8)])


def test_a_folder_without_a_configuration_is_refused(tmp_path: Path) -> None:
    message = f"^{tmp_path}: no config.json; not a Hugging Face checkpoint folder$"
    with pytest.raises(ModelError, match=message):
        load(tmp_path)


def test_a_folder_without_safetensors_is_refused_with_the_way_out(copied: Path) -> None:
    (copied / WEIGHTS).rename(copied / "pytorch_model.bin")
    message = (
        rf"^{copied}: no .safetensors weights \(pickled ones are not read\); "
        r"save the model again with `model.save_pretrained\(folder\)`$"
    )
    with pytest.raises(ModelError, match=message):
        load(copied)


@pytest.mark.parametrize("damage", ["truncated", "garbled", "empty"])
def test_damaged_weights_are_refused(copied: Path, damage: str) -> None:
    content = (copied / WEIGHTS).read_bytes()
    damaged = {"truncated": content[:-100], "garbled": b"\xff" * 8 + content[8:], "empty": b""}
    (copied / WEIGHTS).write_bytes(damaged[damage])
    with pytest.raises(ModelError, match=rf"^{copied}: damaged weights \(.+\)$"):
        load(copied)


@pytest.mark.parametrize("head", [True, False])
def test_weights_that_lack_a_tensor_are_refused(copied: Path, head: bool) -> None:
    tensors = load_file(copied / WEIGHTS)
    del tensors["model.layers.1.mlp.up_proj.weight"]
    save_file(tensors, copied / WEIGHTS, metadata={"format": "pt"})
    message = f"^{copied}: weights are missing from its .safetensors files"
    with pytest.raises(ModelError, match=message):
        load(copied, head=head)


def test_a_tensor_missing_beyond_the_blocks_wanted_does_not_matter(copied: Path) -> None:
    tensors = load_file(copied / WEIGHTS)
    del tensors["model.layers.3.mlp.up_proj.weight"]
    save_file(tensors, copied / WEIGHTS, metadata={"format": "pt"})
    assert len(load(copied, points=[HookPoint(2)], head=False).blocks) == 3


def test_weights_of_another_shape_than_the_configuration_says_are_refused(copied: Path) -> None:
    config = json.loads((copied / "config.json").read_text())
    (copied / "config.json").write_text(json.dumps({**config, "intermediate_size": 64}))
    with pytest.raises(ModelError, match=f"^{copied}: "):
        load(copied)


@pytest.mark.parametrize("content", ['{"model_type": "nonesuch"}', "not json", "{}"])
def test_an_unreadable_configuration_is_refused(copied: Path, content: str) -> None:
    (copied / "config.json").write_text(content)
    with pytest.raises(ModelError, match=rf"^{copied}: cannot read its configuration \(.+\)$"):
        load(copied)


def test_a_folder_without_a_tokenizer_is_refused(copied: Path) -> None:
    for path in copied.glob("*token*"):
        path.unlink()
    with pytest.raises(ModelError, match=rf"^{copied}: cannot read its tokenizer \(.+\)$"):
        load(copied)


@pytest.mark.parametrize("kind", ["esm", "vit", "lxmert"])  # no vocabulary, no field for one, odd numbers
def test_a_configuration_without_a_language_models_numbers_is_refused(copied: Path, kind: str) -> None:
    transformers.AutoConfig.for_model(kind).save_pretrained(copied)
    message = rf"^{copied}: not a decoder-only language model that can be steered \({kind}: .+\)$"
    with pytest.raises(ModelError, match=message):
        load(copied)


@pytest.mark.parametrize("head", [True, False])
def test_an_encoder_decoder_is_refused(copied: Path, head: bool) -> None:
    config = transformers.T5Config(
        vocab_size=D_VOCAB, d_model=D_MODEL, d_ff=32, num_layers=2, num_heads=2, d_kv=8
    )
    transformers.T5ForConditionalGeneration(config).save_pretrained(copied)
    with pytest.raises(ModelError, match=rf"^{copied}: not a decoder-only language model"):
        load(copied, head=head)


# --- quantised weights -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("quantised", "method", "names"),
    [
        (
            {"quant_method": "awq", "bits": 4, "group_size": 8, "zero_point": True, "version": "gemm"},
            "awq",
            "gptqmodel",
        ),
        ({"quant_method": "gptq", "bits": 4, "group_size": 8}, "gptq", "optimum"),
        (
            {"quant_method": "compressed-tensors", "format": "pack-quantized", "config_groups": {}},
            "compressed-tensors",
            "compressed-tensors",
        ),
        ({"quant_method": "bitsandbytes", "load_in_4bit": True}, "bitsandbytes", "bitsandbytes"),
        ({"quant_method": "bitsandbytes", "load_in_8bit": True}, "bitsandbytes", "bitsandbytes"),
        ({"load_in_8bit": True}, "bitsandbytes", "bitsandbytes"),
        ({"quant_method": "hqq"}, "hqq", ""),
        ({"quant_method": "exl2", "bits": 4}, "exl2", ""),
    ],
)
@pytest.mark.parametrize("head", [True, False])
def test_weights_quantised_for_another_package_are_named_with_it(
    copied: Path, quantised: dict[str, object], method: str, names: str, head: bool
) -> None:
    config = json.loads((copied / "config.json").read_text())
    (copied / "config.json").write_text(json.dumps({**config, "quantization_config": quantised}))
    tensors = load_file(copied / WEIGHTS)
    name = "model.layers.0.mlp.up_proj."
    tensors[name + "qweight"] = tensors.pop(name + "weight").to(torch.int32)
    save_file(tensors, copied / WEIGHTS, metadata={"format": "pt"})
    said = rf"its weights are quantised \({method}\), (and|which transformers) cannot (be )?read.*{names}"
    message = f"^{copied}: {said}"
    with pytest.raises(ModelError, match=message):
        load(copied, head=head)


@pytest.mark.parametrize("head", [True, False])
def test_weights_quantised_in_a_way_that_transformers_does_not_know_are_not_read_as_plain_ones(
    copied: Path, head: bool
) -> None:
    """NVIDIA's keep the names of plain weights, with scales beside them."""
    config = json.loads((copied / "config.json").read_text())
    quantised = {"quant_method": "modelopt", "quant_algo": "FP8"}
    (copied / "config.json").write_text(json.dumps({**config, "quantization_config": quantised}))
    tensors = load_file(copied / WEIGHTS)
    name = "model.layers.0.mlp.up_proj.weight"
    tensors[name] = (tensors[name] / 0.1).to(torch.float8_e4m3fn)
    tensors[name + "_scale"] = torch.tensor(0.1)
    save_file(tensors, copied / WEIGHTS, metadata={"format": "pt"})
    said = r"its weights are quantised \(modelopt\), which transformers cannot read$"
    with pytest.raises(ModelError, match=f"^{copied}: {said}"):
        load(copied, head=head)


def test_float8_weights_are_read_as_what_they_stand_for(copied: Path) -> None:
    config = json.loads((copied / "config.json").read_text())
    quantised = {"quant_method": "fp8", "weight_block_size": [8, 8], "activation_scheme": "dynamic"}
    (copied / "config.json").write_text(json.dumps({**config, "quantization_config": quantised}))
    tensors, plain = load_file(copied / WEIGHTS), load_file(copied / WEIGHTS)
    for name, tensor in list(tensors.items()):
        if "_proj" in name:
            scales = torch.rand(tensor.shape[0] // 8, tensor.shape[1] // 8) / 8 + 0.1
            spread = scales.repeat_interleave(8, 0).repeat_interleave(8, 1)
            tensors[name] = (tensor / spread).to(torch.float8_e4m3fn)
            tensors[name.replace("weight", "weight_scale_inv")] = scales
            plain[name] = tensors[name].float() * spread
    save_file(tensors, copied / WEIGHTS, metadata={"format": "pt"})
    reference = tiny_model("llama")
    reference.load_state_dict(plain, strict=False)
    ids = torch.tensor([[5, 99, 7, 20]])
    with torch.no_grad():
        whole, part = load(copied), load(copied, points=[HookPoint(1)], head=False)
        expected = reference(input_ids=ids, output_hidden_states=True)
        torch.testing.assert_close(whole.model(input_ids=ids).logits, expected.logits, rtol=1e-3, atol=1e-3)
        with capture(part.blocks, [HookPoint(1)]) as seen:
            part.model(input_ids=ids)
        torch.testing.assert_close(seen[HookPoint(1)], expected.hidden_states[2], rtol=1e-3, atol=1e-3)
