"""GGUF models: whole, right and once, or refused by what is missing; never random weights."""

import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from support.gguf import save_gguf
from support.tiny import CHAT_TEMPLATE, CONTEXT, tiny_model

from neurosteer_cli.errors import ModelError
from neurosteer_cli.models.checkpoints import gguf as conversion
from neurosteer_cli.models.checkpoints.gguf import converted
from neurosteer_cli.models.checkpoints.rope import set_rope
from neurosteer_cli.models.engine import Engine

IDS = torch.tensor([[5, 99, 7, 20, 256, 31]])


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "cache"
    monkeypatch.setenv("NEUROSTEER_CACHE", str(folder))
    return folder


def load(path: Path) -> Engine:
    return Engine.load(str(path), device="cpu", dtype="float32")


def logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        found: torch.Tensor = model(input_ids=IDS).logits
    return found


def reference(model: Any = None) -> torch.Tensor:
    """The logits of what the files are written of, its weights rounded as conversion rounds them."""
    model = tiny_model("llama") if model is None else model
    for parameter in model.parameters():
        parameter.data = parameter.bfloat16().float()
    return logits(model)


def refused(path: Path, cache: Path) -> str:
    """What is said; nothing may be kept."""
    with pytest.raises(ModelError) as caught:
        load(path)
    left = [entry.name for entry in cache.iterdir() if entry.suffix != ".lock"] if cache.exists() else []
    assert left == []
    return str(caught.value)


# --- whole ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["own.gguf", "OWN.GGUF", "Own.Gguf"])
def test_a_file_gives_the_model_it_was_written_of(tmp_path: Path, name: str) -> None:
    save_gguf(tmp_path / name)
    engine = load(tmp_path / name)
    torch.testing.assert_close(logits(engine.model), reference(), rtol=1e-4, atol=1e-4)
    assert engine.max_tokens == CONTEXT
    assert engine.prompt_ids("ab") == [262]  # the first merge


def test_any_shard_of_a_model_gives_all_of_it(tmp_path: Path) -> None:
    shards = save_gguf(tmp_path / "own.gguf", n_shards=3)
    assert [path.name for path in shards] == [f"own-0000{n}-of-00003.gguf" for n in (1, 2, 3)]
    for path in shards:
        torch.testing.assert_close(logits(load(path).model), reference(), rtol=1e-4, atol=1e-4)
    assert len({converted(path, lambda _message: None) for path in shards}) == 1  # made once


@pytest.mark.parametrize("n_shards", [1, 3])
def test_a_folder_that_holds_one_model_is_that_model(tmp_path: Path, n_shards: int) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    save_gguf(folder / "own.gguf", n_shards=n_shards)
    save_gguf(folder / "mmproj-own.gguf", architecture="clip")  # as it lies beside models that see
    (folder / "README.md").write_text("a model")
    torch.testing.assert_close(logits(load(folder).model), reference(), rtol=1e-4, atol=1e-4)


def test_a_folder_of_several_models_is_refused_by_their_names(tmp_path: Path, cache: Path) -> None:
    for name in ("b.gguf", "a.gguf"):
        save_gguf(tmp_path / name)
    assert refused(tmp_path, cache) == f"{tmp_path}: 2 GGUF models (a.gguf, b.gguf); name one of them"


def test_a_conversion_gives_signs_of_life(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_gguf(tmp_path / "own.gguf")
    monkeypatch.setattr(conversion, "SECONDS_BETWEEN_SIGNS", -1.0)
    said: list[str] = []
    converted(tmp_path / "own.gguf", said.append)
    assert said[:2] == [
        "converting own.gguf (0.00 GB) to bfloat16 safetensors (once)",
        "converting own.gguf: 0%",
    ]
    assert len(said) > 30  # each tensor here; on a clock otherwise


def test_what_an_older_program_converted_is_converted_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_gguf(tmp_path / "own.gguf")
    monkeypatch.setattr(conversion, "CONVERSION", 1)
    older = converted(tmp_path / "own.gguf", lambda _message: None)
    monkeypatch.undo()
    monkeypatch.setenv("NEUROSTEER_CACHE", str(older.parent))
    assert converted(tmp_path / "own.gguf", lambda _message: None) != older


def test_rows_are_dequantised_as_gguf_does_whatever_their_number(monkeypatch: pytest.MonkeyPatch) -> None:
    from gguf import GGMLQuantizationType, quants

    rows = np.random.default_rng(0).normal(size=(2, 7, 64)).astype(np.float32)
    kind = GGMLQuantizationType.Q8_0
    packed = quants.quantize(rows, kind)
    for at_once in (1, 200, 10**6):
        monkeypatch.setattr(conversion, "DEQUANTISED_AT_ONCE", at_once)
        assert np.array_equal(conversion._dequantised(packed, kind), quants.dequantize(packed, kind))


# --- refused -------------------------------------------------------------------------------------


@pytest.mark.parametrize("lost", [1, 2, 3])
def test_a_model_that_lacks_a_shard_is_refused_by_its_name(tmp_path: Path, cache: Path, lost: int) -> None:
    shards = save_gguf(tmp_path / "own.gguf", n_shards=3)
    shards[lost - 1].unlink()
    for path in shards:
        if path.exists():
            assert refused(path, cache) == (
                f"{path}: one of 3 shards, of which 1 are not beside it, first own-0000{lost}-of-00003.gguf; "
                "fetch them all"
            )


@pytest.mark.parametrize("number", [1, 2])
def test_a_shard_under_another_name_is_refused_by_its_count(tmp_path: Path, cache: Path, number: int) -> None:
    shards = save_gguf(tmp_path / "own.gguf", n_shards=2)
    shutil.copy(shards[number - 1], tmp_path / "renamed.gguf")
    assert refused(tmp_path / "renamed.gguf", cache).startswith(
        f"{tmp_path}/renamed.gguf: shard {number} of 2 (split.count); put all of them into one folder, named "
    )


def test_shards_of_two_models_are_refused(tmp_path: Path, cache: Path) -> None:
    shards = save_gguf(tmp_path / "own.gguf", n_shards=3)
    shutil.copy(shards[1], shards[2])
    assert refused(shards[0], cache) == f"{shards[2]}: not shard 3 of 3, as its name says"


@pytest.mark.parametrize(
    ("gone", "n", "first"),
    [
        ("blk.1.", 9, "model.layers.1.input_layernorm.weight"),
        ("output_norm", 1, "model.norm.weight"),
        ("token_embd", 1, "model.embed_tokens.weight"),
        ("blk.3.ffn_up", 1, "model.layers.3.mlp.up_proj.weight"),
    ],
)
def test_a_file_with_a_hole_is_refused_by_what_is_missing(
    tmp_path: Path, cache: Path, gone: str, n: int, first: str
) -> None:
    (path,) = save_gguf(tmp_path / "hole.gguf", keep=lambda name: not name.startswith(gone))
    assert refused(path, cache) == (
        f"{path}: incomplete: {n} tensors are missing, first {first}; fetch the whole model again"
    )


def test_tensors_that_the_reader_would_leave_out_are_named(tmp_path: Path, cache: Path) -> None:
    bias = {"blk.0.attn_q.bias": np.ones(16, dtype=np.float32)}
    (path,) = save_gguf(tmp_path / "biased.gguf", tensors=bias)
    assert refused(path, cache) == (
        f"{path}: transformers' reader of GGUF leaves out 1 of its tensors, first blk.0.attn_q.bias: "
        "give the model's own folder or Hub id"
    )


@pytest.mark.parametrize(
    ("architecture", "fields", "what"),
    [
        ("clip", {}, "a projector of images or sound (mmproj), not a language model"),
        ("llama", {"general.type": "mmproj"}, "a projector of images or sound (mmproj), not a"),
        ("controlvector", {}, "a control vector, not a model: `neurosteer import` makes a vector file of it"),
        ("llama", {"general.type": "adapter"}, "an adapter (LoRA), not a model: merge it first"),
        ("llama", {"llama.rope.scaling.type": "odd", "llama.rope.scaling.factor": 4.0},
         "scales its rotary embeddings by 'odd', which is not known here"),
    ],
)  # fmt: skip
def test_what_is_no_model_that_can_be_read_is_named_by_what_it_is(
    tmp_path: Path, cache: Path, architecture: str, fields: dict[str, Any], what: str
) -> None:
    (path,) = save_gguf(tmp_path / "other.gguf", architecture=architecture, fields=fields)
    assert refused(path, cache).startswith(f"{path}: {what}")


def test_a_file_of_a_vocabulary_alone_is_refused(tmp_path: Path, cache: Path) -> None:
    (path,) = save_gguf(tmp_path / "vocab.gguf", keep=lambda _name: False)
    assert refused(path, cache) == f"{path}: holds no tensors, but at most a vocabulary"


# --- what ends a text ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "template", "ends"),
    [
        ({}, None, {257}),
        ({"tokenizer.ggml.eot_token_id": 258}, None, {257, 258}),
        ({"tokenizer.ggml.eot_token_id": 258, "tokenizer.ggml.eom_token_id": 259}, None, {257, 258, 259}),
        ({}, CHAT_TEMPLATE, {257}),
        ({}, CHAT_TEMPLATE.replace("</s>", "<|eot|>"), {257, 258}),  # an answer's end, as the file writes it
        ({"tokenizer.ggml.eot_token_id": 259}, CHAT_TEMPLATE.replace("</s>", "<|eot|>"), {257, 259}),
        ({}, "{{ raise_exception('no') }}", {257}),
        ({}, "{% for m in messages %}{{ m.content }}\n{% endfor %}", {257}),
    ],
)
def test_ends_are_those_the_file_declares_and_no_other_control_token(
    tmp_path: Path, fields: dict[str, int], template: str | None, ends: set[int]
) -> None:
    (path,) = save_gguf(tmp_path / "own.gguf", chat_template=template, fields=fields)
    engine = load(path)
    assert engine.stop_ids == ends
    assert engine.special_ids >= set(range(256, 262))


# --- rotary embeddings ---------------------------------------------------------------------------


def llama(**rope: Any) -> Any:
    """A tiny Llama whose rotary embeddings are scaled."""
    model = tiny_model("llama")
    config = transformers.LlamaConfig.from_dict(
        {**model.config.to_dict(), "rope_parameters": {"rope_theta": 500000.0, **rope}}
    )
    scaled = transformers.LlamaForCausalLM(config).eval()
    scaled.load_state_dict(model.state_dict())
    return scaled


LLAMA3 = {
    "rope_type": "llama3", "factor": 32.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}  # fmt: skip
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16}


@pytest.mark.parametrize(
    ("rope", "fields"),
    [
        (LLAMA3, {}),
        ({"rope_type": "linear", "factor": 8.0}, {"scaling.type": "linear", "scaling.factor": 8.0}),
        ({"rope_type": "linear", "factor": 8.0}, {"scaling.factor": 8.0}),
        ({"rope_type": "linear", "factor": 8.0}, {"scale_linear": 8.0}),
        (YARN, {"scaling.type": "yarn", "scaling.factor": 4.0, "scaling.original_context_length": 16}),
        ({"rope_type": "default"}, {"scaling.type": "none", "scaling.factor": 8.0}),
        ({"rope_type": "default"}, {"scaling.type": "linear", "scaling.factor": 1.0}),
    ],
)
def test_scaled_rotary_embeddings_are_read(
    tmp_path: Path, rope: dict[str, Any], fields: dict[str, Any]
) -> None:
    model = llama(**rope)
    tensors = {}
    if rope is LLAMA3:  # as llama.cpp's converter writes it: what each frequency is divided by
        plain = llama(rope_type="default").model.rotary_emb.inv_freq
        tensors = {"rope_freqs.weight": (plain / model.model.rotary_emb.inv_freq).numpy()}
    fields = {f"llama.rope.{name}": value for name, value in fields.items()}
    (path,) = save_gguf(tmp_path / "own.gguf", model=model, fields=fields, tensors=tensors)
    engine = load(path)
    torch.testing.assert_close(logits(engine.model), reference(model), rtol=1e-4, atol=1e-4)
    found = engine.model.config.rope_parameters
    assert {name: found[name] for name in rope} == pytest.approx(rope)


@pytest.mark.parametrize(
    ("kind", "said", "rope"),
    [
        ("Starcoder2", {"freq_base": 70000.0}, {"rope_theta": 70000.0}),
        ("StableLm", {"freq_base": 70000.0}, {"rope_theta": 70000.0}),
        ("StableLm", {"dimension_count": 12}, {"partial_rotary_factor": 0.75}),
        ("Phi3", {"dimension_count": 12}, {"partial_rotary_factor": 0.75}),
        ("Nemotron", {"dimension_count": 12}, {"partial_rotary_factor": 0.75}),
    ],
)
def test_base_and_share_of_a_head_are_the_files_in_families_whose_reader_leaves_them_out(
    kind: str, said: dict[str, Any], rope: dict[str, float]
) -> None:
    named = {"general.architecture": kind} | {f"{kind}.rope.{name}": value for name, value in said.items()}
    fields = {name: SimpleNamespace(contents=lambda value=value: value) for name, value in named.items()}
    config = getattr(transformers, f"{kind}Config")(hidden_size=64, num_attention_heads=4)
    set_rope(Path("m.gguf"), SimpleNamespace(fields=fields, tensors=[]), config)  # type: ignore[arg-type]
    assert config.rope_parameters.items() >= rope.items()


def test_other_factors_of_rotary_embeddings_are_read_as_they_are(tmp_path: Path) -> None:
    factors = [1.0, 1.5, 2.0, 7.0]
    model = llama(
        rope_type="longrope", long_factor=factors, short_factor=factors, attention_factor=1.0,
        original_max_position_embeddings=CONTEXT,
    )  # fmt: skip
    tensors = {"rope_freqs.weight": np.array(factors, dtype=np.float32)}
    (path,) = save_gguf(tmp_path / "own.gguf", model=model, tensors=tensors)
    torch.testing.assert_close(logits(load(path).model), reference(model), rtol=1e-4, atol=1e-4)
