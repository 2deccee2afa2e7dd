"""Steer a language model with the latents of a sparse autoencoder.

Every command is one call of these public names, which are resolved on first use, so that
`neurosteer --help` does not pay for torch. One word, one meaning:

    Job -> Continuation -> Completion -> Sample   to write, being written, finished, to be scored
    hook point, resid      a place in the residual stream, `blocks.20.hook_resid_post`, and what is there
    latent, SAE            one direction of a sparse autoencoder's dictionary; the autoencoder
    push                   what is added at a hook point, [d_model], raw residual units
    alpha, dose, weight    strength at use, in percent; what it comes to; a share in a sum
    Condition              one way to write that is compared with others; a Comparison is of several
    metadata, provenance   what a vector file says of itself; what is needed to repeat a run
    card                   what a judge is made of
    Estimate               a number and its 95 % interval
    Scores, Verdict        what a judge finds; what a page concludes
"""

from __future__ import annotations

import importlib

TYPE_CHECKING = False  # typing's own costs milliseconds in which Ctrl-C would end in a traceback
if TYPE_CHECKING:
    from typing import Any

__version__ = "0.1.0"

_HOME = {
    "Comparison": ".evaluation.runs.comparison",
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
    "fit": ".vectors.fitting.from_texts",
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
