"""neurosteer sae info: what an SAE is, and how good it is on given texts."""

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ...errors import InputError
from ..shared import console
from ..shared.options import SAE, Device, Dtype, Json, Model, OfLayers, parse_count

if TYPE_CHECKING:
    from ...data.corpus import Part
    from ...models.hooks import HookPoint
    from ...saes.quality import Measured
    from ...saes.sae import SparseAutoencoder

CONTEXT = 256


def info(
    sae: SAE,
    texts: Annotated[
        list[str] | None,
        typer.Argument(metavar="[TEXTS...]", help="Texts to measure on, held out from its training."),
    ] = None,
    layers: OfLayers = None,
    tokens: Annotated[str, typer.Option(help="Tokens to measure on.")] = "100k",
    loss_tokens: Annotated[
        str, typer.Option(help="Of these, tokens to take the cross-entropy over; 0 leaves it out.")
    ] = "8k",
    model: Model = None,
    dtype: Dtype = "auto",
    device: Device = "auto",
    json: Json = False,
) -> None:
    """Show an SAE's architecture and hook point and, with texts, measure it.

    Explained variance, L0 and the share of latents that never fire, over the texts' tokens; and
    cross-entropy recovered: 1 if the model predicts as well from the reconstruction as from the
    residual, 0 if as badly as from zeros there.

    Example: neurosteer sae info bundled held_out.jsonl --layers 11,20
    """
    from ...data.corpus import corpus_files
    from ...models.resolve import DEFAULT_MODEL
    from .common import load_family

    model = model or DEFAULT_MODEL
    n_tokens = parse_count(tokens, "--tokens")
    n_loss = 0 if loss_tokens == "0" else parse_count(loss_tokens, "--loss-tokens")
    files = corpus_files(texts) if texts else []
    saes = load_family(sae, model, layers)
    measured = _measure(saes, files, model, n_tokens, n_loss, dtype, device) if files else []
    if json:
        from ...data.records import write_record

        for number, one in enumerate(saes.values()):
            write_record({**_facts(one, model), **(_figures(measured[number]) if measured else {})})
        return
    for number, one in enumerate(saes.values()):
        if number:
            typer.echo()
        for key, value in _facts(one, model).items():
            typer.echo(f"{key.replace('_', ' ')}: {'unknown' if value is None else value}")
        for line in _lines(measured[number]) if measured else []:
            typer.echo(line)
    if not files:
        console.note("give texts to measure explained variance, L0, dead latents and cross-entropy on")


def _measure(
    saes: "dict[HookPoint, SparseAutoencoder]", files: "list[Part]", model: str, n_tokens: int, n_loss: int,
    dtype: str, device: str,
) -> "list[Measured]":  # fmt: skip
    from ...saes.quality import tally
    from .common import load_engine, token_sequences

    engine, fitted = load_engine(model, saes, dtype, device, points=None if n_loss else saes, head=n_loss > 0)
    with console.progress("measuring", n_tokens) as advance:
        found = tally(
            engine, list(fitted.values()), token_sequences(engine, files, CONTEXT),
            n_tokens=n_tokens, n_loss_tokens=n_loss, advance=advance,
        )  # fmt: skip
    if found[0].n == 0:
        raise InputError(f"{', '.join(part.name for part in files)}: no token that counts; give longer texts")
    return [one.measured() for one in found]


def _facts(sae: "SparseAutoencoder", model: str) -> dict[str, Any]:
    from ...saes.descriptions import find

    described = find(sae, model)
    return {
        "sae": sae.sae_id,
        "architecture": sae.architecture + (f" (k {sae.k})" if sae.k else ""),
        "hook_point": str(sae.hook_point),
        "model": sae.model_name,
        "d_model": sae.d_model,
        "d_sae": sae.d_sae,
        "normalization": sae.normalize_activations,
        "sha256": sae.sha256,
        "descriptions": f"from {described.about.n_tokens} tokens" if described else None,
    }


def _figures(one: "Measured") -> dict[str, Any]:
    return {**asdict(one), "loss_recovered": one.loss_recovered}


def _lines(one: "Measured") -> list[str]:
    lines = [
        f"measured on: {one.n_tokens} tokens",
        f"explained variance: {one.explained_variance:.3f}",
        f"L0: {one.l0:.1f}",
        f"dead latents: {one.dead_share:.2%} fired at none of the tokens",
        f"median residual norm: {one.median_resid_norm:.1f}",
    ]
    if one.loss is not None and one.loss_recovered is not None:
        lines.append(
            f"cross-entropy recovered: {one.loss_recovered:.3f} (plain {one.loss:.3f}, spliced in "
            f"{one.loss_spliced:.3f}, zeroed {one.loss_zeroed:.3f} nats a token, {one.n_loss_tokens} tokens)"
        )
    return lines
