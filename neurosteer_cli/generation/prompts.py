"""A prompt, as it came and as the model gets it.

Knows what a model reads; knows nothing of options or the terminal.
"""

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Prompt:
    """A prompt as it came, and as the model gets it."""

    record: dict[str, Any]
    shown: str  # what stands before the continuation in plain output
    ids: list[int]
    rendered: str | None = None  # a chat as the model's template puts it
