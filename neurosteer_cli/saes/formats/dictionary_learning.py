"""Folders of dictionary_learning, which SAEBench's SAEs are in too: ae.pt and config.json.

Knows its classes and where they differ: names and order of weights, b_dec, thresholds.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch import Tensor

from ...errors import SAEError
from ...models.hooks import RESID_POST, RESID_PRE
from .files import read_json, read_torch
from .hook_names import hook_name_of, layer_in
from .state import Entries, Weights, entries_of

WEIGHTS_FILE = "ae.pt"
Stored = dict[str, Tensor]
Read = tuple[str, bool, dict[str, Tensor]]  # architecture, whether b_dec is subtracted, weights


def _standard(stored: Stored) -> Read:
    """AutoEncoder, which the library gives decoder rows of length 1 as it loads it."""
    norms = stored["decoder.weight"].norm(dim=0)
    norms = norms.where(norms > 0, 1)
    return "standard", True, {
        "W_enc": stored["encoder.weight"].T * norms,
        "b_enc": stored["encoder.bias"] * norms,
        "W_dec": stored["decoder.weight"].T / norms[:, None],
        "b_dec": stored["bias"],
    }  # fmt: skip


def _april_update(stored: Stored) -> Read:
    return "standard", False, _linear(stored, stored["decoder.bias"])


def _gated(stored: Stored) -> Read:
    weights = _linear({**stored, "encoder.bias": stored["gate_bias"]}, stored["decoder_bias"])
    weights["b_gate"] = weights.pop("b_enc")
    return "gated", True, weights | {"b_mag": stored["mag_bias"], "r_mag": stored["r_mag"]}


def _jump_relu(stored: Stored) -> Read:
    return (
        "jumprelu",
        False,
        {name: stored[name] for name in ("W_enc", "b_enc", "W_dec", "b_dec", "threshold")},
    )


def _top_k(stored: Stored) -> Read:
    return "topk", True, _linear(stored, stored["b_dec"])


def _batch_top_k(stored: Stored) -> Read:
    """At inference the latents above one threshold fire, however many; below 0 it was never set."""
    weights = _linear(stored, stored["b_dec"])
    return "jumprelu", True, weights | {"threshold": stored["threshold"].expand(len(weights["W_dec"]))}


def _matryoshka(stored: Stored) -> Read:
    weights = {name: stored[name] for name in ("W_enc", "b_enc", "W_dec", "b_dec")}
    return "jumprelu", True, weights | {"threshold": stored["threshold"].expand(len(weights["W_dec"]))}


def _linear(stored: Stored, b_dec: Tensor) -> dict[str, Tensor]:
    """The weights of torch's linear layers, whose matrices are [out, in]."""
    W_enc, W_dec = stored["encoder.weight"].T, stored["decoder.weight"].T
    return {"W_enc": W_enc, "b_enc": stored["encoder.bias"], "W_dec": W_dec, "b_dec": b_dec}


_CLASSES: dict[str, Callable[[Stored], Read]] = {
    "AutoEncoder": _standard,
    "AutoEncoderNew": _april_update,
    "GatedAutoEncoder": _gated,
    "JumpReluAutoEncoder": _jump_relu,
    "AutoEncoderTopK": _top_k,
    "BatchTopKSAE": _batch_top_k,
    "MatryoshkaBatchTopKSAE": _matryoshka,
}


def hook_name(place: Path, layer: int | None) -> str:
    """The module whose output, or input, it was trained on."""
    config = _config(place)
    trainer = config["trainer"]
    said = str(trainer.get("submodule_name") or "")
    reads_input = (config.get("buffer") or {}).get("io") == "in"
    if "." in said:  # the module's name in the model, in place of words
        return f"{said}.input" if reads_input else said
    known = trainer.get("layer")
    if not isinstance(known, int) or known < 0:
        known = layer_in(place)
    kind = RESID_PRE if reads_input or "resid_pre" in said else RESID_POST
    return hook_name_of(place, layer if known is None else known, said, kind)


def read(place: Path, layer: int | None) -> tuple[Entries, Weights]:
    """The entries, as sae-lens 6 would write them, and the weights."""
    trainer = _config(place)["trainer"]
    kind = trainer.get("dict_class")
    if kind not in _CLASSES:
        raise SAEError(f"{place}: dictionary_learning's {kind!r} is not supported; {', '.join(_CLASSES)} are")
    stored = read_torch(_weights_file(place))
    try:
        architecture, subtracts, weights = _CLASSES[kind](stored)
    except (KeyError, IndexError, RuntimeError) as error:
        raise SAEError(
            f"{place}: its weights are not those of dictionary_learning's {kind} ({error})"
        ) from error
    weights = {name: weight.contiguous() for name, weight in weights.items()}
    k = trainer.get("k", stored.get("k")) if architecture == "topk" else None
    said, model = hook_name(place, layer), trainer.get("lm_name")
    return entries_of(architecture, weights, said, model, apply_b_dec_to_input=subtracts, k=k), weights


def _weights_file(place: Path) -> Path:
    return place if place.is_file() else place / WEIGHTS_FILE


def _config(place: Path) -> dict[str, Any]:
    """The library's config.json, without which a file of weights does not tell its class."""
    path = _weights_file(place).parent / "config.json"
    if not path.is_file():
        raise SAEError(
            f"{place}: no config.json beside it, which says what a file of dictionary_learning computes "
            '({"trainer": {"dict_class": "AutoEncoderTopK", "layer": 8, "lm_name": ...}})'
        )
    config = read_json(path)
    if not isinstance(config.get("trainer"), dict):
        raise SAEError(f"{path}: no 'trainer' in it; not a configuration of dictionary_learning")
    return config
