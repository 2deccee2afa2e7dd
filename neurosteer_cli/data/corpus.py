"""A body of text to train on or to read through: files, folders or stdin, streamed as documents.

Knows records and paths; knows nothing of tokens or models. Memory holds one document at a time.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import NamedTuple

from ..errors import InputError
from ..files import spooled
from .records import PACKED_SUFFIXES, STDIN, SUFFIXES, Located, as_passage, read_records

CORPUS_SUFFIXES = SUFFIXES + PACKED_SUFFIXES


class Part(NamedTuple):
    """A file of a corpus."""

    path: str  # `-` is stdin, until it is spooled
    name: str  # what errors call it


def corpus_files(sources: Sequence[str]) -> list[Part]:
    """The files of a corpus, in order, none given twice; a folder stands for those in it, sorted by path."""
    files = [file for source in sources for file in _files_of(source)]
    parts = [Part(file, STDIN if file == "-" else file) for file in files]
    twice = next((part.name for part, n in Counter(parts).items() if n > 1), None)
    if twice is not None:
        raise InputError(f"{twice}: given twice; each part of a corpus once")
    return parts


def _files_of(source: str) -> list[str]:
    path = Path(source)
    if source != "-" and not path.exists():
        raise InputError(f"{source}: No such file or directory")
    if source == "-" or not path.is_dir():
        return [source]
    inside = sorted(str(file) for file in path.rglob("*") if file.name.lower().endswith(CORPUS_SUFFIXES))
    if not inside:
        raise InputError(f"{source}: no {', '.join(CORPUS_SUFFIXES)} file in this folder")
    return inside


def documents(parts: Sequence[Part]) -> Iterator[str]:
    """Yield the documents of a corpus in order; those without any text are passed over."""
    empty = True
    for path, name in parts:
        for located in read_records(path, name=name):
            if text := _document(located):
                empty = False
                yield text
    if empty:
        raise InputError(f"{', '.join(part.name for part in parts)}: no text at all")


@contextmanager
def checked(parts: Sequence[Part]) -> Iterator[list[Part]]:
    """Read a corpus once, so that a bad record is told of at once; yield it to be read again."""
    with ExitStack() as stack:
        readable = [part._replace(path=stack.enter_context(spooled(part.path))) for part in parts]
        for _ in documents(readable):
            pass
        yield readable


def _document(located: Located) -> str:
    """A record's whole text: context and what counts alike; "" if it is blank."""
    text = located.record.get("text")
    if isinstance(text, str) and not text.strip():
        return ""
    passage = as_passage(located)
    if passage.messages:
        return "\n\n".join(turn["content"] for turn in passage.messages)
    return passage.prompt + passage.text
