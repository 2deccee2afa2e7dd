"""Records out of whatever people keep texts in, told by content and not by name.

Knows formats and how they are told apart; what the records mean is `records`' to know.
"""

import os
import re
from collections.abc import Callable, Iterator
from io import TextIOWrapper
from itertools import chain, islice
from pathlib import Path
from typing import Any

from ..errors import InputError
from ..files import is_stdin
from .json_text import Decoder, Document, Record, first_value
from .kinds import COMPRESSIONS, HEAD, UNKNOWN, files_in, kind_of_bytes, suffix_of
from .records import FORM_KEYS, STDIN, Located, Passage, as_passage, is_turn, keyed
from .streams import MAX_LINE_BYTES, Opened, Stream, as_utf8, lines, opened
from .tables import arrow_rows, csv_rows, is_table, parquet_rows

JSONL, JSON, CSV, TEXT, PARQUET, ARROW = "JSONL", "JSON", "CSV", "plain lines", "Parquet", "Arrow"
_BY_NAME = {
    ".jsonl": {JSONL}, ".ndjson": {JSONL}, ".json": {JSON, JSONL}, ".csv": {CSV}, ".tsv": {CSV},
    ".txt": {TEXT}, ".parquet": {PARQUET}, ".arrow": {ARROW},
}  # fmt: skip
# How JSON that holds records begins: an object with a key, even in single quotes; a list of objects or texts.
_JSON_START = re.compile(r"""\{\s*["'}]|\[\s*[{"'\]]""")
Say = Callable[[str], None]


def quiet(_message: str) -> None:
    """Told what is noticed, says nothing."""


def once(say: Say) -> Say:
    """Say each thing once, however often it is noticed."""
    said: set[str] = set()

    def tell(message: str) -> None:
        if message not in said:
            said.add(message)
            say(message)

    return tell


def read_records(
    source: str,
    *,
    plain_key: str = "text",
    text_key: str | None = None,
    name: str | None = None,
    say: Say = quiet,
) -> Iterator[Located]:
    """Yield the records of a source one at a time, in order, unknown keys kept and empty lines left out.

    JSONL, a JSON list of objects (alone or under a key of one object), CSV and TSV with a header, Parquet,
    Arrow, or a text a line; packed with gzip, bzip2, xz or zstd; UTF-8, or UTF-16 or -32. Memory holds one
    record, or a batch of rows.

    Args:
        source: a path, `-` for stdin, or a folder of such files, a Hugging Face dataset say.
        plain_key: the key under which a plain line becomes a record.
        text_key: the key whose text is the record's, whatever other forms it has.
        name: what errors call the source, by default its path.
        say: told where a file is not what its name says, and what of it is not read.

    Raises:
        InputError: the source or a record of it cannot be read, or there is no record at all.
    """
    if not is_stdin(source) and os.path.isdir(source):
        inside = (
            read_records(file, plain_key=plain_key, text_key=text_key, say=say)
            for file in files_in(Path(source))
        )
        yield from chain.from_iterable(inside)
        return
    name, say = name or (STDIN if is_stdin(source) else source), once(say)
    with opened(source, name) as found:
        number = 0
        for where, record in _records_of(found, name, plain_key, text_key, say):
            number, located = number + 1, Located(where, record)
            yield located if text_key is None else keyed(located, text_key, plain_key)
    if not number:
        raise InputError(f"{name}: no records; give a JSON object or a text a line, CSV or Parquet")


def read_passages(source: str, *, text_key: str | None = None, say: Say = quiet) -> Iterator[Passage]:
    """Yield the texts of a source one at a time, in order."""
    return map(as_passage, read_records(source, text_key=text_key, say=say))


def _records_of(
    found: Opened, name: str, plain_key: str, text_key: str | None, say: Say
) -> Iterator[tuple[str, Record]]:
    start = found.stream.look(lambda head: len(head) >= 512 or b"\n" in head)
    kind = kind_of_bytes(start)
    if not kind.texts and kind is not UNKNOWN:
        raise InputError(f"{name}: {kind}")
    suffix = suffix_of(name)
    if start.startswith(b"PAR1"):
        form, records = PARQUET, parquet_rows(found, name, say)
    elif start.startswith((b"ARROW1", b"\xff\xff\xff\xff")):
        form, records = ARROW, arrow_rows(found, name, say)
    else:
        stream = as_utf8(found.stream)
        head = _head(stream, text_key)
        form = _form(head, suffix, text_key)
        records = _text_records(form, stream, name, text_key or plain_key, head, say)
    _remark(name, suffix, form, found.compression, say)
    return records


def _head(stream: Stream, text_key: str | None) -> str:
    """As much as tells what a text is: of an object its first line, and whether there is another if it
    may be all there is; of what is no JSON some more."""
    start = stream.look(lambda head: len(head) >= HEAD or b"\n" in head.lstrip()[1:].lstrip())
    if _JSON_START.match(_shown(start)):
        if _shown(start).startswith("["):
            return _shown(start)
        line = _shown(stream.look(_has_record))
        return _shown(stream.look(_has_more)) if _is_document(line, text_key) else line
    head = stream.look(lambda head: len(head) >= HEAD)[:HEAD]
    return _shown(head[: head.rfind(b"\n") + 1] or head)


def _has_record(head: bytearray) -> bool:
    return b"\n" in head.lstrip() or len(head) > MAX_LINE_BYTES


def _has_more(head: bytearray) -> bool:
    return b"\n" in head.strip() or len(head) > MAX_LINE_BYTES


def _shown(head: bytes) -> str:
    return head.decode(errors="replace").lstrip("\ufeff \t\r\n")


def _form(head: str, suffix: str, text_key: str | None) -> str:
    """What a text is, by how it begins; by its name only where that leaves it open."""
    if _JSON_START.match(head):
        return JSON if _is_document(head, text_key) else JSONL
    if _BY_NAME.get(suffix) == {CSV} or is_table(head, text_key, alone=suffix not in _BY_NAME):
        return CSV
    return JSONL if JSONL in _BY_NAME.get(suffix, set()) else TEXT


def _is_document(head: str, text_key: str | None) -> bool:
    """Whether JSON that begins so goes over several lines, or holds several records in its only one."""
    line, _, more = head.partition("\n")
    if line.startswith("["):
        return True
    found = first_value(line)
    if found is None:
        return True
    value, rest = found
    is_alone = not rest and not more.strip()
    return rest.startswith("{") or (is_alone and _wrapped(value, text_key) is not None)


def _text_records(
    form: str, stream: Stream, name: str, plain_key: str, head: str, say: Say
) -> Iterator[tuple[str, Record]]:
    if form == CSV:
        return csv_rows(stream, name, head)
    if form == JSON:
        text = TextIOWrapper(stream.buffered(), encoding="utf-8", newline="\n")
        return _document_records(Document(text, name, Decoder(name, say)), name, plain_key)
    filled = ((where, line) for where, line in lines(stream, name) if line.strip())
    if form == TEXT:
        return ((where, {plain_key: line.strip()}) for where, line in filled)
    decoder = Decoder(name, say)
    return ((where, decoder.object_of(line, where)) for where, line in filled)


def _document_records(document: Document, name: str, plain_key: str) -> Iterator[tuple[str, Record]]:
    values = document.items()
    begun = list(islice(values, 2))
    inner = _wrapped(begun[0], plain_key) if len(begun) == 1 else None
    for number, value in enumerate(inner or chain(begun, values), start=1):
        where = f"{name}, item {number}"
        if isinstance(value, str):
            value = {plain_key: value}
        if not isinstance(value, dict):
            raise InputError(f"{where}: neither an object nor a text")
        yield where, value


def _wrapped(value: Any, text_key: str | None) -> list[Any] | None:
    """The one list of objects in an object that is no record itself, as {"data": [...]} is not."""
    if not isinstance(value, dict) or (FORM_KEYS | {text_key}) & value.keys():
        return None
    lists = [
        inner for inner in value.values() if isinstance(inner, list) and inner and isinstance(inner[0], dict)
    ]
    return lists[0] if len(lists) == 1 and not is_turn(lists[0][0]) else None


def _remark(name: str, suffix: str, form: str, compression: str | None, say: Say) -> None:
    """Say where a file is not what its name says, or where it had to be guessed."""
    says_packed = Path(name.lower()).suffix in COMPRESSIONS
    is_expected = form in _BY_NAME.get(suffix, {JSONL, TEXT})
    if not is_expected or says_packed != (compression is not None and name != STDIN):
        packed = f"{compression}-packed " if compression else "unpacked " if says_packed else ""
        say(f"{name}: holds {packed}{form}, and is read as that")
