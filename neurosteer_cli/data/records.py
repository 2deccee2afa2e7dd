"""Read and write JSONL records and plain lines, naming file and line on failure.

Knows streams, encodings and the three forms of a text record; knows nothing of models or labels.
The forms are read by hand: pydantic's errors, put into these words, take more lines than they save.
"""

import gzip
import json
import math
import re
import sys
import zlib
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from io import BytesIO
from itertools import chain
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, cast

import jsonlines

from ..errors import InputError
from ..files import writing

MAX_LINE_BYTES = 16 * 2**20
SUFFIXES, PACKED_SUFFIXES = (".jsonl", ".txt"), (".jsonl.gz", ".txt.gz")  # of files of records
STDIN = "<stdin>"
_SURROGATE = re.compile("[\ud800-\udfff]")

Record = dict[str, Any]


class Located(NamedTuple):
    """A record and where it stands, as `file:line`, for the errors that come later."""

    where: str
    record: Record


class Passage(NamedTuple):
    """A text to take statistics over: `text` counts, what precedes it is context.

    `messages` (a chat, its last turn by the assistant) excludes `prompt`; both may be absent.
    """

    where: str
    text: str
    prompt: str = ""
    messages: tuple[dict[str, str], ...] = ()

    def key(self) -> str:
        """What makes two passages the same."""
        before = [[m["role"], m["content"]] for m in self.messages[:-1]] or self.prompt
        return json.dumps([before, self.text])


def read_records(source: str, *, plain_key: str = "text", name: str | None = None) -> Iterator[Located]:
    """Yield the records of a source one at a time, in order, unknown keys kept and empty lines left out.

    Args:
        source: a path, or `-` for stdin. A `.txt` file has one text a line; any other file is JSONL;
            stdin is JSONL if its first line starts with `{`, else plain text. `.gz` is unpacked.
        plain_key: the key under which a plain line becomes a record.
        name: what errors call the source; `<stdin>` marks a copy of stdin and is read like it.

    Raises:
        InputError: the source or a line of it cannot be read, or there is no record at all.
    """
    name = name or (STDIN if source == "-" else source)
    with _open(source, name) as stream:
        lines = _lines(stream, name)
        first = next(lines, None)
        if first is None:
            raise InputError(f"{name}: no records; one JSON object (or, in a .txt file, one text) a line")
        is_plain = _is_plain(name, first[1])
        for where, line in chain([first], lines):
            yield Located(where, {plain_key: line.strip()} if is_plain else _json_object(line, where))


def read_passages(source: str) -> Iterator[Passage]:
    """Yield the texts of a source one at a time, in order."""
    return map(as_passage, read_records(source))


def as_passage(located: Located) -> Passage:
    """Read one of the forms {"text"}, {"prompt", "completion"} or {"messages"}."""
    where, record = located
    if "messages" in record:
        messages = chat_messages(located)
        if (role := messages[-1]["role"]) != "assistant":
            raise InputError(
                f"{where}: the last message is by {role!r}; the last one counts and must be by 'assistant'"
            )
        return Passage(where, _filled_string(Located(where, messages[-1]), "content"), messages=messages)
    if "completion" in record:
        return Passage(where, _filled_string(located, "completion"), prompt=string_value(located, "prompt"))
    if "text" in record:
        return Passage(where, _filled_string(located, "text"))
    raise InputError(
        f"{where}: no 'text', 'prompt' and 'completion', or 'messages' key; found {sorted(record)}"
    )


def string_value(located: Located, key: str) -> str:
    """The string under `key`, checked to be one that can be written as UTF-8."""
    where, record = located
    if key not in record:
        raise InputError(f"{where}: no {key!r} key; found {sorted(record)}")
    value = record[key]
    if not isinstance(value, str):
        raise InputError(f"{where}: {key!r} must be a string, got {_short(value)}")
    if _SURROGATE.search(value):
        raise InputError(f"{where}: {key!r} holds half a surrogate pair, which is no text")
    return value


def _filled_string(located: Located, key: str) -> str:
    value = string_value(located, key)
    if not value.strip():
        raise InputError(f"{located.where}: {key!r} is empty; remove the record or give it a text")
    return value


def chat_messages(located: Located) -> tuple[dict[str, str], ...]:
    """The chat under `messages`: at least one turn, each checked to be {"role": str, "content": str}."""
    where, turns = located.where, located.record["messages"]
    if not isinstance(turns, list) or not turns:
        raise InputError(f"{where}: 'messages' must be a list of {{role, content}}, got {_short(turns)}")
    for turn in turns:
        if not isinstance(turn, dict) or not {"role", "content"} <= set(turn):
            raise InputError(f"{where}: a message must have 'role' and 'content', got {_short(turn)}")
    return tuple(
        {key: string_value(Located(where, turn), key) for key in ("role", "content")} for turn in turns
    )


def write_record(record: Record) -> None:
    """Write one JSONL record to stdout and flush, so that a pipe sees it as soon as it is known."""
    with jsonlines.Writer(sys.stdout, dumps=_dumps, flush=True) as writer:
        writer.write(record)


@contextmanager
def appending(path: Path) -> Iterator[Callable[[Record], object]]:
    """Yield a function that appends a record to a file and flushes it."""
    with writing(path), path.open("a", encoding="utf-8") as file:
        yield jsonlines.Writer(file, dumps=_dumps, flush=True).write


def recover(path: Path) -> tuple[list[Located], int]:
    """Read back what `appending` wrote: whole records, and the bytes they take.

    What follows those bytes is a record that a killed run left half written.
    """
    data = path.read_bytes() if path.exists() else b""
    whole = data.rfind(b"\n") + 1
    lines = _lines(BytesIO(data[:whole]), str(path))
    return [Located(where, _json_object(line, where)) for where, line in lines], whole


def _dumps(record: Record) -> str:
    text = json.dumps(record, ensure_ascii=False, allow_nan=False)
    # Half a surrogate pair in a kept key is no UTF-8; escaped, it leaves as it came.
    return json.dumps(record, allow_nan=False) if _SURROGATE.search(text) else text


def _finite(number: str) -> float:
    if not math.isfinite(value := float(number)):
        raise ValueError(f"{number} is no JSON number")
    return value


# Reads JSON without the numbers that could not be written again: NaN, Infinity, 1e999. Made once:
# `json.loads` makes a decoder for each line, which takes as long as the reading.
_loads: Any = json.JSONDecoder(parse_constant=_finite, parse_float=_finite).decode


def _open(source: str, name: str) -> AbstractContextManager[BinaryIO]:
    if source == "-":
        return nullcontext(sys.stdin.buffer)  # the process's stdin is not ours to close
    path = Path(source)
    if path.is_dir():
        raise InputError(f"{name}: is a directory; name a file, or `-` for stdin")
    try:
        return cast(BinaryIO, gzip.open(path)) if path.suffix.lower() == ".gz" else path.open("rb")
    except OSError as error:
        raise InputError(f"{name}: {error.strerror}") from error


def _lines(stream: BinaryIO, name: str) -> Iterator[tuple[str, str]]:
    """Yield (file:line, line) without empty lines."""
    try:
        for number, raw in enumerate(iter(partial(stream.readline, MAX_LINE_BYTES + 1), b""), start=1):
            where = f"{name}:{number}"
            line = _decoded(raw, where, "utf-8-sig" if number == 1 else "utf-8")
            if line.strip():
                yield where, line
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise InputError(f"{name}: not a whole gzip file ({error}); compress it again") from error


def _decoded(raw: bytes, where: str, encoding: str) -> str:
    if len(raw) > MAX_LINE_BYTES:
        raise InputError(f"{where}: line longer than {MAX_LINE_BYTES >> 20} MiB; one record a line")
    try:
        line = raw.decode(encoding)
    except UnicodeDecodeError as error:
        raise InputError(
            f"{where}: not UTF-8 (byte {raw[error.start]:#04x} at column {error.start + 1}); "
            "convert the file to UTF-8"
        ) from error
    if "\0" in line:
        raise InputError(f"{where}: contains a NUL byte; this is not a text file")
    return line


def _is_plain(name: str, first_line: str) -> bool:
    if name == STDIN:
        return not first_line.lstrip().startswith("{")
    return name.lower().endswith((".txt", ".txt.gz"))


def _json_object(line: str, where: str) -> Record:
    try:
        return jsonlines.Reader([line], loads=_loads).read(type=dict)
    except jsonlines.InvalidLineError as error:
        raise InputError(f"{where}: not a JSON object: {_short(str(error.line).strip())}") from error
    except RecursionError as error:
        raise InputError(f"{where}: JSON nested too deeply") from error


def _short(value: Any) -> str:
    shown = repr(value)
    return shown if len(shown) <= 60 else f"{shown[:57]}..."
