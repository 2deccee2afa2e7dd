"""What there is to tell of a fit: how long it took, what is doubtful about it, and what is in the vector.

Knows readings, vectors and what their latents are called; knows nothing of files or the terminal.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from ...data.sides import Sides, few_texts, unlike_forms
from ...models.engine import Engine
from ...saes.descriptions import names
from ..kinds import TokenBias
from ..vector import Latents, SteeringVector
from .lint import lint
from .reading import BEFORE, PointReading, Reading
from .statistics import welch_t

LOW_AUROC = 0.6
N_STRONGEST = 6  # latents, or tokens, of either sign shown


@dataclass(frozen=True)
class LatentRow:
    """A latent as the summary shows it."""

    latent_id: int
    weight: float
    t: float
    positive_rate: float  # share of tokens at which it fires
    negative_rate: float
    piece: str  # where it fires most in the given texts
    token: str  # the token it fires at there
    name: str | None  # by the SAE's descriptions, if it has any


@dataclass(frozen=True)
class TokenRow:
    """A token that is urged, or urged against, as the summary shows it."""

    token: str
    bias: float  # nats, at alpha 1
    positive_rate: float  # share of tokens that are this one
    negative_rate: float


@dataclass(frozen=True)
class FitReport:
    """What a fit did, for people."""

    seconds: float
    tokens_per_second: float  # of forward passes, SAE and statistics together; 0 without passes
    n_held_out: tuple[int, ...]  # texts, a side
    n_duplicates: int
    n_without_tokens: int  # texts of a single token, say: nothing to take statistics over
    warnings: list[str]
    strongest: dict[str, list[LatentRow]]  # by hook point: the strongest latents of either sign
    tokens: list[TokenRow]  # of a bias of logits: the strongest of either sign
    tokens_auroc: float | None  # of held-out texts by the bias of their tokens; None without one


def fit_report(
    reading: Reading, vector: SteeringVector, *, seconds: float, warnings: list[str], is_control: bool = False
) -> FitReport:
    """What to tell of a vector that a reading gave; `warnings` go before those of the texts.

    Of a control's texts nothing is said that they were dealt out to show.
    """
    engine, sides, points = reading.engine, reading.sides, list(vector.pushes)
    of_tokens = reading.tokens.auroc() if vector.bias else None
    doubts = [] if is_control else _doubts(sides, vector, of_tokens)
    held_out = reading.at[points[0]].held_out if points else reading.tokens.held_out
    return FitReport(
        seconds=seconds,
        tokens_per_second=reading.n_tokens_run / seconds,
        n_held_out=tuple(map(len, held_out)),
        n_duplicates=sum(len(side.duplicates) for side in sides),
        n_without_tokens=reading.n_without_tokens,
        warnings=[
            *warnings,
            *reading.shortfall.warnings(engine.max_tokens),
            *few_texts(sides, "a more dependable vector"),
            *doubts,
        ],
        strongest={str(at): _strongest(reading.at[at], vector.latents.get(at), engine) for at in points},
        tokens=_strongest_tokens(vector.bias, reading) if vector.bias else [],
        tokens_auroc=of_tokens,
    )


def _doubts(sides: Sides, vector: SteeringVector, of_tokens: float | None) -> list[str]:
    """What may be wrong with the texts: something else tells them apart, or nothing does."""
    measured = {f"at {point}": found.auroc for point, found in vector.metadata.points.items()}
    if of_tokens is not None:
        measured["by their tokens"] = of_tokens
    alike = [
        f"held-out AUROC {where} is {auroc:.2f}: the texts hardly separate there "
        "(0.50 is chance); use other texts, more of them, or another layer"
        for where, auroc in measured.items()
        if auroc is not None and auroc < LOW_AUROC
    ]
    other = [f"{found.check}: {found.words}" for found in lint(sides)]
    return [*unlike_forms(sides), *other, *alike]


def _strongest(at: PointReading, latents: Latents | None, engine: Engine) -> list[LatentRow]:
    """The first latents of either sign in the method's own order, those turned up first."""
    engine.pause()
    if latents is None or at.sae is None:
        return []
    ids, weights = latents.ids, latents.weights
    shown = torch.cat([ids[weights > 0][:N_STRONGEST], ids[weights < 0][:N_STRONGEST]]).tolist()
    weight_of = dict(zip(ids.tolist(), weights.tolist(), strict=True))
    described = names(at.sae, engine.model_id, shown)
    positive, negative = at.all.latents
    t = welch_t(positive, negative)
    windows = at.peaks.windows[:, 0]  # [d_sae, window]
    return [
        LatentRow(
            latent_id=latent,
            weight=weight_of[latent],
            t=float(t[latent]),
            positive_rate=float(positive.firing_rate[latent]),
            negative_rate=float(negative.firing_rate[latent]),
            piece=_text(windows[latent], engine),
            token=_text(windows[latent, BEFORE : BEFORE + 1], engine),
            name=described.get(latent),
        )
        for latent in shown
    ]


def _text(window: Tensor, engine: Engine) -> str:
    return engine.decode([], [token for token in window.tolist() if token >= 0])


def _strongest_tokens(bias: TokenBias, reading: Reading) -> list[TokenRow]:
    """The tokens of the largest bias; of equals, and beyond a bound many are, those that stand more often."""
    counts = reading.tokens.counts  # [2, d_vocab]
    rates = counts / counts.sum(1, keepdim=True)
    apart = (rates[0] - rates[1])[bias.ids]

    def first(sign: int) -> list[int]:
        ranked = sorted(range(len(bias.ids)), key=lambda n: (-sign * bias.bias[n], -sign * apart[n]))
        return [n for n in ranked[:N_STRONGEST] if sign * bias.bias[n] > 0]

    return [
        TokenRow(
            token=reading.engine.decode([], [int(bias.ids[n])]),
            bias=float(bias.bias[n]),
            positive_rate=float(rates[0, bias.ids[n]]),
            negative_rate=float(rates[1, bias.ids[n]]),
        )
        for n in (*first(1), *first(-1))
    ]
