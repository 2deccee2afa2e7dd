"""Gemma Scope's files as Google lays them out: latents by JumpReLU's formula and by sae-lens's loaders."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support.saes import B_DEC, B_ENC, D_SAE, THRESHOLD, W_DEC, W_ENC, hidden, write
from support.tiny import D_MODEL
from torch import Tensor

from neurosteer_cli.errors import SAEError
from neurosteer_cli.models.hooks import HookPoint
from neurosteer_cli.saes.load import family_of, load_sae
from neurosteer_cli.saes.sae import UNKNOWN_MODEL, SparseAutoencoder

pytestmark = pytest.mark.usefixtures("quietly_without_gradients")

WEIGHTS = {"W_enc": W_ENC, "b_enc": B_ENC, "W_dec": W_DEC, "b_dec": B_DEC, "threshold": THRESHOLD}
SMALL = {name.replace("W_", "w_"): weight for name, weight in WEIGHTS.items()}
CANONICAL = "layer_20/width_16k/average_l0_71"
SECOND = {
    "hf_hook_point_in": "model.layers.9.output", "hf_hook_point_out": "model.layers.9.output", "width": D_SAE,
    "model_name": "google/gemma-3-270m-pt", "architecture": "jump_relu", "l0": 60, "affine_connection": False,
    "type": "sae",
}  # fmt: skip


IN_AND_OUT = ("hf_hook_point_in", "hf_hook_point_out")


def npz(folder: Path, name: str = "params.npz", weights: dict[str, Tensor] = WEIGHTS) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    np.savez(folder / name, **{key: weight.numpy() for key, weight in weights.items()})
    return folder


def load(path: Path, **options: Any) -> SparseAutoencoder:
    return load_sae(str(path), model_id="tiny", **options)


def latents(resid: Tensor) -> Tensor:
    pre = hidden(resid, subtracts=False)
    return pre * (pre > THRESHOLD)


def check(sae: SparseAutoencoder, resid: Tensor) -> None:
    torch.testing.assert_close(sae.encode(resid), latents(resid), rtol=1e-5, atol=1e-4)
    assert torch.equal(sae.decoder_rows(torch.arange(D_SAE)), W_DEC)


# --- Gemma Scope -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("repository", "model"),
    [
        ("google/gemma-scope-2b-pt-res", "gemma-2-2b"),
        ("models--google--gemma-scope-9b-it-res/snapshots/0123", "gemma-2-9b-it"),
        ("mine", UNKNOWN_MODEL),
    ],
)
def test_the_path_tells_model_and_block(tmp_path: Path, resid: Tensor, repository: str, model: str) -> None:
    sae = load(npz(tmp_path / repository / CANONICAL))
    check(sae, resid)
    assert (sae.hook_point, sae.model_name) == (HookPoint(20), model)


def test_latents_are_those_of_sae_lens(lens: Any, hub: Path, resid: Tensor) -> None:
    folder = npz(hub / "google/gemma-scope-2b-pt-res" / CANONICAL)
    loader = lens.loading.pretrained_sae_loaders.gemma_2_sae_huggingface_loader
    config, weights, _ = loader("google/gemma-scope-2b-pt-res", CANONICAL, "cpu", False, {"d_in": D_MODEL})
    assert config["apply_b_dec_to_input"] is False
    theirs = lens.saes.jumprelu_sae.JumpReLUSAE(
        lens.JumpReLUSAEConfig(D_MODEL, D_SAE, apply_b_dec_to_input=False)
    )
    theirs.load_state_dict(weights)
    torch.testing.assert_close(load(folder).encode(resid), theirs.encode(resid), rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("name", ["params.npz", "block20.npz"])
def test_a_file_is_an_sae_too(tmp_path: Path, resid: Tensor, name: str) -> None:
    check(load(npz(tmp_path, name) / name, layer=20), resid)


def test_without_a_block_it_is_asked_for(tmp_path: Path) -> None:
    with pytest.raises(SAEError, match="name it with --layers"):
        load(npz(tmp_path / "mine"))


@pytest.mark.parametrize(
    "path",
    ["gemma-scope-2b-pt-mlp/layer_2", "gemma-scope-2b-pt-att/layer_2",
     "gemma-scope-2b-pt-transcoders/layer_2",
     "gemma-scope-2b-pt-res/embedding/width_4k"],
)  # fmt: skip
def test_another_place_is_refused(tmp_path: Path, path: str) -> None:
    with pytest.raises(SAEError, match="not of the residual stream"):
        load(npz(tmp_path / path))


def test_the_widths_of_one_block_are_asked_for_by_name(tmp_path: Path) -> None:
    for path in (CANONICAL, "layer_20/width_65k/average_l0_61", "layer_5/width_16k/average_l0_68"):
        npz(tmp_path / path)
    assert list(family_of(str(tmp_path), model_id="m")) == [5, 20]
    assert load(tmp_path, layer=5).hook_point == HookPoint(5)
    with pytest.raises(SAEError, match="2 SAEs are in .* for block 20; name one"):
        load(tmp_path)


def test_objects_in_an_archive_are_not_executed(tmp_path: Path) -> None:
    np.savez(tmp_path / "params.npz", W_enc=np.array([{}], dtype=object))
    with pytest.raises(SAEError, match=r"cannot read the SAE \(params.npz: Object arrays cannot be loaded"):
        load(tmp_path, layer=2)


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04", b"x" * 99])
def test_a_damaged_archive_is_named(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "params.npz").write_bytes(content)
    with pytest.raises(SAEError, match=r"cannot read the SAE \(params.npz: "):
        load(tmp_path, layer=2)


def test_a_tensor_that_is_absent_is_named(tmp_path: Path) -> None:
    weights = {name: weight for name, weight in WEIGHTS.items() if name != "threshold"}
    with pytest.raises(SAEError, match="no threshold in it; not an SAE of Gemma Scope"):
        load(npz(tmp_path, weights=weights), layer=2)


# --- Gemma Scope 2 -----------------------------------------------------------------------------


def second(folder: Path, **changes: Any) -> Path:
    return write(folder, {"config.json": {**SECOND, **changes}, "params.safetensors": SMALL})


def test_the_second_tells_its_own(tmp_path: Path, resid: Tensor) -> None:
    sae = load(second(tmp_path))
    check(sae, resid)
    assert (sae.hook_point, sae.model_name) == (HookPoint(9), "google/gemma-3-270m")


def test_latents_of_the_second_are_those_of_sae_lens(
    lens: Any, hub: Path, resid: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = "resid_post/layer_9_width_16k_l0_small"
    folder = second(hub / "google/gemma-scope-2-270m-pt" / name)
    loaders = lens.loading.pretrained_sae_loaders
    shapes = {name: list(weight.shape) for name, weight in SMALL.items()}
    monkeypatch.setattr(loaders, "get_safetensors_tensor_shapes", lambda *_: shapes)
    theirs = lens.SAE.from_pretrained(
        "google/gemma-scope-2-270m-pt", name, converter=loaders.gemma_3_sae_huggingface_loader
    )
    sae = load(folder)
    torch.testing.assert_close(sae.encode(resid), theirs.encode(resid), rtol=1e-5, atol=1e-4)
    assert (str(sae.hook_point), sae.model_name) == (
        theirs.cfg.metadata.hook_name,
        theirs.cfg.metadata.model_name,
    )


def test_the_second_without_its_configuration_goes_by_its_path(tmp_path: Path) -> None:
    folder = second(tmp_path / "resid_post" / "layer_9_width_16k_l0_small")
    (folder / "config.json").unlink()
    assert load(folder).hook_point == HookPoint(9)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"hf_hook_point_in": "model.layers.9.pre_feedforward_layernorm.output"}, "a transcoder of"),
        ({"affine_connection": True}, "a transcoder of"),
        (dict.fromkeys(IN_AND_OUT, "model.layers.9.post_feedforward_layernorm.output"),
         "post_feedforward_layernorm.output' is not a residual hook point"),
        (dict.fromkeys(IN_AND_OUT, "model.layers.9.self_attn.o_proj.input"),
         "self_attn.o_proj.input' is not a residual hook point"),
        ({"architecture": "topk"}, "architecture 'topk' of Gemma Scope is not known; jump_relu is"),
    ],
)  # fmt: skip
def test_of_the_second_what_cannot_be_used_is_named(
    tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(SAEError, match=message):
        load(second(tmp_path, **changes))


def test_a_damaged_configuration_is_named(tmp_path: Path) -> None:
    (second(tmp_path) / "config.json").write_text(json.dumps([1]))
    with pytest.raises(SAEError, match=r"cannot read the SAE \(config.json: no JSON object\)"):
        load(tmp_path)
