"""neurosteer layers: where in the model two sides of texts part, and where steering works."""

from collections.abc import Sequence
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ...data.prompts import prompts_of
from ...data.records import write_record
from ...data.sides import LABEL_KEY, SIDES, open_sides, side_label, unlike_forms
from ...errors import InputError
from ..shared import console, options, results
from ..shared.load import pricing_models
from ..shared.options import GenerationOptions, JudgeOptions, ModelOptions
from ..shared.parse import parse_alphas, parse_layers
from ..shared.results import interval, value

if TYPE_CHECKING:
    from ...evaluation.layers import Layer, LayerSweep, Steered

FIXED = ("chat", "system", "temperature", "top_p", "top_k", "repetition_penalty", "greedy", "n", "positions")


@options.judge_options()
@results.generation_options(without=[*FIXED, "batch_size"])
@options.chat_model_options
def layers_(
    texts: Annotated[
        list[str], typer.Argument(metavar="POS [NEG]", help="Texts of the two sides, as for `fit`.")
    ],
    target: Annotated[str | None, typer.Option(help="With one file: the label of the one side.")] = None,
    source: Annotated[str | None, typer.Option(help="With one file: the label of the other.")] = None,
    label_key: options.LabelKey = LABEL_KEY,
    only: options.Layers = None,
    steer: Annotated[
        bool, typer.Option("--steer", help="Also steer at each layer, by the difference of means.")
    ] = False,
    alpha: Annotated[str, typer.Option("--alpha", "-a", help="With --steer: the strengths.")] = "-10,10",
    prompts: options.Prompts = None,
    n: options.N = 1,
    ppl_model: results.PplModels = None,
    *,
    judging: JudgeOptions,
    generation: GenerationOptions,
    plot: Annotated[Path | None, typer.Option(help="Draw the curves there (.png or .svg).")] = None,
    report: Annotated[Path | None, typer.Option(help="Write a page with curves and table there.")] = None,
    where: ModelOptions,
    json: options.Json = False,
) -> None:
    """Measure every layer: how well the texts part there and, with --steer, how far steering moves text.

    Example: neurosteer layers polite.jsonl rude.jsonl --plot layers.svg
    """
    from ...evaluation.layers import Steering, sweep_layers
    from ...models.engine import Engine

    results.check_judges(judging, side_label(texts[0], SIDES[0]))
    if steer and len(judging.judges) != 1:
        raise InputError("--steer needs one judge: --judge NAME, or --judge-data POS NEG")
    if judging.judges and not steer:
        raise InputError("--judge without --steer: there are no continuations to judge")
    if ppl_model and not steer:
        raise InputError("--ppl-model without --steer: there are no continuations to price")
    alphas = list(dict.fromkeys(parse_alphas(alpha)))
    results.check_targets(plot, report)
    if plot is not None:
        from ...reports.drawing import check_suffix

        check_suffix(plot)
    config = generation.config(n)
    records = prompts_of(prompts, text_key=judging.text_key, say=console.note) if steer else []
    chosen = parse_layers(only) or None
    reading = open_sides(
        texts, target, source, text_key=judging.text_key, label_key=label_key, say=console.note
    )
    with reading as sides:
        for warning in unlike_forms(sides):
            console.warn(warning)
        fitted_on = {text for side in sides for text in side.hashes}
        judges = results.load_judges(judging, sides[0].label, fitted_on)
        pricing = pricing_models(ppl_model or [], where)
        engine = Engine.load(where.name, head=steer, **where.loading, say=console.note)
        how = None
        if steer:
            how = Steering(
                alphas=alphas,
                prompts=records,
                judge=judges[0],
                config=config,
                n=n,
                ppl_models=pricing(engine),
            )
        sweep = sweep_layers(
            engine, sides, chosen, how, sources=texts, warn=console.warn, progress=console.progress
        )
    if steer:
        results.announce(judges, len(records))
        console.note(f"unsteered, the rate is {interval(sweep.unsteered_rate, '.0%')}")
    _show(sweep.layers, alphas if steer else [], json)
    _draw(sweep, plot, report)


def _draw(sweep: "LayerSweep", plot: Path | None, report: Path | None) -> None:
    if plot is not None:
        from ...reports.charts import layers_plot

        layers_plot(sweep, plot)
        console.note(f"wrote {plot}")
    if report is not None:
        from ...reports.pages import layers_page

        results.write_page(report, layers_page(sweep, results.command_line()))


def _show(layers: "Sequence[Layer]", alphas: Sequence[float], json: bool) -> None:
    if json:
        for layer in layers:
            write_record(layer.to_json())
        return
    steered = [f">{what} at {alpha:+g}" for alpha in alphas for what in ("rate", "ratio")]
    headings = [">layer", ">AUROC", ">SAE AUROC", ">share of residual", *steered]
    console.table("by layer; in brackets 95 % intervals", headings, list(map(_cells, layers)), stdout=True)


def _cells(layer: "Layer") -> list[str]:
    measured = [interval(layer.auroc, ".2f"), value(layer.sae_auroc, ".2f"), f"{layer.shift_share:.1%}"]
    return [str(layer.layer), *measured, *chain.from_iterable(map(_steered_cells, layer.steer))]


def _steered_cells(at: "Steered") -> tuple[str, str]:
    mark = results.MARK if at.diversity and at.diversity.is_low else ""
    return interval(at.rate, ".0%"), interval(at.perplexity_ratio, ".2f") + mark
