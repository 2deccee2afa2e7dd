"""A body of text to train on or to read through: files, folders or stdin, streamed as documents.

Knows records and paths; knows nothing of tokens or models. Memory holds one document at a time.
"""

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
    """The files of a corpus, in order; a folder stands for those in it, sorted by path.

    Raises:
        InputError: a source does not exist, is named twice, or is a folder without text files.
    """
    found: list[str] = []
    for source in sources:
        path = Path(source)
        if source == "-" or not path.is_dir():
            if source != "-" and not path.exists():
                raise InputError(f"{source}: No such file or directory")
            found.append(source)
            continue
        inside = sorted(str(file) for file in path.rglob("*") if file.name.lower().endswith(CORPUS_SUFFIXES))
        if not inside:
            raise InputError(f"{source}: no {', '.join(CORPUS_SUFFIXES)} file in this folder")
        found += inside
    parts = [Part(file, STDIN if file == "-" else file) for file in found]
    twice = next((part.name for part in parts if parts.count(part) > 1), None)
    if twice is not None:
        raise InputError(f"{twice}: given twice; each part of a corpus once")
    return parts


def documents(parts: Sequence[Part]) -> Iterator[str]:
    """Yield the documents of a corpus in order; those without any text are passed over.

    Raises:
        InputError: a record is malformed, or no document has any text.
    """
    n_documents = 0
    for path, name in parts:
        for located in read_records(path, name=name):
            if text := _document(located):
                n_documents += 1
                yield text
    if n_documents == 0:
        raise InputError(f"{', '.join(part.name for part in parts)}: no text at all")


@contextmanager
def checked(parts: Sequence[Part]) -> Iterator[list[Part]]:
    """Read a corpus once, so that a bad record is told of before hours are spent; yield it to be read again.

    Raises:
        InputError: as `documents`.
    """
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
