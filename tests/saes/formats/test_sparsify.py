"""Folders of EleutherAI's sparsify: latents by formulas, found to be those of eai-sparsify 1.3.3."""

from pathlib import Path
from typing import Any

import pytest
import torch
from support.saes import B_DEC, B_ENC, D_SAE, W_DEC, W_ENC, K, hidden, random, top, write
from support.tiny import D_MODEL
from torch import Tensor

from neurosteer_cli.errors import SAEError
from neurosteer_cli.models.hooks import RESID_PRE, HookPoint
from neurosteer_cli.saes.load import family_of, load_sae
from neurosteer_cli.saes.sae import UNKNOWN_MODEL, SparseAutoencoder

pytestmark = pytest.mark.usefixtures("quietly_without_gradients")

CONFIG = {
    "activation": "topk", "expansion_factor": 32, "normalize_decoder": True, "num_latents": D_SAE, "k": K,
    "multi_topk": False, "skip_connection": False, "transcode": False, "d_in": D_MODEL,
}  # fmt: skip
WEIGHTS = {"encoder.weight": W_ENC.T, "encoder.bias": B_ENC, "W_dec": W_DEC, "b_dec": B_DEC}


def saved(folder: Path, weights: dict[str, Tensor] = WEIGHTS, **changes: Any) -> Path:
    return write(folder, {"cfg.json": {**CONFIG, **changes}, "sae.safetensors": weights})


def load(folder: Path, **options: Any) -> SparseAutoencoder:
    return load_sae(str(folder), model_id="tiny", **options)


@pytest.mark.parametrize("normalized", [True, False])
def test_b_dec_is_subtracted_whatever_was_normalized(tmp_path: Path, resid: Tensor, normalized: bool) -> None:
    sae = load(saved(tmp_path / "layers.2", normalize_decoder=normalized))
    expected = top(hidden(resid, subtracts=True))
    torch.testing.assert_close(sae.encode(resid), expected, rtol=1e-5, atol=1e-4)
    assert torch.equal(sae.decoder_rows(torch.arange(D_SAE)), W_DEC)
    assert (sae.hook_point, sae.k, sae.model_name) == (HookPoint(2), K, UNKNOWN_MODEL)


def test_half_precision_computes_in_float32(tmp_path: Path, resid: Tensor) -> None:
    half = {name: weight.half() for name, weight in WEIGHTS.items()}
    sae = load(saved(tmp_path / "h.2", half))
    wide = {name: weight.float() for name, weight in half.items()}
    pre = (resid - wide["b_dec"]) @ wide["encoder.weight"].T + wide["encoder.bias"]
    torch.testing.assert_close(sae.encode(resid), top(pre), rtol=1e-5, atol=1e-4)


def test_the_trainings_configuration_around_it_names_the_model(tmp_path: Path) -> None:
    write(tmp_path, {"config.json": {"model": "HuggingFaceTB/SmolLM2-135M", "hook_mode": "output"}})
    for folder in (tmp_path / "layers.2", tmp_path / "layers.2" / "seed0"):
        sae = load(saved(folder))
        assert (sae.model_name, sae.hook_point) == ("HuggingFaceTB/SmolLM2-135M", HookPoint(2))


def test_one_of_what_enters_a_block(tmp_path: Path) -> None:
    write(tmp_path, {"config.json": {"model": "m", "hook_mode": "input"}})
    assert load(saved(tmp_path / "layers.2")).hook_point == HookPoint(2, RESID_PRE)


def test_a_run_of_transcoders_is_refused(tmp_path: Path) -> None:
    write(tmp_path, {"config.json": {"model": "m", "hook_mode": "transcode"}})
    with pytest.raises(SAEError, match="a transcoder of sparsify"):
        load(saved(tmp_path / "layers.2"))


def test_of_a_run_those_of_the_residual_stream_are_the_family(tmp_path: Path) -> None:
    for name in ("layers.2", "layers.10", "layers.3.mlp", "embed_tokens"):
        saved(tmp_path / name)
    assert family_of(str(tmp_path), model_id="tiny") == {
        2: [tmp_path / "layers.2"],
        10: [tmp_path / "layers.10"],
    }
    assert load(tmp_path, layer=2).hook_point == HookPoint(2)


@pytest.mark.parametrize("name", ["layers.3.mlp", "layers.3.self_attn", "layers.3.post_norm", "embed_tokens"])
def test_a_place_other_than_the_residual_stream_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(SAEError, match=f"'{name}' is not a residual hook point"):
        load(saved(tmp_path / name))


def test_a_folder_of_another_name_is_told_its_block(tmp_path: Path) -> None:
    folder = saved(tmp_path / "mine")
    with pytest.raises(SAEError, match="nothing in it says which block it belongs to; name it with --layers"):
        load(folder)
    assert load(folder, layer=3).hook_point == HookPoint(3)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"transcode": True}, "a transcoder of sparsify"),
        ({"skip_connection": True}, "a transcoder of sparsify"),
        ({"activation": "groupmax"}, "sparsify's activation 'groupmax' is not supported; topk is"),
        ({"signed": True}, "sparsify's activation 'signed topk' is not supported"),
        ({"k": 0}, "k=0, but it has 48 latents"),
    ],
)
def test_what_cannot_be_used_is_named(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(SAEError, match=message):
        load(saved(tmp_path / "layers.2", **changes))


@pytest.mark.parametrize("name", WEIGHTS)
def test_a_tensor_that_is_absent_is_named(tmp_path: Path, name: str) -> None:
    weights = {key: weight for key, weight in WEIGHTS.items() if key != name}
    with pytest.raises(SAEError, match=f"no '{name}' in it; not an SAE as sparsify saves it"):
        load(saved(tmp_path / "layers.2", weights))


def test_a_decoder_the_other_way_round_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SAEError, match=r"W_enc has shape \(48, 16\), expected \(16, 48\)"):
        load(saved(tmp_path / "layers.2", {**WEIGHTS, "encoder.weight": random(D_MODEL, D_SAE)}))
