"""neurosteer calibrate: measure what each alpha does, and keep it in the vector file."""

import math
from dataclasses import replace
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ...errors import InputError
from ..shared import console
from ..shared.options import (
    Attribute,
    BatchSize,
    Chat,
    Device,
    Dtype,
    Json,
    JudgeData,
    MaxNewTokens,
    Model,
    N,
    OneJudge,
    Positions,
    Prompts,
    Seed,
    System,
    Temperature,
    TopP,
    generation_settings,
    parse_alphas,
)
from ..shared.prompting import prompt_records
from ..shared.scoring import announce, check_judges, load_judges, opening, show, write_page

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ...evaluation.evaluate import ConditionResult
    from ...evaluation.judges.judge import Judge
    from ...vectors.metadata import Calibration, CurvePoint
    from ..shared.continuations import Continuations

DEFAULT_ALPHA = "-24,-20,-16,-12,-8,-4,4,8,12,16,20,24"


def calibrate(
    vector: Annotated[Path, typer.Argument(help="Vector file; the calibration is written into it.")],
    prompts: Prompts = None,
    judge: OneJudge = None,
    judge_data: JudgeData = None,
    attribute: Attribute = None,
    alpha: Annotated[
        str, typer.Option("--alpha", "-a", help="Strengths to measure; 0 is always among them.")
    ] = DEFAULT_ALPHA,
    max_ppl_ratio: Annotated[
        float, typer.Option(help="Perplexity at most this many times the unsteered one.")
    ] = 1.25,
    n: N = 1,
    report: Annotated[Path | None, typer.Option(help="Write a page with the curve there.")] = None,
    chat: Chat = False,
    system: System = None,
    max_new_tokens: MaxNewTokens = 40,
    temperature: Temperature = 0.9,
    top_p: TopP = 0.9,
    seed: Seed = 0,
    positions: Positions = "all",
    batch_size: BatchSize = 64,
    model: Model = None,
    dtype: Dtype = "auto",
    device: Device = "auto",
    json: Json = False,
) -> None:
    """Measure the dose-response curve of a vector, and recommend a strength in either direction.

    Then `gen --alpha auto` (or -auto) takes the recommended alpha, and `gen --level 0.8` the one at
    which the judge's rate is expected to be 80 %.

    Example: neurosteer calibrate polite.st --judge-data kind.jsonl curt.jsonl
    """
    from ...files import check_target
    from ...vectors.vector import SteeringVector
    from ..shared.continuations import Planned

    specs = check_judges([judge] if judge else None, judge_data, attribute, steers=True)
    if len(specs) != 1:
        raise InputError("calibrate needs one judge: --judge NAME, or --judge-data POS NEG")
    if not 1 <= max_ppl_ratio < math.inf:
        raise InputError(f"--max-ppl-ratio must be at least 1 and finite, got {max_ppl_ratio}")
    check_target(vector)
    if report is not None:
        check_target(report)
    settings = generation_settings(
        n=n,
        greedy=False,
        temperature=temperature,
        top_p=top_p,
        top_k=0,
        repetition_penalty=1.0,
        seed=seed,
        max_new_tokens=max_new_tokens,
        positions=positions,
        batch_size=batch_size,
    )
    alphas = sorted({(0.0,), *((value,) for value in parse_alphas(alpha))})
    planned = Planned(
        [vector], alphas, settings, n, random=False, instruction=None,
        as_chat=chat or system is not None, system=system,
    )  # fmt: skip
    records = prompt_records(prompts)
    vectors = {str(vector): SteeringVector.load(vector)}
    judges = load_judges(specs, judge_data, attribute, vectors)
    run = planned.run(records, vectors, None, False, model, dtype, device)
    results, found = _calibrated(run, judges[0], max_ppl_ratio)
    steering = vectors[str(vector)]
    replace(steering, metadata=steering.metadata.model_copy(update={"calibration": found})).save(vector)
    announce(judges, run.facts["n_prompts"])
    if json:
        from ...data.records import write_record

        write_record({"vector": str(vector), **found.model_dump()})
    else:
        show(results, json=False)
    _recommend(vector, found)
    if report is not None:
        _write_report(report, run, results, found, judges)


def _calibrated(
    run: "Continuations", judge: "Judge", max_ppl_ratio: float
) -> "tuple[Sequence[ConditionResult], Calibration]":
    from ...evaluation.calibrate import calibrate as calibrated
    from ...evaluation.evaluate import evaluate

    facts = run.facts
    results = evaluate(run.scored(), [judge], progress=console.progress).results
    found = calibrated(
        results,
        judge.name,
        max_ppl_ratio,
        judge_facts=judge.card,
        model_id=run.engine.model_id,
        prompts_sha256=facts["prompts_sha256"],
        n_prompts=facts["n_prompts"],
        n=facts["n"],
        generation={key: facts[key] for key in ("positions", "max_new_tokens", "sampling", "chat", "system")},
        created=datetime.now(timezone.utc).isoformat(timespec="seconds"),
    )
    return results, found


def _recommend(path: Path, found: "Calibration") -> None:
    allowed = found.allowed()
    low, high = sorted((allowed[0].expected_rate, allowed[-1].expected_rate))
    for name, alpha in (("auto", found.alpha_up), ("-auto", found.alpha_down)):
        if alpha is None:
            console.warn(
                f"alpha {name}: no effect in that direction within a perplexity ratio of "
                f"{found.max_ppl_ratio:g}"
            )
        else:
            point = next(point for point in found.curve if point.alpha == alpha)
            if _alike(point, next(point for point in found.curve if point.alpha == 0)):
                console.warn(
                    f"alpha {name}: its rate is not told apart from the unsteered one; take more prompts"
                )
            console.note(
                f"alpha {name} is {alpha:g}: expected rate {point.expected_rate:.0%}, "
                f"perplexity ratio {point.perplexity_ratio:.2f}"
            )
    console.note(f"--level reaches {low:.0%} to {high:.0%}; wrote {path}")


def _alike(one: "CurvePoint", other: "CurvePoint") -> bool:
    """Whether the intervals of two rates overlap."""
    bounds = (one.rate_low, one.rate_high, other.rate_low, other.rate_high)
    if any(bound is None for bound in bounds):
        return True
    return max(one.rate_low or 0, other.rate_low or 0) <= min(one.rate_high or 0, other.rate_high or 0)


def _write_report(
    path: Path,
    run: "Continuations",
    results: "Sequence[ConditionResult]",
    found: "Calibration",
    judges: "Sequence[Judge]",
) -> None:
    from ...reports.pages import calibration_page

    document = {
        **opening(run, judges),
        "rows": [result.to_json() for result in results],
        "recommended": {"up": found.alpha_up, "down": found.alpha_down},
        "max_ppl_ratio": found.max_ppl_ratio,
        "expected": [{"alpha": point.alpha, "rate": point.expected_rate} for point in found.curve],
    }
    write_page(path, calibration_page(document))
