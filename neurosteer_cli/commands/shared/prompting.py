"""What gen, eval and calibrate share: loading the model that vectors belong to."""

from pathlib import Path
from typing import TYPE_CHECKING

from ...errors import ModelError
from ..shared import console

if TYPE_CHECKING:
    from ...models.engine import Engine
    from ...vectors.vector import SteeringVector


def load_engine(
    model: str | None, paths: list[Path], vectors: "list[SteeringVector]", dtype: str, device: str
) -> "Engine":
    """Load the model named, or the vectors' own, once all vectors are known to fit together."""
    from ...models.engine import Engine
    from ...models.load import model_shape
    from ...models.resolve import DEFAULT_MODEL
    from ...vectors.combine import check_same_model

    name = model or (vectors[0].metadata.model_id if vectors else DEFAULT_MODEL)
    if vectors:
        check_same_model([(str(path), vector) for path, vector in zip(paths, vectors, strict=True)])
        if not model and Path(name).is_absolute() and not Path(name).exists():
            raise ModelError(
                f"{paths[0]} was fitted on {name!r}, which is not there any more: "
                "pass --model with the place where it is now"
            )
        shape = model_shape(name, console.note)
        for path, vector in zip(paths, vectors, strict=True):
            vector.check_fits(shape, name, str(path))
    return Engine.load(name, dtype=dtype, device=device, say=console.note)
