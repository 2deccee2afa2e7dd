"""A steering vector from latents that a person chose.

Knows SAEs, their descriptions and the unit of alpha; knows nothing of labelled texts, files or the terminal.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

import torch

from ...errors import InputError, NeurosteerError, SAEError
from ...models.engine import Engine
from ...models.hooks import HookPoint
from ...models.residuals import packed
from ...saes.descriptions import find
from ...saes.load import BUNDLED, SAEs, load_sae
from ...saes.quality import tally
from ...saes.sae import SparseAutoencoder
from ..metadata import PointMetadata, SAEMetadata, VectorMetadata
from ..vector import NO_TEXTS, Latents, SteeringVector, unit_pushes

N_TOKENS, CONTEXT = 100_000, 256  # read to measure the residual's norm where no descriptions say it

Weights = Mapping[HookPoint, Mapping[int, float]]  # by latent id


class Choice(NamedTuple):
    """Latents of one SAE, as a vector file has them, and how long the residual is there."""

    sae: SparseAutoencoder
    latents: Latents
    median_resid_norm: float


def choose(
    sae: SparseAutoencoder, weights: Mapping[int, float], resid_norm: float, rates: Sequence[float]
) -> Choice:
    """Latents of an SAE by id and weight; `rates` [d_sae]: share of tokens at which each of all fires."""
    for latent in weights:
        if not 0 <= latent < sae.d_sae:
            raise InputError(
                f"--latent {latent}: the SAE at {sae.hook_point} has {sae.d_sae} latents, "
                f"0 to {sae.d_sae - 1}"
            )
    ids = sorted(weights, key=lambda latent: -abs(weights[latent]))
    firing_rates = torch.tensor([[rates[latent] for latent in ids]] * 2)  # there are no two sides
    latents = Latents(torch.tensor(ids), torch.tensor([weights[latent] for latent in ids]), firing_rates)
    return Choice(sae, latents, resid_norm)


def from_latents(engine: Engine, choices: Sequence[Choice]) -> SteeringVector:
    """The vector whose push at each SAE's hook point is along the sum of weight x decoder row.

    Only the ratios of the weights of one hook point matter: alpha = 1 is a push of 1 % of the median
    residual norm, shared equally by the hook points.

    Raises:
        NeurosteerError: the rows add up to nothing.
    """
    at = {choice.sae.hook_point: choice for choice in choices}
    directions = {point: choice.latents.decoded(choice.sae) for point, choice in at.items()}
    for point, direction in directions.items():
        if not direction.any():
            raise NeurosteerError(f"the latents chosen at {point} cancel out: nothing to steer along")
    norms = {point: choice.median_resid_norm for point, choice in at.items()}
    points = {
        str(point): PointMetadata.without_texts(norms[point], SAEMetadata.of(choice.sae))
        for point, choice in at.items()
    }
    metadata = VectorMetadata.new(engine.model_id, engine.shape, "latents", points)
    latents = {point: choice.latents for point, choice in at.items()}
    return SteeringVector(metadata, unit_pushes(directions, norms), latents, NO_TEXTS)


def described(saes: SAEs, weights: Weights, model_id: str) -> list[Choice]:
    """Take the median residual norm and the firing rates from the SAEs' descriptions."""
    choices = []
    for point, sae in saes.items():
        descriptions = find(sae, model_id)
        if descriptions is None:
            raise SAEError(
                f"SAE {sae.sae_id!r} has no descriptions, which say how long the residual is: run "
                "`neurosteer sae describe`, or give texts to measure it on: neurosteer fit TEXTS --latent ..."
            )
        rates = [latent.firing_rate for latent in descriptions.latents]
        choices.append(choose(sae, weights[point], descriptions.about.median_resid_norm, rates))
    return choices


def measured(
    engine: Engine,
    saes: SAEs,
    weights: Weights,
    documents: Iterable[str],
    *,
    name: str = "the texts",
    advance: Callable[[int], None] = lambda _n: None,
) -> list[Choice]:
    """Measure the residual norm and the firing rates on the first N_TOKENS tokens of some texts.

    `name` is what errors call the texts; `advance` is told how many tokens have been read.
    """
    sequences = packed(engine, documents, CONTEXT)
    tallies = tally(engine, [*saes.values()], sequences, n_tokens=N_TOKENS, name=name, advance=advance)
    return [
        choose(read.sae, weights[point], read.norms.median, read.firing_rates.tolist())
        for point, read in zip(saes, tallies, strict=True)
    ]


def parse_latents(texts: Sequence[str]) -> dict[int | None, dict[int, float]]:
    """Read `960:-1` or, for one of several blocks, `20/960:-1`: by block, then latent, its weight."""
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


def find_latents(
    chosen: Mapping[int | None, Mapping[int, float]],
    model_id: str,
    sae: str = BUNDLED,
    layers: Sequence[int] = (),
) -> tuple[SAEs, Weights]:
    """The SAEs that chosen latents belong to, and the weights of each one's latents, by hook point.

    Latents without a block are of the one that `layers` names, or of the only SAE.
    """
    if None in chosen:
        if len(layers) > 1 or len(chosen) > 1:
            raise InputError(
                "--latent: with several blocks, say whose latent it is: BLOCK/ID:WEIGHT, 20/960:-1"
            )
        chosen = {layer: chosen[None] for layer in layers} or chosen
    if layers and chosen.keys() != set(layers):
        shown = ",".join(map(str, layers))
        raise InputError(f"--layers {shown}: give a --latent BLOCK/ID:WEIGHT for each of them, and no other")
    saes, weights = {}, {}
    for block, of_block in chosen.items():
        found = load_sae(sae, model_id=model_id, layer=block)
        if block not in (None, found.hook_point.layer):
            raise SAEError(f"SAE {sae!r} belongs to {found.hook_point}, not to block {block}; choose another")
        saes[found.hook_point], weights[found.hook_point] = found, of_block
    return saes, weights
