"""neurosteer sae search: the latents that go with a few words."""

from dataclasses import asdict
from typing import Annotated

from typer import Argument, Option

from ...errors import SAEError
from ..shared import console, options
from ..shared.load import load_engine_with
from ..shared.options import ModelOptions
from .common import check_least, load_family


@options.model_options
def search(
    sae: options.SAE,
    query: Annotated[str, Argument(metavar="TEXT", help="Words, or a text of the kind meant.")],
    layers: options.OfLayers = None,
    n: Annotated[int, Option("-n", help="Latents to show, an SAE.")] = 10,
    *,
    where: ModelOptions,
    json: options.Json = False,
) -> None:
    """Rank latents by their firing on a text against the corpus, and by words in their descriptions.

    Example: neurosteer sae search bundled "complaining about service" --layer 20
    """
    from ...data.records import write_record
    from ...saes.descriptions import find
    from ...saes.search import check_query
    from ...saes.search import search as search_latents

    check_least({"-n": n}, 1)
    check_query(query)
    saes = load_family(sae, where.name, layers)
    described = {}
    for point, member in saes.items():
        if (found := find(member, where.name)) is None:
            raise SAEError(
                f"SAE {member.sae_id!r} has no descriptions; run `neurosteer sae describe {sae} CORPUS` first"
            )
        described[point] = found
    engine, saes = load_engine_with(saes, where, saes)
    for point, found in described.items():
        hits = search_latents(engine, saes[point], found, query, n)
        if json:
            for hit in hits:
                write_record({"hook_point": str(point), **asdict(hit)})
            continue
        rows = [
            (str(hit.latent_id), f"{hit.score:.2f}", f"{hit.firing:.2f}", f"{hit.words:.2f}", hit.name)
            for hit in hits
        ]
        console.table(str(point), (">latent", ">score", ">firing", ">words", "fires at"), rows, stdout=True)
