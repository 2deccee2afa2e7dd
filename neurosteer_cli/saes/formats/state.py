"""An SAE out of sae-lens 6's entries and weights, the one form that all others are read into.

Knows what of it can be computed with; knows nothing of files.
"""

import hashlib
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from ...errors import SAEError
from ..sae import NORMALIZATIONS, UNKNOWN_MODEL, WEIGHTS, SparseAutoencoder
from .hook_names import residual_point

Entries = dict[str, Any]
Weights = Mapping[str, Tensor]
_TRAINING = ("batchtopk", "matryoshka_batchtopk")  # sae-lens's own while they are trained


def entries_of(
    architecture: str,
    weights: Weights,
    hook_name: str,
    model_name: str | None,
    *,
    apply_b_dec_to_input: bool,
    k: int | None = None,
) -> Entries:
    """What sae-lens 6 would write of an SAE that another library has saved."""
    d_sae, d_model = weights["W_dec"].shape
    return {
        "architecture": architecture,
        "d_in": d_model,
        "d_sae": d_sae,
        "k": k,
        "apply_b_dec_to_input": apply_b_dec_to_input,
        "normalize_activations": "none",
        "metadata": {"hook_name": hook_name, "model_name": model_name or UNKNOWN_MODEL},
    }


def from_state(sae_id: str, entries: Entries, weights: Weights) -> SparseAutoencoder:
    """Build an SAE from sae-lens's; SAEError if an entry or tensor is absent, or not supported."""
    architecture, normalization = _supported(sae_id, entries)
    metadata = _entry(sae_id, entries, "metadata")
    hook_point = residual_point(sae_id, _entry(sae_id, metadata, "hook_name"))
    k = int(_entry(sae_id, entries, "k")) if architecture == "topk" else None
    if k is not None and not 1 <= k <= _entry(sae_id, entries, "d_sae"):
        raise SAEError(f"SAE {sae_id!r}: k={k}, but it has {entries['d_sae']} latents")
    kwargs = metadata.get("model_from_pretrained_kwargs") or {}
    return SparseAutoencoder(
        sae_id=sae_id,
        sha256=_sha256(weights),
        architecture=architecture,
        hook_point=hook_point,
        model_name=_entry(sae_id, metadata, "model_name"),
        neuronpedia_id=metadata.get("neuronpedia_id"),
        k=k,
        apply_b_dec_to_input=_entry(sae_id, entries, "apply_b_dec_to_input"),
        normalize_activations=normalization,
        rescale_acts_by_decoder_norm=bool(entries.get("rescale_acts_by_decoder_norm", False)),
        centred=bool(kwargs.get("center_writing_weights", False)),
        weights=_checked_weights(sae_id, architecture, entries, weights),
    )


def _supported(sae_id: str, entries: Entries) -> tuple[str, str]:
    """The architecture and the normalization, if both can be computed with."""
    architecture = _entry(sae_id, entries, "architecture")
    if architecture in _TRAINING:
        raise SAEError(
            f"SAE {sae_id!r}: architecture {architecture!r} is that of an unfinished training; save what it "
            "computes: python -c \"from sae_lens import TrainingSAE; TrainingSAE.load_from_disk('OLD')"
            ".save_inference_model('NEW')\""
        )
    if architecture not in WEIGHTS:
        raise SAEError(
            f"SAE {sae_id!r}: architecture {architecture!r} is not supported; {', '.join(WEIGHTS)} are"
        )
    normalization = _entry(sae_id, entries, "normalize_activations")
    if normalization not in NORMALIZATIONS:
        raise SAEError(
            f"SAE {sae_id!r}: normalize_activations={normalization!r} has not been folded into the weights, "
            "and the factor for it is not in the file; save it again with sae-lens after folding"
        )
    if entries.get("reshape_activations", "none") != "none":
        raise SAEError(f"SAE {sae_id!r} reads attention heads (hook_z), not the residual stream")
    return architecture, normalization


def _checked_weights(sae_id: str, architecture: str, entries: Entries, weights: Weights) -> dict[str, Tensor]:
    """The weights that the architecture uses, of the shapes that the entries say, and finite."""
    d_in, d_sae = _entry(sae_id, entries, "d_in"), _entry(sae_id, entries, "d_sae")
    shapes = {"W_enc": (d_in, d_sae), "W_dec": (d_sae, d_in), "b_dec": (d_in,)}
    for name in WEIGHTS[architecture]:
        shape = tuple(weights[name].shape) if name in weights else None
        if shape != (expected := shapes.get(name, (d_sae,))):
            raise SAEError(f"SAE {sae_id!r}: {name} has shape {shape}, expected {expected}")
        # a latent that an infinite threshold has switched off is one that never fires
        sound = ~weights[name].isnan() if name == "threshold" else weights[name].isfinite()
        if not bool(sound.all()):
            n_bad = int((~sound).sum())
            raise SAEError(
                f"SAE {sae_id!r}: {n_bad} of {sound.numel()} numbers of {name} are NaN or infinite; its file "
                "is damaged, or its training broke down"
            )
    # A fit reads few of the decoder's rows, so a float16 one is not blown up; a copy lets go of the file.
    return {
        name: weights[name].clone() if name == "W_dec" else weights[name].float()
        for name in WEIGHTS[architecture]
    }


def _entry(sae_id: str, entries: Entries, key: str) -> Any:
    # Not `SAEMetadata.get`: that answers None to any misspelled key.
    if not isinstance(entries, dict):
        raise SAEError(f"SAE {sae_id!r}: its configuration is no JSON object; save it again with sae-lens 6")
    if entries.get(key) is None:
        raise SAEError(
            f"SAE {sae_id!r}: its configuration does not say {key!r}; save it again with sae-lens 6"
        )
    return entries[key]


def _sha256(weights: Weights) -> str:
    digest = hashlib.sha256()
    for name in sorted(weights):
        digest.update(name.encode())
        digest.update(weights[name].detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
