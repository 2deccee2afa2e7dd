"""What eval, calibrate and layers share: jobs and judges from options, and results as people read them.

Knows options, tables and how intervals are written; knows nothing of how a score is made.
"""

import shlex
import sys
from collections.abc import Collection, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from ...errors import InputError
from . import console
from .options import GenerationOptions, JudgeOptions

if TYPE_CHECKING:
    from ...evaluation.evaluate import ConditionResult
    from ...evaluation.judges.judge import Judge
    from ...evaluation.layers import Layer
    from ...evaluation.metrics import Estimate
    from ...evaluation.plan import Alphas
    from ...evaluation.run import Comparison
    from ...vectors.vector import SteeringVector

FEW_PROMPTS = 20


def comparison(
    paths: Sequence[Path],
    alphas: "Sequence[Alphas]",
    n: int,
    generation: GenerationOptions,
    *,
    random: bool,
    instruction: str | None = None,
) -> "Comparison":
    """What the options ask to be written; vectors are loaded, the model is not."""
    from ...evaluation.run import Comparison
    from ...vectors.vector import SteeringVector

    config = generation.config(n)
    return Comparison(
        vectors=[(str(path), SteeringVector.load(path)) for path in paths],
        alphas=alphas,
        config=config,
        n=n,
        random=random,
        instruction=instruction,
        as_chat=generation.as_chat,
        system=generation.system,
    )


def check_judges(judging: JudgeOptions, attribute: str | None) -> list[str]:
    """The judges asked for, found fit to be loaded later; --judge-data alone asks for `data`.

    Args:
        attribute: stands for --attribute where that is not given.

    Raises:
        InputError: one is unknown, named twice, or lacks what it needs.
    """
    from ...evaluation.judges.load import check_spec

    specs = judging.judges
    if judging.judge_data is not None and "data" not in specs:
        specs.append("data")
    if len(set(specs)) != len(specs):
        raise InputError("--judge: each judge once")
    for spec in specs:
        check_spec(spec, judge_data=judging.judge_data, attribute=judging.attribute or attribute)
    return specs


def load_judges(
    specs: Sequence[str], judging: JudgeOptions, attribute: str | None, fitted_on: Collection[int]
) -> "list[Judge]":
    """Load the judges, and keep texts with these hashes from them."""
    from ...evaluation.judges.load import load_judge

    load = partial(load_judge, judge_data=judging.judge_data, leave_out=fitted_on, say=console.note)
    return [load(spec, attribute=judging.attribute or attribute) for spec in specs]


def load_judges_of(
    specs: Sequence[str], judging: JudgeOptions, vectors: "Collection[SteeringVector]"
) -> "list[Judge]":
    """Load the judges; they look for what all vectors steer towards, and not at the texts of their fits."""
    labels = {v.metadata.positive.label for v in vectors if v.metadata.positive is not None}
    fitted_on = {text for vector in vectors for text in vector.text_hashes.tolist()}
    return load_judges(specs, judging, labels.pop() if len(labels) == 1 else None, fitted_on)


def check_targets(*paths: Path | None) -> None:
    """Find out before any work is done whether the files can be written; None is none."""
    from ...files import check_target

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
        write_rows(results)
        return
    judges = list(results[0].judges)
    headings = ["", *(f">{name}" for name in judges), ">ppl", ">ratio", ">KL", ">dist-2", ">rep-4", ">len"]
    sizes = sorted({result.n for result in results})
    texts = " to ".join(str(size) for size in dict.fromkeys((sizes[0], sizes[-1])))
    rows = [_cells(result) for result in results]
    console.table(f"{texts} texts a row; in brackets 95 % intervals", headings, rows, stdout=True)
    for name in judges:
        if failed := sum(result.judges[name].n_failed for result in results):
            console.warn(f"judge {name} gave no answer to {failed} texts; rates are over the others")
    if empty := sum(result.n_empty for result in results):
        console.warn(f"{empty} continuations are empty; perplexity is over the others")


def write_rows(rows: "Iterable[ConditionResult | Layer]") -> None:
    from ...data.records import write_record

    for row in rows:
        write_record(row.to_json())


def _cells(result: "ConditionResult") -> list[str]:
    return [
        result.condition.label,
        *(percent(judged.rate) for judged in result.judges.values()),
        _value(result.perplexity, "{:.1f}"),
        interval(result.perplexity_ratio, "{:.2f}"),
        "" if result.kl is None else f"{result.kl:.2f}",
        _value(result.distinct_2, "{:.2f}"),
        _value(result.repetition_4, "{:.1%}"),
        _value(result.length, "{:.0f}"),
    ]


def _value(estimate: "Estimate | None", form: str) -> str:
    return "" if estimate is None else form.format(estimate.value)


def interval(estimate: "Estimate | None", form: str, end: str | None = None, scale: float = 1) -> str:
    """`1.08 [1.02, 1.15]`"""
    shown = _value(estimate, form)
    if estimate is None or estimate.low is None or estimate.high is None:
        return shown
    low, high = ((end or form).format(scale * bound) for bound in (estimate.low, estimate.high))
    return f"{shown} [{low}, {high}]"


def percent(estimate: "Estimate | None") -> str:
    """`96% [92, 99]`"""
    return interval(estimate, "{:.0%}", "{:.0f}", 100)


def command_line() -> str:
    """The command as it was given, quoted for a shell."""
    return shlex.join(["neurosteer", *sys.argv[1:]])


def write_page(path: Path, page: str) -> None:
    from ...files import replace_file

    with replace_file(path) as temporary:
        temporary.write_text(page, encoding="utf-8", errors="replace")
    console.note(f"wrote {path}")
