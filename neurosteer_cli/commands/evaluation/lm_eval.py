"""eval --lm-eval: tasks of lm-evaluation-harness at each alpha, and what steering costs there.

Knows options and tables; how tasks are run is the library's.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ...data.records import write_record
from ...errors import InputError
from ..shared import console
from ..shared.command import options_given
from ..shared.load import load_engine
from ..shared.options import ModelOptions

if TYPE_CHECKING:
    from ...evaluation.ability import TaskScore
    from ...evaluation.runs.plan import Alphas
    from ...vectors.vector import SteeringVector

GOES_WITH = {
    "vector", "alpha", "kind", "lm_eval", "lm_eval_limit", "lm_eval_include", "batch_size",
    "model", "dtype", "device", "json",
}  # fmt: skip

Tasks = Annotated[
    list[str] | None,
    typer.Option(
        "--lm-eval",
        metavar="TASKS",
        help="In place of writing: tasks of lm-evaluation-harness at each alpha, as hellaswag,arc_easy.",
    ),
]
Limit = Annotated[int | None, typer.Option(help="Items of each task [default: all].")]
Include = Annotated[Path | None, typer.Option(help="A folder of tasks of your own.")]


def check_options(ctx: typer.Context, tasks: Sequence[str], limit: int | None) -> list[str]:
    """The tasks named, once nothing is asked that does not go with them."""
    from ...evaluation.ability import check_harness

    for name, option in options_given(ctx).items():
        if name not in GOES_WITH:
            raise InputError(f"{option} does not go with --lm-eval, which writes no texts")
    if limit is not None and limit < 1:
        raise InputError(f"--lm-eval-limit must be at least 1, got {limit}")
    check_harness()
    return [task for text in tasks for task in text.split(",") if task]


def run_tasks(
    tasks: Sequence[str],
    named: "Sequence[tuple[str, SteeringVector]]",
    alphas: "Sequence[Alphas]",
    limit: int | None,
    include: Path | None,
    batch_size: int,
    where: ModelOptions,
    *,
    json: bool,
) -> None:
    """Run tasks at each of the alphas, and show what they come to."""
    from ...evaluation.ability import ability
    from ...evaluation.runs.comparison import kinds_of
    from ...evaluation.runs.samples import UNSTEERED, Condition
    from ...vectors.steering import Steering

    names, vectors = tuple(name for name, _ in named), [vector for _, vector in named]
    engine = load_engine(where, named)
    conditions = [
        (
            Condition(names, each, "all", None if any(each) else UNSTEERED, kinds=kinds_of(vectors)),
            Steering.of(vectors, each),
        )
        for each in alphas
    ]
    found = ability(
        engine, conditions, tasks, limit=limit, include=include, batch_size=batch_size, say=console.note
    )
    scores = list(found)
    if json:
        for score in scores:
            write_record(score.to_json())
        return
    headings = ["", "task", "metric", ">value", ">standard error", ">items", ">against unsteered"]
    console.table("lm-evaluation-harness", headings, [_cells(score, scores) for score in scores], stdout=True)


def _cells(score: "TaskScore", scores: "Sequence[TaskScore]") -> list[str]:
    same = [each for each in scores if (each.task, each.metric) == (score.task, score.metric)]
    unsteered = next(each for each in same if each.condition.baseline)
    error = "" if score.stderr is None else f"{score.stderr:.4f}"
    change = "" if score is unsteered else f"{score.value - unsteered.value:+.4f}"
    return [
        score.condition.label,
        score.task,
        score.metric,
        f"{score.value:.4f}",
        error,
        str(score.n),
        change,
    ]
