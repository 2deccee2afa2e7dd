"""What steering costs in ability: tasks of lm-evaluation-harness on the steered model.

Knows the harness and the engine; knows nothing of judges or continuations. Source of the harness: Gao et
al. 2021, EleutherAI/lm-evaluation-harness.
"""

import logging
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stderr
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from ..errors import InputError, NeurosteerError, one_line
from ..models.engine import Engine
from ..models.hooks import change
from ..vectors.steering import Steering
from .runs.samples import Condition

MAX_TOKENS = 4096  # of an item and what precedes it


@dataclass(frozen=True)
class TaskScore:
    """A metric of a task under a condition."""

    condition: Condition
    task: str
    metric: str  # as the harness names it: acc, acc_norm, exact_match, perplexity, ...
    value: float
    stderr: float | None  # standard error, where the harness gives one
    n: int  # items

    def to_json(self) -> dict[str, Any]:
        condition = {"alphas": self.condition.alphas, "vectors": self.condition.vectors}
        return condition | {name: value for name, value in asdict(self).items() if name != "condition"}


def check_harness() -> None:
    """Refuse before a model is loaded where the harness is not installed."""
    if find_spec("lm_eval") is None:
        raise InputError("--lm-eval needs lm-evaluation-harness: pip install 'neurosteer[lm-eval]'")


def ability(
    engine: Engine,
    conditions: Sequence[tuple[Condition, Steering]],
    tasks: Sequence[str],
    *,
    limit: int | None = None,
    include: Path | None = None,
    batch_size: int = 8,
    say: Callable[[str], None] = lambda _message: None,
) -> Iterator[TaskScore]:
    """Run tasks under each condition; every token of prompts and answers is steered.

    Args:
        conditions: each with how it is steered.
        tasks: names of the harness's tasks or groups.
        limit: items of each task, the first ones; None: all.
        include: a folder of tasks of one's own.

    Raises:
        InputError: the harness is not installed, knows no such task, or a vector acts on logits.
        NeurosteerError: a task cannot be run: its data cannot be fetched, say.
    """
    check_harness()
    from lm_eval import simple_evaluate
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager

    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    manager = TaskManager(include_path=None if include is None else str(include))
    if unknown := [task for task in tasks if task not in manager.all_tasks]:
        raise InputError(f"--lm-eval {unknown[0]}: no task of the harness; `lm-eval ls tasks` lists them")
    model = HFLM(
        engine.model,
        tokenizer=engine.tokenizer,
        batch_size=batch_size,
        max_length=min(engine.max_tokens, MAX_TOKENS),
    )
    for condition, steering in conditions:
        if steering.bias:
            raise InputError(f"--lm-eval: {condition.label} acts on logits, which the harness reads itself")
        say(f"{condition.label}: {', '.join(tasks)}")
        try:
            with change(engine.blocks, steering.changes()), _quiet():
                found = simple_evaluate(
                    model, tasks=list(tasks), limit=limit, task_manager=manager, log_samples=False
                )
        except Exception as error:  # tasks fetch and compute what they like
            raise NeurosteerError(f"--lm-eval {','.join(tasks)}: {one_line(error)}") from error
        yield from _scores(condition, found)


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep the harness's notes, and those of the git it calls, to itself; a terminal keeps its bars."""
    terminal = os.fdopen(os.dup(2), "w")
    with open(os.devnull, "w") as nowhere, terminal:
        os.dup2(nowhere.fileno(), 2)
        try:
            with redirect_stderr(terminal if terminal.isatty() else nowhere):
                yield
        finally:
            os.dup2(terminal.fileno(), 2)


def _scores(condition: Condition, found: Any) -> Iterator[TaskScore]:
    """The harness names a metric `acc,none`, and its standard error `acc_stderr,none`."""
    for task, measured in found["results"].items():
        n = found["n-samples"].get(task, {}).get("effective", 0)
        for name, value in measured.items():
            metric, comma, filtered = name.partition(",")
            if not comma or metric.endswith("_stderr") or not isinstance(value, float):
                continue
            error = measured.get(f"{metric}_stderr,{filtered}")
            stderr = error if isinstance(error, float) else None
            yield TaskScore(condition, task, metric if filtered == "none" else name, value, stderr, n)
