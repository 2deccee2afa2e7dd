"""What besides the attribute tells two sides of texts apart, so that a vector would measure that.

Knows words, marks and counts of them; knows nothing of models. At most SAMPLE texts a side are looked at.
"""

import math
import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from statistics import median
from typing import Literal

import torch
from torch import Tensor

from ...data.sides import Side, Sides
from .statistics import auroc

SAMPLE = 2000  # texts a side
AT_MOST = 3  # marks that are named, and words of a side
# runs of letters; where they are written without spaces between words, each alone
_UNSPACED = "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff"
WORD = re.compile(rf"[{_UNSPACED}]|[^\W\d_{_UNSPACED}]+(?:['’][^\W\d_{_UNSPACED}]+)*")
UNEVEN = 0.75  # AUROC of the number of words from which lengths tell the sides apart
MARKS: dict[str, Callable[[str], bool]] = {
    "ends in a full stop": lambda text: text.rstrip("\"'”’») \n\t\r").endswith((".", "。")),
    "begins with a capital letter": lambda text: next(filter(str.isalpha, text), "").isupper(),
    "is all in capitals": str.isupper,
    "has several lines": lambda text: "\n" in text.strip(),
    "has a number": lambda text: any(map(str.isdigit, text)),
}
MARK_DIFFERENCE = 0.5  # in the share of texts that have it
MARKER_SHARE, MARKER_RATIO = 0.5, 3.0  # of texts with a word on one side, and times as often as on the other
ENOUGH_WORDS = 100  # of more than one text, to look at topics
OWN_WORDS = 20  # one word in so many is taken out on either side before topics are looked at
FOLDS = 5
TOPIC_ACCURACY = 0.85  # of a bag of the other words, from which the sides have topics of their own
ALIKE = 0.8  # Jaccard index of two texts' words from which they are near duplicates
PAIRED = 0.5  # share of texts with a near duplicate from which pairs are what the texts were written as

Check = Literal["length", "punctuation", "marker", "topics", "near duplicates"]


@dataclass(frozen=True)
class Finding:
    """Something besides the attribute in which the sides differ, or in which they do not.

    `value`, by check: the AUROC of the number of words; the first side's share of texts with a mark less the
    second's; the share of texts with a marker word on its side; the share of the first side's texts that
    have a near duplicate; the share of held-out texts that a bag of the other words is right on.
    """

    check: Check
    value: float
    words: str  # what to know of it


@dataclass(frozen=True)
class _Texts:
    """A sample of one side."""

    label: str
    texts: Sequence[str]
    places: Sequence[str]  # where each stands, as file:line

    @classmethod
    def of(cls, side: Side) -> "_Texts":
        stride = math.ceil(side.n_records / SAMPLE)
        passages = [passage for n, passage in side.passages() if n % stride == 0]
        return cls(side.label, [each.text for each in passages], [each.where for each in passages])

    @cached_property
    def words(self) -> list[list[str]]:
        return [[word.lower() for word in WORD.findall(text)] for text in self.texts]

    @cached_property
    def shares(self) -> dict[str, float]:
        """In which share of texts each word stands."""
        return _shares(self.words)

    def having(self, mark: Callable[[str], bool]) -> float:
        return sum(map(mark, self.texts)) / len(self.texts)


def _shares(texts: Sequence[Sequence[str]]) -> dict[str, float]:
    """In which share of texts each thing that stands in them does."""
    counts = Counter(thing for things in texts for thing in dict.fromkeys(things))
    return {thing: count / len(texts) for thing, count in counts.items()}


def lint(sides: Sides) -> list[Finding]:
    """What makes a vector of these sides measure something else than what they are meant to show."""
    both = _Texts.of(sides[0]), _Texts.of(sides[1])
    checks = (_lengths, _punctuation, _markers, _near_duplicates, _topics)
    return [finding for check in checks for finding in check(*both)]


def _lengths(one: _Texts, other: _Texts) -> Iterator[Finding]:
    value = auroc(*([float(len(words)) for words in side.words] for side in (one, other)))
    if max(value, 1 - value) >= UNEVEN:
        medians = [f"{side.label} {median(map(len, side.words)):g}" for side in (one, other)]
        yield Finding(
            "length",
            value,
            f"the number of words alone tells the sides apart (AUROC {value:.2f}; medians: "
            f"{', '.join(medians)}): the vector may make texts longer or shorter; match the lengths",
        )


def _punctuation(one: _Texts, other: _Texts) -> Iterator[Finding]:
    shares = {f"a text {name}": (one.having(mark), other.having(mark)) for name, mark in MARKS.items()}
    signs = [
        _shares([[*filter(_is_sign, dict.fromkeys(text))] for text in side.texts]) for side in (one, other)
    ]
    for sign in sorted({*signs[0], *signs[1]}):
        shares[f"{sign!r} stands"] = (signs[0].get(sign, 0.0), signs[1].get(sign, 0.0))
    uneven = [(here - there, what) for what, (here, there) in shares.items()]
    uneven = [(apart, what) for apart, what in uneven if abs(apart) >= MARK_DIFFERENCE]
    for apart, what in sorted(uneven, key=lambda found: -abs(found[0]))[:AT_MOST]:
        here, there = shares[what]
        yield Finding(
            "punctuation",
            apart,
            f"{what} in {here:.0%} of {one.label} and {there:.0%} of {other.label}: "
            "the vector will hold that too; write both sides alike",
        )


def _is_sign(character: str) -> bool:
    """Whether it is punctuation or a symbol; whether texts end in a full stop is looked at by itself."""
    return character not in ".。" and unicodedata.category(character)[0] in "PS"


def _markers(one: _Texts, other: _Texts) -> Iterator[Finding]:
    for side, against in ((one, other), (other, one)):

        def marks(word: str, side: _Texts = side, against: _Texts = against) -> bool:
            share = side.shares[word]
            return share >= MARKER_SHARE and share >= MARKER_RATIO * against.shares.get(word, 0.0)

        for word in islice(
            filter(marks, sorted(side.shares, key=lambda word: (-side.shares[word], word))), AT_MOST
        ):
            share, there = side.shares[word], against.shares.get(word, 0.0)
            yield Finding(
                "marker",
                share,
                f"{word!r} stands in {share:.0%} of {side.label} and {there:.0%} of {against.label}: the "
                "vector may be that word's; vary the wording",
            )


def _near_duplicates(one: _Texts, other: _Texts) -> Iterator[Finding]:
    """Few of them: where most texts have one, pairs that differ in a word or two were meant."""
    pairs = [*_alike(*([frozenset(words) for words in side.words] for side in (one, other)))]
    share = len(pairs) / len(one.texts)
    if 0 < share < PAIRED:
        mine, theirs = pairs[0]
        yield Finding(
            "near duplicates",
            share,
            f"{len(pairs)} of {len(one.texts)} texts of {one.label} have nearly the words of one of "
            f"{other.label}, such as {one.places[mine]} and {other.places[theirs]}: right where a pair "
            "differs in the attribute alone, else one of the two is on the wrong side",
        )


def _alike(texts: Sequence[frozenset[str]], others: Sequence[frozenset[str]]) -> Iterator[tuple[int, int]]:
    """Of each text with a near duplicate among the others, its number and that of the first.

    Two sets that are alike share one of their rarest words (Chaudhuri, Ganti & Kaushik 2006, "A primitive
    operator for similarity joins", the prefix filter), so few have to be compared.
    """
    frequency = Counter(word for words in (*texts, *others) for word in words)

    def rarest(words: frozenset[str]) -> list[str]:
        n_shared = math.ceil(ALIKE * len(words) - 1e-9)  # at least, with a set that is like it
        return sorted(words, key=lambda word: (frequency[word], word))[: len(words) - n_shared + 1]

    having = defaultdict(list)
    for number, words in enumerate(others):
        for word in rarest(words):
            having[word].append(number)
    for number, words in enumerate(texts):
        candidates = sorted({other for word in rarest(words) for other in having[word]})
        like = (n for n in candidates if len(words & others[n]) >= ALIKE * len(words | others[n]))
        if (first := next(like, None)) is not None:
            yield number, first


def _topics(one: _Texts, other: _Texts) -> Iterator[Finding]:
    bag = _Bag.of(one.words, other.words)
    if len(bag.vocabulary) >= ENOUGH_WORDS and (right := bag.right()) >= TOPIC_ACCURACY:
        strongest = zip((one, other), bag.strongest(5), strict=True)
        named = "; ".join(f"{side.label}: {', '.join(words)}" for side, words in strongest)
        yield Finding(
            "topics",
            right,
            f"without the {bag.n_own} words that are most each side's own, a bag of words still tells "
            f"the sides apart ({right:.0%} right on held-out texts, 50% is chance; {named}): they may be "
            "about different things; write both sides on the same topics",
        )


@dataclass(frozen=True)
class _Bag:
    """Which words stand in which texts of two sides, as naive Bayes sees them.

    Written out: scikit-learn's would cost every fit 1.1 s and 100 MB to import.
    """

    vocabulary: list[str]  # words of more than one text
    text_of: Tensor  # [n], the text in which a word stands, by number
    word_of: Tensor  # [n], that word
    is_first: Tensor  # [n_texts] bool, whether a text is of the first side
    fold: Tensor  # [n_texts], in which a text is held out

    @classmethod
    def of(cls, *sides: Sequence[Sequence[str]]) -> "_Bag":
        texts = [dict.fromkeys(words) for side in sides for words in side]
        frequency = Counter(word for words in texts for word in words)
        ids = {word: n for n, word in enumerate(word for word, n in frequency.items() if n > 1)}
        places = [(text, ids[word]) for text, words in enumerate(texts) for word in words if word in ids]
        text_of, word_of = torch.tensor(places, dtype=torch.int64).reshape(-1, 2).T
        is_first = torch.arange(len(texts)) < len(sides[0])
        fold = torch.cat([torch.arange(len(side)) for side in sides]) % FOLDS
        return cls([*ids], text_of, word_of, is_first, fold)

    @property
    def n_own(self) -> int:
        """How many words are left out as a side's own, on either."""
        return len(self.vocabulary) // OWN_WORDS

    def right(self) -> float:
        """How often it is right on texts held out, either side counted alike; half of what it cannot tell."""
        scores = torch.zeros(len(self.fold), dtype=torch.float64)
        for fold in range(FOLDS):
            weights = self._weights(self.fold != fold)
            found = torch.zeros_like(scores).index_add(0, self.text_of, weights[self.word_of])
            scores = scores.where(self.fold != fold, found)
        right = (scores.sign() * (2.0 * self.is_first - 1) + 1) / 2
        return float(right[self.is_first].mean() + right[~self.is_first].mean()) / 2

    def strongest(self, n: int) -> list[list[str]]:
        """The words that it goes by, of either side."""
        weights = self._weights(torch.ones_like(self.is_first))
        return [
            [self.vocabulary[i] for i in (sign * weights).argsort(descending=True, stable=True)[:n]]
            for sign in (1, -1)
        ]

    def _weights(self, used: Tensor) -> Tensor:
        """Log-odds of each word by some of the texts, [n_words]; 0 of the words that are a side's own."""
        n_words = len(self.vocabulary)
        sides = torch.stack([self.is_first & used, ~self.is_first & used])  # [2, n_texts]
        counts = torch.stack([self.word_of[side[self.text_of]].bincount(minlength=n_words) for side in sides])
        shares = counts / sides.sum(1, keepdim=True)
        ranked = (shares[0] - shares[1]).argsort(stable=True)
        common = torch.zeros(n_words, dtype=torch.bool)
        common[ranked[self.n_own : n_words - self.n_own]] = True
        smoothed = (counts + 1.0) * common
        logs = (smoothed / smoothed.sum(1, keepdim=True)).log()
        return (logs[0] - logs[1]).double().where(common, 0.0)
