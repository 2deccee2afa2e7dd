"""Our own requests: how strong some alphas are together, and a vector to fit."""

from typing import Annotated, Literal

from pydantic import Field, StringConstraints

from ..registry import VECTOR_NAME
from .fields import Form
from .text import Alphas

FitText = Annotated[str, StringConstraints(min_length=1, max_length=100_000)]


class DoseRequest(Form):
    """POST /v1/dose."""

    steering: Alphas


class FitRequest(Form):
    """POST /v1/vectors: fit a vector on two sides of texts."""

    name: str = Field(pattern=f"^{VECTOR_NAME}$")
    positive: list[FitText] = Field(max_length=10_000)
    negative: list[FitText] = Field(max_length=10_000)
    method: Literal["neurosteer", "paper", "diffmean"] = "neurosteer"
