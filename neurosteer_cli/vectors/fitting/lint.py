"""What besides the attribute tells two sides of texts apart, so that a vector would measure that.

Knows words and counts of them; knows nothing of models. At most SAMPLE texts a side are looked at.
"""

import math
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from statistics import median
from typing import Any, Literal

import torch

from ...data.sides import Side, Sides
from .statistics import auroc

SAMPLE = 2000  # texts a side
PAIRED = 400  # texts a side that are held against each other
WORD = re.compile(r"[^\W\d_]+(?:['’][^\W\d_]+)*")
UNEVEN = 0.75  # AUROC of the number of words from which lengths tell the sides apart
MARKS = {
    "ends in a question mark": re.compile(r"\?[\"'”’)\s]*$"),
    "ends in an exclamation mark": re.compile(r"![\"'”’)\s]*$"),
    "ends in a full stop": re.compile(r"\.[\"'”’)\s]*$"),
    "begins with a capital letter": re.compile(r"^\W*[A-Z]"),
    "has several lines": re.compile(r"\S[ \t]*\n\s*\S"),
    "has a number": re.compile(r"\d"),
}
MARK_DIFFERENCE = 0.5  # in the share of texts that have it
MARKER_SHARE, MARKER_RATIO = 0.5, 5.0  # of texts with a word on one side, and times as often as on the other
TOP_WORDS = 50  # taken out on either side before topics are looked at
TOPIC_ACCURACY = 0.75  # of a bag of the other words, from which the sides have topics of their own
ALIKE = 0.8  # Jaccard index of two texts' words from which they are near duplicates

Check = Literal["length", "punctuation", "marker", "topics", "near duplicates"]


@dataclass(frozen=True)
class Finding:
    """Something besides the attribute in which the sides differ, or in which they do not."""

    check: Check
    value: float  # the figure it goes by
    words: str  # what to know of it


@dataclass(frozen=True)
class _Texts:
    """A sample of one side."""

    label: str
    texts: Sequence[str]

    @classmethod
    def of(cls, side: Side) -> "_Texts":
        stride = math.ceil(side.n_records / SAMPLE)
        return cls(side.label, [passage.text for n, passage in side.passages() if n % stride == 0])

    @cached_property
    def words(self) -> list[list[str]]:
        return [[word.lower() for word in WORD.findall(text)] for text in self.texts]

    @cached_property
    def shares(self) -> Counter[str]:
        """In how many texts each word stands."""
        return Counter(word for words in self.words for word in set(words))

    def share(self, word: str) -> float:
        return self.shares[word] / len(self.texts)

    def having(self, mark: re.Pattern[str]) -> float:
        return sum(bool(mark.search(text)) for text in self.texts) / len(self.texts)


def lint(sides: Sides, *, topics: bool = True) -> list[Finding]:
    """What makes a vector of these sides measure something else than what they are meant to show.

    topics: also train a classifier on the words that are not the sides' own, which takes a moment.
    """
    both = _Texts.of(sides[0]), _Texts.of(sides[1])
    checks: list[Callable[[_Texts, _Texts], Iterator[Finding]]] = [
        _lengths,
        _punctuation,
        _markers,
        _near_duplicates,
    ]
    return [finding for check in (*checks, *([_topics] if topics else [])) for finding in check(*both)]


def _lengths(one: _Texts, other: _Texts) -> Iterator[Finding]:
    lengths = [torch.tensor([float(len(words)) for words in side.words]) for side in (one, other)]
    value = auroc(*lengths)
    if max(value, 1 - value) >= UNEVEN:
        medians = [f"{side.label} {median(map(len, side.words)):g}" for side in (one, other)]
        yield Finding(
            "length",
            value,
            f"the number of words alone tells the sides apart (AUROC {value:.2f}; medians: "
            f"{', '.join(medians)}): the vector will make texts longer or shorter; match the lengths",
        )


def _punctuation(one: _Texts, other: _Texts) -> Iterator[Finding]:
    for name, mark in MARKS.items():
        shares = one.having(mark), other.having(mark)
        if abs(shares[0] - shares[1]) >= MARK_DIFFERENCE:
            yield Finding(
                "punctuation",
                shares[0] - shares[1],
                f"a text {name} in {shares[0]:.0%} of {one.label} and {shares[1]:.0%} of {other.label}: "
                "the vector will hold that too; write both sides alike",
            )


def _markers(one: _Texts, other: _Texts) -> Iterator[Finding]:
    for side, against in ((one, other), (other, one)):
        for word, _ in side.shares.most_common(200):
            share, there = side.share(word), against.share(word)
            if share >= MARKER_SHARE and share >= MARKER_RATIO * there:
                yield Finding(
                    "marker",
                    share,
                    f"{word!r} stands in {share:.0%} of {side.label} and {there:.0%} of {against.label}: the "
                    "vector may be that word's; vary the wording",
                )


def _near_duplicates(one: _Texts, other: _Texts) -> Iterator[Finding]:
    sets = [
        [frozenset(words) for words in side.words[:: math.ceil(len(side.texts) / PAIRED)]]
        for side in (one, other)
    ]
    alike = sum(
        any(len(mine & theirs) >= ALIKE * len(mine | theirs) for theirs in sets[1] if theirs)
        for mine in sets[0]
        if mine
    )
    if alike:
        share = alike / len(sets[0])
        yield Finding(
            "near duplicates",
            share,
            f"{alike} of {len(sets[0])} texts of {one.label} have nearly the words of one of "
            f"{other.label}: right where a pair differs in the attribute alone, else one side is wrong",
        )


def _topics(one: _Texts, other: _Texts) -> Iterator[Finding]:
    own = {word for side, against in ((one, other), (other, one)) for word in _own_words(side, against)}
    rest = [[word for word in words if word not in own] for side in (one, other) for words in side.words]
    labels = [True] * len(one.texts) + [False] * len(other.texts)
    accuracy, strongest = _bag_of_words(rest, labels)
    if accuracy >= TOPIC_ACCURACY:
        named = "; ".join(
            f"{side.label}: {', '.join(words)}" for side, words in zip((one, other), strongest, strict=True)
        )
        yield Finding(
            "topics",
            accuracy,
            f"without the {TOP_WORDS} words that are most each side's own, a bag of words still tells the "
            f"sides apart ({accuracy:.0%} right on held-out texts, 50% is chance; {named}): they are about "
            "different things; write both sides on the same topics",
        )


def _own_words(side: _Texts, against: _Texts) -> list[str]:
    """The words whose share of texts is most above that of the other side."""
    return sorted(side.shares, key=lambda word: against.share(word) - side.share(word))[:TOP_WORDS]


def _bag_of_words(texts: list[list[str]], labels: list[bool]) -> tuple[float, list[list[str]]]:
    """How often naive Bayes is right on texts held out, and the words that it goes by, for either side."""
    from sklearn.feature_extraction.text import CountVectorizer
    from sklearn.model_selection import StratifiedKFold, cross_val_predict
    from sklearn.naive_bayes import ComplementNB

    vectorizer = CountVectorizer(analyzer=lambda words: words, binary=True, min_df=2)
    try:
        counts: Any = vectorizer.fit_transform(texts)
    except ValueError:  # no word stands in two texts
        return 0.5, [[], []]
    folds = StratifiedKFold(min(5, sum(labels), len(labels) - sum(labels)), shuffle=True, random_state=0)
    judged = cross_val_predict(ComplementNB(), counts, labels, cv=folds)
    right = [[a == b for a, b in zip(judged, labels, strict=True) if b == side] for side in (True, False)]
    accuracy = sum(sum(side) / len(side) for side in right) / 2
    weights = ComplementNB().fit(counts, labels).feature_log_prob_  # [2, n_words]
    words, order = vectorizer.get_feature_names_out(), (weights[1] - weights[0]).argsort()
    return float(accuracy), [[str(words[i]) for i in order[::-1][:5]], [str(words[i]) for i in order[:5]]]
