"""What every form shares: nothing asked is nothing said, and what cannot be had is refused by name.

Knows pydantic; knows nothing of any field's meaning.
"""

from collections.abc import Callable, Iterable, Mapping
from difflib import get_close_matches
from functools import cache
from typing import Annotated, Any, ClassVar, NoReturn, TypeVar

from pydantic import (
    AliasChoices,
    BaseModel,
    ConfigDict,
    Discriminator,
    Field,
    GetJsonSchemaHandler,
    StringConstraints,
    Tag,
    ValidationError,
    model_validator,
)
from pydantic_core import CoreSchema, InitErrorDetails, PydanticCustomError

Json = dict[str, Any]
Name = Annotated[str, StringConstraints(max_length=1000)]
TokenId = Annotated[int, Field(ge=0, le=2**31)]
Neutral = Callable[[Any], bool]  # whether a value asks for nothing

SAID, EXPECTED = "said", "expected"  # types of errors that are our own: all they say; what they expect
T = TypeVar("T")


def refuse(field: str | int, message: str) -> NoReturn:
    """Refuse the field of the form that is being validated, in these words."""
    error = PydanticCustomError(SAID, "{message}", {"message": message})
    raise ValidationError.from_exception_data(
        "form", [InitErrorDetails(type=error, loc=(field,), input=None)]
    )


def expect(what: str) -> NoReturn:
    """Refuse the value that is being validated: it must be what is said."""
    raise PydanticCustomError(EXPECTED, "{expected}", {"expected": what})


class Form(BaseModel):
    """What a request, or a part of one, may ask.

    null, and neutral values of fields that are not served, count as not given; `ignored` fields do
    whatever they say. Anything else that is not declared is refused by its name.
    """

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False, title="request")
    ignored: ClassVar[frozenset[str]] = frozenset()
    unserved: ClassVar[Mapping[str, Neutral]] = {}

    @model_validator(mode="before")
    @classmethod
    def _asked(cls, given: Any) -> Any:
        if not isinstance(given, dict):
            return given
        return {name: value for name, value in given.items() if cls._asks(name, value)}

    @classmethod
    def _asks(cls, name: str, value: Any) -> bool:
        """Whether a field says something; refused by name if that cannot be had."""
        if value is None or name in cls.ignored:
            return False
        if name in cls.names():
            return True
        if name not in cls.unserved:
            refuse(name, "unknown field" + _suggestion(name, cls.names()))
        if value not in ("", [], {}) and not cls.unserved[name](value):
            refuse(name, "not served; leave it out")
        return False

    @classmethod
    @cache
    def names(cls) -> frozenset[str]:
        """What fields may be called."""
        return frozenset(
            str(name)
            for field, info in cls.model_fields.items()
            for name in (
                info.validation_alias.choices
                if isinstance(info.validation_alias, AliasChoices)
                else (info.alias or field,)
            )
        )

    @classmethod
    def __get_pydantic_json_schema__(cls, schema: CoreSchema, handler: GetJsonSchemaHandler) -> Json:
        """The schema, in which whatever may be left out may be null."""
        found = handler.resolve_ref_schema(handler(schema))
        for name, form in found.get("properties", {}).items():
            if name not in found.get("required", ()):
                found["properties"][name] = {"anyOf": [form, {"type": "null"}]}
        return found


def _suggestion(name: str, names: Iterable[str]) -> str:
    close = get_close_matches(name, names, n=1)
    return f"; did you mean {close[0]!r}?" if close else ""


def one_of(kind_of: Callable[[Any], str | None], expected: str) -> Discriminator:
    """Which type of a union, each a `kind`, a value is to be held against; None: of no use."""
    return Discriminator(
        kind_of,
        custom_error_type=EXPECTED,
        custom_error_message="{expected}",
        custom_error_context={"expected": expected},
    )


def kind(name: str) -> Tag:
    """Marks a type of a union; never part of a place that is told."""
    return Tag(f"<{name}>")


def text_or_list(value: Any) -> str | None:
    """For a union of a text and a list."""
    return "<text>" if isinstance(value, str) else "<list>" if isinstance(value, list) else None


OneOrMore = Annotated[
    Annotated[str, kind("text")] | Annotated[list[T], kind("list")],
    one_of(text_or_list, "a text or a list of texts"),
]


def _text_or_tokens(value: Any) -> str | None:
    if isinstance(value, str):
        return "<text>"
    if not isinstance(value, list):
        return None
    first = value[0] if value else ""
    return "<tokens>" if isinstance(first, int) else "<token lists>" if isinstance(first, list) else "<texts>"


Text = Annotated[str, Field(min_length=1)]
TokenIds = Annotated[list[TokenId], Field(min_length=1)]
Texts = Annotated[
    Annotated[Text, kind("text")]
    | Annotated[TokenIds, kind("tokens")]
    | Annotated[list[Text], Field(min_length=1), kind("texts")]
    | Annotated[list[TokenIds], Field(min_length=1), kind("token lists")],
    one_of(_text_or_tokens, "a text, a list of texts, or lists of token ids"),
]


def listed(texts: Any) -> list[str | list[int]]:
    """The texts of a field that may be one or several, as texts or as tokens."""
    one = isinstance(texts, str) or isinstance(texts[0], int)
    return [texts] if one else texts


def places(field: str, n: int) -> list[str]:
    """What errors call the texts of such a field."""
    return [field] if n == 1 else [f"{field}.{i}" for i in range(n)]
