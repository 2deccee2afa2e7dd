"""neurosteer layers: where in the model two sides of texts part, and where steering works."""

from collections.abc import Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ... import __version__
from ...errors import InputError
from ..shared import console
from ..shared.options import (
    Attribute,
    Device,
    Dtype,
    Json,
    JudgeData,
    Judges,
    MaxNewTokens,
    Model,
    N,
    Prompts,
    Seed,
    generation_settings,
    parse_alphas,
    parse_layers,
)
from ..shared.prompting import tokenized
from ..shared.scoring import announce, check_judges, command_line, interval, judges_for, percent, write_page

if TYPE_CHECKING:
    from ...evaluation.layers import Layer
    from ...models.engine import Engine
    from ...models.hooks import HookPoint
    from ...saes.sae import SparseAutoencoder


def layers(
    texts: Annotated[
        list[str],
        typer.Argument(metavar="POS NEG", help="Texts of the two sides, as for `fit`."),
    ],
    target: Annotated[str | None, typer.Option(help="With one file: the label of the one side.")] = None,
    source: Annotated[str | None, typer.Option(help="With one file: the label of the other.")] = None,
    only: Annotated[
        str | None, typer.Option("--layers", help="Blocks to look at, from 0 [default: all].")
    ] = None,
    steer: Annotated[
        bool, typer.Option("--steer", help="Also steer at each layer, by the difference of means.")
    ] = False,
    alpha: Annotated[str, typer.Option("--alpha", "-a", help="With --steer: the strengths.")] = "-10,10",
    prompts: Prompts = None,
    n: N = 1,
    judge: Judges = None,
    judge_data: JudgeData = None,
    attribute: Attribute = None,
    max_new_tokens: MaxNewTokens = 40,
    seed: Seed = 0,
    plot: Annotated[Path | None, typer.Option(help="Draw the curves there (.png or .svg).")] = None,
    report: Annotated[Path | None, typer.Option(help="Write a page with curves and table there.")] = None,
    model: Model = None,
    dtype: Dtype = "auto",
    device: Device = "auto",
    json: Json = False,
) -> None:
    """Measure every layer: how well the texts part there and, with --steer, how far steering moves text.

    Example: neurosteer layers polite.jsonl rude.jsonl --plot layers.svg
    """
    from ...data.prompts import prompts_of
    from ...data.sides import open_sides
    from ...evaluation.layers import measure
    from ...evaluation.layers import steer as steer_at
    from ...files import check_target
    from ...models.engine import Engine
    from ...models.resolve import DEFAULT_MODEL

    specs = check_judges(judge, judge_data, attribute or Path(texts[0]).stem, steers=True)
    if steer and len(specs) != 1:
        raise InputError("--steer needs one judge: --judge NAME, or --judge-data POS NEG")
    if specs and not steer:
        raise InputError("--judge without --steer: there are no continuations to judge")
    alphas = list(dict.fromkeys(parse_alphas(alpha)))
    for path in filter(None, (plot, report)):
        check_target(path)
    if plot is not None:
        from ...reports.charts import check_suffix

        check_suffix(plot)
    settings = generation_settings(
        n=n,
        greedy=False,
        temperature=0.9,
        top_p=0.9,
        top_k=0,
        repetition_penalty=1.0,
        seed=seed,
        max_new_tokens=max_new_tokens,
        positions="all",
        batch_size=64,
    )
    records = prompts_of(prompts) if steer else []
    with open_sides(texts, target, source) as sides:
        fitted_on = {text for side in sides for text in side.hashes}
        judges = judges_for(specs, judge_data, attribute or sides[0].label, fitted_on)
        engine = Engine.load(model or DEFAULT_MODEL, head=steer, dtype=dtype, device=device, say=console.note)
        points = _points(only, engine)
        saes = _bundled(engine, points)
        with console.progress("reading", sum(side.n_texts for side in sides)) as advance:
            found, vectors = measure(engine, sides, points, saes, advance=advance)
        unsteered, shown = None, ""
        if steer:
            asked = tokenized(records, engine, as_chat=False, system=None, max_new_tokens=max_new_tokens)
            found, unsteered = steer_at(
                engine, found, vectors, alphas, asked, judges[0], settings, n=n, progress=console.progress
            )
            announce(judges, len(records))
            shown = percent(unsteered.judges[judges[0].name].rate)
            console.note(f"unsteered, the rate is {shown}")
        labels = [side.label for side in sides]
    document = {
        "title": f"{labels[0]} against {labels[1]} on {engine.model_id}, layer by layer",
        "command": command_line(),
        "facts": {
            "model": engine.model_id,
            "texts": texts,
            "steered_by": "difference of class means" if steer else None,
            "prompts": len(records) or None,
            "n": n if steer else None,
            "program_version": __version__,
            "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        },
        "judge": judges[0].name if judges else None,
        "judges": [
            {"name": j.name, "limits": j.limits, "facts": j.card, "warnings": j.warnings} for j in judges
        ],
        "unsteered": None if unsteered is None else {**unsteered.to_json(), "shown": shown},
        "rows": [layer.to_json() for layer in found],
    }
    _show(found, alphas if steer else [], json)
    if plot is not None:
        from ...reports.pages import layers_plot

        layers_plot(document, plot)
        console.note(f"wrote {plot}")
    if report is not None:
        from ...reports.pages import layers_page

        write_page(report, layers_page(document))


def _points(only: str | None, engine: "Engine") -> "list[HookPoint]":
    from ...models.hooks import HookPoint

    numbers = parse_layers(only) if only is not None else range(engine.shape.n_layers)
    points = [HookPoint(number) for number in numbers]
    for point in points:
        point.check(engine.shape.n_layers)
    return points


def _bundled(engine: "Engine", points: "Sequence[HookPoint]") -> "dict[HookPoint, SparseAutoencoder]":
    """The bundled SAEs of these points, if the model has any."""
    from ...saes.load import BUNDLED, bundled_layers, find_saes, open_saes

    bundled = bundled_layers(engine.model_id)
    layers = [point.layer for point in points if point.layer in bundled]
    return open_saes(find_saes(BUNDLED, model_id=engine.model_id, layers=layers), engine, warn=console.warn)


def _show(found: "Sequence[Layer]", alphas: Sequence[float], json: bool) -> None:
    if json:
        from ...data.records import write_record

        for layer in found:
            write_record(layer.to_json())
        return
    headings = [">layer", ">AUROC", ">SAE AUROC", ">share of residual",
                *(f">{what} at {alpha:+g}" for alpha in alphas for what in ("rate", "ratio"))]  # fmt: skip
    console.table(
        "by layer; in brackets 95 % intervals",
        headings,
        [_cells(layer) for layer in found],
        stdout=True,
    )


def _cells(layer: "Layer") -> list[str]:
    auroc = interval(layer.auroc, "{:.2f}")
    steered = [
        cell for one in layer.steer for cell in (percent(one.rate), interval(one.perplexity_ratio, "{:.2f}"))
    ]
    sae = "" if layer.sae_auroc is None else f"{layer.sae_auroc:.2f}"
    return [str(layer.layer), auroc, sae, f"{layer.shift_share:.1%}", *steered]
