"""Which of several continuations are kept: options, and who chooses.

Knows typer and judges' options; knows nothing of how texts are written or scored.
"""

from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import typer

from ...errors import InputError
from . import results
from .command import completing
from .options import JUDGE_FORMS, GenerationOptions, JudgeOptions, grouped

if TYPE_CHECKING:
    from ...evaluation.best_of import BestOf
    from ...vectors.vector import SteeringVector

KEPT = ("best", "all")
N = Annotated[
    int | None,
    typer.Option("--best-of", metavar="N", help="Write N of each, and keep what --judge scores highest."),
]
Judge = Annotated[str | None, typer.Option("--judge", help=f"With --best-of: {JUDGE_FORMS}.")]
Lowest = Annotated[bool, typer.Option("--lowest", help="With --best-of: keep the lowest scores.")]
Keep = Annotated[
    str,
    typer.Option(
        help="With --best-of: best, as many as -n says, or all, by rank.", autocompletion=completing(*KEPT)
    ),
]


@dataclass(frozen=True, kw_only=True)
class ChoosingOptions(JudgeOptions):
    """How many candidates are written, and who chooses among them."""

    best_of: N = None
    lowest: Lowest = False
    keep: Keep = "best"

    def check(self, generation: GenerationOptions, *, has_vectors: bool) -> None:
        """Find out what is wrong before anything is loaded.

        Raises:
            InputError: an option is none of its values, or asks for what has no meaning.
            ModelError: a package that the judge needs is not installed.
        """
        if self.keep not in KEPT:
            raise InputError(f"--keep must be one of {', '.join(KEPT)}, got {self.keep!r:.60}")
        if self.best_of is None:
            self._check_nothing_else_is_asked()
            return
        if len(self.judges) != 1:
            raise InputError("--best-of needs one --judge, which says what texts are kept")
        if self.best_of < max(2, generation.n):
            raise InputError(
                f"--best-of {self.best_of}: must be at least 2, and no less than -n ({generation.n})"
            )
        if not generation.config().sampling.draws:
            raise InputError("--best-of: without a temperature all candidates would be the same text")
        results.check_judges(self, "the label of the vector" if has_vectors else None)

    def _check_nothing_else_is_asked(self) -> None:
        asked = {
            "--judge": bool(self.judge),
            "--judge-data": self.judge_data is not None,
            "--attribute": self.attribute is not None,
            "--lowest": self.lowest,
            "--keep": self.keep != "best",
        }
        if given := [option for option, is_given in asked.items() if is_given]:
            raise InputError(f"{given[0]} without --best-of: say among how many texts to choose")

    def load(self, vectors: "Collection[SteeringVector]", n: int) -> "BestOf | None":
        """Who chooses, if anybody does; `n` texts are kept, if not all."""
        if self.best_of is None:
            return None
        from ...evaluation.best_of import BestOf

        (judge,) = results.load_judges_of(self, vectors)
        return BestOf(judge=judge, keep=self.best_of if self.keep == "all" else n, lowest=self.lowest)


def choosing_options(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command, as `choosing`, the options of who chooses among how many texts."""
    return grouped(command, "choosing", ChoosingOptions, types={"judge": Judge})
