"""neurosteer sae describe: what each latent fires on, kept beside the SAE."""

from pathlib import Path
from typing import Annotated

import typer

from ...errors import InputError
from ..shared import console
from ..shared.options import SAE, Corpus, Device, Dtype, Model, OfLayers, parse_count

CONTEXT = 256


def describe(
    sae: SAE,
    corpus: Corpus,
    layers: OfLayers = None,
    tokens: Annotated[str, typer.Option(help="Tokens to read.")] = "200k",
    contexts: Annotated[int, typer.Option(help="Contexts kept a latent.")] = 5,
    before: Annotated[int, typer.Option(help="Tokens shown before the one it fires at.")] = 8,
    after: Annotated[int, typer.Option(help="Tokens shown after it.")] = 4,
    shown: Annotated[int, typer.Option("--tokens-shown", help="Promoted tokens, and suppressed.")] = 5,
    report: Annotated[
        Path | None, typer.Option(help="Also write an HTML page of the latents, to browse.")
    ] = None,
    model: Model = None,
    dtype: Dtype = "auto",
    device: Device = "auto",
) -> None:
    """Describe each latent: contexts it fires in, how often, tokens it promotes and suppresses.

    The descriptions are a small file in the SAE's folder; `fit` and `inspect` name latents with it,
    `sae search` looks in it, and `fit --latent` takes the residual's median norm from it.

    Example: neurosteer sae describe saes/blocks.20.hook_resid_post corpus.jsonl.gz --report latents.html
    """
    from ...data.corpus import corpus_files
    from ...files import check_target, replace_file
    from ...models.resolve import DEFAULT_MODEL
    from ...saes.describe import describe as describe_latents
    from ...saes.descriptions import file_for
    from .common import load_engine, load_family, token_sequences

    for option, value, least in (
        ("--contexts", contexts, 1), ("--before", before, 0), ("--after", after, 0),
        ("--tokens-shown", shown, 0),
    ):  # fmt: skip
        if value < least:
            raise InputError(f"{option} must be at least {least}, got {value}")
    model = model or DEFAULT_MODEL
    n_tokens = parse_count(tokens, "--tokens")
    files = corpus_files(corpus)
    saes = load_family(sae, model, layers)
    targets = [file_for(one, sae, model) for one in saes.values()]
    for target in targets:
        target.parent.mkdir(parents=True, exist_ok=True)
        check_target(target)
    if report is not None:
        check_target(report)
    engine, fitted = load_engine(model, saes, dtype, device, points=saes, head=True)
    with console.progress("reading", n_tokens) as advance:
        found = describe_latents(
            engine, list(fitted.values()), token_sequences(engine, files, CONTEXT), n_tokens=n_tokens, n_contexts=contexts,
            before=before, after=after, n_tokens_shown=shown, advance=advance,
        )  # fmt: skip
    for target, one in zip(targets, found, strict=True):
        one.save(target)
        silent = sum(not latent.contexts for latent in one.latents)
        console.note(
            f"wrote {target}: {one.about.d_sae} latents at {one.about.hook_point}, from {one.about.n_tokens} "
            f"tokens; {silent} never fired"
        )
    if report is not None:
        from ...reports.pages import latents_page

        with replace_file(report) as temporary:
            temporary.write_text(latents_page(found), encoding="utf-8")
        console.note(f"wrote {report}")
