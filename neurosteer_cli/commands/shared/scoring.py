"""What eval, calibrate and layers share: judges from options, results as tables and pages."""

import sys
from collections.abc import Collection, Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ... import __version__
from ...errors import InputError
from ..shared import console

if TYPE_CHECKING:
    from ...evaluation.evaluate import ConditionResult, Evaluation
    from ...evaluation.judges.judge import Judge
    from ...evaluation.metrics import Estimate
    from ...vectors.vector import SteeringVector
    from .continuations import Continuations

FEW_PROMPTS = 20
N_SHOWN = 12  # prompts whose continuations a report shows


def check_judges(
    judges: list[str] | None, judge_data: tuple[str, str] | None, attribute: str | None, *, steers: bool
) -> list[str]:
    """The judges asked for, found fit to be loaded later; --judge-data alone asks for `data`.

    Raises:
        InputError: one is unknown, named twice, or lacks what it needs.
    """
    from ...evaluation.judges.load import check_spec

    specs = list(judges or [])
    if judge_data is not None and "data" not in specs:
        specs.append("data")
    if len(set(specs)) != len(specs):
        raise InputError("--judge: each judge once")
    stand_in = "the label of the vector" if steers else None
    for spec in specs:
        check_spec(spec, has_data=judge_data is not None, attribute=attribute or stand_in)
    return specs


def load_judges(
    specs: Sequence[str],
    judge_data: tuple[str, str] | None,
    attribute: str | None,
    vectors: "dict[str, SteeringVector]",
) -> "list[Judge]":
    """Load the judges; texts that a vector was fitted on are kept from them."""
    labels = {v.metadata.positive.label for v in vectors.values() if v.metadata.positive is not None}
    label = next(iter(labels)) if len(labels) == 1 else None
    fitted_on = {text for vector in vectors.values() for text in vector.text_hashes.tolist()}
    return judges_for(specs, judge_data, attribute or label, fitted_on)


def judges_for(
    specs: Sequence[str],
    judge_data: tuple[str, str] | None,
    attribute: str | None,
    fitted_on: Collection[int],
) -> "list[Judge]":
    """Load the judges, and keep texts with these hashes from them."""
    from ...evaluation.judges.load import load_judge

    return [
        load_judge(spec, judge_data=judge_data, leave_out=fitted_on, attribute=attribute, say=console.note)
        for spec in specs
    ]


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
    """A row a setting on stdout: as JSON, or as a table with 95 % intervals."""
    if json:
        from ...data.records import write_record

        for result in results:
            write_record(result.to_json())
        return
    judges = list(results[0].judges) if results else []
    headings = ["", *(f">{name}" for name in judges), ">ppl", ">ratio", ">KL", ">dist-2", ">rep-4", ">len"]
    rows = [
        [
            result.condition.label,
            *(percent(result.judges[name].rate) for name in judges),
            _value(result.perplexity, "{:.1f}"),
            interval(result.perplexity_ratio, "{:.2f}"),
            "" if result.kl is None else f"{result.kl:.2f}",
            _value(result.distinct_2, "{:.2f}"),
            _value(result.repetition_4, "{:.1%}"),
            _value(result.length, "{:.0f}"),
        ]
        for result in results
    ]
    sizes = sorted({result.n for result in results})
    texts = " to ".join(str(size) for size in dict.fromkeys((sizes[0], sizes[-1])))
    title = f"{texts} texts a row; in brackets 95 % intervals"
    console.table(title, headings, rows, stdout=True)
    failed = {name: sum(result.judges[name].n_failed for result in results) for name in judges}
    for name, count in failed.items():
        if count:
            console.warn(f"judge {name} gave no answer to {count} texts; rates are over the others")
    if empty := sum(result.n_empty for result in results):
        console.warn(f"{empty} continuations are empty; perplexity is over the others")


def _value(estimate: "Estimate | None", form: str) -> str:
    return "" if estimate is None else form.format(estimate.value)


def interval(estimate: "Estimate | None", form: str) -> str:
    if estimate is None:
        return ""
    shown = form.format(estimate.value)
    if estimate.low is None or estimate.high is None:
        return shown
    return f"{shown} [{form.format(estimate.low)}, {form.format(estimate.high)}]"


def percent(estimate: "Estimate | None") -> str:
    if estimate is None:
        return ""
    shown = f"{estimate.value:.0%}"
    if estimate.low is None or estimate.high is None:
        return shown
    return f"{shown} [{100 * estimate.low:.0f}, {100 * estimate.high:.0f}]"


def write_report(path: Path, run: "Continuations", found: "Evaluation", judges: "Sequence[Judge]") -> None:
    """The page of an evaluation: curves, table, texts, and all that is needed to repeat it."""
    from ...reports.pages import evaluation_page

    document = {
        **opening(run, judges),
        "rows": [result.to_json() for result in found.results],
        "samples": _examples(run, found),
        "notes": [],
    }
    write_page(path, evaluation_page(document))


def opening(run: "Continuations", judges: "Sequence[Judge]") -> dict[str, Any]:
    """What the pages of eval and calibrate begin with."""
    subject = ", ".join(name.rsplit("/", 1)[-1] for name in run.vectors) or "generations"
    return {
        "title": f"{subject} on {run.engine.model_id}",
        "command": command_line(),
        "facts": {
            **run.facts,
            "program_version": __version__,
            "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        },
        "judges": [
            {"name": j.name, "limits": j.limits, "facts": j.card, "warnings": j.warnings} for j in judges
        ],
    }


def command_line() -> str:
    """The command as it was given, quoted for a shell."""
    import shlex

    return shlex.join(["neurosteer", *sys.argv[1:]])


def _examples(run: "Continuations", found: "Evaluation") -> list[dict[str, Any]]:
    """The first continuation of each setting for the first prompts."""
    row_of = {result.condition: row for row, result in enumerate(found.results)}
    shown: dict[str, dict[int, dict[str, Any]]] = {}
    for number, sample in enumerate(run.samples):
        if sample.prompt in shown or len(shown) < N_SHOWN:
            row = row_of[sample.condition]
            scores = {judge: of_all[number] for judge, of_all in found.scores.items()}
            text = {"row": row, "text": sample.text, "scores": scores}
            shown.setdefault(sample.prompt, {}).setdefault(row, text)
    return [{"prompt": prompt, "texts": list(texts.values())} for prompt, texts in shown.items()]


def write_page(path: Path, page: str) -> None:
    from ...files import replace_file

    with replace_file(path) as temporary:
        temporary.write_text(page, encoding="utf-8", errors="replace")
    console.note(f"wrote {path}")
