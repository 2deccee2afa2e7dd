"""Folders of sae-lens 1 to 5: latents by formulas, found to be those of 1.3, 2.1, 3.22 and 5.11."""

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from support.saes import B_DEC, B_ENC, D_SAE, THRESHOLD, W_DEC, W_ENC, K, hidden, random, top, write
from support.tiny import D_MODEL
from torch import Tensor

from neurosteer_cli.errors import SAEError
from neurosteer_cli.models.hooks import RESID_PRE, HookPoint
from neurosteer_cli.saes.load import load_sae
from neurosteer_cli.saes.sae import SparseAutoencoder

pytestmark = pytest.mark.usefixtures("quietly_without_gradients")

# As 3.22 and 5.11 wrote it; 1.3 and 2.1 wrote some sixty entries of the training in place of these.
FLAT = {
    "architecture": "standard", "d_in": D_MODEL, "d_sae": D_SAE, "dtype": "float32", "device": "cpu",
    "model_name": "tiny", "hook_name": "blocks.2.hook_resid_post", "hook_layer": 2, "hook_head_index": None,
    "activation_fn_str": "relu", "activation_fn_kwargs": {}, "apply_b_dec_to_input": True,
    "finetuning_scaling_factor": False, "sae_lens_training_version": "5.11.0", "prepend_bos": True,
    "dataset_path": "x", "dataset_trust_remote_code": True, "context_size": 128,
    "normalize_activations": "none", "neuronpedia_id": None, "model_from_pretrained_kwargs": {},
}  # fmt: skip
OLDEST = {
    "model_name": "gpt2", "hook_point": "blocks.2.hook_resid_pre", "hook_point_layer": 2,
    "hook_point_head_index": None, "d_in": D_MODEL, "d_sae": D_SAE, "expansion_factor": 3,
    "activation_fn": "relu", "apply_b_dec_to_input": True, "dtype": "torch.float32", "device": "cpu",
    "model_kwargs": {}, "sae_lens_version": "1.3.0", "sae_lens_training_version": "1.3.0",
}  # fmt: skip
TOPK = {"activation_fn_str": "topk", "activation_fn_kwargs": {"k": K}}
PLAIN = {"W_enc": W_ENC, "b_enc": B_ENC, "W_dec": W_DEC, "b_dec": B_DEC}
GATED = {"W_enc": W_ENC, "W_dec": W_DEC, "b_dec": B_DEC} | {
    name: random(D_SAE, seed=seed) for seed, name in enumerate(("b_gate", "b_mag", "r_mag"))
}


def saved(folder: Path, config: dict[str, Any], weights: dict[str, Tensor] = PLAIN) -> SparseAutoencoder:
    write(folder, {"cfg.json": config, "sae_weights.safetensors": weights})
    return load_sae(str(folder), model_id="tiny")


def near(found: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-4)
    assert 0.02 < float((expected > 0).float().mean()) < 0.9


@pytest.mark.parametrize("subtracts", [True, False])
@pytest.mark.parametrize("architecture", ["standard", None])
def test_a_standard_one(tmp_path: Path, resid: Tensor, architecture: str | None, subtracts: bool) -> None:
    config = {**FLAT, "architecture": architecture, "apply_b_dec_to_input": subtracts}
    sae = saved(tmp_path, {key: value for key, value in config.items() if key != "architecture" or value})
    near(sae.encode(resid), hidden(resid, subtracts=subtracts).relu())
    assert (sae.architecture, sae.hook_point, sae.model_name) == ("standard", HookPoint(2), "tiny")
    assert torch.equal(sae.decoder_rows(torch.arange(D_SAE)), W_DEC)


@pytest.mark.parametrize("architecture", ["standard", "topk"])
def test_a_topk_one_is_told_by_its_activation(tmp_path: Path, resid: Tensor, architecture: str) -> None:
    sae = saved(tmp_path, {**FLAT, **TOPK, "architecture": architecture})
    near(sae.encode(resid), top(hidden(resid, subtracts=True)))
    assert (sae.architecture, sae.k) == ("topk", K)


def test_a_jumprelu_one(tmp_path: Path, resid: Tensor) -> None:
    sae = saved(tmp_path, {**FLAT, "architecture": "jumprelu"}, {**PLAIN, "threshold": THRESHOLD})
    pre = hidden(resid, subtracts=True)
    near(sae.encode(resid), pre * (pre > THRESHOLD))


def test_a_gated_one(tmp_path: Path, resid: Tensor) -> None:
    sae = saved(tmp_path, {**FLAT, "architecture": "gated"}, GATED)
    pre = (resid - B_DEC) @ W_ENC
    magnitude = (pre * GATED["r_mag"].exp() + GATED["b_mag"]).relu()
    near(sae.encode(resid), magnitude * (pre + GATED["b_gate"] > 0))


def test_bfloat16_weights_compute_in_float32(tmp_path: Path, resid: Tensor) -> None:
    half = {name: weight.bfloat16() for name, weight in PLAIN.items()}
    sae = saved(tmp_path, {**FLAT, "dtype": "bfloat16"}, half)
    wide = {name: weight.float() for name, weight in half.items()}
    near(sae.encode(resid), ((resid - wide["b_dec"]) @ wide["W_enc"] + wide["b_enc"]).relu())


def test_one_of_version_1_reads_centred_residuals_of_a_model_with_layer_norm(
    tmp_path: Path, resid: Tensor
) -> None:
    sae = saved(tmp_path, OLDEST)
    assert sae.hook_point == HookPoint(2, RESID_PRE)
    near(sae.encode(resid), hidden(resid - resid.mean(-1, keepdim=True), subtracts=True).relu())
    plain = sae.for_model(device=torch.device("cpu"), uses_layer_norm=False)
    near(plain.encode(resid), hidden(resid, subtracts=True).relu())


CENTRED, NOT_CENTRED = ({"center_writing_weights": choice} for choice in (True, False))


@pytest.mark.parametrize(
    ("changes", "centred"),
    [
        ({"sae_lens_training_version": "2.1.3"}, True),
        ({"sae_lens_training_version": "3.19.4"}, True),
        ({"sae_lens_training_version": "3.20.0"}, False),
        ({"sae_lens_training_version": None}, False),
        ({"sae_lens_training_version": "3.22.2", "model_from_pretrained_kwargs": CENTRED}, True),
        ({"sae_lens_training_version": "2.1.3", "model_from_pretrained_kwargs": NOT_CENTRED}, False),
        ({"sae_lens_training_version": None, "hook_name": None, "hook_point": "blocks.2.hook_resid_pre"},
         True),
    ],
)  # fmt: skip
def test_whether_residuals_were_centred_goes_by_what_the_version_did(
    tmp_path: Path, changes: dict[str, Any], centred: bool
) -> None:
    assert saved(tmp_path, {**FLAT, **changes}).centred is centred


@pytest.mark.parametrize("name", ["model.layers.2", "transformer.h.2.output"])
def test_a_hook_point_by_its_module(tmp_path: Path, name: str) -> None:
    assert saved(tmp_path, {**FLAT, "hook_name": name}).hook_point == HookPoint(2)


def test_an_activation_without_arguments(tmp_path: Path, resid: Tensor) -> None:
    sae = saved(tmp_path, {**FLAT, "activation_fn_kwargs": None})
    near(sae.encode(resid), hidden(resid, subtracts=True).relu())


def test_a_scaling_factor_of_ones_is_none(tmp_path: Path, resid: Tensor) -> None:
    sae = saved(tmp_path, FLAT, {**PLAIN, "scaling_factor": torch.ones(D_SAE)})
    near(sae.encode(resid), hidden(resid, subtracts=True).relu())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"activation_fn_str": "tanh-relu"}, "activation 'tanh-relu' of architecture 'standard' is not"),
        ({**TOPK, "architecture": "gated"}, "activation 'topk' of architecture 'gated' is not supported"),
        ({"activation_fn_str": "topk"}, "its configuration does not say 'k', how many latents fire"),
        ({"architecture": "topk", "activation_fn_kwargs": None}, "does not say 'k', how many latents fire"),
        ({"hook_head_index": 3}, "reads one attention head, not the residual stream"),
        ({"hook_name": "blocks.2.attn.hook_z"}, r"reads attention heads \(hook_z\)"),
        ({"hook_name": "blocks.2.hook_mlp_out"}, "'blocks.2.hook_mlp_out' is not a residual hook point"),
        ({"normalize_activations": "expected_average_only_in"}, "has not been folded into the weights"),
        ({"normalize_activations": True}, "has not been folded into the weights"),
        ({"architecture": "temporal"}, "architecture 'temporal' is not supported"),
        ({"architecture": "own"}, "architecture 'own' is not supported"),
    ],
)  # fmt: skip
def test_what_cannot_be_used_is_named(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(SAEError, match=message):
        saved(tmp_path, {**FLAT, **changes})


def test_latents_that_finetuning_scaled_are_refused(tmp_path: Path) -> None:
    with pytest.raises(SAEError, match=r"scaled by finetuning \(scaling_factor\)"):
        saved(tmp_path, FLAT, {**PLAIN, "scaling_factor": 2 * torch.ones(D_SAE)})


def test_the_way_out_of_an_unfinished_training_is_one(lens: Any, tmp_path: Path, resid: Tensor) -> None:
    metadata = lens.saes.sae.SAEMetadata(model_name="tiny", hook_name="blocks.2.hook_resid_post")
    config = lens.BatchTopKTrainingSAEConfig(d_in=D_MODEL, d_sae=D_SAE, k=K, metadata=metadata)
    training = lens.BatchTopKTrainingSAE(config)
    training.topk_threshold += 1.0
    training.save_model(tmp_path / "old")
    with pytest.raises(SAEError, match="is that of an unfinished training") as caught:
        load_sae(str(tmp_path / "old"), model_id="tiny")
    code = re.search(r'python -c "(.*)"', str(caught.value))
    assert code is not None
    exec(code[1].replace("'OLD'", repr(str(tmp_path / "old"))).replace("'NEW'", repr(str(tmp_path / "new"))))
    sae = load_sae(str(tmp_path / "new"), model_id="tiny")
    threshold = load_file(tmp_path / "new" / "sae_weights.safetensors")["threshold"]
    assert bool((threshold == 1.0).all())
    torch.testing.assert_close(sae.encode(resid), lens.SAE.load_from_disk(tmp_path / "new").encode(resid))
