"""neurosteer sae search: the latents that go with a few words."""

from dataclasses import asdict
from typing import Annotated

import typer

from ...errors import InputError, SAEError
from ..shared import console
from ..shared.options import SAE, Device, Dtype, Json, Model, OfLayers


def search(
    sae: SAE,
    query: Annotated[str, typer.Argument(metavar="TEXT", help="Words, or a text of the kind meant.")],
    layers: OfLayers = None,
    n: Annotated[int, typer.Option("-n", help="Latents to show, an SAE.")] = 10,
    model: Model = None,
    dtype: Dtype = "auto",
    device: Device = "auto",
    json: Json = False,
) -> None:
    """Rank latents by their firing on a text against the corpus, and by words in their descriptions.

    Example: neurosteer sae search bundled "complaining about service" --layer 20
    """
    from ...models.resolve import DEFAULT_MODEL
    from ...saes.descriptions import find
    from ...saes.search import search as search_latents
    from .common import load_engine, load_family

    if n < 1:
        raise InputError(f"-n must be at least 1, got {n}")
    if not query.strip():
        raise InputError("the query is empty; give the words or the text to search by")
    model = model or DEFAULT_MODEL
    saes = load_family(sae, model, layers)
    described = []
    for one in saes.values():
        found = find(one, model)
        if found is None:
            raise SAEError(
                f"SAE {one.sae_id!r} has no descriptions; run `neurosteer sae describe {sae} CORPUS` first"
            )
        described.append(found)
    engine, fitted = load_engine(model, saes, dtype, device, points=saes, head=False)
    for one, descriptions in zip(fitted.values(), described, strict=True):
        hits = search_latents(engine, one, descriptions, query, n)
        if json:
            from ...data.records import write_record

            for hit in hits:
                write_record({"hook_point": str(one.hook_point), **asdict(hit)})
        else:
            console.table(
                str(one.hook_point),
                (">latent", ">score", ">firing", ">words", "fires at"),
                [(str(hit.latent_id), f"{hit.score:.2f}", f"{hit.firing:.2f}", f"{hit.words:.2f}", hit.name)
                 for hit in hits],
                stdout=True,
            )  # fmt: skip
