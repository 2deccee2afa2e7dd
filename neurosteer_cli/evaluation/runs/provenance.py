"""What is needed to repeat a run: settings, vectors and their files, prompts by their hash.

Knows metadata and hashes; knows nothing of what a run writes.
"""

import hashlib
import json
import os
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ...files import file_sha256
from ...generation.continuation import GenerationConfig
from ...vectors.vector import SteeringVector

NAMED_IF_ASKED = {"stops", "min_p", "presence_penalty", "frequency_penalty", "logit_bias"}


def of_settings(config: GenerationConfig) -> dict[str, Any]:
    """How a run writes; what older runs do not name is named only where it asks for something."""
    settings = asdict(config)
    del settings["batch_size"]
    return {**_asked(settings), "sampling": _asked(settings["sampling"])}


def _asked(settings: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in settings.items() if value or name not in NAMED_IF_ASKED}


def of_vector(name: str, vector: SteeringVector) -> dict[str, Any]:
    """How a vector was fitted, and its file's hash, if it is in one."""
    metadata, of_side = vector.metadata, {"label", "n_texts", "sha256"}
    sides = {"positive": metadata.positive, "negative": metadata.negative}
    return {
        "name": name,
        "sha256": file_sha256(Path(name)) if os.path.isfile(name) else None,
        "method": metadata.method,
        **({} if vector.adds else {"kind": metadata.kind}),
        "parameters": metadata.parameters,
        "points": list(metadata.points),
        **{which: side.model_dump(include=of_side) for which, side in sides.items() if side is not None},
    }


def sha256_of(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
