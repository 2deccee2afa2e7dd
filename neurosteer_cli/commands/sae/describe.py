"""neurosteer sae describe: what each latent fires on, kept beside the SAE."""

from pathlib import Path
from typing import Annotated

from typer import Option

from ..shared import console, options
from ..shared.load import load_engine_with
from ..shared.options import ModelOptions
from ..shared.parse import parse_count
from .common import CONTEXT, check_least, load_family


@options.model_options
def describe(
    sae: options.SAE,
    corpus: options.Corpus,
    text_key: options.TextKey = None,
    layers: options.OfLayers = None,
    tokens: Annotated[str, Option(help="Tokens to read.")] = "200k",
    contexts: Annotated[int, Option(help="Contexts kept a latent.")] = 5,
    before: Annotated[int, Option(help="Tokens shown before the one it fires at.")] = 8,
    after: Annotated[int, Option(help="Tokens shown after it.")] = 4,
    shown: Annotated[int, Option("--tokens-shown", help="Promoted tokens, and suppressed.")] = 5,
    report: Annotated[Path | None, Option(help="Also write an HTML page of the latents, to browse.")] = None,
    *,
    where: ModelOptions,
) -> None:
    """Describe each latent: contexts it fires in, how often, tokens it promotes and suppresses.

    The descriptions are a small file in the SAE's folder; `fit` and `inspect` name latents with it,
    `sae search` looks in it, and `fit --latent` takes the residual's median norm from it.

    Example: neurosteer sae describe saes/blocks.20.hook_resid_post corpus.jsonl.gz --report latents.html
    """
    from ...data.corpus import corpus_files, documents
    from ...models.residuals import packed
    from ...saes.describe import describe as describe_latents
    from ...saes.descriptions import file_for
    from ..shared.results import check_targets, write_page

    check_least({"--contexts": contexts}, 1)
    check_least({"--before": before, "--after": after, "--tokens-shown": shown}, 0)
    n_tokens = parse_count(tokens, "--tokens")
    files = corpus_files(corpus, text_key)
    saes = load_family(sae, where.name, layers)
    targets = [file_for(one, sae, where.name) for one in saes.values()]
    for target in targets:
        target.parent.mkdir(parents=True, exist_ok=True)
    check_targets(*targets, report)
    engine, saes = load_engine_with(saes, where, saes, head=True)
    sequences = packed(engine, documents(files, console.note), CONTEXT)
    sizes = {"n_contexts": contexts, "before": before, "after": after, "n_tokens_shown": shown}
    with console.progress("reading", n_tokens) as advance:
        found = describe_latents(engine, saes.values(), sequences, n_tokens, **sizes, advance=advance)
    for target, described in zip(targets, found, strict=True):
        described.save(target)
        about, silent = described.about, sum(not latent.contexts for latent in described.latents)
        console.note(
            f"wrote {target}: {about.d_sae} latents at {about.hook_point}, from {about.n_tokens} tokens; "
            f"{silent} never fired"
        )
    if report is not None:
        from ...reports.pages import latents_page

        write_page(report, latents_page(found))
