"""What people are told of a vector that was fitted, on stderr.

Knows vectors and reports of fits; knows nothing of options, or of how a vector is fitted.
"""

import shlex
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from . import console
from .acting import what_alpha_does

if TYPE_CHECKING:
    from ...vectors.fitting.from_latents import Choice
    from ...vectors.fitting.report import FitReport, LatentRow, TokenRow
    from ...vectors.vector import SteeringVector

TRIED_ON = "Once upon a time"


def summarize(vector: "SteeringVector", report: "FitReport") -> None:
    """Tell what was fitted on texts."""
    for warning in report.warnings:
        console.warn(warning)
    if report.n_duplicates:
        console.note(f"{report.n_duplicates} duplicate texts were dropped")
    if report.n_without_tokens:
        console.note(f"{report.n_without_tokens} texts of a single token were left out")
    sides = [side for side in (vector.metadata.positive, vector.metadata.negative) if side is not None]
    labels = [side.label for side in sides]
    if (seed := vector.metadata.parameters.get("shuffle_labels")) is not None:
        console.note(f"a control: the texts of {' and '.join(labels)} were dealt out at random (seed {seed})")
    counts = [f"{side.label} {side.n_texts} texts, {side.n_tokens} tokens" for side in sides]
    speed = [f"{report.tokens_per_second:.0f} tokens/s"] if vector.pushes else []
    console.note("; ".join([*counts, ", ".join([f"{report.seconds:.1f} s", *speed])]))
    for line in _measured(vector, report):
        console.note(line)
    _show_latents(report, labels)
    _show_tokens(report, labels, vector.default_alpha)


def _measured(vector: "SteeringVector", report: "FitReport") -> Iterator[str]:
    """How well the sides part, at each hook point and by their tokens."""

    def held(auroc: float | None) -> str:
        on = " + ".join(map(str, report.n_held_out))
        return "no text held out" if auroc is None else f"held-out AUROC {auroc:.2f} on {on} texts"

    for name, point in vector.metadata.points.items():
        differ = f"the sides differ by {point.shift_norm:.1f}"
        yield f"{name}: {held(point.auroc)}; {differ}, the median residual is {point.resid_norm:.1f} long"
    if vector.bias:
        yield f"logits: {held(report.tokens_auroc)}; a bias of {len(vector.bias.ids)} tokens"


def written(file: Path, vector: "SteeringVector") -> str:
    """That the file is there; of vectors that do not only push, what alpha does, and how to try it."""
    if vector.metadata.kind == "add" and not vector.bias:
        dose = f": alpha 1 is a dose of {vector.dose(1.0):.2%}" if vector.metadata.method == "latents" else ""
        return f"wrote {file}{dose}"
    alpha, name = vector.default_alpha, shlex.quote(str(file))
    return (
        f"wrote {file}: alpha {alpha:g} is {what_alpha_does(vector, alpha)}\n"
        f"next: neurosteer gen {TRIED_ON!r} -v {name} -a {alpha:g}"
    )


def _show_latents(report: "FitReport", labels: Sequence[str]) -> None:
    """The strongest latents of either sign, as many in all at several blocks as at one."""
    from ...models.hooks import HookPoint

    n_points = len(report.strongest)
    rows = [
        (str(HookPoint.parse(name).layer) if n_points > 1 else "", *_cells(row))
        for name, found in report.strongest.items()
        for turned in ([r for r in found if r.weight > 0], [r for r in found if r.weight < 0])
        for row in turned[: max(1, len(turned) // n_points)]
    ]
    rates = [f">fires\n{label}" for label in labels]
    headings = [">block", ">latent", ">weight", ">t", *rates, "fires most at", "described as"]
    if rows:
        console.table("strongest latents", headings, rows, only_filled=True)


def _cells(row: "LatentRow") -> list[str]:
    rates = [f"{row.positive_rate:.1%}", f"{row.negative_rate:.1%}"]
    piece = " ".join(row.piece.split())
    fires_at = f"{row.token.strip()!r} in {piece!r}"
    return [str(row.latent_id), f"{row.weight:+.3f}", f"{row.t:+.1f}", *rates, fires_at, row.name or ""]


def _show_tokens(report: "FitReport", labels: Sequence[str], alpha: float) -> None:
    """The tokens that are urged most, and those that are urged against."""
    rows = [_token_cells(row, alpha) for row in report.tokens]
    rates = [f">of tokens\n{label}" for label in labels]
    if rows:
        console.table("strongest tokens", ["token", f">nats at\nalpha {alpha:g}", *rates], rows)


def _token_cells(row: "TokenRow", alpha: float) -> list[str]:
    rates = [f"{rate:.2%}" for rate in (row.positive_rate, row.negative_rate)]
    return [repr(row.token), f"{alpha * row.bias:+.2f}", *rates]


def show_choice(choice: "Choice", model: str) -> None:
    """Tell what latents of one SAE the vector is made of, on stderr."""
    from ...saes.descriptions import names

    ids = choice.latents.ids.tolist()
    described = names(choice.sae, model, ids)
    rows = [
        (str(latent), f"{weight:+g}", f"{rate:.2%}", described.get(latent, ""))
        for latent, weight, rate, _ in choice.latents.first(len(ids))
    ]
    console.note(f"{choice.sae.hook_point}: the median residual is {choice.median_resid_norm:.1f} long")
    headings = (">latent", ">weight", ">fires", "described as")
    console.table("chosen latents", headings, rows, only_filled=True)
