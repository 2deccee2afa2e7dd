"""What eval, calibrate and layers share: jobs and judges from options, and results as people read them.

Knows options, tables and how intervals are written; knows nothing of how a score is made.
"""

import shlex
import sys
from collections.abc import Collection, Iterator, Sequence
from functools import partial
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ...data.records import write_record
from ...errors import InputError
from ...evaluation.runs.samples import FEW_PROMPTS, LEAST_DIVERSITY, short
from ...files import check_read_once, check_target, replace_file
from . import console, options
from .acting import ActingOptions
from .options import GenerationOptions, JudgeOptions

if TYPE_CHECKING:
    from ...evaluation.judges.judge import Judge
    from ...evaluation.measures.metrics import Estimate
    from ...evaluation.results import ConditionResult, Diversity, ModelResult
    from ...evaluation.runs.comparison import Comparison
    from ...vectors.metadata import Calibration, CurvePoint
    from ...vectors.vector import SteeringVector

MARK = "!"
LESS_DIVERSE = f"texts are more than {1 - LEAST_DIVERSITY:.0%} less diverse than unsteered ones"
PplModels = Annotated[
    list[str] | None,
    typer.Option(
        "--ppl-model",
        metavar="MODEL",
        help="Model that perplexity is under, as smollm2 or gemma3-270m; may be repeated, the highest ratio "
        "counts [default: the model that writes, unsteered].",
    ),
]
generation_options = partial(options.generation_options, max_new_tokens=40, batch_size=64)  # many short ones


def comparison(
    vectors: "Sequence[tuple[str, SteeringVector]]",
    alphas: Sequence[tuple[float, ...]],
    n: int,
    acting: ActingOptions,
    generation: GenerationOptions,
) -> "Comparison":
    """What the options ask to be written."""
    from ...evaluation.runs.comparison import Comparison

    config, as_chat, system = generation.config(n), generation.as_chat, generation.system
    return Comparison(
        vectors=vectors,
        alphas=alphas,
        config=config,
        n=n,
        as_chat=as_chat,
        system=system,
        when=acting.when,
        when_each=acting.gates_each,
    )


def check_judges(judging: JudgeOptions, attribute: str | None) -> None:
    """Find out what is wrong with the judges before any is loaded; `attribute` is for want of --attribute."""
    from ...evaluation.judges.load import check_spec, is_trained, sources_of

    if len(set(judging.judges)) != len(judging.judges):
        raise InputError("--judge: each judge once")
    trained = filter(is_trained, judging.judges)
    check_read_once([*chain.from_iterable(sources_of(spec, judging.judge_data) for spec in trained)])
    for spec in judging.judges:
        check_spec(
            spec,
            judge_data=judging.judge_data,
            text_key=judging.text_key,
            attribute=judging.attribute or attribute,
        )


def load_judges(judging: JudgeOptions, attribute: str | None, fitted_on: Collection[int]) -> "list[Judge]":
    """Load the judges, and keep texts with these hashes from them."""
    from ...evaluation.judges.load import load_judge

    load = partial(
        load_judge,
        judge_data=judging.judge_data,
        text_key=judging.text_key,
        leave_out=fitted_on,
        say=console.note,
    )
    return [load(spec, attribute=judging.attribute or attribute) for spec in judging.judges]


def load_judges_of(judging: JudgeOptions, vectors: "Collection[SteeringVector]") -> "list[Judge]":
    """Load the judges; they look for what all vectors steer towards, and not at the texts of their fits."""
    labels = {v.metadata.positive.label for v in vectors if v.metadata.positive is not None}
    fitted_on = {text for vector in vectors for text in vector.text_hashes.tolist()}
    return load_judges(judging, labels.pop() if len(labels) == 1 else None, fitted_on)


def check_targets(*paths: Path | None) -> None:
    """Find out before any work is done whether the files can be written; None is none."""
    for path in filter(None, paths):
        check_target(path)


def announce(judges: "Sequence[Judge]", n_prompts: int) -> None:
    """Say what the judges are and are not, and how far intervals can be trusted."""
    for judge in judges:
        introduce(judge)
    if not judges:
        console.note("no judge: fluency only; --judge says what to look for")
    if n_prompts < FEW_PROMPTS:
        console.warn(f"{n_prompts} prompts; intervals are dependable from about {FEW_PROMPTS} on")


def introduce(judge: "Judge") -> None:
    """Say what a judge is and is not."""
    accuracy = judge.card.get("accuracy")
    measured = f" (cross-validated accuracy {accuracy:.2f})" if accuracy is not None else ""
    console.note(f"judge {judge.name}{measured}: {judge.limits}")
    for warning in judge.warnings:
        console.warn(f"judge {judge.name}: {warning}")


def show(results: "Sequence[ConditionResult]", json: bool) -> None:
    """A row a condition on stdout: as JSON, or as a table with 95 % intervals."""
    if json:
        for result in results:
            write_record(result.to_json())
        return
    sizes = [result.n for result in results]
    texts = " to ".join(map(str, sorted({min(sizes), max(sizes)})))
    title = f"{texts} texts a row; in brackets 95 % intervals"
    columns = [dict(_columns(result)) for result in results]
    rows = [[result.condition.label, *cells.values()] for result, cells in zip(results, columns, strict=True)]
    console.table(title, ["", *columns[0]], rows, stdout=True)
    _show_models(results)
    for name in results[0].judges:
        if failed := sum(result.judges[name].n_failed for result in results):
            console.warn(f"judge {name} gave no answer to {failed} texts; rates are over the others")
    if empty := sum(result.n_empty for result in results):
        console.warn(f"{empty} continuations are empty; perplexity is over the others")
    if marked := [result.condition.label for result in results if result.is_less_diverse]:
        console.warn(f"{'; '.join(marked)}: {LESS_DIVERSE} (div, {MARK})")


def _columns(result: "ConditionResult") -> "Iterator[tuple[str, str]]":
    """Heading and cell of what is found of a condition."""
    for name, judged in result.judges.items():
        yield f">{name}", interval(judged.rate, ".0%")
    if len(result.judges) > 1:
        yield "agree", result.agreement or ""
    if len(result.models) == 1:
        yield ">ppl", value(result.perplexity, ".1f")
    yield ">ratio", interval(result.perplexity_ratio, ".2f")
    if len(result.models) == 1:
        yield ">bits/byte", value(result.models[result.ppl_model].bits_per_byte, ".2f")
    else:
        yield "by", short(result.ppl_model)
    yield ">KL", value(result.kl, ".2f")
    yield ">dist-2", value(result.distinct_2, ".2f")
    yield ">rep-4", value(result.repetition_4, ".1%")
    yield ">div", diversity(result.diversity)
    yield ">len", value(result.length, ".0f")


def _show_models(results: "Sequence[ConditionResult]") -> None:
    """Of several models, what each makes of every condition."""
    names = list(results[0].models)
    if len(names) == 1:
        return
    headings = [heading for name in names for heading in (f">{short(name)}: ppl", ">ratio", ">bits/byte")]
    rows = [
        [result.condition.label, *chain(*(_of_model(result.models[name]) for name in names))]
        for result in results
    ]
    console.table("by each model; of the ratios the highest counts", ["", *headings], rows, stdout=True)


def _of_model(found: "ModelResult") -> tuple[str, str, str]:
    ratio = interval(found.perplexity_ratio, ".2f")
    return value(found.perplexity, ".1f"), ratio, value(found.bits_per_byte, ".2f")


def diversity(found: "Diversity | None") -> str:
    """`0.99`; `0.93!` where texts are less diverse."""
    return "" if found is None else f"{value(found.lowest, '.2f')}{MARK if found.is_low else ''}"


def cost(calibration: "Calibration", point: "CurvePoint") -> str:
    """`perplexity ratio 1.22`, of several models with whose it is."""
    by = f" by {short(point.ppl_model)}" if len(calibration.ppl_models) > 1 else ""
    return f"perplexity ratio {point.perplexity_ratio:.2f}{by}"


def value(found: "Estimate | float | None", form: str) -> str:
    """`1.08`; nothing where there is none."""
    exact = getattr(found, "value", found)
    return "" if exact is None else format(exact, form)


def interval(estimate: "Estimate | None", form: str) -> str:
    """`1.08 [1.02, 1.15]`, of percents `96% [92, 99]`; without the brackets where there is no interval."""
    if estimate is None or estimate.low is None or estimate.high is None:
        return value(estimate, form)
    low, high = (format(end, form).removesuffix("%") for end in (estimate.low, estimate.high))
    return f"{value(estimate, form)} [{low}, {high}]"


def command_line() -> str:
    """The command as it was given, quoted for a shell."""
    return shlex.join(["neurosteer", *sys.argv[1:]])


def write_page(path: Path, page: str) -> None:
    with replace_file(path) as temporary:
        temporary.write_text(page, encoding="utf-8", errors="replace")
    console.note(f"wrote {path}")
