"""Ollama's requests, /api/chat and /api/generate, and their answers: lines of JSON.

Knows Ollama's names and defaults. Its options that set up a machine are without effect here.
"""

from datetime import datetime, timezone
from time import time
from typing import Annotated, Any, ClassVar

from pydantic import AfterValidator, Field, model_validator

from ...generation.continuation import Delta
from .chat import Message
from .fields import Form, Json, Name, refuse
from .formats import ANY_OBJECT, OllamaFormat
from .text import LINES, Answer, Choices, Sampled, TextRequest, ended_by, joined
from .unserved import IGNORED, only

MACHINE = {
    "num_ctx", "num_batch", "num_gpu", "main_gpu", "num_thread", "num_keep", "low_vram", "vocab_only",
    "numa", "use_mmap", "use_mlock", "f16_kv", "penalize_newline", "logits_all", "embedding_only",
    "rope_frequency_base", "rope_frequency_scale", "num_gqa",
}  # fmt: skip
ModelName = Annotated[Name, AfterValidator(lambda name: name.removesuffix(":latest"))]


class Options(Sampled):
    """With Ollama's defaults."""

    ignored = IGNORED | MACHINE

    num_predict: int = Field(default=-1, ge=-2, description="-1, -2: as many as there is room for.")
    temperature: float = Field(default=0.8, ge=0)
    top_p: float = Field(default=0.9, ge=0, le=1)
    top_k: int = Field(default=40, ge=-1, le=2**31)

    @model_validator(mode="after")
    def _check(self) -> "Options":
        if self.num_predict == 0:
            refuse("num_predict", "must be at least 1, got 0")
        return self


class OllamaAnswer(Answer):
    framing = LINES

    def whole(self, choices: Choices) -> Json:
        (deltas,) = choices
        return {**self._head, **self._said(joined(deltas)), **self._end(deltas[-1])}

    def part(self, _index: int, delta: Delta) -> list[Json]:
        return [{**self._head, **self._said(delta.text), "done": False}] if delta.text else []

    def closing(self, choices: Choices) -> list[Json]:
        (deltas,) = choices
        return [{**self._head, **self._said(""), **self._end(deltas[-1])}]

    def failure(self, refusal: Json) -> Json:
        return {"error": refusal["error"]["message"]}

    def _said(self, text: str) -> Json:
        raise NotImplementedError

    @property
    def _head(self) -> Json:
        return {"model": self.model, "created_at": now()}

    def _end(self, last: Delta) -> Json:
        spent = int((time() - self.created) * 10**9)  # nanoseconds
        return {
            "done": True,
            "done_reason": last.finish_reason,
            "total_duration": spent,
            "load_duration": 0,
            "prompt_eval_count": self.n_read,
            "prompt_eval_duration": 0,
            "eval_count": self.n_written,
            "eval_duration": spent,
            "steering": self.steering,
            **ended_by(last),
        }


class OllamaChatAnswer(OllamaAnswer):
    def _said(self, text: str) -> Json:
        return {"message": {"role": "assistant", "content": text}}


class GenerateAnswer(OllamaAnswer):
    def _said(self, text: str) -> Json:
        return {"response": text}


class OllamaRequest(TextRequest):
    """What both share."""

    prefix = "ollama-"
    ignored = frozenset({"keep_alive", "truncate", "shift", "user"})
    unserved: ClassVar = {
        "tools": only(),
        "think": only(False),
        "logprobs": only(False),
        "top_logprobs": only(0),
        "images": only(),
        "suffix": only(),
        "template": only(),
        "context": only(),
    }

    model: ModelName = ""
    format: OllamaFormat = ""
    stream: bool = True
    options: Options = Options()

    @property
    def sampled(self) -> Sampled:
        return self.options

    @property
    def schema_asked(self) -> Json | None:
        return ANY_OBJECT if self.format == "json" else self.format or None

    @property
    def max_new_tokens(self) -> int | None:
        return None if self.options.num_predict < 0 else self.options.num_predict


class OllamaMessage(Message):
    @model_validator(mode="before")
    @classmethod
    def _without_images(cls, given: Any) -> Any:
        if isinstance(given, dict) and given.get("images"):
            refuse("images", "not served; send messages of text alone")
        return given


class OllamaChatRequest(OllamaRequest):
    """POST /api/chat. Without messages: whether the model is there."""

    answer = OllamaChatAnswer

    messages: list[OllamaMessage] = []

    @property
    def chat(self) -> list[dict[str, str]]:
        """As chat templates take it."""
        return [message.plain for message in self.messages]


class GenerateRequest(OllamaRequest):
    """POST /api/generate. `raw` goes on from the prompt; else it is a chat's. Without a prompt: whether the
    model is there."""

    answer = GenerateAnswer

    prompt: str = ""
    system: str = ""
    raw: bool = False

    @property
    def prompts(self) -> list[str | list[int]]:
        return [self.prompt]

    @property
    def chat(self) -> list[dict[str, str]]:
        """As chat templates take it."""
        before = [{"role": "system", "content": self.system}] if self.system else []
        return [*before, {"role": "user", "content": self.prompt}]


class ShowRequest(Form):
    """POST /api/show."""

    ignored = frozenset({"verbose", "system", "template", "options"})

    model: ModelName = ""
    name: ModelName = ""  # as it was called before


def now() -> str:
    return datetime.now(timezone.utc).isoformat()


def loaded(request: OllamaRequest, model: str) -> Json:
    """To a request for no text: the model is there."""
    said: Json = {"message": {"role": "assistant", "content": ""}}
    if isinstance(request, GenerateRequest):
        said = {"response": ""}
    return {"model": model, "created_at": now(), **said, "done": True, "done_reason": "load"}
