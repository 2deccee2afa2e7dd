"""The weighted sum of vectors, and how alike two are.

Knows vectors and their metadata; knows nothing of models.
"""

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from ..errors import IncompatibleVectorError, InputError
from ..models.hooks import HookPoint
from .metadata import PointMetadata, VectorMetadata
from .vector import SteeringVector, mean_norms, total_pushes


class Part(NamedTuple):
    """A vector of a sum."""

    name: str  # what errors and the sum's metadata call it
    vector: SteeringVector
    weight: float
    sha256: str = ""  # of its file; none of a vector that was not saved


def combine(parts: Sequence[Part | tuple[str, SteeringVector, float]]) -> SteeringVector:
    """The weighted sum of vectors, hook point by hook point; nothing is rescaled.

        warm = combine([("polite", polite, 1.0), ("happy", happy, 0.5)])

    Vectors at different hook points join; where parents measured different residual norms, the sum
    has their mean.

    Args:
        parts: (name, vector, weight) each; the metadata of the sum names them as its parents.

    Raises:
        InputError: no part, a weight that is not finite or 0, or a sum that is zero or not finite.
        IncompatibleVectorError: the vectors belong to models of different shape.
    """
    terms = [Part(*part) for part in parts]
    if not terms:
        raise InputError("nothing to combine: give one or more vector files, each with :WEIGHT")
    for name, _, weight, _ in terms:
        if not math.isfinite(weight) or weight == 0:
            raise InputError(f"{name}: weight must be a finite number other than 0, got {weight}")
    vectors = [term.vector for term in terms]
    check_same_model([(term.name, term.vector) for term in terms])
    pushes = dict(sorted(total_pushes(vectors, [term.weight for term in terms]).items()))
    _check_sum(pushes)
    points = {str(point): PointMetadata.without_texts(norm) for point, norm in mean_norms(vectors).items()}
    parents = [
        {"name": name, "weight": weight, "sha256": sha256, "metadata": vector.metadata.model_dump()}
        for name, vector, weight, sha256 in terms
    ]
    first = vectors[0].metadata
    metadata = VectorMetadata.new(first.model_id, first.model_shape, "combine", points, parents=parents)
    hashes = torch.cat([vector.text_hashes for vector in vectors]).unique()  # type: ignore[no-untyped-call]
    return SteeringVector(metadata, pushes, {}, hashes)


def _check_sum(pushes: Mapping[HookPoint, Tensor]) -> None:
    for point, push in pushes.items():
        if not bool(torch.isfinite(push).all()):
            raise InputError(
                f"the weighted sum at {point} is not finite: a weight is too large for 32-bit numbers"
            )
        if not push.any():
            raise InputError(f"the weighted sum at {point} is zero: nothing would be steered")


def check_same_model(named: Sequence[tuple[str, SteeringVector]]) -> None:
    """Hold vectors against the first one's model.

    Raises:
        IncompatibleVectorError: the shapes differ.
    """
    (first_name, first), *others = named
    own = first.metadata
    for name, vector in others:
        other = vector.metadata
        if not other.model_shape.steers_like(own.model_shape):
            raise IncompatibleVectorError(
                f"{name} was fitted on {other.model_id!r} ({other.model_shape}), "
                f"{first_name} on {own.model_id!r} ({own.model_shape}): "
                "only vectors of one model can be summed"
            )


def cosine(left: SteeringVector, right: SteeringVector) -> float | None:
    """Cosine of two vectors over all hook points together; None where they share none."""
    shared = left.pushes.keys() & right.pushes.keys()
    dot = sum(float(left.pushes[point] @ right.pushes[point]) for point in shared)
    lengths = (math.hypot(*(float(push.norm()) for push in v.pushes.values())) for v in (left, right))
    return dot / math.prod(lengths) if shared else None
