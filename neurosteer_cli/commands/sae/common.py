"""What the commands about SAEs share: SAEs and an engine that fit one another, and a corpus of tokens."""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from ...errors import InputError
from ..shared import console

if TYPE_CHECKING:
    from ...data.corpus import Part
    from ...models.engine import Engine, Tokens
    from ...saes.sae import SparseAutoencoder


def load_family(sae_id: str, model: str, layers: str | None) -> "list[SparseAutoencoder]":
    """The SAE asked for, or those of a family at the blocks asked for; all of them if none is named."""
    from ...saes.load import load_sae, sae_layers
    from ..shared.options import parse_layers

    wanted = parse_layers(layers) if layers is not None else sae_layers(sae_id, model_id=model)
    if not wanted:
        return [load_sae(sae_id, model_id=model)]
    found = [load_sae(sae_id, model_id=model, layer=layer) for layer in wanted]
    for layer, one in zip(wanted, found, strict=True):
        if one.hook_point.layer != layer:
            raise InputError(f"--layers {layers}: SAE {sae_id!r} belongs to {one.hook_point}")
    return found


def load_engine(
    model: str,
    saes: "Sequence[SparseAutoencoder]",
    dtype: str,
    device: str,
    *,
    whole: bool,
    head: bool,
    n_blocks: int | None = None,
) -> "tuple[Engine, list[SparseAutoencoder]]":
    """Load the blocks that are needed (or n_blocks), and the SAEs onto the model's device.

    Raises:
        SAEError: an SAE is not of this model.
    """
    from ...errors import SAEError
    from ...models.engine import Engine
    from ...models.load import read_config
    from ...models.resolve import resolve
    from ...models.shape import shape_of
    from ...saes.sae import check_fits

    n_layers = shape_of(read_config(resolve(model, console.note))).n_layers
    for one in saes:
        if one.hook_point.layer >= n_layers:
            raise SAEError(
                f"SAE {one.sae_id!r} belongs to {one.hook_point}; model {model!r} has {n_layers} blocks, "
                f"0 to {n_layers - 1}: choose the SAE of this model"
            )
    needed = None if whole else max(one.hook_point.layer for one in saes) + 1
    if n_blocks is not None:
        needed = n_blocks
    engine = Engine.load(model, n_blocks=needed, head=head, dtype=dtype, device=device, say=console.note)
    for one in saes:
        for warning in check_fits(
            one, model_id=model, model_names=engine.model_names, d_model=engine.d_model
        ):
            console.warn(warning)
    fitted = [one.for_model(device=engine.device, uses_layer_norm=engine.uses_layer_norm) for one in saes]
    return engine, fitted


def token_sequences(engine: "Engine", corpus: "Sequence[Part]", context: int) -> "Iterator[Tokens]":
    """A corpus as packed sequences, no longer than the model reads."""
    from ...data.corpus import documents
    from ...models.residuals import packed

    return packed(engine, documents(corpus), min(context, engine.max_tokens))
