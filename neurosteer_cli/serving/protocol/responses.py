"""POST /v1/responses: text in and out, whole or as the events that OpenAI's client reads.

Knows items of input and output. Nothing is kept from one request to the next.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import count
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BeforeValidator, Field, model_validator

from ...generation.continuation import Delta
from .chat import Message, TemplateRequest
from .fields import Form, Json, kind, one_of, refuse, text_or_list
from .formats import FlatFormat
from .text import MAX_LOG_PROBS, NAMED_EVENTS, Answer, Choices, ended_by, joined, score_of
from .unserved import IGNORED, UNSERVED, only

LOG_PROBS = "message.output_text.logprobs"


class StreamOptions(Form):
    ignored = frozenset({"include_obfuscation"})


class TextConfig(Form):
    ignored = frozenset({"verbosity"})

    format: FlatFormat = FlatFormat()


class Item(Message):
    """A message of the input."""

    @model_validator(mode="before")
    @classmethod
    def _check_type(cls, given: Any) -> Any:
        if isinstance(given, dict) and given.get("type", "message") not in ("message", None):
            refuse("type", f"{str(given['type'])[:40]!r} is not served; only messages are")
        return given


def _without_reasoning(items: Any) -> Any:
    """What a model thought to itself is no part of a chat."""
    if not isinstance(items, list):
        return items
    return [item for item in items if not (isinstance(item, dict) and item.get("type") == "reasoning")]


Input = Annotated[
    Annotated[str, Field(min_length=1), kind("text")]
    | Annotated[list[Item], BeforeValidator(_without_reasoning), Field(min_length=1), kind("list")],
    one_of(text_or_list, "a text or a list of messages"),
]


@dataclass(frozen=True, kw_only=True)
class ResponsesAnswer(Answer):
    framing = NAMED_EVENTS
    numbers: Iterator[int] = field(default_factory=count)  # of the stream's events

    def whole(self, choices: Choices) -> Json:
        (deltas,) = choices
        found = self._response(self._status(choices), [self._message(deltas)], self._usage)
        return {**found, **ended_by(deltas[-1]), **score_of(self, 0)}

    def opening(self) -> list[Json]:
        begun, place = self._response("in_progress", []), self._place
        part = {"content_index": 0, "part": self._output_text([])}
        return [
            self._event("created", response=begun),
            self._event("in_progress", response=begun),
            self._event("output_item.added", output_index=0, item=self._item("in_progress", [])),
            self._event("content_part.added", **place, **part),
        ]

    def part(self, index: int, delta: Delta) -> list[Json]:
        if not delta.text:
            return []
        said = {"content_index": index, "delta": delta.text, "logprobs": self._log_probs([delta])}
        return [self._event("output_text.delta", **self._place, **said)]

    def closing(self, choices: Choices) -> list[Json]:
        (deltas,) = choices
        place = {**self._place, "content_index": 0}
        told = {"text": joined(deltas), "logprobs": self._log_probs(deltas)}
        status = self._status(choices)
        return [
            self._event("output_text.done", **place, **told),
            self._event("content_part.done", **place, part=self._output_text(deltas)),
            self._event("output_item.done", output_index=0, item=self._message(deltas)),
            self._event(status, response=self.whole(choices)),
        ]

    def failure(self, refusal: Json) -> Json:
        error = refusal["error"]
        told = {"code": error["code"] or error["type"], "message": error["message"]}
        return self._event("failed", response={**self._response("failed", []), "error": told})

    @property
    def _place(self) -> Json:
        return {"item_id": self._item_id, "output_index": 0}

    @property
    def _item_id(self) -> str:
        return self.id.replace("resp_", "msg_")

    @property
    def _usage(self) -> Json:
        return {
            "input_tokens": self.n_read,
            "input_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 0},
            "output_tokens": self.n_written,
            "output_tokens_details": {"reasoning_tokens": 0},
            "total_tokens": self.n_read + self.n_written,
        }

    def _event(self, name: str, **rest: Any) -> Json:
        return {"type": f"response.{name}", "sequence_number": next(self.numbers), **rest}

    def _status(self, choices: Choices) -> str:
        return "incomplete" if choices[0][-1].finish_reason == "length" else "completed"

    def _message(self, deltas: Sequence[Delta]) -> Json:
        return self._item(self._status([deltas]), [self._output_text(deltas)])

    def _item(self, status: str, content: list[Json]) -> Json:
        return {
            "id": self._item_id,
            "type": "message",
            "role": "assistant",
            "status": status,
            "content": content,
        }

    def _output_text(self, deltas: Sequence[Delta]) -> Json:
        told = {"text": joined(deltas), "annotations": [], "logprobs": self._log_probs(deltas)}
        return {"type": "output_text", **told}

    def _log_probs(self, deltas: Sequence[Delta]) -> list[Json]:
        return [] if self.request.n_log_probs is None else self.log_probs(deltas)

    def _response(self, status: str, output: list[Json], usage: Json | None = None) -> Json:
        asked: ResponsesRequest = self.request
        return {
            "id": self.id,
            "object": "response",
            "created_at": int(self.created),
            "status": status,
            "model": self.model,
            "steering": self.steering,
            "output": output,
            "usage": usage,
            "incomplete_details": {"reason": "max_output_tokens"} if status == "incomplete" else None,
            "error": None,
            "instructions": asked.instructions or None,
            "max_output_tokens": asked.max_new_tokens,
            "metadata": asked.metadata,
            "temperature": asked.temperature,
            "top_p": asked.top_p,
            "top_logprobs": asked.top_logprobs,
            "text": {"format": {"type": asked.text.format.type}},
            "truncation": "disabled",
            "previous_response_id": None,
            "parallel_tool_calls": True,
            "tool_choice": "auto",
            "tools": [],
            "store": False,
        }


class ResponsesRequest(TemplateRequest):
    """Answering, in the form of OpenAI's newer API."""

    prefix = "resp_"
    answer = ResponsesAnswer
    ignored = IGNORED - {"metadata"}
    unserved: ClassVar = {
        **UNSERVED,
        "n": only(1),
        "previous_response_id": only(),
        "conversation": only(),
        "prompt": only(),
        "background": only(False),
        "truncation": only("disabled"),
        "context_management": only(),
        "image": only(),
        "access_programs": only(),
        "background_options": only(),
    }

    input: Input
    instructions: str = ""
    max_output_tokens: int = Field(-1, ge=-1, description="-1: as many as there is room for.")
    metadata: dict[str, Any] = {}
    include: list[Literal["message.output_text.logprobs"]] = []
    top_logprobs: int = Field(0, ge=0, le=MAX_LOG_PROBS)
    text: TextConfig = TextConfig()
    stream_options: StreamOptions = StreamOptions()

    @model_validator(mode="after")
    def _check(self) -> "ResponsesRequest":
        if self.max_output_tokens == 0:
            refuse("max_output_tokens", "must be at least 1, got 0")
        if self.response_format.schema_asked:
            refuse("response_format", "not served; give it as text.format")
        try:
            json.dumps(self.metadata, allow_nan=False)  # as it is given back
        except ValueError:
            refuse("metadata", "must hold finite numbers alone")
        return self

    @property
    def chat(self) -> list[dict[str, str]]:
        """As chat templates take it."""
        before = [{"role": "system", "content": self.instructions}] if self.instructions else []
        if isinstance(self.input, str):
            return [*before, {"role": "user", "content": self.input}]
        return [*before, *(item.plain for item in self.input)]

    @property
    def schema_asked(self) -> Json | None:
        return self.text.format.schema_asked

    @property
    def max_new_tokens(self) -> int | None:
        return None if self.max_output_tokens == -1 else self.max_output_tokens

    @property
    def n_log_probs(self) -> int | None:
        return self.top_logprobs if self.top_logprobs or LOG_PROBS in self.include else None
