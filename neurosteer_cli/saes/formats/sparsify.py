"""Folders of EleutherAI's sparsify: cfg.json and sae.safetensors in a folder of the module's name.

sae-lens's loader for these subtracts no b_dec where rows are normalized, which sparsify always does.
"""

import re
from pathlib import Path
from typing import Any

from ...errors import SAEError
from .files import read_json, read_safetensors
from .hook_names import hook_name_of
from .state import Entries, Weights, entries_of

WEIGHTS_FILE = "sae.safetensors"
_MODULE = re.compile(r"[a-z_]+(\.[a-z_]+)*\.[0-9]+(\..+)?|embed_tokens|wte|embed_in")
_SEED = re.compile(r"seed[0-9]+")


def hook_name(place: Path, layer: int | None) -> str:
    """That of the folder, which is called as the module it was trained on, `layers.5`."""
    module = place.parent if _SEED.fullmatch(place.name) else place
    if not _MODULE.fullmatch(module.name):
        return hook_name_of(place, layer)
    return f"{module.name}.input" if _run(module).get("hook_mode") == "input" else module.name


def read(place: Path, layer: int | None) -> tuple[Entries, Weights]:
    """The entries, as sae-lens 6 would write them, and the weights."""
    config = read_json(place / "cfg.json")
    transcodes = config.get("transcode") or _run(place).get("hook_mode") == "transcode"
    if transcodes or config.get("skip_connection"):
        raise SAEError(f"{place}: a transcoder of sparsify, from one place to another, not an SAE")
    if config.get("signed") or config.get("activation", "topk") != "topk":
        activation = "signed topk" if config.get("signed") else config["activation"]
        raise SAEError(f"{place}: sparsify's activation {activation!r} is not supported; topk is")
    stored = read_safetensors(place / WEIGHTS_FILE)
    try:
        W_enc, W_dec = stored["encoder.weight"].T.contiguous(), stored["W_dec"]
        weights = {"W_enc": W_enc, "b_enc": stored["encoder.bias"], "W_dec": W_dec, "b_dec": stored["b_dec"]}
        k = config["k"]
    except KeyError as error:
        raise SAEError(f"{place}: no {error} in it; not an SAE as sparsify saves it") from error
    said = hook_name(place, layer)
    model = _run(place).get("model")
    return entries_of("topk", weights, said, model, apply_b_dec_to_input=True, k=k), weights


def _run(place: Path) -> dict[str, Any]:
    """The configuration of the whole training, where it is still in a folder around the SAE's."""
    around = (parent / "config.json" for parent in (place.parent, place.parent.parent))
    return next((read_json(path) for path in around if path.is_file()), {})
