"""Continuations on stdout, as they are finished: text under headings, side by side, or records.

Knows plans, and who chooses among candidates; knows nothing of options.
"""

import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import typer

from ...data.records import write_record
from . import console, results

if TYPE_CHECKING:
    from ...data.json_text import Record
    from ...evaluation.best_of import BestOf, Chosen
    from ...evaluation.runs.plan import Plan, PlannedJob
    from ...generation.generate import Completion


class _Text(NamedTuple):
    place: int  # among all texts, were all of them written
    number: int  # of the job
    completion: "Completion"
    chosen: "Chosen | None" = None


@dataclass(frozen=True)
class Texts:
    """What a plan comes to: all its continuations or, where someone chooses, those that are kept."""

    plan: "Plan"
    best_of: "BestOf | None" = None

    def write(self, *, json: bool, compare: bool) -> None:
        if json:
            for each in self._finished():
                write_record(self._record(each))
        elif compare:
            self._write_columns()
        else:
            self._write_text()

    @property
    def n(self) -> int:
        """Texts that there will be."""
        n_written = len(self.plan.jobs)
        return n_written if self.best_of is None else n_written * self.best_of.keep // self.plan.n

    def _finished(self) -> Iterator[_Text]:
        """The texts in their order, while a bar shows how far it is."""
        with console.progress("writing", self.n, beside_results=True) as advance:
            for each in self._all() if self.best_of is None else self._kept(self.best_of):
                yield each
                advance(1)

    def _all(self) -> Iterator[_Text]:
        return (_Text(number, number, completion) for number, completion in self.plan.in_order())

    def _kept(self, best_of: "BestOf") -> Iterator[_Text]:
        kept: list[Chosen] = []
        for place, chosen in enumerate(best_of.choose(self.plan)):
            kept.append(chosen)
            yield _Text(place, chosen.number, chosen.completion, chosen)
        results.introduce(best_of.judge)
        _tell_scores(best_of, self.plan.n, kept)

    def _record(self, each: _Text) -> "Record":
        if self.best_of and each.chosen:
            return self.best_of.record(self.plan, each.chosen)
        return self.plan.record(each.number, each.completion)

    def _write_text(self) -> None:
        if len(self.plan.jobs) == 1 and sys.stdout.isatty():
            typer.echo(self.plan.jobs[0].prompt.shown, nl=False)
            for _ in self.plan.in_order(lambda _number, text: typer.echo(text, nl=False)):
                typer.echo()
            return
        for each in self._finished():
            text = self._shown(each)
            typer.echo(text if self.n == 1 else f"[{self._heading(each)}]\n{text}\n")

    def _write_columns(self) -> None:
        """A table a prompt and sample, or rank, a column an alpha, unsteered first."""
        n_columns = len(self.plan.conditions)
        rows: dict[int, list[_Text]] = {}
        for each in self._finished():
            row = rows.setdefault(each.place // n_columns, [])
            row.append(each)
            if len(row) == n_columns:
                console.columns([*map(self._heading, row)], [*map(self._shown, row)])

    def _shown(self, each: _Text) -> str:
        return self.plan.jobs[each.number].prompt.shown + each.completion.text

    def _heading(self, each: _Text) -> str:
        steered = _steered(self.plan, self.plan.jobs[each.number])
        if not (self.best_of and each.chosen):
            return steered
        score = "no score" if each.chosen.score is None else f"{each.chosen.score:.2f}"
        return f"{steered}; rank {each.chosen.rank} of {self.plan.n}, {self.best_of.judge.name} {score}"


def _steered(plan: "Plan", job: "PlannedJob") -> str:
    asked = job.condition.label
    if not any(job.condition.alphas or ()):
        return "unsteered"
    if not job.is_steered:
        return f"{asked}: closed, unsteered"
    dose = plan.dose(job)
    return f"{asked} (dose {dose:.1%})" if dose else asked


def _tell_scores(best_of: "BestOf", n: int, kept: Iterable["Chosen"]) -> None:
    first = [chosen.score for chosen in kept if chosen.rank == 1]
    scores = [score for score in first if score is not None]
    if scores:
        which = "lowest" if best_of.lowest else "highest"
        console.note(f"{which} of {n} by {best_of.judge.name}: {sum(scores) / len(scores):.2f} on average")
    if n_without := len(first) - len(scores):
        console.warn(
            f"judge {best_of.judge.name} gave {n_without} times no candidate a score: the first is kept"
        )
