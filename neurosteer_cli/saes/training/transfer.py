"""Start one layer's SAE from another's: neighbours share most directions, so it needs fewer tokens.

Ghilardi et al. 2024, "Accelerating Sparse Autoencoder Training via Layer-Wise Transfer Learning in Large
Language Models". Knows SAEs and the first moments of residuals; knows nothing of training.
"""

from collections.abc import Iterator
from itertools import islice
from typing import NamedTuple

import torch
from torch import Tensor

from ...errors import SAEError
from ...models.engine import Engine
from ...models.hooks import HookPoint
from ...models.residuals import usual
from ...models.tokenizer import Tokens
from ..sae import SparseAutoencoder

N_SEQUENCES = 32


class Moments(NamedTuple):
    """Where residuals lie and how far they spread."""

    mean: Tensor  # [d_model]
    spread: float  # mean distance from the mean

    @classmethod
    def of(cls, rows: Tensor) -> "Moments":  # [n, d_model]
        mean = rows.mean(0)
        return cls(mean, float((rows - mean).norm(dim=-1).mean()))

    @classmethod
    def of_texts(cls, engine: Engine, sequences: Iterator[Tokens], point: HookPoint) -> "Moments":
        """Of residuals at a hook point, over the first sequences, outliers left out."""
        batches = engine.residuals(list(islice(sequences, N_SEQUENCES)), [point])
        resid = torch.cat([batch.resid[point] for batch in batches])
        return cls.of(resid[usual(resid, resid.norm(dim=-1).median())])


def transferred(sae: SparseAutoencoder, source: Moments, target: Moments) -> dict[str, Tensor]:
    """The weights, for one that subtracts no b_dec from its input, of an SAE carried over to other residuals.

    x of the target is taken for (x - target.mean) x ratio + source.mean of the source, ratio being
    that of the spreads; the reconstruction is carried back the same way. Each may be in units of its own.
    """
    if sae.normalize_activations != "none" or "b_enc" not in sae.weights:
        raise SAEError(f"SAE {sae.sae_id!r} cannot be started from: it is gated, or normalizes its input")
    W_enc, b_enc, b_dec = sae.weights["W_enc"], sae.weights["b_enc"], sae.weights["b_dec"]
    if sae.apply_b_dec_to_input:
        b_enc = b_enc - b_dec @ W_enc
    ratio = source.spread / target.spread
    return {
        "W_enc": ratio * W_enc,
        "b_enc": b_enc + (source.mean - ratio * target.mean) @ W_enc,
        "W_dec": sae.weights["W_dec"].float() / ratio,
        "b_dec": (b_dec - source.mean) / ratio + target.mean,
    }
