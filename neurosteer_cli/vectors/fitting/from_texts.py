"""Fit a steering vector: two labelled sides of texts to one push at each hook point.

Knows how statistics, a method and the unit of alpha make a vector; knows nothing of files.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ...data.json_text import Record
from ...data.sides import Side, Sides, few_texts, sides_of, unlike_forms
from ...errors import InputError, NeurosteerError, SAEError
from ...models.engine import Engine
from ...models.hooks import HookPoint
from ...saes.descriptions import names
from ...saes.load import BUNDLED, SAEs, find_saes, open_saes
from .. import detector
from ..metadata import Detector, PointMetadata, SAEMetadata, SideMetadata, VectorMetadata
from ..vector import Latents, SteeringVector, unit_pushes
from .lint import lint
from .log_odds import token_bias
from .methods import LOGODDS, METHODS, NEEDS_PAIRS, NEEDS_SAE, SPREAD, Method, check_method, diffmean
from .reading import BEFORE, PointReading, Reading
from .statistics import auroc, welch_t

Texts = tuple[Sequence[str | Record], Sequence[str | Record]]  # positive, negative
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
    n_held_out: tuple[int, ...]  # texts, a side
    n_duplicates: int
    n_without_tokens: int  # texts of a single token, say: nothing to take statistics over
    warnings: list[str]
    strongest: dict[str, list[LatentRow]]  # by hook point: the strongest latents of either sign


def fit(
    engine: Engine,
    sides: Sides | Texts,
    points: Sequence[HookPoint] = (),
    *,
    method: str = "neurosteer",
    saes: SAEs | None = None,
    top_k: int = 100,
    logits_share: float = 0.0,
    advance: Callable[[int], None] = lambda _n: None,
) -> tuple[SteeringVector, FitReport]:
    """Fit a vector in one pass over the texts; a fifth of them is held out to measure its AUROC.

        vector, report = fit(Engine.load(), (polite, rude))

    The vector that is returned is fitted on all texts; the AUROC is that of one fitted on the rest.

    Args:
        sides: what to steer towards and away from: lists of texts or records, or what `open_sides` yields.
        points: where to steer; each gets 1/len(points) of the push. Without: where the SAEs belong,
            or two thirds up the model for a method that needs none.
        method: `neurosteer`, `paper`, `diffmean` or `pca`; `vectors/fitting/methods.py` says what they do.
            `logodds` urges the tokens of one side (`vectors/fitting/log_odds.py`) and pushes nothing.
        saes: for each point, for a method that needs them. Without: those bundled for the model.
        top_k: latents to keep at a point, for such a method.
        logits_share: how much of the vector, 0 to 1, urges tokens in place of pushing.
        advance: told how many texts have been read.

    Returns:
        the vector, whose pushes [d_model] alpha = 1 adds, and what there is to tell of the fit.

    Raises:
        InputError: unknown method, a point the model does not have, too few texts, or top_k out of range.
        SAEError: no SAE is bundled, or those given do not fit the model.
        NeurosteerError: the sides do not differ at all.
    """
    check_method(method)
    check_share(method, points, logits_share)
    sides = _as_sides(sides)
    warnings: list[str] = []
    if saes is None:  # of others, whoever chose them has been warned
        saes = open_saes(choose_saes(method, engine.model_id, points), engine, warn=warnings.append)
    else:
        saes = open_saes(saes, engine)
    points = points or list(saes) or default_points(method, engine.shape.n_layers)
    for point in points:
        point.check(engine.shape.n_layers)
    start = time.monotonic()
    share = 1.0 if method == LOGODDS else logits_share
    reading = Reading(engine, sides, points, saes, pairs=method in NEEDS_PAIRS, counts_tokens=share > 0)
    reading.run(advance)
    vector = build(reading, points, method, top_k, share)
    seconds = time.monotonic() - start
    report = FitReport(
        seconds=seconds,
        tokens_per_second=reading.n_tokens_run / seconds,
        n_held_out=tuple(map(len, reading.at[points[0]].held_out)) if points else (),
        n_duplicates=sum(len(side.duplicates) for side in sides),
        n_without_tokens=reading.n_without_tokens,
        warnings=[*warnings, *reading.shortfall.warnings(engine.max_tokens), *_warnings(sides, vector)],
        strongest={str(at): _strongest(reading.at[at], vector.latents.get(at), engine) for at in points},
    )
    return vector, report


def _as_sides(sides: Sides | Texts) -> Sides:
    known = tuple(side for side in sides if isinstance(side, Side))
    if known:
        return known
    positive, negative = (side for side in sides if not isinstance(side, Side))
    return sides_of(positive, negative)


def choose_saes(
    method: str,
    model_id: str,
    points: Sequence[HookPoint] = (),
    sae: str = BUNDLED,
    *,
    option: str = "--layers",
) -> SAEs:
    """The SAE of each hook point, for a method that needs them; the SAEs say where they belong.

    Without points it is the last block of a family of SAEs, or the last few to share a push. `sae` is as
    for `load_sae`; `option` is the one by which points were given, for the error.
    """
    if method not in NEEDS_SAE:
        return {}
    layers = [point.layer for point in points] or None
    saes = find_saes(sae, model_id=model_id, layers=layers, last=SPREAD.get(method, 1))
    if points and set(saes) != set(points):
        raise SAEError(
            f"SAE {sae!r} belongs to {', '.join(map(str, saes))}, "
            f"not to {', '.join(map(str, points))}; leave out {option}, or choose another SAE"
        )
    return saes


def default_points(method: str, n_layers: int) -> list[HookPoint]:
    """Where to steer without an SAE: two thirds up, where steering was seen to work best."""
    return [] if method == LOGODDS else [HookPoint(n_layers * 2 // 3)]


def check_share(method: str, points: Sequence[HookPoint], share: float) -> None:
    """Refuse a share of logits that is none, or that leaves nothing to what is asked for besides.

    Raises:
        InputError: it is not from 0 to below 1, or hook points are given to a method that pushes nothing.
    """
    if not 0 <= share < 1:
        raise InputError(
            f"--logits-share must be from 0 to below 1 (all of it: --method {LOGODDS}), got {share:g}"
        )
    if method == LOGODDS and (points or share):
        raise InputError(f"--method {LOGODDS} acts on logits alone; leave out hook points and --logits-share")


def build(
    reading: Reading, points: Sequence[HookPoint], method: str, top_k: int, logits_share: float = 0.0
) -> SteeringVector:
    """The vector of a method at some of the points that were read, in the unit of alpha.

    With a share of logits the push is shorter by it, and so much of what the method `logodds` urges is urged.
    """
    at = {point: reading.at[point] for point in points}
    how = METHODS.get(method, diffmean)  # one without hook points finds nothing at any
    found = {point: how(here.all, top_k) for point, here in at.items()}
    directions = {point: direction.vector for point, direction in found.items()}
    if not all(direction.any() for direction in directions.values()):
        raise NeurosteerError("the two sides do not differ at this hook point: nothing to steer along")
    metadata = VectorMetadata.new(
        reading.engine.model_id,
        reading.engine.shape,
        method,
        {str(point): _measured(here, directions[point], how, top_k) for point, here in at.items()},
        kind="add" if points else "logits",
        parameters=_parameters(method, top_k, logits_share),
        sides=[
            SideMetadata(label=side.label, n_texts=side.n_texts, n_tokens=n_tokens, sha256=side.sha256)
            for side, n_tokens in zip(reading.sides, reading.n_tokens.tolist(), strict=True)
        ],
        detector=_detector(at, how, top_k),
    )
    hashes = torch.tensor([text for side in reading.sides for text in side.hashes], dtype=torch.int64)
    pushes = unit_pushes(directions, {point: here.norms.median for point, here in at.items()}) if at else {}
    return SteeringVector(
        metadata,
        {point: (1 - logits_share) * push for point, push in pushes.items()},
        {point: direction.latents for point, direction in found.items() if direction.latents},
        hashes.unique(),  # type: ignore[no-untyped-call]
        token_bias(reading.token_counts) * logits_share if logits_share else None,
    )


def _parameters(method: str, top_k: int, logits_share: float) -> dict[str, Any]:
    return {
        **({"top_k": top_k} if method in NEEDS_SAE else {}),
        **({"logits_share": logits_share} if 0 < logits_share < 1 else {}),
    }


def _measured(at: PointReading, direction: Tensor, method: Method, top_k: int) -> PointMetadata:
    positive, negative = (stats.mean for stats in at.all.means)
    return PointMetadata(
        resid_norm=at.norms.median,
        shift_norm=float(at.all.shift.norm()),
        auroc=held_out_auroc(at, method, top_k),
        middle=float((positive + negative) / 2 @ direction / direction.norm()),
        sae=SAEMetadata.of(at.sae) if at.sae else None,
    )


def _detector(at: Mapping[HookPoint, PointReading], method: Method, top_k: int) -> Detector | None:
    """What projections say of held-out texts, along the vector that the method finds in the others."""
    if not at or not all(all(here.held_out) for here in at.values()):
        return None
    directions = {point: method(here.evidence[0], top_k).vector for point, here in at.items()}
    if not all(direction.any() for direction in directions.values()):
        return None
    pushes = unit_pushes(directions, {point: here.norms.median for point, here in at.items()})
    sides = ({point: torch.stack(here.held_out[side]) for point, here in at.items()} for side in range(2))
    return detector.measured(*(detector.projection(means, pushes) for means in sides))


def held_out_auroc(at: PointReading, method: Method, top_k: int) -> float | None:
    """AUROC of the held-out texts along what the method finds in the others; None if a side has none."""
    if not all(at.held_out):
        return None
    direction = method(at.evidence[0], top_k).vector
    positive, negative = (torch.stack(side).double() @ direction for side in at.held_out)
    return auroc(positive, negative)


def _warnings(sides: Sides, vector: SteeringVector) -> list[str]:
    alike = [
        f"held-out AUROC at {point} is {measured.auroc:.2f}: the texts hardly separate there "
        "(0.50 is chance); use other texts, more of them, or another layer"
        for point, measured in vector.metadata.points.items()
        if measured.auroc is not None and measured.auroc < LOW_AUROC
    ]
    other = [f"{found.check}: {found.words}" for found in lint(sides, topics=False)]
    return [*few_texts(sides, "a more dependable vector"), *unlike_forms(sides), *other, *alike]


def _strongest(at: PointReading, latents: Latents | None, engine: Engine) -> list[LatentRow]:
    """The first latents of either sign in the method's own order, those turned up first."""
    engine.pause()
    if latents is None or at.sae is None:
        return []
    ids, weights = latents.ids, latents.weights
    shown = torch.cat([ids[weights > 0][:N_STRONGEST], ids[weights < 0][:N_STRONGEST]]).tolist()
    weight_of = dict(zip(ids.tolist(), weights.tolist(), strict=True))
    described = names(at.sae, engine.model_id, shown)
    positive, negative = at.all.latents
    t = welch_t(positive, negative)
    windows = at.peaks.windows[:, 0]  # [d_sae, window]
    return [
        LatentRow(
            latent_id=latent,
            weight=weight_of[latent],
            t=float(t[latent]),
            positive_rate=float(positive.firing_rate[latent]),
            negative_rate=float(negative.firing_rate[latent]),
            piece=_text(windows[latent], engine),
            token=_text(windows[latent, BEFORE : BEFORE + 1], engine),
            name=described.get(latent),
        )
        for latent in shown
    ]


def _text(window: Tensor, engine: Engine) -> str:
    return engine.decode([], [token for token in window.tolist() if token >= 0])
