"""A body of text to train on or to read through: files, folders or stdin, streamed as documents.

Knows records and paths; knows nothing of tokens or models. Memory holds one document at a time.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path

from .errors import InputError
from .records import STDIN, Located, as_passage, read_records

SUFFIXES = (".jsonl", ".txt", ".jsonl.gz", ".txt.gz")


def corpus_files(sources: Sequence[str]) -> list[str]:
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
        inside = sorted(str(file) for file in path.rglob("*") if file.name.lower().endswith(SUFFIXES))
        if not inside:
            raise InputError(f"{source}: no {', '.join(SUFFIXES)} file in this folder")
        found += inside
    twice = next((file for file in found if found.count(file) > 1), None)
    if twice is not None:
        raise InputError(f"{STDIN if twice == '-' else twice}: given twice; each part of a corpus once")
    return found


def documents(files: Sequence[str]) -> Iterator[str]:
    """Yield the documents of a corpus in order; those without any text are passed over.

    Raises:
        InputError: a record is malformed, or no document has any text.
    """
    n_documents = 0
    for file in files:
        for located in read_records(file):
            if text := _document(located):
                n_documents += 1
                yield text
    if n_documents == 0:
        raise InputError(f"{', '.join(STDIN if file == '-' else file for file in files)}: no text at all")


def _document(located: Located) -> str:
    """A record's whole text: context and what counts alike; "" if it is blank."""
    text = located.record.get("text")
    if isinstance(text, str) and not text.strip():
        return ""
    passage = as_passage(located)
    if passage.messages:
        return "\n\n".join(turn["content"] for turn in passage.messages)
    return passage.prompt + passage.text
