"""Tables as records, a row each, in batches: CSV and TSV; Parquet and Arrow through pyarrow.

Knows how tables are written down; knows nothing of what is in the records.
"""

import csv
import io
import json
import math
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Literal, NamedTuple

from ..errors import InputError, one_line
from .json_text import Record
from .streams import MAX_LINE_BYTES, Opened, Stream, lines

# Names that columns of texts and of labels usually have: by them a first line is known to be a header.
TEXT_COLUMNS = {
    "text", "sentence", "review", "comment", "tweet", "content", "body", "message", "title", "question",
    "answer", "response", "instruction", "input", "output", "prompt", "completion", "chosen", "rejected",
    "summary", "document", "article", "utterance",
}  # fmt: skip
LABEL_COLUMNS = {"label", "labels", "sentiment", "class", "category", "target", "rating", "score", "stars"}
_DELIMITERS = ",\t;|"
Rows = Iterator[tuple[str, Record]]


class Label(int):
    """A number that stands for a label's name, in a Hugging Face dataset."""

    called: tuple[str, ...]  # its name, and its number if no label is named so

    @classmethod
    def of(cls, number: int, names: Sequence[str]) -> "Label":
        label = cls(number)
        label.called = (names[number], *{str(number)}.difference(names))
        return label


class _Layout(NamedTuple):
    """How a CSV or TSV file is written."""

    delimiter: str
    quoting: Literal[0, 3] = csv.QUOTE_MINIMAL

    def reader(self, text: Iterable[str]) -> Any:
        return csv.reader(text, delimiter=self.delimiter, quoting=self.quoting, strict=True)

    def rows(self, head: str) -> tuple[list[list[str]], bool]:
        """The rows that are not empty up to the first fault, and whether there is none but the text's end."""
        rows: list[list[str]] = []
        try:
            rows.extend(filter(None, self.reader(io.StringIO(head))))
        except csv.Error as error:
            return rows, "end of data" in str(error)
        return rows, True


def is_table(head: str, text_key: str | None, *, alone: bool) -> bool:
    """Whether a text begins with a header that names a usual column, and the next row is as wide.

    `alone`: a single column will do.
    """
    header, *rows = _layout(head).rows(head)[0] or [[]]
    if len(header) == 1:
        return alone and header[0] in ("text", "prompt", text_key)
    known = TEXT_COLUMNS | LABEL_COLUMNS | {text_key}
    is_even = len(set(header)) == len(header) == len(rows[0] if rows else header)
    return is_even and any(name in known or name.lower() in known for name in header)


def _layout(head: str) -> _Layout:
    """The delimiter that parts the first line into most columns, and the second into as many if one does."""

    def widths(layout: _Layout) -> list[int]:
        return [len(row) for row in layout.rows(head)[0][:2]]

    def width(layout: _Layout) -> int:
        first, *second = widths(layout) or [0]
        return first if first > 1 and second in ([], [first]) else 0

    # the first of equal ones
    found = max(map(_Layout, _DELIMITERS), key=lambda layout: (width(layout), widths(layout)[:1]))
    if found.delimiter == "\t" or not width(found):
        # A quotation mark in a TSV file is a character like others, unless all of them make quoted cells.
        plain = _Layout("\t", csv.QUOTE_NONE)
        if width(plain) > 1 and not found.rows(head)[1]:
            return plain
    return found


def csv_rows(stream: Stream, name: str, head: str) -> Rows:
    """Yield (file:line, record) of each row; the first line names the columns."""
    csv.field_size_limit(MAX_LINE_BYTES)  # of the process; Python's own is 128 KiB
    reader = _layout(head).reader(line for _, line in lines(stream, name))
    header: list[str] = []
    for line, row in _numbered(reader, name):
        if not header:
            header = [column.strip() for column in row]
            if len(set(header)) < len(header):
                raise InputError(f"{name}:{line}: two columns have the same name; found {header}")
        elif len(row) != len(header):
            raise InputError(
                f"{name}:{line}: {len(row)} cells, the header has {len(header)}; "
                'a text with the delimiter or a line break in it stands in "..."'
            )
        else:
            yield f"{name}:{line}", dict(zip(header, row, strict=True))


def _numbered(reader: Any, name: str) -> Iterator[tuple[int, list[str]]]:
    """(number of the line it begins on, row) of rows that are not empty."""
    while True:
        line = reader.line_num + 1
        try:
            row = next(reader, None)
        except csv.Error as error:
            raise InputError(f"{name}:{line}: not a row of CSV ({one_line(error)})") from error
        if row is None:
            return
        if row:
            yield line, row


def parquet_rows(found: Opened, name: str, say: Callable[[str], None]) -> Rows:
    """Yield (file:row, record) of a Parquet file."""
    from pyarrow.parquet import ParquetFile

    with _on_disk(found) as file, _readable(name):
        table = ParquetFile(file)
        columns = _columns(table.schema_arrow, name, say)
        batches = table.iter_batches(batch_size=1000, columns=columns)
        yield from _rows(batches, name, _label_names(table.schema_arrow))


def arrow_rows(found: Opened, name: str, say: Callable[[str], None]) -> Rows:
    """Yield (file:row, record) of an Arrow stream, as Hugging Face datasets are saved, or file."""
    import pyarrow.ipc

    is_file = found.stream.look(lambda head: len(head) >= 6).startswith(b"ARROW1")
    with _on_disk(found) as file, _readable(name):
        if is_file:
            whole = pyarrow.ipc.open_file(file)
            schema, batches = whole.schema, map(whole.get_batch, range(whole.num_record_batches))
        else:
            batches = pyarrow.ipc.open_stream(file)
            schema = batches.schema
        columns = _columns(schema, name, say)
        yield from _rows((batch.select(columns) for batch in batches), name, _label_names(schema))


@contextmanager
def _on_disk(found: Opened) -> Iterator[Any]:
    """What was opened as a file in which one can go back."""
    with tempfile.TemporaryFile() if found.path is None else open(found.path, "rb") as file:
        if found.path is None:
            shutil.copyfileobj(found.stream, file)
            file.seek(0)
        yield file


@contextmanager
def _readable(name: str) -> Iterator[None]:
    from pyarrow import ArrowException

    try:
        yield
    except (ArrowException, OSError) as error:
        raise InputError(f"{name}: damaged ({one_line(error)})") from error


def _columns(schema: Any, name: str, say: Callable[[str], None]) -> list[str]:
    """The columns that JSON can hold; images and other bytes are none."""
    left_out = [column.name for column in schema if "binary" in str(column.type)]
    if left_out:
        say(f"{name}: columns of bytes are left out: {', '.join(left_out)}")
    return [column for column in schema.names if column not in left_out]


def _label_names(schema: Any) -> dict[str, list[str]]:
    """The names that numbers of a column stand for, as Hugging Face's `datasets` writes them down."""
    try:
        features = json.loads(schema.metadata[b"huggingface"])["info"]["features"]
        return {column: kind["names"] for column, kind in features.items() if "names" in kind}
    except (LookupError, TypeError, ValueError):  # written by another program
        return {}


def _rows(batches: Any, name: str, label_names: Mapping[str, Sequence[str]]) -> Rows:
    number = 0
    for batch in batches:
        for row in batch.to_pylist():
            number += 1
            record = {column: _plain(cell) for column, cell in row.items()}
            for column, names in label_names.items():
                if isinstance(label := record.get(column), int) and 0 <= label < len(names):
                    record[column] = Label.of(label, names)
            yield f"{name}:{number}", record


def _plain(value: Any) -> Any:
    """A cell as JSON has it: a number that is none is null, a date its text."""
    if isinstance(value, dict):
        return {str(key): _plain(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_plain(inner) for inner in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if isinstance(value, str | int | None) else str(value)
