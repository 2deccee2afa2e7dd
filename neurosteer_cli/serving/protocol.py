"""What requests and answers look like: those of OpenAI's API, and ours beside them.

Knows JSON's types and bounds, and continuations as they are given out. What is not served is refused by
name: a misspelled field, or one that asks for anything. A kind of request words its own answer's choices.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from ..generation.continuation import Continuation, Delta, Positions, Token
from .registry import VECTOR_NAME

MAX_CONTINUATIONS = 16  # of one request
MAX_LOG_PROBS = 20
MAX_PROMPT_CHARS = 1_000_000

Name = Annotated[str, StringConstraints(max_length=1000)]
Content = Annotated[str, StringConstraints(max_length=MAX_PROMPT_CHARS)]
Prompt = Annotated[str, StringConstraints(min_length=1, max_length=MAX_PROMPT_CHARS)]
TokenIds = Annotated[list[Annotated[int, Field(ge=0, le=2**31)]], Field(min_length=1, max_length=2**20)]
Several = Field(min_length=1, max_length=MAX_CONTINUATIONS)
Stop = Annotated[str, StringConstraints(min_length=1, max_length=200)]
Zero = Annotated[float, Field(ge=0, le=0)]
FitText = Annotated[str, StringConstraints(min_length=1, max_length=100_000)]

Json = dict[str, Any]
BytesOf = Callable[[int], bytes]  # of a token


class Body(BaseModel):
    model_config = ConfigDict(extra="forbid", allow_inf_nan=False, title="request")


class StreamOptions(Body):
    include_usage: bool = False
    include_obfuscation: bool = False


class TextRequest(Body):
    """What completions and chats share."""

    model: Name = Field(description="The model's name, with vectors or without: smollm2+polite:8")
    n: int | None = Field(1, ge=1, le=MAX_CONTINUATIONS)
    temperature: float | None = Field(None, ge=0, le=2)
    top_p: float | None = Field(None, gt=0, le=1)
    stop: Stop | Annotated[list[Stop], Field(max_length=4)] | None = None
    seed: int | None = Field(None, ge=-(2**63), lt=2**63)
    stream: bool | None = False
    stream_options: StreamOptions | None = None
    # ours
    steering: dict[Name, float] = Field(
        default_factory=dict, max_length=64, description="Vectors by name, each with its alpha."
    )
    positions: Positions = "all"
    top_k: int = Field(0, ge=0, le=2**31)
    repetition_penalty: float = Field(1.0, gt=0, le=10)
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
    logit_bias: dict[str, float] | None = Field(None, max_length=0)

    @property
    def stops(self) -> list[str]:
        return [self.stop] if isinstance(self.stop, str) else self.stop or []

    @property
    def tells_usage(self) -> bool:
        return self.stream_options is not None and self.stream_options.include_usage


class CompletionRequest(TextRequest):
    """POST /v1/completions."""

    prefix: ClassVar = "cmpl"
    kind: ClassVar = "text_completion"
    chunk_kind: ClassVar = kind

    prompt: Prompt | TokenIds | Annotated[list[Prompt], Several] | Annotated[list[TokenIds], Several]
    max_tokens: int | None = Field(16, ge=1)
    logprobs: int | None = Field(None, ge=0, le=MAX_LOG_PROBS)
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

    part = whole

    def log_probs(self, tokens: Sequence[Token], bytes_of: BytesOf) -> Json:
        def spelled(token: int) -> str:
            return _spelled(bytes_of(token))

        return {
            "tokens": [spelled(token.id) for token in tokens],
            "token_logprobs": [token.log_prob for token in tokens],
            "top_logprobs": [{spelled(other): p for other, p in token.most_probable} for token in tokens],
            "text_offset": [token.start for token in tokens],
        }


class TextFormat(Body):
    type: Literal["text"]


class TextPart(TextFormat):
    text: Content


class Message(Body):
    role: Literal["system", "developer", "user", "assistant"]
    content: Content | list[TextPart] | None
    name: str | None = None
    refusal: None = None

    @property
    def plain(self) -> dict[str, str]:
        """As chat templates take it."""
        parts = self.content or ""
        text = parts if isinstance(parts, str) else "".join(part.text for part in parts)
        return {"role": "system" if self.role == "developer" else self.role, "content": text}


class ChatRequest(TextRequest):
    """POST /v1/chat/completions."""

    prefix: ClassVar = "chatcmpl"
    kind: ClassVar = "chat.completion"
    chunk_kind: ClassVar = "chat.completion.chunk"

    messages: list[Message] = Field(min_length=1, max_length=10_000)
    max_tokens: int | None = Field(None, ge=1)
    max_completion_tokens: int | None = Field(None, ge=1)
    logprobs: bool | None = False
    top_logprobs: int | None = Field(None, ge=0, le=MAX_LOG_PROBS)
    response_format: TextFormat | None = None
    tools: list[Any] | None = Field(None, max_length=0)
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
            {**entry(token.id, token.log_prob), "top_logprobs": [entry(*top) for top in token.most_probable]}
            for token in tokens
        ]
        return {"content": content, "refusal": None}


class DoseRequest(Body):
    """POST /v1/dose: how strong some alphas are together."""

    steering: dict[Name, float] = Field(max_length=64)


class FitRequest(Body):
    """POST /v1/vectors: fit a vector on two sides of texts."""

    name: str = Field(pattern=f"^{VECTOR_NAME}$")
    positive: list[FitText] = Field(max_length=10_000)
    negative: list[FitText] = Field(max_length=10_000)
    method: Literal["neurosteer", "paper", "diffmean"] = "neurosteer"


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What a request for text is answered with, whole or in chunks: a choice for each continuation."""

    request: CompletionRequest | ChatRequest
    id: str
    created: int  # seconds since 1970
    alphas: dict[str, float]
    dose: float  # |sum of alpha_i v_i| / median |resid|
    continuations: list[Continuation]
    bytes_of: BytesOf

    @property
    def usage(self) -> dict[str, int]:
        """Tokens read, each prompt once, and written so far."""
        read = sum(len(continuation.ids) for continuation in self.continuations[:: self.request.n or 1])
        written = sum(len(continuation.written) for continuation in self.continuations)
        return {"prompt_tokens": read, "completion_tokens": written, "total_tokens": read + written}

    def whole(self, choices: Sequence[Sequence[Delta]]) -> Json:
        """From each choice's deltas."""
        parts = [
            self._choice(index, self.request.whole("".join(delta.text for delta in deltas)), deltas)
            for index, deltas in enumerate(choices)
        ]
        return {**self._head(self.request.kind), "choices": parts, "usage": self.usage}

    def first_chunks(self) -> list[Json]:
        """What a chat's stream begins with: who speaks."""
        content = {"delta": {"role": "assistant", "content": ""}}
        n = len(self.continuations) if isinstance(self.request, ChatRequest) else 0
        return [self._chunk(self._choice(index, content, [Delta()])) for index in range(n)]

    def chunk(self, index: int, delta: Delta) -> Json:
        return self._chunk(self._choice(index, self.request.part(delta.text), [delta]))

    def last_chunks(self) -> list[Json]:
        """What a stream ends with, where it is asked for: tokens read and written."""
        return [{**self._chunk(), "usage": self.usage}] if self.request.tells_usage else []

    def _chunk(self, *choices: Json) -> Json:
        usage = {"usage": None} if self.request.tells_usage else {}
        return {**self._head(self.request.chunk_kind), **usage, "choices": list(choices)}

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
