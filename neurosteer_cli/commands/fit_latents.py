"""neurosteer fit --latent: a vector from chosen latents, without labelled texts."""

from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import InputError, SAEError
from .shared import console
from .shared.options import parse_layers

if TYPE_CHECKING:
    from ..data.corpus import Part
    from ..models.engine import Engine
    from ..models.hooks import HookPoint
    from ..saes.sae import SparseAutoencoder
    from ..vectors.from_latents import Choice
    from ..vectors.vector import SteeringVector

N_TOKENS, CONTEXT = 100_000, 256  # read to measure the residual's norm where no descriptions say it


def fit_latents(
    latents: list[str],
    texts: list[str],
    out: Path | None,
    sae: str | None,
    layers: str | None,
    model: str,
    dtype: str,
    device: str,
    *,
    json: bool,
) -> None:
    """Write the vector of `--latent` options; texts, if any, are what the residual's norm is measured on.

    Raises:
        InputError: latents of blocks that are not steered at, or blocks without a latent.
        SAEError: the SAE has no descriptions, and no texts are given.
    """
    from ..data.corpus import corpus_files
    from ..files import check_target
    from ..vectors.from_latents import choose, parse_latents

    chosen = parse_latents(latents)
    target = out or Path("latents.st")
    check_target(target)
    files = corpus_files(texts) if texts else []
    weights = _by_sae(chosen, sae, layers, model)
    engine, choices = _choices(weights, files, model, dtype, device)
    vector = choose(choices, model_id=engine.model_id, model_shape=engine.shape)
    vector.save(target)
    _summarize(vector, choices, model, target)
    if json:
        from ..data.records import write_record

        write_record({"vector": str(target), **vector.metadata.model_dump()})


def _by_sae(
    chosen: dict[int | None, dict[int, float]], sae: str | None, layers: str | None, model: str
) -> "list[tuple[SparseAutoencoder, dict[int, float]]]":
    """Each SAE that is needed and the weights of its latents."""
    from ..saes.load import BUNDLED, load_sae

    asked: list[int | None] = list(parse_layers(layers)) if layers is not None else []
    if None in chosen and len(asked) > 1 or None in chosen and len(chosen) > 1:
        raise InputError("--latent: with several blocks, say whose latent it is: BLOCK/ID:WEIGHT, 20/960:-1")
    blocks: list[int | None] = asked if None in chosen and asked else list(chosen)
    if asked and set(blocks) != set(asked):
        raise InputError(f"--layers {layers}: give a --latent BLOCK/ID:WEIGHT for each of them, and no other")
    found = []
    for block in blocks:
        one = load_sae(sae or BUNDLED, model_id=model, layer=block)
        if block is not None and one.hook_point.layer != block:
            raise SAEError(f"SAE {sae!r} belongs to {one.hook_point}, not to block {block}; choose another")
        found.append((one, chosen[block] if block in chosen else chosen[None]))
    return found


def _choices(
    weights: "list[tuple[SparseAutoencoder, dict[int, float]]]",
    files: "list[Part]",
    model: str,
    dtype: str,
    device: str,
) -> "tuple[Engine, dict[HookPoint, Choice]]":
    """Add the median norm and the firing rates: by the descriptions, or measured on texts."""
    from ..saes.descriptions import find
    from ..saes.quality import tally
    from ..vectors.from_latents import Choice
    from .sae.common import load_engine, token_sequences

    saes = {one.hook_point: one for one, _ in weights}
    if files:
        engine, fitted = load_engine(model, saes, dtype, device, points=saes, head=False)
        with console.progress("measuring", N_TOKENS) as advance:
            tallies = tally(
                engine,
                list(fitted.values()),
                token_sequences(engine, files, CONTEXT),
                n_tokens=N_TOKENS,
                advance=advance,
            )
        if tallies[0].n == 0:
            names = ", ".join(part.name for part in files)
            raise InputError(f"{names}: no token that counts; give longer texts")
        facts = [(one.norms.median, one.firing_rates.tolist()) for one in tallies]
    else:
        described = [find(one, model) for one in saes.values()]
        lacking = next(
            (one for one, found in zip(saes.values(), described, strict=True) if found is None), None
        )
        if lacking is not None:
            raise SAEError(
                f"SAE {lacking.sae_id!r} has no descriptions, which say how long the residual is: run "
                "`neurosteer sae describe`, or give texts to measure it on: neurosteer fit TEXTS --latent ..."
            )
        facts = [
            (found.about.median_resid_norm, [latent.firing_rate for latent in found.latents])
            for found in described
            if found is not None
        ]
        engine, _ = load_engine(model, saes, dtype, device, points=[], head=False)
    return engine, {
        one.hook_point: Choice(
            one, chosen, median, {latent: rates[latent] for latent in chosen if 0 <= latent < one.d_sae}
        )
        for (one, chosen), (median, rates) in zip(weights, facts, strict=True)
    }


def _summarize(
    vector: "SteeringVector", choices: "dict[HookPoint, Choice]", model: str, target: Path
) -> None:
    """Tell what the vector is made of, on stderr."""
    from ..saes.descriptions import find, names

    for point, choice in choices.items():
        ids = vector.latents[point].ids.tolist()
        described = names(find(choice.sae, model), ids)
        console.note(f"{point}: the median residual is {choice.median_resid_norm:.1f} long")
        console.table(
            "chosen latents",
            (">latent", ">weight", ">fires", *(["described as"] if described else [])),
            [
                (str(latent), f"{choice.weights[latent]:+g}", f"{choice.firing_rates[latent]:.2%}",
                 *([described[latent]] if described else []))
                for latent in ids
            ],
        )  # fmt: skip
    console.note(f"wrote {target}: alpha 1 is a dose of {vector.dose(1.0):.2%}")
