"""On what base, and how, a GGUF file scales rotary embeddings, which transformers' reader leaves out.

Knows the metadata and tensors that say so, and transformers' names for the same; knows no model.
"""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...errors import ModelError

if TYPE_CHECKING:
    from gguf import GGUFReader

# Llama 3.1 and later, in whose files only the factors stand; how they follow from these is in transformers.
_LLAMA3 = {"low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192}


def set_rope(path: Path, reader: "GGUFReader", config: Any) -> None:
    """Put a file's base and scaling of rotary embeddings into the configuration transformers made of it.

    Raises:
        ModelError: it scales in a way that is not known here.
    """
    architecture = reader.fields["general.architecture"].contents()
    prefix = f"{architecture}.rope."
    said = {
        name.removeprefix(prefix).removeprefix("scaling."): field.contents()
        for name, field in reader.fields.items()
        if name.startswith(prefix)
    }
    _set_base(config, said)
    factors = {
        tensor.name.removesuffix(".weight"): [float(factor) for factor in tensor.data.flatten()]
        for tensor in reader.tensors
        if tensor.name.startswith(("rope_freqs", "rope_factors"))
    }
    if architecture == "gpt-oss":  # of which transformers' reader does read it
        return
    if (scaling := _scaling(path, config, said, factors)) is None:
        return
    rope = dict(config.rope_parameters)
    if "full_attention" in rope:  # the windows of others are never scaled
        rope["full_attention"] = {**rope["full_attention"], **scaling}
    else:
        rope |= scaling
    config.rope_parameters = rope


def _set_base(config: Any, said: Mapping[str, Any]) -> None:
    """The base, and what share of a head is rotated: left out of StarCoder 2, Phi-3 and others, too."""
    if not (rope := getattr(config, "rope_parameters", None)):
        return
    if "freq_base" in said and "rope_theta" in rope:
        rope = {**rope, "rope_theta": said["freq_base"]}
    if "dimension_count" in said and "partial_rotary_factor" in rope:
        d_head = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        rope = {**rope, "partial_rotary_factor": said["dimension_count"] / d_head}
    config.rope_parameters = rope


def _scaling(
    path: Path, config: Any, said: Mapping[str, Any], factors: Mapping[str, Sequence[float]]
) -> dict[str, Any] | None:
    """transformers' parameters of the scaling; None where there is none."""
    original = said.get("original_context_length") or config.max_position_embeddings
    long, short = factors.get("rope_factors_long"), factors.get("rope_factors_short")
    if long and short:
        attention = {"attention_factor": said["attn_factor"]} if "attn_factor" in said else {}
        return _by_factors(long, short, original) | attention
    if (freqs := factors.get("rope_freqs")) and any(factor != 1 for factor in freqs):
        llama3 = {"rope_type": "llama3", "factor": max(freqs), **_LLAMA3}
        base = config.rope_parameters["rope_theta"]
        if all(map(_near, freqs, _llama3_factors(max(freqs), base, len(freqs)))):
            return llama3
        return {**_by_factors(freqs, freqs, config.max_position_embeddings), "attention_factor": 1.0}
    kind = said.get("type", "linear")
    factor = said.get("factor", said.get("scale_linear", 1.0))  # the latter in files of 2023
    if kind == "none" or factor in (0.0, 1.0):
        return None
    if kind == "linear":
        return {"rope_type": "linear", "factor": factor}
    if kind == "yarn":
        betas = {name: said[f"yarn_{name}"] for name in ("beta_fast", "beta_slow") if f"yarn_{name}" in said}
        return {
            "rope_type": "yarn", "factor": factor, "original_max_position_embeddings": original, **betas
        }  # fmt: skip
    raise ModelError(f"{path}: scales its rotary embeddings by {kind!r}, which is not known here")


def _by_factors(long: Sequence[float], short: Sequence[float], original: int) -> dict[str, Any]:
    return {
        "rope_type": "longrope",
        "long_factor": list(long),
        "short_factor": list(short),
        "original_max_position_embeddings": original,
    }


def _near(one: float, other: float) -> bool:
    return math.isclose(one, other, rel_tol=1e-4)


def _llama3_factors(factor: float, base: float, n: int) -> list[float]:
    """By what Llama 3.1 divides each of n frequencies."""
    low, high, original = _LLAMA3.values()
    found = []
    for i in range(n):
        turns = original * base ** (-i / n) / (2 * math.pi)  # of the frequency, within the original context
        share = min(1.0, max(0.0, (turns - low) / (high - low)))
        found.append(1 / ((1 - share) / factor + share))
    return found
