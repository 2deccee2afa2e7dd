"""Steer a language model with the latents of a sparse autoencoder.

Public names are resolved on first use, so that `neurosteer --help` does not pay for torch.
"""

import importlib
from typing import Any

__version__ = "0.1.0"

_HOME = {
    "Comparison": ".evaluation.run",
    "Engine": ".models.engine",
    "GenerationConfig": ".generation.continuation",
    "HookPoint": ".models.hooks",
    "Job": ".generation.generate",
    "NeurosteerError": ".errors",
    "Sampling": ".generation.sampling",
    "SparseAutoencoder": ".saes.sae",
    "SteeringVector": ".vectors.vector",
    "calibrate": ".evaluation.calibrate",
    "combine": ".vectors.combine",
    "evaluate": ".evaluation.evaluate",
    "fit": ".vectors.from_texts",
    "generate": ".generation.generate",
    "load_judge": ".evaluation.judges.load",
    "load_sae": ".saes.load",
    "open_sides": ".data.sides",
}

__all__ = ["__version__", *_HOME]


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(importlib.import_module(_HOME[name], __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
