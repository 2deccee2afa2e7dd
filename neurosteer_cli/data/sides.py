"""The two labelled sides a vector is fitted on, files or lists: checked as a whole, then streamed.

Knows records and labels; knows nothing of tokens or models.
"""

import hashlib
import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial

from ..errors import InputError
from ..files import check_read_once, is_pipe, is_stdin, spooled
from .json_text import Record
from .kinds import stem_of
from .records import CHOSEN, REJECTED, STDIN, Located, Passage, as_passage, label_names, pair_side
from .sources import Say, once, quiet, read_records

MIN_TEXTS = 8
FEW_TEXTS = 50
LABEL_KEY = "label"
SIDES = ("towards", "away")  # what they are called, if their files have no names
NEEDS_LABELS = (
    "one file needs --target and --source, two of its labels, or preference pairs: records with 'chosen' and "
    "'rejected'; or give a second file to steer away from"
)

Read = Callable[[], Iterator[Located]]


@dataclass
class Side:
    """One label's texts: where they are read from, and what a first reading found."""

    label: str
    open: Read
    duplicates: set[int] = field(default_factory=set)  # ordinals, counted from 0 within the side
    n_records: int = 0
    hashes: list[int] = field(default_factory=list)  # of the texts that count, one each
    forms: set[str] = field(default_factory=set)  # chats, completions of prompts, plain texts
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
    sources: list[str],
    target: str | None = None,
    source_label: str | None = None,
    *,
    text_key: str | None = None,
    label_key: str = LABEL_KEY,
    say: Say = quiet,
) -> Iterator[Sides]:
    """Read two files, one labelled file or one of preference pairs, once; check them whole; yield both sides.

    Memory holds a hash a text, never the texts. What is no regular file is kept in a temporary one while
    the context is open.

    Args:
        sources: [positive, negative] paths; [labelled] with `target` and `source_label`, the values of
            `label_key` steered towards and away from; or [pairs], steered towards `chosen` and away from
            `rejected`. `-` is stdin.
        text_key: the key of the texts, where it is none of those that `as_passage` knows.
        say: told of what a file is, where its name says something else.

    Raises:
        InputError: a record is malformed, a text stands on both sides, or a side has fewer than 8.
    """
    _check_sources(sources, target, source_label)
    with ExitStack() as stack:
        names = [STDIN if is_stdin(source) else source for source in sources]
        files: list[Read] = [
            partial(
                read_records,
                stack.enter_context(spooled(source)),
                name=name,
                text_key=text_key,
                say=once(say),
            )
            for source, name in zip(sources, names, strict=True)
        ]
        if len(files) == 2:
            labels = [side_label(source, side) for source, side in zip(sources, SIDES, strict=True)]
        elif target is not None and source_label is not None:
            labels = [target, source_label]
            files = [partial(_labelled, files[0], names[0], label, label_key) for label in labels]
        else:
            labels = [CHOSEN, REJECTED]
            files = [partial(_of_pairs, files[0], which) for which in labels]
        yield _checked(map(Side, labels, files))


def side_label(source: str, otherwise: str) -> str:
    """What a side is called: as its file, if that has a name of its own."""
    if is_stdin(source):
        return "stdin"
    return otherwise if is_pipe(source) else stem_of(source)


def _check_sources(sources: list[str], target: str | None, source_label: str | None) -> None:
    if len(sources) not in (1, 2):
        raise InputError("give two files (towards, away from), or one with --target and --source")
    check_read_once(sources)
    if len(sources) == 1 and (target is None) != (source_label is None):
        raise InputError(NEEDS_LABELS)
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


def _labelled(read: Read, name: str, label: str, key: str) -> Iterator[Located]:
    """The records of one label."""
    labels = set()
    for located in read():
        names = label_names(located, key)
        labels.add(names)
        if label in names:
            yield located
    if not any(label in names for names in labels):
        found = sorted(names[0] for names in labels)
        raise InputError(f"{name}: no record is labelled {label!r}; found {found[:8]}")


def _of_pairs(read: Read, which: str) -> Iterator[Located]:
    """The records of one side of preference pairs."""
    for number, located in enumerate(read()):
        if number == 0 and not {CHOSEN, REJECTED} <= located.record.keys():
            raise InputError(NEEDS_LABELS)
        yield pair_side(located, which)


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
            side.forms.add(passage.form)
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


def shuffled(sides: Sides, seed: int) -> Sides:
    """The same texts with their labels dealt out at random: half of either side is on each.

    What a vector of such sides does, it does for no reason of what they say: a control. The sides keep their
    labels; of two equal sides neither gets more texts.
    """
    draw = random.Random(seed)
    counted = [[n for n in range(side.n_records) if n not in side.duplicates] for side in sides]
    first, second = (draw.sample(ordinals, len(ordinals)) for ordinals in counted)
    halves = (len(first) + 1) // 2, len(second) // 2
    dealt = {*first[: halves[0]]}, {*second[: halves[1]]}
    rest = {*first[halves[0] :]}, {*second[halves[1] :]}
    return _checked(
        Side(side.label, partial(_dealt, sides, ordinals))
        for side, ordinals in zip(sides, (dealt, rest), strict=True)
    )


def _dealt(sides: Sides, ordinals: Sequence[set[int]]) -> Iterator[Located]:
    """The texts with these ordinals, of one side after the other."""
    for side, chosen in zip(sides, ordinals, strict=True):
        yield from (located for n, located in enumerate(side.open()) if n in chosen)


def few_texts(sides: Sides, of_more: str) -> list[str]:
    """A warning for each side of few texts; `of_more` is what more of them give."""
    return [
        f"{side.label}: {side.n_texts} texts; {FEW_TEXTS} or more a side give {of_more}"
        for side in sides
        if side.n_texts < FEW_TEXTS
    ]


def unlike_forms(sides: Sides) -> list[str]:
    """A warning where one side has chats, say, and the other plain texts."""
    forms = [" and ".join(sorted(side.forms)) for side in sides]
    if forms[0] == forms[1]:
        return []
    told = ", ".join(f"{side.label} holds {form}" for side, form in zip(sides, forms, strict=True))
    return [f"{told}: what stands around the texts then tells the sides apart, too; give both in one form"]


def _on_both_sides(passage: Passage, other: Side, ordinal: int) -> str:
    where = next(located.where for n, located in enumerate(other.open()) if n == ordinal)
    return f"{passage.where}: this text stands on both sides, first at {where}; remove one of them"
