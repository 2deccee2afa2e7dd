"""Another program's directions as a vector of ours.

Knows control vectors and the unit of alpha; knows nothing of the form of their files.
"""

import math
from collections.abc import Mapping

from ...errors import VectorFileError
from ...models.engine import Engine
from ...models.hooks import HookPoint
from ..metadata import PointMetadata, VectorMetadata
from ..vector import NO_TEXTS, SteeringVector, dose_of, unit_scale
from .gguf import ControlVector


def from_control_vector(
    control: ControlVector,
    origin: str,
    norms: Mapping[HookPoint, float],
    engine: Engine,
    *,
    texts: str = "neutral",
) -> SteeringVector:
    """Another program's directions as one vector in the unit of alpha; they keep their relative lengths.

    Its `parameters["scale"]` is the scale of the directions that alpha 1 is. `norms` is the median
    residual norm on some texts wherever to steer: at all hook points of the file, or some.
    """
    found = control.at_points(origin)
    directions = {point: found[point] for point in norms}
    if not any(direction.any() for direction in directions.values()):
        raise VectorFileError(f"{control.path.name}: its directions are zero: nothing would be steered")
    if not 0 < dose_of(directions, norms) < math.inf:
        raise VectorFileError(f"{control.path.name}: its directions are too short or too long for float32")
    scale = unit_scale(directions, norms)
    parameters = {
        "gguf_origin": origin,
        "scale": scale,
        "model_hint": control.model_hint,
        "file": control.path.name,
        "sha256": control.sha256,
        "texts": texts,
    }
    points = {str(point): PointMetadata.without_texts(norm) for point, norm in norms.items()}
    metadata = VectorMetadata.new(engine.model_id, engine.shape, "import", points, parameters=parameters)
    pushes = {point: scale * direction for point, direction in directions.items()}
    return SteeringVector(metadata, pushes, {}, NO_TEXTS)
