"""What a judge is, and what it says of texts.

Knows the shape of an answer; knows nothing of any judge.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol


@dataclass(frozen=True)
class Scores:
    """One judge's answers, an entry a text."""

    scores: list[float | None]  # None: the judge gave no answer
    positive: list[bool | None]  # whether the text shows what the judge looks for
    fluency: list[float | None] | None = None  # 0 to 1, for judges that score it


class Judge(Protocol):
    """Scores continuations. `card` and `warnings` may grow while it does."""

    name: str  # as tables show it: "sentiment", "regex:PATTERN", "hf:MODEL:LABEL", "llm:MODEL"
    limits: str  # one or two plain sentences: what it measures and where it is wrong
    card: dict[str, Any]  # JSON-able: what it is made of
    warnings: list[str]

    def score(self, prompts: Sequence[str], texts: Sequence[str], advance: Callable[[int], None]) -> Scores:
        """Judge each text; `advance` is told how many more are done.

        Args:
            prompts: what stood before each text, as many as there are texts; not judged.
            texts: the continuations; an empty one is judged like any other.
        """
        ...
