"""neurosteer calibrate: measure what each alpha does, and keep it in the vector file."""

import math
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ...data.prompts import prompts_of
from ...data.records import write_record
from ...errors import InputError
from ...evaluation.runs.samples import LEAST_DIVERSITY, MAX_PPL_RATIO
from ..shared import console, options, results
from ..shared.acting import ActingOptions
from ..shared.load import load_engine, pricing_models
from ..shared.options import GenerationOptions, JudgeOptions, ModelOptions
from ..shared.parse import parse_alphas

if TYPE_CHECKING:
    from ...vectors.metadata import Calibration

DEFAULT_ALPHA = "-24,-20,-16,-12,-8,-4,4,8,12,16,20,24"
OF_KIND = {"ablate": "0.25,0.5,0.75,1"}


@options.judge_options(only_one=True)
@results.generation_options(without=["n", "top_k", "repetition_penalty", "greedy"])
@options.chat_model_options
def calibrate_(
    vector: Annotated[
        Path, typer.Argument(metavar="VECTOR", help="Vector file; the calibration is written into it.")
    ],
    prompts: options.Prompts = None,
    *,
    judging: JudgeOptions,
    alpha: Annotated[
        str | None,
        typer.Option(
            "--alpha",
            "-a",
            help=f"Strengths to measure; 0 is always among them. [default: {DEFAULT_ALPHA}; of vectors that "
            f"ablate {OF_KIND['ablate']}]",
        ),
    ] = None,
    max_ppl_ratio: Annotated[
        float, typer.Option(help="Perplexity at most this many times the unsteered one.")
    ] = MAX_PPL_RATIO,
    ppl_model: results.PplModels = None,
    n: options.N = 1,
    report: Annotated[Path | None, typer.Option(help="Write a page with the curve there.")] = None,
    generation: GenerationOptions,
    where: ModelOptions,
    json: options.Json = False,
) -> None:
    """Measure the dose-response curve of a vector, and recommend a strength in either direction.

    Then `gen --alpha auto` (or -auto) takes the recommended alpha, and `gen --level 0.8` the one at
    which the judge's rate is expected to be 80 %.

    Example: neurosteer calibrate polite.st --judge-data kind.jsonl curt.jsonl
    """
    from ...evaluation.calibrate import calibrate
    from ...evaluation.evaluate import evaluate
    from ...vectors.vector import SteeringVector

    results.check_judges(judging, "the label of the vector")
    if len(judging.judges) != 1:
        raise InputError("calibrate needs one judge: --judge NAME, or --judge-data POS NEG")
    if not 1 <= max_ppl_ratio < math.inf:
        raise InputError(f"--max-ppl-ratio must be at least 1 and finite, got {max_ppl_ratio}")
    results.check_targets(vector, report)
    steering = SteeringVector.load(vector)
    usual = OF_KIND.get(steering.metadata.kind, DEFAULT_ALPHA)
    alphas = sorted({(0.0,), *((value,) for value in parse_alphas(usual if alpha is None else alpha))})
    comparison = results.comparison([(str(vector), steering)], alphas, n, ActingOptions(), generation)
    comparison = replace(comparison, random=False)
    records = prompts_of(prompts, text_key=judging.text_key, say=console.note)
    judges = results.load_judges_of(judging, [steering])
    pricing = pricing_models(ppl_model or [], where)
    engine = load_engine(where, comparison.vectors)
    run = comparison.write(engine, records, progress=console.progress)
    run = replace(run, steerings={})  # without damage
    evaluation = evaluate(
        run, judges, ppl_models=pricing(engine), warn=console.warn, progress=console.progress
    )
    calibration = calibrate(evaluation, max_ppl_ratio)
    metadata = steering.metadata.model_copy(update={"calibration": calibration})
    replace(steering, metadata=metadata).save(vector)
    results.announce(judges, len(records))
    if json:
        write_record({"vector": str(vector), **calibration.model_dump()})
    else:
        results.show(evaluation.results, json=False)
    _recommend(vector, calibration)
    if report is not None:
        from ...reports.pages import calibration_page

        results.write_page(report, calibration_page(evaluation, calibration, results.command_line()))


def _recommend(path: Path, calibration: "Calibration") -> None:
    from ...evaluation.measures.metrics import Estimate

    allowed = calibration.allowed()
    rates = {point.alpha: Estimate(point.rate, point.rate_low, point.rate_high) for point in allowed}
    for name, alpha, sign in (("auto", calibration.alpha_up, 1), ("-auto", calibration.alpha_down, -1)):
        if not any(sign * point.alpha > 0 for point in calibration.curve):
            continue  # nothing was asked of that direction
        point = next((point for point in allowed if point.alpha == alpha), None)
        if point is None:
            console.warn(
                f"alpha {name}: no effect in that direction within a perplexity ratio of "
                f"{calibration.max_ppl_ratio:g}"
            )
            continue
        rate, unsteered = rates[point.alpha], rates[0]
        if None in (rate.low, unsteered.low) or rate.overlaps(unsteered):
            console.warn(
                f"alpha {name}: its rate is not told apart from the unsteered one; take more prompts"
            )
        if (point.diversity or 1.0) < LEAST_DIVERSITY:
            console.warn(f"alpha {name}: {results.LESS_DIVERSE}")
        console.note(
            f"alpha {name} is {point.alpha:g}: expected rate {point.expected_rate:.0%}, "
            f"{results.cost(calibration, point)}"
        )
    low, high = sorted((allowed[0].expected_rate, allowed[-1].expected_rate))
    console.note(f"--level reaches {low:.0%} to {high:.0%}; wrote {path}")
