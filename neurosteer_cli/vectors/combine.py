"""The weighted sum of vectors, and how alike two are.

Knows vectors, their kinds and their metadata; knows nothing of models.
"""

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from ..errors import IncompatibleVectorError, InputError
from ..models.hooks import HookPoint
from .kinds import TokenBias
from .metadata import Kind, PointMetadata, VectorMetadata
from .vector import Latents, SteeringVector, mean_norms, total_pushes


class Part(NamedTuple):
    """A vector of a sum."""

    name: str  # what errors and the sum's metadata call it
    vector: SteeringVector
    weight: float
    sha256: str = ""  # of its file; none of a vector that was not saved


def combine(parts: Sequence[Part | tuple[str, SteeringVector, float]]) -> SteeringVector:
    """The weighted sum of vectors that act alike, hook point by hook point; nothing is rescaled.

        warm = combine([("polite", polite, 1.0), ("happy", happy, 0.5)])

    Vectors at different hook points join; where parents measured different residual norms, the sum
    has their mean. What is added to logits is summed by token. A sum of vectors that ablate or clamp acts on
    one component, along the sum of their pushes; of such that clamp latents, on the latents of all.

    Args:
        parts: (name, vector, weight) each; the metadata of the sum names them as its parents.

    Raises:
        InputError: no part, a weight that is not finite or 0, or a sum that is zero or not finite.
        IncompatibleVectorError: the vectors belong to models of different shape, or do not act alike.
        SAEError: latents of one hook point are clamped by several, and their SAE is not at hand.
    """
    terms = [Part(*part) for part in parts]
    if not terms:
        raise InputError("nothing to combine: give one or more vector files, each with :WEIGHT")
    for name, _, weight, _ in terms:
        if not math.isfinite(weight) or weight == 0:
            raise InputError(f"{name}: weight must be a finite number other than 0, got {weight}")
    check_same_model([(term.name, term.vector) for term in terms])
    kind, vectors = _kind(terms), [term.vector for term in terms]
    pushes = dict(sorted(total_pushes(vectors, [term.weight for term in terms]).items()))
    _check_pushes(pushes)
    bias = _total_bias(terms)
    if not pushes and bias is None:
        raise InputError("the weighted sum of what is added to logits is zero: nothing would be steered")
    latents = _clamped_latents(terms, pushes) if kind == "clamp" else {}
    hashes = torch.cat([vector.text_hashes for vector in vectors]).unique()  # type: ignore[no-untyped-call]
    return SteeringVector(_metadata(terms, kind, pushes, latents), pushes, latents, hashes, bias)


def _kind(terms: Sequence[Part]) -> Kind:
    """How the sum acts; what adds to residuals and what adds to logits make one that adds to both."""
    names: dict[Kind, str] = {}
    for term in terms:
        names.setdefault(term.vector.metadata.kind, term.name)
    if names.keys() == {"add", "logits"}:
        return "add"
    if len(names) > 1:
        (kind, name), (other, other_name), *_ = names.items()
        raise IncompatibleVectorError(
            f"{name} is of the kind {kind}, {other_name} of the kind {other}: only vectors that act alike "
            "can be summed; give each to `gen` with a --vector of its own"
        )
    return next(iter(names))


def _check_pushes(pushes: Mapping[HookPoint, Tensor]) -> None:
    for point, push in pushes.items():
        if not bool(torch.isfinite(push).all()):
            raise InputError(
                f"the weighted sum at {point} is not finite: a weight is too large for 32-bit numbers"
            )
        if not push.any():
            raise InputError(f"the weighted sum at {point} is zero: nothing would be steered")


def _total_bias(terms: Sequence[Part]) -> TokenBias | None:
    biases = [bias * term.weight for term in terms if (bias := term.vector.bias)]
    if not biases:
        return None
    total = sum(biases[1:], biases[0])
    if not bool(torch.isfinite(total.bias).all()):
        raise InputError(
            "the weighted sum of what is added to logits is not finite: a weight is too large for 32-bit "
            "numbers"
        )
    some = total.bias != 0
    return TokenBias(total.ids[some], total.bias[some]) if some.any() else None


def _clamped_latents(terms: Sequence[Part], pushes: Mapping[HookPoint, Tensor]) -> dict[HookPoint, Latents]:
    """The latents that a sum clamps, by hook point; where it clamps a component there are none."""
    found = {}
    for point in pushes:
        here = [term for term in terms if point in term.vector.pushes]
        clamping = [term for term in here if point in term.vector.latents]
        saes = {term.vector.metadata.points[str(point)].sae for term in clamping}
        if clamping and (len(saes) > 1 or len(clamping) < len(here)):
            raise IncompatibleVectorError(
                f"{' and '.join(term.name for term in here)} do not clamp latents of one SAE at {point}: "
                "give each to `gen` with a --vector of its own"
            )
        if clamping:
            found[point] = _total_latents(clamping, point)
    return found


def _total_latents(terms: Sequence[Part], point: HookPoint) -> Latents:
    """The latents of vectors at a hook point, the weights of each latent summed, strongest first."""
    sae = terms[0].vector.sae_at(point)
    weights = torch.zeros(sae.d_sae)
    rates = torch.zeros(2, sae.d_sae)
    for _, vector, weight, _ in terms:
        latents = vector.latents[point]
        weights[latents.ids] += weight * latents.scaled_to(vector.pushes[point], sae)
        rates[:, latents.ids] = latents.firing_rates
    ids = weights.abs().argsort(descending=True)[: int(weights.count_nonzero())]
    return Latents(ids, weights[ids], rates[:, ids])


def _metadata(
    terms: Sequence[Part],
    kind: Kind,
    pushes: Mapping[HookPoint, Tensor],
    latents: Mapping[HookPoint, Latents],
) -> VectorMetadata:
    norms = mean_norms([term.vector for term in terms])
    points = {}
    for point, push in pushes.items():
        here = [term for term in terms if point in term.vector.pushes]
        sae = here[0].vector.metadata.points[str(point)].sae if point in latents else None
        measured = PointMetadata.without_texts(norms[point], sae)
        points[str(point)] = measured.model_copy(update={"middle": _middle(here, point, push)})
    parents = [
        {"name": name, "weight": weight, "sha256": sha256, "metadata": vector.metadata.model_dump()}
        for name, vector, weight, sha256 in terms
    ]
    own = terms[0].vector.metadata
    return VectorMetadata.new(own.model_id, own.model_shape, "combine", points, kind=kind, parents=parents)


def _middle(terms: Sequence[Part], point: HookPoint, push: Tensor) -> float | None:
    """The middle of the two sides along a sum, from those along its parts; None where one is not known."""
    total = 0.0
    for _, vector, weight, _ in terms:
        if (middle := vector.metadata.points[str(point)].middle) is None:
            return None
        total += weight * float(vector.pushes[point].norm()) * middle
    return total / float(push.norm())


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


def bias_cosine(left: SteeringVector, right: SteeringVector) -> float | None:
    """Cosine of what two vectors add to logits, over all tokens; None where one adds nothing."""
    if not (left.bias and right.bias):
        return None
    d_vocab = 1 + max(int(vector.bias.ids.max()) for vector in (left, right) if vector.bias)
    one, other = (bias.dense(d_vocab) for bias in (left.bias, right.bias))
    return float(torch.nn.functional.cosine_similarity(one, other, dim=0))
