"""What of sae-lens 6's entries and weights cannot be used, by name."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from support.tiny import save_tiny_sae

from neurosteer_cli.errors import SAEError
from neurosteer_cli.saes.formats.state import from_state
from neurosteer_cli.saes.load import load_sae
from neurosteer_cli.saes.sae import SparseAutoencoder

D_SAE = 64
HOOK = "blocks.2.hook_resid_post"


def ours(folder: Path) -> SparseAutoencoder:
    return load_sae(str(folder), model_id="tiny")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"architecture": "temporal"},
            "architecture 'temporal' is not supported; standard, topk, jumprelu, gated are$",
        ),
        (
            {"normalize_activations": "expected_average_only_in"},
            "normalize_activations='expected_average_only_in' has not been folded into the "
            "weights, and the factor for it is not in the file; "
            "save it again with sae-lens after folding$",
        ),
        (
            {"normalize_activations": "covariance_whitening"},
            "normalize_activations='covariance_whitening' has not been folded into the weights",
        ),
        ({"reshape_activations": "hook_z"}, r"reads attention heads \(hook_z\), not the residual stream$"),
        (
            {"metadata": {"model_name": "tiny", "hook_name": "blocks.2.hook_mlp_out"}},
            "'blocks.2.hook_mlp_out' is not a residual hook point; "
            "use blocks.L.hook_resid_post or blocks.L.hook_resid_pre$",
        ),
    ],
)
def test_what_cannot_be_used_is_named(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(SAEError, match=f"^SAE '{tmp_path}':? {message}"):
        ours(save_tiny_sae(tmp_path, **changes))


@pytest.mark.parametrize(
    "fact",
    ["architecture", "normalize_activations", "metadata", "d_in", "d_sae", "k", "apply_b_dec_to_input"],
)
def test_a_fact_that_is_absent_is_named_and_not_guessed(tmp_path: Path, fact: str) -> None:
    save_tiny_sae(tmp_path)
    config = json.loads((tmp_path / "cfg.json").read_text())
    del config[fact]
    (tmp_path / "cfg.json").write_text(json.dumps(config))
    message = f"its configuration does not say '{fact}'; save it again with sae-lens 6$"
    with pytest.raises(SAEError, match=message):
        ours(tmp_path)


@pytest.mark.parametrize("fact", ["hook_name", "model_name"])
def test_a_fact_that_is_absent_from_the_metadata_is_named(tmp_path: Path, fact: str) -> None:
    metadata = {"hook_name": HOOK, "model_name": "tiny", fact: None}
    with pytest.raises(SAEError, match=f"its configuration does not say '{fact}'"):
        ours(save_tiny_sae(tmp_path, metadata=metadata))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"d_sae": 32}, r"W_enc has shape \(16, 64\), expected \(16, 32\)$"),
        ({"d_in": 8}, r"W_enc has shape \(16, 64\), expected \(8, 64\)$"),
        ({"architecture": "jumprelu"}, r"threshold has shape None, expected \(64,\)$"),
        ({"architecture": "gated"}, r"b_gate has shape None, expected \(64,\)$"),
    ],
)
def test_weights_that_do_not_fit_the_configuration_are_refused(
    tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    folder = save_tiny_sae(tmp_path)
    config = {**json.loads((folder / "cfg.json").read_text()), **changes}
    (folder / "cfg.json").write_text(json.dumps(config))
    with pytest.raises(SAEError, match=message):
        ours(folder)


def test_tensors_that_no_encoder_uses_are_left_out(tiny_sae_folder: Path) -> None:
    config = json.loads((tiny_sae_folder / "cfg.json").read_text())
    weights = load_file(tiny_sae_folder / "sae_weights.safetensors")
    sae = from_state("sae", config, {**weights, "scaling_factor": torch.ones(D_SAE)})
    assert set(sae.weights) == {"W_enc", "b_enc", "W_dec", "b_dec"}


def test_a_transposed_weight_is_refused(tmp_path: Path) -> None:
    path = save_tiny_sae(tmp_path) / "sae_weights.safetensors"
    weights = load_file(path)
    save_file({**weights, "W_dec": weights["W_dec"].T.contiguous()}, path)
    with pytest.raises(SAEError, match=r"W_dec has shape \(16, 64\), expected \(64, 16\)$"):
        ours(tmp_path)


@pytest.mark.parametrize("name", ["cfg.json", "sae_weights.safetensors"])
def test_a_folder_without_one_of_its_files_is_refused(tmp_path: Path, name: str) -> None:
    (save_tiny_sae(tmp_path) / name).unlink()
    message = f"^{tmp_path}: no {name}; not a whole SAE$"
    with pytest.raises(SAEError, match=message):
        ours(tmp_path)


@pytest.mark.parametrize("name", ["cfg.json", "sae_weights.safetensors"])
@pytest.mark.parametrize("content", [b"", b"[]", b'"x"', b"\xff\xfe\x00", b'{"metadata": 3}'])
def test_damaged_files_are_refused(tmp_path: Path, name: str, content: bytes) -> None:
    (save_tiny_sae(tmp_path) / name).write_bytes(content)
    with pytest.raises(SAEError, match=f"{tmp_path}"):
        ours(tmp_path)


def test_metadata_that_is_no_object_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SAEError, match="metadata"):
        ours(save_tiny_sae(tmp_path, metadata="blocks.2"))


@pytest.mark.parametrize("architecture", ["batchtopk", "matryoshka_batchtopk"])
def test_an_unfinished_training_is_told_how_to_become_an_sae(tmp_path: Path, architecture: str) -> None:
    message = rf"architecture '{architecture}' is that of an unfinished .*save_inference_model\('NEW'\)"
    with pytest.raises(SAEError, match=message):
        ours(save_tiny_sae(tmp_path, architecture=architecture))


@pytest.mark.parametrize("name", ["W_enc", "W_dec", "b_enc", "b_dec"])
@pytest.mark.parametrize("number", [float("nan"), float("inf")])
def test_weights_that_are_not_numbers_are_named(tmp_path: Path, name: str, number: float) -> None:
    path = save_tiny_sae(tmp_path) / "sae_weights.safetensors"
    weights = load_file(path)
    weights[name].view(-1)[3] = number
    save_file(weights, path)
    message = rf"1 of {weights[name].numel()} numbers of {name} are NaN or infinite; its file is damaged"
    with pytest.raises(SAEError, match=message):
        ours(tmp_path)


def test_a_latent_that_an_infinite_threshold_has_switched_off_never_fires(tmp_path: Path) -> None:
    path = save_tiny_sae(tmp_path, architecture="jumprelu") / "sae_weights.safetensors"
    threshold = torch.zeros(D_SAE)
    threshold[5] = float("inf")
    save_file({**load_file(path), "threshold": threshold}, path)
    fired = (ours(tmp_path).encode(torch.randn(400, 16)) > 0).any(0)
    assert not fired[5] and int(fired.sum()) == D_SAE - 1
