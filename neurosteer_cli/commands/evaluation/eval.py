"""neurosteer eval: how far behaviour moved, and what it cost."""

from itertools import product
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
    Greedy,
    Json,
    JudgeData,
    Judges,
    MaxNewTokens,
    Model,
    N,
    Positions,
    Prompts,
    RepetitionPenalty,
    Seed,
    System,
    Temperature,
    TopK,
    TopP,
    generation_settings,
    parse_alphas,
)
from ..shared.scoring import announce, check_judges, load_judges, show, write_report

if TYPE_CHECKING:
    from ...models.engine import Engine

DEFAULT_ALPHA = "4,8,16"
OF_GENERATION = (
    "alpha", "prompts", "n", "random", "baseline_prompt", "save", "resume", "chat", "system",
    "max_new_tokens", "temperature", "top_p", "top_k", "repetition_penalty", "greedy", "seed", "positions",
    "batch_size",
)  # fmt: skip


def evaluate(
    ctx: typer.Context,
    generations: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[GENERATIONS]...",
            help='What `gen --json` wrote, or {"prompt": {"text"}, "generations": [{"text"}]}; - is stdin. '
            "Without any, --vector says what to generate.",
        ),
    ] = None,
    vector: Annotated[
        list[Path] | None, typer.Option("--vector", "-v", help="Vector file; may be repeated.")
    ] = None,
    alpha: Annotated[
        list[str] | None,
        typer.Option(
            "--alpha",
            "-a",
            help="Strengths of the vector in the same place; 0 is always among them. "
            f"[default: {DEFAULT_ALPHA}]",
        ),
    ] = None,
    prompts: Prompts = None,
    n: N = 1,
    judge: Judges = None,
    judge_data: JudgeData = None,
    attribute: Attribute = None,
    random: Annotated[bool, typer.Option(help="Also a random vector as long as the strongest push.")] = True,
    baseline_prompt: Annotated[
        str | None, typer.Option(help='Also prompting: "Please be polite." before every prompt.')
    ] = None,
    ppl_model: Annotated[
        str | None, typer.Option(help="Model of the perplexity [default: the unsteered model].")
    ] = None,
    save: Annotated[
        Path | None, typer.Option(help="Keep the continuations there, each as soon as it is finished.")
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with the run that --save has begun.")
    ] = False,
    report: Annotated[Path | None, typer.Option(help="Write a page with curves and texts there.")] = None,
    chat: Chat = False,
    system: System = None,
    max_new_tokens: MaxNewTokens = 40,
    temperature: Temperature = 0.9,
    top_p: TopP = 0.9,
    top_k: TopK = 0,
    repetition_penalty: RepetitionPenalty = 1.0,
    greedy: Greedy = False,
    seed: Seed = 0,
    positions: Positions = "all",
    batch_size: BatchSize = 64,
    model: Model = None,
    dtype: Dtype = "auto",
    device: Device = "auto",
    json: Json = False,
) -> None:
    """Score continuations: judges, perplexity, repetition, with 95 % intervals and baselines.

    Example: neurosteer eval --vector polite.st --alpha 4,8,16 --judge sentiment --report polite.html
    """
    from ...evaluation.evaluate import evaluate as score
    from ...vectors.vector import SteeringVector
    from ..shared.continuations import Planned, check_save, read
    from ..shared.prompting import prompt_records

    paths = vector or []
    if bool(generations) == bool(paths):
        raise InputError("give either GENERATIONS (`-` is stdin) or --vector with what to generate")
    specs = check_judges(judge, judge_data, attribute, steers=bool(paths))
    if report is not None:
        from ...files import check_target

        check_target(report)
    if generations:
        _refuse_generating_options(ctx)
        run = read(generations, model, dtype, device)
        judges = load_judges(specs, judge_data, attribute, run.vectors)
        ppl_engine = _ppl_engine(ppl_model, dtype, device)
    else:
        settings = generation_settings(
            n=n,
            greedy=greedy,
            temperature=temperature,
            top_p=top_p,
            top_k=top_k,
            repetition_penalty=repetition_penalty,
            seed=seed,
            max_new_tokens=max_new_tokens,
            positions=positions,
            batch_size=batch_size,
        )
        if resume and save is None:
            raise InputError("--resume goes on with what --save has begun: name that file")
        planned = Planned(
            paths, _alphas(paths, alpha or []), settings, n, random, baseline_prompt,
            as_chat=chat or system is not None, system=system,
        )  # fmt: skip
        if save is not None:
            check_save(save, resume)
        records = prompt_records(prompts)
        vectors = {str(path): SteeringVector.load(path) for path in paths}
        # what can fail is loaded before there is anything to lose
        judges = load_judges(specs, judge_data, attribute, vectors)
        ppl_engine = _ppl_engine(ppl_model, dtype, device)
        run = planned.run(records, vectors, save, resume, model, dtype, device)
    found = score(
        run.scored(),
        judges,
        ppl_engine=ppl_engine,
        progress=console.progress,
    )
    run.facts["ppl_model"] = ppl_model
    announce(judges, len({sample.prompt for sample in run.samples}))
    show(found.results, json)
    if report is not None:
        write_report(report, run, found, judges)


def _refuse_generating_options(ctx: typer.Context) -> None:
    for name in OF_GENERATION:
        if ctx.get_parameter_source(name).name == "COMMANDLINE":  # type: ignore[union-attr]
            option = "-n" if name == "n" else f"--{name.replace('_', '-')}"
            raise InputError(f"{option} is for generating; with GENERATIONS the texts are there already")


def _alphas(paths: list[Path], given: list[str]) -> list[tuple[float, ...]]:
    """Every combination of the alphas of each vector, in ascending order, unsteered among them."""
    if given and len(given) != len(paths):
        raise InputError(
            f"{len(paths)} --vector and {len(given)} --alpha: give one --alpha for each --vector"
        )
    values = [parse_alphas(text) for text in given or [DEFAULT_ALPHA] * len(paths)]
    return sorted({(0.0,) * len(paths), *product(*values)})


def _ppl_engine(model: str | None, dtype: str, device: str) -> "Engine | None":
    from ...models.engine import Engine

    return None if model is None else Engine.load(model, dtype=dtype, device=device, say=console.note)
