"""How good an SAE is on given texts. Knows nothing of training or files; memory holds one batch."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from ..errors import InputError
from ..models.architectures.head import FinalStates
from ..models.engine import Engine, ResidualBatch
from ..models.hooks import HookPoint, add
from ..models.residuals import MedianNorm, read, usual
from ..models.tokenizer import Tokens
from .sae import SparseAutoencoder

SEQUENCES_AT_ONCE = 16


@dataclass(frozen=True)
class Measured:
    """An SAE on some texts; position 0, special tokens and outliers in norm left out."""

    n_tokens: int
    explained_variance: float  # 1 - |x - reconstruction|^2 / |x - mean|^2, summed over all tokens
    l0: float  # latents that fire at a token
    dead_share: float  # of the latents: those that fired at none of the tokens
    median_resid_norm: float
    n_loss_tokens: int
    loss: float | None  # cross-entropy of the model, nats a token
    loss_spliced: float | None  # with the reconstruction in the residual's place
    loss_zeroed: float | None  # with zeros there
    loss_recovered: float | None  # share of what zeros cost that the reconstruction saves; 1: no loss at all


def reconstruct(sae: SparseAutoencoder, resid: Tensor) -> tuple[Tensor, Tensor]:
    """The reconstruction [n, d_model] of raw residuals [n, d_model], and the activations [n, d_sae]."""
    activations = sae.encode(resid)
    rows = sae.decoder_rows(torch.arange(sae.d_sae, device=resid.device))
    out = (activations @ rows + sae.weights["b_dec"]) * sae.raw_scale(resid)
    if sae.centred or sae.normalize_activations == "layer_norm":  # the mean was taken off
        out = out + resid.mean(-1, keepdim=True)
    return out, activations


class Tally:
    """One SAE's running sums, float64."""

    def __init__(self, sae: SparseAutoencoder) -> None:
        self.sae = sae
        self.norms = MedianNorm()
        self.total = torch.zeros(sae.d_model, dtype=torch.float64)
        self.squares = self.error = 0.0
        self.fired = torch.zeros(sae.d_sae, dtype=torch.int64)
        self.n = 0
        self.losses = torch.zeros(3, dtype=torch.float64)  # plain, spliced, zeroed
        self.n_losses = 0

    def add(self, resid: Tensor) -> None:
        """Take in residuals [n, d_model]."""
        self.norms.add(resid)
        x = resid[usual(resid, self.norms.median)]
        out, activations = reconstruct(self.sae, x)
        self.total += x.double().sum(0).cpu()
        self.squares += float(x.double().square().sum())
        self.error += float((x - out).double().square().sum())
        self.fired += (activations > 0).sum(0).cpu()
        self.n += len(x)

    @property
    def firing_rates(self) -> Tensor:
        """Share of tokens at which each latent fires, [d_sae]."""
        return self.fired.double() / self.n

    def measured(self) -> Measured:
        """The figures; at least one token must have been taken in."""
        variance = self.squares - float(self.total.square().sum()) / self.n
        means: list[Any] = (self.losses / self.n_losses).tolist() if self.n_losses else [None] * 3
        plain, spliced, zeroed = means
        return Measured(
            n_tokens=self.n,
            explained_variance=1 - self.error / variance,
            l0=int(self.fired.sum()) / self.n,
            dead_share=float((self.fired == 0).double().mean()),
            median_resid_norm=self.norms.median,
            n_loss_tokens=self.n_losses,
            loss=plain,
            loss_spliced=spliced,
            loss_zeroed=zeroed,
            loss_recovered=(zeroed - spliced) / (zeroed - plain) if self.n_losses else None,
        )


def tally(
    engine: Engine,
    saes: Iterable[SparseAutoencoder],
    sequences: Iterator[Tokens],
    n_tokens: int,  # that count, to read
    *,
    n_loss_tokens: int = 0,  # predictions to take the cross-entropy over, which needs the whole engine
    name: str = "the texts",  # in errors
    advance: Callable[[int], None] = lambda _n: None,  # told how many tokens have been read
) -> list[Tally]:
    """Hold one or several SAEs against token sequences, in one pass; InputError if no token counts."""
    tallies = [Tally(sae) for sae in saes]
    points = [running.sae.hook_point for running in tallies]
    for batch in read(engine, sequences, points, lambda: tallies[0].n < n_tokens, SEQUENCES_AT_ONCE):
        for running in tallies:
            running.add(batch.resid[running.sae.hook_point])
        if tallies[0].n_losses < n_loss_tokens:
            _add_losses(engine, tallies, batch)
        advance(len(batch.places))
    if tallies[0].n == 0:
        raise InputError(f"{name}: no token that counts; give longer texts")
    return tallies


@torch.inference_mode()
def _add_losses(engine: Engine, tallies: Sequence[Tally], batch: ResidualBatch) -> None:
    """Run a batch as it is, then for each SAE with the reconstruction and with zeros spliced in."""
    plain = _loss(engine, batch.ids, {})
    for running in tallies:
        point = running.sae.hook_point
        resid = batch.resid[point]
        kept = usual(resid, running.norms.median)[:, None]
        out, _ = reconstruct(running.sae, resid)
        spliced = _loss(engine, batch.ids, {point: _placed(batch, (out - resid) * kept)})
        zeroed = _loss(engine, batch.ids, {point: _placed(batch, -resid * kept)})
        running.losses += torch.tensor([plain, spliced, zeroed], dtype=torch.float64)
        running.n_losses += int((batch.ids[:, 1:] >= 0).sum())


def _placed(batch: ResidualBatch, difference: Tensor) -> Tensor:
    """Differences of the counted tokens [n, d_model] at their places, 0 elsewhere, [batch, pos, d_model]."""
    whole = difference.new_zeros(*batch.ids.shape, difference.shape[-1])
    whole[batch.places[:, 0], batch.places[:, 1]] = difference
    return whole


def _loss(engine: Engine, ids: Tensor, pushes: dict[HookPoint, Tensor]) -> float:
    """Summed cross-entropy of each next token, in nats."""
    ids = ids.to(engine.device)
    places = (ids[:, 1:] >= 0).nonzero()
    targets = ids[places[:, 0], places[:, 1] + 1]
    with add(engine.blocks, pushes):
        states = FinalStates(engine.model, ids.clamp_min(0))
    total = 0.0
    for some, logits in states.logits(places):
        engine.check_finite(logits.amax(-1), ids)
        total += float(cross_entropy(logits, targets[some], reduction="sum"))
    return total
