"""Make another program's control vector one of ours: at which blocks, and how much alpha 1 is.

Knows the engine, control-vector files and the unit of alpha; knows nothing of the terminal.
"""

from collections.abc import Sequence
from typing import Any

from ..errors import VectorFileError
from ..models.engine import Engine
from ..models.hooks import HookPoint
from .gguf import ControlVector
from .metadata import PointMetadata, VectorMetadata
from .vector import NO_TEXTS, SteeringVector, unit_scale


def adopt(
    control: ControlVector,
    points: Sequence[HookPoint],
    norms: dict[HookPoint, float],
    *,
    engine: Engine,
    origin: str,
    provenance: dict[str, Any],
) -> tuple[SteeringVector, float]:
    """A file's directions as one vector in our unit; their lengths relative to each other are kept.

    Args:
        points: where to steer: all that the file has, or some of them.
        norms: the median residual norm at each.
        provenance: what else is to be recorded as parameters.

    Returns:
        the vector, whose alpha 1 pushes by 1 % of the median residual norm, all points together, and
        the scale of the file's directions that alpha 1 is.

    Raises:
        VectorFileError: all directions are zero.
    """
    found = control.at_points(origin, str(provenance["file"]))
    directions = {point: found[point] for point in points}
    if not any(direction.any() for direction in directions.values()):
        raise VectorFileError(f"{provenance['file']}: its directions are zero: nothing would be steered")
    scale = unit_scale(directions, norms)
    metadata = VectorMetadata.new(
        engine.model_id,
        engine.shape,
        "import",
        {str(point): PointMetadata.without_texts(norms[point]) for point in points},
        parameters={"gguf_origin": origin, "scale": scale, "model_hint": control.model_hint, **provenance},
    )
    pushes = {point: scale * direction for point, direction in directions.items()}
    return SteeringVector(metadata, pushes, {}, NO_TEXTS), scale
