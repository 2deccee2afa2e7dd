"""A steering vector from latents that a person chose.

Knows SAEs, descriptions and the unit of alpha; knows nothing of labelled texts, files or the terminal.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from ..errors import InputError, NeurosteerError
from ..models.hooks import HookPoint
from ..models.shape import ModelShape
from ..saes.sae import SparseAutoencoder
from .metadata import PointMetadata, SAEMetadata, VectorMetadata
from .vector import NO_TEXTS, Latents, SteeringVector, unit_pushes

METHOD = "latents"


@dataclass(frozen=True)
class Choice:
    """Latents of one SAE with a weight each, and what the SAE's descriptions or texts say of them."""

    sae: SparseAutoencoder
    weights: Mapping[int, float]  # by latent id
    median_resid_norm: float
    firing_rates: Mapping[int, float]  # share of tokens


def choose(choices: Mapping[HookPoint, Choice], *, model_id: str, model_shape: ModelShape) -> SteeringVector:
    """The vector whose push at each hook point is along the sum of weight x decoder row.

    Only the ratios of the weights of one hook point matter: alpha = 1 is a push of 1 % of the median
    residual norm, shared equally by the hook points.

    Raises:
        InputError: an SAE has no such latent.
        NeurosteerError: the rows add up to nothing.
    """
    directions, latents = {}, {}
    for point, choice in choices.items():
        ids = _strongest_first(choice)
        weights = torch.tensor([choice.weights[latent] for latent in ids.tolist()], dtype=torch.float64)
        directions[point] = weights @ choice.sae.decoder_rows(ids).double().cpu()
        if not directions[point].any():
            raise NeurosteerError(f"the latents chosen at {point} cancel out: nothing to steer along")
        rates = torch.tensor([choice.firing_rates[latent] for latent in ids.tolist()])
        latents[point] = Latents(ids, weights.float(), rates.expand(2, -1).contiguous())
    norms = {point: choice.median_resid_norm for point, choice in choices.items()}
    points = {
        str(point): PointMetadata.without_texts(norms[point], SAEMetadata.of(choice.sae))
        for point, choice in choices.items()
    }
    metadata = VectorMetadata.new(model_id, model_shape, METHOD, points)
    return SteeringVector(metadata, unit_pushes(directions, norms), latents, NO_TEXTS)


def _strongest_first(choice: Choice) -> Tensor:
    for latent in choice.weights:
        if not 0 <= latent < choice.sae.d_sae:
            raise InputError(
                f"--latent {latent}: the SAE at {choice.sae.hook_point} has {choice.sae.d_sae} latents, "
                f"0 to {choice.sae.d_sae - 1}"
            )
    return torch.tensor(sorted(choice.weights, key=lambda latent: -abs(choice.weights[latent])))


def parse_latents(texts: list[str]) -> dict[int | None, dict[int, float]]:
    """Read `960:-1` or, for one of several blocks, `20/960:-1`: by block, then latent, its weight.

    Raises:
        InputError: of no such form, a latent named twice, or a weight that is 0 or not finite.
    """
    found: dict[int | None, dict[int, float]] = {}
    for text in texts:
        head, _, weight_text = text.partition(":")
        block_text, slash, latent_text = head.rpartition("/")
        try:
            block = int(block_text) if slash else None
            latent, weight = int(latent_text), float(weight_text or "1")
        except ValueError as error:
            raise InputError(f"--latent {text}: not ID:WEIGHT such as 960:-1, or BLOCK/ID:WEIGHT") from error
        if not abs(weight) < float("inf") or weight == 0:
            raise InputError(f"--latent {text}: the weight must be a finite number other than 0")
        if latent in found.setdefault(block, {}):
            raise InputError(f"--latent {text}: latent {latent} is named twice")
        found[block][latent] = weight
    return found
