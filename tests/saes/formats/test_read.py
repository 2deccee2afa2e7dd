"""Which library saved an SAE is told by its files, and what none did is named."""

from pathlib import Path
from typing import Any

import pytest
from support.saes import write
from support.tiny import save_tiny_sae

from neurosteer_cli.errors import SAEError
from neurosteer_cli.models.hooks import HookPoint
from neurosteer_cli.saes.load import family_of, load_sae


def load(path: Path, layer: int | None = None) -> HookPoint:
    return load_sae(str(path), model_id="tiny", layer=layer).hook_point


def test_a_folder_without_an_sae_is_told_what_is_looked_for(tmp_path: Path) -> None:
    write(tmp_path, {"config.json": {}})
    message = "no SAE of the residual stream in it, nor in folders of it; known are sae_weights.safetensors "
    with pytest.raises(SAEError, match=message):
        load(tmp_path)
    write(tmp_path, {"model.safetensors": {}})
    with pytest.raises(SAEError, match=": a model's folder; give it with --model$"):
        load(tmp_path)


def test_llama_scope_is_named_with_the_way_out(tmp_path: Path) -> None:
    write(tmp_path, {"hyperparams.json": {}, "checkpoints/final.safetensors": {}})
    with pytest.raises(
        SAEError, match="an SAE of Llama Scope, .* name it as sae-lens's registry does, llama_scope"
    ):
        load(tmp_path)


@pytest.mark.parametrize("name", ["x.gguf", "x.st", "model.safetensors", "x"])
def test_a_file_that_is_no_sae_is_named(tmp_path: Path, name: str) -> None:
    way_out = r"\. For an SAE name the folder it is in, with one of sae_weights.safetensors \(sae-lens\)"
    for content, what in {
        b"\0": "not a file of an SAE that is read",
        b"x": "a text file; `neurosteer fit` makes a vector of texts",
        b"GGUF": "a GGUF model; give it with --model",
    }.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(SAEError, match=f"{name}: {what}{way_out}"):
            load(tmp_path / name)


def test_a_file_of_an_sae_is_the_folder_it_is_in(tmp_path: Path) -> None:
    assert load(save_tiny_sae(tmp_path) / "sae_weights.safetensors") == HookPoint(2)


def test_those_before_and_after_one_block_are_asked_for_by_name(tmp_path: Path) -> None:
    for name in ("blocks.2.hook_resid_post", "blocks.2.hook_resid_pre", "blocks.2.hook_mlp_out"):
        save_tiny_sae(tmp_path / name, hook_name=name)
    with pytest.raises(SAEError, match="2 SAEs are in .* for block 2; name one: .*resid_post, .*resid_pre$"):
        load(tmp_path)


def test_a_configuration_tells_the_block_whatever_the_folder_is_called(tmp_path: Path) -> None:
    save_tiny_sae(tmp_path / "a" / "layer_9", hook_name="blocks.1.hook_resid_post")
    assert family_of(str(tmp_path), model_id="tiny") == {1: [tmp_path / "a" / "layer_9"]}


def test_one_that_is_damaged_is_left_out_of_a_family(tmp_path: Path) -> None:
    for layer in (1, 2):
        save_tiny_sae(tmp_path / str(layer), hook_name=f"blocks.{layer}.hook_resid_post")
    (tmp_path / "1" / "cfg.json").write_text("[")
    assert load(tmp_path) == HookPoint(2)


@pytest.mark.parametrize(
    "changes",
    [
        {"k": "eight"}, {"k": [8]}, {"metadata": 3}, {"metadata": {"hook_name": 5, "model_name": "m"}},
        {"metadata": {"hook_name": "layers.2", "model_name": "m", "model_from_pretrained_kwargs": [1]}},
        {"architecture": ["topk"]},
    ],
)  # fmt: skip
def test_a_configuration_of_the_wrong_form_is_named(tmp_path: Path, changes: dict[str, Any]) -> None:
    folder = save_tiny_sae(tmp_path / "sae", **changes)
    with pytest.raises(
        SAEError, match=r"/sae'?: .*(are not of the form they should be|is no JSON object|not su)"
    ):
        load(folder)
    save_tiny_sae(tmp_path / "good", hook_name="blocks.3.hook_resid_post")
    assert load(tmp_path) == HookPoint(3)


@pytest.mark.parametrize(
    "config", [{"trainer": {"dict_class": ["AutoEncoder"]}}, {"trainer": 3}, {"buffer": 1}]
)
def test_so_is_one_of_dictionary_learning(tmp_path: Path, config: dict[str, Any]) -> None:
    write(tmp_path / "sae", {"ae.pt": {}, "config.json": config})
    with pytest.raises(SAEError, match="are not of the form they should be|no 'trainer' in it"):
        load(tmp_path / "sae")
