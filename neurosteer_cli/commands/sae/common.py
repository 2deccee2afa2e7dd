"""What the commands about SAEs share: SAEs by options, and a model with them on it."""

from collections.abc import Iterable
from typing import TYPE_CHECKING

from ...errors import InputError
from ..shared import console
from ..shared.options import ModelOptions, parse_layers

if TYPE_CHECKING:
    from ...models.engine import Engine
    from ...models.hooks import HookPoint
    from ...saes.sae import SparseAutoencoder

CONTEXT = 256  # tokens of a sequence


def load_family(sae_id: str, model: str, layers: str | None) -> "dict[HookPoint, SparseAutoencoder]":
    """The SAE asked for, or those of a family at the blocks asked for; all of them if none is named."""
    from ...saes.load import find_saes

    wanted = parse_layers(layers) if layers is not None else None
    found = find_saes(sae_id, model_id=model, layers=wanted)
    if wanted is not None and [point.layer for point in found] != wanted:
        raise InputError(f"--layers {layers}: SAE {sae_id!r} belongs to {', '.join(map(str, found))}")
    return found


def load_engine(
    where: ModelOptions,
    model: str,
    saes: "dict[HookPoint, SparseAutoencoder]",
    *,
    points: "Iterable[HookPoint] | None",
    head: bool = False,
) -> "tuple[Engine, dict[HookPoint, SparseAutoencoder]]":
    """Load the blocks that hook points need, all of them if None, and the SAEs onto the model."""
    from ...saes.load import load_engine_for

    return load_engine_for(
        saes, model, points=points, head=head, dtype=where.dtype, device=where.device,
        say=console.note, warn=console.warn,
    )  # fmt: skip


def check_least(values: dict[str, int], least: int) -> None:
    """Hold the values of options against the least that they may be.

    Raises:
        InputError: one is less.
    """
    for option, value in values.items():
        if value < least:
            raise InputError(f"{option} must be at least {least}, got {value}")
