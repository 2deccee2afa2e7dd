"""What an answer has to come out as: plain text, any JSON object, or JSON of a schema.

Knows the forms in which OpenAI's API and Ollama's ask for it; knows nothing of how it is held to.
"""

from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, model_validator

from .fields import Form, Json, kind, one_of, refuse

ANY_OBJECT: Json = {"type": "object"}


class NamedSchema(Form):
    ignored: ClassVar = frozenset({"name", "strict", "description"})

    of_schema: Json = Field(default=ANY_OBJECT, alias="schema")


class Format(Form):
    """`response_format` of chats and completions."""

    type: Literal["text", "json_object", "json_schema"] = "text"
    json_schema: NamedSchema | None = None

    @model_validator(mode="after")
    def _check(self) -> "Format":
        if self.type == "json_schema" and self.json_schema is None:
            refuse("json_schema", "missing")
        return self

    @property
    def schema_asked(self) -> Json | None:
        if self.type == "text":
            return None
        return self.json_schema.of_schema if self.json_schema else ANY_OBJECT


class FlatFormat(NamedSchema):
    """`text.format` of responses: the schema is not in a field of its own."""

    type: Literal["text", "json_object", "json_schema"] = "text"

    @property
    def schema_asked(self) -> Json | None:
        return None if self.type == "text" else self.of_schema


def _json_or_schema(value: Any) -> str | None:
    return "<text>" if value in ("json", "") else "<schema>" if isinstance(value, dict) else None


OllamaFormat = Annotated[
    Annotated[Literal["json", ""], kind("text")] | Annotated[Json, kind("schema")],
    one_of(_json_or_schema, "'json' or a JSON schema"),
]
