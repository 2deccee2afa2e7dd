"""How a vector acts where it acts: what is added to a residual, or to logits, because of it.

Knows directions, latents and logits as tensors; knows nothing of vector files, alphas or rows.
"""

from dataclasses import dataclass, replace
from typing import Protocol

import torch
from torch import Tensor

from ..saes.sae import SparseAutoencoder


class Edit(Protocol):
    """What is done to a residual in view of the residual itself."""

    def to(self, device: torch.device) -> "Edit":
        """The same where residuals are."""

    def change(self, resid: Tensor) -> Tensor:
        """What is added to residuals [..., d_model] float32."""


@dataclass(frozen=True, eq=False)
class Ablation:
    """Take away a share of the component along a direction (Arditi et al. 2024, arXiv 2406.11717)."""

    direction: Tensor  # [d_model], of length 1
    share: float  # 1: the whole

    def to(self, device: torch.device) -> "Ablation":
        return replace(self, direction=self.direction.to(device))

    def change(self, resid: Tensor) -> Tensor:
        return -self.share * (resid @ self.direction)[..., None] * self.direction


@dataclass(frozen=True, eq=False)
class Clamp:
    """Set the component along a direction to a level, whatever it was."""

    direction: Tensor  # [d_model], of length 1
    level: float  # raw residual units

    def to(self, device: torch.device) -> "Clamp":
        return replace(self, direction=self.direction.to(device))

    def change(self, resid: Tensor) -> Tensor:
        return (self.level - resid @ self.direction)[..., None] * self.direction


@dataclass(frozen=True, eq=False)
class LatentClamp:
    """Set SAE latents to levels; what the SAE does not reconstruct, and all other latents, stay.

    Source: Templeton et al. 2024, "Scaling Monosemanticity" (feature steering with the error kept).
    """

    sae: SparseAutoencoder
    ids: Tensor  # [k] int64
    levels: Tensor  # [k] float32, activations in raw residual units

    def to(self, device: torch.device) -> "LatentClamp":
        sae = self.sae.for_model(device=device, uses_layer_norm=self.sae.centred)
        return replace(self, sae=sae, ids=self.ids.to(device), levels=self.levels.to(device))

    def change(self, resid: Tensor) -> Tensor:
        flat = resid.reshape(-1, resid.shape[-1])  # [n, d_model]
        activations = self.sae.encode(flat)[:, self.ids] * self.sae.raw_scale(flat)  # [n, k]
        return ((self.levels - activations) @ self.sae.decoder_rows(self.ids)).view_as(resid)


@dataclass(frozen=True, eq=False)
class TokenBias:
    """What is added to the logits of some tokens."""

    ids: Tensor  # [k] int64
    bias: Tensor  # [k] float32, nats

    def __add__(self, other: "TokenBias") -> "TokenBias":
        both = torch.cat([self.ids, other.ids])
        ids, places = both.unique(return_inverse=True)  # type: ignore[no-untyped-call]
        bias = torch.zeros(len(ids)).index_add(0, places, torch.cat([self.bias, other.bias]))
        return TokenBias(ids, bias)

    def __mul__(self, alpha: float) -> "TokenBias":
        return TokenBias(self.ids, alpha * self.bias)

    def dense(self, d_vocab: int) -> Tensor:
        """[d_vocab] float32, 0 for tokens that it says nothing of."""
        return torch.zeros(d_vocab).index_copy(0, self.ids, self.bias)
