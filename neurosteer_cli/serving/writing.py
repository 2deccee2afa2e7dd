"""A continuation that somebody waits for, and the pieces of text they are given of it.

Knows lines of a batch and text streams; knows nothing of who waits.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

from ..generation.batch import Continuation, Written
from ..generation.text import TextStream


class Token(NamedTuple):
    """A written token and its place in the text."""

    written: Written
    start: int  # characters of text before it


@dataclass(frozen=True)
class Delta:
    """The next part of a continuation, or how it ended."""

    text: str = ""
    tokens: tuple[Token, ...] = ()  # whose text it is
    finish_reason: str | None = None  # as a line's; "stop" also at a stop string
    error: BaseException | None = None


@dataclass(eq=False)
class Writing:
    """One continuation that somebody waits for."""

    line: Continuation
    text: TextStream
    hear: Callable[[Delta], None]  # called from the model's thread; must not block
    deadline: float = math.inf  # on the clock time.monotonic
    held: list[Token] = field(default_factory=list)  # whose text has not been given out

    @property
    def n_tokens(self) -> int:
        """Tokens it may come to."""
        return len(self.line.ids) + self.line.max_new_tokens

    def take(self, written: Written) -> Delta | None:
        """Take in the line's next token; what can be given out now, if anything can."""
        reason, stream = self.line.finish_reason, self.text
        text = ""
        if reason != "stop":  # else the token is no text
            self.held.append(Token(written, len(stream.text)))
            text = stream.take(written.token)
        if reason and not stream.stopped:
            text += stream.finish()
        if stream.stopped:
            reason = "stop"
        told = [token for token in self.held if token.start < stream.n_given]
        if reason and not stream.stopped:
            told = self.held
        if not text and not reason:
            return None
        self.held = self.held[len(told) :]
        return Delta(text, tuple(told), reason)
