"""neurosteer eval: how far behaviour moved, and what it cost."""

from dataclasses import fields, replace
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ...data.prompts import prompts_of
from ...errors import InputError
from ...evaluation.runs.samples import check_save, read_samples
from ..shared import console, options, results
from ..shared.acting import ActingOptions, acting_options
from ..shared.command import options_given
from ..shared.load import load_engine, pricing_models
from ..shared.options import GenerationOptions, JudgeOptions, ModelOptions
from ..shared.parse import check_paired, parse_alphas
from . import lm_eval as harness

if TYPE_CHECKING:
    from ...vectors.vector import SteeringVector

DEFAULT_ALPHA, OF_KIND = "4,8,16", {"ablate": "0.5,1"}
OF_GENERATION = ("alpha", "prompts", "n", "random", "baseline_prompt", "save", "resume")  # and its group


@options.judge_options()
@acting_options
@results.generation_options(without=["n"])
@options.chat_model_options
def eval_(
    ctx: typer.Context,
    generations: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[GENERATIONS]...",
            help='What `gen --json` wrote, or {"prompt": {"text"}, "generations": [{"text"}]}; - is stdin. '
            "Without any, --vector says what to generate.",
        ),
    ] = None,
    vector: options.Vectors = None,
    alpha: Annotated[
        list[str] | None,
        typer.Option(
            "--alpha",
            "-a",
            help="Strengths of the vector in the same place; 0 is always among them. "
            f"[default: {DEFAULT_ALPHA}]",
        ),
    ] = None,
    prompts: options.Prompts = None,
    n: options.N = 1,
    *,
    judging: JudgeOptions,
    acting: ActingOptions,
    random: Annotated[bool, typer.Option(help="Also a random vector as long as the strongest push.")] = True,
    baseline_prompt: Annotated[
        str | None, typer.Option(help='Also prompting: "Please be polite." before every prompt.')
    ] = None,
    ppl_model: results.PplModels = None,
    save: Annotated[
        Path | None, typer.Option(help="Keep the continuations there, each as soon as it is finished.")
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with the run that --save has begun.")
    ] = False,
    report: Annotated[Path | None, typer.Option(help="Write a page with curves and texts there.")] = None,
    lm_eval: harness.Tasks = None,
    lm_eval_limit: harness.Limit = None,
    lm_eval_include: harness.Include = None,
    generation: GenerationOptions,
    where: ModelOptions,
    json: options.Json = False,
) -> None:
    """Score continuations: judges, perplexity, repetition, with 95 % intervals and baselines.

    Example: neurosteer eval --vector polite.st --alpha 4,8,16 --judge sentiment --report polite.html
    """
    from ...evaluation.evaluate import evaluate
    from ...evaluation.runs.comparison import named_vectors, recorded

    paths = vector or []
    if bool(generations) == bool(paths):
        raise InputError("give either GENERATIONS (`-` is stdin) or --vector with what to generate")
    if lm_eval:
        tasks = harness.check_options(ctx, lm_eval, lm_eval_limit)
        of_tasks, batch_size = (lm_eval_limit, lm_eval_include), generation.batch_size
        named = acting.load(paths)
        harness.run_tasks(tasks, named, _alphas(named, alpha or []), *of_tasks, batch_size, where, json=json)
        return
    results.check_judges(judging, "the label of the vector" if paths else None)
    results.check_targets(report)
    if generations:
        _refuse_generating_options(ctx)
        samples = read_samples(generations, console.note)
        vectors = named_vectors(samples, console.warn)
        own_model = next((sample.model for sample in samples if sample.model), None)
        where = replace(where, model=where.model or own_model)
    else:
        named = acting.load(paths)
        comparison = results.comparison(named, _alphas(named, alpha or []), n, acting, generation)
        comparison = replace(comparison, random=random, instruction=baseline_prompt)
        check_save(save, resume)
        records = prompts_of(prompts, text_key=judging.text_key, say=console.note)
        vectors = dict(comparison.vectors)
    # what can fail is loaded before there is anything to lose
    judges = results.load_judges_of(judging, vectors.values())
    pricing = pricing_models(ppl_model or [], where)
    if generations:
        engine = load_engine(where)
        run = recorded(engine, samples, vectors, generations)
    else:
        engine = load_engine(where, comparison.vectors)
        run = comparison.write(
            engine, records, save=save, resume=resume, say=console.note, progress=console.progress
        )
    evaluation = evaluate(
        run, judges, ppl_models=pricing(engine), warn=console.warn, progress=console.progress
    )
    results.announce(evaluation.judges, evaluation.n_prompts)
    results.show(evaluation.results, json)
    if report is not None:
        from ...reports.pages import evaluation_page

        results.write_page(report, evaluation_page(evaluation, results.command_line()))


def _refuse_generating_options(ctx: typer.Context) -> None:
    given = options_given(ctx)
    of_groups = (field.name for group in (GenerationOptions, ActingOptions) for field in fields(group))
    for name in (*OF_GENERATION, *of_groups):
        if name in given:
            raise InputError(f"{given[name]} is for generating; with GENERATIONS the texts are there already")


def _alphas(vectors: "list[tuple[str, SteeringVector]]", given: list[str]) -> list[tuple[float, ...]]:
    """Every combination of the alphas of each vector, in ascending order, unsteered among them."""
    check_paired([Path(name) for name, _ in vectors], given)
    usual = [OF_KIND.get(vector.metadata.kind, DEFAULT_ALPHA) for _, vector in vectors]
    values = [parse_alphas(text) for text in given or usual]
    return sorted({(0.0,) * len(vectors), *product(*values)})
