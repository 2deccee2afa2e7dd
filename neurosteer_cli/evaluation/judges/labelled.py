"""Texts of two sides that a judge is trained on, and how far one that is can be relied on.

Knows text records and scikit-learn; knows nothing of what a text is to a classifier.
"""

import hashlib
from collections.abc import Collection
from dataclasses import dataclass, field
from importlib.metadata import version
from typing import Any

from ...data.records import STDIN
from ...data.sides import SIDES, side_label, text_hash
from ...data.sources import read_passages
from ...errors import InputError
from ...files import check_read_once, is_stdin
from .judge import Card, Say

FOLDS = 5
MIN_TEXTS = 20
LOW_ACCURACY = 0.7
THRESHOLD = 0.5


@dataclass
class Side:
    """The texts of one file that may be trained on, and what was left out of it."""

    name: str
    label: str
    texts: list[str] = field(default_factory=list)
    n_duplicates: int = 0
    n_left_out: int = 0

    def card(self) -> Card:
        return {
            "source": self.name,
            "label": self.label,
            "n_texts": len(self.texts),
            "n_duplicates": self.n_duplicates,
            "n_left_out": self.n_left_out,
            "sha256": hashlib.sha256("\0".join(self.texts).encode()).hexdigest(),
        }


@dataclass(frozen=True)
class Labelled:
    """The texts of both sides that may be trained on."""

    positive: Side
    negative: Side

    @property
    def texts(self) -> list[str]:
        return [*self.positive.texts, *self.negative.texts]

    @property
    def labels(self) -> list[bool]:
        """Of each text, whether it is of the positive side."""
        return [True] * len(self.positive.texts) + [False] * len(self.negative.texts)

    @property
    def counts(self) -> str:
        return f"{len(self.positive.texts)} and {len(self.negative.texts)} texts"

    def card(self, accuracies: dict[str, float]) -> Card:
        return {
            "scikit_learn": version("scikit-learn"),
            "positive": self.positive.card(),
            "negative": self.negative.card(),
            "folds": FOLDS,
            **accuracies,
            "threshold": THRESHOLD,
        }


def read_labelled(
    sources: tuple[str, str], leave_out: Collection[int], text_key: str | None, say: Say
) -> Labelled:
    """Read both files; a text that comes again counts once.

    Raises:
        InputError: a record is malformed, a text stands on both sides, or a side keeps under 20.
    """
    check_read_once(sources)
    left_out = frozenset(leave_out)
    sides = [
        Side(STDIN if is_stdin(source) else source, side_label(source, side))
        for source, side in zip(sources, SIDES, strict=True)
    ]
    seen: dict[int, tuple[Side, str]] = {}  # hash -> where it stood first: side, file:line
    for side, source in zip(sides, sources, strict=True):
        for passage in read_passages(source, text_key=text_key, say=say):
            key = text_hash(passage.text)
            first_side, first = seen.setdefault(key, (side, passage.where))
            if first_side is not side:
                raise InputError(
                    f"{passage.where}: this text stands on both sides of --judge-data, first at {first}; "
                    "remove one of them"
                )
            if first != passage.where:
                side.n_duplicates += 1
            elif key in left_out:
                side.n_left_out += 1
            else:
                side.texts.append(passage.text)
    for side in sides:
        if (n_texts := len(side.texts)) < MIN_TEXTS:
            raise InputError(
                f"{side.name}: {n_texts} of {n_texts + side.n_left_out + side.n_duplicates} texts can train "
                f"a judge, at least {MIN_TEXTS} a side are needed ({side.n_left_out} were also used to fit "
                f"the vector, {side.n_duplicates} are repeated); "
                "give --judge-data more texts that no vector was fitted on"
            )
    return Labelled(*sides)


def fitted(classifier: Any, features: Any, labels: list[bool]) -> tuple[Any, dict[str, float]]:
    """The classifier trained, and how often one is right on texts that were not in its fold.

    The mean of the two sides' shares is balanced: chance is 0.5 of it, however unequal the sides are.
    """
    from sklearn.metrics import accuracy_score, balanced_accuracy_score
    from sklearn.model_selection import StratifiedKFold, cross_val_predict

    folds = StratifiedKFold(FOLDS, shuffle=True, random_state=0)
    judged = cross_val_predict(classifier, features, labels, cv=folds)
    measures = {"accuracy": accuracy_score, "balanced_accuracy": balanced_accuracy_score}
    accuracies = {name: float(measure(labels, judged)) for name, measure in measures.items()}
    return classifier.fit(features, labels), accuracies


def limits(card: Card, by: str, reads: str) -> str:
    """In words: what a judge goes by, how often it is right, and what it reads."""
    return (
        f"A classifier that tells {card['positive']['label']} from {card['negative']['label']} by {by}, "
        f"right on {card['balanced_accuracy']:.0%} of its own texts when they were held out (each side "
        "counted the same). It goes by whatever sets the two files apart, topic and length included, and "
        f"{reads}."
    )


def warnings(name: str, card: Card) -> list[str]:
    """What is to be said of a judge that has learnt little."""
    if (balanced := card["balanced_accuracy"]) >= LOW_ACCURACY:
        return []
    return [
        f"the {name} judge is right on only {balanced:.0%} of held-out texts (each side counted the same; "
        f"50% is chance, {LOW_ACCURACY:.0%} the least to rely on): its scores say little; "
        "give --judge-data more, or more clearly different, texts"
    ]
