"""What a judge is, and what it says of texts.

Knows the forms of judges' names and the shape of an answer; knows nothing of how any judge works.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

# of names
FORMS = ("data", "tfidf", "sentiment", "toxicity", "hf:MODEL:LABEL", "regex:PATTERN", "llm:URL:MODEL")

Texts = Sequence[str]
Card = dict[str, Any]  # JSON-able: what a judge is made of
Advance = Callable[[int], None]  # told how many more texts are done
Say = Callable[[str], None]  # told what takes long, before it is begun


@dataclass(frozen=True)
class Scores:
    """One judge's answers, an entry a text."""

    scores: list[float | None]  # None: the judge gave no answer
    positive: list[bool | None]  # whether the text shows what the judge looks for
    fluency: list[float | None] | None = None  # 0 to 1, for judges that score it

    @classmethod
    def from_threshold(cls, numbers: Iterable[float], threshold: float) -> "Scores":
        """Each text's number, positive from the threshold up."""
        scores = list(map(float, numbers))
        return cls([*scores], [score >= threshold for score in scores])


@dataclass(frozen=True)
class Judge:
    """Scores continuations. `card` and `warnings` may grow while it does."""

    name: str  # as tables show it: "data", "sentiment", "regex:PATTERN", "hf:MODEL:LABEL", "llm:MODEL"
    limits: str  # one or two plain sentences: what it measures and where it is wrong
    card: Card
    scores_of: Callable[[Texts, Texts, Advance], Scores]  # does what `score` says
    warnings: list[str] = field(default_factory=list)

    def score(self, prompts: Texts, texts: Texts, advance: Advance) -> Scores:
        """Judge each text.

        Args:
            prompts: what stood before each text, as many as there are texts; not judged.
            texts: the continuations; an empty one is judged like any other.
            advance: told how many more are done.
        """
        return self.scores_of(prompts, texts, advance)
