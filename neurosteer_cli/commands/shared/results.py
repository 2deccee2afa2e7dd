"""What eval, calibrate and layers share: jobs and judges from options, and results as people read them.

Knows options, tables and how intervals are written; knows nothing of how a score is made.
"""

import shlex
import sys
from collections.abc import Collection, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from ...data.records import write_record
from ...errors import InputError
from ...evaluation.runs.samples import FEW_PROMPTS
from ...files import check_target, replace_file
from . import console, options
from .acting import ActingOptions
from .options import GenerationOptions, JudgeOptions

if TYPE_CHECKING:
    from ...evaluation.evaluate import ConditionResult
    from ...evaluation.judges.judge import Judge
    from ...evaluation.measures.metrics import Estimate
    from ...evaluation.runs.comparison import Comparison
    from ...vectors.vector import SteeringVector

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
    from ...evaluation.judges.load import check_spec

    if len(set(judging.judges)) != len(judging.judges):
        raise InputError("--judge: each judge once")
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
        accuracy = judge.card.get("accuracy")
        measured = f" (cross-validated accuracy {accuracy:.2f})" if accuracy is not None else ""
        console.note(f"judge {judge.name}{measured}: {judge.limits}")
        for warning in judge.warnings:
            console.warn(f"judge {judge.name}: {warning}")
    if not judges:
        console.note("no judge: fluency only; --judge says what to look for")
    if n_prompts < FEW_PROMPTS:
        console.warn(f"{n_prompts} prompts; intervals are dependable from about {FEW_PROMPTS} on")


def show(results: "Sequence[ConditionResult]", json: bool) -> None:
    """A row a condition on stdout: as JSON, or as a table with 95 % intervals."""
    if json:
        for result in results:
            write_record(result.to_json())
        return
    judges = list(results[0].judges)
    headings = ["", *(f">{name}" for name in judges), ">ppl", ">ratio", ">KL", ">dist-2", ">rep-4", ">len"]
    sizes = [result.n for result in results]
    texts = " to ".join(map(str, sorted({min(sizes), max(sizes)})))
    title = f"{texts} texts a row; in brackets 95 % intervals"
    console.table(title, headings, [*map(_cells, results)], stdout=True)
    for name in judges:
        if failed := sum(result.judges[name].n_failed for result in results):
            console.warn(f"judge {name} gave no answer to {failed} texts; rates are over the others")
    if empty := sum(result.n_empty for result in results):
        console.warn(f"{empty} continuations are empty; perplexity is over the others")


def _cells(result: "ConditionResult") -> list[str]:
    return [
        result.condition.label,
        *(interval(judged.rate, ".0%") for judged in result.judges.values()),
        value(result.perplexity, ".1f"),
        interval(result.perplexity_ratio, ".2f"),
        value(result.kl, ".2f"),
        value(result.distinct_2, ".2f"),
        value(result.repetition_4, ".1%"),
        value(result.length, ".0f"),
    ]


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
