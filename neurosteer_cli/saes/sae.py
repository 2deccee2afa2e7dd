"""Sparse autoencoders: they encode and decode residuals.

Knows nothing of where SAEs are kept and in what form, nor of transformers, texts or labels.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor
from torch.nn.functional import normalize

from ..models.hooks import HookPoint

WEIGHTS = {
    "standard": ("W_enc", "b_enc", "W_dec", "b_dec"),
    "topk": ("W_enc", "b_enc", "W_dec", "b_dec"),
    "jumprelu": ("W_enc", "b_enc", "W_dec", "b_dec", "threshold"),  # BatchTopK is saved as this
    "gated": ("W_enc", "W_dec", "b_dec", "b_gate", "b_mag", "r_mag"),
}
UNKNOWN_MODEL = "unknown"  # where nothing says what model an SAE was trained on
NORMALIZATIONS = ("none", "constant_norm_rescale", "layer_norm")


@dataclass(frozen=True, kw_only=True)
class SparseAutoencoder:
    """An SAE on one residual hook point, its weights float32.

    No field has a default: an absent entry is an error, never a guess.
    """

    sae_id: str  # as given to --sae
    sha256: str  # of the weights
    architecture: str  # a key of WEIGHTS
    hook_point: HookPoint
    model_name: str  # the model it was trained on, as its maker calls it
    neuronpedia_id: str | None
    k: int | None  # latents that fire at a token; None unless topk
    apply_b_dec_to_input: bool
    normalize_activations: str  # one of NORMALIZATIONS
    rescale_acts_by_decoder_norm: bool
    centred: bool  # trained on a residual stream whose mean over d_model was removed
    weights: dict[str, Tensor]  # W_enc [d_model, d_sae] and biases float32, W_dec [d_sae, d_model] as stored

    @property
    def d_model(self) -> int:
        return self.weights["W_dec"].shape[1]

    @property
    def d_sae(self) -> int:
        return self.weights["W_dec"].shape[0]

    def trained_on(self, model_names: Iterable[str]) -> bool:
        """Whether one of the names, of any owner or path, is that of the model it was trained on."""
        return _plain_name(self.model_name) in map(_plain_name, model_names)

    def for_model(self, *, device: torch.device, uses_layer_norm: bool) -> "SparseAutoencoder":
        """The same SAE on a model's device; only a LayerNorm model's residuals may be centred."""
        weights = {name: weight.to(device) for name, weight in self.weights.items()}
        return replace(self, weights=weights, centred=self.centred and uses_layer_norm)

    def encode(self, resid: Tensor) -> Tensor:
        """Latent activations [n, d_sae] of Hugging Face residuals [n, d_model], both float32."""
        x = self._centre(resid)
        if self.normalize_activations == "layer_norm":
            x = x - x.mean(-1, keepdim=True)
        if self.normalize_activations != "none":
            x = x / self._norm_scale(x)
        if self.apply_b_dec_to_input:
            x = x - self.weights["b_dec"]
        return self._activations(x)

    def _activations(self, x: Tensor) -> Tensor:
        """What the architecture makes of its normalized input [n, d_model]."""
        weights = self.weights
        if self.architecture == "gated":
            gate = x @ weights["W_enc"]
            magnitude = gate * weights["r_mag"].exp() + weights["b_mag"]
            return magnitude.relu() * (gate + weights["b_gate"] > 0)
        pre = torch.addmm(weights["b_enc"], x, weights["W_enc"])  # [n, d_sae]
        if self.architecture == "jumprelu":
            return pre.relu() * (pre > weights["threshold"])
        if self.k is None:
            return pre.relu_()
        if self.rescale_acts_by_decoder_norm:
            pre *= self.decoder_norms
        top = pre.topk(self.k, dim=-1, sorted=False)
        return torch.zeros_like(pre).scatter_(-1, top.indices, top.values.relu_())

    def raw_scale(self, resid: Tensor) -> Tensor | float:
        """The factor, [n, 1] or 1.0, that brings a token's decoded activations to raw residual units."""
        if self.normalize_activations == "none":
            return 1.0
        return self._norm_scale(self._centre(resid))

    def decoder_rows(self, latent_ids: Tensor) -> Tensor:
        """What one unit of each latent adds to the reconstruction, [k, d_model]."""
        W_dec = self.weights["W_dec"]
        rows = W_dec[latent_ids.to(W_dec.device)].float()
        return normalize(rows, dim=-1) if self.rescale_acts_by_decoder_norm else rows

    @cached_property
    def decoder_norms(self) -> Tensor:
        """Length of each latent's decoder row, [d_sae] float32."""
        norms: Tensor = torch.linalg.vector_norm(self.weights["W_dec"], dim=-1, dtype=torch.float32)
        return norms

    def _centre(self, resid: Tensor) -> Tensor:
        # TransformerLens's center_writing_weights, which sae-lens's GPT-2 SAEs were trained with
        return resid - resid.mean(-1, keepdim=True) if self.centred else resid

    def _norm_scale(self, resid: Tensor) -> Tensor:
        if self.normalize_activations == "constant_norm_rescale":
            norm: Tensor = resid.norm(dim=-1, keepdim=True)
            return norm / math.sqrt(self.d_model)
        return resid.std(-1, keepdim=True) + 1e-5


def _plain_name(name: str) -> str:
    """`openai-community/gpt2` and TransformerLens's `gpt2-small` are one model."""
    plain = name.rstrip("/").rsplit("/", 1)[-1].lower()
    return {"gpt2-small": "gpt2", "smollm2": "smollm2-135m-instruct"}.get(plain, plain)
