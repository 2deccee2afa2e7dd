"""What a judge is, and what it says of texts.

Knows the forms of judges' names and the shape of an answer; knows nothing of how any judge works.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

FORMS = ("data", "sentiment", "toxicity", "hf:MODEL:LABEL", "regex:PATTERN", "llm:URL:MODEL")  # of names
BATCH = 100  # texts, between two reports of progress


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


class ThresholdJudge(ABC):
    """A judge that gives a text a number, and takes it for positive from a threshold up."""

    name: str
    limits: str
    threshold: float

    def __init__(self, card: dict[str, Any]) -> None:
        self.card = card
        self.warnings: list[str] = []

    @abstractmethod
    def _numbers(self, texts: Sequence[str], advance: Callable[[int], None]) -> list[float]:
        """One number a text, in order; `advance` as in `score`."""

    def score(
        self,
        prompts: Sequence[str],  # noqa: ARG002  # only continuations are judged
        texts: Sequence[str],
        advance: Callable[[int], None],
    ) -> Scores:
        numbers = self._numbers(texts, advance)
        return Scores([*numbers], [number >= self.threshold for number in numbers])


def in_batches(texts: Sequence[str], advance: Callable[[int], None]) -> Iterator[list[str]]:
    """Some texts at a time; `advance` is told of them when the next are asked for."""
    for start in range(0, len(texts), BATCH):
        batch = list(texts[start : start + BATCH])
        yield batch
        advance(len(batch))
