"""What a person reads while neurosteer runs: progress, notes and tables, on stderr.

Knows terminals; knows nothing of what the numbers mean. stdout belongs to results.
"""

import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import compress

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text


class _Stdout(Console):
    def on_broken_pipe(self) -> None:
        raise BrokenPipeError  # rich would end the program with exit code 1


MAX_WIDTH = 250
_stderr = Console(stderr=True, highlight=False)


@contextmanager
def progress(
    label: str, total: int | None, *, beside_results: bool = False
) -> Iterator[Callable[[int], None]]:
    """Show a bar on stderr if it is a terminal; yield a function that advances it by n.

    `beside_results`: results are written meanwhile; on the same terminal they are the progress.
    """
    crowded = beside_results and sys.stdout.isatty()
    columns = (
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(),
    )  # fmt: skip
    # redirect_stdout would send results to the terminal instead of to the pipe
    with Progress(
        *columns,
        console=_stderr,
        transient=True,
        redirect_stdout=False,
        disable=crowded or not _stderr.is_terminal,
    ) as bar:
        task = bar.add_task(label, total=total)
        yield lambda n: bar.advance(task, n)


LINE_EVERY_SECONDS = 60.0


@contextmanager
def long_run() -> Iterator[Callable[[str, int, int, str], None]]:
    """Show how far a run of minutes to hours has come; yield a function that is told so.

    It takes (phase, done, total, notes). A terminal shows a bar; a log gets a line a minute, and one
    at the end of a phase.
    """
    columns = (
        TextColumn("{task.description}"), BarColumn(bar_width=20), MofNCompleteColumn(),
        TimeRemainingColumn(), TextColumn("{task.fields[notes]}"),
    )  # fmt: skip
    terminal = _stderr.is_terminal
    with Progress(*columns, console=_stderr, redirect_stdout=False, disable=not terminal) as bar:
        clocks: dict[str, _Clock] = {}

        def tell(phase: str, done: int, total: int, notes: str) -> None:
            if phase not in clocks:
                task = bar.add_task(phase, total=total, completed=done, notes=notes)
                clocks[phase] = _Clock(int(task), done, time.monotonic())
            clock = clocks[phase]
            bar.update(TaskID(clock.task), completed=done, total=total, notes=notes)
            if not terminal and clock.is_due(finished=done >= total):
                left = clock.left(done, total)
                note(f"{phase} {done:,} of {total:,} tokens, {left} left{notes and '; '}{notes}")

        yield tell


class _Clock:
    """When a phase began, and when a line about it was last written."""

    def __init__(self, task: int, done: int, start: float) -> None:
        self.task, self.first, self.start, self.last = task, done, start, start

    def is_due(self, *, finished: bool) -> bool:
        now = time.monotonic()
        due = finished or now - self.last >= LINE_EVERY_SECONDS
        self.last = now if due else self.last
        return due

    def left(self, done: int, total: int) -> str:
        gained = done - self.first
        if not gained:
            return "unknown time"
        seconds = (time.monotonic() - self.start) / gained * (total - done)
        return f"{seconds / 60:.0f} min" if seconds >= 60 else f"{seconds:.0f} s"


def note(message: str) -> None:
    """Say one thing on stderr, whole, whatever the width of the terminal."""
    _stderr.print(Text(message), soft_wrap=True)


def warn(message: str) -> None:
    """Say on stderr that a result may not be what it seems."""
    _stderr.print(Text.assemble(("warning: ", "yellow"), message), soft_wrap=True)


def table(
    title: str,
    headings: Sequence[str],
    rows: Sequence[Sequence[str]],
    *,
    stdout: bool = False,
    only_filled: bool = False,
) -> None:
    """Print a table; headings that start with `>` are right-aligned columns of numbers.

    `only_filled`: columns that no row fills are left out.
    """
    if only_filled:
        filled = [any(column) for column in zip(*rows, strict=True)]
        headings, rows = [*compress(headings, filled)], [[*compress(row, filled)] for row in rows]
    console = _Stdout(highlight=False) if stdout else _stderr
    if stdout and not console.is_terminal:
        console.width = MAX_WIDTH  # in a file a row keeps its line
    grid = Table(title=Text(title), title_justify="left", box=SIMPLE_HEAD, pad_edge=False)
    for heading in headings:
        number = heading.startswith(">")
        grid.add_column(
            Text(heading.removeprefix(">")), justify="right" if number else "left", no_wrap=number
        )
    for row in rows:
        grid.add_row(*map(Text, row))
    console.print(grid)


def columns(headings: Sequence[str], cells: Sequence[str]) -> None:
    """Print texts side by side on stdout, each in a column of equal width."""
    grid = Table(box=SIMPLE_HEAD, pad_edge=False, expand=True)
    for heading in headings:
        grid.add_column(Text(heading), ratio=1, overflow="fold")
    grid.add_row(*map(Text, cells))
    _Stdout(highlight=False).print(grid)
