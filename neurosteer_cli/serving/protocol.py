"""What requests and answers look like: those of OpenAI's API, and ours beside them.

Knows JSON's types and bounds, and continuations as they are given out. What is not served is refused by
name: a misspelled field, or a field with a value other than the one that changes nothing.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from ..generation.continuation import Delta, Positions, Token
from .registry import VECTOR_NAME

MAX_CONTINUATIONS = 16  # of one request
MAX_LOG_PROBS = 20
MAX_PROMPT_CHARS = 1_000_000

Name = Annotated[str, StringConstraints(max_length=1000)]
Prompt = Annotated[str, StringConstraints(min_length=1, max_length=MAX_PROMPT_CHARS)]
TokenIds = Annotated[list[Annotated[int, Field(ge=0, le=2**31)]], Field(min_length=1, max_length=2**20)]
Stop = Annotated[str, StringConstraints(min_length=1, max_length=200)]
Finite = Annotated[float, Field(allow_inf_nan=False)]
Zero = Annotated[float, Field(ge=0, le=0)]

Json = dict[str, Any]
BytesOf = Callable[[int], bytes]  # of a token


# --- requests ----------------------------------------------------------------------------------


class Body(BaseModel):
    model_config = ConfigDict(extra="forbid", title="request")


class StreamOptions(Body):
    include_usage: bool = False
    include_obfuscation: bool = False


class TextRequest(Body):
    """What completions and chats share."""

    model: Name = Field(description="The model's name, with vectors or without: smollm2+polite:8")
    n: Annotated[int, Field(ge=1, le=MAX_CONTINUATIONS)] | None = 1
    temperature: Annotated[float, Field(ge=0, le=2, allow_inf_nan=False)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1, allow_inf_nan=False)] | None = None
    stop: Stop | Annotated[list[Stop], Field(max_length=4)] | None = None
    seed: Annotated[int, Field(ge=-(2**63), lt=2**63)] | None = None
    stream: bool | None = False
    stream_options: StreamOptions | None = None
    # ours
    steering: dict[Name, Finite] = Field(
        default_factory=dict, max_length=64, description="Vectors by name, each with its alpha."
    )
    positions: Positions = "all"
    top_k: int = Field(0, ge=0, le=2**31)
    repetition_penalty: Annotated[float, Field(gt=0, le=10, allow_inf_nan=False)] = 1.0
    # OpenAI's, taken and without effect
    user: str | None = None
    metadata: dict[str, Any] | None = None
    store: bool | None = None
    service_tier: str | None = None
    safety_identifier: str | None = None
    prompt_cache_key: str | None = None
    # OpenAI's, refused unless they ask for nothing
    presence_penalty: Zero | None = None
    frequency_penalty: Zero | None = None
    logit_bias: Annotated[dict[str, float], Field(max_length=0)] | None = None

    @property
    def stops(self) -> list[str]:
        return [self.stop] if isinstance(self.stop, str) else self.stop or []


class CompletionRequest(TextRequest):
    """POST /v1/completions."""

    prefix: ClassVar = "cmpl"
    kind: ClassVar = "text_completion"
    chunk_kind: ClassVar = kind

    prompt: (
        Prompt
        | TokenIds
        | Annotated[list[Prompt], Field(min_length=1, max_length=MAX_CONTINUATIONS)]
        | Annotated[list[TokenIds], Field(min_length=1, max_length=MAX_CONTINUATIONS)]
    )
    max_tokens: Annotated[int, Field(ge=1)] | None = 16
    logprobs: Annotated[int, Field(ge=0, le=MAX_LOG_PROBS)] | None = None
    echo: Literal[False] | None = False
    best_of: Literal[1] | None = None
    suffix: None = None

    @property
    def prompts(self) -> list[str | list[int]]:
        one = isinstance(self.prompt, str) or isinstance(self.prompt[0], int)
        return [self.prompt] if one else self.prompt  # type: ignore[list-item, return-value]

    @property
    def n_log_probs(self) -> int | None:
        return self.logprobs

    def whole(self, text: str) -> Json:
        return {"text": text}

    def part(self, text: str) -> Json:
        return {"text": text}

    def log_probs(self, tokens: Sequence[Token], bytes_of: BytesOf) -> Json:
        def spelled(token: int) -> str:
            return _spelled(bytes_of(token))

        return {
            "tokens": [spelled(token.id) for token in tokens],
            "token_logprobs": [token.log_prob for token in tokens],
            "top_logprobs": [{spelled(other): p for other, p in token.most_probable} for token in tokens],
            "text_offset": [token.start for token in tokens],
        }


class TextPart(Body):
    type: Literal["text"]
    text: Annotated[str, StringConstraints(max_length=MAX_PROMPT_CHARS)]


class Message(Body):
    role: Literal["system", "developer", "user", "assistant"]
    content: Annotated[str, StringConstraints(max_length=MAX_PROMPT_CHARS)] | list[TextPart] | None
    name: str | None = None
    refusal: None = None

    @property
    def plain(self) -> dict[str, str]:
        """As chat templates take it."""
        parts = self.content or ""
        text = parts if isinstance(parts, str) else "".join(part.text for part in parts)
        return {"role": "system" if self.role == "developer" else self.role, "content": text}


class TextFormat(Body):
    type: Literal["text"]


class ChatRequest(TextRequest):
    """POST /v1/chat/completions."""

    prefix: ClassVar = "chatcmpl"
    kind: ClassVar = "chat.completion"
    chunk_kind: ClassVar = "chat.completion.chunk"

    messages: list[Message] = Field(min_length=1, max_length=10_000)
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    max_completion_tokens: Annotated[int, Field(ge=1)] | None = None
    logprobs: bool | None = False
    top_logprobs: Annotated[int, Field(ge=0, le=MAX_LOG_PROBS)] | None = None
    response_format: TextFormat | None = None
    tools: Annotated[list[Any], Field(max_length=0)] | None = None
    tool_choice: Literal["none", "auto"] | None = None
    parallel_tool_calls: bool | None = None
    modalities: list[Literal["text"]] | None = None
    reasoning_effort: str | None = None

    @property
    def n_log_probs(self) -> int | None:
        return (self.top_logprobs or 0) if self.logprobs else None

    def whole(self, text: str) -> Json:
        return {"message": {"role": "assistant", "content": text, "refusal": None}}

    def part(self, text: str) -> Json:
        return {"delta": {"content": text} if text else {}}

    def log_probs(self, tokens: Sequence[Token], bytes_of: BytesOf) -> Json:
        def entry(token: int, log_prob: float | None) -> Json:
            raw = bytes_of(token)
            return {"token": _spelled(raw), "logprob": log_prob, "bytes": list(raw)}

        content = [
            {
                **entry(token.id, token.log_prob),
                "top_logprobs": [entry(*other) for other in token.most_probable],
            }
            for token in tokens
        ]
        return {"content": content, "refusal": None}


class DoseRequest(Body):
    """POST /v1/dose: how strong some alphas are together."""

    steering: dict[Name, Finite] = Field(max_length=64)


Texts = Annotated[
    list[Annotated[str, StringConstraints(min_length=1, max_length=100_000)]], Field(max_length=10_000)
]


class FitRequest(Body):
    """POST /v1/vectors: fit a vector on two sides of texts."""

    name: Annotated[str, StringConstraints(pattern=f"^{VECTOR_NAME}$")]
    positive: Texts
    negative: Texts
    method: Literal["neurosteer", "paper", "diffmean"] = "neurosteer"


# --- answers -----------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What a request for text is answered with, whole or in chunks."""

    request: CompletionRequest | ChatRequest
    id: str
    created: int  # seconds since 1970
    alphas: dict[str, float]
    dose: float  # |sum of alpha_i v_i| / median |resid|
    bytes_of: BytesOf

    def whole(self, choices: Sequence[Sequence[Delta]], usage: dict[str, int]) -> Json:
        """From each choice's deltas."""
        parts = [
            self._choice(index, self.request.whole("".join(delta.text for delta in deltas)), deltas)
            for index, deltas in enumerate(choices)
        ]
        return {**self._head(self.request.kind), "choices": parts, "usage": usage}

    def first_chunk(self, index: int) -> Json:
        """What a chat's stream begins with."""
        return self._chunk(self._choice(index, {"delta": {"role": "assistant", "content": ""}}, [Delta()]))

    def chunk(self, index: int, delta: Delta) -> Json:
        return self._chunk(self._choice(index, self.request.part(delta.text), [delta]))

    def usage_chunk(self, usage: dict[str, int]) -> Json:
        return {**self._chunk(), "usage": usage}

    def _chunk(self, *choices: Json) -> Json:
        head = self._head(self.request.chunk_kind)
        options = self.request.stream_options
        usage = {"usage": None} if options and options.include_usage else {}
        return {**head, **usage, "choices": list(choices)}

    def _head(self, kind: str) -> Json:
        return {
            "id": self.id,
            "object": kind,
            "created": self.created,
            "model": self.request.model,
            "steering": {"alphas": self.alphas, "dose": round(self.dose, 6)},
        }

    def _choice(self, index: int, content: Json, deltas: Sequence[Delta]) -> Json:
        log_probs = None
        if self.request.n_log_probs is not None:
            tokens = [token for delta in deltas for token in delta.tokens]
            log_probs = self.request.log_probs(tokens, self.bytes_of)
        reason = deltas[-1].finish_reason
        return {"index": index, **content, "logprobs": log_probs, "finish_reason": reason}


def _spelled(raw: bytes) -> str:
    """A token's text; of a part of a character its bytes, as OpenAI's API spells them."""
    try:
        return raw.decode()
    except UnicodeDecodeError:
        return "bytes:" + "".join(f"\\x{byte:02x}" for byte in raw)


class ErrorInfo(BaseModel):
    message: str
    type: str
    param: str | None
    code: str | None


class ErrorAnswer(BaseModel):
    """Every refusal, as OpenAI's API has it."""

    error: ErrorInfo


def error_body(
    message: str, kind: str = "invalid_request_error", param: str | None = None, code: str | None = None
) -> Json:
    return ErrorAnswer(error=ErrorInfo(message=message, type=kind, param=param, code=code)).model_dump()
