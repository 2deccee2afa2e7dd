"""What the commands about SAEs share: SAEs by options, and the least that options may be."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from ...errors import InputError
from ..shared.parse import parse_layers

if TYPE_CHECKING:
    from ...saes.load import SAEs

CONTEXT = 256  # tokens of a sequence


def load_family(sae_id: str, model: str, layers: Sequence[str] | None) -> "SAEs":
    """The SAE asked for, or those of a family at the blocks asked for; all of them if none is named."""
    from ...saes.load import find_saes

    wanted = parse_layers(layers) or None
    found = find_saes(sae_id, model_id=model, layers=wanted)
    if wanted is not None and [point.layer for point in found] != wanted:
        there = ", ".join(map(str, found))
        raise InputError(f"--layers {','.join(layers or [])}: SAE {sae_id!r} belongs to {there}")
    return found


def check_least(values: dict[str, int], least: int) -> None:
    """Hold the values of options against the least that they may be."""
    for option, value in values.items():
        if value < least:
            raise InputError(f"{option} must be at least {least}, got {value}")
