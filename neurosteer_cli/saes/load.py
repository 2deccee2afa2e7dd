"""Where SAEs are (bundled, in a folder, or in sae-lens's registry), and how they come onto a model.

A folder is read without importing transformers, or sae_lens, which takes many seconds; only its
registry needs it. Knows nothing of what an SAE computes.
"""

import difflib
import json
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING

from safetensors import SafetensorError
from safetensors.torch import load_file

from ..errors import InputError, SAEError, one_line
from ..models.hooks import HookPoint
from ..models.shape import ModelShape
from .sae import SparseAutoencoder, from_state

if TYPE_CHECKING:
    from ..models.engine import Engine

BUNDLED = "bundled"
SAEs = Mapping[HookPoint, SparseAutoencoder]


def load_sae(
    sae_id: str, *, model_id: str, layer: int | None = None, sha256: str | None = None
) -> SparseAutoencoder:
    """Load `bundled`, a local sae-lens folder, or RELEASE/SAE_ID of sae-lens's registry.

    Args:
        model_id: the model to steer; which SAEs are bundled depends on it.
        layer: of several (`bundled`, or a folder of such folders), the block wanted; None takes the
            only or the deepest one.
        sha256: that of the weights wanted; None takes any.

    Raises:
        SAEError: no such SAE, or one whose architecture, normalization or hook point cannot be used.
    """
    folder = sae_folder(sae_id, model_id=model_id, layer=layer)
    if folder is None:
        sae = _from_registry(sae_id)
    else:
        sae = _from_folder(folder, BUNDLED if sae_id == BUNDLED else str(folder.resolve()))
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
        family = [*sae_folders(sae_id, model_id=model_id)]
        layers = family[-last if last else 0 :] or [None]
    saes = (load_sae(sae_id, model_id=model_id, layer=layer) for layer in layers)
    return {sae.hook_point: sae for sae in saes}


def nearest_saes(sae_id: str, *, model_id: str, points: Iterable[HookPoint]) -> SAEs:
    """For each hook point the SAE of a family whose block is nearest to it; the SAE itself if it is one."""
    family = sae_folders(sae_id, model_id=model_id)
    nearest = {}
    for point in points:
        layer = min(family, key=lambda layer: abs(layer - point.layer), default=None)
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
        if not sae.trained_on(engine.model_names):
            warn(
                f"SAE {sae.sae_id!r} was trained on {sae.model_name!r}, the model is {name!r}: "
                "its latents may mean something else there"
            )
    return {
        point: sae.for_model(device=engine.device, uses_layer_norm=engine.uses_layer_norm)
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


def sae_folder(sae_id: str, *, model_id: str, layer: int | None = None) -> Path | None:
    """The folder an SAE is in; None if sae-lens's registry is asked for it."""
    if sae_id != BUNDLED and not Path(sae_id).is_dir():
        return None
    family = sae_folders(sae_id, model_id=model_id)
    if not family and sae_id == BUNDLED:
        raise SAEError(
            f"no SAE is bundled for model {model_id!r}: give --sae FOLDER or --sae RELEASE/SAE_ID, "
            "or a method that needs none (--method diffmean)"
        )
    if not family:
        return Path(sae_id)
    wanted = max(family) if layer is None else layer
    if wanted not in family:
        where = f"bundled with {model_id!r}" if sae_id == BUNDLED else f"in {sae_id}"
        raise SAEError(f"no SAE is {where} for block {wanted}; there is one for {list(family)}")
    return family[wanted]


def sae_folders(sae_id: str, *, model_id: str) -> dict[int, Path]:
    """The folders of a family of SAEs, `bundled` or a folder of folders, by block; none for a single SAE."""
    family = Path(sae_id)
    if sae_id == BUNDLED:
        family = Path(str(files(__package__))) / "bundled" / Path(model_id).name
    if (family / "cfg.json").is_file():
        return {}
    folders = {}
    for folder in sorted(family.glob("blocks.*")):
        with suppress(InputError):
            folders[HookPoint.parse(folder.name).layer] = folder
    return dict(sorted(folders.items()))


def _from_folder(folder: Path, sae_id: str) -> SparseAutoencoder:
    for name in ("cfg.json", "sae_weights.safetensors"):
        if not (folder / name).is_file():
            raise SAEError(f"{folder}: no {name}; not a folder saved by sae-lens")
    try:
        config = json.loads((folder / "cfg.json").read_text(encoding="utf-8"))
        weights = load_file(folder / "sae_weights.safetensors")
    except (OSError, ValueError, SafetensorError) as error:
        raise SAEError(f"{folder}: cannot read the SAE ({error})") from error
    return from_state(sae_id, config, weights)


def _from_registry(sae_id: str) -> SparseAutoencoder:
    from sae_lens import SAE
    from sae_lens.loading.pretrained_saes_directory import get_pretrained_saes_directory

    directory = get_pretrained_saes_directory()
    release, _, name = sae_id.partition("/")
    if release not in directory:
        near = difflib.get_close_matches(release, directory, n=3)
        hint = f"; did you mean {' or '.join(near)}?" if near else ""
        raise SAEError(f"{sae_id!r} is neither a folder nor a RELEASE/SAE_ID of sae-lens's registry{hint}")
    known = directory[release].saes_map
    if name not in known:
        near = difflib.get_close_matches(name, known, n=3) or list(known)[:3]
        raise SAEError(f"release {release!r} has no SAE {name!r}; it has {', '.join(near)}, ...")
    try:
        sae = SAE.from_pretrained_with_cfg_and_sparsity(release, name, device="cpu", dtype="float32")[0]
    except Exception as error:  # sae-lens documents none of what its loaders raise
        raise SAEError(
            f"SAE {sae_id!r} could not be fetched ({one_line(error)}); where there is a network, run: "
            f"python -c \"from sae_lens import SAE; SAE.from_pretrained('{release}', '{name}')\""
        ) from error
    weights = {key: value.detach() for key, value in sae.state_dict().items()}
    return from_state(sae_id, sae.cfg.to_dict(), weights)
