"""Fit a steering vector: two labelled sides of texts to one push at each hook point.

Knows how statistics, a method and the unit of alpha make a vector; knows nothing of files.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from ...data.json_text import Record
from ...data.sides import Side, Sides, shuffled, sides_of
from ...errors import InputError, NeurosteerError, SAEError
from ...models.engine import Engine
from ...models.hooks import HookPoint
from ...saes.load import BUNDLED, SAEs, find_saes, open_saes
from .. import detector
from ..metadata import Detector, PointMetadata, SAEMetadata, SideMetadata, VectorMetadata
from ..vector import SteeringVector, unit_pushes
from .log_odds import token_bias
from .methods import (
    LOGODDS,
    METHODS,
    NEEDS_PAIRS,
    NEEDS_SAE,
    SPREAD,
    Evidence,
    Method,
    check_method,
    diffmean,
)
from .reading import PointReading, Reading
from .report import FitReport, fit_report
from .statistics import auroc

Texts = tuple[Sequence[str | Record], Sequence[str | Record]]  # positive, negative


def fit(
    engine: Engine,
    sides: Sides | Texts,
    points: Sequence[HookPoint] = (),
    *,
    method: str = "neurosteer",
    saes: SAEs | None = None,
    top_k: int = 100,
    logits_share: float = 0.0,
    shuffle_labels: int | None = None,
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
        shuffle_labels: a seed by which the texts are dealt out to the sides at random: the vector is a
            control, which steers towards nothing that the texts say.
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
    if shuffle_labels is not None:
        sides = shuffled(sides, shuffle_labels)
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
    vector = build(reading, points, method, top_k, share, shuffle_labels)
    seconds, is_control = time.monotonic() - start, shuffle_labels is not None
    report = fit_report(reading, vector, seconds=seconds, warnings=warnings, is_control=is_control)
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
    reading: Reading,
    points: Sequence[HookPoint],
    method: str,
    top_k: int,
    logits_share: float = 0.0,
    shuffle_labels: int | None = None,
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
    pushes = _pushes(at, directions, logits_share)
    metadata = VectorMetadata.new(
        reading.engine.model_id,
        reading.engine.shape,
        method,
        {str(point): _measured(here, directions[point], how, top_k) for point, here in at.items()},
        kind="add" if points else "logits",
        parameters=_parameters(method, top_k, logits_share, shuffle_labels),
        sides=_sides(reading),
        detector=_detector(at, pushes, lambda evidence: how(evidence, top_k).vector, logits_share),
    )
    hashes = torch.tensor([text for side in reading.sides for text in side.hashes], dtype=torch.int64)
    return SteeringVector(
        metadata,
        pushes,
        {point: direction.latents for point, direction in found.items() if direction.latents},
        hashes.unique(),  # type: ignore[no-untyped-call]
        token_bias(reading.tokens.counts) * logits_share if logits_share else None,
    )


def _pushes(
    at: Mapping[HookPoint, PointReading], directions: Mapping[HookPoint, Tensor], logits_share: float
) -> dict[HookPoint, Tensor]:
    """What alpha = 1 adds, less the share of it that goes to the logits."""
    if not at:
        return {}
    whole = unit_pushes(directions, {point: here.norms.median for point, here in at.items()})
    return {point: (1 - logits_share) * push for point, push in whole.items()}


def _parameters(method: str, top_k: int, logits_share: float, shuffle_labels: int | None) -> dict[str, Any]:
    return {
        **({"top_k": top_k} if method in NEEDS_SAE else {}),
        **({"logits_share": logits_share} if 0 < logits_share < 1 else {}),
        **({} if shuffle_labels is None else {"shuffle_labels": shuffle_labels}),
    }


def _sides(reading: Reading) -> list[SideMetadata]:
    return [
        SideMetadata(label=side.label, n_texts=side.n_texts, n_tokens=n_tokens, sha256=side.sha256)
        for side, n_tokens in zip(reading.sides, reading.n_tokens.tolist(), strict=True)
    ]


def _measured(at: PointReading, direction: Tensor, method: Method, top_k: int) -> PointMetadata:
    return PointMetadata(
        resid_norm=at.norms.median,
        shift_norm=float(at.all.shift.norm()),
        auroc=held_out_auroc(at, method, top_k),
        middle=float(at.all.middle @ direction / direction.norm()),
        sae=SAEMetadata.of(at.sae) if at.sae else None,
    )


def _detector(
    at: Mapping[HookPoint, PointReading],
    pushes: Mapping[HookPoint, Tensor],
    direction: Callable[[Evidence], Tensor],
    logits_share: float,
) -> Detector | None:
    """What projections on the pushes say of a text, measured on those held out along what the others give.

    The two directions are not quite the same, and residuals are long: so the held-out texts are measured
    from the middle of the others, and what is measured then holds from the middle of all.
    """
    if not at or not all(all(here.held_out) for here in at.values()):
        return None
    directions = {point: direction(here.evidence[0]) for point, here in at.items()}
    if not all(found.any() for found in directions.values()):
        return None
    others = _pushes(at, directions, logits_share)
    sides = ({point: torch.stack(here.held_out[side]) for point, here in at.items()} for side in range(2))
    start = _middle({point: here.evidence[0] for point, here in at.items()}, others)
    positive, negative = (detector.projection(means, others) - start for means in sides)
    return detector.measured(
        positive, negative, _middle({point: here.all for point, here in at.items()}, pushes)
    )


def _middle(evidence: Mapping[HookPoint, Evidence], pushes: Mapping[HookPoint, Tensor]) -> float:
    """Where the middle of the two sides is along pushes."""
    return float(detector.projection({point: at.middle[None] for point, at in evidence.items()}, pushes))


def held_out_auroc(at: PointReading, method: Method, top_k: int) -> float | None:
    """AUROC of the held-out texts along what the method finds in the others; None if a side has none."""
    if not all(at.held_out):
        return None
    direction = method(at.evidence[0], top_k).vector
    positive, negative = (torch.stack(side).double() @ direction for side in at.held_out)
    return auroc(positive, negative)
