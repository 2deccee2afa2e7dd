"""Our own requests: how strong some alphas are together, a vector to fit, and texts to score."""

from typing import Annotated, Any, Literal

from pydantic import Field, StringConstraints

from ..registry import VECTOR_NAME
from .fields import Form, Json, Name, Text, kind, one_of
from .text import Alphas

FitText = Annotated[str, StringConstraints(min_length=1, max_length=100_000)]


def _text_or_record(value: Any) -> str | None:
    return "<text>" if isinstance(value, str) else "<record>" if isinstance(value, dict) else None


Fitted = Annotated[
    Annotated[FitText, kind("text")] | Annotated[Json, kind("record")],
    one_of(_text_or_record, "a text or a record of one"),
]


class DoseRequest(Form):
    """POST /v1/dose."""

    steering: Alphas


class FitRequest(Form):
    """POST /v1/vectors: fit a vector on two sides of texts."""

    name: str = Field(pattern=f"^{VECTOR_NAME}$")
    positive: list[Fitted] = Field(max_length=10_000)
    negative: list[Fitted] = Field(max_length=10_000)
    method: Literal["neurosteer", "paper", "diffmean"] = "neurosteer"


class TextsRequest(Form):
    """POST /v1/texts: what texts a file holds."""

    name: Name
    content: str = Field(description="The file in base64.")


class ScoreRequest(Form):
    """POST /v1/score: continuations of one prompt, held against each other."""

    prompt: Text
    chat: bool = Field(default=False, description="Whether the prompt was asked by the chat template.")
    texts: list[str] = Field(min_length=1, max_length=16)
