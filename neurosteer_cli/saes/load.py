"""Where SAEs are (bundled, in a folder, in sae-lens's registry, on the Hub), and how they come onto a model.

A folder is read without importing transformers, or sae_lens, which takes many seconds; only its
registry and its older versions need it. Knows nothing of what an SAE computes, nor of files' forms.
"""

import os
from collections.abc import Callable, Iterable, Mapping
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import SAEError
from ..models.hooks import HookPoint
from ..models.shape import ModelShape
from .formats.read import is_sae, place_of, places_by_layer, read_sae
from .sae import UNKNOWN_MODEL, SparseAutoencoder

if TYPE_CHECKING:
    from ..models.engine import Engine

BUNDLED = "bundled"
SAEs = Mapping[HookPoint, SparseAutoencoder]


def load_sae(
    sae_id: str, *, model_id: str, layer: int | None = None, sha256: str | None = None
) -> SparseAutoencoder:
    """Load `bundled`, a local folder or file, RELEASE/SAE_ID of sae-lens's registry, or OWNER/REPO/FOLDER.

    Args:
        model_id: the model to steer; which SAEs are bundled depends on it.
        layer: of several (`bundled`, or a folder of such folders), the block wanted; None takes the
            only or the deepest one. Of an SAE that does not say its block, that.
        sha256: that of the weights wanted; None takes any.

    Raises:
        SAEError: no such SAE, or one whose form, architecture, normalization or hook point cannot be used.
    """
    place = sae_place(sae_id, model_id=model_id, layer=layer)
    if place is None:
        from .remote import fetch_sae

        sae = fetch_sae(sae_id, layer)
    else:
        sae = read_sae(place, BUNDLED if sae_id == BUNDLED else str(place.resolve()), layer)
    if sha256 not in (None, sae.sha256):
        raise SAEError(f"SAE {sae_id!r} has changed")
    return sae


def find_saes(
    sae_id: str, *, model_id: str, layers: Iterable[int | None] | None = None, last: int | None = None
) -> SAEs:
    """`load_sae` for several layers, by the hook point each says it belongs to.

    Without layers: those of a family, or the `last` of these; the only one if `sae_id` is an SAE itself.
    """
    if layers is None:
        family = [*family_of(sae_id, model_id=model_id)]
        layers = family[-last if last else 0 :] or [None]
    saes = (load_sae(sae_id, model_id=model_id, layer=layer) for layer in layers)
    return {sae.hook_point: sae for sae in saes}


def nearest_saes(sae_id: str, *, model_id: str, points: Iterable[HookPoint]) -> SAEs:
    """For each hook point the SAE of a family whose block is nearest to it; the SAE itself if it is one."""
    family = family_of(sae_id, model_id=model_id)
    nearest = {}
    for point in points:
        layer = min(family, key=lambda layer: abs(layer - point.layer), default=point.layer)
        nearest[point] = load_sae(sae_id, model_id=model_id, layer=layer)
    return nearest


def open_saes(
    saes: SAEs,
    engine: "Engine",
    *,
    name: str | None = None,
    warn: Callable[[str], None] = lambda _warning: None,
) -> SAEs:
    """The same SAEs on an engine's device, held against its model.

    Args:
        name: what errors call the model; its id if not given.
        warn: told where an SAE was trained on a model of another name.

    Raises:
        SAEError: an SAE is of another width, or of a block that the model does not have.
    """
    name = name or engine.model_id
    check_fit(saes, engine.shape, name)
    for sae in saes.values():
        if sae.model_name == UNKNOWN_MODEL:
            warn(
                f"SAE {sae.sae_id!r} does not say which model it was trained on, nor where in it: it is "
                f"taken for one of {name!r} at {sae.hook_point}"
            )
        elif not sae.trained_on(engine.model_names):
            warn(
                f"SAE {sae.sae_id!r} was trained on {sae.model_name!r}, the model is {name!r}: "
                "its latents may mean something else there"
            )
    return {
        point: sae.for_model(device=engine.device, uses_layer_norm=sae.centred and engine.uses_layer_norm)
        for point, sae in saes.items()
    }


def check_fit(saes: SAEs, shape: ModelShape, model_id: str) -> None:
    """`open_saes`'s check against a model's shape, which its configuration tells before it is loaded."""
    for sae in saes.values():
        if sae.hook_point.layer >= shape.n_layers:
            raise SAEError(
                f"SAE {sae.sae_id!r} belongs to {sae.hook_point}; model {model_id!r} has {shape.n_layers} "
                f"blocks, 0 to {shape.n_layers - 1}: choose the SAE of this model"
            )
        if sae.d_model != shape.d_model:
            raise SAEError(
                f"SAE {sae.sae_id!r} has d_model={sae.d_model} and was trained on {sae.model_name!r}; "
                f"model {model_id!r} has d_model={shape.d_model}: choose the SAE of this model"
            )


def sae_place(sae_id: str, *, model_id: str, layer: int | None = None) -> Path | None:
    """The folder, or file, that an SAE is in; None if it is none here."""
    if sae_id != BUNDLED and not os.path.exists(sae_id):
        return None
    family = family_of(sae_id, model_id=model_id)
    if not family and sae_id == BUNDLED:
        raise SAEError(
            f"no SAE is bundled for model {model_id!r}: give --sae FOLDER or --sae RELEASE/SAE_ID, "
            "or a method that needs none (--method diffmean)"
        )
    if not family:
        return place_of(Path(sae_id))
    wanted = max(family) if layer is None else layer
    where = f"bundled with {model_id!r}" if sae_id == BUNDLED else f"in {sae_id}"
    if wanted not in family:
        raise SAEError(f"no SAE is {where} for block {wanted}; there is one for {list(family)}")
    if len(family[wanted]) > 1:
        shown = ", ".join(str(place) for place in family[wanted][:4])
        raise SAEError(f"{len(family[wanted])} SAEs are {where} for block {wanted}; name one: {shown}")
    return family[wanted][0]


def family_of(sae_id: str, *, model_id: str) -> dict[int, list[Path]]:
    """The places of a family of SAEs, `bundled` or a folder of folders, by block; none for a single SAE."""
    family, depth = Path(sae_id), 3  # as in Gemma Scope's layer_20/width_16k/average_l0_71
    if sae_id == BUNDLED:
        family, depth = Path(str(files(__package__))) / "bundled" / Path(model_id).name, 1
    return {} if is_sae(place_of(family)) else places_by_layer(family, depth)
