"""Loading a model: the one that vectors belong to, or one with SAEs on it."""

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import TYPE_CHECKING

from ...errors import InputError
from . import console
from .options import ModelOptions

if TYPE_CHECKING:
    from ...models.engine import Engine
    from ...models.hooks import HookPoint
    from ...saes.load import SAEs
    from ...vectors.vector import SteeringVector


def load_engine(where: ModelOptions, vectors: "Sequence[tuple[str, SteeringVector]]" = ()) -> "Engine":
    """Load the model named, or the vectors' own, once all vectors, each with its name, are known to fit."""
    from ...models.engine import Engine
    from ...models.load import model_shape
    from ...vectors.combine import check_same_model

    name = where.name
    if vectors:
        check_same_model(vectors)
        first_name, first = vectors[0]
        name = where.model or first.own_model(first_name)
        shape = model_shape(name, console.note)
        for vector_name, vector in vectors:
            vector.check_fits(shape, name, vector_name, console.warn)
    return Engine.load(name, **where.loading, say=console.note)


def pricing_models(
    names: Sequence[str], where: ModelOptions
) -> "Callable[[Engine], dict[str, Callable[[], Engine]]]":
    """What prices fluency, each known to be there; given the model that writes, what loads each in its place.

    By the names that engines go by; none stands for the model that writes.

    Raises:
        InputError: a model is named twice.
        ModelError: a model cannot be found, fetched or read.
    """
    from ...models.checkpoints.resolve import model_id
    from ...models.engine import Engine
    from ...models.load import model_shape

    by_id = {model_id(name): name for name in names}
    if len(by_id) < len(names):
        raise InputError("--ppl-model: each model once")
    for name in names:
        model_shape(name, console.note)

    def load(name: str, writer: Engine) -> Engine:
        writer.unload()  # one model at a time
        return Engine.load(name, **where.loading, say=console.note)

    def loaders(writer: Engine) -> dict[str, Callable[[], Engine]]:
        return {known: partial(load, name, writer) for known, name in by_id.items()}

    return loaders


def load_engine_with(
    saes: "SAEs", where: ModelOptions, points: "Iterable[HookPoint] | None", *, head: bool = False
) -> "tuple[Engine, SAEs]":
    """Load the blocks that hook points need, all of them if None, and the SAEs onto the model."""
    from ...models.engine import Engine
    from ...models.load import model_shape
    from ...saes.load import check_fit, open_saes

    if saes:
        check_fit(saes, model_shape(where.name, console.note), where.name)
    needed = None if points is None else list(points)
    if needed == [] and any(sae.centred for sae in saes.values()):
        needed = [min(saes)]  # whether blocks disregard a residual's mean is tried on one
    engine = Engine.load(where.name, points=needed, head=head, **where.loading, say=console.note)
    return engine, open_saes(saes, engine, name=where.name, warn=console.warn)
