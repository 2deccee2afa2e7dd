"""The two labelled sides a vector is fitted on, files or lists: checked as a whole, then streamed.

Knows records and labels; knows nothing of tokens or models.
"""

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from ..errors import InputError
from ..files import spooled
from .records import STDIN, Located, Passage, Record, as_passage, read_records

MIN_TEXTS = 8
FEW_TEXTS = 50
LABEL_KEY = "label"

Read = Callable[[], Iterator[Located]]


@dataclass
class Side:
    """One label's texts: where they are read from, and what a first reading found."""

    label: str
    open: Read
    duplicates: set[int] = field(default_factory=set)  # ordinals, counted from 0 within the side
    n_records: int = 0
    hashes: list[int] = field(default_factory=list)  # of the texts that count, one each
    sha256: str = ""

    @property
    def n_texts(self) -> int:
        return self.n_records - len(self.duplicates)

    def passages(self) -> Iterator[tuple[int, Passage]]:
        """Read the texts again: (ordinal, passage), duplicates left out."""
        for ordinal, located in enumerate(self.open()):
            if ordinal not in self.duplicates:
                yield ordinal, as_passage(located)


Sides = tuple[Side, ...]  # two: positive, negative


def text_hash(text: str) -> int:
    """A 64-bit hash by which a text is recognised again later: sha256's first 8 bytes, signed."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big", signed=True)


@contextmanager
def open_sides(
    sources: list[str], target: str | None = None, source_label: str | None = None
) -> Iterator[Sides]:
    """Read two files, or one labelled file, once; check them whole; yield them ready to stream.

    Memory holds a hash a text, never the texts. Standard input is kept in a temporary file while
    the context is open.

    Args:
        sources: [positive, negative] paths, or [labelled] with `target` and `source_label`, the
            values of its "label" key steered towards and away from. `-` is stdin.

    Raises:
        InputError: a record is malformed, a text stands on both sides, or a side has fewer than 8.
    """
    _check_sources(sources, target, source_label)
    with ExitStack() as stack:
        names = [STDIN if source == "-" else source for source in sources]
        files: list[Read] = [
            partial(read_records, stack.enter_context(spooled(source)), name=name)
            for source, name in zip(sources, names, strict=True)
        ]
        if target is not None and source_label is not None:
            labels = [target, source_label]
            files = [partial(_labelled, files[0], names[0], label) for label in labels]
        else:
            labels = ["stdin" if source == "-" else Path(source).stem for source in sources]
        yield _checked(map(Side, labels, files))


def _check_sources(sources: list[str], target: str | None, source_label: str | None) -> None:
    if len(sources) not in (1, 2):
        raise InputError("give two files (towards, away from), or one with --target and --source")
    if sources.count("-") > 1:
        raise InputError("`-` (stdin) can be read only once; give a file for the other side")
    if len(sources) == 1 and (target is None or source_label is None):
        raise InputError(
            "one file needs --target and --source, two of its labels; "
            "or give a second file to steer away from"
        )
    if len(sources) == 2 and (target is not None or source_label is not None):
        raise InputError("--target and --source name two labels of one file; two files need neither")
    if target is not None and target == source_label:
        raise InputError(f"--target and --source are both {target!r}; they must differ")


def sides_of(
    positive: Sequence[str | Record],
    negative: Sequence[str | Record],
    labels: tuple[str, str] = ("positive", "negative"),
    names: tuple[str, str] | None = None,
) -> Sides:
    """The sides that texts at hand make, checked as those of files are.

    Args:
        positive, negative: texts, or records in one of the forms that files hold.
        labels: what the vector's metadata calls the sides.
        names: what errors call them, as `name:number`, counted from 1; without, their labels.

    Raises:
        InputError: as `open_sides`.
    """
    return _checked(map(_listed, labels, names or labels, (positive, negative)))


def _labelled(read: Read, name: str, label: str) -> Iterator[Located]:
    """The records of one label."""
    labels = set()
    for located in read():
        if LABEL_KEY not in located.record:
            raise InputError(f"{located.where}: no {LABEL_KEY!r} key; found {sorted(located.record)}")
        own = str(located.record[LABEL_KEY])
        labels.add(own)
        if own == label:
            yield located
    if label not in labels:
        raise InputError(f"{name}: no record is labelled {label!r}; found {sorted(labels)[:8]}")


def _listed(label: str, name: str, texts: Sequence[str | Record]) -> Side:
    records = [text if isinstance(text, dict) else {"text": text} for text in texts]
    return Side(label, lambda: (Located(f"{name}:{n}", record) for n, record in enumerate(records, start=1)))


def _checked(unread: Iterable[Side]) -> Sides:
    """Read both sides once: count, find duplicates, refuse a text that stands on both."""
    sides = tuple(unread)
    seen: dict[int, tuple[Side, int]] = {}  # hash -> where it stood first: side, ordinal
    for side in sides:
        digest = hashlib.sha256()
        for ordinal, located in enumerate(side.open()):
            passage = as_passage(located)
            key = passage.key()
            digest.update(key.encode() + b"\n")
            side.n_records += 1
            first_side, first_ordinal = seen.setdefault(text_hash(key), (side, ordinal))
            if first_side is not side:
                raise InputError(_on_both_sides(passage, first_side, first_ordinal))
            if first_ordinal == ordinal:
                side.hashes.append(text_hash(passage.text))
            else:
                side.duplicates.add(ordinal)
        side.sha256 = digest.hexdigest()
        if side.n_texts < MIN_TEXTS:
            raise InputError(
                f"{side.label}: {side.n_texts} distinct texts; at least {MIN_TEXTS} a side are needed, "
                f"and {FEW_TEXTS} or more give a dependable vector"
            )
    return sides


def _on_both_sides(passage: Passage, other: Side, ordinal: int) -> str:
    where = next(located.where for n, located in enumerate(other.open()) if n == ordinal)
    return f"{passage.where}: this text stands on both sides, first at {where}; remove one of them"
