"""Folders of sae-lens: cfg.json and sae_weights.safetensors, of version 6 and of those before it.

Knows what sae-lens's own reading of an older configuration leaves out.
"""

import re
from pathlib import Path

from torch import Tensor

from ...errors import SAEError
from ..sae import WEIGHTS
from .files import read_json, read_safetensors
from .state import Entries, Weights

WEIGHTS_FILE = "sae_weights.safetensors"
_HOOK_NAME = ("hook_name", "hook_point")  # the latter in versions 1 and 2
_ACTIVATION = ("activation_fn_str", "activation_fn")
_VERSION = ("sae_lens_training_version", "sae_lens_version")
_TOLD_SINCE = (3, 20)


def hook_name(place: Path, _layer: int | None) -> str:
    """What the configuration says, if anything."""
    entries = read_json(place / "cfg.json")
    metadata = entries.get("metadata")
    return _first(metadata if isinstance(metadata, dict) else entries, _HOOK_NAME) or ""


def read(place: Path, _layer: int | None) -> tuple[Entries, Weights]:
    """The entries, as version 6 would write them, and the weights."""
    entries = read_json(place / "cfg.json")
    weights = read_safetensors(place / WEIGHTS_FILE)
    if "metadata" not in entries and _first(entries, _HOOK_NAME):
        entries = _migrated(place, entries, weights.pop("scaling_factor", None))
    return entries, weights


def _migrated(place: Path, older: Entries, scale: Tensor | None) -> Entries:
    """An older configuration in version 6's form; SAEError where that form cannot say what it says."""
    architecture = older.get("architecture") or "standard"
    if architecture not in WEIGHTS:
        return older  # which is refused for it
    activation = _first(older, _ACTIVATION) or "relu"
    known = ("relu", "topk") if architecture in ("standard", "topk") else ("relu",)
    if activation not in known:
        raise SAEError(
            f"{place}: activation {activation!r} of architecture {architecture!r} is not supported"
        )
    kwargs = older.get("activation_fn_kwargs") or {}
    if "topk" in (architecture, activation) and kwargs.get("k") is None:
        raise SAEError(f"{place}: its configuration does not say 'k', how many latents fire at a token")
    if older.get("hook_head_index", older.get("hook_point_head_index")) is not None:
        raise SAEError(f"{place}: reads one attention head, not the residual stream")
    if scale is not None and not bool((scale == 1).all()):
        raise SAEError(
            f"{place}: its latents are scaled by finetuning (scaling_factor), which is not supported"
        )
    from sae_lens.loading.pretrained_sae_loaders import handle_pre_6_0_config  # many seconds

    entries: Entries = handle_pre_6_0_config(
        {**older, "architecture": architecture, "activation_fn_kwargs": kwargs}
    )
    entries["metadata"]["model_from_pretrained_kwargs"] = {"center_writing_weights": _centred(older)}
    return entries


def _centred(older: Entries) -> bool:
    """Whether the model was loaded with centred residuals, as TransformerLens does unless it is told."""
    said = (older.get("model_from_pretrained_kwargs") or {}).get("center_writing_weights")
    if said is not None:
        return bool(said)
    if version := re.match(r"(\d+)\.(\d+)", str(_first(older, _VERSION))):
        return (int(version[1]), int(version[2])) < _TOLD_SINCE
    return "hook_point" in older  # versions 1 and 2


def _first(entries: Entries, keys: tuple[str, ...]) -> str | None:
    return next((entries[key] for key in keys if entries.get(key)), None)
