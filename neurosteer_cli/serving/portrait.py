"""What there is to say of a vector, for a page: its sides, strength and strongest latents by name.

Knows vector files and descriptions of latents; knows nothing of requests.
"""

from typing import Any

from ..errors import NeurosteerError
from ..models.hooks import HookPoint
from ..saes.descriptions import find, names
from ..saes.load import load_sae
from ..vectors.vector import SteeringVector
from .registry import Catalogue

N_LATENTS = 8  # at each hook point


def portrait(catalogue: Catalogue, name: str) -> dict[str, Any]:
    """The facts of a vector, latents left out.

    Raises:
        UnknownVectorError: no such vector.
    """
    vector = catalogue[name]
    facts = vector.metadata
    aurocs = [point.auroc for point in facts.points.values() if point.auroc is not None]
    calibration = facts.calibration
    return {
        "id": name,
        "object": "vector",
        "model": f"{catalogue.model_id}+{name}:{catalogue.suggested_alpha(name):g}",
        "method": facts.method,
        "towards": facts.positive.label if facts.positive else None,
        "away": facts.negative.label if facts.negative else None,
        "n_texts": sum(side.n_texts for side in (facts.positive, facts.negative) if side),
        "hook_points": list(facts.points),
        "auroc": sum(aurocs) / len(aurocs) if aurocs else None,
        "suggested_alpha": catalogue.suggested_alpha(name),
        "calibrated": None if calibration is None else {
            "judge": calibration.judge,
            "alpha_up": calibration.alpha_up,
            "alpha_down": calibration.alpha_down,
        },
        "dose_per_alpha": vector.dose(1.0),
    }  # fmt: skip


def strongest_latents(vector: SteeringVector, model_id: str) -> list[dict[str, Any]]:
    """The latents of largest weight at each hook point, named where the SAE's descriptions are at hand."""
    rows = []
    for point, latents in vector.latents.items():
        ids = latents.ids.tolist()[:N_LATENTS]
        called = _names(vector, point, model_id, ids)
        rates = zip(*latents.firing_rates.tolist(), strict=True)
        for latent, weight, (towards, away) in zip(ids, latents.weights.tolist(), rates, strict=False):
            rows.append({
                "hook_point": str(point), "latent_id": latent, "weight": round(weight, 4),
                "fires_towards": round(towards, 4), "fires_away": round(away, 4), "name": called.get(latent),
            })  # fmt: skip
    return rows


def _names(vector: SteeringVector, point: HookPoint, model_id: str, ids: list[int]) -> dict[int, str]:
    sae = vector.metadata.points[str(point)].sae
    if sae is None:
        return {}
    try:
        loaded = load_sae(sae.sae_id, model_id=model_id, layer=point.layer, sha256=sae.sha256)
        return names(find(loaded, model_id), ids)
    except NeurosteerError:  # not at hand: numbers alone
        return {}
