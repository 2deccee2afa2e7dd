"""Vectors by name: what a request may steer with, and a card of each. A name never becomes a path.

Knows vector files, alphas and descriptions of latents; knows nothing of requests.
"""

import math
import re
from collections.abc import Iterator, Mapping
from typing import Any

from ..errors import InputError, NeurosteerError
from ..models.hooks import HookPoint
from ..models.shape import ModelShape
from ..saes.descriptions import Descriptions, find
from ..vectors.vector import MAX_REQUEST_ALPHA, Latents, SteeringVector

VECTOR_NAME = "[A-Za-z0-9][A-Za-z0-9_.-]{0,63}"
N_LATENTS = 24  # told of a vector


class UnknownVectorError(InputError):
    """No vector has that name."""


class VectorRegistry(dict[str, SteeringVector]):
    """The vectors of one model, by name; `add` checks what is taken in."""

    def __init__(self, shape: ModelShape, model_id: str) -> None:
        self.shape, self.model_id = shape, model_id

    def __missing__(self, name: str) -> SteeringVector:
        known = ", ".join(sorted(self)[:20]) or "there is none"
        raise UnknownVectorError(f"no vector is named {name[:64]!r}; known: {known}")

    def add(self, name: str, vector: SteeringVector, where: str) -> None:
        """Take a vector in; `where` is what errors call it. One of another model is not taken."""
        self.check_free(name, where)
        self.replace(name, vector, where)

    def replace(self, name: str, vector: SteeringVector, where: str) -> None:
        """Put a vector in another's place, or take it in."""
        if not re.fullmatch(VECTOR_NAME, name):
            raise InputError(
                f"{where}: {name[:80]!r} cannot be a vector's name; "
                "use 1 to 64 letters, digits, '_', '-' and '.'"
            )
        vector.check_fits(self.shape, self.model_id, where)
        self[name] = vector

    def check_free(self, name: str, where: str) -> None:
        """Refuse a name that is taken."""
        if name in self:
            raise InputError(f"{where}: there is a vector named {name!r} already; choose another name")

    def alphas(self, model: str, steering: Mapping[str, float]) -> dict[str, float]:
        """What a model's name such as `smollm2+polite:8` and a request's steering come to, once checked."""
        alphas: dict[str, float] = {}
        for name, alpha in [*self._in_name(model), *steering.items()]:
            self[name]
            if name in alphas:
                raise InputError(f"vector {name!r} is named twice; give it one alpha")
            if not math.isfinite(alpha) or abs(alpha) > MAX_REQUEST_ALPHA:
                raise InputError(
                    f"alpha of {name!r} must be a number from -{MAX_REQUEST_ALPHA:g} to "
                    f"{MAX_REQUEST_ALPHA:g}, got {alpha:g}"
                )
            alphas[name] = alpha
        return alphas

    def _in_name(self, model: str) -> Iterator[tuple[str, float]]:
        if model != self.model_id and not model.startswith(f"{self.model_id}+"):
            raise UnknownVectorError(
                f"model {model[:80]!r} is not served; "
                f"ask for {self.model_id!r} or {self.model_id}+VECTOR:ALPHA"
            )
        for part in model.removeprefix(self.model_id).split("+")[1:]:
            name, _, alpha = part.partition(":")
            if not name:
                raise InputError(f"model {model[:80]!r}: name a vector after each +, as +VECTOR:ALPHA")
            if not alpha:
                raise InputError(f"model {model[:80]!r}: give the alpha of {name[:64]!r}, as {name[:64]}:8")
            try:
                yield name, float(alpha)
            except ValueError as error:
                raise InputError(f"model {model[:80]!r}: alpha {alpha[:20]!r} is not a number") from error

    @property
    def model_names(self) -> list[str]:
        """The model alone, and with each vector at the alpha suggested for it."""
        return [self.model_id, *map(self.suggested_model, sorted(self))]

    def suggested_model(self, name: str) -> str:
        """The model's name with a vector, at the alpha suggested for it."""
        return f"{self.model_id}+{name}:{suggested_alpha(self[name]):g}"

    def card(self, name: str) -> dict[str, Any]:
        """What there is to say of a vector, latents left out: its sides, places and strength."""
        vector = self[name]
        metadata, calibration = vector.metadata, vector.metadata.calibration
        aurocs = [point.auroc for point in metadata.points.values() if point.auroc is not None]
        return {
            "id": name,
            "object": "vector",
            "model": self.suggested_model(name),
            "method": metadata.method,
            "kind": metadata.kind,
            "towards": metadata.positive.label if metadata.positive else None,
            "away": metadata.negative.label if metadata.negative else None,
            "n_texts": sum(side.n_texts for side in (metadata.positive, metadata.negative) if side),
            "hook_points": list(metadata.points),
            "auroc": sum(aurocs) / len(aurocs) if aurocs else None,
            "suggested_alpha": suggested_alpha(vector),
            "calibrated": calibration and calibration.model_dump(include={"judge", "alpha_up", "alpha_down"}),
            "dose_per_alpha": vector.dose(1.0) if vector.adds else None,
        }


def suggested_alpha(vector: SteeringVector) -> float:
    """The alpha that calibration found, or the usual one."""
    calibration = vector.metadata.calibration
    return (calibration and calibration.alpha_up) or vector.default_alpha


def strongest_latents(vector: SteeringVector) -> list[dict[str, Any]]:
    """The latents of largest weight, each beside all of its hook point, for these share the push equally.

    Their names and where they fire are told as far as the SAE's descriptions are at hand.
    """
    found = [
        (abs(weight) / float(latents.weights.abs().sum()), point, latent)
        for point, latents in vector.latents.items()
        for latent, weight in zip(latents.ids.tolist(), latents.weights.tolist(), strict=True)
    ]
    found = sorted(found, key=lambda each: each[0], reverse=True)[:N_LATENTS]
    points = {point for _, point, _ in found}
    described = {point: _descriptions(vector, point) for point in points}
    numbers = {point: _numbers(vector.latents[point]) for point in points}
    return [
        {
            "hook_point": str(point),
            "latent_id": latent,
            "share": round(share, 4),
            **numbers[point][latent],
            **_shown(described[point], latent),
        }
        for share, point, latent in found
    ]


def _numbers(latents: Latents) -> dict[int, dict[str, float]]:
    """Of each latent its weight, and the share of tokens of either side at which it fires."""
    names = ("weight", "fires_towards", "fires_away")
    return {
        latent: {name: round(number, 4) for name, number in zip(names, numbers, strict=True)}
        for latent, *numbers in latents.first(len(latents.ids))
    }


def _shown(descriptions: Descriptions | None, latent: int) -> dict[str, Any]:
    if descriptions is None:
        return {"name": None, "tokens": [], "context": None}
    one = descriptions.latents[latent]
    context = list(one.contexts[0][:3]) if one.contexts else None
    return {"name": one.name, "tokens": one.naming, "context": context}


def _descriptions(vector: SteeringVector, point: HookPoint) -> Descriptions | None:
    try:
        sae = vector.load_sae(point)
        return find(sae, vector.metadata.model_id) if sae else None
    except NeurosteerError:  # not at hand: numbers alone
        return None
