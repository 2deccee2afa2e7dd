"""A body of text to train on or to read through: files, folders or stdin, streamed as documents.

Knows records and paths; knows nothing of tokens or models. Memory holds one document at a time.
"""

import os
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import NamedTuple

from ..errors import InputError
from ..files import is_stdin, spooled
from .kinds import files_in
from .records import STDIN, Located, as_passage
from .sources import Say, quiet, read_records


class Part(NamedTuple):
    """A file of a corpus."""

    path: str  # `-` is stdin, until it is spooled
    name: str  # what errors call it
    text_key: str | None = None  # where its texts stand, if not where `as_passage` finds them


def corpus_files(sources: Sequence[str], text_key: str | None = None) -> list[Part]:
    """The files of a corpus, in order, none given twice; a folder stands for those in it, sorted by path."""
    files = [file for source in sources for file in _files_of(source)]
    parts = [Part("-", STDIN, text_key) if is_stdin(file) else Part(file, file, text_key) for file in files]
    twice = next((part.name for part, n in Counter(parts).items() if n > 1), None)
    if twice is not None:
        raise InputError(f"{twice}: given twice; each part of a corpus once")
    return parts


def _files_of(source: str) -> list[str]:
    if is_stdin(source):
        return [source]
    try:
        os.stat(source)
    except OSError as error:
        raise InputError(f"{source or repr(source)}: {error.strerror}") from error
    return files_in(Path(source)) if os.path.isdir(source) else [source]


def documents(parts: Sequence[Part], say: Say = quiet) -> Iterator[str]:
    """Yield the documents of a corpus in order; those without any text are passed over."""
    empty = True
    for path, name, text_key in parts:
        for located in read_records(path, name=name, text_key=text_key, say=say):
            if text := _document(located):
                empty = False
                yield text
    if empty:
        raise InputError(f"{', '.join(part.name for part in parts)}: no text at all")


@contextmanager
def checked(parts: Sequence[Part], say: Say = quiet) -> Iterator[list[Part]]:
    """Read a corpus once, so that a bad record is told of at once; yield it to be read again."""
    with ExitStack() as stack:
        readable = [part._replace(path=stack.enter_context(spooled(part.path))) for part in parts]
        for _ in documents(readable, say):
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
