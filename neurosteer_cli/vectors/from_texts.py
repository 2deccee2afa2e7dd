"""Fit a steering vector: two labelled sides of texts to one push at each hook point.

Knows how statistics, a method and the unit of alpha make a vector; knows nothing of files or the
terminal.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..data.sides import FEW_TEXTS, Sides
from ..errors import InputError, NeurosteerError
from ..models.engine import Engine
from ..models.hooks import HookPoint
from ..saes.descriptions import find, names
from ..saes.sae import SparseAutoencoder
from .metadata import PointMetadata, SAEMetadata, SideMetadata, VectorMetadata
from .methods import METHODS, NEEDS_SAE, Direction, Method
from .reading import BEFORE, PointReading, Reading
from .statistics import auroc, welch_t
from .vector import Latents, SteeringVector, unit_pushes

LOW_AUROC = 0.6
N_STRONGEST = 6  # latents of either sign shown


@dataclass(frozen=True)
class LatentRow:
    """A latent as the summary shows it."""

    latent_id: int
    weight: float
    t: float
    positive_rate: float  # share of tokens at which it fires
    negative_rate: float
    piece: str  # where it fires most in the given texts
    token: str  # the token it fires at there
    name: str | None  # by the SAE's descriptions, if it has any


@dataclass(frozen=True)
class FitReport:
    """What a fit did, for people."""

    seconds: float
    tokens_per_second: float  # of forward passes, SAE and statistics together
    n_held_out: tuple[int, int]
    n_duplicates: int
    n_without_tokens: int  # texts of a single token, say: nothing to take statistics over
    warnings: list[str]
    strongest: dict[str, list[LatentRow]]  # by hook point: the strongest latents of either sign


def fit(
    engine: Engine,
    sides: Sides,
    points: Sequence[HookPoint],
    *,
    method: str = "neurosteer",
    saes: dict[HookPoint, SparseAutoencoder] | None = None,
    top_k: int = 100,
    advance: Callable[[int], None] = lambda _n: None,
) -> tuple[SteeringVector, FitReport]:
    """Fit a vector in one pass over the texts; a fifth of them is held out to measure its AUROC.

    The vector that is returned is fitted on all texts; the AUROC is that of one fitted on the rest.

    Args:
        sides: positive, negative.
        points: where to steer; each gets 1/len(points) of the push.
        saes: for each point, for a method that needs them.
        top_k: latents to keep, for such a method.
        advance: told how many texts have been read.

    Raises:
        InputError: unknown method, no hook point, or top_k out of range.
        NeurosteerError: the sides do not differ at all.
    """
    if method not in METHODS:
        raise InputError(f"--method {method}: one of {', '.join(METHODS)}")
    for point in points:
        point.check(engine.shape.n_layers)
    start = time.monotonic()
    reading = Reading(engine, points, saes or {}, pairs=method == "pca")
    reading.run(sides, advance)
    found = {point: METHODS[method](reading.at[point].all, top_k) for point in points}
    vector = build(engine, sides, reading, found, method, top_k)
    seconds = time.monotonic() - start
    report = FitReport(
        seconds=seconds,
        tokens_per_second=reading.n_tokens_run / seconds,
        n_held_out=reading.n_held_out,
        n_duplicates=sum(len(side.duplicates) for side in sides),
        n_without_tokens=reading.n_without_tokens,
        warnings=_warnings(sides, vector),
        strongest={str(point): _strongest(reading.at[point], found[point], engine) for point in points},
    )
    return vector, report


def build(
    engine: Engine,
    sides: Sides,
    reading: Reading,
    found: dict[HookPoint, Direction],
    method: str,
    top_k: int,
) -> SteeringVector:
    """The vector that a method's directions make, in the unit of alpha.

    Raises:
        NeurosteerError: the sides do not differ at all.
    """
    directions = {point: direction.vector for point, direction in found.items()}
    if not all(direction.any() for direction in directions.values()):
        raise NeurosteerError("the two sides do not differ at this hook point: nothing to steer along")
    norms = {point: reading.at[point].norms.median for point in found}
    return SteeringVector(
        metadata=_metadata(engine, sides, reading, found, method, top_k),
        pushes=unit_pushes(directions, norms),
        latents={point: latents for point in found if (latents := _latents(reading.at[point], found[point]))},
        text_hashes=torch.tensor([h for side in sides for h in side.hashes], dtype=torch.int64).unique(),  # type: ignore[no-untyped-call]
    )


def _metadata(
    engine: Engine,
    sides: Sides,
    reading: Reading,
    found: dict[HookPoint, Direction],
    method: str,
    top_k: int,
) -> VectorMetadata:
    return VectorMetadata.new(
        engine.model_id,
        engine.shape,
        method,
        {str(point): _measured(reading.at[point], METHODS[method], top_k) for point in found},
        parameters={"top_k": top_k} if method in NEEDS_SAE else {},
        sides=[
            SideMetadata(label=side.label, n_texts=side.n_texts, n_tokens=n_tokens, sha256=side.sha256)
            for side, n_tokens in zip(sides, reading.n_tokens, strict=True)
        ],
    )


def _warnings(sides: Sides, vector: SteeringVector) -> list[str]:
    warnings = [
        f"{side.label}: {side.n_texts} texts; {FEW_TEXTS} or more a side give a more dependable vector"
        for side in sides
        if side.n_texts < FEW_TEXTS
    ]
    for point, measured in vector.metadata.points.items():
        if measured.auroc is not None and measured.auroc < LOW_AUROC:
            warnings.append(
                f"held-out AUROC at {point} is {measured.auroc:.2f}: the texts hardly separate there "
                "(0.50 is chance); use other texts, more of them, or another layer"
            )
    return warnings


def _measured(at: PointReading, method: Method, top_k: int) -> PointMetadata:
    """What was measured at a hook point; the AUROC is that of a vector fitted without the held-out texts."""
    return PointMetadata(
        resid_norm=at.norms.median,
        shift_norm=float(at.all.shift.norm()),
        auroc=held_out_auroc(at, method, top_k),
        sae=SAEMetadata.of(at.sae) if at.sae else None,
    )


def held_out_auroc(at: PointReading, method: Method, top_k: int) -> float | None:
    """AUROC of the held-out texts along what the method finds in the others."""
    if not all(at.held_out):
        return None
    direction = method(at.evidence[0], top_k).vector
    positive, negative = (torch.stack(side).double() @ direction for side in at.held_out)
    return auroc(positive, negative)


def _latents(at: PointReading, direction: Direction) -> Latents | None:
    if direction.latent_ids is None or direction.latent_weights is None:
        return None
    rates = torch.stack([side.firing_rate for side in at.all.both_latents()]).float()
    return Latents(direction.latent_ids, direction.latent_weights, rates[:, direction.latent_ids])


def _strongest(at: PointReading, direction: Direction, engine: Engine) -> list[LatentRow]:
    """The first latents of either sign in the method's own order, those turned up first."""
    if direction.latent_ids is None or direction.latent_weights is None or at.peaks is None:
        return []
    t = welch_t(*at.all.both_latents())
    rates = [side.firing_rate for side in at.all.both_latents()]
    weights = direction.latent_weights
    up = direction.latent_ids[weights > 0][:N_STRONGEST].tolist()
    down = direction.latent_ids[weights < 0][:N_STRONGEST].tolist()
    described = names(find(at.sae, engine.model_id) if at.sae else None, up + down)
    weight_of = dict(zip(direction.latent_ids.tolist(), weights.tolist(), strict=True))
    return [
        LatentRow(
            latent_id=latent,
            weight=weight_of[latent],
            t=float(t[latent]),
            positive_rate=float(rates[0][latent]),
            negative_rate=float(rates[1][latent]),
            piece=_text(at.peaks.windows[latent, 0], engine),
            token=_text(at.peaks.windows[latent, 0, BEFORE : BEFORE + 1], engine),
            name=described.get(latent),
        )
        for latent in up + down
    ]


def _text(window: Tensor, engine: Engine) -> str:
    return engine.decode([], [token for token in window.tolist() if token >= 0])
