"""One continuation while it is written, and what is given out of it as it grows.

Knows tokens, text and their ends; knows nothing of models, tensors' layout or of who reads.
"""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from ..errors import InputError
from ..models.engine import Engine
from ..vectors.steering import NOTHING, Steering
from .constraints import Constraint
from .positions import Marks, Positions
from .sampling import Sampling
from .text import TextStream


@dataclass(frozen=True, kw_only=True)
class GenerationConfig:
    """How continuations are written.

    `positions` names the tokens whose residuals are steered, see `Positions`; `stops` are strings before
    the first of which a text ends.
    """

    sampling: Sampling = field(default_factory=Sampling)
    max_new_tokens: int = 64
    positions: str = "all"
    batch_size: int = 32
    stops: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        self.steered  # noqa: B018  to refuse what cannot be read
        if "" in self.stops:
            raise InputError("--stop: empty; give the text to end before")
        if self.max_new_tokens < 0:
            raise InputError(f"--max-new-tokens must be at least 0, got {self.max_new_tokens}")
        if self.batch_size < 1:
            raise InputError(f"--batch-size must be at least 1, got {self.batch_size}")

    @cached_property
    def steered(self) -> Positions:
        """The positions."""
        return Positions.parse(self.positions)


class Token(NamedTuple):
    """A written token, its place in the text and its probability under the steered model."""

    id: int
    start: int  # characters of text before it
    log_prob: float | None = None  # at temperature 1
    most_probable: Sequence[tuple[int, float]] = ()  # tokens and their log-probabilities


class Limit(NamedTuple):
    """What ended a text that would have gone on."""

    name: Literal["max_tokens", "time_limit", "shutdown"]
    number: float
    unit: Literal["tokens", "seconds"] = "seconds"


@dataclass(frozen=True)
class Delta:
    """The next part of a continuation, or how it ended."""

    text: str = ""
    tokens: tuple[Token, ...] = ()  # whose text it is
    finish_reason: str | None = None
    limit: Limit | None = None  # where that is "length"
    end: Token | None = None  # the model's own token that ended it; no part of the text
    error: BaseException | None = None

    def __bool__(self) -> bool:
        return bool(self.text or self.finish_reason or self.error)


@dataclass
class Echo:
    """A prompt that is given out before its text, and what the model thought of its tokens."""

    text: str
    starts: Sequence[int]  # characters before each token
    tokens: list[Token] = field(default_factory=list)  # those read; what follows nothing has no probability
    _is_given: bool = False

    @classmethod
    def of(cls, engine: Engine, ids: list[int]) -> "Echo":
        stream, starts = TextStream(engine, []), []
        for token in ids:
            starts.append(len(stream.text))
            stream.take(token)
        stream.finish()
        return cls(stream.text, starts, [Token(ids[0], 0)])

    def take(self, ids: Sequence[int], logits: Tensor, n_log_probs: int) -> None:
        """Note the next tokens of the prompt, each with the logits before it, [n or more, d_vocab]."""
        for token, row in zip(ids, logits, strict=False):
            self.tokens.append(scored(token, self.starts[len(self.tokens)], row, n_log_probs))

    def before(self, delta: Delta) -> Delta:
        """What follows the prompt, with the prompt itself where it is the first."""
        tokens = tuple(token._replace(start=token.start + len(self.text)) for token in delta.tokens)
        if self._is_given:
            return replace(delta, tokens=tokens)
        self._is_given = True
        return replace(delta, text=self.text + delta.text, tokens=(*self.tokens, *tokens))


def scored(token: int, start: int, logits: Tensor, n_log_probs: int) -> Token:
    """A token and its log-probability by logits [d_vocab], and those of the most probable ones."""
    log_probs = logits.float().log_softmax(-1)
    top = log_probs.topk(n_log_probs)
    most_probable = list(zip(top.indices.tolist(), top.values.tolist(), strict=True))
    return Token(token, start, float(log_probs[token]), most_probable)


@dataclass(eq=False, kw_only=True)
class Continuation:
    """One continuation: what to write, how, and what is written so far. Each has settings of its own."""

    ids: list[int]  # the prompt's tokens, at least one
    key: str  # names the noise: equal keys, samples and seeds draw equal noise
    sample: int = 0
    steering: Steering = NOTHING
    marks: Marks | None = None  # of thinking, where the positions need them
    config: GenerationConfig
    constraint: Constraint | None = None  # what the text has to come out as
    n_log_probs: int | None = None  # how many tokens a step to tell the log-probabilities of
    echo: Echo | None = None
    time_limit: float = math.inf  # seconds from when it was made
    on_delta: Callable[[Delta], None] = field(default=lambda _delta: None)
    deadline: float = field(init=False)  # on the clock time.monotonic
    # since it joined a batch
    generator: torch.Generator = field(init=False)
    stream: TextStream = field(init=False)
    written: list[int] = field(default_factory=list)  # without the token that ends the text
    finish_reason: str | None = None  # "stop": the model, or a stop string; "length"; "cancelled"; "error"
    limit: Limit | None = None  # where that is "length"
    _held: list[Token] = field(default_factory=list)  # whose text has not been given out

    def __post_init__(self) -> None:
        self.deadline = time.monotonic() + self.time_limit

    @property
    def text(self) -> str:
        """What is written so far."""
        return self.stream.text if self.written else ""

    @property
    def scores_prompt(self) -> bool:
        """Whether the log-probabilities of its prompt's tokens are wanted."""
        return self.echo is not None and self.n_log_probs is not None

    def cancel(self) -> None:
        """Write it no further, if it is not finished."""
        self.finish_reason = self.finish_reason or "cancelled"

    def take(self, token: Token | None) -> Delta:
        """Go on with a token, or with None end the text; what can be given out now.

        If none is wanted, the text ends before it.
        """
        text = ""
        if not self.config.max_new_tokens:
            self.finish_reason, self.limit = "length", Limit("max_tokens", 0, "tokens")
            return self._delta("")
        if token is None:
            if self.constraint:
                self.constraint.check()
            self.finish_reason = "stop"
        else:
            self.written.append(token.id)
            self._held.append(token)
            text = self.stream.take(token.id)
            if self.constraint and self.constraint.take(token.id):
                self.finish_reason = "stop"
            elif len(self.written) == (most := self.config.max_new_tokens):
                self.finish_reason, self.limit = "length", Limit("max_tokens", most, "tokens")
        return self._delta(text)

    def cut_off(self, limit: Limit) -> Delta:
        """End the text where it is; what had not been given out of it."""
        self.finish_reason, self.limit = "length", limit
        return self._delta("") if self.written else Delta(finish_reason="length", limit=limit)

    def _delta(self, text: str) -> Delta:
        if self.finish_reason and not self.stream.stopped:
            text += self.stream.finish()
        if self.stream.stopped:
            self.finish_reason, self.limit = "stop", None
        delta = Delta(text, self._given_out(), self.finish_reason, self.limit)
        return self.echo.before(delta) if self.echo else delta

    def _given_out(self) -> tuple[Token, ...]:
        """The tokens held whose text has been given out; none is held after the text's own end."""
        is_whole = self.finish_reason and not self.stream.stopped
        given = [token for token in self._held if is_whole or token.start < self.stream.n_given]
        self._held = self._held[len(given) :]
        return tuple(given)
