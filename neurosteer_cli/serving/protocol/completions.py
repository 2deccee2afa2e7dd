"""POST /v1/completions: going on from prompts, and the form of answer that chats share."""

from collections.abc import Sequence
from typing import Annotated, ClassVar

from pydantic import BeforeValidator, Field, model_validator

from ...generation.continuation import Delta
from .fields import Json, Texts, listed, refuse
from .text import (
    MAX_LOG_PROBS,
    Answer,
    Choices,
    OpenAIRequest,
    StreamOptions,
    ended_by,
    joined,
    score_of,
    spelled,
)


class ChoicesAnswer(Answer):
    """A choice for each continuation, as completions and chats have it."""

    kind: ClassVar[str]
    chunk_kind: ClassVar[str]

    def whole(self, choices: Choices) -> Json:
        parts = [
            {**self._choice(index, self._said(joined(deltas)), deltas), **score_of(self, index)}
            for index, deltas in enumerate(choices)
        ]
        return {**self._head(self.kind), "choices": parts, "usage": self.usage}

    def part(self, index: int, delta: Delta) -> list[Json]:
        return [self._chunk(self._choice(index, self._added(delta.text), [delta]))]

    def closing(self, choices: Choices) -> list[Json]:
        """Scores, in a chunk that adds no text to its choice, and usage."""
        scores = [
            self._chunk({**self._choice(index, self._added(""), [Delta()]), **score_of(self, index)})
            for index in range(len(choices) if self.scores else 0)
        ]
        return [*scores, *([{**self._chunk(), "usage": self.usage}] if self._tells_usage else [])]

    def _said(self, text: str) -> Json:
        """A choice's text, whole."""
        raise NotImplementedError

    def _added(self, text: str) -> Json:
        """A choice's text that has come."""
        raise NotImplementedError

    def _log_probs(self, deltas: Sequence[Delta]) -> Json:
        raise NotImplementedError

    @property
    def _tells_usage(self) -> bool:
        return bool(self.request.stream_options.include_usage)

    def _chunk(self, *choices: Json) -> Json:
        usage = {"usage": None} if self._tells_usage else {}
        return {**self._head(self.chunk_kind), **usage, "choices": list(choices)}

    def _head(self, kind: str) -> Json:
        return {
            "id": self.id,
            "object": kind,
            "created": int(self.created),
            "model": self.model,
            "steering": self.steering,
        }

    def _choice(self, index: int, content: Json, deltas: Sequence[Delta]) -> Json:
        log_probs = None if self.request.n_log_probs is None else self._log_probs(deltas)
        last = deltas[-1]
        told = {"logprobs": log_probs, "finish_reason": last.finish_reason}
        return {"index": index, **content, **told, **ended_by(last)}


class CompletionAnswer(ChoicesAnswer):
    kind = "text_completion"
    chunk_kind = kind

    def _said(self, text: str) -> Json:
        return {"text": text}

    _added = _said

    def _log_probs(self, deltas: Sequence[Delta]) -> Json:
        tokens = [token for delta in deltas for token in delta.tokens]
        if self.request.echo and (end := deltas[-1].end):  # harnesses count on a token after the prompt's
            tokens.append(end._replace(start=len(joined(deltas))))

        def named(token: int) -> str:
            return spelled(self.bytes_of(token))

        return {
            "tokens": [named(token.id) for token in tokens],
            "token_logprobs": [token.log_prob for token in tokens],
            "top_logprobs": [
                {named(other): p for other, p in token.most_probable} if token.log_prob is not None else None
                for token in tokens
            ],
            "text_offset": [token.start for token in tokens],
        }


LogProbs = Annotated[
    Annotated[int, Field(ge=0, le=MAX_LOG_PROBS)] | None,
    BeforeValidator(lambda given: None if given is False else given),  # as chats are asked for none
]


class CompletionRequest(OpenAIRequest):
    """Going on from prompts."""

    prefix = "cmpl-"
    answer = CompletionAnswer

    prompt: Texts
    max_tokens: int = Field(16, ge=-1, description="-1: as many as there is room for.")
    n: int = Field(1, ge=1)
    best_of: int = Field(1, ge=0)
    echo: bool = False
    logprobs: LogProbs = None
    stream_options: StreamOptions = StreamOptions()

    @model_validator(mode="after")
    def _check(self) -> "CompletionRequest":
        if self.best_of not in (0, 1, self.n):
            refuse("best_of", "not served; ask for as many as you want by n")
        return self

    @property
    def prompts(self) -> list[str | list[int]]:
        return listed(self.prompt)

    @property
    def echoes(self) -> bool:
        return self.echo

    @property
    def n_samples(self) -> int:
        return self.n

    @property
    def max_new_tokens(self) -> int | None:
        return None if self.max_tokens == -1 else self.max_tokens

    @property
    def n_log_probs(self) -> int | None:
        return self.logprobs
