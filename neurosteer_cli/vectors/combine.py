"""The weighted sum of vectors, and how alike two are.

Knows vectors; knows nothing of files or models.
"""

import math
from collections.abc import Sequence
from dataclasses import asdict

import torch
from torch import Tensor

from ..errors import IncompatibleVectorError, InputError
from ..models.hooks import HookPoint
from .metadata import FORMAT_VERSION, PointMetadata, VectorMetadata
from .vector import SteeringVector


def combine(
    parts: Sequence[tuple[str, SteeringVector, float, str]], *, program_version: str, created: str
) -> SteeringVector:
    """The weighted sum of vectors, hook point by hook point; nothing is rescaled.

    Args:
        parts: (name, vector, weight, sha256 of its file) each.

    Raises:
        InputError: no part, or a weight that is not finite or 0.
        IncompatibleVectorError: the vectors belong to models of different shape.
    """
    if not parts:
        raise InputError("nothing to combine: give one or more vector files, each with :WEIGHT")
    first_name, first = parts[0][:2]
    for name, vector, weight, _ in parts:
        if not math.isfinite(weight) or weight == 0:
            raise InputError(f"{name}: weight must be a finite number other than 0, got {weight}")
        check_same_model([(first_name, first), (name, vector)])
    pushes: dict[HookPoint, Tensor] = {}
    facts: dict[str, list[PointMetadata]] = {}
    for _, vector, weight, _ in parts:
        for point, push in vector.pushes.items():
            pushes[point] = pushes.get(point, torch.zeros_like(push)) + weight * push
            facts.setdefault(str(point), []).append(vector.metadata.points[str(point)])
    for point, push in pushes.items():
        if not bool(torch.isfinite(push).all()):
            raise InputError(
                f"the weighted sum at {point} is not finite: a weight is too large for 32-bit numbers"
            )
        if not push.any():
            raise InputError(f"the weighted sum at {point} is zero: nothing would be steered")
    metadata = VectorMetadata(
        format_version=FORMAT_VERSION,
        program_version=program_version,
        created=created,
        model_id=first.metadata.model_id,
        model_shape=first.metadata.model_shape,
        method="combine",
        parameters={},
        positive=None,
        negative=None,
        points={point: _merged(several) for point, several in facts.items()},
        parents=[
            {"name": name, "weight": weight, "sha256": sha256, "metadata": asdict(vector.metadata)}
            for name, vector, weight, sha256 in parts
        ],
        calibration=None,
    )
    hashes = torch.cat([vector.text_hashes for _, vector, _, _ in parts]).unique()  # type: ignore[no-untyped-call]
    return SteeringVector(metadata, dict(sorted(pushes.items())), {}, hashes)


def check_same_model(named: Sequence[tuple[str, SteeringVector]]) -> None:
    """Hold vectors against the first one's model.

    Raises:
        IncompatibleVectorError: the shapes differ.
    """
    first_name, first = named[0]
    own = first.metadata
    for name, vector in named[1:]:
        other = vector.metadata
        if other.model_shape != own.model_shape:
            raise IncompatibleVectorError(
                f"{name} was fitted on {other.model_id!r} ({other.model_shape}), "
                f"{first_name} on {own.model_id!r} ({own.model_shape}): "
                "only vectors of one model can be summed"
            )


def _merged(several: list[PointMetadata]) -> PointMetadata:
    """The facts of a sum: each parent measured the residual norm on its own texts."""
    resid_norm = sum(facts.resid_norm for facts in several) / len(several)
    return PointMetadata(resid_norm=resid_norm, shift_norm=None, auroc=None, sae=None)


def cosine(left: SteeringVector, right: SteeringVector) -> float | None:
    """Cosine of two vectors over all hook points together; None where they share none."""
    shared = left.pushes.keys() & right.pushes.keys()
    if not shared:
        return None
    dot = sum(float(left.pushes[point] @ right.pushes[point]) for point in shared)
    return dot / (_norm(left) * _norm(right))


def _norm(vector: SteeringVector) -> float:
    return math.sqrt(sum(float(push.square().sum()) for push in vector.pushes.values()))
