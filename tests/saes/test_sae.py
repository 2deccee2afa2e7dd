"""SAEs: our reading of them against sae-lens's own, and what is refused."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from support.tiny import D_MODEL, D_VOCAB, N_LAYERS, save_tiny_sae, tiny_model
from torch import Tensor

from neurosteer_cli.models.architectures.decoder import text_blocks
from neurosteer_cli.models.hooks import RESID_PRE, HookPoint, capture
from neurosteer_cli.saes.load import load_sae
from neurosteer_cli.saes.sae import SparseAutoencoder

pytestmark = pytest.mark.usefixtures("quietly_without_gradients")

D_SAE = 64
HOOK = "blocks.2.hook_resid_post"
CENTRED = {"model_from_pretrained_kwargs": {"center_writing_weights": True}}
ARCHITECTURES: dict[str, dict[str, Any]] = {
    "standard": {"architecture": "standard"},
    "gated": {"architecture": "gated"},
    "jumprelu": {"architecture": "jumprelu"},
    "topk": {"architecture": "topk", "k": 5, "rescale_acts_by_decoder_norm": False},
    "topk rescaled": {"architecture": "topk", "k": 5, "rescale_acts_by_decoder_norm": True},
    "topk of nearly all": {"architecture": "topk", "k": 60},  # negative ones among them
}
NORMALIZATIONS = ["none", "constant_norm_rescale", "layer_norm"]


def fill(sae: Any, seed: int = 12) -> Any:
    """Give a sae-lens SAE random weights: no bias is zero, no decoder row of unit length."""
    generator = torch.Generator().manual_seed(seed)
    for name, weight in sae.named_parameters():
        drawn = 0.4 * torch.randn(weight.shape, generator=generator)
        weight.data.copy_(drawn.abs() if name == "threshold" else drawn)
    return sae


def of_lens(lens: Any, metadata: dict[str, Any] | None = None, **facts: Any) -> Any:
    """A sae-lens SAE with random weights."""
    config = {
        "d_in": D_MODEL, "d_sae": D_SAE, "dtype": "float32", "device": "cpu",
        "apply_b_dec_to_input": True, "normalize_activations": "none",
        "metadata": {"model_name": "tiny", "hook_name": HOOK, **(metadata or {})}, **facts,
    }  # fmt: skip
    return fill(lens.SAE.from_dict(config))


def ours(folder: Path) -> SparseAutoencoder:
    return load_sae(str(folder), model_id="tiny")


def assert_near(found: Tensor, expected: Tensor, tolerance: float = 1e-5) -> None:
    torch.testing.assert_close(found, expected, rtol=tolerance, atol=tolerance)


# --- encoding and decoding ---------------------------------------------------------------------


@pytest.fixture(params=NORMALIZATIONS)
def normalization(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(params=[True, False], ids=["b_dec subtracted", "b_dec kept"])
def pair(
    request: pytest.FixtureRequest, lens: Any, tmp_path: Path, architecture: str, normalization: str
) -> tuple[Any, SparseAutoencoder]:
    """An SAE of sae-lens's, and ours read from where sae-lens saved it."""
    theirs = of_lens(
        lens,
        **ARCHITECTURES[architecture],
        apply_b_dec_to_input=request.param,
        normalize_activations=normalization,
    )
    theirs.save_model(tmp_path)
    return theirs, ours(tmp_path)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_activations_are_those_of_sae_lens(pair: tuple[Any, SparseAutoencoder], resid: Tensor) -> None:
    theirs, sae = pair
    expected = theirs.encode(resid)
    assert_near(sae.encode(resid), expected)
    firing = (expected > 0).float().mean()
    assert 0.02 < float(firing) < 0.98


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_decoded_activations_in_raw_units_are_the_reconstruction_of_sae_lens(
    pair: tuple[Any, SparseAutoencoder], resid: Tensor, normalization: str
) -> None:
    theirs, sae = pair
    reconstruction = theirs.decode(theirs.encode(resid))
    scale = sae.raw_scale(resid)
    bias = scale * theirs.b_dec  # what is left when no latent fires
    if normalization == "layer_norm":
        bias = bias + resid.mean(-1, keepdim=True)
    decoded = (sae.encode(resid) * scale) @ sae.decoder_rows(torch.arange(D_SAE))
    assert_near(decoded + bias, reconstruction, 1e-4)


def test_without_normalization_activations_are_in_raw_units_already(
    tiny_sae_folder: Path, resid: Tensor
) -> None:
    assert ours(tiny_sae_folder).raw_scale(resid) == 1.0


def test_the_raw_scale_is_a_number_a_token(tmp_path: Path, resid: Tensor) -> None:
    rescaled = ours(save_tiny_sae(tmp_path / "c", normalize_activations="constant_norm_rescale"))
    layered = ours(save_tiny_sae(tmp_path / "l", normalize_activations="layer_norm"))
    assert_near(rescaled.raw_scale(resid), resid.square().mean(-1, keepdim=True).sqrt())
    assert_near(layered.raw_scale(resid), resid.std(-1, keepdim=True) + 1e-5)


def test_encoding_leaves_the_residual_as_it_was(tiny_sae_folder: Path, resid: Tensor) -> None:
    before = resid.clone()
    ours(tiny_sae_folder).encode(resid)
    assert torch.equal(resid, before)


def test_a_batchtopk_sae_saved_for_inference_is_read_as_sae_lens_reads_it(
    lens: Any, tmp_path: Path, resid: Tensor
) -> None:
    metadata = lens.saes.sae.SAEMetadata(model_name="tiny", hook_name=HOOK)
    config = lens.BatchTopKTrainingSAEConfig(d_in=D_MODEL, d_sae=D_SAE, k=6, metadata=metadata)
    training = fill(lens.BatchTopKTrainingSAE(config))
    training.topk_threshold += 4.0
    training.save_inference_model(tmp_path)
    sae = ours(tmp_path)
    assert sae.architecture == "jumprelu"
    found = sae.encode(resid)
    assert_near(found, lens.SAE.load_from_disk(tmp_path).encode(resid))
    # by hand: pre-activations in units of normalised decoder rows, those of at most 4 dropped
    hidden = (resid - training.b_dec) @ training.W_enc + training.b_enc
    hidden = hidden * training.W_dec.norm(dim=-1)
    assert_near(found, hidden * (hidden > 4.0))


def test_a_topk_sae_saved_for_inference_is_read_as_sae_lens_reads_it(
    lens: Any, tmp_path: Path, resid: Tensor
) -> None:
    metadata = lens.saes.sae.SAEMetadata(model_name="tiny", hook_name=HOOK)
    config = lens.TopKTrainingSAEConfig(d_in=D_MODEL, d_sae=D_SAE, k=6, metadata=metadata)
    training = fill(lens.TopKTrainingSAE(config))
    training.save_inference_model(tmp_path)
    sae = ours(tmp_path)
    assert (sae.architecture, sae.k) == ("topk", 6)
    assert_near(sae.encode(resid), training.encode(resid))
    assert bool(((sae.encode(resid) > 0).sum(-1) <= 6).all())


def test_weights_saved_in_half_precision_compute_in_float32(lens: Any, tmp_path: Path, resid: Tensor) -> None:
    theirs = of_lens(lens, architecture="standard").to(dtype=torch.bfloat16)
    theirs.save_model(tmp_path)
    sae = ours(tmp_path)
    kept = {name: weight.dtype for name, weight in sae.weights.items() if weight.dtype != torch.float32}
    assert kept == {"W_dec": torch.bfloat16}  # read a few rows at a time
    wide = theirs.to(dtype=torch.float32)
    assert torch.equal(sae.decoder_rows(torch.arange(D_SAE)), wide.W_dec)
    torch.testing.assert_close(sae.decoder_norms, wide.W_dec.norm(dim=-1))
    assert_near(sae.encode(resid), wide.encode(resid))


def test_the_facts_of_a_folder_saved_by_sae_lens_are_kept(lens: Any, tmp_path: Path) -> None:
    metadata = {"neuronpedia_id": "tiny/2-res", **CENTRED}
    of_lens(lens, metadata, **ARCHITECTURES["topk"]).save_model(tmp_path)
    sae = ours(tmp_path)
    assert (sae.d_model, sae.d_sae, sae.k) == (D_MODEL, D_SAE, 5)
    assert (sae.hook_point, sae.model_name) == (HookPoint(2), "tiny")
    assert (sae.neuronpedia_id, sae.centred, sae.apply_b_dec_to_input) == ("tiny/2-res", True, True)
    assert sae.sae_id == str(tmp_path.resolve())
    assert len(sae.sha256) == 64


def test_the_hash_is_that_of_the_weights(tmp_path: Path) -> None:
    same = [ours(save_tiny_sae(tmp_path / name)).sha256 for name in ("a", "b")]
    other = ours(save_tiny_sae(tmp_path / "c", seed=1)).sha256
    assert same[0] == same[1] != other


def test_decoder_rows_are_those_of_the_latents_asked_for(tiny_sae_folder: Path) -> None:
    rows = load_file(tiny_sae_folder / "sae_weights.safetensors")["W_dec"]
    assert torch.equal(ours(tiny_sae_folder).decoder_rows(torch.tensor([9, 3])), rows[[9, 3]])


# --- centring ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def both_gpt2s(lens: Any) -> tuple[Any, Any, Tensor]:
    """A tiny GPT-2 with no zero bias, the same in TransformerLens as res-jb had it, and tokens."""
    from transformer_lens import HookedTransformer, HookedTransformerConfig
    from transformer_lens.pretrained.weight_conversions import convert_gpt2_weights

    assert lens
    hugging_face = tiny_model("gpt2")
    generator = torch.Generator().manual_seed(13)
    for parameter in hugging_face.parameters():
        if parameter.dim() == 1:
            parameter.data += torch.randn(parameter.shape, generator=generator)
    config = HookedTransformerConfig(
        n_layers=N_LAYERS, d_model=D_MODEL, n_ctx=128, d_head=D_MODEL // 2, n_heads=2, device="cpu",
        d_mlp=4 * D_MODEL, d_vocab=D_VOCAB, act_fn="gelu_new", normalization_type="LN",
    )  # fmt: skip
    transformer_lens = HookedTransformer(config)
    transformer_lens.load_and_process_state_dict(
        convert_gpt2_weights(hugging_face, config),
        fold_ln=False,
        center_writing_weights=True,
        center_unembed=False,
        fold_value_biases=False,
    )
    ids = torch.randint(D_VOCAB, (2, 11), generator=generator)
    return hugging_face, transformer_lens, ids


def both_residuals(both_gpt2s: tuple[Any, Any, Tensor], point: HookPoint) -> tuple[Tensor, Tensor]:
    """The residual of the same tokens in transformers and in TransformerLens."""
    hugging_face, transformer_lens, ids = both_gpt2s
    with capture(text_blocks(hugging_face), [point]) as seen:
        hugging_face(input_ids=ids, use_cache=False)
    _, cached = transformer_lens.run_with_cache(ids, names_filter=[str(point)])
    return seen[point], cached[str(point)]


@pytest.mark.parametrize("kind", ["hook_resid_pre", "hook_resid_post"])
@pytest.mark.parametrize("layer", range(N_LAYERS))
def test_the_residual_of_transformer_lens_is_that_of_hugging_face_less_its_mean(
    both_gpt2s: tuple[Any, Any, Tensor], layer: int, kind: str
) -> None:
    raw, centred = both_residuals(both_gpt2s, HookPoint(layer, kind))
    mean = raw.mean(-1, keepdim=True)
    size = float(raw.abs().max())
    assert float((raw - mean - centred).abs().max()) < 1e-5 * size
    assert float(mean.abs().max()) > 1e-2 * size  # there is something to take off


@pytest.mark.parametrize("architecture", ["standard", "topk", "jumprelu"])
@pytest.mark.parametrize("normalization", NORMALIZATIONS)
def test_a_centred_sae_encodes_hugging_face_residuals_as_sae_lens_does_those_of_transformer_lens(
    lens: Any, both_gpt2s: tuple[Any, Any, Tensor], tmp_path: Path, architecture: str, normalization: str
) -> None:
    raw, centred = both_residuals(both_gpt2s, HookPoint(2))
    theirs = of_lens(lens, CENTRED, **ARCHITECTURES[architecture], normalize_activations=normalization)
    theirs.save_model(tmp_path)
    sae = ours(tmp_path).for_model(device=torch.device("cpu"), uses_layer_norm=True)
    expected = theirs.encode(centred.flatten(0, 1))
    assert_near(sae.encode(raw.flatten(0, 1)), expected, 1e-4)
    assert not torch.allclose(theirs.encode(raw.flatten(0, 1)), expected, atol=0.1) or (
        normalization == "layer_norm"  # which takes the mean off anyway
    )


def test_the_raw_scale_of_a_centred_sae_is_that_of_the_centred_residual(
    tmp_path: Path, resid: Tensor
) -> None:
    folder = save_tiny_sae(tmp_path, normalize_activations="constant_norm_rescale")
    sae = replace(ours(folder), centred=True)
    centred = resid - resid.mean(-1, keepdim=True)
    assert_near(sae.raw_scale(resid), centred.norm(dim=-1, keepdim=True) / 4.0)  # 4 = 16 ** 0.5


def test_residuals_of_a_model_without_layer_norm_are_never_centred(tmp_path: Path, resid: Tensor) -> None:
    metadata = {"model_name": "tiny", "hook_name": HOOK}
    plain = ours(save_tiny_sae(tmp_path / "plain"))
    asks = ours(save_tiny_sae(tmp_path / "asks", metadata={**metadata, **CENTRED}))
    cpu = torch.device("cpu")
    assert asks.centred
    assert not plain.centred
    assert not plain.for_model(device=cpu, uses_layer_norm=True).centred
    rms = asks.for_model(device=cpu, uses_layer_norm=False)
    assert torch.equal(rms.encode(resid), plain.encode(resid))
    assert not torch.equal(asks.encode(resid), plain.encode(resid))


def random_weights(**shapes: tuple[int, ...]) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(14)
    return {
        name.replace("_DOT_", "."): 0.4 * torch.randn(shape, generator=generator)
        for name, shape in shapes.items()
    }


def test_a_gpt2_sae_of_the_registry_is_centred(
    lens: Any, hub: Path, both_gpt2s: tuple[Any, Any, Tensor]
) -> None:
    folder = hub / "jbloom/GPT2-Small-SAEs-Reformatted/blocks.6.hook_resid_pre"
    folder.mkdir(parents=True)
    config = {  # as the release has it, from before sae-lens 6
        "model_name": "gpt2-small", "hook_point": "blocks.6.hook_resid_pre", "hook_point_layer": 6,
        "hook_point_head_index": None, "d_in": D_MODEL, "d_sae": D_SAE, "context_size": 128,
        "dtype": "torch.float32", "device": "mps", "expansion_factor": 4,
    }  # fmt: skip
    (folder / "cfg.json").write_text(json.dumps(config))
    weights = random_weights(W_enc=(D_MODEL, D_SAE), b_enc=(D_SAE,), W_dec=(D_SAE, D_MODEL), b_dec=(D_MODEL,))
    save_file(weights, folder / "sae_weights.safetensors")
    save_file({"sparsity": torch.zeros(D_SAE)}, folder / "sparsity.safetensors")
    name = "gpt2-small-res-jb/blocks.6.hook_resid_pre"
    sae = load_sae(name, model_id="gpt2")
    assert (sae.sae_id, sae.architecture, sae.centred) == (name, "standard", True)
    assert (sae.hook_point, sae.model_name) == (HookPoint(6, RESID_PRE), "gpt2-small")
    assert (sae.apply_b_dec_to_input, sae.normalize_activations) == (True, "none")
    assert sae.neuronpedia_id == "gpt2-small/6-res-jb"
    assert sae.trained_on({"openai-community/gpt2"})
    raw, centred = (r.flatten(0, 1) for r in both_residuals(both_gpt2s, HookPoint(2, RESID_PRE)))
    theirs = lens.SAE.from_pretrained("gpt2-small-res-jb", "blocks.6.hook_resid_pre")
    assert_near(sae.encode(raw), theirs.encode(centred), 1e-4)
    by_hand = (centred - weights["b_dec"]) @ weights["W_enc"] + weights["b_enc"]
    assert_near(sae.encode(raw), by_hand.relu(), 1e-4)


# --- SAE and model -----------------------------------------------------------------------------


def test_a_model_of_another_name_is_not_the_one_it_was_trained_on(tiny_sae_folder: Path) -> None:
    assert not ours(tiny_sae_folder).trained_on({"other/model"})


@pytest.mark.parametrize(
    ("trained_on", "model"),
    [
        ("tiny", "/home/someone/models/tiny"),
        ("tiny", "/home/someone/models/Tiny/"),
        ("gpt2-small", "openai-community/gpt2"),
        ("gpt2-small", "gpt2"),
        ("gemma-2-2b", "google/gemma-2-2b"),
        ("meta-llama/Llama-3.1-8B", "meta-llama/Llama-3.1-8B"),
        ("SmolLM2-135M-Instruct", "smollm2"),
        ("SmolLM2-135M-Instruct", "HuggingFaceTB/SmolLM2-135M-Instruct"),
    ],
)
def test_the_names_of_one_model_are_known(tiny_sae_folder: Path, trained_on: str, model: str) -> None:
    assert replace(ours(tiny_sae_folder), model_name=trained_on).trained_on({model})


def test_a_name_in_the_models_configuration_counts_too(tiny_sae_folder: Path) -> None:
    sae = replace(ours(tiny_sae_folder), model_name="gpt2-small")
    assert sae.trained_on({"/models/my-copy", "openai-community/gpt2"})
