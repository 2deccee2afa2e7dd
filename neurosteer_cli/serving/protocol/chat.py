"""POST /v1/chat/completions: messages as clients send and echo them, and the answer to them."""

from collections.abc import Sequence
from typing import Annotated, Any, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, model_validator

from ...data.records import NOT_THE_TEMPLATES
from ...generation.continuation import Delta
from .completions import ChoicesAnswer
from .fields import Json, kind, one_of, refuse, text_or_list
from .text import MAX_LOG_PROBS, OpenAIRequest, StreamOptions

PartType = Literal["text", "input_text", "output_text", "refusal"]
CALLS = ("tool_calls", "function_call", "audio")


class Part(BaseModel):
    """A part of a message's content; whatever else clients put beside its text is left out."""

    model_config = ConfigDict(extra="ignore")

    type: PartType
    text: str

    @model_validator(mode="before")
    @classmethod
    def _read(cls, given: Any) -> Any:
        if not isinstance(given, dict):
            return given
        of_type = given.get("type") or "text"
        if not isinstance(of_type, str):
            refuse("type", "must be a text")
        if of_type not in get_args(PartType):
            refuse("type", f"{of_type[:40]!r} is not served; only parts of type 'text' are")
        return {"type": of_type, "text": given.get("refusal" if of_type == "refusal" else "text")}


Content = Annotated[
    Annotated[str, kind("text")] | Annotated[list[Part], kind("list")],
    one_of(text_or_list, "a text, or a list of parts with a type and a text"),
]


class Message(BaseModel):
    """A message, without all that is null, empty or unknown: clients send answers back as they got them."""

    model_config = ConfigDict(extra="ignore")

    role: Literal["system", "developer", "user", "assistant"]
    content: Content = ""

    @model_validator(mode="before")
    @classmethod
    def _read(cls, given: Any) -> Any:
        if not isinstance(given, dict):
            return given
        for name in CALLS:
            if given.get(name):
                refuse(name, "not served; send messages of text alone")
        if given.get("role") in ("tool", "function"):
            refuse("role", f"{given['role']!r} is not served, and neither are tools")
        if "content" not in given and given.get("role") != "assistant":
            refuse("content", "missing")
        content = given.get("content")
        return {**given, "content": (given.get("refusal") or "") if content is None else content}

    @property
    def plain(self) -> dict[str, str]:
        """As chat templates take it."""
        text = self.content if isinstance(self.content, str) else "".join(part.text for part in self.content)
        return {"role": "system" if self.role == "developer" else self.role, "content": text}


class ChatAnswer(ChoicesAnswer):
    kind = "chat.completion"
    chunk_kind = "chat.completion.chunk"

    def opening(self) -> list[Json]:
        """Who speaks."""
        content = {"delta": {"role": "assistant", "content": ""}}
        return [
            self._chunk(self._choice(index, content, [Delta()])) for index in range(len(self.continuations))
        ]

    def _said(self, text: str) -> Json:
        return {"message": {"role": "assistant", "content": text, "refusal": None}}

    def _added(self, text: str) -> Json:
        return {"delta": {"content": text} if text else {}}

    def _log_probs(self, deltas: Sequence[Delta]) -> Json:
        return {"content": self.log_probs(deltas), "refusal": None}


class TemplateRequest(OpenAIRequest):
    """What is put into the model's chat template."""

    chat_template_kwargs: Json = Field(
        {}, description="Arguments of the chat template, such as enable_thinking."
    )

    @model_validator(mode="after")
    def _check_template_args(self) -> "TemplateRequest":
        for name in self.chat_template_kwargs:
            if name in NOT_THE_TEMPLATES:
                refuse("chat_template_kwargs", f"{name!r} is no argument of the template")
        return self

    @property
    def template_args(self) -> Json:
        return self.chat_template_kwargs


class ChatRequest(TemplateRequest):
    """Answering in a chat."""

    prefix = "chatcmpl-"
    answer = ChatAnswer

    messages: list[Message] = Field(min_length=1)
    max_tokens: int = Field(-1, ge=-1, description="-1: as many as there is room for.")
    max_completion_tokens: int = Field(-1, ge=-1)
    n: int = Field(1, ge=1)
    logprobs: bool = False
    top_logprobs: int = Field(0, ge=0, le=MAX_LOG_PROBS)
    stream_options: StreamOptions = StreamOptions()

    @model_validator(mode="before")
    @classmethod
    def _without_tools(cls, given: Any) -> Any:
        """Tools that are not to be called ask for nothing."""
        if isinstance(given, dict) and given.get("tool_choice") == "none":
            return {name: value for name, value in given.items() if name != "tools"}
        return given

    @model_validator(mode="after")
    def _check(self) -> "ChatRequest":
        if self.top_logprobs and not self.logprobs:
            refuse("top_logprobs", "only with logprobs true")
        for name in ("max_tokens", "max_completion_tokens"):
            if getattr(self, name) == 0:
                refuse(name, "must be at least 1, got 0")
        return self

    @property
    def chat(self) -> list[dict[str, str]]:
        """As chat templates take it."""
        return [message.plain for message in self.messages]

    @property
    def n_samples(self) -> int:
        return self.n

    @property
    def max_new_tokens(self) -> int | None:
        most = self.max_tokens if self.max_completion_tokens == -1 else self.max_completion_tokens
        return None if most == -1 else most

    @property
    def n_log_probs(self) -> int | None:
        return self.top_logprobs if self.logprobs else None
