"""From a source to lines of text: opened, unpacked and decoded by what it begins with.

Knows compressions, encodings and line ends; knows nothing of records.
"""

import bz2
import codecs
import gzip
import io
import lzma
import os
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, BinaryIO, NamedTuple, cast

from ..errors import InputError, one_line
from ..files import is_pipe, is_stdin, take_stdin
from .kinds import HEAD, encoding_of

MAX_LINE_BYTES = 16 * 2**20


def _unzstd(stream: Any) -> BinaryIO:
    import pyarrow  # a third of a second; Python's own zstd came with 3.14

    return cast(BinaryIO, pyarrow.CompressedInputStream(stream, "zstd"))


_COMPRESSIONS: dict[bytes, tuple[str, Callable[[Any], Any]]] = {
    b"\x1f\x8b": ("gzip", lambda stream: gzip.GzipFile(fileobj=stream)),
    b"BZh": ("bzip2", bz2.BZ2File),
    b"\xfd7zXZ\0": ("xz", lzma.LZMAFile),
    b"\x28\xb5\x2f\xfd": ("zstd", _unzstd),
}


class Stream(io.RawIOBase):
    """The bytes that an iterator yields, whose beginning can be looked at before they are read."""

    def __init__(self, chunks: Iterator[bytes]) -> None:
        self._chunks, self._left = chunks, bytearray()

    def readable(self) -> bool:
        return True

    def look(self, enough: Callable[[bytearray], bool]) -> bytes:
        """What is to come, as far as it is enough or there is any."""
        while not enough(self._left) and (chunk := next(self._chunks, b"")):
            self._left += chunk
        return bytes(self._left)

    def readinto(self, buffer: Any) -> int:
        while not self._left and (chunk := next(self._chunks, b"")):
            self._left += chunk
        part = self._left[: len(buffer)]
        buffer[: len(part)] = part
        del self._left[: len(part)]
        return len(part)

    def chunks(self) -> Iterator[bytes]:
        """All that is to come."""
        yield bytes(self._left)
        yield from self._chunks

    def buffered(self) -> io.BufferedReader:
        return io.BufferedReader(self, HEAD)


class Opened(NamedTuple):
    """A source, unpacked."""

    stream: Stream
    compression: str | None  # what it was packed with
    path: str | None = None  # of a regular file that was not packed


@contextmanager
def opened(source: str, name: str) -> Iterator[Opened]:
    """Open a file, or stdin, and unpack it, whatever it is called.

    Raises:
        InputError: it cannot be opened, or what it is packed in is damaged.
    """
    if is_stdin(source):
        with _whole(name):
            yield _unpacked(take_stdin())
        return
    if not source or os.path.isdir(source):
        raise InputError(f"{name or repr(name)}: names no file; give one, or `-` for stdin")
    try:
        file = open(source, "rb")  # noqa: SIM115  # closed below
    except (OSError, ValueError) as error:
        raise InputError(f"{name}: {getattr(error, 'strerror', error)}") from error
    with file, _whole(name):
        found = _unpacked(file)
        yield found if found.compression or is_pipe(source) else found._replace(path=source)


@contextmanager
def _whole(name: str) -> Iterator[None]:
    try:
        yield
    except UnicodeError as error:  # of another encoding than UTF-8, whose faults are told by line
        raise InputError(f"{name}: its text is damaged ({one_line(error)}); save it as UTF-8") from error
    except (EOFError, zlib.error, lzma.LZMAError, OSError) as error:
        if getattr(error, "errno", None) is not None:  # a disk's, not a decompressor's
            raise InputError(f"{name}: cannot be read ({one_line(error)})") from error
        raise InputError(
            f"{name}: not a whole compressed file ({one_line(error)}); compress it again"
        ) from error


def _unpacked(file: Any) -> Opened:
    stream, compression = _chunks_of(file), None
    while found := _compression_of(stream.look(lambda head: len(head) >= 8)):
        compression, unpack = found
        stream = _chunks_of(unpack(stream.buffered()))
    return Opened(stream, compression)


def _chunks_of(file: Any) -> Stream:
    return Stream(iter(partial(file.read1, HEAD), b""))


def _compression_of(head: bytes) -> tuple[str, Callable[[Any], Any]] | None:
    return next((how for magic, how in _COMPRESSIONS.items() if head.startswith(magic)), None)


def as_utf8(stream: Stream) -> Stream:
    """The stream's text in UTF-8 with lines that end in a line feed, whatever it was in."""
    head = stream.look(_has_line)
    if (encoding := encoding_of(head)) not in ("utf-8", "utf-8-sig"):
        stream = Stream(text.encode() for text in codecs.iterdecode(stream.chunks(), encoding))
        head = stream.look(_has_line)
    if b"\n" in head or b"\r" not in head:
        return stream
    return Stream(chunk.replace(b"\r", b"\n") for chunk in stream.chunks())


def _has_line(head: bytearray) -> bool:
    return b"\n" in head or len(head) >= HEAD


def lines(stream: Stream, name: str) -> Iterator[tuple[str, str]]:
    """Yield (file:line, line) of all lines, empty ones too, line feeds kept."""
    read = partial(stream.buffered().readline, MAX_LINE_BYTES + 1)
    for number, raw in enumerate(iter(read, b""), start=1):
        where = f"{name}:{number}"
        yield where, _decoded(raw, where)


def _decoded(raw: bytes, where: str) -> str:
    if len(raw) > MAX_LINE_BYTES:
        raise InputError(f"{where}: line longer than {MAX_LINE_BYTES >> 20} MiB; one record a line")
    try:
        line = raw.decode()
    except UnicodeDecodeError as error:
        raise InputError(
            f"{where}: not UTF-8 (byte {raw[error.start]:#04x} at column {error.start + 1}); "
            "convert the file to UTF-8"
        ) from error
    if "\0" in line:
        raise InputError(f"{where}: contains a NUL byte; this is not a text file")
    return line.removeprefix("\ufeff")  # also of a file that another was put behind
