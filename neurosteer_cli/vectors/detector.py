"""A vector as a detector: what its projection of a text says of the side the text is on.

Knows residuals, their means and the two sides; knows nothing of how a direction is found, or of files.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..errors import InputError
from ..models.engine import Engine, ResidualBatch
from ..models.hooks import HookPoint
from ..models.tokenizer import Tokens
from .metadata import Detector
from .vector import SteeringVector

MIN_HELD_OUT = 4  # texts a side, to say what is usual
OF_A_NORMAL = 1.4826  # times the median distance from its median is a normal distribution's deviation
FAR = 4.0  # spreads from which a text is not taken to be on its side more surely: one odd token gets there
MAX_STEPS, CLOSE = 100, 1e-9


def projection(means: Mapping[HookPoint, Tensor], pushes: Mapping[HookPoint, Tensor]) -> Tensor:
    """The sum over hook points of residuals [n, d_model] times the push, [n] float64."""
    at = (means[point].cpu().double() @ push.double() for point, push in pushes.items())
    return torch.stack([*at]).sum(0)


def measured(positive: Tensor, negative: Tensor, middle: float) -> Detector | None:
    """The detector by held-out texts of either side; None where they are too few, or all alike.

    Source of the probability: Platt 1999, "Probabilistic outputs for support vector machines", whose
    targets keep it finite where the sides are apart.

    Args:
        positive, negative: their projections [n], from the middle of the sides.
        middle: the projection of what is in the middle of the sides.
    """
    if min(len(positive), len(negative)) < MIN_HELD_OUT:
        return None
    within = torch.cat([side - side.quantile(0.5) for side in (positive, negative)])
    spread = OF_A_NORMAL * float(within.abs().quantile(0.5))
    if not spread > 0:
        return None
    z = torch.cat([positive, negative]).double() / spread
    slope, intercept = _logistic(z.clamp(-FAR, FAR), len(positive))
    return Detector(middle=middle, spread=spread, slope=slope, intercept=intercept, n_texts=len(z))


def _logistic(z: Tensor, n_positive: int) -> tuple[float, float]:
    """Slope and intercept of the probability that one of the first n is what z [n] belongs to."""
    n_negative = len(z) - n_positive
    target = torch.full_like(z, 1 / (n_negative + 2))
    target[:n_positive] = (n_positive + 1) / (n_positive + 2)
    X = torch.stack([z, torch.ones_like(z)], dim=1)  # [n, 2]
    found = torch.zeros(2, dtype=torch.float64)
    for _ in range(MAX_STEPS):  # Newton's method; the targets keep the minimum finite
        p = (X @ found).sigmoid()
        curvature = X.T @ (X * (p * (1 - p))[:, None]) + 1e-12 * torch.eye(2, dtype=torch.float64)
        step = torch.linalg.solve(curvature, X.T @ (target - p))
        found += step.clamp(-1, 1)
        if float(step.abs().max()) < CLOSE:
            break
    return float(found[0]), float(found[1])


def scores(detector: Detector, projections: Tensor) -> Tensor:
    """Projections in units of the spread within a side, from the middle of the two, [n] float64."""
    return (projections.double() - detector.middle) / detector.spread


def probabilities(detector: Detector, z: Tensor) -> Tensor:
    """That scores [n] are those of texts of the first side, [n] float64."""
    return (detector.slope * z.clamp(-FAR, FAR) + detector.intercept).sigmoid()


@dataclass(frozen=True)
class Score:
    """What a vector says of a text."""

    z: float  # see `scores`
    probability: float  # that it is of the first side
    tokens: Sequence[float | None]  # z of each token; None of those that do not count


def known_detector(vector: SteeringVector, name: str) -> Detector:
    """A vector's detector; `name` is what the error calls the vector.

    Raises:
        InputError: it has none.
    """
    if not vector.pushes:
        raise InputError(
            f"{name}: acts on logits alone, and texts are scored by a push: "
            "fit with another method than logodds"
        )
    if vector.metadata.detector is None:
        raise InputError(
            f"{name}: nothing is known of how its two sides project on the vector; fit it again, on some "
            "twenty texts a side or more"
        )
    return vector.metadata.detector


def score(
    engine: Engine, vector: SteeringVector, texts: Sequence[Tokens], name: str = "the vector"
) -> Iterator[tuple[int, Score]]:
    """(number of the text, what the vector says of it), in any order, of those with tokens that count.

        tokens = [engine.tokenize(Passage("here", "Thank you ever so much."))]
        for number, found in score(engine, polite, tokens):
            print(number, found.z, found.probability)

    Raises:
        InputError: the vector has no detector, or pushes nothing.
    """
    known = known_detector(vector, name)
    for batch in engine.residuals(texts, list(vector.pushes)):
        by_token = scores(known, projection(batch.resid, vector.pushes))  # [n]
        yield from _of_batch(batch, by_token, known, texts)


def _of_batch(
    batch: ResidualBatch, by_token: Tensor, known: Detector, texts: Sequence[Tokens]
) -> Iterator[tuple[int, Score]]:
    for row, text in enumerate(batch.texts):
        own = by_token[batch.text_index.cpu() == row]
        z, values = own.mean(), iter(own.tolist())
        tokens = [next(values) if counts else None for counts in texts[text].counts]
        yield text, Score(float(z), float(probabilities(known, z)), tokens)
