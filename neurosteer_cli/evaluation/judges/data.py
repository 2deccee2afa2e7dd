"""A judge made of labelled texts: logistic regression on frozen sentence embeddings.

Knows text records and scikit-learn; knows nothing of vectors or of how the texts it judges came about.
"""

import hashlib
from collections.abc import Collection
from dataclasses import dataclass, field
from functools import partial
from importlib.metadata import version
from typing import Any

from ...data.records import STDIN
from ...data.sides import SIDES, side_label, text_hash
from ...data.sources import read_passages
from ...errors import InputError
from ...files import check_read_once, is_stdin
from .encoders import MINILM, MINILM_TOKENS, MINILM_WHEEL, Encoder, embed, load_encoder, minilm_folder
from .judge import Advance, Card, Judge, Say, Scores, Texts

FOLDS = 5
MIN_TEXTS = 20
LOW_ACCURACY = 0.7
THRESHOLD = 0.5


@dataclass
class _Side:
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


def train(
    sources: tuple[str, str],
    leave_out: Collection[int] = (),
    say: Say = lambda _message: None,
    *,
    text_key: str | None = None,
) -> Judge:
    """Read the texts of both sides and train on those that may be used; see `load_judge`.

    Raises:
        InputError: a record is malformed, a text stands on both sides, or a side keeps under 20.
        ModelError: the sentence encoder cannot be fetched or read.
    """
    check_read_once(sources)
    positive, negative = _read_sides(sources, frozenset(leave_out), text_key, say)
    encoder = load_encoder(minilm_folder(say), max_tokens=MINILM_TOKENS)
    say(f"training the data judge on {len(positive.texts)} and {len(negative.texts)} texts")
    texts = [*positive.texts, *negative.texts]
    embeddings = embed(encoder, texts).numpy()  # [n_texts, d_model]
    labels = [True] * len(positive.texts) + [False] * len(negative.texts)
    classifier, accuracies = _fitted(embeddings, labels)
    card = {
        "encoder": MINILM,
        "encoder_sha256": MINILM_WHEEL.sha256,
        "scikit_learn": version("scikit-learn"),
        "positive": positive.card(),
        "negative": negative.card(),
        "folds": FOLDS,
        **accuracies,
        "threshold": THRESHOLD,
    }
    warnings = _warnings(card, encoder.n_cut(texts), len(texts))
    return Judge("data", _limits(card), card, partial(_scores, encoder, classifier), warnings)


def _limits(card: Card) -> str:
    return (
        f"A classifier that tells {card['positive']['label']} from {card['negative']['label']} by sentence "
        f"embeddings, right on {card['balanced_accuracy']:.0%} of its own texts when they were held out "
        "(each side counted the same). It goes by whatever sets the two files apart, topic and length "
        f"included, and reads a text's first {MINILM_TOKENS} tokens."
    )


def _warnings(card: Card, n_cut: int, n_texts: int) -> list[str]:
    cut = [f"{n_cut} of {n_texts} texts were cut to {MINILM}'s {MINILM_TOKENS} tokens"] if n_cut else []
    if (balanced := card["balanced_accuracy"]) >= LOW_ACCURACY:
        return cut
    return [
        *cut,
        f"the data judge is right on only {balanced:.0%} of held-out texts (each side counted the same; "
        f"50% is chance, {LOW_ACCURACY:.0%} the least to rely on): its scores say little; "
        "give --judge-data more, or more clearly different, texts",
    ]


def _scores(encoder: Encoder, classifier: Any, _prompts: Texts, texts: Texts, advance: Advance) -> Scores:
    """The probability that a text is of the positive side."""
    if not texts:
        return Scores([], [])
    embeddings = embed(encoder, texts, advance).numpy()  # [n_texts, d_model]
    return Scores.from_threshold(classifier.predict_proba(embeddings)[:, 1], THRESHOLD)  # [n_texts, 2]


def _read_sides(
    sources: tuple[str, str], leave_out: frozenset[int], text_key: str | None, say: Say
) -> list[_Side]:
    """Read both files; a text that comes again counts once."""
    sides = [
        _Side(STDIN if is_stdin(source) else source, side_label(source, side))
        for source, side in zip(sources, SIDES, strict=True)
    ]
    seen: dict[int, tuple[_Side, str]] = {}  # hash -> where it stood first: side, file:line
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
            elif key in leave_out:
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
    return sides


def _fitted(embeddings: Any, labels: list[bool]) -> tuple[Any, dict[str, float]]:
    """A classifier, and how often one is right on texts that were not in its fold.

    The mean of the two sides' shares is balanced: chance is 0.5 of it, however unequal the sides are.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import accuracy_score, balanced_accuracy_score
    from sklearn.model_selection import StratifiedKFold, cross_val_predict

    # scikit-learn's own strength of regularisation; sides of unequal size count the same
    classifier = LogisticRegression(C=1.0, class_weight="balanced", max_iter=1000)
    folds = StratifiedKFold(FOLDS, shuffle=True, random_state=0)
    judged = cross_val_predict(classifier, embeddings, labels, cv=folds)
    measures = {"accuracy": accuracy_score, "balanced_accuracy": balanced_accuracy_score}
    accuracies = {name: float(measure(labels, judged)) for name, measure in measures.items()}
    return classifier.fit(embeddings, labels), accuracies
