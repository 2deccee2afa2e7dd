"""Loading a model: the one that vectors belong to, or one with SAEs on it."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from ..shared import console
from .options import ModelOptions

if TYPE_CHECKING:
    from ...models.engine import Engine
    from ...models.hooks import HookPoint
    from ...saes.sae import SparseAutoencoder
    from ...vectors.vector import SteeringVector


def load_engine(
    model: str | None, paths: list[Path], vectors: "list[SteeringVector]", dtype: str, device: str
) -> "Engine":
    """Load the model named, or the vectors' own, once all vectors are known to fit together."""
    from ...models.engine import Engine
    from ...models.load import model_shape
    from ...models.resolve import DEFAULT_MODEL
    from ...vectors.combine import check_same_model

    name = model or DEFAULT_MODEL
    if vectors:
        check_same_model([(str(path), vector) for path, vector in zip(paths, vectors, strict=True)])
        name = model or vectors[0].own_model(str(paths[0]))
        shape = model_shape(name, console.note)
        for path, vector in zip(paths, vectors, strict=True):
            vector.check_fits(shape, name, str(path))
    return Engine.load(name, dtype=dtype, device=device, say=console.note)


def load_engine_with(
    saes: "Mapping[HookPoint, SparseAutoencoder]",
    where: ModelOptions,
    points: "Iterable[HookPoint] | None",
    *,
    head: bool = False,
) -> "tuple[Engine, dict[HookPoint, SparseAutoencoder]]":
    """Load the blocks that hook points need, all of them if None, and the SAEs onto the model."""
    from ...models.engine import Engine
    from ...models.load import model_shape
    from ...saes.load import check_blocks, open_saes

    if saes:
        check_blocks(saes, where.name, model_shape(where.name, console.note).n_layers)
    engine = Engine.load(
        where.name, points=points, head=head, dtype=where.dtype, device=where.device, say=console.note
    )
    return engine, open_saes(saes, engine, name=where.name, warn=console.warn)
