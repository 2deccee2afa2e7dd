"""neurosteer gen: continue prompts with vectors added."""

import sys
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..errors import InputError
from .shared import console
from .shared.options import (
    BatchSize,
    Chat,
    Device,
    Dtype,
    Greedy,
    Json,
    MaxNewTokens,
    Model,
    N,
    Positions,
    RepetitionPenalty,
    Seed,
    System,
    Temperature,
    TopK,
    TopP,
    generation_settings,
    parse_alphas,
)
from .shared.prompting import load_engine

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from ..evaluation.plan import Plan, PlannedJob
    from ..generation.generate import Completion
    from ..vectors.metadata import Calibration
    from ..vectors.vector import SteeringVector

DEFAULT_ALPHA = "8"
SAFE_DOSE = 0.2
ROUNDING = 1e-6  # an alpha of 20 is no more than 20 %
AUTO, AUTO_AWAY = "auto", "-auto"


def gen(
    prompts: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[PROMPT]...",
            help="Prompts; an argument that ends in .jsonl or .txt is read as a file, - is stdin. "
            "Without any, stdin is read.",
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
            help="Strength of the vector in the same place, in percent of the residual's median norm; "
            f"0,4,8 writes one continuation a value. [default: {DEFAULT_ALPHA}]",
        ),
    ] = None,
    level: Annotated[
        float | None,
        typer.Option(
            help="In place of --alpha, with a calibrated vector: the alpha at which the judge's rate is "
            "expected to be this, 0.8 say."
        ),
    ] = None,
    chat: Chat = False,
    system: System = None,
    max_new_tokens: MaxNewTokens = 64,
    temperature: Temperature = 0.9,
    top_p: TopP = 0.9,
    top_k: TopK = 0,
    repetition_penalty: RepetitionPenalty = 1.0,
    greedy: Greedy = False,
    n: N = 1,
    seed: Seed = 0,
    positions: Positions = "all",
    batch_size: BatchSize = 32,
    compare: Annotated[
        bool, typer.Option("--compare", help="Show unsteered and steered side by side.")
    ] = False,
    model: Model = None,
    dtype: Dtype = "auto",
    device: Device = "auto",
    json: Json = False,
) -> None:
    """Continue prompts while vectors are added to the residual stream.

    A JSONL record has "prompt" or "messages"; its other keys come out again with --json.

    Example: neurosteer gen --vector polite.st --alpha 8 "Your invoice is late, so"
    """
    from ..data.prompts import read_prompts
    from ..evaluation.plan import plan
    from ..evaluation.samples import Condition
    from ..generation.prompts import tokenize
    from ..vectors.vector import SteeringVector

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
    paths = vector or []
    _check_alphas(paths, alpha or [], level, compare)
    vectors = [SteeringVector.load(path) for path in paths]
    if level is not None or {AUTO, AUTO_AWAY} & set(alpha or []):
        _warn_of_other_settings(vectors, positions, as_chat=chat or system is not None)
    alphas = _alphas(list(zip(map(str, paths), vectors, strict=True)), alpha or [], level, compare)
    records = read_prompts(prompts or [])
    engine = load_engine(model, paths, vectors, dtype, device)
    asked = tokenize(
        records, engine, as_chat=chat or system is not None, system=system, max_new_tokens=max_new_tokens
    )
    names = tuple(map(str, paths))
    conditions = [(Condition(names, of_each, positions), of_each) for of_each in alphas]
    run = _Run(plan(engine, asked, vectors, conditions, settings, n=n), len(alphas))
    run.warn_of_dose()
    if json:
        run.write_json()
    elif compare:
        run.write_columns()
    else:
        run.write_text()


def _check_alphas(paths: list[Path], given: list[str], level: float | None, compare: bool) -> None:
    if not paths and compare:
        raise InputError("--compare without --vector: there is nothing to compare with")
    if not paths and given:
        raise InputError("--alpha without --vector: name the vector to add")
    if given and len(given) != len(paths):
        raise InputError(
            f"{len(paths)} --vector and {len(given)} --alpha: give one --alpha for each --vector"
        )
    for text in given:
        if text not in (AUTO, AUTO_AWAY):
            parse_alphas(text)
    if level is not None and given:
        raise InputError("--level and --alpha both say how strongly to steer; give one of them")
    if level is not None and len(paths) != 1:
        raise InputError("--level needs exactly one --vector, a calibrated one")
    if level is not None and not 0 <= level <= 1:
        raise InputError(f"--level must be between 0 and 1, got {level}")


def _alphas(
    vectors: "list[tuple[str, SteeringVector]]", given: list[str], level: float | None, compare: bool
) -> list[tuple[float, ...]]:
    """Every combination of the alphas of each vector, in the order given."""
    if level is not None:
        values = [[calibration_of(*vectors[0]).alpha_at(level)]]
        console.note(f"level {level:g}: alpha {values[0][0]:g}")
    else:
        texts = given or [DEFAULT_ALPHA] * len(vectors)
        values = [_values(text, *named) for text, named in zip(texts, vectors, strict=True)]
    settings = list(product(*values))
    unsteered = (0.0,) * len(vectors)
    return [unsteered, *settings] if compare and unsteered not in settings else settings


def _warn_of_other_settings(vectors: "list[SteeringVector]", positions: str, *, as_chat: bool) -> None:
    for calibration in (vector.metadata.calibration for vector in vectors):
        if calibration is None:
            continue
        measured = calibration.generation
        if (measured["positions"], measured["chat"]) != (positions, as_chat):
            chat = "on" if measured["chat"] else "off"
            console.warn(
                f"calibrated with positions {measured['positions']} and chat {chat}: "
                "other settings may need another alpha"
            )


def _values(text: str, name: str, vector: "SteeringVector") -> list[float]:
    if text not in (AUTO, AUTO_AWAY):
        return parse_alphas(text)
    alpha = calibration_of(name, vector).recommended(text == AUTO)
    console.note(f"{name}: alpha {text} is {alpha:g}")
    return [alpha]


def calibration_of(name: str, vector: "SteeringVector") -> "Calibration":
    if vector.metadata.calibration is None:
        raise InputError(f"{name} is not calibrated: run `neurosteer calibrate {name}`, or give --alpha")
    return vector.metadata.calibration


@dataclass(frozen=True)
class _Run:
    """A plan's continuations, written as they are finished."""

    plan: "Plan"
    n_alphas: int

    def warn_of_dose(self) -> None:
        dose = max(map(self.plan.dose, self.plan.jobs[: self.n_alphas]))
        if dose > SAFE_DOSE + ROUNDING:
            console.warn(
                f"the push is {dose:.0%} as long as the residual; "
                f"above {SAFE_DOSE:.0%} text tends to break down"
            )

    @contextmanager
    def _progress(self) -> "Iterator[Callable[[int], None]]":
        with console.progress("writing", len(self.plan.jobs), beside_results=True) as advance:
            yield advance

    def write_json(self) -> None:
        from ..data.records import write_record

        with self._progress() as advance:
            for number, generation in self.plan.run_in_order():
                write_record(self.plan.record(number, generation))
                advance(1)

    def write_text(self) -> None:
        jobs = self.plan.jobs
        if len(jobs) == 1 and sys.stdout.isatty():
            self._stream()
            return
        with self._progress() as advance:
            for number, generation in self.plan.run_in_order():
                if len(jobs) > 1:
                    typer.echo(f"[{self.heading(jobs[number])}]")
                typer.echo(jobs[number].prompt.shown + generation.text)
                if len(jobs) > 1:
                    typer.echo()
                advance(1)

    def _stream(self) -> None:
        typer.echo(self.plan.jobs[0].prompt.shown, nl=False)
        for _ in self.plan.run_in_order(lambda _row, text: typer.echo(text, nl=False)):
            typer.echo()

    def write_columns(self) -> None:
        """A table a prompt and sample, a column an alpha, unsteered first."""
        found: dict[int, Completion] = {}
        with self._progress() as advance:
            for number, generation in self.plan.run_in_order():
                found[number] = generation
                advance(1)
                group = range(number + 1 - self.n_alphas, number + 1)
                if (number + 1) % self.n_alphas == 0 and all(i in found for i in group):
                    jobs = [self.plan.jobs[i] for i in group]
                    cells = [job.prompt.shown + found.pop(i).text for i, job in zip(group, jobs, strict=True)]
                    console.columns([self.heading(job) for job in jobs], cells)

    def heading(self, job: "PlannedJob") -> str:
        if not any(job.job.alphas):
            return "unsteered"
        parts = [
            f"{Path(name).stem} {alpha:+g}"
            for name, alpha in zip(job.condition.vectors, job.job.alphas, strict=True)
        ]
        return f"{', '.join(parts)} (dose {self.plan.dose(job):.1%})"
