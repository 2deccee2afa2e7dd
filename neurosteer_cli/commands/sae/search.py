"""neurosteer sae search: the latents that go with a few words."""

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from ...errors import InputError, SAEError
from ..shared import console, options
from ..shared.load import load_engine_with
from ..shared.options import ModelOptions
from .common import load_family

if TYPE_CHECKING:
    from ...saes.search import Hit


@options.model_options
def search(
    sae: options.SAE,
    query: Annotated[str, typer.Argument(metavar="TEXT", help="Words, or a text of the kind meant.")],
    layers: options.OfLayers = None,
    n: Annotated[int, typer.Option("-n", help="Latents to show, an SAE.")] = 10,
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

    if n < 1:
        raise InputError(f"-n must be at least 1, got {n}")
    check_query(query)
    saes = load_family(sae, where.name, layers)
    described = {point: find(one, where.name) for point, one in saes.items()}
    for point, found in described.items():
        if found is None:
            raise SAEError(
                f"SAE {saes[point].sae_id!r} has no descriptions; "
                f"run `neurosteer sae describe {sae} CORPUS` first"
            )
    engine, saes = load_engine_with(saes, where, saes)
    for point, found in described.items():
        assert found is not None
        hits = search_latents(engine, saes[point], found, query, n)
        if json:
            for hit in hits:
                write_record({"hook_point": str(point), **asdict(hit)})
        else:
            _show(str(point), hits)


def _show(title: str, hits: "list[Hit]") -> None:
    console.table(
        title,
        (">latent", ">score", ">firing", ">words", "fires at"),
        [(str(hit.latent_id), f"{hit.score:.2f}", f"{hit.firing:.2f}", f"{hit.words:.2f}", hit.name)
         for hit in hits],
        stdout=True,
    )  # fmt: skip
