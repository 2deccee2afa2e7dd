"""What the commands about SAEs share: SAEs and an engine that fit one another, and a corpus of tokens."""

from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

from ...errors import InputError
from ..shared import console

if TYPE_CHECKING:
    from ...data.corpus import Part
    from ...models.engine import Engine, Tokens
    from ...models.hooks import HookPoint
    from ...saes.sae import SparseAutoencoder


def load_family(sae_id: str, model: str, layers: str | None) -> "dict[HookPoint, SparseAutoencoder]":
    """The SAE asked for, or those of a family at the blocks asked for; all of them if none is named."""
    from ...saes.load import find_saes
    from ..shared.options import parse_layers

    wanted = parse_layers(layers) if layers is not None else None
    found = find_saes(sae_id, model_id=model, layers=wanted)
    if wanted is not None and [point.layer for point in found] != wanted:
        raise InputError(f"--layers {layers}: SAE {sae_id!r} belongs to {', '.join(map(str, found))}")
    return found


def load_engine(
    model: str,
    saes: "dict[HookPoint, SparseAutoencoder]",
    dtype: str,
    device: str,
    *,
    points: "Iterable[HookPoint] | None",
    head: bool,
) -> "tuple[Engine, dict[HookPoint, SparseAutoencoder]]":
    """Load as many blocks as are needed, and the SAEs onto the model's device."""
    from ...saes.load import load_engine_for

    return load_engine_for(
        saes, model, points=points, head=head, dtype=dtype, device=device,
        say=console.note, warn=console.warn,
    )  # fmt: skip


def token_sequences(engine: "Engine", corpus: "Sequence[Part]", context: int) -> "Iterator[Tokens]":
    """A corpus as packed sequences, no longer than the model reads."""
    from ...data.corpus import documents
    from ...models.residuals import packed

    return packed(engine, documents(corpus), min(context, engine.max_tokens))
