"""What all requests for text share, and all answers to them.

Knows sampling's fields, steering, and continuations as they grow; each protocol words its own.
"""

import json
import secrets
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar

from pydantic import AfterValidator, AliasChoices, BeforeValidator, Field, model_validator

from ...errors import InputError
from ...generation.continuation import Continuation, Delta
from ...generation.positions import USAGE, Positions
from ...generation.sampling import Sampling
from ...vectors.gate import Each
from ...vectors.metadata import Kind
from .fields import Form, Json, Name, OneOrMore, TokenId, expect, refuse
from .formats import Format
from .unserved import IGNORED, UNSERVED

MAX_LOG_PROBS = 20
BytesOf = Callable[[int], bytes]  # of a token
Scorer = Callable[[Sequence[str]], "Future[list[Json]]"]  # of texts, what vectors say of each
Alphas = Annotated[dict[Name, float], Field(max_length=64)]


def _by_token(given: Any) -> Any:
    """Pairs of token and bias, as llama.cpp takes them too, as a dictionary."""
    is_pairs = isinstance(given, list) and all(isinstance(p, list) and len(p) == 2 for p in given)
    return {str(token): bias for token, bias in given} if is_pairs else given


LogitBias = Annotated[dict[TokenId, Annotated[float, Field(ge=-100, le=100)]], BeforeValidator(_by_token)]


def _known_positions(given: str) -> str:
    try:
        Positions.parse(given)
    except InputError:
        expect(USAGE)
    return given


class StreamOptions(Form):
    ignored = frozenset({"include_obfuscation"})
    unserved: ClassVar = {"continuous_usage_stats": lambda value: value is False}

    include_usage: bool = False


class Sampled(Form):
    """How tokens are chosen, and before what a text ends."""

    ignored = IGNORED
    unserved = UNSERVED

    temperature: float = Field(default=1.0, ge=0)
    top_p: float = Field(default=1.0, ge=0, le=1)
    top_k: int = Field(default=0, ge=-1, le=2**31, description="0 or -1: no bound.")
    repetition_penalty: float = Field(
        default=1.0, gt=0, le=10, validation_alias=AliasChoices("repetition_penalty", "repeat_penalty")
    )
    min_p: float = Field(default=0.0, ge=0, le=1)
    presence_penalty: float = Field(default=0.0, ge=-100, le=100)
    frequency_penalty: float = Field(default=0.0, ge=-100, le=100)
    logit_bias: LogitBias = Field(
        default={}, max_length=1024, description="Added to a token's logit, by its id."
    )
    seed: int = Field(default=-1, ge=-(2**63), lt=2**63, description="-1: one that nobody else has.")
    stop: OneOrMore[str] = []

    @property
    def stops(self) -> tuple[str, ...]:
        """What texts end before; an empty text ends none."""
        given = [self.stop] if isinstance(self.stop, str) else self.stop
        return tuple(dict.fromkeys(stop for stop in given if stop))

    @property
    def sampling(self) -> Sampling:
        return Sampling(
            temperature=self.temperature,
            top_p=self.top_p or 1e-9,  # the most probable token alone
            top_k=max(0, self.top_k),
            min_p=self.min_p,
            repetition_penalty=self.repetition_penalty,
            presence_penalty=self.presence_penalty,
            frequency_penalty=self.frequency_penalty,
            logit_bias=tuple((token, bias) for token, bias in self.logit_bias.items() if bias),
            seed=secrets.randbits(63) if self.seed == -1 else self.seed,
        )


class TextRequest(Form):
    """Who is to write, steered how, and whether as a stream. `prefix` begins an answer's id."""

    prefix: ClassVar[str]
    answer: ClassVar["type[Answer]"]

    model: Name = Field(default="", description="The model's name, with vectors or without: smollm2+polite:8")
    stream: bool = False
    steering: Alphas = Field(default={}, description="Vectors by name, each with its alpha.")
    kind: Kind | None = Field(
        default=None, description="How they act; as their files say, if it is left out."
    )
    positions: Annotated[str, AfterValidator(_known_positions)] = Field(
        default="all", description=f"{USAGE}."
    )
    when: Name = Field(
        default="", description="A gate, by a vector's score or a latent: polite<0, 20/1234>0.5."
    )
    when_each: Each = Field(default="prompt", description="What the gate opens for.")

    @model_validator(mode="after")
    def _check_gate(self) -> "TextRequest":
        if self.when_each != "prompt" and not self.when:
            refuse("when_each", "only with when")
        return self

    @property
    def sampled(self) -> Sampled:
        raise NotImplementedError

    @property
    def n_samples(self) -> int:
        """Of each prompt."""
        return 1

    @property
    def max_new_tokens(self) -> int | None:
        """None: as many as there is room for."""
        return None

    @property
    def echoes(self) -> bool:
        """Whether the prompt is given out before its text."""
        return False

    @property
    def template_args(self) -> Json:
        """Arguments of the chat template."""
        return {}

    @property
    def schema_asked(self) -> Json | None:
        """The JSON schema that answers must be of; None: they are plain text."""
        return None

    @property
    def n_log_probs(self) -> int | None:
        """How many tokens at each step to tell the log-probabilities of; None: none, not the chosen one's."""
        return None

    @property
    def scored_by(self) -> list[str]:
        """The vectors, by name, that are to say something of what is written."""
        return []


class OpenAIRequest(TextRequest, Sampled):
    """Sampling's fields are the request's own."""

    response_format: Format = Format()
    score: Annotated[
        OneOrMore[Name], Field(description="Vectors by name: how far each answer is on the side of each.")
    ] = []

    @property
    def scored_by(self) -> list[str]:
        return list(dict.fromkeys([self.score] if isinstance(self.score, str) else self.score))

    @property
    def schema_asked(self) -> Json | None:
        return self.response_format.schema_asked

    @property
    def sampled(self) -> Sampled:
        return self


@dataclass(frozen=True)
class Framing:
    """How a stream's bodies are sent: lines of JSON, or server-sent events."""

    media_type: str
    before: str  # a body
    after: str
    end: str = ""  # of the stream
    idle: str = ""  # what may be sent while nothing comes
    is_named: bool = False  # whether events say their type

    def frame(self, body: Json) -> str:
        name = f"event: {body['type']}\n" if self.is_named else ""
        return f"{name}{self.before}{json.dumps(body)}{self.after}"


EVENTS = Framing("text/event-stream", "data: ", "\n\n", end="data: [DONE]\n\n", idle=": keep-alive\n\n")
NAMED_EVENTS = Framing("text/event-stream", "data: ", "\n\n", idle=EVENTS.idle, is_named=True)
LINES = Framing("application/x-ndjson", "", "\n")

Choices = Sequence[Sequence[Delta]]  # each choice's deltas


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What a request for text is answered with, whole or in parts."""

    framing: ClassVar[Framing] = EVENTS

    request: Any  # the form whose `answer` this is
    id: str
    created: float  # seconds since 1970
    model: str
    steering: Json  # what it is written with: alphas, their dose, and what else was asked
    continuations: list[Continuation]
    bytes_of: BytesOf
    scorer: Scorer | None = None  # of what is written, where scores are asked for
    scores: list[Json] = field(default_factory=list)  # of each choice, by vector, once all is written

    @property
    def n_read(self) -> int:
        """Tokens read, each prompt once."""
        return sum(len(each.ids) for each in self.continuations[:: self.request.n_samples])

    @property
    def n_written(self) -> int:
        """Tokens written so far."""
        return sum(len(each.written) for each in self.continuations)

    @property
    def usage(self) -> dict[str, int]:
        """Tokens read and written so far, as OpenAI's API tells them."""
        read, written = self.n_read, self.n_written
        return {"prompt_tokens": read, "completion_tokens": written, "total_tokens": read + written}

    def log_probs(self, deltas: Sequence[Delta]) -> list[Json]:
        """Of each token, as chats and responses tell them."""

        def entry(token: int, log_prob: float | None) -> Json:
            raw = self.bytes_of(token)
            return {"token": spelled(raw), "logprob": log_prob, "bytes": list(raw)}

        return [
            {**entry(token.id, token.log_prob), "top_logprobs": [entry(*top) for top in token.most_probable]}
            for delta in deltas
            for token in delta.tokens
        ]

    def whole(self, choices: Choices) -> Json:
        raise NotImplementedError

    def opening(self) -> list[Json]:
        """What a stream begins with."""
        return []

    def part(self, index: int, delta: Delta) -> list[Json]:
        """What a choice's delta is told by."""
        raise NotImplementedError

    def closing(self, _choices: Choices) -> list[Json]:
        """What a stream ends with, once every choice has."""
        return []

    def failure(self, refusal: Json) -> Json:
        """What a stream ends with where it failed; `refusal` is what a request would be answered with."""
        return refusal


def ended_by(last: Delta) -> Json:
    """Which limit ended a choice, by its last delta; nothing where none has."""
    limit = last.limit
    return {"limit": {"name": limit.name, limit.unit: limit.number}} if limit else {}


def score_of(answer: Answer, index: int) -> Json:
    """What vectors say of a choice; nothing where none was asked."""
    return {"score": answer.scores[index]} if answer.scores else {}


def joined(deltas: Sequence[Delta]) -> str:
    return "".join(delta.text for delta in deltas)


def spelled(raw: bytes) -> str:
    """A token's text; of a part of a character its bytes, as OpenAI's API spells them."""
    try:
        return raw.decode()
    except UnicodeDecodeError:
        return "bytes:" + "".join(f"\\x{byte:02x}" for byte in raw)
