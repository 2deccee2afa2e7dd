"""Gemma Scope as Google publishes it: params.npz for Gemma 2, params.safetensors and config.json for Gemma 3.

All are JumpReLU SAEs that subtract no b_dec. Of the first only the path says which model and block.
"""

import re
from pathlib import Path

from ...errors import SAEError
from .files import read_json, read_npz, read_safetensors
from .hook_names import hook_name_of, layer_in
from .state import Entries, Weights, entries_of

NPZ_FILE, SAFETENSORS_FILE = "params.npz", "params.safetensors"
_REPOSITORY = re.compile(r"gemma-scope-(\d+b)-(pt|it)")
_TENSORS = ("W_enc", "b_enc", "W_dec", "b_dec", "threshold")


def hook_name(place: Path, layer: int | None) -> str:
    """What config.json says, or the path."""
    config = _config(place)
    if (architecture := config.get("architecture", "jump_relu")) != "jump_relu":
        raise SAEError(f"{place}: architecture {architecture!r} of Gemma Scope is not known; jump_relu is")
    said = config.get("hf_hook_point_in")
    if config.get("affine_connection") or config.get("hf_hook_point_out", said) != said:
        raise SAEError(f"{place}: a transcoder of Gemma Scope, from one place to another, not an SAE")
    if said:
        return str(said)
    found = layer_in(place)
    return hook_name_of(place, layer if found is None else found)


def read(place: Path, layer: int | None) -> tuple[Entries, Weights]:
    """The entries, as sae-lens 6 would write them, and the weights."""
    said = hook_name(place, layer)
    if place.suffix == ".npz" or (place / NPZ_FILE).is_file():
        stored = read_npz(place if place.is_file() else place / NPZ_FILE)
    else:
        stored = read_safetensors(place if place.is_file() else place / SAFETENSORS_FILE)
    named = {re.sub("^w_", "W_", name): weight for name, weight in stored.items()}
    if missing := [name for name in _TENSORS if name not in named]:
        raise SAEError(f"{place}: no {missing[0]} in it; not an SAE of Gemma Scope")
    weights = {name: named[name] for name in _TENSORS}
    return entries_of("jumprelu", weights, said, _model(place), apply_b_dec_to_input=False), weights


def _config(place: Path) -> dict[str, object]:
    path = (place.parent if place.is_file() else place) / "config.json"
    return read_json(path) if path.is_file() else {}


def _model(place: Path) -> str | None:
    """The model's name on the Hub, where config.json or the path tells it."""
    if said := _config(place).get("model_name"):
        name = str(said).replace("-v3-", "-3-")
        return name.removesuffix("-pt") if "270m" in name else name
    match = _REPOSITORY.search(str(place.resolve()))
    return f"gemma-2-{match[1]}" + ("-it" if match[2] == "it" else "") if match else None
