"""What requests look like: those of OpenAI's API, and ours beside them.

Knows JSON's types and bounds only. What is not served is refused by name: a misspelled field, or a
field with a value other than the one that changes nothing.
"""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

MAX_CONTINUATIONS = 16  # of one request
MAX_LOG_PROBS = 20
MAX_PROMPT_CHARS = 1_000_000

Name = Annotated[str, StringConstraints(max_length=1000)]
Prompt = Annotated[str, StringConstraints(min_length=1, max_length=MAX_PROMPT_CHARS)]
TokenIds = Annotated[list[Annotated[int, Field(ge=0, le=2**31)]], Field(min_length=1, max_length=2**20)]
Stop = Annotated[str, StringConstraints(min_length=1, max_length=200)]
Finite = Annotated[float, Field(allow_inf_nan=False)]
Zero = Annotated[float, Field(ge=0, le=0)]


class Form(BaseModel):
    model_config = ConfigDict(extra="forbid", title="request")


class StreamOptions(Form):
    include_usage: bool = False
    include_obfuscation: bool = False


class _Writing(Form):
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
    positions: Literal["all", "prompt", "generated"] = "all"
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


class CompletionForm(_Writing):
    """POST /v1/completions."""

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


class TextPart(Form):
    type: Literal["text"]
    text: Annotated[str, StringConstraints(max_length=MAX_PROMPT_CHARS)]


class Message(Form):
    role: Literal["system", "developer", "user", "assistant"]
    content: Annotated[str, StringConstraints(max_length=MAX_PROMPT_CHARS)] | list[TextPart] | None
    name: str | None = None
    refusal: None = None

    @property
    def said(self) -> dict[str, str]:
        """As chat templates take it."""
        parts = self.content or ""
        text = parts if isinstance(parts, str) else "".join(one.text for one in parts)
        return {"role": "system" if self.role == "developer" else self.role, "content": text}


class TextFormat(Form):
    type: Literal["text"]


class ChatForm(_Writing):
    """POST /v1/chat/completions."""

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


class DoseForm(Form):
    """POST /v1/dose: how strong some alphas are together."""

    steering: dict[Name, Finite] = Field(max_length=64)


Texts = Annotated[
    list[Annotated[str, StringConstraints(min_length=1, max_length=100_000)]], Field(max_length=10_000)
]


class FitForm(Form):
    """POST /v1/vectors: fit a vector on two sides of texts."""

    name: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$")]
    positive: Texts
    negative: Texts
    method: Literal["neurosteer", "paper", "diffmean"] = "neurosteer"
