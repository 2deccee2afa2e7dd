"""JSON read a value at a time, and what is wrong with it where it is wrong, as jq would say.

Knows JSON; knows nothing of what is in the records.
"""

import json
import math
import re
from collections.abc import Callable, Iterator, Set
from io import TextIOBase
from typing import Any

from ..errors import InputError
from .streams import MAX_LINE_BYTES

Record = dict[str, Any]
SURROGATE = re.compile("[\ud800-\udfff]")
_CHUNK = 2**16
_SPACE = {" ", "\t", "\r", "\n", "\ufeff"}
_PYTHON = {"None": "null", "True": "true", "False": "false", "nan": "null", "undefined": "null"}


def dumps(record: Record) -> str:
    """A record as one line of JSON."""
    text = json.dumps(record, ensure_ascii=False, allow_nan=False)
    # Half a surrogate pair in a kept key is no UTF-8; escaped, it leaves as it came.
    return json.dumps(record, allow_nan=False) if SURROGATE.search(text) else text


def set_aside(record: Record, taken: Set[str]) -> Record:
    """A record whose keys that are taken for something else stand under "record"."""
    if taken.isdisjoint(record):
        return record
    aside = {key: value for key, value in record.items() if key in taken or key == "record"}
    return {**{key: value for key, value in record.items() if key not in taken}, "record": aside}


class Decoder(json.JSONDecoder):
    """Reads one source's JSON. NaN and Infinity, which no JSON holds, are null, and `say` is told."""

    def __init__(self, name: str, say: Callable[[str], None]) -> None:
        def null(constant: str) -> None:
            say(f"{name}: {constant} is no JSON; it is read as null")

        super().__init__(parse_constant=null, parse_float=_finite)

    def object_of(self, line: str, where: str) -> Record:
        """The object that a line is.

        Raises:
            InputError: it is none; what is wrong, and at which column.
        """
        try:
            value = self.decode(line)
        except (ValueError, RecursionError) as error:
            raise InputError(f"{where}: {fault(line, error)}") from error
        if not isinstance(value, dict):
            raise InputError(f"{where}: not a JSON object: {short(line.strip())}")
        return value


def _finite(number: str) -> float:
    if not math.isfinite(value := float(number)):
        raise ValueError(number)
    return value


def short(value: Any) -> str:
    """A value as errors show it."""
    shown = repr(value)
    return shown if len(shown) <= 60 else f"{shown[:57]}..."


def fault(text: str, error: Exception) -> str:
    """What is wrong with a line of JSON."""
    if isinstance(error, RecursionError):
        return "JSON nested too deeply"
    if isinstance(error, json.JSONDecodeError):
        at = error.pos
        if not text[:at].strip() and error.msg == "Expecting value":
            return f"not a JSON object: {short(text.strip())}"
        return f"not JSON at column {at + 1}: {_what(text, at, error.msg)}"
    number = str(error)
    if number in text:
        return f"not JSON at column {text.index(number) + 1}: {number} is too large a number"
    return "not JSON: a number of too many digits"


def _what(text: str, at: int, message: str) -> str:
    before, rest = text[:at].rstrip(), text[at:].strip()
    word = re.match(r"\w+", rest)
    if message.startswith("Unterminated string"):
        return "a string begins there and does not end"
    if message.startswith("Invalid control character"):
        sign = "a line break" if text[at] == "\n" else repr(text[at])
        return f"{sign} in a string; JSON writes {json.dumps(text[at])[1:-1]}"
    if message.startswith("Invalid \\"):
        return "an invalid escape; JSON writes a backslash as \\\\"
    if message.startswith("Extra data"):
        is_comma = rest.startswith(",")
        return f"{'a comma' if is_comma else 'something'} after the end; one object a line, nothing between"
    if (before.endswith(",") and rest[:1] in ("}", "]")) or message.startswith("Illegal trailing comma"):
        return "a trailing comma"
    if rest[:1] == "'":
        return "a single quote; JSON has double ones"
    if word and word[0] in _PYTHON:
        return f"{word[0]}; JSON has {_PYTHON[word[0]]}"
    wanted = (
        message.removeprefix("Expecting ")
        .removesuffix(" delimiter")
        .replace("property name enclosed", "a key")
    )
    found = f"found {short(rest[:1])}" if rest else "the text ends there"
    return f"expecting {wanted.replace('value', 'a value')}, {found}"


def first_value(line: str) -> tuple[Any, str] | None:
    """The JSON value that a line begins with, and what follows; None if the line ends within it."""
    try:
        value, end = json.JSONDecoder().raw_decode(line)
    except json.JSONDecodeError as error:
        is_cut = error.msg.startswith("Unterminated string") or error.pos >= len(line.rstrip())
        return None if is_cut else (None, "")
    except (ValueError, RecursionError):
        return None, ""
    return value, line[end:].strip()


def _is_cut(text: str, error: json.JSONDecodeError) -> bool:
    """Whether more text could mend the error."""
    return error.msg.startswith("Unterminated string") or len(text.rstrip()) - error.pos < 9


class Document:
    """JSON values one after another, over as many lines as they like, read in pieces.

    Memory holds one value, or one item of a list.
    """

    def __init__(self, text: TextIOBase, name: str, decoder: Decoder) -> None:
        self._text, self._name, self._decoder = text, name, decoder
        self._buffer, self._at = "", 0
        self._line, self._column = 1, 1  # of the buffer's first character

    def items(self) -> Iterator[Any]:
        """Yield the values, those of a list each by itself."""
        while char := self._next():
            if char != "[":
                yield self._value()
                continue
            self._at += 1
            yield from self._listed()

    def _listed(self) -> Iterator[Any]:
        after = "["
        while (char := self._next()) != "]" or after == ",":
            if char == "]":
                raise self._fault("a trailing comma")
            yield self._value()
            after = self._next()
            if after not in (",", "]"):
                what = f"found {after!r}" if after else "the file ends there"
                raise self._fault(f"expecting ',' or ']', {what}")
            self._at += after == ","
        self._at += 1

    def _next(self) -> str:
        """The next character that is no white space; "" at the end."""
        while True:
            while self._buffer[self._at : self._at + 1] in _SPACE:
                self._at += 1
            if self._at < len(self._buffer) or not self._more():
                return self._buffer[self._at : self._at + 1]

    def _value(self) -> Any:
        while True:
            try:
                value, self._at = self._decoder.raw_decode(self._buffer, self._at)
                return value
            except json.JSONDecodeError as error:
                if not _is_cut(self._buffer, error) or not self._more():
                    raise self._fault(_what(self._buffer, error.pos, error.msg), error.pos) from error
            except (ValueError, RecursionError) as error:
                raise InputError(f"{self._name}:{self._line}: {fault(self._buffer, error)}") from error

    def _more(self) -> bool:
        """Read as much again as is held; whether there was any."""
        done, self._buffer = self._buffer[: self._at], self._buffer[self._at :]
        self._line, self._column = self._position(done, len(done))
        self._at = 0
        if len(self._buffer) > MAX_LINE_BYTES:
            raise self._fault(
                f"a value longer than {MAX_LINE_BYTES >> 20} MiB; make it a record a line: jq -c"
            )
        try:
            piece = self._text.read(max(_CHUNK, len(self._buffer)))
        except UnicodeDecodeError as error:
            raise InputError(
                f"{self._name}: not UTF-8 ({error.reason}); convert the file to UTF-8"
            ) from error
        self._buffer += piece
        return bool(piece)

    def _position(self, text: str, at: int) -> tuple[int, int]:
        """The line and column of a place in a text that begins where the buffer does."""
        breaks = text.count("\n", 0, at)
        last = text.rfind("\n", 0, at)
        return self._line + breaks, at - last if breaks else self._column + at

    def _fault(self, what: str, at: int | None = None) -> InputError:
        line, column = self._position(self._buffer, self._at if at is None else at)
        return InputError(f"{self._name}:{line}: not JSON at column {column}: {what}")
