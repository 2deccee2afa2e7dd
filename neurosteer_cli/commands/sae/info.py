"""neurosteer sae info: what an SAE is, and how good it is on given texts."""

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

from typer import Argument, Option, echo

from ..shared import console, options
from ..shared.load import load_engine_with
from ..shared.options import ModelOptions
from ..shared.parse import parse_count
from .common import CONTEXT, load_family

if TYPE_CHECKING:
    from ...saes.quality import Measured
    from ...saes.sae import SparseAutoencoder


@options.model_options
def info(
    sae: options.SAE,
    texts: Annotated[
        list[str] | None,
        Argument(metavar="[TEXTS...]", help="Texts to measure on, held out from its training."),
    ] = None,
    text_key: options.TextKey = None,
    layers: options.OfLayers = None,
    tokens: Annotated[str, Option(help="Tokens to measure on.")] = "100k",
    loss_tokens: Annotated[
        str, Option(help="Of these, tokens to take the cross-entropy over; 0 leaves it out.")
    ] = "8k",
    *,
    where: ModelOptions,
    json: options.Json = False,
) -> None:
    """Show an SAE's architecture and hook point and, with texts, measure it.

    Explained variance, L0 and the share of latents that never fire, over the texts' tokens; and
    cross-entropy recovered: 1 if the model predicts as well from the reconstruction as from the
    residual, 0 if as badly as from zeros there.

    Example: neurosteer sae info bundled held_out.jsonl --layers 11,20
    """
    from ...data.corpus import corpus_files, documents
    from ...data.records import write_record
    from ...models.residuals import packed
    from ...saes.quality import tally

    n_tokens = parse_count(tokens, "--tokens")
    n_loss = 0 if loss_tokens == "0" else parse_count(loss_tokens, "--loss-tokens")
    files = corpus_files(texts or [], text_key)
    saes = load_family(sae, where.name, layers)
    measured: list[Measured | None] = [None] * len(saes)
    if files:
        engine, opened = load_engine_with(saes, where, None if n_loss else saes, head=n_loss > 0)
        sequences, name = (
            packed(engine, documents(files, console.note), CONTEXT),
            ", ".join(part.name for part in files),
        )
        with console.progress("measuring", n_tokens) as advance:
            tallies = tally(
                engine, opened.values(), sequences, n_tokens, n_loss_tokens=n_loss, name=name, advance=advance
            )
        measured = [running.measured() for running in tallies]
    cards = [_card(member, where.name) for member in saes.values()]
    if json:
        for card, figures in zip(cards, measured, strict=True):
            write_record({**card, **(asdict(figures) if figures else {})})
        return
    echo("\n\n".join(map(_text, cards, measured)))
    if not files:
        console.note("give texts to measure explained variance, L0, dead latents and cross-entropy on")


def _card(sae: "SparseAutoencoder", model: str) -> dict[str, Any]:
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


def _text(card: dict[str, Any], measured: "Measured | None") -> str:
    lines = [
        f"{key.replace('_', ' ')}: {'unknown' if value is None else value}" for key, value in card.items()
    ]
    if measured is not None:
        lines += [
            f"measured on: {measured.n_tokens} tokens",
            f"explained variance: {measured.explained_variance:.3f}",
            f"L0: {measured.l0:.1f}",
            f"dead latents: {measured.dead_share:.2%} fired at none of the tokens",
            f"median residual norm: {measured.median_resid_norm:.1f}",
        ]
    if measured is not None and measured.loss_recovered is not None:
        lines.append(
            f"cross-entropy recovered: {measured.loss_recovered:.3f} (plain {measured.loss:.3f}, spliced in "
            f"{measured.loss_spliced:.3f}, zeroed {measured.loss_zeroed:.3f} nats a token, "
            f"{measured.n_loss_tokens} tokens)"
        )
    return "\n".join(lines)
