"""POST /v1/embeddings: the mean residual of a text at one block.

Knows OpenAI's form of numbers, plain or packed; which numbers they are is for `computing.embeddings` to know.
"""

import base64
import struct
from collections.abc import Sequence
from typing import Literal

from pydantic import Field

from .fields import Form, Json, Name, Texts, listed


class EmbeddingRequest(Form):
    ignored = frozenset({"user", "input_type", "truncate", "metadata"})

    model: Name = Field("", description="The model's name, with a block or without: smollm2+blocks.20")
    input: Texts
    encoding_format: Literal["float", "base64"] = "float"
    dimensions: int | None = Field(None, ge=1)

    @property
    def texts(self) -> list[str | list[int]]:
        return listed(self.input)

    def answer(self, model: str, hook_point: str, means: Sequence[Sequence[float]], n_read: int) -> Json:
        """From each text's mean residual."""
        pack = self.encoding_format == "base64"
        data = [
            {"object": "embedding", "index": index, "embedding": _packed(mean) if pack else list(mean)}
            for index, mean in enumerate(means)
        ]
        usage = {"prompt_tokens": n_read, "total_tokens": n_read}
        return {"object": "list", "model": model, "hook_point": hook_point, "data": data, "usage": usage}


def _packed(numbers: Sequence[float]) -> str:
    """Little-endian float32, in base64."""
    return base64.b64encode(struct.pack(f"<{len(numbers)}f", *numbers)).decode()
