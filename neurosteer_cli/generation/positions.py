"""Which tokens of a text are steered, by their places in it or by the marks of its thinking.

Knows tokens of a prompt and of what is written; knows nothing of residuals or vectors.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from ..errors import InputError

NAMED = ("all", "prompt", "generated", "answer", "thinking", "after-thinking")
USAGE = f"{', '.join(NAMED)}, first:N or after:N"
# What templates of models that think put around it.
THINKING = (
    ("<think>", "</think>"),
    ("[THINK]", "[/THINK]"),
    ("<|START_THINKING|>", "<|END_THINKING|>"),
    ("<seed:think>", "</seed:think>"),
)


class Marks(NamedTuple):
    """The tokens that begin and end a model's thinking."""

    begin: int
    end: int


@dataclass(frozen=True)
class Positions:
    """The tokens whose residuals are steered.

    The residual of a token chooses the next one: the last token of the prompt chooses the first that is
    written. `all`; those of the `prompt`; those `generated` (the first of them is then chosen unsteered);
    `answer`, those that choose what is written; `first:N` and `after:N`, those that choose the first N
    tokens, or those after them; `thinking`, those that choose what stands between the marks of thinking and
    the mark that ends it; `after-thinking`, those that choose what comes after it.
    """

    name: str
    n: int = 0

    @classmethod
    def parse(cls, text: str) -> "Positions":
        """Read what an option says; InputError if it is none of these."""
        if text in NAMED:
            return cls(text)
        if match := re.fullmatch(r"(first|after):([0-9]{1,7})", text):
            if match[1] == "first" and int(match[2]) == 0:
                raise InputError("--positions first:0 steers nothing: N counts from 1")
            return cls(match[1], int(match[2]))
        raise InputError(f"--positions must be one of {USAGE}, got {text!r:.60}")

    @property
    def needs_marks(self) -> bool:
        return self.name in ("thinking", "after-thinking")

    def covers(self, place: int, ids: Sequence[int], n_prompt: int, marks: Marks | None = None) -> bool:
        """Whether the token at a place in a text is steered; `ids` are its tokens up to there at least."""
        choosing = place - (n_prompt - 1)  # which of the written tokens, if it is not below 0
        match self.name:
            case "all":
                return True
            case "prompt":
                return place < n_prompt
            case "generated":
                return place >= n_prompt
            case "answer":
                return choosing >= 0
            case "first":
                return 0 <= choosing < self.n
            case "after":
                return choosing >= self.n
        return choosing >= 0 and self._by_marks(ids[: place + 1], marks)

    def _by_marks(self, ids: Sequence[int], marks: Marks | None) -> bool:
        if marks is None:
            raise InputError(f"positions {self.name}: no marks of thinking are known")
        last = next((token for token in reversed(ids) if token in marks), None)
        return last == (marks.begin if self.name == "thinking" else marks.end)


def thinking_marks(tokenizer: Any, model_id: str, positions: Positions) -> Marks | None:
    """The marks of a model's thinking, where positions need them.

    Raises:
        InputError: the model's tokenizer has none that are known.
    """
    if not positions.needs_marks:
        return None
    vocabulary = tokenizer.get_vocab()
    for begin, end in THINKING:
        if begin in vocabulary and end in vocabulary:
            return Marks(vocabulary[begin], vocabulary[end])
    raise InputError(
        f"positions {positions.name}: the tokenizer of {model_id!r} has none of the known marks of "
        f"thinking ({', '.join(begin for begin, _ in THINKING)}); choose other positions"
    )
